//! Tokens as Supabase gives them.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// The secret that scenarios sign with.
pub const SECRET: &str = "a-secret-for-scenarios-of-32-bytes!!";

/// A token of `user` in `role`, good for an hour.
pub fn token(user: &str, role: &str) -> String {
    signed(SECRET, user, role, 3600)
}

/// A token signed with `secret` that ends in so many seconds (or ended so long ago).
pub fn signed(secret: &str, user: &str, role: &str, ends_in_secs: i64) -> String {
    let now = larder::clock::Clock::system().now().as_secs();
    let claims = json!({
        "sub": user,
        "exp": now.saturating_add_signed(ends_in_secs),
        "app_metadata": { "role": role },
    });
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

/// `identity:` that believes these tokens.
pub fn identity() -> String {
    format!("identity: {{ jwt: {{ secret: \"{SECRET}\" }}, user: sub, role: app_metadata.role }}")
}
