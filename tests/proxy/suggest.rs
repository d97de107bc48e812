//! What would be worth a route, from traffic: YAML that can be used as it is, with reasons for the rest.

use crate::support::*;
use serde_json::{Value, json};

impl Larder {
    async fn look(&self, length: &str) -> Response {
        let json = [("Content-Type", "application/json")];
        let body = json!({ "for": length }).to_string();
        self.admin().post("/v1/suggest", &json, body).await
    }

    async fn suggested(&self) -> Value {
        let answer = self.admin().get("/v1/suggest").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

/// A shop that says nothing of caching.
async fn shop() -> App {
    App::says(|seen| {
        let name = seen.header("cookie").unwrap_or("stranger").to_owned();
        match seen.path() {
            "/me" => Answer::ok(format!("hello {name}")),
            "/login" => Answer::ok("welcome").header("Set-Cookie", "sid=1"),
            "/secret" => Answer::ok("x").header("Cache-Control", "private"),
            path => Answer::ok(path.to_owned()),
        }
    })
    .await
}

#[tokio::test]
async fn traffic_turns_into_routes_that_load_and_save_what_was_said() {
    let app = shop().await;
    let watching = larder(&app).manual_clock().start().await;
    assert_eq!(watching.suggested().await["routes"], serde_json::json!([]));
    assert_eq!(watching.look("never").await.status, 422);
    assert_eq!(watching.look("1h").await.status, 200);
    let client = watching.client();
    let users = [("Cookie", "sid=alice"), ("Cookie", "sid=bob")];
    for round in 0..60_usize {
        for car in 0..5 {
            client.get(&format!("/api/cars/{car}?page=1")).await;
        }
        client.get("/api/fleet").await;
        client.get("/login").await;
        client.get("/secret").await;
        client.get_with("/me", &[users[round % 2]]).await;
        client.post("/api/bookings", &[], "{}").await;
        watching.advance("60s").await;
    }
    let told = watching.suggested().await;
    let paths: Vec<_> = told["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["path"].clone())
        .collect();
    assert_eq!(paths, ["/api/fleet", "/api/cars/{id}"], "{told:#}");
    let yaml = told["yaml"].as_str().unwrap();
    for why in [
        "# not /me (60 requests): differs by who asks",
        "# not /login (60 requests): set-cookie",
        "# not /secret (60 requests): private",
        "# not /api/bookings (60 requests): only requests that change something",
        "# In the key: page.",
    ] {
        assert!(yaml.contains(why), "{yaml}");
    }
    let admin = format!("http://{}", watching.admin_address);
    let shown = larder_cli(&["suggest", "--admin", &admin], "").await;
    assert_eq!(String::from_utf8_lossy(&shown.stdout), yaml);
    // It passes a check as it is, and does what it says.
    let whole = format!("upstream: {}\n{yaml}", app.url());
    let checked = larder_cli(&["check", "-c", "-", "--strict"], &whole).await;
    assert!(checked.status.success(), "{checked:?}");
    let using = larder(&app).yaml(yaml).start().await;
    for cache in ["MISS", "HIT"] {
        assert_eq!(using.get("/api/cars/7").await.cache(), cache);
    }
}

#[tokio::test]
async fn some_of_all_traffic_is_looked_at_by_itself_and_says_what_it_stands_for() {
    let app = shop().await;
    let larder = larder(&app).manual_clock().start().await;
    for _ in 0..50 {
        for _ in 0..64 {
            larder.get("/api/fleet").await;
        }
        larder.advance("10s").await;
    }
    let told = larder.suggested().await;
    let route = &told["routes"][0];
    assert_eq!(route["path"], "/api/fleet", "{told}");
    assert_eq!(told["looking"], false);
    let seen = told["requests"].as_u64().unwrap();
    assert!((1_600..1_700).contains(&seen), "half of them: {told}");
    let saved = route["saved_requests"].as_f64().unwrap();
    let all = 6.4 * 3_600.0;
    assert!(
        saved > all * 0.8 && saved <= all * 1.1,
        "an hour of all: {told}"
    );
}

#[tokio::test]
async fn who_asks_for_a_look_sees_what_came_meanwhile_and_nothing_else() {
    let app = shop().await;
    let larder = larder(&app).manual_clock().start().await;
    larder.get("/api/fleet").await;
    larder.look("1m").await;
    larder.get("/api/fleet").await;
    larder.advance("2m").await;
    larder.get("/api/fleet").await;
    let told = larder.suggested().await;
    assert_eq!(
        (&told["requests"], &told["looking"], &told["seconds"]),
        (&1.into(), &false.into(), &60.into())
    );
}

#[tokio::test]
async fn what_users_are_told_by_a_field_of_their_own_or_beside_a_number_is_not_shared() {
    let app = App::says(|seen| {
        let name = seen.header("x-user-id").unwrap_or("stranger").to_owned();
        match seen.path() {
            "/api/me" | "/home" => Answer::ok(format!("hello {name}")),
            path => Answer::ok(path.to_owned()),
        }
    })
    .await;
    let larder = larder(&app).manual_clock().start().await;
    larder.look("1h").await;
    let client = larder.client();
    for round in 0..60 {
        // One after the other, so that the answer seems to change but once.
        let name = if round < 30 { "alice" } else { "bob" };
        client.get_with("/home", &[("X-User-Id", name)]).await;
        client.get_with("/api/me", &[("X-User-Id", name)]).await;
        client.get("/api/42").await;
        larder.advance("60s").await;
    }
    let told = larder.suggested().await;
    let yaml = told["yaml"].as_str().unwrap();
    assert_eq!(told["routes"], json!([]), "{yaml}");
    for why in [
        "# not /home (60 requests): differs by who asks",
        "# not /api/{id} (60 requests): stands for /api/me as well",
    ] {
        assert!(yaml.contains(why), "{yaml}");
    }
}

#[tokio::test]
async fn odd_paths_make_a_file_that_loads() {
    let app = App::says(|seen| Answer::ok(seen.path().to_owned())).await;
    let larder = larder(&app).manual_clock().start().await;
    larder.look("1h").await;
    let client = larder.client();
    let long = format!("/{}", "x".repeat(2_000));
    let paths = [
        "/",
        "/other",
        "/Other",
        "/a//b",
        "/a/",
        "/a",
        "/2024",
        "/2024/5",
        "/x.y~z_-",
        "/%7Bid%7D",
        "/%7Bid%7D/7",
        "/a%0Ab",
        "/*",
        "/a*",
        "/a%23b",
        "/a:b",
        "/a'b",
        "/%22",
        "/a%20b",
        "/%E2%80%A8",
        "/null",
        "/true",
        "/~",
        "/-",
        "/...",
        "/default",
        &long,
    ];
    for _ in 0..30 {
        for path in paths {
            client.get(&format!("{path}?%0a%23x=1")).await;
        }
        larder.advance("100s").await;
    }
    let told = larder.suggested().await;
    let yaml = told["yaml"].as_str().unwrap();
    assert!(told["routes"].as_array().unwrap().len() > 8, "{yaml}");
    let whole = format!("upstream: {}\n{yaml}", app.url());
    let checked = larder_cli(&["check", "-c", "-", "--strict"], &whole).await;
    assert!(checked.status.success(), "{checked:?}\n{whole}");
}
