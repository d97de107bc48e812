//! Which fields are stored and given again (RFC 9111 §3.1).

use super::*;

const FRESH: &str = "cache-control: max-age=3600";

#[tokio::test]
async fn fields_come_out_as_they_went_in_rfc9111_3() {
    let scene = Scene::begins().await;
    for (name, value) in [
        ("Test-Header", "a"),
        ("X-Test-Header", "a"),
        ("Content-Foo", "a"),
        ("Content-Encoding", "x-test"),
        ("Content-Language", "en"),
        ("Content-Location", "/foo"),
        ("Content-MD5", "rL0Y20zC+Fzt72VPzMSk2A=="),
        ("Content-Digest", "sha-256=:abcd:"),
        ("Repr-Digest", "sha-256=:abcd:"),
        ("Content-Security-Policy", "default-src 'self'"),
        ("Content-Type", "text/plain;charset=utf-8"),
        ("Content-Disposition", "attachment"),
        ("Clear-Site-Data", "\"cookies\""),
        ("ETag", "\"abcdef\""),
        ("Expires", "Fri, 01 Jan 2038 01:01:01 GMT"),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Link", "</a>; rel=preload"),
        ("P3P", "a"),
        ("Public-Key-Pins", "a"),
        ("Set-Cookie", "a=b"),
        ("Set-Cookie2", "a=b"),
        ("Vary", "x-nothing"),
        ("Via", "1.1 other"),
        ("Warning", "199 - \"a\""),
        ("WWW-Authenticate", "Basic"),
        ("Authentication-Info", "a"),
        ("X-Frame-Options", "deny"),
        ("X-XSS-Protection", "1"),
        ("Use-As-Dictionary", "match=\"/a\""),
        ("Accept-Ranges", "bytes"),
        ("Server", "an app"),
        ("Age-Like", "7"),
    ] {
        let path = scene.path();
        let says = format!("{FRESH}\n{name}: {value}");
        let first = scene.get(&path, &says).await;
        let second = scene.get(&path, "").await;
        assert_eq!(scene.app.count(&path), 1, "{name}");
        assert!(first.header(name).contains(value), "{name}");
        assert!(
            second.header(name).contains(value),
            "{name} is not reused: {}",
            second.header(name)
        );
        assert_eq!(first.header(name), second.header(name), "{name}");
    }
}

#[tokio::test]
async fn fields_of_the_connection_are_not_stored_rfc9111_3_1() {
    let scene = Scene::begins().await;
    for (name, value) in [
        ("Connection", "x-foo"),
        ("Keep-Alive", "timeout=60"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authentication-Info", "a"),
        ("Proxy-Authorization", "a"),
        ("TE", "trailers"),
        ("Upgrade", "foo"),
    ] {
        let path = scene.path();
        scene.get(&path, &format!("{FRESH}\n{name}: {value}")).await;
        let second = scene.get(&path, "").await;
        assert_eq!(scene.app.count(&path), 1, "{name}");
        assert!(!second.has(name), "{name} is reused");
    }
}

#[tokio::test]
async fn fields_that_connection_names_are_not_stored_rfc9110_7_6_1() {
    let scene = Scene::begins().await;
    for connection in [
        "connection: a, B",
        "connection: a\nconnection: b",
        "connection: close, a,b",
    ] {
        let path = scene.path();
        let says = format!("{FRESH}\n{connection}\na: 1\nb: 2\nc: 3");
        for answer in [scene.get(&path, &says).await, scene.get(&path, "").await] {
            assert!(!answer.has("a") && !answer.has("b"), "{connection}");
            assert_eq!(answer.header("c"), "3");
        }
        assert_eq!(scene.app.count(&path), 1, "{connection}");
    }
}

#[tokio::test]
async fn an_answer_on_its_way_in_and_a_stored_one_have_the_same_fields_rfc9111_4() {
    let scene = Scene::begins().await;
    for framing in ["", "framing: chunked\n", "framing: 1.0\n"] {
        let path = scene.path();
        let says = format!(
            "{framing}{FRESH}\ndate: {{0}}\ncontent-type: text/plain\na: 1\na: 2\nset-cookie: x=y\nset-cookie: z=z\netag: \"a\"\nvia: 1.0 app"
        );
        let [first, second] = [scene.get(&path, &says).await, scene.get(&path, "").await];
        let fields = |answer: &Response| {
            let mut fields: Vec<_> = answer
                .headers
                .iter()
                .filter(|(name, _)| {
                    !matches!(
                        name.as_str(),
                        "age"
                            | "cache-status"
                            | "x-cache"
                            | "x-cache-ttl"
                            | "x-response-time"
                            | "x-request-id"
                            | "x-trace-id"
                            | "content-length"
                            | "transfer-encoding"
                    )
                })
                // How the app spoke is known only when it speaks.
                .map(|(name, value)| {
                    format!("{name}: {}", value.to_str().unwrap())
                        .replace("1.0 larder", "1.1 larder")
                })
                .collect();
            fields.sort();
            fields
        };
        assert_eq!(fields(&first), fields(&second), "{framing}");
        assert_eq!(first.body, second.body);
    }
}

#[tokio::test]
async fn what_connection_names_against_the_rules_is_still_everybodys_rfc9110_7_6_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = "connection: cache-control, content-type, content-encoding, location, vary, x-hop, \"quoted\", odd name\n\
                cache-control: max-age=3600\ncontent-type: text/plain\ncontent-encoding: x\nlocation: /a\nvary: x-y\n\
                x-hop: 1\nquoted: 2";
    for answer in [scene.get(&path, says).await, scene.get(&path, "").await] {
        for kept in [
            "cache-control",
            "content-type",
            "content-encoding",
            "location",
            "vary",
            "quoted",
        ] {
            assert!(answer.has(kept), "{kept}");
        }
        assert!(!answer.has("x-hop"));
    }
    assert_eq!(scene.app.count(&path), 1);
    // Naming the age of a response does not make it younger, nor naming itself anything at all.
    for says in [
        "connection: age\nage: 7200",
        "connection: connection, date\ndate: {-7200}",
        "connection: close, keep-alive, age, expires\nage: 7200",
    ] {
        assert!(
            !scene.reuses(&format!("{FRESH}\n{says}"), "").await,
            "{says}"
        );
    }
}

