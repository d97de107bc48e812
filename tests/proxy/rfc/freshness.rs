//! How long a stored response is fresh, and how old it is (RFC 9111 §4.2).

use super::*;

/// Each is used until `fresh` has passed, and asked for again after `stale`.
async fn lasts(scene: &Scene, says: &str, fresh: &str, stale: &str) {
    assert!(
        scene.reuses(says, fresh).await,
        "{says} is fresh after {fresh}"
    );
    assert!(
        !scene.reuses(says, stale).await,
        "{says} is stale after {stale}"
    );
}

#[tokio::test]
async fn without_any_lifetime_nothing_is_reused_rfc9111_4_2() {
    let scene = Scene::begins().await;
    for says in ["", "cache-control: public", "x: y", "date: {0}"] {
        assert!(!scene.reuses(says, "").await, "{says}");
    }
}

#[tokio::test]
async fn s_maxage_outweighs_max_age_and_that_outweighs_expires_rfc9111_4_2_1() {
    let scene = Scene::begins().await;
    for says in [
        "cache-control: max-age=100",
        "cache-control: s-maxage=100",
        "cache-control: s-maxage=100, max-age=1",
        "cache-control: max-age=1000, s-maxage=100",
        "cache-control: max-age=1000\ncache-control: s-maxage=100",
        "cache-control: max-age=100\nexpires: {-1000}",
        "cache-control: max-age=100\nexpires: {1000}",
        "cache-control: max-age=100\nexpires: 0",
        "cache-control: s-maxage=100\nexpires: {-1000}",
        "expires: {1100}\ndate: {1000}",
        "cache-control: foo, max-age=100, bar=baz",
        "cache-control: foo=\"max-age=0\", max-age=100",
        "cache-control: MaX-aGe=100",
        "cache-control: max-age=0100",
        "cache-control: max-age=\"100\"",
        "cache-control: max-age=100, max-age=100",
        "cache-control:\t,max-age=100 ,, ,",
        "cache-control: max-age=100\ncache-control:",
        "cache-control: max-age=100\ncache-control: foo\ncache-control: bar=\"baz, max-age=0\"",
        "cache-control: foo=\"a\\\", max-age=0\", max-age=100",
        "cache-control: max-age=x, s-maxage=100",
        "cache-control: max-age=0, s-maxage=100\nexpires: 0",
        "cache-control: max-age=100, public=1, must-revalidate=1, x-max-age=0, max-age-x=0",
        "cache-control: max-age=100\npragma: no-cache",
        "cache-control: max-age=100\nexpires: {1000}\ndate: {0}\nlast-modified: {-100000}",
    ] {
        lasts(&scene, says, "98s", "101s").await;
    }
    lasts(&scene, "expires: {100}", "80s", "101s").await;
    lasts(&scene, "date: {0}\nexpires: {100}", "80s", "101s").await;
    lasts(
        &scene,
        "cache-control: public\nexpires: {100}",
        "80s",
        "101s",
    )
    .await;
    for says in [
        "cache-control:\nexpires: {100}",
        "cache-control: foo=\"bar\"\nexpires: {100}",
        "expires: {100}\nexpires: {100}",
        "expires: {100}\nlast-modified: {-100000}",
        // Pragma means nothing in a response (RFC 9111 §5.4).
        "expires: {100}\npragma: no-cache",
        "expires: {100}\npragma: foo",
    ] {
        lasts(&scene, says, "80s", "101s").await;
    }
}

