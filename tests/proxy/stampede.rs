//! One fetch for all who ask at a time, over several sidecars: what becomes of those who wait, whatever becomes of
//! the one who fetches.

use crate::support::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const SIDECARS: usize = 4;
/// All sidecars are asked for the same host: it is in the key.
const HOST: [(&str, &str); 1] = [("Host", "shop.example")];
const EXACT: &str = "defaults: { ttl_jitter: 0%, stale_while_revalidate: 0s, stale_if_error: 0s }";

/// As many sidecars as usual, each in front of the same app and Redis. They are patient with Redis: a machine that is
/// busy with herds is no Redis that is away.
async fn sidecars(app: &App, redis: &RedisServer, yaml: &str) -> Vec<Larder> {
    let patient = format!("{{ url: \"{}\", timeout: 5s }}", redis.url());
    start(|| larder(app).redis_block(&*patient).yaml(yaml)).await
}

async fn start(setup: impl Fn() -> Setup) -> Vec<Larder> {
    let mut sidecars = Vec::new();
    for _ in 0..SIDECARS {
        let sidecar = setup().start().await;
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

/// A counter of one sidecar.
async fn counted(sidecar: &Larder, series: &str) -> u64 {
    let metrics = sidecar.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with(series));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.map_or(0, |value| value.parse().unwrap())
}

/// What became of the fetches of all of these.
async fn fetches(sidecars: &[Larder], outcome: &str) -> u64 {
    let series = format!("larder_cache_leases_total{{outcome=\"{outcome}\"}}");
    let mut sum = 0;
    for sidecar in sidecars {
        sum += counted(sidecar, &series).await;
    }
    sum
}

/// As many ask at the same moment for one cold key, a sidecar each quarter of them.
async fn herd(clients: usize) {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::public("shared").behind(&held)).await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    let answers = ask(&sidecars, "/one", clients / SIDECARS);
    let all = eventually("all of them wait", async || {
        let mut waiting = 0;
        for sidecar in &sidecars {
            waiting += counted(sidecar, "larder_cache_coalescing ").await;
        }
        (waiting + SIDECARS as u64 == clients as u64).then_some(waiting)
    });
    assert_eq!(all.await as usize, clients - SIDECARS);
    let opened = Instant::now();
    gate.open();
    all_are(answers, "shared").await;
    println!(
        "{clients} clients: {} fetch, all answered {:?} after the app said it",
        app.count("/one"),
        opened.elapsed()
    );
    assert_eq!(app.count("/one"), 1);
    assert_eq!(fetches(&sidecars, "led").await, 1);
    assert_eq!(fetches(&sidecars, "found").await, SIDECARS as u64 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_clients_of_four_sidecars_are_one_fetch() {
    herd(2_000).await;
}

/// `cargo test --test proxy stampede::ten_thousand -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten thousand sockets"]
async fn ten_thousand_clients_of_four_sidecars_are_one_fetch() {
    herd(10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cold_keys_are_a_thousand_fetches_however_many_ask() {
    let app =
        App::says(|seen| Answer::public(seen.path().to_owned()).after(Duration::from_millis(20)))
            .await;
    let redis = RedisServer::start().await;
    let sidecars = Arc::new(sidecars(&app, &redis, EXACT).await);
    let mut asking = JoinSet::new();
    // Forty clients at a time, ten for each key, which ask for their twenty-five thousandths in turn.
    for client in 0..400 {
        let sidecars = sidecars.clone();
        asking.spawn(async move {
            let connection = sidecars[client % SIDECARS].client();
            for n in 0..25 {
                let path = format!("/key/{}", client / 10 * 25 + n);
                let answer = connection.get_with(&path, &HOST).await;
                assert_eq!((answer.status, answer.text()), (200, path));
            }
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    assert_eq!(app.total(), 1_000);
}

#[tokio::test]
async fn a_leader_that_is_killed_costs_one_more_fetch_and_a_bounded_wait() {
    let gate = Gate::closed();
    let (held, number) = (gate.clone(), AtomicUsize::new(0));
    let app = App::says(move |_| match number.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::public("never").behind(&held),
        _ => Answer::public("shared"),
    })
    .await;
    let redis = RedisServer::start().await;
    let mut sidecars = sidecars(&app, &redis, EXACT).await;
    let first = sidecars.remove(0);
    let lost = ask(std::slice::from_ref(&first), "/one", 1);
    asked(&app, "/one", 1).await;
    let answers = ask(&sidecars, "/one", 10);
    waiting(&redis).await;
    let killed = Instant::now();
    first.signal("KILL");
    all_are(answers, "shared").await;
    let took = killed.elapsed();
    println!("answered {took:?} after the leader was killed");
    // The lease's two seconds, and what a busy machine takes.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(app.count("/one"), 2, "one for each death");
    assert_eq!(fetches(&sidecars, "took_over").await, 1);
    drop(lost);
}

#[tokio::test]
async fn a_leader_that_was_paused_for_long_does_not_undo_what_was_fetched_meanwhile() {
    let gate = Gate::closed();
    let (held, number) = (gate.clone(), AtomicUsize::new(0));
    let app = App::says(move |_| match number.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::public("old").behind(&held),
        _ => Answer::public("new"),
    })
    .await;
    let redis = RedisServer::start().await;
    let mut sidecars = sidecars(&app, &redis, &format!("{EXACT}\ncache: {{ memory: 0B }}")).await;
    let paused = sidecars.remove(0);
    let late = ask(std::slice::from_ref(&paused), "/one", 1);
    asked(&app, "/one", 1).await;
    paused.signal("STOP");
    let begun = Instant::now();
    all_are(ask(&sidecars, "/one", 5), "new").await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    gate.open();
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(begun.elapsed())).await;
    paused.signal("CONT");
    // Who asked it has what the app said then; the store has what was said since.
    all_are(late, "old").await;
    // Until it has read the purge log again, it trusts nothing that is stored.
    paused.redis_is(true).await;
    for sidecar in sidecars.iter().chain([&paused]) {
        let answer = sidecar.get_with("/one", &HOST).await;
        assert_eq!(
            (answer.cache(), answer.text()),
            ("HIT".into(), "new".into())
        );
    }
    assert_eq!(app.count("/one"), 2);
}

#[tokio::test]
async fn without_redis_in_the_middle_each_sidecar_asks_once_and_nobody_sees_an_error() {
    for how in ["KILL", "STOP"] {
        let gate = Gate::closed();
        let (held, number) = (gate.clone(), AtomicUsize::new(0));
        let app = App::says(move |_| match number.fetch_add(1, Ordering::Relaxed) {
            0 => Answer::public("shared").behind(&held),
            _ => Answer::public("shared"),
        })
        .await;
        let mut redis = RedisServer::start().await;
        let sidecars = start(|| larder(&app).redis(&redis).yaml(EXACT)).await;
        let answers = ask(&sidecars, "/one", 10);
        asked(&app, "/one", 1).await;
        waiting(&redis).await;
        match how {
            "KILL" => redis.kill().await,
            _ => redis.stop(),
        }
        asked(&app, "/one", SIDECARS).await;
        gate.open();
        all_are(answers, "shared").await;
        assert_eq!(app.count("/one"), SIDECARS, "{how}");
    }
}

#[tokio::test]
async fn what_was_purged_in_the_middle_is_given_to_nobody_who_asks_afterwards() {
    for (purge, is_known) in [
        (
            serde_json::json!({ "urls": ["shop.example/one"], "soft": false }),
            true,
        ),
        // That it hits is only known when the answer is there.
        (
            serde_json::json!({ "tags": ["said"], "soft": false }),
            false,
        ),
    ] {
        let gate = Gate::closed();
        let (held, number) = (gate.clone(), AtomicUsize::new(0));
        let app = App::says(move |_| match number.fetch_add(1, Ordering::Relaxed) {
            0 => Answer::public(r#"{"tag":"said"}"#).behind(&held),
            _ => Answer::public(r#"{"tag":"said","new":1}"#),
        })
        .await;
        let redis = RedisServer::start().await;
        let yaml = format!("{EXACT}\nroutes: [{{ path: /*, tags: [\"{{response.tag}}\"] }}]");
        let sidecars = sidecars(&app, &redis, &yaml).await;
        let before = ask(&sidecars[..1], "/one", 1);
        asked(&app, "/one", 1).await;
        assert_eq!(sidecars[2].purge(purge).await.status, 200);
        let after = ask(&sidecars[1..], "/one", 5);
        if is_known {
            // It is not waited for at all.
            all_are(after, r#"{"tag":"said","new":1}"#).await;
            gate.open();
        } else {
            waiting(&redis).await;
            gate.open();
            all_are(after, r#"{"tag":"said","new":1}"#).await;
        }
        all_are(before, r#"{"tag":"said"}"#).await;
        assert_eq!(app.count("/one"), 2);
        for sidecar in &sidecars {
            let answer = sidecar.get_with("/one", &HOST).await;
            assert_eq!(answer.text(), r#"{"tag":"said","new":1}"#);
        }
    }
}

#[tokio::test]
async fn an_app_that_is_slower_than_anybody_waits_is_asked_once_more_at_a_time() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::public("shared").behind(&held)).await;
    let redis = RedisServer::start().await;
    let yaml = "defaults: { collapse_wait: 1s }";
    let sidecars = sidecars(&app, &redis, yaml).await;
    let answers = ask(&sidecars, "/one", 50);
    asked(&app, "/one", SIDECARS).await;
    let (begun, before) = (Instant::now(), app.count("/one"));
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    let (now, rounds) = (app.count("/one"), begun.elapsed().as_secs() as usize + 2);
    // A herd would be two hundred.
    assert!(now <= before + rounds * SIDECARS, "{before}, then {now}");
    gate.open();
    all_are(answers, "shared").await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_nothing_with_it() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| Answer::public("shared").behind(&held)).await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    let mut gone = ask(&sidecars[..1], "/one", 1);
    asked(&app, "/one", 1).await;
    // Those who led the waiting of their sidecars go as well.
    let mut gone_too = ask(&sidecars[1..], "/one", 1);
    waiting(&redis).await;
    let answers = ask(&sidecars, "/one", 5);
    gone.shutdown().await;
    gone_too.shutdown().await;
    gate.open();
    all_are(answers, "shared").await;
    assert_eq!(app.count("/one"), 1);
}

#[tokio::test]
async fn what_is_one_clients_own_is_never_shared_between_sidecars_and_nobody_queues_for_it_again() {
    let cases = [
        ("Cache-Control", "private, max-age=60"),
        ("Set-Cookie", "id=1"),
        ("Cache-Control", "no-store"),
        ("Vary", "*"),
    ];
    let redis = RedisServer::start().await;
    for (n, (name, value)) in cases.into_iter().enumerate() {
        let gate = Gate::closed();
        let (held, number) = (gate.clone(), AtomicUsize::new(0));
        let app = App::says(move |_| {
            let number = number.fetch_add(1, Ordering::Relaxed);
            let answer = Answer::ok(format!("for {number}")).behind(&held);
            let answer = match name {
                "Cache-Control" => answer,
                _ => answer.header("Cache-Control", "max-age=60"),
            };
            answer.header(name, value)
        })
        .await;
        let path = format!("/own/{n}");
        let sidecars = sidecars(&app, &redis, EXACT).await;
        let mut answers = ask(&sidecars, &path, 3);
        asked(&app, &path, 1).await;
        waiting(&redis).await;
        gate.open();
        let mut seen = std::collections::HashSet::new();
        while let Some(answer) = answers.join_next().await {
            let text = answer.unwrap().unwrap().text();
            assert!(seen.insert(text.clone()), "{text} was given twice: {value}");
        }
        assert_eq!(app.count(&path), 3 * SIDECARS);
        // Now it is known to all of them.
        let led = fetches(&sidecars, "led").await;
        all_are_different(ask(&sidecars, &path, 3)).await;
        assert_eq!(fetches(&sidecars, "led").await, led, "{value}");
    }
}

async fn all_are_different(mut answers: Answers) {
    let mut seen = std::collections::HashSet::new();
    while let Some(answer) = answers.join_next().await {
        assert!(seen.insert(answer.unwrap().unwrap().text()));
    }
}

#[tokio::test]
async fn a_variant_is_only_shared_with_those_it_is_for() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| {
        let language = seen.header("accept-language").unwrap_or("none").to_owned();
        let answer = Answer::public(language).header("Vary", "Accept-Language");
        answer.behind(&held)
    })
    .await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    let mut answers = JoinSet::new();
    for (n, sidecar) in sidecars.iter().cycle().take(5 * SIDECARS).enumerate() {
        let (client, language) = (sidecar.client(), ["de", "en"][n / SIDECARS % 2]);
        answers.spawn(async move {
            let headers = [HOST[0], ("Accept-Language", language)];
            (language, client.get_with("/one", &headers).await.text())
        });
    }
    asked(&app, "/one", 1).await;
    gate.open();
    while let Some(answer) = answers.join_next().await {
        let (language, text) = answer.unwrap();
        assert_eq!(text, language);
    }
    assert_eq!(app.count("/one"), 2, "one for each variant");
}

#[tokio::test]
async fn who_has_waited_for_what_is_not_his_asks_the_app_one_after_the_other() {
    const CLIENTS: usize = 400;
    let gate = Gate::closed();
    let (held, number) = (gate.clone(), AtomicUsize::new(0));
    let asked_at = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = asked_at.clone();
    let app = App::says(move |_| {
        told.lock().unwrap().push(Instant::now());
        let answer = Answer::ok("his").header("Cache-Control", "private");
        match number.fetch_add(1, Ordering::Relaxed) {
            0 => answer.behind(&held),
            _ => answer,
        }
    })
    .await;
    let larder = larder(&app).yaml(EXACT).start().await;
    let mut answers = ask(std::slice::from_ref(&larder), "/one", CLIENTS);
    eventually("all but one wait", async || {
        let waiting = counted(&larder, "larder_cache_coalescing ").await;
        (waiting as usize == CLIENTS - 1).then_some(())
    })
    .await;
    let opened = Instant::now();
    gate.open();
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().text(), "his");
    }
    assert_eq!(app.count("/one"), CLIENTS);
    let asked_at = asked_at.lock().unwrap();
    let early = |at: &&Instant| at.saturating_duration_since(opened) < Duration::from_millis(50);
    let early = asked_at.iter().filter(early).count();
    let took = asked_at.last().unwrap().saturating_duration_since(opened);
    println!("{early} of {CLIENTS} in the first 50 ms, the last after {took:?}");
    // A millisecond for each, on the average half of that is waited; and at most a second.
    assert!(took > Duration::from_millis(250), "{took:?}");
}

#[tokio::test]
async fn requests_with_credentials_wait_for_nobody_and_are_given_to_nobody() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| match seen.header("authorization") {
        Some(who) => Answer::ok(who.to_owned()).header("Cache-Control", "max-age=60"),
        None => Answer::public("nobody").behind(&held),
    })
    .await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    let anonymous = ask(&sidecars, "/one", 2);
    asked(&app, "/one", 1).await;
    waiting(&redis).await;
    for (sidecar, who) in sidecars.iter().zip(["a", "b", "c", "d"]) {
        let headers = [HOST[0], ("Authorization", who)];
        assert_eq!(sidecar.get_with("/two", &headers).await.text(), who);
    }
    gate.open();
    all_are(anonymous, "nobody").await;
    assert_eq!((app.count("/one"), app.count("/two")), (1, SIDECARS));
}

#[tokio::test]
async fn what_is_stale_is_refreshed_once_for_all_sidecars() {
    let gate = Gate::closed();
    let (held, number) = (gate.clone(), AtomicUsize::new(0));
    let app = App::says(move |_| match number.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::ok("old").header("Cache-Control", "max-age=1, stale-while-revalidate=60"),
        _ => Answer::public("new").behind(&held),
    })
    .await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    eventually("it is stale", async || {
        all_are(ask(&sidecars, "/one", 3), "old").await;
        (app.count("/one") > 1).then_some(())
    })
    .await;
    all_are(ask(&sidecars, "/one", 3), "old").await;
    waiting(&redis).await;
    gate.open();
    // Nobody serves what is stale until its window ends: who was refused the lease finds the new one.
    for sidecar in &sidecars {
        eventually("the new one is shown", async || {
            let answer = sidecar.get_with("/one", &HOST).await;
            (answer.text() == "new").then_some(())
        })
        .await;
    }
    assert_eq!(app.count("/one"), 2);
}

