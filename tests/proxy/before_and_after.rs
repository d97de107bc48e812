//! What all this is for: the demo shop is as slow as the one it stands for was, and no longer.

use crate::support::*;
use std::time::{Duration, Instant};

/// ExoDrive's pages, with what they took before and may take after.
const PAGES: [(&str, Duration); 3] = [
    (
        "/api/cars/42/availability?from=2025-07-01&to=2025-07-08",
        Duration::from_millis(800),
    ),
    (
        "/api/fleet?location=berlin&page=1&sort=price",
        Duration::from_millis(1_200),
    ),
    ("/api/cars/42", Duration::from_millis(400)),
];
const AFTER: Duration = Duration::from_millis(50);
/// Hits, of which the middle one is looked at: others use this machine as well.
const HITS: usize = 21;

async fn timed(client: &Client, page: &str) -> (Response, Duration) {
    let began = Instant::now();
    let answer = client.get(page).await;
    (answer, began.elapsed())
}

#[tokio::test]
async fn the_shops_slow_pages_take_less_than_fifty_milliseconds_and_have_the_same_bytes() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shop = listener.local_addr().unwrap();
    let options = ::larder::demo::DemoOptions {
        listen: shop,
        speed: 1.0,
        ..Default::default()
    };
    tokio::spawn(::larder::demo::serve(
        listener,
        options,
        std::future::pending::<()>(),
    ));
    let redis = RedisServer::start().await;
    let app = App::says(|_| Answer::ok("not asked")).await;
    let larder = larder(&app)
        .upstream(Some(format!("http://{shop}")))
        .redis(&redis)
        .yaml("cache: { memory: 0B }\nroutes: [{ path: /api/*, ttl: 5m, override: true }]")
        .start()
        .await;
    larder.redis_is(true).await;
    let pages = PAGES.map(|(page, before)| {
        let (shop, visitor) = (Client::new(shop), larder.client());
        async move {
            // Both wait at once: the app's own answer, and larder's first.
            let ((own, slow), (first, _)) = tokio::join!(timed(&shop, page), timed(&visitor, page));
            assert!(slow >= before, "{page}: {slow:?}");
            assert_eq!(first.cache(), "MISS");
            assert!(own.body == first.body, "{page} has other bytes");
            eventually("it is stored", async || {
                (visitor.get(page).await.cache() == "HIT").then_some(())
            })
            .await;
            let mut hits = Vec::new();
            for _ in 0..HITS {
                let (hit, took) = timed(&visitor, page).await;
                assert!(hit.cache() == "HIT" && hit.body == own.body, "{page}");
                hits.push(took);
            }
            hits.sort_unstable();
            let after = hits[HITS / 2];
            println!("{page}: {slow:.0?} before, {after:.2?} after");
            assert!(after < AFTER, "{page}: {after:?}");
        }
    });
    let [one, two, three] = pages;
    tokio::join!(one, two, three);
}
