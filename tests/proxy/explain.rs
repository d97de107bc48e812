//! Explanations: they say what requests then meet, and never reach the app.

use crate::support::*;

#[tokio::test]
async fn what_is_explained_is_what_requests_meet_and_the_app_hears_nothing() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app)
        .yaml("routes:\n  - { path: /me, no_store: true }\n  - { path: \"/cars/{id}\", ttl: 1m }")
        .manual_clock()
        .start()
        .await;
    let host = larder.address.to_string();
    let admin = larder.admin();
    let explained = async |target: &str, more: &str| {
        let url = format!("http://{host}{target}");
        let answer = admin.get(&format!("/v1/explain?url={url}{more}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        let word = |name: &str| told[name].as_str().unwrap().to_owned();
        (word("outcome"), word("reason"))
    };
    let is = |outcome: &str, reason: &str| (outcome.to_owned(), reason.to_owned());

    let before = app.total();
    assert_eq!(explained("/cars/1", "").await, is("miss", "cold"));
    assert_eq!(explained("/me", "").await, is("bypass", "no-store"));
    assert_eq!(app.count("/cars/1") + app.count("/me"), 0);
    assert_eq!(app.total(), before);

    for (target, more, fields) in [
        ("/cars/1", "", &[][..]), // a miss, then a hit
        ("/cars/1", "", &[]),
        (
            "/cars/1",
            "&header=Authorization:%20Bearer%20x",
            &[("Authorization", "Bearer x")],
        ),
        (
            "/cars/1",
            "&header=Cookie:%20session=1",
            &[("Cookie", "session=1")],
        ),
        ("/cars//1", "", &[]),
        ("/me", "", &[]),
        ("/nowhere", "", &[]),
    ] {
        let (outcome, reason) = explained(target, more).await;
        let answer = larder.get_with(target, fields).await;
        let cache = answer.cache().to_lowercase();
        // Whether what the app will answer may be stored is not known before.
        if outcome == "miss" {
            assert!(
                ["miss", "bypass"].contains(&&*cache),
                "{target} {more}: {cache}"
            );
        } else {
            assert_eq!(cache, outcome, "{target} {more}");
            let status = answer.header("cache-status");
            assert!(
                status.ends_with(&format!("detail={reason}")),
                "{status}: {reason}"
            );
        }
    }
    larder.advance("61s").await;
    assert_eq!(explained("/cars/1", "").await, is("miss", "expired"));
}

#[tokio::test]
async fn the_command_prints_the_five_steps_as_text_or_json() {
    let app = App::says(|_| Answer::ok("x")).await;
    let secret = "0123456789abcdef0123456789abcdef";
    let larder = larder(&app)
        .yaml(&format!(
            "admin: {{ listen: \"127.0.0.1:{{ADMIN}}\", token: {secret} }}\nroutes: [{{ path: /x, ttl: 1m }}]"
        ))
        .start()
        .await;
    let admin = format!("http://{}", larder.admin_address);
    let before = app.total();
    let arguments = [
        "explain",
        "/x?a=1&b=2",
        "-H",
        "Accept: a/b",
        "--admin",
        &admin,
    ];
    let output = larder_cli(&arguments, "").await;
    assert_eq!(output.status.code(), Some(77), "without the token");
    let arguments = [&arguments[..], &["--token", secret]].concat();
    let output = larder_cli(&arguments, "").await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "/x?a=1&b=2\n",
        "\n1 limit ",
        "\n2 route   `/x`",
        "\n3 key ",
        "\n4 lookup  absent: cold",
        "\n5 answer  miss",
        "by: routes[0] (",
        "proxy.yaml:",
        "change: ",
        "\nMISS (cold), configuration ",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let output = larder_cli(&[&arguments[..], &["--json"]].concat(), "").await;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["steps"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        (&told["outcome"], &told["reason"]),
        (&"miss".into(), &"cold".into())
    );
    assert_eq!(app.total(), before);

    let output = larder_cli(&["explain", "E107"], "").await;
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("error[E107]: unknown key"));
}