#[tokio::test]
async fn what_is_refreshed_ahead_is_refreshed_once_for_all_sidecars() {
    let number = AtomicUsize::new(0);
    let app = App::says(move |_| match number.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::ok("old").header("Cache-Control", "max-age=8"),
        _ => Answer::ok("new").header("Cache-Control", "max-age=600"),
    })
    .await;
    let redis = RedisServer::start().await;
    redis.others_send("keys");
    let yaml = format!("{EXACT}\nroutes: [{{ path: /*, refresh_ahead: 90% }}]");
    let sidecars = sidecars(&app, &redis, &yaml).await;
    let begun = Instant::now();
    all_are(ask(&sidecars, "/one", 1), "old").await;
    for sidecar in &sidecars {
        // One after the other, each with the old one in its memory still, and with the lease long gone.
        eventually("the new one is shown", async || {
            let answer = sidecar.get_with("/one", &HOST).await;
            (answer.text() == "new").then_some(())
        })
        .await;
        redis.cli(&["EVAL", FORGET_LEASES, "0"]).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "the old one was fresh"
    );
    assert_eq!(app.count("/one"), 2);
}

const FORGET_LEASES: &str =
    "for _, key in ipairs(redis.call('KEYS', 'larder:lease:*')) do redis.call('DEL', key) end";

