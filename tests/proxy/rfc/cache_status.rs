//! What larder tells of its part in an answer (RFC 9211).

use super::*;

const FRESH: &str = "cache-control: max-age=100\netag: \"a\"";

#[tokio::test]
async fn each_way_to_an_answer_is_told_apart_rfc9211_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let told = async |request: &str, says: &str| {
        scene
            .ask("GET", &path, request, says)
            .await
            .header("cache-status")
    };
    assert_eq!(
        told("", FRESH).await,
        "larder; fwd=uri-miss; fwd-status=200; stored; ttl=100; detail=cold"
    );
    scene.advance("40s").await;
    assert_eq!(told("", FRESH).await, "larder; hit; ttl=60; detail=memory");
    assert_eq!(
        told("cache-control: no-cache", &format!("status: 304\n{FRESH}")).await,
        "larder; fwd=request; fwd-status=304; stored; ttl=100; detail=not-modified"
    );
    scene.advance("120s").await;
    assert_eq!(
        told("cache-control: max-stale", FRESH).await,
        "larder; hit; ttl=-20; detail=expired"
    );
    assert_eq!(
        told("", &format!("status: 304\n{FRESH}")).await,
        "larder; fwd=stale; fwd-status=304; stored; ttl=100; detail=not-modified"
    );
    scene.advance("101s").await;
    assert_eq!(
        told("", FRESH).await,
        "larder; fwd=stale; fwd-status=200; stored; ttl=100; detail=expired"
    );
    let post = scene.ask("POST", &path, "", "status: 201").await;
    assert_eq!(
        post.header("cache-status"),
        "larder; fwd=method; fwd-status=201; detail=method"
    );
    assert_eq!(
        told("", "cache-control: no-store").await,
        "larder; fwd=uri-miss; fwd-status=200; detail=no-store"
    );
}

#[tokio::test]
async fn a_missing_variant_and_a_stand_in_say_so_rfc9211_2_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = "cache-control: max-age=100, stale-if-error=100\nvary: foo";
    scene.ask("GET", &path, "foo: 1", says).await;
    let other = scene.ask("GET", &path, "foo: 2", says).await;
    assert_eq!(
        other.header("cache-status"),
        "larder; fwd=vary-miss; fwd-status=200; stored; ttl=100; detail=vary"
    );
    scene.advance("110s").await;
    let stale = scene.ask("GET", &path, "foo: 1", "status: 503").await;
    assert_eq!(
        stale.header("cache-status"),
        "larder; fwd=stale; fwd-status=503; ttl=-10; detail=app-error"
    );
}

#[tokio::test]
async fn caches_nearer_to_the_app_stay_in_front_rfc9211_2() {
    let scene = Scene::begins().await;
    let path = scene.path();
    let says = format!("{FRESH}\ncache-status: inner; hit");
    for _ in 0..2 {
        let answer = scene.get(&path, &says).await;
        let members: Vec<_> = answer.headers.get_all("cache-status").iter().collect();
        assert_eq!(members.len(), 2);
        assert_eq!(members[0], "inner; hit");
        assert!(members[1].to_str().unwrap().starts_with("larder; "));
    }
}

#[tokio::test]
async fn what_larder_says_itself_has_no_cache_status_rfc9211_2() {
    let scene = Scene::begins().await;
    let answer = scene
        .ask("GET", "/x", "cache-control: only-if-cached", "")
        .await;
    assert_eq!((answer.status, answer.has("cache-status")), (504, false));
}
