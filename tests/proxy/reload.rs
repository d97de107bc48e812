//! SIGHUP and a changed file: a good configuration is taken at once, a broken one leaves the old.

use crate::support::*;

const ROUTES: &str = "routes: [{ name: one, path: /one, ttl: 5m }]\nlog: { level: info }";

#[tokio::test]
async fn a_good_file_is_taken_without_a_lost_request_and_entries_stay() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    larder.get("/one").await;
    assert_ne!(larder.get("/two").await.cache(), "HIT");
    larder.configure(
        "path: /one, ttl: 5m }",
        "path: /one, ttl: 5m }, { name: two, path: /two, ttl: 5m }",
    );
    larder.signal("HUP");
    eventually("the new route caches", async || {
        (larder.get("/two").await.cache() == "HIT").then_some(())
    })
    .await;
    assert_eq!(
        larder.get("/one").await.cache(),
        "HIT",
        "what was stored stays"
    );
    assert!(
        larder
            .metrics()
            .await
            .contains("larder_config_last_reload_successful 1")
    );
}

#[tokio::test]
async fn a_broken_file_keeps_the_old_configuration_and_says_where_it_is_broken() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    larder.get("/one").await;
    larder.configure("ttl: 5m", "tll: 5m");
    larder.signal("HUP");
    larder.says("tll").await;
    eventually("the metric tells", async || {
        larder
            .metrics()
            .await
            .contains("larder_config_last_reload_successful 0")
            .then_some(())
    })
    .await;
    assert_eq!(larder.get("/one").await.cache(), "HIT");
    larder.configure("tll: 5m", "ttl: 5m");
    larder.signal("HUP");
    eventually("it is well again", async || {
        larder
            .metrics()
            .await
            .contains("larder_config_last_reload_successful 1")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_file_is_taken_without_a_signal() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    larder.configure("path: /one", "path: /other");
    eventually("the new route caches", async || {
        (larder.get("/other").await.cache() == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn reloads_under_load_lose_nothing() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app).yaml(ROUTES).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = larder.client();
        clients.spawn(async move {
            for n in 0..100 {
                let path = if n % 2 == 0 { "/one" } else { "/pass" };
                client
                    .try_send("GET", path, &[], "")
                    .await
                    .map(|answer| assert_eq!(answer.status, 200))
                    .unwrap();
            }
        });
    }
    for n in 0..10 {
        let (old, new) = if n % 2 == 0 {
            ("ttl: 5m", "ttl: 6m")
        } else {
            ("ttl: 6m", "ttl: 5m")
        };
        larder.configure(old, new);
        larder.signal("HUP");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test]
async fn the_grace_and_the_log_level_are_those_of_the_file_as_it_is_now() {
    let never = Gate::closed();
    let app = App::says(move |_| Answer::ok("x").behind(&never)).await;
    let mut larder = larder(&app)
        .yaml("shutdown: { delay: 0s, grace: 5m }\nlog: { level: error }")
        .start_unready()
        .await;
    let client = larder.client();
    let asked = tokio::spawn(async move { client.try_send("GET", "/", &[], "").await });
    eventually("it is asked", async || (app.total() == 1).then_some(())).await;
    larder.configure("level: error", "level: info");
    larder.configure("grace: 5m", "grace: 1s");
    larder.signal("HUP");
    larder.says("the configuration was reloaded").await;
    larder.signal("TERM");
    larder.exit().await;
    let _ = asked.await.unwrap();
}