async fn start_with_manual_clocks(app: &App, redis: &RedisServer, yaml: &str) -> Vec<Larder> {
    redis.others_send("keys");
    start(|| larder(app).redis(redis).yaml(yaml).manual_clock()).await
}

async fn advance(sidecars: &[Larder], by: &str) {
    for sidecar in sidecars {
        sidecar.advance(by).await;
    }
}

#[tokio::test]
async fn a_failure_is_not_shared_between_sidecars_which_may_have_apps_of_their_own() {
    let redis = RedisServer::start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let bad = App::says(move |_| Answer::raw("nonsense\r\n\r\n").behind(&held)).await;
    let good = App::says(|_| Answer::public("shared")).await;
    let mut sidecars = Vec::new();
    for app in [&bad, &good, &good] {
        let sidecar = larder(app).redis(&redis).yaml(EXACT).start().await;
        sidecar.redis_is(true).await;
        sidecars.push(sidecar);
    }
    let mut failed = ask(&sidecars[..1], "/one", 3);
    asked(&bad, "/one", 1).await;
    let answers = ask(&sidecars[1..], "/one", 5);
    waiting(&redis).await;
    gate.open();
    all_are(answers, "shared").await;
    while let Some(answer) = failed.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status, 502);
    }
    assert_eq!((bad.count("/one"), good.count("/one")), (1, 1));
}

