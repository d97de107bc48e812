//! What may be stored (RFC 9111 §3).

use super::*;

const FRESH: &str = "cache-control: max-age=3600";
/// The statuses tried; 599 is known to nobody.
const STATUSES: [u16; 22] = [
    200, 201, 202, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 404, 410, 418, 499, 500, 502,
    503, 504, 599,
];

#[tokio::test]
async fn any_final_status_is_stored_with_explicit_freshness_rfc9111_3() {
    let scene = Scene::begins().await;
    for status in STATUSES {
        let says = format!("status: {status}\n{FRESH}");
        assert!(scene.reuses(&says, "5s").await, "{status}");
        let stale = format!("status: {status}\nexpires: {{-100}}\nlast-modified: {{-9999}}");
        assert!(!scene.reuses(&stale, "").await, "{status} stale");
    }
}

#[tokio::test]
async fn must_understand_keeps_only_known_statuses_and_outweighs_no_store_rfc9111_5_2_2_3() {
    let scene = Scene::begins().await;
    for (status, says, reused) in [
        (200, "max-age=3600, must-understand", true),
        (200, "max-age=3600, must-understand, no-store", true),
        (404, "no-store, must-understand, max-age=3600", true),
        (299, "max-age=3600, must-understand", false),
        (599, "max-age=3600, must-understand, no-store", false),
    ] {
        let says = format!("status: {status}\ncache-control: {says}");
        assert_eq!(scene.reuses(&says, "").await, reused, "{says}");
    }
}

#[tokio::test]
async fn no_store_and_private_keep_out_of_the_store_rfc9111_5_2_2() {
    let scene = Scene::begins().await;
    for says in [
        "cache-control: no-store, max-age=3600",
        "cache-control: max-age=3600\ncache-control: no-store",
        "cache-control: No-StOrE\nexpires: {3600}",
        "cache-control: private, max-age=3600",
        "cache-control: max-age=3600, PRIVATE",
        "cache-control: max-age=3600, ext=\"unclosed, no-store",
        "cache-control: private=\"\", max-age=3600",
    ] {
        assert!(!scene.reuses(says, "").await, "{says}");
        assert!(
            !scene.reuses(&format!("{says}\netag: \"a\""), "").await,
            "{says} with ETag"
        );
    }
    // What is quoted is not a directive.
    let quoted = "cache-control: ext=\"no-store, private, max-age=0\", max-age=3600";
    assert!(scene.reuses(quoted, "").await);
}

#[tokio::test]
async fn a_new_answer_that_says_no_store_leaves_nothing_of_itself_rfc9111_5_2_2_5() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let old = scene
        .get(&path, "cache-control: max-age=60\netag: \"a\"")
        .await;
    scene.advance("61s").await;
    let new = scene
        .get(&path, "cache-control: no-store, max-age=60\netag: \"b\"")
        .await;
    assert_ne!(old.body, new.body);
    let last = scene.get(&path, FRESH).await;
    assert!(
        last.body != old.body && last.body != new.body,
        "{}",
        last.text()
    );
}

#[tokio::test]
async fn fields_named_by_private_and_no_cache_are_not_reused_rfc9111_5_2_2_7() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = "cache-control: max-age=3600, private=\"mine, x-two\", no-cache=\"asked\"\nmine: 1\nx-two: 2\nasked: 3\nours: 4";
    let first = scene.get(&path, says).await;
    assert_eq!(first.header("mine"), "1");
    let second = scene.get(&path, says).await;
    assert_eq!(first.body, second.body);
    for gone in ["mine", "x-two", "asked"] {
        assert!(!second.has(gone), "{gone}");
    }
    assert_eq!(second.header("ours"), "4");
}

#[tokio::test]
async fn an_answer_to_authorization_is_reused_only_on_the_apps_word_rfc9111_3_5() {
    let scene = Scene::begins().await;
    let asked = "authorization: Bearer x";
    for (says, reused) in [
        ("max-age=3600", false),
        ("public, max-age=3600", true),
        ("s-maxage=3600", true),
        ("must-revalidate, max-age=3600", true),
        ("proxy-revalidate, max-age=3600", false),
        ("private, max-age=3600", false),
    ] {
        let says = format!("cache-control: {says}");
        assert_eq!(
            scene.reuses_for(asked, &says, "", asked).await,
            reused,
            "{says}"
        );
        assert_eq!(
            scene.reuses_for(asked, &says, "", "").await,
            reused,
            "{says}"
        );
    }
    // What was stored for nobody in particular may answer anybody.
    assert!(scene.reuses_for("", FRESH, "", asked).await);
}

