//! What no honest app or client sends: far too much, far too large, broken. It is bounded, larder goes
//! on serving, and in doubt nothing is stored.

use super::*;

const KIB: usize = 1_024;

/// The app's answer to everything is this one, whatever it costs.
async fn scene(answer: Answer) -> Scene {
    Scene::with(App::says(move |_| answer.clone()).await).await
}

/// Asks twice, and gets `status` twice. The app is asked twice too, since nothing was kept of such an answer.
async fn is_never_reused(what: &str, answer: Answer, status: u16) {
    let scene = scene(answer).await;
    for _ in 0..2 {
        let said = scene.client.try_send("GET", "/odd", &[], "").await;
        let said = said.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(said.status, status, "{what}");
        assert!(!said.header("cache-status").contains("; hit"), "{what}");
    }
    assert_eq!(scene.app.count("/odd"), 2, "{what}");
    assert_eq!(scene.larder.admin().get("/livez").await.status, 200);
}

fn fresh() -> Answer {
    Answer::public("x")
}

#[tokio::test]
async fn no_restriction_hides_in_a_very_long_cache_control_rfc9111_5_2() {
    let filler = "a=b, ".repeat(64 * KIB / 5);
    let says = |value: String| Answer::ok("x").header("Cache-Control", &value);
    for (what, answer) in [
        (
            "no-store at its end",
            says(format!("max-age=60, {filler}no-store")),
        ),
        (
            "private at its end",
            says(format!("max-age=60, {filler}private")),
        ),
        ("an open quote", says(format!("max-age=60, a=\"{filler}"))),
        (
            "an open quote, and no-store",
            says(format!("max-age=60, a=\"{filler}no-store")),
        ),
        (
            "only escapes",
            says(format!("max-age=60, a=\"{}", "\\".repeat(64 * KIB))),
        ),
        (
            "many fields named",
            says(format!(
                "max-age=60, private=\"{}\"",
                "a, ".repeat(20 * KIB)
            )),
        ),
        ("commas", says(format!("{}no-store", ",".repeat(64 * KIB)))),
    ] {
        is_never_reused(what, answer, 200).await;
    }
}

#[tokio::test]
async fn ten_thousand_names_in_vary_are_not_stored_rfc9111_4_1() {
    let names: Vec<String> = (0..10_000).map(|name| format!("f{name}")).collect();
    is_never_reused("names", fresh().header("Vary", &names.join(", ")), 200).await;
    let same = "accept, ".repeat(5_000);
    is_never_reused(
        "a star behind many",
        fresh().header("Vary", &format!("{same}*")),
        200,
    )
    .await;
    let lines = names
        .iter()
        .take(60)
        .fold(fresh(), |answer, name| answer.header("Vary", name));
    is_never_reused("one name a line", lines, 200).await;
}

#[tokio::test]
async fn ten_thousand_fields_are_refused_and_larder_goes_on() {
    for name in ["Set-Cookie", "ETag", "Age", "X-Any"] {
        let many = (0..10_000).fold(
            Answer::ok("x").header("Cache-Control", "no-store"),
            |answer, number| answer.header(name, &format!("\"{number}\"")),
        );
        is_never_reused(name, many, 502).await;
    }
}

#[tokio::test]
async fn thousands_of_tags_in_if_none_match_are_compared_or_refused_rfc9110_13_1_2() {
    let scene = scene(fresh().header("ETag", "\"mine\"")).await;
    assert_eq!(scene.client.get("/odd").await.status, 200);
    let tags = |count: usize| "\"x\", ".repeat(count);
    for (list, status) in [
        (format!("{}\"mine\"", tags(5_000)), 304),
        (tags(5_000), 200),
        (format!("{}\"mine\"", tags(10_000)), 431),
        (format!("\"{}", ",".repeat(20 * KIB)), 200),
        (format!("{}*", ",".repeat(20 * KIB)), 304),
    ] {
        let said = scene
            .client
            .get_with("/odd", &[("If-None-Match", &list)])
            .await;
        assert_eq!(said.status, status, "{} bytes", list.len());
    }
    assert_eq!(scene.app.count("/odd"), 1);
}

