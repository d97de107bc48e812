//! One fetch for all who ask at a time, over several sidecars: what becomes of those who wait, whatever becomes of
//! the one who fetches.

use crate::support::*;
use std::collections::HashMap;
use tokio::task::JoinSet;

const SIDECARS: usize = 4;
/// All sidecars are asked for the same host: it is in the key.
const HOST: [(&str, &str); 1] = [("Host", "shop.example")];
const EXACT: &str = "defaults: { ttl_jitter: 0%, stale_while_revalidate: 0s, stale_if_error: 0s }";

/// As many sidecars as usual, each in front of the same app and Redis.
async fn sidecars(app: &App, redis: &RedisServer, yaml: &str) -> Vec<Larder> {
    let mut sidecars = Vec::new();
    for _ in 0..SIDECARS {
        let sidecar = larder(app).redis(redis).yaml(yaml).start().await;
        sidecar.redis_is(true).await;
        sidecars.push(sidecar);
    }
    sidecars
}

type Answers = JoinSet<Result<Response, String>>;

/// Asks each sidecar for this path by so many clients at a time.
fn ask(sidecars: &[Larder], path: &str, clients: usize) -> Answers {
    let mut answers = JoinSet::new();
    for sidecar in sidecars {
        for _ in 0..clients {
            let (client, path) = (sidecar.client(), path.to_owned());
            answers.spawn(async move { client.try_send("GET", &path, &HOST, "").await });
        }
    }
    answers
}

/// Every answer is a 200 with this content; returns how many there were of each `X-Cache`.
async fn all_are(mut answers: Answers, content: &str) -> HashMap<String, usize> {
    let mut caches = HashMap::new();
    while let Some(answer) = answers.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, content));
        *caches.entry(answer.cache()).or_default() += 1;
    }
    caches
}

async fn asked(app: &App, path: &str, times: usize) {
    eventually("the app is asked", async || {
        (app.count(path) >= times).then_some(())
    })
    .await;
}

/// Waits until so many fetches, of all these sidecars, wait for another's.
async fn waiting(redis: &RedisServer) {
    eventually("somebody waits for the lease", async || {
        for key in redis.keys().await {
            if key.starts_with("larder:lease:") && redis.get(&key).contains(&b'w') {
                return Some(());
            }
        }
        None
    })
    .await;
}

#[tokio::test]
async fn a_cold_key_is_fetched_once_for_all_sidecars() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::public("shared").behind(&held)).await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    let answers = ask(&sidecars, "/one", 25);
    asked(&app, "/one", 1).await;
    waiting(&redis).await;
    gate.open();
    all_are(answers, "shared").await;
    assert_eq!(app.count("/one"), 1);
    // It is in everybody's store from then on.
    for sidecar in &sidecars {
        assert_eq!(sidecar.get_with("/one", &HOST).await.cache(), "HIT");
    }
}
