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
        "by: routes[0]",
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