#[tokio::test]
async fn a_lifetime_that_cannot_be_read_is_none_rfc9111_4_2_1() {
    let scene = Scene::begins().await;
    for says in [
        "cache-control: max-age=0",
        "cache-control: max-age=0\nexpires: {1000}",
        "cache-control: s-maxage=0, max-age=1000",
        "cache-control: max-age=-1000",
        "cache-control: max-age=1000.0",
        "cache-control: max-age=a1000",
        "cache-control: max-age=1000a",
        "cache-control: max-age='1000'",
        "cache-control: max-age=1000, max-age=0",
        "cache-control: max-age=0\ncache-control: max-age=1000",
        "cache-control: max-age=1000;foo=bar",
        "cache-control: max-age",
        "cache-control: max-age=",
        "cache-control: max-age =1000",
        "cache-control: max-age= 1000",
        "cache-control: max-age\t=1000",
        "cache-control: max-age:1000",
        "cache-control: max-age=+1000",
        "cache-control: max-age=-0",
        "cache-control: max-age=1e4",
        "cache-control: max-age=0x1000",
        "cache-control: max-age=1000; public",
        "cache-control: max-age=\"1000",
        "cache-control: max-age=\"\"",
        "cache-control: max-age=\"1000.0\"",
        "cache-control: \"max-age=1000\"",
        "cache-control: 'max-age=1000'",
        "cache-control: foo=max-age=1000",
        "cache-control: foo=\"max-age=1000\"",
        "cache-control: foo='a, max-age=0', max-age=1000",
        "cache-control: x-max-age=1000, max_age=1000, maxage=1000",
        "cache-control: s-maxage=x, max-age=1000",
        "cache-control: s-maxage=1000, s-maxage=0",
        "cache-control: s-maxage, max-age=1000",
        "cache-control: max-age=x\nexpires: {1000}",
        "cache-control: immutable",
        "cache-control: public, must-revalidate, no-transform",
    ] {
        assert!(!scene.reuses(says, "").await, "{says}");
    }
}

#[tokio::test]
async fn enormous_lifetimes_are_long_and_enormous_ages_are_old_rfc9111_1_2_2() {
    let scene = Scene::begins().await;
    for max_age in [
        "2147483647",
        "2147483648",
        "2147483649",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999",
        "10000000000000000000000000000000000000000",
    ] {
        for directive in ["max-age", "s-maxage"] {
            let says = format!("cache-control: {directive}={max_age}");
            assert!(scene.reuses(&says, "1h").await, "{says}");
        }
    }
    for age in [
        "2147483647",
        "2147483648",
        "2147483649",
        "4294967296",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999",
    ] {
        let says = format!("cache-control: max-age=3600\nage: {age}");
        assert!(!scene.reuses(&says, "").await, "{says}");
    }
}

#[tokio::test]
async fn an_expiry_date_is_read_in_three_formats_and_any_case_rfc9111_4_2() {
    let scene = Scene::begins().await;
    for good in [
        "Thu, 18 Aug 2050 02:01:18 GMT",
        "thu, 18 aug 2050 02:01:18 gmt",
        "THU, 18 AUG 2050 02:01:18 GMT",
        "Thursday, 18-Aug-50 02:01:18 GMT",
        "Thu Aug 18 02:01:18 2050",
        "Thu Aug  4 02:01:18 2050",
        "Sun, 21 Nov 2286 04:46:39 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        // The day of the week adds nothing to the date.
        "Mon, 18 Aug 2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:60 GMT",
        // Two digits are at most fifty years ahead (RFC 9110 §5.6.7).
        "Sunday, 18-Aug-69 02:01:18 GMT",
    ] {
        assert!(
            scene.reuses(&format!("expires: {good}"), "").await,
            "{good}"
        );
    }
    for bad in [
        "0",
        "-1",
        "tomorrow",
        "Thu, 18 Aug 2050 2:01:18 GMT",
        "Thu, 18 Aug 50 02:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18 AEST",
        "Thu, 18 Aug 2050 02:01:18 UTC",
        "Thu, 18 Aug 2050 02:01:18",
        "Thu, 18 Aug 2050 02:01:18 Z",
        "Thu, 18 Aug 2050 02:01:18 EST",
        "Thu, 18 Aug 2050 02:01:18 -0500",
        "Thu, 18 Aug 2050 02:01:18.000 GMT",
        "Thu, 18 Aug 2050 02:01 GMT",
        "Thursday, 18 Aug 2050 02:01:18 GMT",
        "\"Thu, 18 Aug 2050 02:01:18 GMT\"",
        "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
        "Thu Aug 18 02:01:18 2050 GMT",
        "Thu Aug 4 02:01:18 2050",
        "2050-08-18T02:01:18Z",
        "4102444800",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Thu, 18 Aug 2050 02:01:18 +0000",
        "Thu, 18-Aug-2050 02:01:18 GMT",
        "Thu 18 Aug 2050 02:01:18 GMT",
        "Thu,  18  Aug  2050  02:01:18  GMT",
        "Thu, 18 Aug 2050 02.01.18 GMT",
        "Thu, 32 Aug 2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 25:01:18 GMT",
        "Thu, 18 Aug 2050 02:01:18 GMT GMT",
        "Thu, 18 Ago 2050 02:01:18 GMT",
        "Thu, 01 Dec 1994 16:00:00 GMT",
    ] {
        assert!(!scene.reuses(&format!("expires: {bad}"), "").await, "{bad}");
    }
    for bad in [
        "expires: {1000}\nexpires: 0",
        "expires: {-1000}",
        "expires: {0}\ndate: {0}",
        "expires: {1000}\ndate: {2000}",
        "expires: {1000}\ndate: {1000}",
        "expires: {1000}\nexpires: {2000}",
        "expires:",
        "expires: {1000}\nexpires:",
    ] {
        assert!(!scene.reuses(bad, "").await, "{bad}");
    }
}