#[tokio::test]
async fn cookies_do_not_stand_in_the_way_of_explicit_freshness_rfc9111_7_3() {
    let scene = Scene::begins().await;
    assert!(
        scene
            .reuses_for("cookie: a=b", FRESH, "", "cookie: a=b")
            .await
    );
    let path = scene.path();
    let says = format!("{FRESH}\nset-cookie: a=b\nset-cookie: c=d");
    scene.get(&path, &says).await;
    let stored = scene.get(&path, "").await;
    let cookies: Vec<_> = stored.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=b", "c=d"]);
}

#[tokio::test]
async fn only_what_came_whole_is_stored_rfc9111_3_3() {
    let scene = Scene::begins().await;
    for framing in ["chunked", "1.0"] {
        let says = format!("framing: {framing}\n{FRESH}\ncontent-type: text/plain");
        assert!(scene.reuses(&says, "").await, "{framing}");
    }
    assert!(
        scene.reuses(&format!("body: \n{FRESH}"), "").await,
        "no content"
    );
    // Whose end only the connection's end marks may have been cut.
    assert!(!scene.reuses(&format!("framing: close\n{FRESH}"), "").await);
    for framing in ["cut", "cut-chunk"] {
        let path = scene.path();
        let says = format!("framing: {framing}\n{FRESH}").replace('\n', "|");
        let broken = scene
            .larder
            .client()
            .try_send("GET", &path, &[("Says", says.as_str())], "")
            .await;
        assert!(broken.is_err(), "{framing}");
        scene.get(&path, FRESH).await;
        assert_eq!(scene.app.count(&path), 2, "{framing}");
    }
}

#[tokio::test]
async fn only_get_fills_the_store_rfc9111_3() {
    let scene = Scene::begins().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "FOO"] {
        let path = scene.path();
        scene.ask(method, &path, "", FRESH).await;
        scene.get(&path, FRESH).await;
        assert_eq!(scene.app.count(&path), 2, "{method}");
        if method != "HEAD" {
            scene.ask(method, &path, "", FRESH).await;
            assert_eq!(
                scene.app.count(&path),
                3,
                "{method} answered from the store"
            );
        }
    }
}

#[tokio::test]
async fn a_get_with_content_neither_fills_the_store_nor_is_answered_by_it_rfc9110_9_3_1() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene.get(&path, FRESH).await;
    for count in [2, 3] {
        scene
            .client
            .send("GET", &path, &[("Says", FRESH)], "content")
            .await;
        assert_eq!(scene.app.count(&path), count);
    }
}

#[tokio::test]
async fn interim_answers_leave_nothing_behind_rfc9110_15_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = format!("framing: interim\n{FRESH}");
    let first = scene.get(&path, &says).await;
    let second = scene.get(&path, &says).await;
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body, second.body);
    for answer in [first, second] {
        assert!(
            !answer.has("x-interim") && !answer.has("link"),
            "{:?}",
            answer.headers
        );
    }
    // What an interim answer says of caching is nothing.
    assert!(!scene.reuses("framing: interim\nx: y", "").await);
}

#[tokio::test]
async fn what_is_excessive_falls_to_the_safe_side() {
    let scene = Scene::begins().await;
    let long = "a".repeat(20_000);
    let names: Vec<_> = (0..2_000).map(|n| format!("f{n}")).collect();
    for says in [
        format!("{FRESH}\nvary: {}", names.join(",")),
        format!(
            "cache-control: max-age=3600, {}",
            "private=\"a\",".repeat(1_500)
        ),
        format!("cache-control: max-age=\"{long}\""),
        format!("expires: {long}"),
    ] {
        assert!(!scene.reuses(&says, "").await, "{}", &says[..60]);
    }
    assert!(
        scene
            .reuses(&format!("{FRESH}, {long}=\"{}\"", "b".repeat(5_000)), "")
            .await
    );
}
