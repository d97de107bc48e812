//! What a POST was answered with may serve later GETs (RFC 9110 §9.3.3).

use super::*;

const OWN: &str = "cache-control: max-age=60\ncontent-location: ";

#[tokio::test]
async fn a_get_is_answered_with_what_a_post_enclosed_rfc9110_9_3_3() {
    let scene = Scene::begins().await;
    for query in ["", "?a=1"] {
        let plain = scene.path();
        let path = format!("{plain}{query}");
        let older = scene.get(&path, "cache-control: max-age=60").await;
        let posted = scene.ask("POST", &path, "", &format!("{OWN}{path}")).await;
        assert_eq!(posted.cache(), "BYPASS");
        let told = posted.header("cache-status");
        assert!(
            told.contains("fwd=method; fwd-status=200; stored; ttl=60"),
            "{told}"
        );
        scene.advance("10s").await;
        let got = scene.get(&path, "").await;
        assert_eq!(got.cache(), "HIT");
        assert_eq!(got.body, posted.body);
        assert_eq!(got.header("age"), "10");
        assert_ne!(got.body, older.body, "what was stored before is gone");
        // The next POST says nothing of the kind, and ends it.
        scene.ask("POST", &path, "", "").await;
        scene.get(&path, "").await;
        assert_eq!(scene.app.count(&plain), 4);
    }
}

#[tokio::test]
async fn a_post_is_never_answered_from_the_store_rfc9110_9_3_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    for _ in 0..2 {
        scene.ask("POST", &path, "", &format!("{OWN}{path}")).await;
    }
    assert_eq!(scene.app.count(&path), 2);
}

#[tokio::test]
async fn anything_less_than_that_serves_no_get_rfc9110_9_3_3() {
    let scene = Scene::begins().await;
    for (method, request, says) in [
        ("POST", "", "cache-control: max-age=60"),
        (
            "POST",
            "",
            "content-location: {own}\nlast-modified: {-9000}",
        ),
        (
            "POST",
            "",
            "cache-control: max-age=60\ncontent-location: /other",
        ),
        (
            "POST",
            "",
            "cache-control: max-age=60\ncontent-location: http://other{own}",
        ),
        (
            "POST",
            "",
            "cache-control: max-age=0\netag: \"a\"\ncontent-location: {own}",
        ),
        (
            "POST",
            "",
            "cache-control: max-age=60, private\ncontent-location: {own}",
        ),
        (
            "POST",
            "",
            "cache-control: max-age=60, no-store\ncontent-location: {own}",
        ),
        (
            "POST",
            "",
            "status: 201\ncache-control: max-age=60\ncontent-location: {own}",
        ),
        (
            "POST",
            "",
            "vary: *\ncache-control: max-age=60\ncontent-location: {own}",
        ),
        (
            "PUT",
            "",
            "cache-control: max-age=60\ncontent-location: {own}",
        ),
        (
            "POST",
            "authorization: x",
            "cache-control: max-age=60\ncontent-location: {own}",
        ),
        (
            "POST",
            "cookie: session=x",
            "cache-control: max-age=60\ncontent-location: {own}",
        ),
        (
            "POST",
            "cache-control: no-store",
            "cache-control: max-age=60\ncontent-location: {own}",
        ),
        // The app saw what a GET would not have brought it.
        (
            "POST",
            "x-forwarded-prefix: /evil",
            "cache-control: max-age=60\ncontent-location: {own}",
        ),
    ] {
        let path = scene.path();
        let says = says.replace("{own}", &path);
        let posted = scene.ask(method, &path, request, &says).await;
        assert!(!posted.header("cache-status").contains("stored"), "{says}");
        scene.get(&path, "cache-control: max-age=60").await;
        assert_eq!(scene.app.count(&path), 2, "{method} {request} {says}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_kept_rfc9111_3_3() {
    let scene = Scene::begins().await;
    let path = scene.path();
    for framing in ["cut", "cut-chunk"] {
        let says = format!("framing: {framing}|{OWN}{path}").replace('\n', "|");
        let says = [("Says", says.as_str())];
        let cut = scene.client.try_send("POST", &path, &says, "");
        assert!(cut.await.is_err(), "{framing}");
    }
    scene.get(&path, "").await;
    assert_eq!(scene.app.count(&path), 3);
    let path = scene.path();
    let says = format!("framing: chunked\n{OWN}{path}");
    scene.ask("POST", &path, "", &says).await;
    assert_eq!(scene.get(&path, "").await.cache(), "HIT");
}

#[tokio::test]
async fn what_was_purged_while_a_post_was_under_way_stays_purged_rfc9110_9_3_3() {
    let gate = Gate::closed();
    let door = gate.clone();
    let app = App::says(move |seen| match (&*seen.method, seen.path()) {
        ("POST", "/a") => Answer::public("posted")
            .header("Content-Location", "/a")
            .behind(&door),
        _ => Answer::public("got"),
    })
    .await;
    let scene = Scene::with(app).await;
    let post = scene.client.send("POST", "/a", &[], "");
    let meanwhile = async {
        eventually("the POST is at the app", async || {
            (scene.app.count("/a") == 1).then_some(())
        })
        .await;
        scene.larder.client().send("DELETE", "/a", &[], "").await;
        gate.open();
    };
    let (posted, ()) = tokio::join!(post, meanwhile);
    assert_eq!(posted.text(), "posted");
    assert_eq!(scene.client.get("/a").await.text(), "got");
}
