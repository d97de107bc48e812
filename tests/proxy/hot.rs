//! What is asked for most, and what that is good for.

use crate::support::*;
use serde_json::json;

#[tokio::test]
async fn hot_keys_are_named_with_their_rate_hottest_first_and_forgotten() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app)
        .yaml("routes:\n  - { name: cars, path: /cars/*, ttl: 1h }\n")
        .manual_clock()
        .start()
        .await;
    let host = &[("Host", "shop.test")];
    for _ in 0..30 {
        larder.get_with("/cars/1?b=2&a=1", host).await;
    }
    for _ in 0..10 {
        larder.get_with("/cars/2", host).await;
    }
    let hot = larder.admin().get("/v1/hot").await.json();
    let of = |index: usize, member: &str| hot["keys"][index][member].clone();
    assert_eq!(of(0, "url"), json!("shop.test/cars/1?a=1&b=2"), "{hot}");
    assert_eq!(of(1, "url"), json!("shop.test/cars/2"), "{hot}");
    assert_eq!(
        (of(0, "route"), of(0, "personal")),
        (json!("cars"), json!(false))
    );
    let rate = |index| of(index, "per_minute").as_f64().unwrap();
    assert!(rate(0) > 2.0 * rate(1) && rate(1) > 0.0, "{hot}");
    larder.advance("10m").await;
    let hot = larder.admin().get("/v1/hot").await.json();
    assert_eq!(hot["keys"], json!([]));
}