#[tokio::test]
async fn what_was_old_when_it_came_is_older_now_rfc9111_4_2_3() {
    let scene = Scene::begins().await;
    for says in [
        "cache-control: max-age=100\nage: 60",
        "cache-control: max-age=100\nage: 0060",
        "cache-control: max-age=100\nage: 60, 0",
        "cache-control: max-age=100\nage: 60, 6000",
        "cache-control: max-age=100\nage: 60\nage: 6000",
        "cache-control: s-maxage=100\nage: 60",
        "cache-control: max-age=100\nage: , 60",
        "cache-control: max-age=100\nage:\nage: 60",
        "cache-control: max-age=100\nage:\t60 ",
    ] {
        lasts(&scene, says, "39s", "41s").await;
    }
    lasts(
        &scene,
        "cache-control: max-age=100\ndate: {-60}",
        "30s",
        "41s",
    )
    .await;
    lasts(
        &scene,
        "cache-control: max-age=100\ndate: {-10}\nage: 60",
        "39s",
        "41s",
    )
    .await;
    lasts(&scene, "expires: {100}\nage: 60", "30s", "41s").await;
    // Whatever is no number says nothing (RFC 9111 §5.1).
    for age in [
        "-60", "60.0", "60a", "a60", "abc", "60;a=b", "", "a, 60", "+60", "1e3", "\"60\"",
        "-1, 60", "6 0",
    ] {
        lasts(
            &scene,
            &format!("cache-control: max-age=100\nage: {age}"),
            "99s",
            "101s",
        )
        .await;
    }
    for says in [
        "cache-control: max-age=100\nage: 100",
        "cache-control: max-age=100\ndate: {-200}",
        "expires: {100}\nage: 200",
        "expires: {-1000}\ndate: {-2000}",
        "cache-control: max-age=100\nage: 200, 0",
        "cache-control: max-age=100\nage: 200\nage: 0",
        "cache-control: max-age=100\ndate: {-200}\nage: x",
        "cache-control: max-age=100\ndate: {-200}\nage: 0",
        "cache-control: max-age=100\ndate: {1000}\nage: 200",
        "last-modified: {-1000}\nage: 200",
    ] {
        assert!(!scene.reuses(says, "").await, "{says}");
    }
}

#[tokio::test]
async fn a_date_in_the_future_or_none_at_all_ages_nothing_rfc9111_4_2_3() {
    let scene = Scene::begins().await;
    for says in [
        "cache-control: max-age=100\ndate: {5000}",
        "cache-control: max-age=100\ndate: foo",
        "cache-control: max-age=100",
    ] {
        lasts(&scene, says, "99s", "101s").await;
    }
}

#[tokio::test]
async fn the_time_that_the_app_took_counts_rfc9111_4_2_3() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| {
        Answer::ok("x")
            .header("Cache-Control", "max-age=100")
            .header("Age", "10")
            .behind(&held)
    })
    .await;
    let scene = Scene::with(app).await;
    let (first, ()) = tokio::join!(scene.client.get("/slow"), async {
        eventually("the app is asked", async || {
            (scene.app.count("/slow") > 0).then_some(())
        })
        .await;
        scene.advance("20s").await;
        gate.open();
    });
    assert_eq!(first.status, 200);
    assert_eq!(scene.client.get("/slow").await.header("age"), "30");
    scene.advance("70s").await;
    scene.client.get("/slow").await;
    assert_eq!(scene.app.count("/slow"), 2);
}

