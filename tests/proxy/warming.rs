//! Pages that are asked for before anybody has to wait for them.

use crate::support::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ROUTES: &str = r#"
routes:
  - { name: mine, path: /api/mine, ttl: 5m, key: { per: token } }
  - { name: never, path: /api/never, no_store: true }
  - { name: car, path: "/api/*", ttl: 5m, tags: ["all"] }
"#;

async fn shop() -> App {
    App::says(|seen| match seen.path() {
        "/api/private" => Answer::ok("x").header("Cache-Control", "private"),
        "/api/broken" => Answer::new(500, "x"),
        _ => Answer::ok(seen.target.clone()),
    })
    .await
}

/// Warms, and waits until that is done; what became of it and of its pages.
async fn warm(larder: &Larder, what: Value) -> (Value, Vec<Value>) {
    let json = [("Content-Type", "application/json")];
    let begun = larder
        .admin()
        .post("/v1/warm", &json, what.to_string())
        .await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let job = begun.json()["jobs"][0].as_u64().unwrap();
    let told = done(larder, job).await;
    let lines = told["lines"].as_array().unwrap().clone();
    (told["job"].clone(), lines)
}

async fn done(larder: &Larder, job: u64) -> Value {
    eventually("the job is done", async || {
        let told = larder.admin().get(&format!("/v1/warm?job={job}")).await;
        let told = told.json();
        (told["job"]["state"] == "done").then_some(told)
    })
    .await
}

/// What became of a page.
fn of<'a>(lines: &'a [Value], path: &str) -> &'a Value {
    let is = |line: &&Value| line["url"].as_str().unwrap().ends_with(path);
    lines
        .iter()
        .find(is)
        .unwrap_or_else(|| panic!("{path}: {lines:?}"))
}

#[tokio::test]
async fn warmed_pages_are_hits_and_others_say_why_they_are_not() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let host = larder.address.to_string();
    let urls = [
        "/api/cars",
        "/api/mine",
        "/api/never",
        "/api/private",
        "/api/broken",
    ];
    let (job, lines) = warm(&larder, json!({ "urls": urls, "host": host })).await;
    assert_eq!((&job["pages"], &job["stored"]), (&json!(5), &json!(1)));
    for (path, why) in [
        ("/api/mine", "private"),
        ("/api/never", "no-store"),
        ("/api/private", "private"),
        ("/api/broken", "status"),
    ] {
        let line = of(&lines, path);
        assert_eq!(
            (&line["outcome"], &line["why"]),
            (&json!("not_stored"), &json!(why))
        );
    }
    // What is not stored anyway is not asked for.
    assert_eq!((app.count("/api/mine"), app.count("/api/never")), (0, 0));
    assert_eq!(larder.get("/api/cars").await.cache(), "HIT");
    assert_eq!(app.count("/api/cars"), 1);
    // What is there is left as it is.
    let (job, lines) = warm(&larder, json!({ "urls": ["/api/cars"], "host": host })).await;
    assert_eq!(job["fresh"], 1);
    assert!(of(&lines, "/api/cars")["fresh_seconds"].as_u64() > Some(200));
    assert_eq!(app.count("/api/cars"), 1);
    // None of it is a request of anybody's.
    let metrics = larder.metrics().await;
    assert!(metrics.contains("larder_warm_requests_total{outcome=\"stored\"} 1\n"));
    assert!(!metrics.contains("larder_cache_requests_total{route=\"car\",cache=\"miss\""));
}

#[tokio::test]
async fn warming_carries_nobodys_credentials_and_counts_on_no_limit() {
    let app = shop().await;
    let larder = larder(&app)
        .yaml(ROUTES)
        .yaml("limits: { tiers: [{ name: public, for: anyone, rate: 1/hour, per: ip }] }")
        .start()
        .await;
    let host = larder.address.to_string();
    let (job, _) = warm(
        &larder,
        json!({"urls": ["/api/a", "/api/b", "/api/c"], "host": host}),
    )
    .await;
    assert_eq!(job["stored"], 3);
    let seen = app.last("/api/a");
    for name in ["authorization", "cookie"] {
        assert_eq!(seen.header(name), None);
    }
    assert_eq!(seen.header("host"), Some(&*host));
    assert_eq!(seen.header("user-agent"), Some("larder-warm"));
    assert_eq!(larder.get("/api/a").await.cache(), "HIT");
}