#[tokio::test]
async fn lines_are_kept_apart_in_order_empty_ones_too_rfc9110_5_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let long = "x".repeat(8_192);
    let says = format!(
        "{FRESH}\ntwo: b\nother: 1\ntwo: a\ntwo:\ntwo: a\nempty:\nlong: {long}\nx_odd!#$%&'*+.^`~: 1"
    );
    for answer in [scene.get(&path, &says).await, scene.get(&path, "").await] {
        let lines: Vec<_> = answer.headers.get_all("two").iter().collect();
        assert_eq!(lines, ["b", "a", "", "a"]);
        assert_eq!(
            (answer.header("empty").as_str(), answer.has("empty")),
            ("", true)
        );
        assert_eq!(answer.header("long"), long);
        assert_eq!(answer.header("x_odd!#$%&'*+.^`~"), "1");
    }
    assert_eq!(scene.app.count(&path), 1);
}

#[tokio::test]
async fn bytes_beyond_ascii_come_out_as_they_went_in_rfc9110_5_5() {
    let app = App::says(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nCache-Control: max-age=3600, foo=\"\xe9\"\r\n".to_vec();
        answer.extend(b"Latin: caf\xe9 \xff\x80\r\nUtf: caf\xc3\xa9\r\nTab:\t a\tb \t\r\n\r\nx");
        Answer::raw(answer)
    })
    .await;
    let scene = Scene::with(app).await;
    for _ in 0..2 {
        let answer = scene.client.get("/bytes").await;
        let bytes = |name: &str| answer.headers[name].as_bytes().to_vec();
        assert_eq!(bytes("latin"), b"caf\xe9 \xff\x80");
        assert_eq!(bytes("utf"), b"caf\xc3\xa9");
        assert_eq!(bytes("tab"), b"a\tb");
    }
    assert_eq!(scene.app.count("/bytes"), 1);
}

#[tokio::test]
async fn trailers_are_stored_and_given_again_rfc9110_6_5() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nSays: framing: trailers|{FRESH}\r\n\r\n"
    );
    for _ in 0..2 {
        let answer = scene
            .client
            .raw(request.as_bytes())
            .await
            .to_ascii_lowercase();
        assert!(answer.contains("\r\ntrailer: x-sum\r\n"), "{answer}");
        assert!(answer.contains("\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
        assert!(!answer.contains("content-length"), "{answer}");
    }
    assert_eq!(scene.app.count(&path), 1);
    // Who does not speak of trailers gets the content all the same.
    let plain = scene
        .client
        .raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
        .await;
    assert!(plain.contains("answer 0"), "{plain}");
}