#[tokio::test]
async fn one_answer_that_is_not_for_all_does_not_stop_the_sharing_for_long() {
    let number = Arc::new(AtomicUsize::new(0));
    let counted = number.clone();
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::new(503, "busy").header("Cache-Control", "no-store"),
        1 => Answer::ok("mine").header("Cache-Control", "private"),
        _ => Answer::ok("shared")
            .header("Cache-Control", "max-age=1")
            .behind(&held),
    })
    .await;
    let redis = RedisServer::start().await;
    let sidecars = start_with_manual_clocks(&app, &redis, EXACT).await;
    // A failure says nothing of what comes after it.
    assert_eq!(sidecars[0].get_with("/one", &HOST).await.status, 503);
    assert_eq!(sidecars[0].get_with("/one", &HOST).await.text(), "mine");
    assert_eq!(
        fetches(&sidecars, "led").await + fetches(&sidecars, "took_over").await,
        2
    );
    // Five seconds later it is tried again together.
    advance(&sidecars, "6s").await;
    redis.cli(&["EVAL", FORGET_LEASES, "0"]).await;
    let answers = ask(&sidecars, "/one", 10);
    asked(&app, "/one", 3).await;
    waiting(&redis).await;
    gate.open();
    all_are(answers, "shared").await;
    assert_eq!(app.count("/one"), 3);
}