#[tokio::test]
async fn warming_joins_a_fetch_that_is_under_way_and_is_joined() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::ok("x").behind(&held)).await;
    let larder = Arc::new(larder(&app).yaml(ROUTES).start().await);
    let host = larder.address.to_string();
    let json = [("Content-Type", "application/json")];
    let what = json!({"urls": ["/api/cars"], "host": host}).to_string();
    larder.admin().post("/v1/warm", &json, what).await;
    eventually("the app is asked", async || {
        (app.count("/api/cars") == 1).then_some(())
    })
    .await;
    let visitor = {
        let client = larder.client();
        tokio::spawn(async move { client.get("/api/cars").await })
    };
    eventually("the visitor waits", async || {
        larder
            .metrics()
            .await
            .contains("larder_cache_coalescing 1\n")
            .then_some(())
    })
    .await;
    gate.open();
    assert_eq!(visitor.await.unwrap().text(), "x");
    let told = done(&larder, 1).await;
    assert_eq!(told["job"]["stored"], 1);
    assert_eq!(app.count("/api/cars"), 1);
}

#[tokio::test]
async fn a_list_is_warmed_at_the_start_and_renewed_before_it_ends() {
    let app = shop().await;
    let larder = larder(&app)
        .yaml(ROUTES)
        .yaml("warm: [{ urls: [/api/fleet], host: shop.test, on_start: true, every: 4m, wait_ready: true }]")
        .manual_clock()
        .start()
        .await;
    // It is ready only now.
    assert_eq!(app.count("/api/fleet"), 1);
    let host = [("Host", "shop.test")];
    assert_eq!(larder.get_with("/api/fleet", &host).await.cache(), "HIT");
    larder.advance("3m").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(app.count("/api/fleet"), 1);
    larder.advance("1m").await;
    eventually("it is renewed", async || {
        (app.count("/api/fleet") == 2).then_some(())
    })
    .await;
    eventually("what came is stored", async || {
        let answer = larder.get_with("/api/fleet", &host).await;
        (answer.header("age") == "0").then_some(())
    })
    .await;
    larder.advance("3m").await;
    assert_eq!(larder.get_with("/api/fleet", &host).await.cache(), "HIT");
    assert_eq!(app.count("/api/fleet"), 2);
}