#[tokio::test]
async fn a_thousand_ranges_are_the_whole_rfc9110_14_2() {
    let scene = scene(Answer::public("0123456789")).await;
    assert_eq!(scene.client.get("/odd").await.status, 200);
    let many = |range: &str| format!("bytes={}", vec![range; 1_000].join(","));
    for range in [
        many("0-0"),
        many("0-"),
        many("-1"),
        many("99-"),
        format!("bytes={}", ",".repeat(8 * KIB)),
    ] {
        let said = scene.client.get_with("/odd", &[("Range", &range)]).await;
        assert_eq!((said.status, said.text().as_str()), (200, "0123456789"));
    }
    for (range, status, content) in [
        ("bytes=0-99999999999999999999999999", 206, "0123456789"),
        ("bytes=-99999999999999999999999999", 206, "0123456789"),
        ("bytes=99999999999999999999999999-", 416, ""),
        ("bytes=-0", 416, ""),
        ("bytes=5-4", 200, "0123456789"),
        ("bytes=--5", 200, "0123456789"),
    ] {
        let said = scene.client.get_with("/odd", &[("Range", range)]).await;
        assert_eq!(
            (said.status, said.text().as_str()),
            (status, content),
            "{range}"
        );
    }
}

#[tokio::test]
async fn broken_times_give_no_freshness_rfc9111_4_2() {
    let scene = Scene::begins().await;
    let huge = "9".repeat(30);
    for says in [
        "expires: 0".to_owned(),
        "expires: -1".to_owned(),
        "expires: tomorrow".to_owned(),
        "expires: Thu, 32 Dec 2099 00:00:00 GMT".to_owned(),
        "expires: Thu, 01 Jan 99999 00:00:00 GMT".to_owned(),
        "expires: {3600}\nexpires: {-3600}".to_owned(),
        "last-modified: long ago\ndate: yesterday".to_owned(),
        "cache-control: max-age=-1".to_owned(),
        "cache-control: max-age=1.5".to_owned(),
        "cache-control: max-age=1e9".to_owned(),
        "cache-control: max-age=60, max-age=3600".to_owned(),
        format!("cache-control: max-age=3600\nage: {huge}"),
        format!("cache-control: max-age={huge}\nage: {huge}"),
        "cache-control: max-age=3600\ndate: Thu, 01 Jan 1970 00:00:00 GMT".to_owned(),
    ] {
        assert!(!scene.reuses(&says, "").await, "{says}");
    }
    // The longest lifetime there is, and no arithmetic that wraps around: sixty-eight years and more.
    let endless = format!("cache-control: max-age={huge}");
    assert!(scene.reuses(&endless, "8760h").await);
    let path = scene.path();
    let said = scene.get(&path, &endless).await;
    assert!(said.header("cache-status").contains("stored"));
    let said = scene.get(&path, "").await;
    assert!(
        said.header("cache-status").contains("ttl=2147483648"),
        "{}",
        said.header("cache-status")
    );
}

#[tokio::test]
async fn directives_of_a_client_cannot_wrap_around_rfc9111_5_2_1() {
    let scene = Scene::begins().await;
    let huge = "9".repeat(30);
    for (asked, reused) in [
        (format!("max-age={huge}"), true),
        (format!("max-stale={huge}"), true),
        (format!("min-fresh={huge}"), false),
        ("max-age=-1".to_owned(), false),
        ("min-fresh=x".to_owned(), false),
        (format!("{}no-cache", ",".repeat(16 * KIB)), false),
    ] {
        let asked = format!("cache-control: {asked}");
        let reuses = scene
            .reuses_for("", "cache-control: max-age=60", "", &asked)
            .await;
        assert_eq!(reuses, reused, "{asked:.60}");
    }
}

#[tokio::test]
async fn cookies_in_several_fields_reach_the_app_as_one_rfc9113_8_2_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let two = "cookie: a=1\ncookie: b=2";
    scene
        .ask("GET", &path, two, "cache-control: no-store")
        .await;
    let seen = scene.app.last(&path);
    let cookies: Vec<&str> = (seen.headers.iter())
        .filter(|(name, _)| name.eq_ignore_ascii_case("cookie"))
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(cookies, ["a=1; b=2"]);
    let says = "cache-control: public, max-age=3600\nvary: cookie";
    assert!(scene.reuses_for(two, says, "", "cookie: a=1; b=2").await);
    assert!(!scene.reuses_for(two, says, "", "cookie: a=1, b=2").await);
}