/// The JSON of an explanation; parameters after the URL are percent-encoded by the caller.
async fn explanation(larder: &Larder, target: &str, more: &str) -> serde_json::Value {
    let url = format!("http://{}{target}", larder.address);
    let answer = larder.admin();
    let answer = answer.get(&format!("/v1/explain?url={url}{more}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn step<'a>(told: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let steps = told["steps"].as_array().unwrap();
    let found = steps.iter().find(|step| step["step"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {told}"))
}

const FEW: &str = "limits: { tiers: [{ name: few, for: anyone, rate: 3/min, per: ip }] }";

/// Asks often, sends three, asks again.
async fn counters_are_looked_at(larder: &Larder) {
    for _ in 0..5 {
        let told = explanation(larder, "/x", "").await.to_string();
        assert!(told.contains("; 3 left now"), "{told}");
    }
    larder.get("/x").await;
    larder.get("/x").await;
    let told = explanation(larder, "/x", "").await.to_string();
    assert!(told.contains("; 1 left now"), "{told}");
    assert_eq!(larder.get("/x").await.status, 200);
    let told = explanation(larder, "/x", "").await;
    assert_eq!(
        (&told["outcome"], &told["reason"]),
        (&"refused".into(), &"limited".into())
    );
    assert_eq!(step(&told, "limit")["verdict"], "refused: 429");
    assert_eq!(larder.get("/x").await.status, 429);
}

#[tokio::test]
async fn limits_are_looked_at_and_never_counted_on() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).yaml(FEW).manual_clock().start().await;
    counters_are_looked_at(&larder).await;
}

#[tokio::test]
async fn limits_in_redis_are_looked_at_and_never_counted_on_and_told_without_it() {
    let app = App::says(|_| Answer::ok("x")).await;
    let mut redis = RedisServer::start().await;
    let larder = larder(&app).redis(&redis).yaml(FEW).start().await;
    larder.redis_is(true).await;
    counters_are_looked_at(&larder).await;
    redis.kill().await;
    larder.redis_is(false).await;
    let who = "&as=ip:203.0.113.9";
    let told = explanation(&larder, "/x", who).await;
    assert_eq!(step(&told, "limit")["verdict"], "admitted");
    assert!(
        told.to_string().contains("Redis is away: counted here"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_said_of_a_made_up_answer_is_what_becomes_of_a_real_one() {
    type Fields = &'static [(&'static str, &'static str)];
    const LASTING: (&str, &str) = ("Cache-Control", "max-age=60");
    const CASES: [(&str, u16, Fields, Fields); 14] = [
        ("/r/1", 200, &[], &[]),
        ("/r/2", 200, &[], &[("Cache-Control", "no-store")]),
        ("/r/3", 302, &[], &[]),
        ("/r/4.css", 200, &[], &[("Content-Type", "text/html")]),
        ("/r/5", 200, &[("Cookie", "session=1")], &[]),
        ("/r/6", 200, &[("Authorization", "Bearer x")], &[]),
        ("/p/1", 200, &[], &[]),
        ("/p/2", 200, &[], &[LASTING]),
        ("/p/3", 200, &[], &[LASTING, ("Set-Cookie", "a=b")]),
        ("/p/4", 200, &[], &[LASTING, ("Vary", "*")]),
        (
            "/p/5",
            200,
            &[],
            &[("Cache-Control", "private, max-age=60")],
        ),
        ("/p/6", 500, &[], &[LASTING]),
        ("/p/7", 200, &[("Authorization", "Bearer x")], &[LASTING]),
        (
            "/p/8",
            200,
            &[("Authorization", "Bearer x")],
            &[("Cache-Control", "s-maxage=9")],
        ),
    ];
    let app = App::says(|request| {
        let case = CASES.iter().find(|case| request.path() == case.0);
        let Some((_, status, _, fields)) = case else {
            return Answer::ok("x");
        };
        let answer = Answer::new(*status, "x");
        fields
            .iter()
            .fold(answer, |answer, (name, value)| answer.header(name, value))
    })
    .await;
    let larder = larder(&app)
        .yaml("routes:\n  - { path: /r/*, ttl: 1m }")
        .manual_clock()
        .start()
        .await;
    for (path, status, request, response) in CASES {
        let mut more = format!("&status={status}");
        for (kind, fields) in [("header", request), ("response", response)] {
            for (name, value) in fields {
                more += &format!("&{kind}={name}:{}", value.replace(' ', "%20"));
            }
        }
        let told = explanation(&larder, path, &more).await;
        let store = step(&told, "store");
        let verdict = store["verdict"].as_str().unwrap();
        let checks = store["details"].as_array().unwrap();
        let says = |word: &str| {
            let starts = |check: &&serde_json::Value| check.as_str().unwrap().starts_with(word);
            checks.iter().filter(starts).count()
        };
        assert_eq!(says("ok  ") + says("no  "), 13, "{store}");
        let first = larder.get_with(path, request).await.header("cache-status");
        let stored = larder.get_with(path, request).await.cache() == "HIT";
        assert_eq!(
            verdict.starts_with("stored, "),
            stored,
            "{path}: {store} {first}"
        );
        assert_eq!(says("no  ") == 0, stored, "{store}");
        if let Some(reason) = verdict.strip_prefix("not stored: ") {
            assert_eq!(told["outcome"], "bypass", "{told}");
            assert!(
                first.ends_with(&format!("detail={reason}")),
                "{first}: {store}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_said_to_help_helps() {
    let app = App::says(|request| match request.path() {
        "/without" => Answer::ok("x").header("Cache-Control", "max-age=60"),
        _ => Answer::ok("x")
            .header("Cache-Control", "max-age=60")
            .header("Set-Cookie", "a=b"),
    })
    .await;
    let larder = larder(&app).start().await;
    let more = "&response=Cache-Control:max-age=60&response=Set-Cookie:a=b";
    let told = explanation(&larder, "/with", more).await;
    let store = step(&told, "store");
    assert_eq!(store["verdict"], "not stored: set-cookie");
    let change = store["change"].as_str().unwrap();
    assert!(
        change.starts_with("Without Set-Cookie it would be stored for 1m"),
        "{change}"
    );
    for (path, cache) in [("/with", "BYPASS"), ("/without", "HIT")] {
        larder.get(path).await;
        assert_eq!(larder.get(path).await.cache(), cache, "{path}");
    }
}

#[tokio::test]
async fn a_file_alone_explains_too_and_shows_no_secret() {
    let yaml = "upstream: http://localhost:1
admin: { listen: \"127.0.0.1:0\", token: 0123456789abcdef0123456789abcdef }
limits: { tiers: [{ name: public, for: anyone, rate: 60/min, per: ip }] }
routes:
  - { name: book, path: /api/bookings, methods: [POST] }
  - { name: mine, path: /api/mine, no_store: true }
  - name: api
    path: /api/*
    ttl: 30s
";
    let arguments = [
        "explain",
        "-c",
        "-",
        "http://shop.test/api/bookings?page=2&utm_source=mail&access_token=s3cr3t",
        "-H",
        "Authorization: Bearer s3cr3t",
        "-H",
        "Cookie: session=s3cr3t; _ga=1",
        "-H",
        "X-Forwarded-Host: s3cr3t.test",
        "--response",
        "Set-Cookie: id=s3cr3t",
        "--status",
        "200",
    ];
    let output = larder_cli(&arguments, yaml).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{talk}");
    assert!(talk.contains("explained by standard input alone"), "{talk}");
    for part in [
        "GET http://shop.test/api/bookings?page=2&utm_source=mail&access_token=***\n",
        "\n1 limit   counted, if it were sent",
        "who asks: no user, since its credentials are not verified here; address 127.0.0.1",
        "by: limits.tiers[0] (standard input:3)",
        "\n2 route   `api`",
        "not `book`, routes[0] (standard input:5): its methods are POST",
        "not `mine`, routes[1] (standard input:6): its path is /api/mine",
        "by: routes[2] (standard input:7)",
        "left out: utm_source",
        "x-forwarded-host is not in it, so the app does not see it",
        "cookies that may name somebody: session\n",
        "cache.ignore_query (default)",
        "\n4 lookup  not asked: there is no running larder",
        "where the app names no lifetime, routes[2].ttl (standard input:9)",
        "\n6 store   not stored: set-cookie",
        "no  set-cookie    RFC 9111 §7.3\n",
        "    without Set-Cookie: then authorization\n",
        "no  authorization RFC 9111 §3.5\n",
        "    with public from the app: stored for 30s\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    for secret in ["s3cr3t", "0123456789abcdef"] {
        assert!(!(text.clone() + &talk).contains(secret), "{text}{talk}");
    }
    let output = larder_cli(&["explain", "/x", "-c", "-", "--status", "7"], yaml).await;
    assert_eq!(output.status.code(), Some(2), "7 is no status");
    let output = larder_cli(&["explain", "/x", "-c", "-"], "upstrem: x\n").await;
    assert_eq!(output.status.code(), Some(78));
}

#[tokio::test]
async fn a_reason_is_explained_like_a_code_and_the_admin_port_links_to_explanations() {
    let output = larder_cli(&["explain", "set-cookie"], "").await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("set-cookie: The response sets a cookie.\n"),
        "{text}"
    );
    assert!(text.contains("by: RFC 9111 §7.3\n") && text.contains("cache.set_cookie: strip"));
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).start().await;
    assert!(larder.admin().get("/").await.text().contains("/v1/explain"));
}
