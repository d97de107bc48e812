//! What a request asks of the store (RFC 9111 §5.2.1, §5.4).

use super::*;

const FRESH: &str = "cache-control: max-age=100";

#[tokio::test]
async fn request_directives_are_honoured_rfc9111_5_2_1() {
    let scene = Scene::begins().await;
    for (request, later, reused) in [
        ("cache-control: no-cache", "", false),
        ("cache-control: NO-CACHE", "", false),
        ("pragma: no-cache", "", false),
        ("pragma: foo", "", true),
        ("cache-control: foo", "", true),
        ("cache-control: foo\npragma: no-cache", "", true),
        ("cache-control: max-age=0", "", false),
        ("cache-control: max-age=10", "9s", true),
        ("cache-control: max-age=10", "11s", false),
        ("cache-control: max-age=1000", "101s", false),
        ("cache-control: min-fresh=50", "49s", true),
        ("cache-control: min-fresh=50", "51s", false),
        ("cache-control: min-fresh=200", "", false),
        ("cache-control: max-stale=20", "119s", true),
        ("cache-control: max-stale=20", "121s", false),
        ("cache-control: max-stale", "150s", true),
        ("cache-control: max-stale=20, max-age=50", "60s", false),
        ("cache-control: no-store", "", true),
        ("cache-control: only-if-cached", "", true),
        ("cache-control: no-transform", "", true),
    ] {
        assert_eq!(
            scene.reuses_for("", FRESH, later, request).await,
            reused,
            "{request} after {later}"
        );
    }
    let aged = "cache-control: max-age=100\nage: 50";
    assert!(
        !scene
            .reuses_for("", aged, "", "cache-control: max-age=40")
            .await
    );
    assert!(
        !scene
            .reuses_for("", aged, "", "cache-control: min-fresh=60")
            .await
    );
    assert!(
        scene
            .reuses_for("", aged, "60s", "cache-control: max-stale=20")
            .await
    );
}

#[tokio::test]
async fn max_stale_yields_to_the_apps_prohibitions_rfc9111_5_2_1_2() {
    let scene = Scene::begins().await;
    for forbidden in [
        "must-revalidate",
        "proxy-revalidate",
        "no-cache",
        "s-maxage=100",
    ] {
        let says = format!("cache-control: max-age=100, {forbidden}");
        assert!(
            !scene
                .reuses_for("", &says, "110s", "cache-control: max-stale=1000")
                .await,
            "{forbidden}"
        );
    }
}

#[tokio::test]
async fn a_stale_answer_that_a_client_takes_is_no_reason_to_ask_the_app_rfc9111_5_2_1_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    scene.get(&path, FRESH).await;
    scene.advance("110s").await;
    let stale = scene
        .ask("GET", &path, "cache-control: max-stale=20", FRESH)
        .await;
    assert_eq!(stale.header("age"), "110");
    // Whatever larder had sent would have come before this one, on the same connection.
    scene.get(&path, FRESH).await;
    assert_eq!(scene.app.count(&path), 2);
}

#[tokio::test]
async fn an_answer_to_no_store_is_not_kept_rfc9111_5_2_1_5() {
    let scene = Scene::begins().await;
    assert!(
        !scene
            .reuses_for("cache-control: no-store", FRESH, "", "")
            .await
    );
    assert!(
        scene
            .reuses_for("cache-control: no-cache", FRESH, "", "")
            .await
    );
}

#[tokio::test]
async fn only_if_cached_is_answered_by_504_where_nothing_is_rfc9111_5_2_1_7() {
    let scene = Scene::begins().await;
    for method in ["GET", "HEAD"] {
        let path = scene.path();
        let answer = scene
            .ask(method, &path, "cache-control: only-if-cached", FRESH)
            .await;
        assert_eq!(
            (answer.status, scene.app.count(&path)),
            (504, 0),
            "{method}"
        );
        scene.get(&path, FRESH).await;
        let answer = scene
            .ask(method, &path, "cache-control: only-if-cached", FRESH)
            .await;
        assert_eq!(answer.status, 200, "{method}");
        scene.advance("101s").await;
        let answer = scene
            .ask(method, &path, "cache-control: only-if-cached", FRESH)
            .await;
        assert_eq!(
            (answer.status, scene.app.count(&path)),
            (504, 1),
            "{method}"
        );
    }
}

