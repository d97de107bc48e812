//! The limiter against a real redis-server, its script against window.rs, and ExoDrive's tiers.

use super::checks::tests::{BOOKING, PAYMENT, exodrive};
use super::window::{EXACT_QUOTA_MAX, Window};
use super::*;
use crate::config::settings::{Audience, LimitPer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::Value;
use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const SCRIPT: &str = include_str!("window.lua");
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const TOOK: Duration = Duration::ZERO;

/// A redis-server of one test, on a socket file; it ends with the test.
struct Server {
    child: Child,
    client: redis::Client,
    _home: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("redis.sock");
        let mut child = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(&socket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = "ready to accept connections";
        assert!(lines.any(|line| line.unwrap().to_lowercase().contains(ready)));
        std::thread::spawn(move || lines.for_each(drop));
        let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        Self {
            child,
            client,
            _home: home,
        }
    }

    fn connection(&self) -> redis::Connection {
        self.client.get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn limit(name: &str, quota: u32, window: Duration) -> Limit {
    let rate = Rate {
        quota: NonZeroU32::new(quota).unwrap(),
        window,
    };
    Limit::new(name.into(), Audience::Anyone, rate, &[LimitPer::Ip])
}

fn check<'a>(limit: &'a Limit, subject: &str) -> Check<'a> {
    Check::new(limit, &limit.names[0], |to| {
        to.extend_from_slice(subject.as_bytes());
    })
}

fn limiter() -> Limiter {
    Limiter::new("exodrive", None, Arc::new(LocalLimits::new()))
}

fn run(
    con: &mut redis::Connection,
    script: &redis::Script,
    keys: &[impl AsRef<[u8]>],
    args: &[impl AsRef<[u8]>],
) -> Vec<i64> {
    let mut call = script.prepare_invoke();
    keys.iter().for_each(|key| _ = call.key(key.as_ref()));
    args.iter().for_each(|arg| _ = call.arg(arg.as_ref()));
    call.invoke(con).unwrap()
}

/// What [`Limiter::admit`] does, over a connection of the test's.
fn admit(
    limiter: &Limiter,
    con: &mut redis::Connection,
    checks: &[Check<'_>],
    now: Timestamp,
) -> Decision {
    if let Some(readings) = limiter.shared.known_full(checks, now) {
        return limiter.decided(checks, Counted::Local, &readings, now);
    }
    let answer = ask(limiter, con, COUNT, checks, &[]);
    settle(limiter, checks, Ok(answer), RedisDown::Local, now)
}

fn ask(
    limiter: &Limiter,
    con: &mut redis::Connection,
    mode: &str,
    checks: &[Check<'_>],
    told: &[Vec<u8>],
) -> Vec<i64> {
    let call = Call::new(&limiter.prefix, checks);
    let (keys, args) = call.parts(mode, told);
    run(con, &whole_script(), &keys, &args)
}

fn settle(
    limiter: &Limiter,
    checks: &[Check<'_>],
    answer: Result<Vec<i64>, Outage>,
    down: RedisDown,
    now: Timestamp,
) -> Decision {
    limiter.settle(checks, None, answer, down, (now, 0), TOOK)
}

#[test]
fn a_request_that_redis_may_have_counted_is_not_told_again() {
    let limit = Limit {
        sync: Some(Duration::from_millis(50)),
        ..limit("l", 100, Duration::from_secs(1))
    };
    let checks = [check(&limit, "one")];
    for (outage, due) in [(Outage::Open, 1), (Outage::Timeout, 0)] {
        let limiter = limiter();
        let telling = Telling::begin(&limiter.shared, &checks, true, NOW, 0);
        let (answer, down) = (Err(outage), RedisDown::Local);
        let decision = limiter.settle(&checks, Some(telling), answer, down, (NOW, 0), TOOK);
        assert!(decision.admitted);
        let untold = limiter.shared.batches.due(NOW, true).len();
        assert_eq!(untold, due, "{outage:?}");
    }
}

/// As if this sidecar had just started: nothing is known to be full.
fn admit_anew(con: &mut redis::Connection, checks: &[Check<'_>]) -> Decision {
    admit(&limiter(), con, checks, NOW)
}

/// The script as the limiter sends it.
fn whole_script() -> redis::Script {
    redis::Script::new(SCRIPT)
}

/// The script with its clock replaced by its last two arguments: seconds and microseconds.
fn script_on_a_handmade_clock() -> redis::Script {
    let script = SCRIPT.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
    assert_ne!(script, SCRIPT);
    redis::Script::new(&script)
}

#[test]
fn the_script_and_the_arithmetic_in_rust_agree_on_any_history() {
    let server = Server::start();
    let (con, script) = (
        RefCell::new(server.connection()),
        script_on_a_handmade_clock(),
    );
    let minute = Duration::from_secs(60);
    let kinds = [
        (Algorithm::Log, minute),
        (Algorithm::Cells, minute),
        (Algorithm::Log, minute * 2),
        (Algorithm::Cells, Duration::from_micros(61_234_567)),
    ];
    let step = prop_oneof![
        8 => 0..2_000_000_i64,
        3 => 0..1_000_i64,
        2 => 20_000_000..70_000_000_i64,
        1 => 100_000_000..400_000_000_i64,
        1 => -5_000_000..0_i64,
        1 => -400_000_000..-60_000_000_i64,
    ];
    let elsewhere = prop_oneof![3 => Just(None), 1 => (0_u64..90_000_000, 1_u32..4).prop_map(Some)];
    let step = (step, elsewhere, prop::bool::weighted(0.2));
    let history = prop::collection::vec((step, 1_usize..16, 0_usize..8), 1..150);
    let histories = Cell::new(0);
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&history, |history| {
            let history_number = histories.replace(histories.get() + 1);
            let con = &mut *con.borrow_mut();
            let mut now = 1_700_000_000_123_456_i64;
            let mut windows = kinds.map(|(algorithm, _)| Window::new(algorithm));
            for ((step, elsewhere, tells), asked, lowered) in history {
                now += step;
                let at = now as u64;
                // Quotas change now and then, as by a reload.
                let quota = if lowered == 0 { 3 } else { 12 };
                let asked: Vec<usize> = (0..4).filter(|bit| asked & (1 << bit) != 0).collect();
                let rate = |kind: usize| Rate {
                    quota: NonZeroU32::new(quota).unwrap(),
                    window: kinds[kind].1,
                };

                // What was admitted elsewhere, so long ago, comes first and counts in any case.
                let told = |kind: usize| match (elsewhere, kinds[kind].0) {
                    (Some((ago, count)), Algorithm::Cells) => {
                        let mut made = Window::new(Algorithm::Cells);
                        let moment = at.saturating_sub(ago);
                        (0..count).for_each(|_| made.add(rate(kind), moment, moment));
                        batch::encode(&made)
                    }
                    _ => Vec::new(),
                };
                if let Some((ago, count)) = elsewhere {
                    for kind in asked
                        .iter()
                        .filter(|kind| kinds[**kind].0 == Algorithm::Cells)
                    {
                        let moment = at.saturating_sub(ago);
                        (0..count).for_each(|_| windows[*kind].add(rate(*kind), moment, at));
                    }
                }
                let before = windows.clone();
                let full: Vec<bool> = asked
                    .iter()
                    .map(|kind| !windows[*kind].admits(rate(*kind), at) && !tells)
                    .collect();
                let admitted = !full.contains(&true);
                let mut expected = vec![i64::from(admitted)];
                for (kind, full) in asked.iter().zip(&full) {
                    if admitted && !tells {
                        windows[*kind].add(rate(*kind), at, at);
                    }
                    let reading = windows[*kind].read(rate(*kind), at);
                    let reset = reading.reset as i64;
                    expected.extend([i64::from(reading.count), reset, i64::from(*full)]);
                    // A refusal costs Redis no write of the cells, so they forget nothing by it either
                    // (which shows only if the clock goes back later), unless it went back just now.
                    if let (false, Window::Cells(held, _), Window::Cells(newest, _)) =
                        (admitted && !tells, &before[*kind], &windows[*kind])
                        && held <= newest
                    {
                        windows[*kind] = before[*kind].clone();
                    }
                }

                let keys: Vec<String> = asked
                    .iter()
                    .map(|kind| format!("{history_number}:{kind}"))
                    .collect();
                let mut args: Vec<Vec<u8>> = vec![if tells { TELL.into() } else { COUNT.into() }];
                for kind in &asked {
                    let (algorithm, window) = kinds[*kind];
                    args.push(algorithm.word().into());
                    args.push(quota.to_string().into());
                    args.push(micros(window).to_string().into());
                    args.push(told(*kind));
                }
                args.push((at / 1_000_000).to_string().into());
                args.push((at % 1_000_000).to_string().into());
                prop_assert_eq!(run(con, &script, &keys, &args), expected);
                for key in &keys {
                    let ttl: i64 = redis::cmd("PTTL").arg(key).query(con).unwrap();
                    prop_assert!(ttl == -2 || ttl > 0, "{} of {}", ttl, key);
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn under_concurrency_no_window_holds_more_than_the_quota_and_nothing_that_fits_is_refused() {
    const QUOTA: u32 = 40;
    const WINDOW: Duration = Duration::from_millis(150);
    let server = Server::start();
    let told = SCRIPT
        .replace("return reply\n", "reply[#reply + 1] = now\nreturn reply\n")
        .replace("now, 0 }", "now, 0, now }");
    assert_ne!(told, SCRIPT);
    let script = redis::Script::new(&told);
    let rate = limit("l", QUOTA, WINDOW);
    let checks = [check(&rate, "one")];
    let limiter = limiter();
    let call = Call::new(&limiter.prefix, &checks);
    let (keys, args) = call.parts(COUNT, &[]);

    let started = Instant::now();
    let answers: Vec<(u64, bool)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (mut con, mut answers) = (server.connection(), Vec::new());
                    while started.elapsed() < WINDOW * 8 {
                        let numbers = run(&mut con, &script, &keys, &args);
                        answers.push((*numbers.last().unwrap() as u64, numbers[0] == 1));
                    }
                    answers
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });

    let mut admitted: Vec<u64> = answers
        .iter()
        .filter(|answer| answer.1)
        .map(|answer| answer.0)
        .collect();
    admitted.sort_unstable();
    let (quota, window) = (QUOTA as usize, micros(WINDOW));
    for run in admitted.windows(quota + 1) {
        assert!(
            run[quota] - run[0] >= window,
            "{} in {} µs",
            quota + 1,
            run[quota] - run[0]
        );
    }
    for (at, _) in answers.iter().filter(|answer| !answer.1) {
        let within = admitted
            .iter()
            .filter(|made| **made <= *at && **made + window > *at)
            .count();
        assert!(within >= quota, "refused with {within} of {quota} counted");
    }
    assert!(admitted.len() > quota, "{} admitted", admitted.len());
}

#[test]
fn a_dual_limit_counts_on_both_or_on_neither() {
    let server = Server::start();
    let con = &mut server.connection();
    let minute = Duration::from_secs(60);
    let (user, ip) = (limit("user", 10, minute), limit("ip", 3, minute));
    for _ in 0..3 {
        assert!(admit_anew(con, &[check(&user, "u1"), check(&ip, "a1")]).admitted);
    }
    for _ in 0..5 {
        let refused = admit_anew(con, &[check(&user, "u1"), check(&ip, "a1")]);
        assert_eq!(refused.counted, Counted::Shared);
        let states: Vec<(u32, bool)> = refused
            .states
            .iter()
            .map(|state| (state.remaining, state.refused))
            .collect();
        assert_eq!(states, [(7, false), (0, true)]);
    }
    // The user's counter was left alone: seven more from another address.
    let fits = (0..20)
        .filter(|n| admit_anew(con, &[check(&user, "u1"), check(&ip, &format!("b{n}"))]).admitted);
    assert_eq!(fits.count(), 7);
}

#[test]
fn a_full_redis_counts_on_none_of_the_counters() {
    let server = Server::start();
    let con = &mut server.connection();
    let minute = Duration::from_secs(60);
    let (user, ip) = (limit("user", 10, minute), limit("ip", 2_000, minute));
    let checks = [check(&user, "u1"), check(&ip, "a1")];
    assert!(admit_anew(con, &checks).admitted);
    let memory = |con: &mut redis::Connection, max: u32| {
        let mut set = redis::cmd("CONFIG");
        let () = set.arg("SET").arg("maxmemory").arg(max).query(con).unwrap();
    };
    memory(con, 1);
    let limiter = limiter();
    let asked = Call::new(&limiter.prefix, &checks);
    let (keys, args) = asked.parts(COUNT, &[]);
    let script = whole_script();
    let mut call = script.prepare_invoke();
    let answer: redis::RedisResult<Value> = call.key(&keys[..]).arg(&args[..]).invoke(con);
    assert!(answer.unwrap_err().to_string().contains("OOM"));
    memory(con, 0);
    let states = admit_anew(con, &checks).states;
    assert_eq!((states[0].remaining, states[1].remaining), (8, 1_998));
}

#[test]
fn a_look_shows_what_the_next_decision_would_and_counts_nothing() {
    let server = Server::start();
    let con = &mut server.connection();
    let minute = Duration::from_secs(60);
    let limits = [limit("log", 3, minute), limit("cells", 2_000, minute)];
    let checks = limits.each_ref().map(|limit| check(limit, "a"));
    let look = |con: &mut redis::Connection| {
        let answer = ask(&limiter(), con, LOOK, &checks, &[]);
        let readings = parse(&answer, &checks).unwrap();
        let left: Vec<u32> = readings.iter().map(|reading| reading.remaining).collect();
        (left, readings.iter().any(|reading| reading.refused))
    };
    for left in [3, 2, 1] {
        for _ in 0..3 {
            assert_eq!(look(con), (vec![left, 1_997 + left], false));
        }
        assert!(admit_anew(con, &checks).admitted);
    }
    assert_eq!(look(con), (vec![0, 1_997], true));
    assert!(!admit_anew(con, &checks).admitted);
}

#[test]
fn large_quotas_are_never_exceeded_either() {
    let server = Server::start();
    let con = &mut server.connection();
    let rate = limit("bulk", EXACT_QUOTA_MAX + 500, Duration::from_secs(600));
    let fits = (0..1_700).filter(|_| admit_anew(con, &[check(&rate, "a")]).admitted);
    assert_eq!(fits.count(), 1_500);
    let refused = admit_anew(con, &[check(&rate, "a")]);
    assert!(refused.states[0].reset > Duration::from_secs(590));
}

#[test]
fn a_full_counter_is_refused_here_and_redis_is_not_asked_until_its_moment() {
    let server = Server::start();
    let (con, limiter) = (&mut server.connection(), limiter());
    let rate = limit("l", 5, Duration::from_secs(60));
    let decisions: Vec<Decision> = (0..1_000)
        .map(|_| admit(&limiter, con, &[check(&rate, "attacker")], NOW))
        .collect();
    assert_eq!(decisions.iter().filter(|one| one.admitted).count(), 5);
    assert!(
        decisions[5..]
            .iter()
            .all(|one| one.counted == Counted::Local && one.refusals().next().is_some())
    );
    let stats: String = redis::cmd("INFO").arg("commandstats").query(con).unwrap();
    assert!(stats.contains("cmdstat_evalsha:calls=6,"), "{stats}"); // one of them: NOSCRIPT
    let reset = decisions[999].states[0].reset;
    assert!(reset > Duration::from_secs(59) && reset <= Duration::from_secs(60));
    let later = admit(&limiter, con, &[check(&rate, "attacker")], NOW + reset);
    assert_eq!(later.counted, Counted::Shared);
    assert!(admit(&limiter, con, &[check(&rate, "another")], NOW).admitted);
}

#[test]
fn a_reload_keeps_the_counts_unless_the_window_changes() {
    let server = Server::start();
    let con = &mut server.connection();
    let minute = Duration::from_secs(60);
    let (old, raised, lowered) = (
        limit("l", 5, minute),
        limit("l", 8, minute),
        limit("l", 2, minute),
    );
    assert_eq!(
        (0..9)
            .filter(|_| admit_anew(con, &[check(&old, "a")]).admitted)
            .count(),
        5
    );
    assert_eq!(
        admit_anew(con, &[check(&lowered, "a")]).states[0].remaining,
        0
    );
    assert_eq!(
        (0..9)
            .filter(|_| admit_anew(con, &[check(&raised, "a")]).admitted)
            .count(),
        3
    );
    // Another algorithm or another window is another counter; neither misreads the first.
    let cells = limit("l", EXACT_QUOTA_MAX + 1, minute);
    assert!(admit_anew(con, &[check(&cells, "a")]).admitted);
    assert!(admit_anew(con, &[check(&limit("l", 5, minute * 2), "a")]).admitted);
}

#[test]
fn keys_lie_in_one_slot_expire_and_tell_nothing_of_the_caller() {
    let server = Server::start();
    let con = &mut server.connection();
    let (log, cells) = (
        limit("public", 60, Duration::from_secs(60)),
        limit("bulk", 5_000, Duration::from_secs(60)),
    );
    admit_anew(
        con,
        &[check(&log, "ip:198.51.100.7"), check(&cells, "user:alice")],
    );
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(con).unwrap();
    keys.sort();
    assert!(
        keys[0].starts_with("exodrive:limit:{exodrive}:cells:60000ms:bulk:"),
        "{keys:?}"
    );
    assert!(
        keys[1].starts_with("exodrive:limit:{exodrive}:log:60000ms:public:"),
        "{keys:?}"
    );
    for key in &keys {
        assert!(!key.contains("198.51") && !key.contains("alice"));
        let ttl: i64 = redis::cmd("PTTL").arg(key).query(con).unwrap();
        assert!((59_000..=63_500).contains(&ttl), "{ttl}");
    }
}

#[test]
fn what_is_not_an_answer_counts_as_redis_being_away() {
    let (limiter, rate) = (limiter(), limit("l", 5, Duration::from_secs(60)));
    let checks = [check(&rate, "a")];
    for answer in [
        &[][..],
        &[1],
        &[1, 1, 1],
        &[1, -1, 1, 0],
        &[-1, 1, 1, 0],
        &[1, 1, 1, 0, 1, 1, 0],
        &[0, 1, 1, 0],
    ] {
        let decision = settle(&limiter, &checks, Ok(answer.to_vec()), RedisDown::Deny, NOW);
        assert!(decision.unavailable && limiter.shared.redis_away());
    }
    let answer = Ok(vec![1, i64::MAX, i64::MAX, 0]);
    let decision = settle(&limiter, &checks, answer, RedisDown::Deny, NOW);
    assert_eq!((decision.admitted, decision.states[0].remaining), (true, 0));
    assert!(!limiter.shared.redis_away());
}

#[test]
fn with_redis_away_the_operator_decides() {
    let (limiter, rate) = (limiter(), limit("l", 4, Duration::from_secs(60)));
    let checks = [check(&rate, "a")];
    let away = |down| settle(&limiter, &checks, Err(Outage::Open), down, NOW);
    let local = away(RedisDown::Local);
    assert_eq!((local.admitted, local.counted), (true, Counted::Local));
    assert!(
        (0..9)
            .map(|_| away(RedisDown::Local))
            .any(|one| one.refusals().next().is_some() && !one.unavailable)
    );
    assert_eq!(away(RedisDown::Allow), Decision::uncounted());
    let denied = away(RedisDown::Deny);
    assert!(denied.unavailable && !denied.admitted && denied.refusals().next().is_none());
    assert!(denied.in_mode(LimitMode::Shadow).admitted);
}

/// Asks `n` times without Redis, a millisecond apart; how many were admitted.
async fn admitted(limiter: &Limiter, checks: &[Check<'_>], start: Timestamp, n: u64) -> usize {
    let mut admitted = 0;
    for at in 0..n {
        let now = start + Duration::from_millis(at);
        let decision = limiter.admit(checks, RedisDown::Local, now).await;
        admitted += usize::from(decision.admitted);
    }
    admitted
}

#[tokio::test]
async fn the_five_tiers_of_exodrive_hold_over_any_minute() {
    let limits = exodrive();
    for (position, quota) in [(0, 300), (1, 120), (2, 60), (3, 10), (4, 10)] {
        let (limiter, limit) = (limiter(), &limits.all[position]);
        let one = [check(limit, "one")];
        assert_eq!(
            admitted(&limiter, &one, NOW, 500).await,
            quota,
            "{}",
            limit.name
        );
        // At the boundary of the next window nothing is gained, one window on everything is back.
        let edge = NOW + limit.rate.window;
        let before = NOW + (limit.rate.window - Duration::from_millis(400));
        assert_eq!(admitted(&limiter, &one, before, 400).await, 0);
        assert_eq!(
            admitted(&limiter, &one, edge + Duration::from_millis(400), 500).await,
            quota
        );
        assert_eq!(
            admitted(&limiter, &[check(limit, "two")], edge, 500).await,
            quota
        );
    }
    assert_eq!((BOOKING, PAYMENT), (&[3][..], &[4][..]));
}

#[tokio::test]
async fn no_limit_means_no_count() {
    fn may_cross_threads<T: Send>(future: T) -> T {
        future
    }
    let limiter = limiter();
    let decision = may_cross_threads(limiter.admit(&[], RedisDown::Deny, NOW)).await;
    assert_eq!(decision, Decision::uncounted());
}

#[tokio::test]
async fn in_shadow_the_count_goes_on_and_nobody_is_turned_away() {
    let (limiter, rate) = (limiter(), limit("l", 2, Duration::from_secs(60)));
    let mut over = Vec::new();
    for _ in 0..4 {
        let checks = [check(&rate, "a")];
        let decision = limiter.admit(&checks, RedisDown::Local, NOW).await;
        let decision = decision.in_mode(LimitMode::Shadow);
        assert!(decision.admitted);
        over.push(decision.refusals().next().is_some());
    }
    assert_eq!(over, [false, false, true, true]);
}
