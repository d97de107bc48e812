//! A cache that has suddenly nothing: what the app has to bear then.

use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const PAGES: usize = 400;

/// Clients that ask for pages of their own choice as fast as they get them, wherever they are sent.
struct Crowd {
    ended: Arc<AtomicBool>,
    clients: JoinSet<Vec<u16>>,
}

impl Crowd {
    fn at(larder: &Larder, clients: usize) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for number in 0..clients {
            let (client, ended) = (larder.client(), ended.clone());
            set.spawn(async move {
                let mut statuses = Vec::new();
                let mut page = number * 31;
                while !ended.load(Ordering::Relaxed) {
                    page = (page * 17 + 7) % PAGES;
                    match client.try_send("GET", &format!("/p/{page}"), &[], "").await {
                        Ok(answer) => statuses.push(answer.status),
                        // It was killed.
                        Err(_) => return statuses,
                    }
                }
                statuses
            });
        }
        Self {
            ended,
            clients: set,
        }
    }

    /// How many requests were answered; each must have been with 200.
    async fn end(mut self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        let mut answered = 0;
        while let Some(statuses) = self.clients.join_next().await {
            let statuses = statuses.unwrap();
            let bad = statuses.iter().find(|status| **status != 200);
            assert_eq!(bad, None, "after {answered} answers");
            answered += statuses.len();
        }
        answered
    }
}

async fn slow_app() -> App {
    App::says(|seen| Answer::ok(seen.target.clone()).after(Duration::from_millis(20))).await
}

#[tokio::test]
async fn a_restart_of_everything_under_traffic_keeps_the_app_below_its_bound() {
    let app = slow_app().await;
    let setup = |redis: &RedisServer| {
        larder(&app)
            .redis(redis)
            .yaml(&format!(
                "upstream: {{ url: \"{}\", max_in_flight: 12 }}",
                app.url()
            ))
            .yaml("routes: [{ path: /p/*, ttl: 1h }]")
    };
    let redis = RedisServer::start().await;
    let before = setup(&redis).start().await;
    before.redis_is(true).await;
    let crowd = Crowd::at(&before, 60);
    eventually("the cache is warm", async || {
        (app.total() >= PAGES as u64).then_some(())
    })
    .await;
    assert!(app.most_at_once() <= 12);
    drop(before);
    drop(redis);
    crowd.end().await;
    let asked = app.total();

    let redis = RedisServer::start().await;
    let after = setup(&redis).start().await;
    let crowd = Crowd::at(&after, 120);
    eventually("the cache is warm again", async || {
        (app.total() >= asked + PAGES as u64).then_some(())
    })
    .await;
    assert!(crowd.end().await >= PAGES);
    let most = app.most_at_once();
    assert!((8..=12).contains(&most), "{most}");
}
