//! The ways by which a purge comes in over HTTP: the admin API and its command, PURGE, and fields of the
//! app's answers.

use crate::support::*;
use serde_json::json;

/// What PURGE is done with.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

const ROUTES: &str = r#"
routes:
  - { name: fleet, path: /api/fleet, ttl: 5m, tags: [fleet] }
  - { name: car, path: "/api/cars/{id}", ttl: 5m, tags: [cars, "car:{id}"] }
"#;

/// An app that says where it was asked, and as what its answer is tagged.
async fn echo() -> App {
    App::says(|seen| Answer::ok(seen.target.clone())).await
}

async fn fill(larder: &Larder, paths: &[&str]) {
    for path in paths {
        larder.get(path).await;
        assert_eq!(larder.get(path).await.cache(), "HIT", "{path}");
    }
}

const ALL: [&str; 3] = ["/api/fleet", "/api/cars/1", "/api/cars/2"];

#[tokio::test]
async fn a_batch_has_soft_and_hard_purges_and_says_what_was_done() {
    let app = echo().await;
    let larder = larder(&app)
        .yaml("defaults: { stale_while_revalidate: 1m }")
        .yaml(ROUTES)
        .start()
        .await;
    fill(&larder, &ALL).await;
    let answer = larder
        .purge(json!({"purges": [
            {"tags": ["car:1"], "soft": true},
            {"urls": ["/api/cars/2"], "soft": false},
        ]}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!((&told["purges"], &told["soft"]), (&2.into(), &false.into()));
    assert_eq!(told["outcome"], "local");
    let done = json!([
        {"purge": "tag car:1", "soft": true},
        {"purge": "url /api/cars/2", "soft": false},
    ]);
    assert_eq!(told["done"], done);
    assert!(told["took_ms"].is_number());
    assert_eq!(larder.get("/api/cars/1").await.cache(), "STALE");
    assert_eq!(larder.get("/api/cars/2").await.cache(), "MISS");
    assert_eq!(larder.get("/api/fleet").await.cache(), "HIT");
    let metrics = larder.metrics().await;
    let counted = "larder_cache_purged_objects_total{tier=\"memory\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn globs_and_regular_expressions_are_what_they_are_called() {
    let app = echo().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    for (what, gone) in [
        (json!({"globs": ["/api/cars/*"]}), &ALL[1..]),
        (json!({"regexes": [r"/api/cars/[1]"]}), &ALL[1..2]),
        (json!({"prefixes": ["/api/cars/[1]"]}), &[]),
        (json!({"urls": ["/api/cars/*"]}), &[]),
        (json!({"tags": ["car:.*"]}), &[]),
    ] {
        fill(&larder, &ALL).await;
        let mut hard = what.clone();
        hard["soft"] = json!(false);
        assert_eq!(larder.purge(hard).await.status, 200, "{what}");
        for path in ALL {
            let is_gone = larder.get(path).await.cache() == "MISS";
            assert_eq!(is_gone, gone.contains(&path), "{what}: {path}");
        }
    }
    let broken = larder.purge(json!({"regexes": ["("]})).await;
    assert_eq!(
        (broken.status, &broken.json()["code"]),
        (422, &"bad-regex".into())
    );
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_nothing_goes() {
    let app = echo().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    fill(&larder, &ALL).await;
    let answer = larder
        .purge(json!({"tags": ["cars", "none"], "dry_run": true}))
        .await;
    assert_eq!(answer.status, 200);
    let told = answer.json();
    let [cars, none] = [&told["would_hit"][0], &told["would_hit"][1]];
    assert_eq!((&cars["entries"], &none["entries"]), (&2.into(), &0.into()));
    let mut urls: Vec<_> = (cars["urls"].as_array().unwrap().iter())
        .map(|url| url.as_str().unwrap().to_owned())
        .collect();
    urls.sort();
    let host = larder.address;
    assert_eq!(
        urls,
        [format!("{host}/api/cars/1"), format!("{host}/api/cars/2")]
    );
    assert_eq!(
        (&told["looked_at"], &told["complete"]),
        (&3.into(), &true.into())
    );
    for path in ALL {
        assert_eq!(larder.get(path).await.cache(), "HIT", "{path}");
    }
    let recent = larder.admin().get("/v1/purges").await.json();
    assert_eq!(recent["purges"], json!([]));
}

#[tokio::test]
async fn what_was_purged_lately_can_be_read_with_who_did_it() {
    let app = echo().await;
    let routes =
        format!("{ROUTES}  - {{ name: booking, path: /book, methods: [POST], purge: [fleet] }}\n");
    let larder = larder(&app).yaml(&routes).start().await;
    larder.purge(json!({"tags": ["a"], "soft": false})).await;
    larder.client().post("/book", &[], "").await;
    let recent = larder.admin().get("/v1/purges").await.json();
    let [booking, api] = [&recent["purges"][0], &recent["purges"][1]];
    assert_eq!(
        (&booking["by"], &booking["name"]),
        (&"route".into(), &"booking".into())
    );
    assert_eq!(booking["what"], json!(["tag fleet"]));
    assert_eq!(
        (&api["by"], &api["what"]),
        (&"api".into(), &json!(["tag a"]))
    );
    assert_eq!(
        (&api["outcome"], &api["soft"]),
        (&"local".into(), &false.into())
    );
    larder.says("purged").await;
    // Every POST changes its own URL; nobody has asked for that purge.
    larder.client().post("/api/cars/1", &[], "").await;
    let recent = larder.admin().get("/v1/purges").await.json();
    assert_eq!(recent["purges"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn more_purges_than_the_rate_are_refused_with_when_to_come_back() {
    let app = echo().await;
    let yaml = format!("purge: {{ rate: 3/min }}\n{ROUTES}");
    let larder = larder(&app).yaml(&yaml).manual_clock().start().await;
    assert_eq!(larder.purge(json!({"tags": ["a", "b"]})).await.status, 200);
    let refused = larder.purge(json!({"tags": ["a", "b"]})).await;
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, "60".into())
    );
    assert_eq!(refused.json()["code"], "too-many-purges");
    assert_eq!(larder.purge(json!({"tags": ["a"]})).await.status, 200);
    // A dry run purges nothing, and is not counted.
    let dry = json!({"tags": ["a"], "dry_run": true});
    assert_eq!(larder.purge(dry).await.status, 200);
    larder.advance("60s").await;
    assert_eq!(larder.purge(json!({"tags": ["a", "b"]})).await.status, 200);
    let metrics = larder.metrics().await;
    let limited = "larder_purge_requests_total{way=\"api\",outcome=\"limited\"} 1";
    assert!(metrics.contains(limited), "{metrics}");
}

#[tokio::test]
async fn too_many_and_malformed_purges_and_those_of_other_sites_are_refused() {
    let app = echo().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let json = [("Content-Type", "application/json")];
    let post = async |headers: &[(&str, &str)], body: String| {
        larder.admin().post("/v1/purge", headers, body).await.status
    };
    assert_eq!(
        post(&json, json!({"tags": vec!["a"; 129]}).to_string()).await,
        422
    );
    let parts = json!({"purges": vec![json!({"tags": ["a"]}); 129]});
    assert_eq!(post(&json, parts.to_string()).await, 400);
    assert_eq!(post(&json, "[".repeat(65 * 1_024)).await, 413);
    assert_eq!(post(&json, "{\"tag\": \"a\"}".into()).await, 400);
    assert_eq!(
        post(&[("Content-Type", "text/plain")], "{\"all\": true}".into()).await,
        415
    );
    let foreign = [json[0], ("Origin", "https://evil.example")];
    assert_eq!(post(&foreign, "{\"all\": true}".into()).await, 403);
    assert_eq!(larder.admin().get("/v1/purge").await.status, 405);
    assert_eq!(
        larder.admin().post("/v1/purges", &json, "{}").await.status,
        405
    );
}

#[tokio::test]
async fn logging_a_user_out_everywhere_needs_no_tags() {
    let app = echo().await;
    let yaml = format!(
        "{}\nroutes:\n  - {{ path: /me, ttl: 5m, override: true, key: {{ per: user }} }}\n  - {{ path: /session, ttl: 5m, override: true, key: {{ per: token }} }}\n",
        identity()
    );
    let larder = larder(&app).yaml(&yaml).start().await;
    let as_user = |id: &str| format!("Bearer {}", token(id, "user"));
    let (ann, bob) = (as_user("ann"), as_user("bob"));
    let get = async |path: &str, who: &str| {
        let answer = larder.get_with(path, &[("Authorization", who)]).await;
        answer.cache()
    };
    for path in ["/me", "/session"] {
        for who in [&ann, &bob] {
            get(path, who).await;
            assert_eq!(get(path, who).await, "HIT", "{path}");
        }
    }
    let answer = larder.purge(json!({"users": ["ann"], "soft": false})).await;
    assert_eq!(answer.status, 200);
    for path in ["/me", "/session"] {
        assert_eq!(get(path, &ann).await, "MISS", "{path}");
        assert_eq!(get(path, &bob).await, "HIT", "{path}");
    }
}

#[tokio::test]
async fn a_group_is_purged_for_its_origin_alone() {
    let app =
        App::says(|seen| Answer::public(seen.target.clone()).header("Cache-Groups", "\"cars\""))
            .await;
    let larder = larder(&app).start().await;
    let get = async |host: &str| larder.get_with("/x", &[("Host", host)]).await.cache();
    for host in ["a.test", "b.test"] {
        get(host).await;
        assert_eq!(get(host).await, "HIT");
    }
    let purge = json!({"groups": ["cars"], "origin": "http://a.test", "soft": false});
    assert_eq!(larder.purge(purge).await.status, 200);
    assert_eq!(
        (get("a.test").await, get("b.test").await),
        ("MISS".into(), "HIT".into())
    );
    assert_eq!(larder.purge(json!({"groups": ["cars"]})).await.status, 422);
}

#[tokio::test]
async fn the_command_says_what_it_did_and_what_it_would_do() {
    let app = echo().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    fill(&larder, &ALL).await;
    let admin = format!("http://{}", larder.admin_address);
    let purge = async |arguments: &[&str]| {
        let all = [&["purge", "--admin", &admin][..], arguments].concat();
        let output = larder_cli(&all, "").await;
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, said) = purge(&["--glob", "/api/cars/*", "--dry-run"]).await;
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("would purge glob /api/cars/*: 2 responses, "),
        "{said}"
    );
    assert!(
        said.contains("/api/cars/1\n") && said.contains("Redis is not looked through"),
        "{said}"
    );
    let (code, said) = purge(&["--tag", "car:1", "--url", "/api/fleet", "--hard"]).await;
    assert_eq!(
        (code, &*said),
        (Some(0), "purged: tag car:1\npurged: url /api/fleet\n")
    );
    assert_eq!(larder.get("/api/cars/1").await.cache(), "MISS");
    let (code, said) = purge(&["--user", "ann", "--json"]).await;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["soft"]), (Some(0), &true.into()));
    for wrong in [
        &["--group", "a"][..],
        &["--origin", "http://a", "--tag", "b"],
        &["--regex", "("],
    ] {
        assert_eq!(purge(wrong).await.0, Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn purge_is_the_apps_unless_it_is_allowed_and_then_takes_the_token() {
    let app = echo().await;
    let yaml = format!(
        "admin: {{ listen: \"127.0.0.1:{{ADMIN}}\", token: {TOKEN}, purge_method: true }}\n{ROUTES}"
    );
    let open = larder(&app).yaml(ROUTES).start().await;
    assert_eq!(
        open.client()
            .send("PURGE", "/api/fleet", &[], "")
            .await
            .status,
        200
    );
    assert_eq!(
        app.last("/api/fleet").method,
        "PURGE",
        "it is an unknown method as any other"
    );

    let larder = larder(&app).yaml(&yaml).start().await;
    let bearer = format!("Bearer {TOKEN}");
    let good = [("Authorization", &*bearer)];
    let asked = app.total();
    let purge = async |target: &str, headers: &[(&str, &str)]| {
        larder.client().send("PURGE", target, headers, "").await
    };
    fill(&larder, &ALL).await;
    for (target, headers) in [
        ("/api/fleet", &[][..]),
        (
            "/api/fleet",
            &[("Authorization", "Bearer 0123456789abcdef0123456789abcdeX")],
        ),
        ("/api/fleet", &[("Authorization", TOKEN)]),
        ("/api/fleet", &[good[0], good[0]]),
        (&format!("/api/fleet?token={TOKEN}"), &[]),
    ] {
        let refused = purge(target, headers).await;
        assert_eq!(
            (refused.status, refused.header("www-authenticate")),
            (401, "Bearer realm=\"larder\"".into())
        );
    }
    assert_eq!(larder.get("/api/fleet").await.cache(), "HIT");
    let done = purge("/api/fleet", &good).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(
        done.json(),
        json!({"purges": 1, "soft": false, "outcome": "local"})
    );
    assert_eq!(larder.get("/api/fleet").await.cache(), "MISS");
    assert_eq!(larder.get("/api/cars/1").await.cache(), "HIT");
    let soft = [good[0], ("Fastly-Soft-Purge", "1")];
    assert_eq!(purge("/api/cars/1", &soft).await.json()["soft"], true);
    let seen = app.total() - asked;
    assert_eq!(seen, 4, "no PURGE reaches the app");
    assert!(
        app.seen("/api/fleet")
            .iter()
            .skip(1)
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn purge_takes_every_variant_in_whatever_spelling() {
    let app = App::says(|seen| {
        let language = seen
            .header("accept-language")
            .unwrap_or_default()
            .to_owned();
        Answer::public(language).header("Vary", "Accept-Language")
    })
    .await;
    let larder = larder(&app)
        .yaml(&format!(
            "admin: {{ listen: \"127.0.0.1:{{ADMIN}}\", token: {TOKEN}, purge_method: true }}"
        ))
        .start()
        .await;
    let get = async |language: &str| {
        larder
            .get_with("/p?b=1&a=2", &[("Accept-Language", language)])
            .await
            .cache()
    };
    for language in ["de", "en"] {
        get(language).await;
        assert_eq!(get(language).await, "HIT");
    }
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", &*bearer)];
    let purged = larder
        .client()
        .send("PURGE", "/p?a=2&b=%31&utm_source=x", &headers, "")
        .await;
    assert_eq!(purged.status, 200);
    for language in ["de", "en"] {
        assert_eq!(get(language).await, "MISS", "{language}");
    }
}

#[tokio::test]
async fn an_app_tags_what_it_answers_and_purges_by_the_same_fields() {
    for (field, tags, ends) in [
        ("Surrogate-Key", "car:1 cars", "car:1"),
        ("Cache-Tag", "car:1, cars", "cars,other"),
        ("Edge-Cache-Tag", "car:1,cars", "cars"),
        ("xkey", "car:1 cars", "x car:1"),
    ] {
        let app = App::says(move |seen| match seen.method.as_str() {
            "GET" => Answer::public("car").header(field, tags),
            _ if seen.text() == "fails" => Answer::new(500, "").header(field, ends),
            _ => Answer::new(303, "").header(field, ends),
        })
        .await;
        let larder = larder(&app).start().await;
        let first = larder.get("/car").await;
        assert!(!first.has(field), "{field} is no browser's business");
        let hit = larder.get("/car").await;
        assert_eq!((hit.cache(), hit.has(field)), ("HIT".into(), false));
        let failed = larder.client().post("/change", &[], "fails").await;
        assert_eq!((failed.status, failed.has(field)), (500, false));
        // That a safe request is answered with tags ends nothing.
        larder.get("/other").await;
        assert_eq!(larder.get("/car").await.cache(), "HIT", "{field}");
        let changed = larder.client().post("/change", &[], "").await;
        assert_eq!((changed.status, changed.has(field)), (303, false));
        assert_eq!(larder.get("/car").await.cache(), "MISS", "{field}");
        larder
            .purge(json!({"tags": ["car:1"], "soft": false}))
            .await;
        assert_eq!(larder.get("/car").await.cache(), "MISS", "{field}");
    }
}

#[tokio::test]
async fn tags_of_an_answer_live_on_over_validation_and_are_those_it_then_names() {
    let app = App::says(|seen| match seen.header("if-none-match") {
        Some(_) => Answer::new(304, "")
            .header("ETag", "\"1\"")
            .header("xkey", "new"),
        None => Answer::ok("x")
            .header("ETag", "\"1\"")
            .header("xkey", "old")
            .header("Cache-Control", "max-age=10"),
    })
    .await;
    let larder = larder(&app).manual_clock().start().await;
    larder.get("/x").await;
    larder.advance("20s").await;
    let validated = larder.get("/x").await;
    assert_eq!(
        (validated.cache(), validated.has("xkey")),
        ("REVALIDATED".into(), false)
    );
    larder.purge(json!({"tags": ["new"], "soft": false})).await;
    assert_eq!(larder.get("/x").await.cache(), "MISS");
}

#[tokio::test]
async fn an_app_cannot_tag_away_what_purges_by_url_and_route_need() {
    let many: Vec<_> = (0..1_000).map(|n| format!("!{n}")).collect();
    let many = many.join(" ");
    let long = "x".repeat(300);
    let app = App::says(move |_| {
        let answer = Answer::public("x").header("Surrogate-Key", &many);
        answer.header("Cache-Tag", &long)
    })
    .await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    for purge in [
        json!({"urls": ["/api/fleet"]}),
        json!({"routes": ["fleet"]}),
        json!({"tags": ["fleet"]}),
        json!({"tags": ["!127"]}),
    ] {
        fill(&larder, &["/api/fleet"]).await;
        let mut hard = purge.clone();
        hard["soft"] = json!(false);
        larder.purge(hard).await;
        assert_eq!(larder.get("/api/fleet").await.cache(), "MISS", "{purge}");
    }
    // Beyond the bounds nothing is heeded.
    for beyond in ["!128".to_owned(), "x".repeat(256)] {
        fill(&larder, &["/api/fleet"]).await;
        larder.purge(json!({"tags": [beyond], "soft": false})).await;
        assert_eq!(larder.get("/api/fleet").await.cache(), "HIT");
    }
}

#[tokio::test]
async fn what_an_answer_is_tagged_and_grouped_with_never_leaves() {
    let tagged = |answer: Answer| {
        answer
            .header("Cache-Control", "max-age=10, must-revalidate")
            .header("Cache-Groups", "\"cars\"")
            .header("Cache-Group-Invalidation", "\"none\"")
            .header("Surrogate-Key", "a")
    };
    let app = App::says(move |seen| match seen.header("if-none-match") {
        Some(_) => tagged(Answer::new(304, "")).header("ETag", "\"1\""),
        None => tagged(Answer::ok("x")).header("ETag", "\"1\""),
    })
    .await;
    let larder = larder(&app).yaml(ROUTES).manual_clock().start().await;
    let fields = ["cache-groups", "cache-group-invalidation", "surrogate-key"];
    let bare = |answer: &Response, what: &str| {
        for field in fields {
            assert!(!answer.has(field), "{what}: {field}");
        }
    };
    for cache in ["MISS", "HIT", "REVALIDATED"] {
        let answer = larder.get("/api/fleet").await;
        assert_eq!(answer.cache(), cache);
        bare(&answer, cache);
        if cache == "HIT" {
            larder.advance("11s").await;
        }
    }
    // What the app has said only when it confirmed, is heeded as what it said before.
    let group = json!({"groups": ["cars"], "origin": format!("http://{}", larder.address)});
    assert_eq!(larder.get("/api/fleet").await.cache(), "HIT");
    larder.purge(group).await;
    assert_ne!(larder.get("/api/fleet").await.cache(), "HIT");
    for (method, path) in [
        ("HEAD", "/api/cars/1"),
        ("GET", "/elsewhere"),
        ("POST", "/elsewhere"),
        ("DELETE", "/api/fleet"),
    ] {
        let answer = larder.client().send(method, path, &[], "").await;
        bare(&answer, method);
    }
    let part = [("Range", "bytes=0-0")];
    bare(
        &larder.client().get_with("/api/cars/2", &part).await,
        "range",
    );
}

#[tokio::test]
async fn what_a_route_purges_by_is_a_tag_or_nothing_and_what_is_missing_is_counted() {
    let app = App::says(|seen| match seen.target.as_str() {
        // An answer that breaks off, of which a field is wanted.
        "/broken" => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\": 1").then_close()
        }
        _ => Answer::ok(seen.target.clone()),
    })
    .await;
    let routes = r#"
routes:
  - { name: car, path: "/cars/{id}", ttl: 5m, tags: ["car:{id}"] }
  - { name: book, path: /book, methods: [POST], purge: ["car:{request.id}"] }
  - { name: broken, path: /broken, methods: [POST], purge: ["car:{response.id}"] }
"#;
    let larder = larder(&app).yaml(routes).start().await;
    fill(&larder, &["/cars/1"]).await;
    for id in [json!("x".repeat(300)), json!("a\nb"), json!(null), json!(1)] {
        larder
            .client()
            .post("/book", &[], json!({ "id": id }).to_string())
            .await;
    }
    assert_ne!(larder.get("/cars/1").await.cache(), "HIT");
    let recent = larder.admin().get("/v1/purges").await.json();
    assert_eq!(recent["purges"].as_array().unwrap().len(), 1, "{recent}");
    let metrics = larder.metrics().await;
    let skipped = "larder_purge_requests_total{way=\"route\",outcome=\"skipped\"} 3";
    assert!(metrics.contains(skipped), "{metrics}");
    // It breaks off for the client as for larder, and nobody waits for the rest.
    let client = larder.client();
    let answer = client.try_send("POST", "/broken", &[], "");
    let answer = tokio::time::timeout(std::time::Duration::from_secs(10), answer).await;
    assert!(answer.expect("an end").is_err());
}