#[tokio::test]
async fn every_reuse_tells_its_age_and_keeps_the_date_rfc9111_5_1() {
    let scene = Scene::begins().await;
    for (says, age) in [
        ("cache-control: max-age=3600", 45),
        ("cache-control: max-age=3600\nage: 30", 75),
        ("cache-control: max-age=3600\nage: 30\nage: 7", 75),
        ("expires: {3600}", 45),
    ] {
        let path = scene.path();
        let says = format!("{says}\ndate: {{0}}");
        let first = scene.get(&path, &says).await;
        scene.advance("45s").await;
        let second = scene.get(&path, "").await;
        let told: u64 = second.header("age").parse().unwrap();
        assert!(
            (age..age + 40).contains(&told),
            "{told} instead of {age}: {says}"
        );
        assert_eq!(second.headers.get_all("age").iter().count(), 1);
        assert_eq!(second.header("date"), first.header("date"));
        assert_eq!(second.header("expires"), first.header("expires"));
        scene.advance("5s").await;
        let third: u64 = scene.get(&path, "").await.header("age").parse().unwrap();
        assert_eq!(third, told + 5);
    }
}

#[tokio::test]
async fn a_lifetime_is_guessed_for_certain_statuses_only_rfc9111_4_2_2() {
    let scene = Scene::begins().await;
    let modified = "last-modified: {-100000}";
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 451, 501] {
        let says = format!("status: {status}\n{modified}");
        assert!(scene.reuses(&says, "10s").await, "{status}");
    }
    for status in [
        201, 202, 302, 303, 307, 400, 403, 418, 500, 502, 503, 504, 599,
    ] {
        let says = format!("status: {status}\n{modified}");
        assert!(!scene.reuses(&says, "").await, "{status}");
        let public = format!("{says}\ncache-control: public");
        assert!(scene.reuses(&public, "10s").await, "{status} public");
    }
}

#[tokio::test]
async fn a_guess_is_a_tenth_and_never_beside_a_stated_lifetime_rfc9111_4_2_2() {
    let scene = Scene::begins().await;
    lasts(&scene, "last-modified: {-1000}", "90s", "120s").await;
    lasts(
        &scene,
        "last-modified: {-1000}\ncontent-disposition: attachment",
        "90s",
        "120s",
    )
    .await;
    for says in [
        "last-modified: {-100000}\ncache-control: must-revalidate",
        "last-modified: {-100000}\ncache-control: foo=bar",
        "last-modified: {-100000}\ncache-control:",
        "last-modified: {-100000}\ncache-control: public, immutable",
        "last-modified: Sunday, 06-Nov-94 08:49:37 GMT",
        "last-modified: Sun Nov  6 08:49:37 1994",
    ] {
        assert!(scene.reuses(says, "1h").await, "{says}");
    }
    // A query makes no difference (RFC 9111 §4.2.2 no longer says so).
    for (count, target) in (1..).zip(["/q?a=1", "/q?", "/q?a=1&b=%20;c"]) {
        scene.get(target, "last-modified: {-100000}").await;
        scene.get(target, "").await;
        assert_eq!(scene.app.count("/q"), count, "{target}");
    }
    for says in [
        "last-modified: {-100000}\ncache-control: max-age=0",
        "last-modified: {-100000}\nexpires: 0",
        "last-modified: {-100000}\ncache-control: no-cache",
        "last-modified: {-100000}\npragma: no-cache",
        "last-modified: {100000}",
        "last-modified: yesterday",
        "last-modified: 0",
        "last-modified: {-100000}\nlast-modified: {-200000}",
        "last-modified: {-100000}\ndate: {-200000}",
        "last-modified: {-100000}\ndate: {-100000}",
        "last-modified: {-100000}\ncache-control: max-age=x",
        "last-modified: {-100000}\ncache-control: s-maxage=0",
        "last-modified: {-100000}\ncache-control: no-store",
        "last-modified: {-100000}\nexpires: {-100}",
        "last-modified: {-100000}\nexpires: soon",
        "etag: \"a\"",
    ] {
        assert!(!scene.reuses(says, "").await, "{says}");
    }
}
