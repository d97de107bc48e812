//! Stale answers, and who may have them (RFC 9111 §4.2.4, RFC 5861).

use super::*;

#[tokio::test]
async fn what_is_stale_is_not_served_rfc9111_4_2_4() {
    let scene = Scene::begins().await;
    for says in [
        "max-age=100",
        "s-maxage=100",
        "max-age=100, must-revalidate",
        "max-age=100, immutable",
    ] {
        assert!(
            !scene
                .reuses(&format!("cache-control: {says}"), "101s")
                .await,
            "{says}"
        );
    }
}

#[tokio::test]
async fn within_its_window_it_is_served_while_it_is_renewed_rfc5861_3() {
    let scene = Scene::begins().await;
    for says in [
        "max-age=100, stale-while-revalidate=60",
        "stale-while-revalidate=60, max-age=100",
        "s-maxage=100, stale-while-revalidate=60",
    ] {
        let says = format!("cache-control: {says}");
        let path = scene.path();
        let old = scene.get(&path, &says).await;
        scene.advance("150s").await;
        let stale = scene.get(&path, &says).await;
        assert_eq!(
            (&stale.body, stale.header("age").as_str()),
            (&old.body, "150"),
            "{says}"
        );
        let new = eventually("it is renewed", async || {
            let answer = scene.get(&path, &says).await;
            (answer.body != old.body).then_some(answer)
        })
        .await;
        assert_eq!(
            (new.cache().as_str(), scene.app.count(&path)),
            ("HIT", 2),
            "{says}"
        );
        scene.advance("161s").await;
        let late = scene.get(&path, &says).await;
        assert_ne!(late.body, new.body, "{says} after its window");
    }
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_answer_rfc5861_3() {
    let scene = Scene::begins().await;
    for failure in [
        "status: 503",
        "status: 500\ncache-control: max-age=60",
        "framing: hang-up",
    ] {
        let path = scene.path();
        let old = scene
            .get(
                &path,
                "cache-control: max-age=100, stale-while-revalidate=1000",
            )
            .await;
        scene.advance("150s").await;
        eventually("the app is asked again and again", async || {
            assert_eq!(scene.get(&path, failure).await.body, old.body, "{failure}");
            (scene.app.count(&path) > 3).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_failing_app_is_stood_in_for_within_the_window_rfc5861_4() {
    let scene = Scene::begins().await;
    for failure in [
        "status: 500",
        "status: 502",
        "status: 503",
        "status: 504",
        "status: 503\ncache-control: max-age=60",
        "framing: hang-up",
    ] {
        let path = scene.path();
        let old = scene
            .get(
                &path,
                "cache-control: max-age=100, stale-if-error=60\netag: \"a\"",
            )
            .await;
        scene.advance("150s").await;
        for _ in 0..2 {
            let stale = scene.get(&path, failure).await;
            assert_eq!((stale.status, &stale.body), (200, &old.body), "{failure}");
            assert_eq!(stale.header("age"), "150");
        }
        scene.advance("11s").await;
        assert_ne!(
            scene.get(&path, failure).await.status,
            200,
            "{failure} after the window"
        );
    }
    for other in ["status: 404", "status: 429", "status: 501"] {
        let path = scene.path();
        scene
            .get(&path, "cache-control: max-age=100, stale-if-error=60")
            .await;
        scene.advance("150s").await;
        assert_ne!(
            scene.get(&path, other).await.status,
            200,
            "{other} is an answer"
        );
    }
}

#[tokio::test]
async fn a_client_may_ask_for_it_rfc5861_4() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let old = scene.get(&path, "cache-control: max-age=100").await;
    scene.advance("120s").await;
    let request = "cache-control: stale-if-error=30";
    let stale = scene.ask("GET", &path, request, "status: 503").await;
    assert_eq!((stale.status, stale.body), (200, old.body));
    assert_eq!(scene.get(&path, "status: 503").await.status, 503);
}

#[tokio::test]
async fn the_apps_prohibition_outlasts_its_failure_rfc9111_5_2_2_2() {
    let scene = Scene::begins().await;
    for forbidden in [
        "must-revalidate",
        "proxy-revalidate",
        "no-cache",
        "s-maxage=100",
        "must-revalidate, stale-if-error=1000, stale-while-revalidate=1000",
    ] {
        for request in ["", "cache-control: max-stale=1000, stale-if-error=1000"] {
            let path = scene.path();
            scene
                .get(
                    &path,
                    &format!("cache-control: max-age=100, {forbidden}\netag: \"a\""),
                )
                .await;
            scene.advance("101s").await;
            let failed = scene.ask("GET", &path, request, "status: 503").await;
            assert_eq!(failed.status, 503, "{forbidden}");
            // Cut off from the app, the cache says that it is (RFC 9111 §4.2.4).
            let cut_off = scene.ask("GET", &path, request, "framing: hang-up").await;
            assert_eq!(cut_off.status, 504, "{forbidden}");
        }
    }
}

#[tokio::test]
async fn an_app_that_is_gone_is_stood_in_for_only_with_permission_rfc9111_4_2_4() {
    let scene = Scene::begins().await;
    let (allowed, bare, never) = (scene.path(), scene.path(), scene.path());
    scene
        .get(&allowed, "cache-control: max-age=100, stale-if-error=1000")
        .await;
    scene.get(&bare, "cache-control: max-age=100").await;
    scene.advance("101s").await;
    scene.app.down().await;
    assert_eq!(scene.get(&allowed, "").await.status, 200);
    assert_eq!(scene.get(&bare, "").await.status, 504);
    assert_eq!(scene.get(&never, "").await.status, 502);
}

#[tokio::test]
async fn who_names_an_age_does_not_want_what_is_stale_rfc9111_5_2_1_1() {
    let scene = Scene::begins().await;
    let says = "cache-control: max-age=100, stale-while-revalidate=1000";
    for (request, stale) in [
        ("cache-control: max-age=1000", false),
        ("cache-control: min-fresh=1", false),
        ("cache-control: no-cache", false),
        ("cache-control: max-age=1000, max-stale=100", true),
        ("cache-control: max-stale=1", true),
        ("cache-control: only-if-cached", true),
    ] {
        let path = scene.path();
        let old = scene.get(&path, says).await;
        scene.advance("150s").await;
        let answer = scene.ask("GET", &path, request, says).await;
        assert_eq!(answer.body == old.body, stale, "{request}");
    }
}

#[tokio::test]
async fn a_client_cannot_ask_for_what_the_app_forbids_rfc9111_5_2_2_2() {
    let scene = Scene::begins().await;
    for forbids in ["must-revalidate", "proxy-revalidate", "s-maxage=100"] {
        let path = scene.path();
        let says = format!("cache-control: max-age=100, {forbids}");
        scene.get(&path, &says).await;
        scene.advance("101s").await;
        for request in [
            "stale-if-error=1000",
            "max-stale",
            "only-if-cached, max-stale",
        ] {
            let request = format!("cache-control: {request}");
            let answer = scene.ask("GET", &path, &request, "framing: hang-up").await;
            assert_eq!(answer.status, 504, "{forbids} {request}");
        }
    }
}