#[tokio::test]
async fn no_cache_is_stored_and_confirmed_each_time_rfc9111_5_2_2_4() {
    let scene = Scene::begins().await;
    for says in [
        "cache-control: no-cache, max-age=3600",
        "cache-control: max-age=3600\ncache-control: No-Cache",
        "cache-control: max-age=0",
        "pragma: no-cache\nexpires: 0",
    ] {
        let path = scene.path();
        let first = scene.get(&path, &format!("{says}\netag: \"a\"")).await;
        for count in [2, 3] {
            let next = scene.get(&path, "status: 304\netag: \"a\"").await;
            assert_eq!((next.status, &next.body), (200, &first.body), "{says}");
            assert_eq!(scene.app.count(&path), count, "{says}");
            assert_eq!(scene.app.last(&path).header("if-none-match"), Some("\"a\""));
        }
        assert!(!scene.reuses(says, "").await, "{says} without validator");
    }
}

#[tokio::test]
async fn immutable_outlasts_a_reload_while_it_is_fresh_rfc8246_2() {
    let scene = Scene::begins().await;
    let says = "cache-control: max-age=100, immutable";
    assert!(
        scene
            .reuses_for("", says, "", "cache-control: max-age=0")
            .await
    );
    assert!(
        !scene
            .reuses_for("", says, "", "cache-control: no-cache")
            .await
    );
    assert!(!scene.reuses(says, "101s").await);
}

#[tokio::test]
async fn a_head_is_answered_from_what_a_get_stored_rfc9110_9_3_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let get = scene.get(&path, &format!("{FRESH}\nx: y")).await;
    let head = scene.ask("HEAD", &path, "", "").await;
    assert_eq!(
        (head.status, head.body.len(), scene.app.count(&path)),
        (200, 0, 1)
    );
    assert_eq!(head.header("content-length"), get.body.len().to_string());
    assert_eq!(head.header("x"), "y");
    assert_eq!(head.header("age"), "0");
}

#[tokio::test]
async fn a_fetch_that_began_before_is_no_answer_to_no_cache_rfc9111_5_2_1_4() {
    for request in ["no-cache", "max-age=0"] {
        let gate = Gate::closed();
        let held = gate.clone();
        let number = AtomicUsize::new(0);
        let app = App::says(move |_| match number.fetch_add(1, Ordering::Relaxed) {
            0 => Answer::public("before").behind(&held),
            _ => Answer::public("after"),
        })
        .await;
        let scene = Scene::with(app).await;
        let (other, third) = (scene.larder.client(), scene.larder.client());
        let (before, ()) = tokio::join!(other.get("/x"), async {
            eventually("the app is asked", async || {
                (scene.app.count("/x") > 0).then_some(())
            })
            .await;
            // It does not wait for the other's answer either.
            let fields = [("Cache-Control", request)];
            let after = scene.client.get_with("/x", &fields).await;
            assert_eq!(after.text(), "after", "{request}");
            gate.open();
        });
        assert_eq!(before.text(), "before");
        assert_eq!(third.get("/x").await.cache(), "HIT");
        assert_eq!(scene.app.count("/x"), 2);
    }
}

#[tokio::test]
async fn who_has_the_last_byte_finds_it_stored_rfc9111_3() {
    let scene = Scene::begins().await;
    for says in [
        "",
        "body:",
        "framing: chunked",
        "framing: chunked\nbody:",
        "status: 204",
        "status: 301\nlocation: /a\nbody:",
        "status: 404",
    ] {
        for _ in 0..20 {
            let path = scene.path();
            scene.get(&path, &format!("{FRESH}\n{says}")).await;
            scene.get(&path, "").await;
            assert_eq!(scene.app.count(&path), 1, "{says}");
        }
    }
}