#[tokio::test]
async fn a_sitemap_and_a_file_name_pages_of_the_same_host() {
    let app = App::says(|seen| match seen.path() {
        "/sitemap.xml" => Answer::ok(
            "<sitemapindex><sitemap><loc>https://shop.test/cars.xml</loc></sitemap>\
             <sitemap><loc>https://evil.test/cars.xml</loc></sitemap></sitemapindex>",
        ),
        "/cars.xml" => Answer::ok(
            "<urlset><url><loc>https://shop.test/api/1?a=1&amp;b=2</loc></url>\
             <url><loc>https://evil.test/api/2</loc></url></urlset>",
        ),
        _ => Answer::ok(seen.target.clone()),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pages.txt");
    std::fs::write(&file, "# cars\n/api/3\n\n/api/4\n").unwrap();
    let list = format!(
        "warm: [{{ sitemap: /sitemap.xml, file: {}, host: shop.test, on_start: true }}]",
        file.display()
    );
    let larder = larder(&app).yaml(ROUTES).yaml(&list).start().await;
    let told = done(&larder, 1).await;
    assert_eq!(
        (&told["job"]["pages"], &told["job"]["stored"]),
        (&json!(3), &json!(3))
    );
    let host = [("Host", "shop.test")];
    for path in ["/api/1?b=2&a=1", "/api/3", "/api/4"] {
        assert_eq!(larder.get_with(path, &host).await.cache(), "HIT", "{path}");
    }
    assert_eq!(app.count("/api/2"), 0);
}

#[tokio::test]
async fn variants_are_warmed_one_by_one() {
    let app = App::says(|seen| {
        let language = seen.header("accept-language").unwrap_or("none").to_owned();
        Answer::ok(language).header("Vary", "Accept-Language")
    })
    .await;
    let larder = larder(&app)
        .yaml(ROUTES)
        .yaml("warm: [{ urls: [/api/a], host: shop.test, on_start: true, headers: { Accept-Language: [de, fr] } }]")
        .start()
        .await;
    done(&larder, 1).await;
    for (language, cache) in [("de", "HIT"), ("fr", "HIT"), ("it", "MISS")] {
        let fields = [("Host", "shop.test"), ("Accept-Language", language)];
        let answer = larder.get_with("/api/a", &fields).await;
        assert_eq!(
            (answer.cache().as_str(), answer.text().as_str()),
            (cache, language)
        );
    }
}

#[tokio::test]
async fn one_of_three_larders_warms_and_another_takes_over() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let list = "warm: [{ urls: [/api/fleet], host: shop.test, on_start: true, every: 4m, wait_ready: true }]";
    let mut larders = Vec::new();
    for _ in 0..3 {
        let one = larder(&app)
            .redis(&redis)
            .yaml(ROUTES)
            .yaml(list)
            .manual_clock();
        larders.push(one.start().await);
    }
    for one in &larders {
        one.redis_is(true).await;
    }
    assert_eq!(app.count("/api/fleet"), 1);
    let mut leaders = Vec::new();
    for (at, one) in larders.iter().enumerate() {
        let standing = one.admin().get("/v1/warm").await.json();
        if !standing["jobs"].as_array().unwrap().is_empty() {
            leaders.push(at);
        }
    }
    assert_eq!(leaders.len(), 1, "one leads");
    // Its own memory has it; the others' first hit is Redis's.
    let host = [("Host", "shop.test")];
    for one in &larders {
        assert_eq!(one.get_with("/api/fleet", &host).await.cache(), "HIT");
    }
    assert_eq!(app.count("/api/fleet"), 1);
    drop(larders.remove(leaders[0]));
    eventually("another leads", async || {
        for one in &larders {
            let standing = one.admin().get("/v1/warm").await.json();
            if !standing["jobs"].as_array()?.is_empty() {
                return Some(());
            }
        }
        None
    })
    .await;
}

#[tokio::test]
async fn what_is_popular_is_warmed_after_everything_was_restarted() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let yaml =
        "cache: { encrypt: \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\" }";
    let host = [("Host", "shop.test")];
    {
        let one = larder(&app)
            .redis(&redis)
            .yaml(ROUTES)
            .yaml(yaml)
            .start()
            .await;
        one.redis_is(true).await;
        for _ in 0..5 {
            one.get_with("/api/cars?page=2", &host).await;
            one.get_with("/api/never", &host).await;
        }
        one.get_with(
            "/api/mine",
            &[("Host", "shop.test"), ("Authorization", "Bearer x")],
        )
        .await;
        eventually("it is in the sum", async || {
            redis
                .keys()
                .await
                .iter()
                .any(|key| key.contains("popular"))
                .then_some(())
        })
        .await;
    }
    assert!(
        !contains(&redis.everything_written(), b"/api/cars?page"),
        "URLs are encrypted"
    );
    let two = larder(&app)
        .redis(&redis)
        .yaml(ROUTES)
        .yaml(yaml)
        .start()
        .await;
    two.redis_is(true).await;
    two.purge(json!({"all": true, "soft": false})).await;
    let (job, lines) = warm(&two, json!({"popular": 10})).await;
    assert_eq!(job["pages"], 1, "{lines:?}");
    assert_eq!(of(&lines, "/api/cars?page=2")["outcome"], "stored");
    assert_eq!(two.get_with("/api/cars?page=2", &host).await.cache(), "HIT");
}

#[tokio::test]
async fn many_pages_stay_within_their_budget_and_are_hits_before_anybody_asks() {
    many_pages(1_000, 500).await;
}

#[tokio::test]
#[ignore = "takes minutes on a busy machine"]
async fn ten_thousand_pages_stay_within_their_budget_and_are_hits_before_anybody_asks() {
    many_pages(10_000, 1_000).await;
}

