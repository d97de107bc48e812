//! What a request carries beside its key changes nobody else's page: apps are known to build pages
//! from these fields without saying so in Vary.

use crate::support::*;

/// What apps reflect, and what an attacker would put into it.
const REFLECTED: [(&str, &str); 20] = [
    ("Forwarded", "host=evil.test"),
    ("X-Forwarded-Scheme", "nothttps"),
    ("X-Forwarded-Port", "66666"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Path", "/evil"),
    ("X-Forwarded-Server", "evil.test"),
    ("X-Forwarded-Uri", "/evil"),
    ("X-Forwarded-Ssl", "off"),
    ("X-Forwarded-Protocol", "evil"),
    ("X-Url-Scheme", "evil"),
    ("Front-End-Https", "evil"),
    ("X-Host", "evil.test"),
    ("X-Original-Host", "evil.test"),
    ("X-Original-Url", "/evil"),
    ("X-Original-Uri", "/evil"),
    ("X-Rewrite-Url", "/evil"),
    ("X-Http-Method", "DELETE"),
    ("X-Http-Method-Override", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-Middleware-Rewrite", "/evil"),
];

/// An app that puts every field it gets into its page.
async fn reflecting() -> App {
    App::says(|seen| Answer::public(format!("{:?}", seen.headers))).await
}

#[tokio::test]
async fn reflected_fields_reach_no_page_that_is_stored() {
    let app = reflecting().await;
    let larder = larder(&app)
        .yaml("identity: { trusted_proxies: [loopback] }")
        .start()
        .await;
    for (at, (name, value)) in REFLECTED.iter().enumerate() {
        let path = format!("/{at}");
        let poisoned = larder.get_with(&path, &[(name, value)]).await;
        assert_eq!(poisoned.cache(), "MISS");
        assert!(
            !poisoned.text().contains(value),
            "{name}: {}",
            poisoned.text()
        );
        let explained = larder
            .admin()
            .get(&format!("/v1/explain?url={path}&header={name}:%20{value}"))
            .await;
        assert!(
            explained.text().contains(&name.to_lowercase()),
            "{name}: {}",
            explained.text()
        );
    }
    for name in ["X-Forwarded-Host", "X-Forwarded-Proto"] {
        let path = format!("/{name}");
        let poisoned = larder.get_with(&path, &[(name, "evil.test")]).await;
        assert!(!poisoned.text().contains("evil"), "{}", poisoned.text());
    }
}

#[tokio::test]
async fn where_the_key_holds_one_the_app_gets_it() {
    let app = reflecting().await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /*, key: { headers: [X-Forwarded-Prefix] } }]")
        .start()
        .await;
    for prefix in ["/a", "/b"] {
        let answer = larder
            .get_with("/", &[("X-Forwarded-Prefix", prefix)])
            .await;
        assert_eq!(answer.cache(), "MISS");
        assert!(answer.text().contains(&format!("\"{prefix}\"")));
    }
}

#[tokio::test]
async fn behind_a_proxy_that_takes_tls_off_the_scheme_is_in_the_key() {
    let app =
        App::says(|seen| Answer::public(seen.header("x-forwarded-proto").unwrap_or("-"))).await;
    let larder = larder(&app)
        .yaml("identity: { trusted_proxies: [loopback] }")
        .start()
        .await;
    for proto in ["http", "https"] {
        let answer = larder.get_with("/", &[("X-Forwarded-Proto", proto)]).await;
        assert_eq!(
            (answer.cache(), answer.text()),
            ("MISS".into(), proto.into())
        );
    }
}

#[tokio::test]
async fn nobody_outside_speaks_to_the_app_as_its_own_middleware() {
    let app = reflecting().await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /never, no_store: true }]")
        .start()
        .await;
    let evil = [("X-Middleware-Subrequest", "middleware:middleware")];
    for (method, path) in [
        ("GET", "/"),
        ("HEAD", "/a"),
        ("POST", "/"),
        ("GET", "/never"),
    ] {
        larder.client().send(method, path, &evil, "").await;
        assert_eq!(
            app.last(path).header("x-middleware-subrequest"),
            None,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn what_selects_an_answer_is_sent_when_it_is_renewed_behind() {
    const ROUTES: &str = "routes:
  - { path: /keyed, ttl: 10s, stale_while_revalidate: 1m, key: { cookies: [theme] } }
  - { path: /varied, ttl: 10s, stale_while_revalidate: 1m }";
    // Both representations were changed at the same time: a 304 says nothing of which one it is about.
    let app = App::says(|seen| {
        let cookie = seen.header("cookie").unwrap_or("none").to_owned();
        let answer = match seen.header("if-modified-since") {
            Some(_) => Answer::new(304, ""),
            None => Answer::ok(cookie),
        };
        let answer = answer.header("Last-Modified", "Sun, 01 Jan 2023 00:00:00 GMT");
        match seen.path() {
            "/varied" => answer.header("Vary", "Cookie").header(
                "Cache-Control",
                "public, max-age=10, stale-while-revalidate=60",
            ),
            _ => answer,
        }
    })
    .await;
    let larder = larder(&app).yaml(ROUTES).manual_clock().start().await;
    for path in ["/keyed", "/varied"] {
        let dark = [("Cookie", "theme=dark")];
        assert_eq!(larder.get_with(path, &dark).await.text(), "theme=dark");
        larder.advance("11s").await;
        assert_eq!(larder.get_with(path, &dark).await.cache(), "STALE");
        let renewed = async || {
            let again = larder.get_with(path, &dark).await;
            assert_eq!(again.text(), "theme=dark");
            (again.cache() == "HIT").then_some(())
        };
        eventually("it is renewed", renewed).await;
        assert_eq!(app.last(path).header("cookie"), Some("theme=dark"));
        assert_eq!(larder.get(path).await.text(), "none", "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_varies_on_what_larder_itself_writes_is_not_kept() {
    let app = App::says(|seen| {
        let varies = seen.target.trim_start_matches("/?").to_owned();
        Answer::public(seen.header("x-forwarded-for").unwrap_or("none")).header("Vary", &varies)
    })
    .await;
    let larder = larder(&app).start().await;
    for name in [
        "X-Forwarded-For",
        "x-request-id",
        "Accept,Traceparent",
        "Via",
    ] {
        let path = format!("/?{name}");
        for _ in 0..2 {
            let answer = larder.get(&path).await;
            assert_ne!(answer.cache(), "HIT", "{name}");
            assert_eq!(
                answer.header("cache-status").rsplit('=').next(),
                Some("vary-star")
            );
        }
    }
}
