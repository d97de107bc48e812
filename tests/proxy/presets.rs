//! Presets: what Next.js and Supabase need of a cache, by one word.

use crate::support::*;

const RSC: [&str; 5] = [
    "RSC",
    "Next-Router-State-Tree",
    "Next-Router-Prefetch",
    "Next-Router-Segment-Prefetch",
    "Next-Url",
];

#[tokio::test]
async fn a_page_and_its_payloads_are_never_one_answer_in_nextjs() {
    // An app that forgets Vary, as some deployments make it.
    let app = App::says(|seen| {
        let said: Vec<_> = RSC
            .iter()
            .map(|name| seen.header(name).unwrap_or("-"))
            .collect();
        Answer::public(format!("{} {}", seen.target, said.join(" ")))
    })
    .await;
    let larder = larder(&app)
        .yaml("presets: nextjs\nroutes: [{ path: /p/*, ttl: 1m, key: { query: [page] } }]")
        .start()
        .await;
    for path in ["/", "/p/1"] {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        let mut answers = std::collections::HashSet::new();
        for round in 0..=RSC.len() {
            let first = larder.get_with(path, &fields).await;
            let again = larder.get_with(path, &fields).await;
            assert_eq!(
                (first.cache(), again.cache()),
                ("MISS".into(), "HIT".into()),
                "{fields:?}"
            );
            assert_eq!(first.text(), again.text());
            assert!(answers.insert(first.text()), "{fields:?}");
            if let Some(name) = RSC.get(round) {
                fields.push((name, "1"));
            }
        }
        // The app checks `_rsc` against those fields and redirects where it is missing.
        let payload = larder.get_with(&format!("{path}?_rsc=abc"), &fields).await;
        assert!(payload.text().contains("_rsc=abc"));
    }
}

#[tokio::test]
async fn draft_mode_and_server_actions_go_to_nextjs() {
    let app = App::says(|seen| Answer::public(seen.header("cookie").unwrap_or("public"))).await;
    let larder = larder(&app).yaml("presets: [nextjs]").start().await;
    larder.get("/").await;
    for cookie in ["__prerender_bypass=1", "a=b; __next_preview_data=1"] {
        let draft = larder.get_with("/", &[("Cookie", cookie)]).await;
        assert_eq!(
            (draft.cache(), draft.text()),
            ("BYPASS".into(), cookie.into())
        );
        assert!(draft.header("cache-status").contains("draft-mode"));
    }
    assert_eq!(larder.get("/").await.text(), "public");
    let action = larder.client().post("/", &[("Next-Action", "x")], "").await;
    assert_eq!(action.cache(), "BYPASS");
    assert_eq!(
        larder.get("/").await.cache(),
        "MISS",
        "an action changes what it is about"
    );
}

#[tokio::test]
async fn static_files_and_images_are_kept_in_nextjs() {
    let app = App::says(|seen| match seen.path() {
        "/_next/image" => Answer::public(seen.header("accept").unwrap_or("-")),
        _ => Answer::new(200, "x").header("Content-Type", "text/javascript"),
    })
    .await;
    let larder = larder(&app).yaml("presets: nextjs").start().await;
    larder.get("/_next/static/chunks/a-1.js").await;
    assert_eq!(
        larder.get("/_next/static/chunks/a-1.js").await.cache(),
        "HIT"
    );
    for accept in ["image/avif", "image/webp"] {
        let image = larder
            .get_with("/_next/image?url=%2Fa.png&w=64&q=75", &[("Accept", accept)])
            .await;
        assert_eq!(image.text(), accept);
    }
    let noise = larder
        .get_with(
            "/_next/image?w=64&url=%2Fa.png&q=75&x=1",
            &[("Accept", "image/avif")],
        )
        .await;
    assert_eq!(noise.cache(), "HIT");
}

#[tokio::test]
async fn rows_are_for_whom_and_as_they_were_asked_in_supabase() {
    let app = App::says(|seen| {
        let of = |name| seen.header(name).unwrap_or("-").to_owned();
        let names = [
            "apikey",
            "authorization",
            "accept",
            "accept-profile",
            "prefer",
            "range",
        ];
        Answer::ok(names.map(of).join(" "))
    })
    .await;
    let larder = larder(&app)
        .yaml("presets: supabase\nroutes: [{ path: /rest/v1/cars, ttl: 1m }, { path: /rest/v1/shared, ttl: 1m, override: true, key: { per: ip } }]")
        .start()
        .await;
    let plain = [
        ("apikey", "k"),
        ("Authorization", "Bearer a"),
        ("Accept", "application/json"),
    ];
    let replaced = |name: &'static str, value: &'static str| {
        let mut fields: Vec<_> = plain
            .iter()
            .copied()
            .filter(|(known, _)| *known != name)
            .collect();
        fields.push((name, value));
        fields
    };
    let mut answers = std::collections::HashSet::new();
    for fields in [
        plain.to_vec(),
        replaced("apikey", "l"),
        replaced("Authorization", "Bearer b"),
        replaced("Accept", "text/csv"),
        replaced("Accept-Profile", "private"),
        replaced("Prefer", "count=exact"),
    ] {
        let first = larder.get_with("/rest/v1/cars?id=eq.1", &fields).await;
        let again = larder.get_with("/rest/v1/cars?id=eq.1", &fields).await;
        assert_eq!(
            (first.cache(), again.cache()),
            ("MISS".into(), "HIT".into()),
            "{fields:?}"
        );
        assert!(answers.insert(again.text()), "{fields:?}");
    }
    // Nobody's token: nobody's answer.
    assert_eq!(larder.get("/rest/v1/cars?id=eq.1").await.cache(), "BYPASS");
    // Rows, not bytes: the app gets the range, and nobody else its answer.
    let page = larder
        .get_with("/rest/v1/cars?id=eq.1", &replaced("Range", "0-9"))
        .await;
    assert!(
        page.cache() == "BYPASS" && page.text().ends_with("0-9"),
        "{}",
        page.text()
    );
}

#[tokio::test]
async fn a_login_and_a_signed_file_are_never_stored_in_supabase() {
    let app = App::says(|seen| Answer::public(seen.path())).await;
    let larder = larder(&app).yaml("presets: [supabase]").start().await;
    for path in [
        "/auth/v1/user",
        "/storage/v1/object/sign/b/f",
        "/realtime/v1/api",
    ] {
        for _ in 0..2 {
            let answer = larder.get(path).await;
            assert_eq!(
                (answer.cache(), answer.header("cache-control")),
                ("BYPASS".into(), "no-store".into())
            );
        }
    }
    larder.get("/storage/v1/object/public/b/f").await;
    assert_eq!(
        larder.get("/storage/v1/object/public/b/f").await.cache(),
        "HIT"
    );
}

#[tokio::test]
async fn the_files_own_routes_come_first() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app)
        .yaml("presets: [nextjs, supabase]\nroutes: [{ path: /auth/v1/settings, ttl: 1m }]")
        .start()
        .await;
    for (path, outcome) in [("/auth/v1/settings", "HIT"), ("/auth/v1/user", "BYPASS")] {
        larder.get(path).await;
        assert_eq!(larder.get(path).await.cache(), outcome, "{path}");
    }
}