/// So many `pages` of a sitemap, at `rate` pages a second.
async fn many_pages(pages: usize, rate: usize) {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| match seen.path() {
        "/sitemap.xml" => {
            let page = |number| format!("<url><loc>/api/{number}</loc></url>");
            let map: String = (0..pages).map(page).collect();
            Answer::ok(format!("<urlset>{map}</urlset>"))
        }
        _ => Answer::ok("x").behind(&held),
    })
    .await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let host = larder.address.to_string();
    let what = json!({"sitemap": "/sitemap.xml", "host": host, "concurrency": 8, "rate": rate});
    let json = [("Content-Type", "application/json")];
    larder
        .admin()
        .post("/v1/warm", &json, what.to_string())
        .await;
    // Nothing is answered: as many as may be are with the app, and no more come.
    eventually("eight are with the app", async || {
        (app.total() == 9).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.total(), 9, "the sitemap, and eight pages at a time");
    let began = std::time::Instant::now();
    gate.open();
    // The machine may have other things to do: it takes what it takes.
    let told = loop {
        let standing = larder.admin().get("/v1/warm").await.json();
        assert!(standing["running"].as_u64() <= Some(8), "{standing}");
        let job = standing["jobs"][0].clone();
        if job["state"] == "done" {
            break job;
        }
        assert!(began.elapsed() < Duration::from_secs(180), "{job}");
        tokio::time::sleep(LOOK_EVERY).await;
    };
    assert_eq!(
        (&told["pages"], &told["stored"]),
        (&json!(pages), &json!(pages))
    );
    let took = began.elapsed();
    // Eight were under way when it began.
    let least = Duration::from_secs_f64((pages - 10) as f64 / rate as f64);
    assert!(took >= least, "{took:?} for {pages} at {rate} a second");
    let achieved = told["achieved_rate"].as_f64().unwrap();
    assert!(achieved > 0.0 && achieved <= rate as f64 * 1.02, "{told}");
    let client = larder.client();
    for number in (0..pages).step_by(97) {
        let answer = client.get(&format!("/api/{number}")).await;
        assert_eq!(answer.cache(), "HIT");
    }
    assert_eq!(app.total(), pages as u64 + 1);
    let stats = larder.admin().get("/v1/stats").await.json();
    assert_eq!(stats["hit_ratio"], 1.0);
}

#[tokio::test]
async fn what_was_purged_and_is_hot_is_fetched_again_before_anybody_asks() {
    let app = shop().await;
    let routes = r#"
routes:
  - { name: car, path: "/api/cars/{id}", ttl: 5m, tags: ["car:{id}"] }
  - { name: fleet, path: "/api/fleet", ttl: 5m, tags: [fleet] }
  - { name: booking, path: /api/bookings, methods: [POST], purge: [fleet], refresh: hot }
"#;
    let larder = larder(&app).yaml(routes).start().await;
    for path in ["/api/cars/1", "/api/cars/2", "/api/fleet"] {
        for _ in 0..6 {
            larder.get(path).await;
        }
    }
    let what = json!({"tags": ["car:1"], "soft": false, "refresh": "hot"});
    assert_eq!(larder.purge(what).await.status, 200);
    eventually("it is fetched again", async || {
        (app.count("/api/cars/1") == 2).then_some(())
    })
    .await;
    eventually("it is stored", async || {
        let standing = larder.admin().get("/v1/warm").await.json();
        (standing["jobs"][0]["stored"] == 1).then_some(())
    })
    .await;
    assert_eq!(larder.get("/api/cars/1").await.cache(), "HIT");
    // What was not purged is left alone.
    assert_eq!((app.count("/api/cars/2"), app.count("/api/fleet")), (1, 1));
    // The same by a route that purges.
    larder.client().post("/api/bookings", &[], "").await;
    eventually("the fleet is fetched again", async || {
        (app.count("/api/fleet") == 2).then_some(())
    })
    .await;
    assert_eq!(app.count("/api/cars/2"), 1);
}