#[tokio::test]
async fn while_the_app_is_known_to_be_down_what_is_stale_is_served_at_once() {
    let gate = Gate::closed();
    let app = App::says(|_| Answer::ok("old").header("Cache-Control", "max-age=10")).await;
    let yaml = "defaults: { ttl_jitter: 0%, stale_if_error: 1h }";
    let larder = larder(&app).yaml(yaml).manual_clock().start().await;
    larder.get("/one").await;
    larder.advance("20s").await;
    app.down().await;
    larder.says("the app does not answer").await;
    let answer = larder.get("/one").await;
    assert_eq!(
        (answer.cache().as_str(), answer.text()),
        ("STALE", "old".into())
    );
    // One that hangs is not waited for either; but it is tried.
    app.up().await;
    let held = gate.clone();
    app.now_says(move |_| Answer::public("new").behind(&held));
    let before = app.count("/one");
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = larder.get("/one").await;
        assert_eq!(answer.text(), "old");
        assert!(begun.elapsed() < Duration::from_secs(2));
        if app.count("/one") > before {
            break;
        }
    }
    gate.open();
    eventually("the new one is shown", async || {
        (larder.get("/one").await.text() == "new").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_every_client_has_left_in_the_middle_is_fetched_to_its_end_only_near_it() {
    const MIB: usize = 1024 * 1024;
    let redis = RedisServer::start().await;
    for (path, came, is_finished) in [
        ("/small", MIB / 2, true),
        ("/far", 3 * MIB, false),
        ("/near", 7 * MIB, true),
    ] {
        let whole = if path == "/small" { MIB } else { 10 * MIB };
        let gate = Gate::closed();
        let held = gate.clone();
        let app = App::says(move |_| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {whole}\r\n\r\n"
            );
            let first = Answer::raw([head.as_bytes(), &vec![7; came]].concat());
            first.then_wait(&held).then(vec![7; whole - came])
        })
        .await;
        let yaml = format!("{EXACT}\ncache: {{ max_body: 32MiB }}");
        let larder = larder(&app).redis(&redis).yaml(&yaml).start().await;
        larder.redis_is(true).await;
        let client = larder.client();
        let mut body = client
            .open("GET", path, &HOST, "".into())
            .await
            .unwrap()
            .into_body();
        let mut read = 0;
        while read < came {
            let frame = http_body_util::BodyExt::frame(&mut body)
                .await
                .unwrap()
                .unwrap();
            read += frame.into_data().unwrap().len();
        }
        drop((body, client));
        // The connection's end has to be seen.
        eventually("the client is gone", async || {
            (counted(&larder, "http_server_active_requests ").await == 0).then_some(())
        })
        .await;
        gate.open();
        let outcome = if is_finished { "stored" } else { "refused" };
        eventually(&format!("{path} is {outcome}"), async || {
            let metrics = larder.metrics().await;
            let stores = |line: &&str| line.starts_with("larder_cache_stores_total");
            let told = format!("outcome=\"{outcome}\"");
            metrics
                .lines()
                .filter(stores)
                .any(|line| line.contains(&told))
                .then_some(())
        })
        .await;
        let again = larder.get_with(path, &HOST).await;
        assert_eq!(again.body.len(), whole);
        assert_eq!(app.count(path), if is_finished { 1 } else { 2 }, "{path}");
    }
}

