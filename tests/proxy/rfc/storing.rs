//! What may be stored (RFC 9111 §3).

use super::*;

const FRESH: &str = "cache-control: max-age=3600";
/// About who asks, how, or how often (RFC 6585).
const PERSONAL: [u16; 4] = [428, 429, 431, 511];

/// Every final status, most of them known to nobody, but for 206 and 304: those are about a part of
/// something, or about something stored.
fn statuses() -> impl Iterator<Item = u16> {
    (200..=599).filter(|status| !matches!(status, 206 | 304))
}

#[tokio::test]
async fn any_final_status_is_stored_with_explicit_freshness_rfc9111_3() {
    let scene = Scene::begins().await;
    for status in statuses().filter(|status| !PERSONAL.contains(status)) {
        let says = format!("status: {status}\n{FRESH}");
        assert!(scene.reuses(&says, "5s").await, "{status}");
        if status % 10 < 5 {
            let stale = format!("status: {status}\nexpires: {{-100}}\nlast-modified: {{-9999}}");
            assert!(!scene.reuses(&stale, "").await, "{status} stale");
        }
    }
}

#[tokio::test]
async fn what_is_about_who_asks_is_never_stored_rfc6585_3_to_6() {
    let scene = Scene::begins().await;
    for status in PERSONAL {
        for says in [
            FRESH,
            "cache-control: public, s-maxage=3600, must-understand",
        ] {
            let says = format!("status: {status}\n{says}");
            assert!(!scene.reuses(&says, "").await, "{says}");
        }
    }
}

#[tokio::test]
async fn what_no_request_can_select_is_not_stored_rfc9111_3() {
    let scene = Scene::begins().await;
    // A part that nobody asked for, and a 304 to no condition.
    for says in [
        "status: 206\ncontent-range: bytes 0-8/9",
        "status: 206",
        "status: 304\nbody:",
    ] {
        let path = scene.path();
        for count in [1, 2] {
            scene.get(&path, &format!("{says}\n{FRESH}")).await;
            assert_eq!(scene.app.count(&path), count, "{says}");
        }
    }
}

#[tokio::test]
async fn must_understand_keeps_only_known_statuses_and_outweighs_no_store_rfc9111_5_2_2_3() {
    let scene = Scene::begins().await;
    for (status, says, reused) in [
        (200, "max-age=3600, must-understand", true),
        (200, "max-age=3600, must-understand, no-store", true),
        (404, "no-store, must-understand, max-age=3600", true),
        (204, "Must-Understand, No-Store, max-age=3600", true),
        (503, "must-understand, no-store, s-maxage=3600", true),
        (200, "must-understand=x, no-store, max-age=3600", false),
        (
            200,
            "must-understand, no-store, private, max-age=3600",
            false,
        ),
        (200, "must-understand, no-store", false),
        (299, "max-age=3600, must-understand", false),
        (599, "max-age=3600, must-understand, no-store", false),
        (499, "must-understand, public, max-age=3600", false),
        (599, "max-age=3600", true),
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
        "cache-control: private=, max-age=3600",
        "cache-control: private=\"a b\", max-age=3600",
        "cache-control: private=\"a\", private, max-age=3600",
        "cache-control: no-store=1, max-age=3600",
        "cache-control: no-store=\"a\", max-age=3600",
        "cache-control: no-store =1, max-age=3600",
        "cache-control: foo='a, no-store', no-store, max-age=3600",
        "cache-control: ,,no-store,,\ncache-control: max-age=3600",
        "cache-control: private, max-age=3600, public, s-maxage=3600",
        "cache-control: private\nexpires: {3600}",
        "cache-control: private\nlast-modified: {-100000}",
        "cache-control: no-store\nlast-modified: {-100000}",
    ] {
        assert!(!scene.reuses(says, "").await, "{says}");
        assert!(
            !scene.reuses(&format!("{says}\netag: \"a\""), "").await,
            "{says} with ETag"
        );
    }
    // What is quoted is not a directive.
    for quoted in [
        "cache-control: ext=\"no-store, private, max-age=0\", max-age=3600",
        "cache-control: ext=\"a\\\", no-store, \", max-age=3600",
        "cache-control: no-store-x, x-no-store, nostore, private-x, max-age=3600",
    ] {
        assert!(scene.reuses(quoted, "").await, "{quoted}");
    }
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
async fn fields_are_named_in_any_spelling_and_need_not_be_there_rfc9111_5_2_2_4() {
    let scene = Scene::begins().await;
    for directive in [
        "no-cache=\"MINE\"",
        "private=\"mine\"",
        "private=mine",
        "Private=Mine",
        "no-cache=mine",
        "no-cache=\" \tmine ,, absent,\"",
        "private=\"absent\", private=\"mine\"",
        "no-cache=\"mine\", no-cache=\"absent\"",
        "private=\"mi\\ne\"",
    ] {
        let says = format!("cache-control: {directive}, max-age=3600\nmine: 1\nmine: 2\nours: 3");
        let path = scene.path();
        let first = scene.get(&path, &says).await;
        let second = scene.get(&path, &says).await;
        assert_eq!(scene.app.count(&path), 1, "{directive}");
        assert_eq!(
            (first.header("mine"), second.has("mine")),
            ("1, 2".into(), false),
            "{directive}"
        );
        assert_eq!(second.header("ours"), "3", "{directive}");
    }
    let path = scene.path();
    let says = "cache-control: max-age=3600, private=\"Set-Cookie\"\nset-cookie: a=b";
    assert!(scene.get(&path, says).await.has("set-cookie"));
    assert!(!scene.get(&path, says).await.has("set-cookie"));
    assert_eq!(scene.app.count(&path), 1);
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
        ("Public, max-age=3600", true),
        ("public=1, max-age=3600", false),
        ("public, no-store, max-age=3600", false),
        ("s-maxage=0, max-age=3600", false),
        ("s-maxage=x, max-age=3600", false),
        ("max-age=3600, foo=\"public\"", false),
        ("no-cache=\"a\", max-age=3600", false),
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
    for (says, reused) in [("", false), ("cache-control: public", true)] {
        let says = format!("{says}\nexpires: {{3600}}");
        assert_eq!(
            scene.reuses_for(asked, &says, "", asked).await,
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