#[tokio::test]
async fn links_of_stored_answers_are_prefetched_once_and_no_further() {
    let app = App::says(|seen| {
        let page: u32 = seen.target.rsplit('=').next().unwrap().parse().unwrap();
        Answer::ok(format!("page {page}")).header(
            "Link",
            &format!(
                "</api/cars?page={}>; rel=next, <https://evil.test/x>; rel=next, </y>; rel=prev",
                page + 1
            ),
        )
    })
    .await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /api/*, ttl: 5m, prefetch: [next, preload] }]")
        .start()
        .await;
    larder.get("/api/cars?page=1").await;
    eventually("the next page is stored", async || {
        let standing = larder.admin().get("/v1/warm").await.json();
        (standing["jobs"][0]["stored"] == 1).then_some(())
    })
    .await;
    assert_eq!(larder.get("/api/cars?page=2").await.cache(), "HIT");
    let pages: Vec<_> = app
        .seen("/api/cars")
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(pages, ["/api/cars?page=1", "/api/cars?page=2"]);
}

#[tokio::test]
async fn warming_stops_while_users_wait_for_the_app_and_goes_on_after() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| match seen.path() {
        "/api/slow" => Answer::ok("x").behind(&held),
        _ => Answer::ok("x"),
    })
    .await;
    let upstream = format!("upstream: {{ url: \"{}\", max_in_flight: 2 }}", app.url());
    let larder = larder(&app).yaml(ROUTES).yaml(&upstream).start().await;
    let users: Vec<_> = (0..3)
        .map(|number| {
            let client = larder.client();
            let path = format!("/api/slow?{number}");
            tokio::spawn(async move { client.get(&path).await.status })
        })
        .collect();
    eventually("the app has all that it may have", async || {
        (app.count("/api/slow") == 2).then_some(())
    })
    .await;
    let json = [("Content-Type", "application/json")];
    let what = json!({"urls": ["/api/a"], "host": "shop.test"}).to_string();
    larder.admin().post("/v1/warm", &json, what).await;
    eventually("it says why it waits", async || {
        let told = larder.admin().get("/v1/warm").await.json();
        told["paused"].as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(app.count("/api/a"), 0);
    gate.open();
    for user in users {
        assert_eq!(user.await.unwrap(), 200);
    }
    assert_eq!(done(&larder, 1).await["job"]["stored"], 1);
}

#[tokio::test]
async fn the_command_line_tells_what_became_of_each_page() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let admin = format!("http://{}", larder.admin_address);
    let host = larder.address.to_string();
    let run = async |arguments: &[&str]| {
        let all = [&["warm", "--admin", &admin][..], arguments].concat();
        let output = larder_cli(&all, "").await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.code(),
            text + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, text) = run(&["/api/cars", "/api/never", "--host", &host]).await;
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "MISS → stored ",
        "MISS → not stored: no-store",
        "2 pages: 1 stored, 0 were fresh, 1 not stored, 0 failed",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(larder.get("/api/cars").await.cache(), "HIT");
    let (code, text) = run(&["--popular-only"]).await;
    assert!(code == Some(0) && text.contains("1 were fresh"), "{text}");
    let (code, text) = run(&[]).await;
    assert!(code == Some(2) && text.contains("lists no pages"), "{text}");
    let (code, text) = run(&["--sitemap", "/api/broken", "--host", &host]).await;
    assert!(
        code == Some(1) && text.contains("/api/broken cannot be read: the app does not answer 200"),
        "{text}"
    );
    app.down().await;
    let (code, text) = run(&["/api/other", "--host", &host]).await;
    assert!(
        code == Some(1) && text.contains("failed: connect"),
        "{text}"
    );
}

#[tokio::test]
async fn what_mostly_follows_is_warmed_before_it_is_asked_for_within_its_budget() {
    let app = App::says(|seen| Answer::ok(seen.target.clone())).await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /api/*, ttl: 1m }]")
        .yaml("predict: { rate: 2/min, precision: 10% }")
        .manual_clock()
        .start()
        .await;
    let ask = async |client: usize, path: &str| {
        let agent = format!("browser {client}");
        larder.get_with(path, &[("User-Agent", &*agent)]).await
    };
    // Who reads the list mostly reads the first car next.
    for client in 0..5 {
        ask(client, "/api/list").await;
        ask(client, "/api/cars/1").await;
        larder.advance("2m").await;
    }
    let before = app.count("/api/cars/1");
    ask(9, "/api/list").await;
    eventually("the car is warmed", async || {
        (app.count("/api/cars/1") == before + 1).then_some(())
    })
    .await;
    eventually("it is stored", async || {
        let told = larder.admin().get("/v1/warm").await.json();
        (told["jobs"][0]["running"] == 0 || told["running"] == 0).then_some(())
    })
    .await;
    assert_eq!(ask(9, "/api/cars/1").await.cache(), "HIT");
    let told = larder.admin().get("/v1/warm").await.json();
    assert!(told["predict"]["predicted"].as_u64() >= Some(1), "{told}");
    eventually(
        "that is counted as a prediction that came true",
        async || {
            let told = larder.admin().get("/v1/warm").await.json();
            (told["predict"]["came_true"].as_u64() >= Some(1)).then_some(())
        },
    )
    .await;
    let metrics = larder.metrics().await;
    assert!(
        metrics.contains("larder_prediction_precision_ratio "),
        "{metrics}"
    );
    // Reloads turn it off.
    larder.configure("predict: { rate: 2/min, precision: 10% }", "predict: false");
    larder.signal("HUP");
    eventually("it has forgotten", async || {
        let told = larder.admin().get("/v1/warm").await.json();
        told["predict"].is_null().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_restart_of_everything_warms_within_the_bound_while_users_come_first() {
    // The app counts how many it has at a time, and takes 20 ms for each.
    let now = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counted, most) = (
        now.clone(),
        Arc::new(std::sync::atomic::AtomicUsize::new(0)),
    );
    let seen_most = most.clone();
    let app = App::talks(move |socket| {
        let (now, most) = (counted.clone(), seen_most.clone());
        async move {
            use std::sync::atomic::Ordering::SeqCst;
            use tokio::io::AsyncWriteExt;
            let mut socket = tokio::io::BufReader::new(socket);
            while let Some(seen) = read_head(&mut socket).await {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                now.fetch_sub(1, SeqCst);
                let body = seen.target;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pages.txt");
    let pages: String = (0..400).map(|number| format!("/api/{number}\n")).collect();
    std::fs::write(&file, pages).unwrap();
    let upstream = format!("upstream: {{ url: \"{}\", max_in_flight: 8 }}", app.url());
    let warm = format!(
        "warm: [{{ file: {}, host: shop.test, on_start: true, concurrency: 16, rate: 1000/s }}]",
        file.display()
    );
    let mut redis = RedisServer::start().await;
    for round in 0..2 {
        let larder = larder(&app)
            .redis(&redis)
            .yaml(ROUTES)
            .yaml(&upstream)
            .yaml(&warm);
        let larder = Arc::new(larder.start().await);
        let users: Vec<_> = (0..12)
            .map(|user| {
                let larder = larder.clone();
                tokio::spawn(async move {
                    let client = larder.client();
                    for number in (user..400).step_by(7) {
                        let path = format!("/api/{number}");
                        let host = [("Host", "shop.test")];
                        assert_eq!(client.get_with(&path, &host).await.status, 200);
                    }
                })
            })
            .collect();
        for user in users {
            user.await.unwrap();
        }
        let told = done(&larder, 1).await;
        let job = &told["job"];
        let (stored, fresh) = (
            job["stored"].as_u64().unwrap(),
            job["fresh"].as_u64().unwrap(),
        );
        assert_eq!(stored + fresh, 400, "round {round}: {job}");
        let most = most.load(std::sync::atomic::Ordering::SeqCst);
        // The health probe beside the eight.
        assert!(most <= 9, "{most} at a time");
        redis.restart_empty().await;
    }
}

#[tokio::test]
async fn a_reload_takes_up_other_lists_and_lets_the_same_go_on() {
    let app = shop().await;
    let one = "{ urls: [/api/one], host: shop.test, on_start: true }";
    let larder = larder(&app)
        .yaml(ROUTES)
        .yaml(&format!("warm: [{one}]"))
        .start()
        .await;
    done(&larder, 1).await;
    let two = "{ urls: [/api/two], host: shop.test, on_start: true }";
    larder.configure(&format!("[{one}]"), &format!("[{one}, {two}]"));
    larder.signal("HUP");
    eventually("the other list is warmed", async || {
        (app.count("/api/two") == 1).then_some(())
    })
    .await;
    let standing = larder.admin().get("/v1/warm").await.json();
    assert_eq!(standing["jobs"].as_array().unwrap().len(), 2, "{standing}");
    assert_eq!(app.count("/api/one"), 1);
}

#[tokio::test]
async fn an_app_that_turns_slow_is_warmed_slowly_until_it_is_well() {
    let slow = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_slow = slow.clone();
    let app = App::says(move |_| {
        let pause = match is_slow.load(std::sync::atomic::Ordering::SeqCst) {
            true => Duration::from_millis(400),
            false => Duration::from_millis(1),
        };
        Answer::ok("x").after(pause)
    })
    .await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let urls = |from: usize, to: usize| -> Vec<String> {
        (from..to).map(|number| format!("/api/{number}")).collect()
    };
    let (job, _) = warm(
        &larder,
        json!({"urls": urls(0, 80), "host": "shop.test", "rate": 1000}),
    )
    .await;
    assert_eq!(job["stored"], 80);
    slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let json = [("Content-Type", "application/json")];
    let what = json!({"urls": urls(100, 400), "host": "shop.test", "rate": 1000}).to_string();
    larder.admin().post("/v1/warm", &json, what).await;
    eventually("it says that the app is slow", async || {
        let told = larder.admin().get("/v1/warm").await.json();
        (told["paused"] == "the app is slower than usual").then_some(())
    })
    .await;
    let before = app.total();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let meanwhile = app.total() - before;
    assert!(meanwhile <= 4, "{meanwhile} pages in two seconds");
    slow.store(false, std::sync::atomic::Ordering::SeqCst);
    larder.says("warming goes on").await;
}

#[tokio::test]
async fn a_page_without_a_host_is_warmed_for_the_address_that_larder_listens_on() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let (job, _) = warm(&larder, json!({"urls": ["/api/cars"]})).await;
    assert_eq!(job["stored"], 1);
    assert_eq!(larder.get("/api/cars").await.cache(), "HIT");
}

#[tokio::test]
async fn ten_thousand_urls_can_be_asked_for_at_once() {
    let app = shop().await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let urls: Vec<_> = (0..10_000).map(|n| format!("/api/never?n={n}")).collect();
    let what = json!({"urls": urls, "host": "shop.test", "rate": 1}).to_string();
    let json = [("Content-Type", "application/json")];
    let begun = larder.admin().post("/v1/warm", &json, what).await;
    assert_eq!(begun.status, 202, "{}", begun.text());
    eventually("they wait", async || {
        let told = larder.admin().get("/v1/warm").await.json();
        (told["jobs"][0]["pages"] == 10_000).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_round_of_a_schedule_that_is_broken_off_is_taken_up_by_another() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::ok("x").behind(&held)).await;
    let redis = RedisServer::start().await;
    let urls: Vec<_> = (0..8).map(|n| format!("/api/{n}")).collect();
    let list = format!(
        "warm: [{{ urls: [{}], host: shop.test, schedule: \"0 5 * * *\" }}]",
        urls.join(", ")
    );
    let mut larders = Vec::new();
    for _ in 0..2 {
        let one = larder(&app)
            .redis(&redis)
            .yaml(ROUTES)
            .yaml(&list)
            .manual_clock()
            .start()
            .await;
        one.redis_is(true).await;
        larders.push(one);
    }
    for one in &larders {
        one.advance("24h").await;
    }
    let leader = eventually("one leads", async || {
        for (at, one) in larders.iter().enumerate() {
            let standing = one.admin().get("/v1/warm").await.json();
            if standing["running"].as_u64() > Some(0) {
                return Some(at);
            }
        }
        None
    })
    .await;
    drop(larders.remove(leader));
    gate.open();
    let other = &larders[0];
    let told = eventually("the other takes it up, and ends it", async || {
        let standing = other.admin().get("/v1/warm").await.json();
        (standing["jobs"][0]["state"] == "done").then_some(standing)
    })
    .await;
    assert_eq!(told["jobs"][0]["pages"], 8, "{told}");
    let host = [("Host", "shop.test")];
    assert_eq!(other.get_with("/api/7", &host).await.cache(), "HIT");
}

#[tokio::test]
async fn a_round_whose_list_was_changed_by_a_reload_ends_at_once() {
    let app = shop().await;
    let urls: Vec<_> = (0..50).map(|n| format!("/api/{n}")).collect();
    let one = format!(
        "{{ urls: [{}], host: shop.test, on_start: true, rate: 1/s }}",
        urls.join(", ")
    );
    let larder = larder(&app)
        .yaml(ROUTES)
        .yaml(&format!("warm: [{one}]"))
        .start()
        .await;
    eventually("it is under way", async || {
        (app.count("/api/0") == 1).then_some(())
    })
    .await;
    larder.configure(
        &format!("[{one}]"),
        "[{ urls: [/api/two], host: shop.test, on_start: true }]",
    );
    larder.signal("HUP");
    eventually("the other list is warmed", async || {
        (app.count("/api/two") == 1).then_some(())
    })
    .await;
    let told = done(&larder, 1).await;
    assert!(told["job"]["dropped"].as_u64() > Some(20), "{told}");
}