#[tokio::test]
async fn on_a_cluster_it_is_the_same() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| Answer::public(seen.path().to_owned()).behind(&held)).await;
    let cluster = RedisCluster::start().await;
    let url = cluster.url();
    let sidecars = start(|| larder(&app).redis_url(&*url).yaml(EXACT)).await;
    // Keys of every server, whose wakes all lie on one.
    let paths: Vec<_> = (0..12).map(|n| format!("/{n}")).collect();
    let answers: Vec<_> = paths.iter().map(|path| ask(&sidecars, path, 3)).collect();
    for path in &paths {
        asked(&app, path, 1).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    for (path, answers) in paths.iter().zip(answers) {
        all_are(answers, path).await;
        assert_eq!(app.count(path), 1, "{path}");
    }
}

/// Requests, purges and a slow app in an order that the seed makes. What the app says is how often it was purged; nobody
/// may be given what is older than the last purge that was said to be done when he asked.
async fn any_order(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let version = Arc::new(AtomicUsize::new(0));
    let (said, delays) = (version.clone(), std::sync::Mutex::new(random.fork()));
    let app = App::says(move |_| {
        let mut delays = delays.lock().unwrap();
        let pause = Duration::from_millis(delays.u64(0..25));
        let answer = match delays.u32(0..8) {
            0 => Answer::ok(said.load(Ordering::SeqCst).to_string())
                .header("Cache-Control", "no-store"),
            _ => Answer::public(said.load(Ordering::SeqCst).to_string()),
        };
        answer.after(pause)
    })
    .await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let (connection, done, mut random) = (
            sidecars[client % SIDECARS].client(),
            done.clone(),
            random.fork(),
        );
        clients.spawn(async move {
            for _ in 0..60 {
                let least = done.load(Ordering::SeqCst);
                let answer = connection.get_with("/one", &HOST).await;
                assert_eq!(answer.status, 200);
                let given: usize = answer.text().parse().unwrap();
                assert!(given >= least, "seed {seed}: {given} after {least}");
                tokio::time::sleep(Duration::from_millis(random.u64(0..8))).await;
            }
        });
    }
    for n in 1..=12 {
        tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
        version.store(n, Ordering::SeqCst);
        let purger = random.usize(0..SIDECARS);
        let what = serde_json::json!({ "urls": ["shop.example/one"], "soft": false });
        assert_eq!(sidecars[purger].purge(what).await.status, 200);
        // The purger's log has it; the others hear of it within this.
        tokio::time::sleep(Duration::from_millis(100)).await;
        done.store(n, Ordering::SeqCst);
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test]
async fn whatever_comes_first_nobody_is_given_what_was_purged_before_he_asked() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    match seed {
        Some(seed) => any_order(seed).await,
        None => {
            for seed in [1, fastrand::u64(..)] {
                println!("SEED={seed}");
                any_order(seed).await;
            }
        }
    }
}

/// `cargo test --test proxy stampede::what_waiting -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn what_waiting_for_another_sidecar_costs() {
    const APP: Duration = Duration::from_millis(30);
    let app = App::says(|_| Answer::public("shared").after(APP)).await;
    let redis = RedisServer::start().await;
    let sidecars = sidecars(&app, &redis, EXACT).await;
    let clients = [sidecars[0].client(), sidecars[1].client()];
    let (mut led, mut waited) = (Vec::new(), Vec::new());
    for n in 0..500 {
        let path = format!("/{n}");
        let ask = async |at: usize, pause: u64| {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            clients[at].get_with(&path, &HOST).await;
            Instant::now()
        };
        let begun = Instant::now();
        let (one, two) = tokio::join!(ask(0, 0), ask(1, 5));
        led.push((one - begun).saturating_sub(APP));
        waited.push((two - begun).saturating_sub(APP));
    }
    assert_eq!(app.total(), 500);
    for (who, mut over) in [("led", led), ("waited", waited)] {
        over.sort();
        let (p50, p99) = (over[250], over[495]);
        println!("{who}: {p50:?} (p50), {p99:?} (p99) more than the app took");
    }
}