#[tokio::test]
async fn directives_of_a_request_are_read_from_all_its_lines_rfc9111_5_2() {
    let scene = Scene::begins().await;
    for (request, later, reused) in [
        (
            "cache-control: max-age=1000\ncache-control: no-cache",
            "",
            false,
        ),
        ("cache-control: max-age=\"0\"", "", false),
        ("cache-control: max-age=0.5", "", false),
        ("cache-control: max-age=-1", "", false),
        ("cache-control: max-age=1000, max-age=5", "10s", false),
        ("cache-control: MAX-AGE=1000", "10s", true),
        ("cache-control: , ,max-age=1000 ,", "10s", true),
        ("cache-control: max-stale=x", "110s", false),
        (
            "cache-control: max-stale=99999999999999999999",
            "110s",
            true,
        ),
        ("cache-control: max-stale, min-fresh=1", "110s", false),
        ("cache-control: min-fresh=99999999999999999999", "", false),
        ("cache-control: no-cache=foo", "", false),
        ("cache-control: xno-cache, no-cached", "", true),
        ("cache-control: foo=\"no-cache\"", "", true),
        (
            "cache-control: immutable, must-revalidate, public",
            "",
            true,
        ),
        ("pragma: foo, NO-CACHE", "", false),
        ("pragma: no-cache=1", "", true),
    ] {
        assert_eq!(
            scene.reuses_for("", FRESH, later, request).await,
            reused,
            "{request} after {later}"
        );
    }
}

#[tokio::test]
async fn another_target_is_another_resource_rfc9111_4() {
    let scene = Scene::begins().await;
    for (one, other, same) in [
        ("?a=1", "?a=2", false),
        ("?a=1", "?A=1", false),
        ("?a=1", "", false),
        ("?a", "?a=", false),
        ("?a=1&a=2", "?a=2&a=1", false),
        ("?a=%2f", "?a=%2F", true),
        ("?a=%7e", "?a=~", true),
        ("?a=b%20c", "?a=b+c", false),
        ("?a=b%26c", "?a=b&c", false),
        ("", "/", false),
    ] {
        let path = scene.path();
        let (one, other) = (format!("{path}{one}"), format!("{path}{other}"));
        let first = scene.get(&one, FRESH).await;
        let second = scene.get(&other, FRESH).await;
        assert_eq!(first.body == second.body, same, "{one} {other}");
    }
    // One target in two forms, one host in two spellings (RFC 9112 §3.2.2, RFC 9110 §4.2.3).
    let path = scene.path();
    let first = scene.get(&path, FRESH).await;
    let port = scene.larder.address.port();
    for scheme in ["http", "HTTP"] {
        let request = format!(
            "GET {scheme}://127.0.0.1:{port}{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        );
        let answer = scene.client.raw(request.as_bytes()).await;
        assert!(answer.ends_with(&first.text()), "{request}{answer}");
    }
    let named = scene.path();
    for host in ["shop.test:8080", "SHOP.test:8080", "shop.test.:08080"] {
        let says = FRESH.replace('\n', "|");
        scene
            .client
            .get_with(&named, &[("Host", host), ("Says", &says)])
            .await;
    }
    assert_eq!(scene.app.count(&named), 1);
}

#[tokio::test]
async fn the_most_recent_answer_is_used_whichever_came_in_last_rfc9111_4() {
    let gate = Gate::closed();
    let held = gate.clone();
    let number = AtomicUsize::new(0);
    let app = App::says(move |seen| {
        let dated = |text, name| Answer::public(text).header("Date", seen.header(name).unwrap());
        match number.fetch_add(1, Ordering::Relaxed) {
            0 => dated("before", "Dated").behind(&held),
            _ => dated("after", "Dated"),
        }
    })
    .await;
    let scene = Scene::with(app).await;
    let (other, third) = (scene.larder.client(), scene.larder.client());
    let (early, late) = (scene.date(-9), scene.date(-1));
    let before = [("Dated", early.as_str())];
    let (before, ()) = tokio::join!(other.get_with("/x", &before), async {
        eventually("the app is asked", async || {
            (scene.app.count("/x") > 0).then_some(())
        })
        .await;
        let after = [("Dated", late.as_str()), ("Cache-Control", "no-cache")];
        assert_eq!(scene.client.get_with("/x", &after).await.text(), "after");
        gate.open();
    });
    assert_eq!(before.text(), "before");
    assert_eq!(third.get("/x").await.text(), "after");
    assert_eq!(scene.app.count("/x"), 2);
}
