//! Scenarios of this room: callers, their tokens and their addresses.

use super::*;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use http::header::AUTHORIZATION;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const SECRET: &[u8] = b"a secret of the app, 32 bytes long";

fn claims() -> Value {
    json!({ "sub": "u1", "exp": 1_000_000_600, "app_metadata": { "role": "admin" } })
}

fn sign(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn hs256(secret: &[u8], claims: &Value) -> String {
    sign(
        Algorithm::HS256,
        None,
        &EncodingKey::from_secret(secret),
        claims,
    )
}

fn settings(jwt: Option<JwtSource>) -> IdentitySettings {
    IdentitySettings {
        jwt,
        role: Some(vec!["app_metadata".into(), "role".into()]),
        ..IdentitySettings::default()
    }
}

fn by_secret() -> Identity {
    let secret = Secret::new(String::from_utf8(SECRET.to_vec()).unwrap());
    Identity::new(settings(Some(JwtSource::Secret(secret))))
}

fn by_set() -> Identity {
    let url = "http://localhost/jwks.json".to_owned();
    Identity::new(settings(Some(JwtSource::JwksUrl(url))))
}

fn set(keys: &[(&EncodingKey, Algorithm, &str)]) -> (Vec<u8>, Vec<Value>) {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(key, algorithm, kid)| {
            let mut jwk = Jwk::from_encoding_key(key, *algorithm).unwrap();
            jwk.common.key_id = Some((*kid).to_owned());
            serde_json::to_value(jwk).unwrap()
        })
        .collect();
    (json!({ "keys": keys }).to_string().into_bytes(), keys)
}

fn rsa() -> EncodingKey {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = pair.as_der().unwrap();
    // The PKCS#1 key lies inside, behind the 26 bytes that say that it is RSA.
    EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..])
}

fn ec() -> EncodingKey {
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    EncodingKey::from_ec_der(pkcs8.unwrap().as_ref())
}

fn ed() -> EncodingKey {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
    EncodingKey::from_ed_der(pkcs8.as_ref())
}

fn user_at(identity: &Identity, token: &str, now: Timestamp) -> Option<User> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    let peer = "203.0.113.9:4711".parse().unwrap();
    identity.caller(peer, &headers, now).user().cloned()
}

fn user(identity: &Identity, token: &str) -> Option<User> {
    user_at(identity, token, NOW)
}

fn later(seconds: u64) -> Timestamp {
    NOW + std::time::Duration::from_secs(seconds)
}

#[test]
fn a_token_signed_with_the_secret_names_a_user_and_a_role() {
    let identity = by_secret();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let key = EncodingKey::from_secret(SECRET);
        let token = sign(algorithm, Some("ignored"), &key, &claims());
        let user = user(&identity, &token).unwrap();
        assert_eq!(&*user.id, "u1");
        assert_eq!(*user.roles, ["admin".to_owned()]);
    }
    assert!(!identity.take_unknown_key());
}

#[test]
fn a_forged_token_is_nobody() {
    let identity = by_secret();
    let good = hs256(SECRET, &claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let payload = message.split_once('.').unwrap().1;
    let other_payload = hs256(SECRET, &json!({ "sub": "root" }));
    let other_payload = other_payload.split('.').nth(1).unwrap();
    let head = message.split_once('.').unwrap().0;
    let none = "eyJhbGciOiJub25lIn0"; // {"alg":"none"}
    let mut crit = Header::new(Algorithm::HS256);
    crit.crit = Some(vec!["b64".into()]);
    let forged = [
        hs256(b"another secret", &claims()),
        hs256(b"", &claims()),
        format!("{none}.{payload}."),
        format!("{none}.{payload}.{signature}"),
        format!("{head}.{payload}."),
        format!("{head}.{other_payload}.{signature}"),
        format!("{message}.{}", &signature[..signature.len() - 2]),
        format!("{message}.{signature}.{signature}"),
        format!("{message}.{signature}="),
        message.to_owned(),
        "a.b.c".to_owned(),
        "..".to_owned(),
        String::new(),
        "x".repeat(100_000),
        sign(Algorithm::RS256, None, &rsa(), &claims()),
        jsonwebtoken::encode(&crit, &claims(), &EncodingKey::from_secret(SECRET)).unwrap(),
    ];
    for token in forged {
        assert_eq!(user(&identity, &token), None, "{token}");
    }
    assert!(user(&identity, &good).is_some());
}

#[test]
fn an_empty_secret_lets_nobody_sign() {
    let identity = Identity::new(settings(Some(JwtSource::Secret(Secret::new("")))));
    assert_eq!(user(&identity, &hs256(b"", &claims())), None);
}

#[test]
fn without_keys_no_token_is_believed() {
    let identity = Identity::new(settings(None));
    assert_eq!(user(&identity, &hs256(SECRET, &claims())), None);
}

#[test]
fn a_remembered_token_still_expires_and_its_lifetime_is_by_our_clock() {
    let identity = by_secret();
    let token = hs256(SECRET, &claims());
    assert!(user_at(&identity, &token, later(0)).is_some());
    assert!(user_at(&identity, &token, later(599)).is_some());
    assert_eq!(user_at(&identity, &token, later(600)), None);
    let expired = hs256(SECRET, &json!({ "sub": "u1", "exp": 999_999_999 }));
    assert_eq!(user(&identity, &expired), None);
}

#[test]
fn a_session_costs_one_verification_and_forged_tokens_are_not_remembered() {
    let identity = by_secret();
    let good = hs256(SECRET, &claims());
    for n in 0..50 {
        assert!(user(&identity, &good).is_some());
        user(&identity, &hs256(b"another secret", &json!({ "sub": n })));
        user(&identity, &hs256(SECRET, &json!({ "sub": n, "exp": 1 })));
    }
    assert_eq!(identity.keys.load().remembered(), 1);
}

#[test]
fn a_token_from_the_future_is_believed_when_its_time_comes() {
    let identity = by_secret();
    let token = hs256(SECRET, &json!({ "sub": "u1", "nbf": 1_000_000_060.5 }));
    assert_eq!(user_at(&identity, &token, later(0)), None);
    assert_eq!(user_at(&identity, &token, later(55)), None);
    assert!(user_at(&identity, &token, later(56)).is_some());
}

#[test]
fn a_date_that_is_none_makes_the_token_worthless() {
    let identity = by_secret();
    for date in [
        json!("1000000600"),
        json!(-1),
        json!(null),
        json!([]),
        json!(true),
    ] {
        for claim in ["exp", "nbf"] {
            let token = hs256(SECRET, &json!({ "sub": "u1", claim: date }));
            assert_eq!(user(&identity, &token), None, "{claim} {date}");
        }
    }
    let far = hs256(SECRET, &json!({ "sub": "u1", "exp": 1e300 }));
    assert!(user(&identity, &far).is_some());
}

#[test]
fn ids_and_roles_are_read_as_they_come() {
    let identity = by_secret();
    let of = |claims: Value| user(&identity, &hs256(SECRET, &claims));
    let roles = json!({ "sub": 42, "app_metadata": { "role": ["a", 1, "b"] } });
    let user = of(roles).unwrap();
    assert_eq!(
        (&*user.id, &*user.roles),
        ("42", &["a".to_owned(), "b".to_owned()][..])
    );
    assert!(of(json!({ "sub": "u1" })).unwrap().roles.is_empty());
    for sub in [
        json!(""),
        json!(null),
        json!(1.5),
        json!({}),
        json!("a\nb"),
        json!("x".repeat(600)),
    ] {
        assert_eq!(of(json!({ "sub": sub })), None);
    }
    assert_eq!(of(json!({ "name": "u1" })), None);
}

#[test]
fn each_kind_of_public_key_verifies_its_own_algorithm() {
    let identity = by_set();
    let (rsa, ec, ed) = (rsa(), ec(), ed());
    let (jwks, _) = set(&[
        (&rsa, Algorithm::RS256, "r"),
        (&ec, Algorithm::ES256, "e"),
        (&ed, Algorithm::EdDSA, "d"),
    ]);
    assert_eq!(identity.set_keys(&jwks), Ok(3));
    for (key, algorithm, kid) in [
        (&rsa, Algorithm::RS256, "r"),
        (&ec, Algorithm::ES256, "e"),
        (&ed, Algorithm::EdDSA, "d"),
    ] {
        assert!(user(&identity, &sign(algorithm, Some(kid), key, &claims())).is_some());
        assert!(user(&identity, &sign(algorithm, None, key, &claims())).is_some());
    }
    // The RSA key says RS256, so PS256 and RS512 are not for it; nor is another's id.
    assert_eq!(
        user(
            &identity,
            &sign(Algorithm::PS256, Some("r"), &rsa, &claims())
        ),
        None
    );
    assert_eq!(
        user(
            &identity,
            &sign(Algorithm::RS512, Some("r"), &rsa, &claims())
        ),
        None
    );
    assert_eq!(
        user(
            &identity,
            &sign(Algorithm::ES256, Some("r"), &ec, &claims())
        ),
        None
    );
    assert!(!identity.take_unknown_key());
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let identity = by_set();
    let rsa = rsa();
    let (jwks, keys) = set(&[(&rsa, Algorithm::RS256, "r")]);
    identity.set_keys(&jwks).unwrap();
    let n = keys[0]["n"].as_str().unwrap();
    for secret in [n.as_bytes(), &jwks, keys[0].to_string().as_bytes()] {
        let key = EncodingKey::from_secret(secret);
        for kid in [Some("r"), None] {
            let token = sign(Algorithm::HS256, kid, &key, &claims());
            assert_eq!(user(&identity, &token), None);
        }
    }
}

#[test]
fn a_shared_secret_in_a_set_is_taken_from_a_file_only() {
    let key = EncodingKey::from_secret(SECRET);
    let (jwks, _) = set(&[(&key, Algorithm::HS256, "s")]);
    assert!(by_set().set_keys(&jwks).is_err());
    let file = Identity::new(settings(Some(JwtSource::JwksFile("keys.json".into()))));
    assert_eq!(file.set_keys(&jwks), Ok(1));
    let token = sign(Algorithm::HS256, Some("s"), &key, &claims());
    assert!(user(&file, &token).is_some());
}

#[test]
fn an_unknown_key_asks_for_the_set_once_and_rotation_forgets_what_the_old_keys_verified() {
    let identity = by_set();
    let (old, new) = (ec(), ec());
    let old_token = sign(Algorithm::ES256, Some("old"), &old, &claims());
    let new_token = sign(Algorithm::ES256, Some("new"), &new, &claims());
    assert_eq!(user(&identity, &old_token), None);
    assert!(identity.take_unknown_key() && !identity.take_unknown_key());

    identity
        .set_keys(&set(&[(&old, Algorithm::ES256, "old")]).0)
        .unwrap();
    assert!(user(&identity, &old_token).is_some());
    assert!(!identity.take_unknown_key());
    assert_eq!(user(&identity, &new_token), None);
    assert!(identity.take_unknown_key());

    identity
        .set_keys(&set(&[(&new, Algorithm::ES256, "new")]).0)
        .unwrap();
    assert!(user(&identity, &new_token).is_some());
    assert_eq!(user(&identity, &old_token), None);
}

#[test]
fn a_bad_set_says_why_and_leaves_the_old_keys() {
    let identity = by_set();
    let key = ed();
    let (good, keys) = set(&[(&key, Algorithm::EdDSA, "d")]);
    identity.set_keys(&good).unwrap();
    let mut encryption = keys[0].clone();
    encryption["use"] = json!("enc");
    let mut truncated = keys[0].clone();
    truncated["x"] = json!("!");
    for (bad, why) in [
        ("<html>".to_owned(), "not JSON"),
        ("{}".to_owned(), "no list"),
        (r#"{"keys":[]}"#.to_owned(), "none of the 0 keys"),
        (
            r#"{"keys":[1,{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}]}"#.to_owned(),
            "none of the 2",
        ),
        (
            json!({ "keys": [encryption, truncated] }).to_string(),
            "none of the 2",
        ),
    ] {
        let error = identity.set_keys(bad.as_bytes()).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let token = sign(Algorithm::EdDSA, Some("d"), &key, &claims());
    assert!(user(&identity, &token).is_some());
    // One odd key does not spoil a set.
    let mixed = json!({ "keys": [keys[0], { "kty": "new", "kid": "x" }, 7] }).to_string();
    assert_eq!(identity.set_keys(mixed.as_bytes()), Ok(1));
}

#[test]
fn a_header_names_the_user_only_through_a_trusted_proxy() {
    let name = HeaderName::from_static("x-user-id");
    let identity = Identity::new(IdentitySettings {
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        user: UserSource::Header(name.clone()),
        ..IdentitySettings::default()
    });
    let named = |peer: &str, ids: &[&str]| {
        let mut headers = HeaderMap::new();
        for id in ids {
            headers.append(&name, id.parse().unwrap());
        }
        let caller = identity.caller(peer.parse().unwrap(), &headers, NOW);
        caller.user().map(|user| user.id.to_string())
    };
    assert_eq!(named("10.0.0.1:1", &["u1"]).as_deref(), Some("u1"));
    assert_eq!(
        named("[::ffff:10.0.0.1]:1", &[" u1 "]).as_deref(),
        Some("u1")
    );
    assert_eq!(named("203.0.113.9:1", &["u1"]), None);
    assert_eq!(named("10.0.0.1:1", &["u1", "u2"]), None);
    assert_eq!(named("10.0.0.1:1", &[""]), None);
    assert_eq!(named("10.0.0.1:1", &[]), None);
}

#[test]
fn a_caller_can_be_shared_and_an_address_is_cut_to_64_bits_by_default() {
    fn shared<T: Send + Sync>(_: &T) {}
    let (identity, headers) = (by_secret(), HeaderMap::new());
    let peer = "[2001:db8::7]:1".parse().unwrap();
    let caller = identity.caller(peer, &headers, NOW);
    shared(&caller);
    assert_eq!(caller.network(), "2001:db8::/64");
    assert_eq!((caller.user(), caller.token()), (None, None));
}

#[test]
fn a_credentials_digest_depends_on_the_secret_and_on_nothing_else_of_a_configuration() {
    let headers = bearer_headers("opaque");
    let digest = |jwt: Option<&str>, prefix| {
        let identity = Identity::new(IdentitySettings {
            jwt: jwt.map(|secret| JwtSource::Secret(Secret::new(secret))),
            ipv6_prefix: prefix,
            ..IdentitySettings::default()
        });
        let peer = "192.0.2.1:1".parse().unwrap();
        identity
            .caller(peer, &headers, Timestamp::default())
            .token()
    };
    assert!(digest(None, 64).is_some());
    assert_eq!(digest(Some("a"), 64), digest(Some("a"), 56));
    assert_ne!(digest(Some("a"), 64), digest(Some("b"), 64));
    assert_ne!(digest(Some("a"), 64), digest(None, 64));
}

#[test]
fn with_a_key_for_encryption_no_caller_can_be_tried_out_on_what_is_stored() {
    let headers = bearer_headers("opaque");
    let told = |jwt: Option<&str>, seal: Option<u8>| {
        let identity = Identity::new(IdentitySettings {
            jwt: jwt.map(|secret| JwtSource::Secret(Secret::new(secret))),
            seal: seal.map(|n| crate::secret::Key::new([n; 32])),
            ..IdentitySettings::default()
        });
        let caller = identity.caller("192.0.2.1:1".parse().unwrap(), &headers, NOW);
        (caller.token(), caller.pseudonym(b"ann").into_owned())
    };
    assert_ne!(told(None, Some(1)).0, told(None, Some(2)).0);
    assert_ne!(told(None, Some(1)), told(None, None));
    // A change of the key for encryption leaves digests alone that a JWT secret keys.
    assert_eq!(told(Some("a"), Some(1)).0, told(Some("a"), Some(2)).0);
    assert_eq!(told(Some("a"), None).1, b"ann");
    assert_ne!(told(None, Some(1)).1, told(None, Some(2)).1);
}

#[test]
fn nobody_becomes_a_stranger_because_the_key_of_digests_has_changed() {
    let secret = |secret: &str| Some(JwtSource::Secret(Secret::new(secret)));
    let of = |jwt| IdentitySettings {
        jwt,
        ..IdentitySettings::default()
    };
    let url = || Some(JwtSource::JwksUrl("https://a.example/jwks".into()));
    let before = Identity::new(of(url()));
    let jwks = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    assert_eq!(before.set_keys(jwks), Ok(1));
    let sealed = IdentitySettings {
        seal: Some(crate::secret::Key::new([1; 32])),
        ..of(url())
    };
    assert_eq!(before.succeeded_by(sealed).keys.load().len(), 1);
    // What is remembered of tokens was read by the claims of then.
    let renamed = IdentitySettings {
        user: UserSource::Claim(vec!["email".into()]),
        ..of(url())
    };
    assert_eq!(before.succeeded_by(renamed).keys.load().len(), 0);
    assert_eq!(before.succeeded_by(of(None)).keys.load().len(), 0);
    assert_eq!(before.succeeded_by(of(secret("a"))).keys.load().len(), 1);
}

fn bearer_headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = format!("Bearer {token}").parse().unwrap();
    headers.insert(AUTHORIZATION, value);
    headers
}
