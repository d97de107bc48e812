//! The five tiers of ExoDrive, exact over a sliding window, with and without Redis.

use crate::support::*;
use std::time::{Duration, Instant};

const LIMITS: &str = r#"
limits:
  mode: enforce
  redis_down: local
  paths: [/api/*]
  tiers:
    - { name: admin,         for: role:admin, rate: 300/min, per: user }
    - { name: authenticated, for: user,       rate: 120/min, per: user }
    - { name: public,        for: anyone,     rate: 60/min,  per: ip }
routes:
  - { name: booking, path: /api/bookings, methods: [POST], limit: { rate: 10/hour, per: user } }
  - { name: payment, path: /api/payments/*, methods: [POST], limit: { rate: 10/min, per: [user, ip] } }
"#;

async fn shop() -> App {
    App::says(|_| Answer::ok("{}")).await
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// How many of so many requests are let through.
async fn admitted(
    larder: &Larder,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    asked: usize,
) -> usize {
    let client = larder.client();
    let mut admitted = 0;
    for _ in 0..asked {
        match client.send(method, path, headers, "").await.status {
            200 => admitted += 1,
            429 => {}
            other => panic!("{method} {path}: {other}"),
        }
    }
    admitted
}

#[tokio::test]
async fn every_tier_admits_exactly_its_number() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&identity())
        .yaml(LIMITS)
        .start()
        .await;
    larder.redis_is(true).await;
    let (user, other, admin) = (
        bearer(&token("u1", "customer")),
        bearer(&token("u2", "customer")),
        bearer(&token("a1", "admin")),
    );
    assert_eq!(admitted(&larder, "GET", "/api/x", &[], 70).await, 60);
    assert_eq!(
        admitted(&larder, "GET", "/api/x", &[("Authorization", &user)], 130).await,
        120
    );
    assert_eq!(
        admitted(&larder, "GET", "/api/x", &[("Authorization", &other)], 5).await,
        5
    );
    assert_eq!(
        admitted(&larder, "GET", "/api/x", &[("Authorization", &admin)], 310).await,
        300
    );
    assert_eq!(
        admitted(&larder, "GET", "/page", &[], 70).await,
        70,
        "other paths are not limited"
    );
    for key in redis.keys().await {
        let ttl: i64 = redis.cli(&["TTL", &key]).await.parse().unwrap();
        assert!(ttl > 0, "{key} never expires");
    }
}

#[tokio::test]
async fn the_limit_holds_over_two_larders_and_many_clients_at_once() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    // A busy machine is no outage: Redis has all the time it needs to be exact.
    let patient = format!("{{ url: \"{}\", timeout: 5s }}", redis.url());
    let larders = [
        larder(&app)
            .redis_block(&patient)
            .yaml(LIMITS)
            .start()
            .await,
        larder(&app)
            .redis_block(&patient)
            .yaml(LIMITS)
            .start()
            .await,
    ];
    let mut clients = tokio::task::JoinSet::new();
    for larder in &larders {
        larder.redis_is(true).await;
        for _ in 0..7 {
            let client = larder.client();
            clients.spawn(async move {
                let mut admitted = 0;
                for _ in 0..8 {
                    admitted += usize::from(client.get("/api/x").await.status == 200);
                }
                admitted
            });
        }
    }
    let mut admitted = 0;
    while let Some(one) = clients.join_next().await {
        admitted += one.unwrap();
    }
    assert_eq!((admitted, app.count("/api/x")), (60, 60));
}

#[tokio::test]
async fn answers_tell_what_is_left_and_a_refusal_when_to_come_back() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let yaml = "errors: { body: exodrive }";
    let exodrive = larder(&app)
        .redis(&redis)
        .yaml(LIMITS)
        .yaml(yaml)
        .start()
        .await;
    exodrive.redis_is(true).await;
    let first = exodrive.get("/api/x").await;
    assert_eq!(first.header("ratelimit-policy"), "\"public\";q=60;w=60");
    assert!(
        first.header("ratelimit").starts_with("\"public\";r=59"),
        "{:?}",
        first.headers
    );
    assert_eq!(
        (
            first.header("x-ratelimit-limit"),
            first.header("x-ratelimit-remaining")
        ),
        ("60".into(), "59".into())
    );
    let now = ::larder::clock::Clock::system().now().as_secs();
    let reset: u64 = first.header("x-ratelimit-reset").parse().unwrap();
    assert!(
        (now - 5..=now + 65).contains(&reset),
        "{reset} is no moment of the next minute"
    );
    admitted(&exodrive, "GET", "/api/x", &[], 59).await;
    let refused = exodrive.get("/api/x").await;
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "RATE_LIMITED");
    assert_eq!(error["retryAfter"], wait);
    assert!(
        error["message"].is_string()
            && error["timestamp"].is_string()
            && error["traceId"].is_string(),
        "{error}"
    );

    // Another larder on the same Redis refuses the same caller at once, in the other shape.
    let problem = larder(&app).redis(&redis).yaml(LIMITS).start().await;
    problem.redis_is(true).await;
    let refused = problem.get("/api/x").await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert!(
        refused.json()["type"]
            .as_str()
            .unwrap()
            .contains("quota-exceeded")
    );
    assert!(
        refused.json()["violated-policies"]
            .to_string()
            .contains("public")
    );
}

#[tokio::test]
async fn bookings_are_ten_an_hour_a_user() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&identity())
        .yaml(LIMITS)
        .start()
        .await;
    larder.redis_is(true).await;
    let (one, two) = (
        bearer(&token("u1", "customer")),
        bearer(&token("u2", "customer")),
    );
    assert_eq!(
        admitted(
            &larder,
            "POST",
            "/api/bookings",
            &[("Authorization", &one)],
            15
        )
        .await,
        10
    );
    assert_eq!(
        admitted(
            &larder,
            "POST",
            "/api/bookings",
            &[("Authorization", &two)],
            3
        )
        .await,
        3
    );
}

#[tokio::test]
async fn of_two_payment_limits_neither_counts_when_one_refuses() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let yaml = identity().replace(
        "identity: {",
        "identity: { trusted_proxies: [\"127.0.0.0/8\"],",
    );
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&yaml)
        .yaml(LIMITS)
        .start()
        .await;
    larder.redis_is(true).await;
    let (one, two) = (
        bearer(&token("u1", "customer")),
        bearer(&token("u2", "customer")),
    );
    let from = |user: &str, ip: &'static str| {
        [
            ("Authorization".to_owned(), user.to_owned()),
            ("X-Forwarded-For".to_owned(), ip.to_owned()),
        ]
    };
    let pay = async |user: &str, ip: &'static str, times: usize| {
        let headers = from(user, ip);
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        admitted(&larder, "POST", "/api/payments/intent", &headers, times).await
    };
    assert_eq!(pay(&one, "10.0.0.1", 10).await, 10);
    // User u1 is used up: from another address he is refused, and that address is not charged for it.
    assert_eq!(pay(&one, "10.0.0.2", 5).await, 0);
    // The first address is used up too: u2 is refused there and not charged.
    assert_eq!(pay(&two, "10.0.0.1", 5).await, 0);
    assert_eq!(pay(&two, "10.0.0.2", 15).await, 10);
}

#[tokio::test]
async fn forged_tokens_and_forged_addresses_give_no_fresh_bucket() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&identity())
        .yaml(LIMITS)
        .start()
        .await;
    larder.redis_is(true).await;
    let client = larder.client();
    let mut admitted = 0;
    for n in 0..80 {
        let ip = format!("10.1.{n}.1");
        let forged = match n % 3 {
            0 => signed("another-secret-of-at-least-32-bytes!", "x", "admin", 600),
            1 => signed(SECRET, "x", "admin", -600),
            // {"alg":"none"} . {"sub":"u9"} . nothing
            _ => "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1OSJ9.".to_owned(),
        };
        let headers = [
            ("X-Forwarded-For", ip.as_str()),
            ("X-Real-IP", &ip),
            ("Authorization", &bearer(&forged)),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        admitted += usize::from(client.get_with("/api/x", &headers).await.status == 200);
    }
    assert_eq!(admitted, 60);
}

#[tokio::test]
async fn without_redis_limits_are_counted_here() {
    let app = shop().await;
    let larder = larder(&app).yaml(LIMITS).start().await;
    assert_eq!(admitted(&larder, "GET", "/api/x", &[], 70).await, 60);
}

#[tokio::test]
async fn losing_redis_admits_no_second_quota_and_no_error() {
    let app = shop().await;
    let mut redis = RedisServer::start().await;
    let larder = larder(&app).redis(&redis).yaml(LIMITS).start().await;
    larder.redis_is(true).await;
    let before = admitted(&larder, "GET", "/api/x", &[], 40).await;
    redis.kill().await;
    let during = admitted(&larder, "GET", "/api/x", &[], 80).await;
    assert!(before + during <= 120, "{before} and {during} of 60");
    assert!(
        larder
            .metrics()
            .await
            .contains("larder_limit_local_fallback 1")
    );
}

#[tokio::test]
async fn shadow_counts_and_reports_and_never_refuses() {
    let app = shop().await;
    let larder = larder(&app)
        .yaml(&LIMITS.replace("mode: enforce", "mode: shadow"))
        .start()
        .await;
    assert_eq!(admitted(&larder, "GET", "/api/x", &[], 70).await, 70);
    assert!(larder.metrics().await.contains("decision=\"shadow\""));
}

#[tokio::test]
async fn hits_count_too_and_each_client_sees_its_own_numbers() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app).yaml(LIMITS).start().await;
    let client = larder.client();
    let left: Vec<String> = [
        client.get("/api/x").await,
        client.get("/api/x").await,
        client.get("/api/x").await,
    ]
    .iter()
    .map(|answer| answer.header("x-ratelimit-remaining"))
    .collect();
    assert_eq!(left, ["59", "58", "57"]);
    assert_eq!(app.count("/api/x"), 1);
}

const ONE_LIMIT: &str = "routes: [{ name: api, path: /api/*, limit: { rate: 4/min, per: ip } }]";

/// How many of the last decisions bear this word.
async fn decisions(larder: &Larder, word: &str) -> usize {
    let metrics = larder.metrics().await;
    let of = |line: &&str| {
        line.starts_with("larder_limit_decisions_total") && line.contains(&format!("\"{word}\""))
    };
    let count = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    metrics.lines().find(of).and_then(count).unwrap_or(0.0) as usize
}

#[tokio::test]
async fn redis_is_not_asked_about_whom_it_has_refused_until_he_may_come_back() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let patient = format!("{{ url: \"{}\", timeout: 5s }}", redis.url());
    let first = larder(&app).redis_block(&patient).yaml(ONE_LIMIT);
    let second = larder(&app).redis_block(&patient).yaml(ONE_LIMIT);
    let (first, second) = (first.start().await, second.start().await);
    first.redis_is(true).await;
    second.redis_is(true).await;
    // The first one also brings the script to Redis.
    assert_eq!(first.get("/api/x").await.status, 200);
    let asked = redis.monitor().await;
    let asked = || {
        let lines = asked.lines();
        lines.iter().filter(|line| line.contains("\"log\"")).count()
    };
    assert_eq!(admitted(&first, "GET", "/api/x", &[], 40).await, 3);
    assert_eq!(admitted(&second, "GET", "/api/x", &[], 40).await, 0);
    // The last one that fits says that it was the last.
    eventually("Redis was asked about four", async || {
        (asked() == 4).then_some(())
    })
    .await;
    // The long way, POST, knows what the short one knows, and the other way round.
    assert_eq!(admitted(&second, "POST", "/api/x", &[], 5).await, 0);
    assert_eq!(asked(), 4);
    assert_eq!(decisions(&first, "limited").await, 37);
    assert_eq!(decisions(&second, "limited").await, 45);
}

#[tokio::test]
async fn the_first_request_after_the_window_is_admitted_and_none_before() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let patient = format!("{{ url: \"{}\", timeout: 5s }}", redis.url());
    let larder = larder(&app)
        .redis_block(&patient)
        .yaml("routes: [{ name: api, path: /api/*, limit: { rate: 1/s, per: ip } }]")
        .start()
        .await;
    larder.redis_is(true).await;
    let (client, window) = (larder.client(), Duration::from_secs(1));
    // Between these two Redis has admitted the last one.
    let mut admitted: Option<(Instant, Instant)> = None;
    let (mut windows, mut refused) = (0, 0);
    while windows < 4 {
        let asked = Instant::now();
        let status = client.get("/api/x").await.status;
        let answered = Instant::now();
        match (status, admitted) {
            (200, Some((from, _))) => {
                let after = answered - from;
                assert!(after >= window, "a second one after {after:?}");
                (windows, admitted) = (windows + 1, Some((asked, answered)));
            }
            (200, None) => admitted = Some((asked, answered)),
            (429, Some((_, until))) => {
                let after = asked - until;
                assert!(after < window, "refused after {after:?}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn whoever_waits_as_long_as_he_is_told_is_admitted() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml("routes: [{ name: api, path: /api/*, limit: { rate: 2/2s, per: ip } }]")
        .start()
        .await;
    larder.redis_is(true).await;
    for _ in 0..2 {
        assert_eq!(admitted(&larder, "GET", "/api/x", &[], 2).await, 2);
        let refused = eventually("a refusal", async || {
            let answer = larder.get("/api/x").await;
            (answer.status == 429).then_some(answer)
        })
        .await;
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=3).contains(&wait), "{wait}");
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
    assert_eq!(larder.get("/api/x").await.status, 200);
}

#[tokio::test]
async fn a_changed_rate_or_mode_forgets_no_count_and_keeps_no_refusal() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml("limits: { mode: enforce }")
        .yaml(ONE_LIMIT)
        .start()
        .await;
    larder.redis_is(true).await;
    assert_eq!(admitted(&larder, "GET", "/api/x", &[], 9).await, 4);
    larder.configure("4/min", "6/min");
    larder.signal("HUP");
    eventually("one more is admitted", async || {
        (larder.get("/api/x").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(admitted(&larder, "GET", "/api/x", &[], 9).await, 1);
    larder.configure("mode: enforce", "mode: shadow");
    larder.signal("HUP");
    eventually("nobody is refused in shadow", async || {
        (larder.get("/api/x").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(admitted(&larder, "GET", "/api/x", &[], 9).await, 9);
    assert!(decisions(&larder, "shadow").await >= 10);
    larder.configure("6/min", "2/min");
    larder.configure("mode: shadow", "mode: enforce");
    larder.signal("HUP");
    eventually("a lower rate refuses", async || {
        (larder.get("/api/x").await.status == 429).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_known_refusal_by_one_of_two_counters_charges_neither() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let yaml = identity().replace(
        "identity: {",
        "identity: { trusted_proxies: [\"127.0.0.0/8\"],",
    );
    let larder = larder(&app)
        .redis(&redis)
        .yaml(&yaml)
        .yaml(&LIMITS.replace("methods: [POST]", "methods: [GET]"))
        .start()
        .await;
    larder.redis_is(true).await;
    let (one, two) = (
        bearer(&token("u1", "customer")),
        bearer(&token("u2", "customer")),
    );
    let pay = async |user: &str, ip: &str, times: usize| {
        let headers = [("Authorization", user), ("X-Forwarded-For", ip)];
        admitted(&larder, "GET", "/api/payments/intent", &headers, times).await
    };
    assert_eq!(pay(&one, "10.0.0.1", 30).await, 10);
    assert_eq!(pay(&one, "10.0.0.2", 30).await, 0, "u1 is used up");
    assert_eq!(pay(&two, "10.0.0.1", 30).await, 0, "so is his address");
    assert_eq!(
        pay(&two, "10.0.0.2", 30).await,
        10,
        "nobody else was charged"
    );
}

#[tokio::test]
async fn of_a_flood_of_refusals_all_are_counted_and_few_are_logged() {
    let app = shop().await;
    let larder = larder(&app)
        .yaml("log: { format: json }")
        .yaml(ONE_LIMIT)
        .manual_clock()
        .start()
        .await;
    let flood = async || admitted(&larder, "GET", "/api/x", &[], 500).await;
    let logged = || larder.log().matches("\"limited\"").count();
    assert_eq!(flood().await, 4);
    larder.says("\"limited\"").await;
    assert_eq!(decisions(&larder, "limited").await, 496);
    assert!(logged() < 100, "{}", logged());
    // The next window has a first refusal of its own.
    larder.advance("60s").await;
    let before = logged();
    assert_eq!(admitted(&larder, "GET", "/api/x", &[], 5).await, 4);
    eventually("it is logged", async || (logged() > before).then_some(())).await;
}

/// 300 in ten seconds, decided where they come in.
const TOLD_LATER: &str =
    "routes: [{ name: hot, path: /api/*, ttl: 1h, limit: { rate: 300/10s, per: ip, sync: 50ms } }]";

#[tokio::test]
async fn of_a_limit_that_is_told_later_only_what_the_others_had_not_heard_of_is_over() {
    let app = App::says(|_| Answer::public("x")).await;
    let redis = RedisServer::start().await;
    let patient = format!("{{ url: \"{}\", timeout: 5s }}", redis.url());
    let one = larder(&app).redis_block(&patient).yaml(TOLD_LATER);
    let two = larder(&app).redis_block(&patient).yaml(TOLD_LATER);
    let larders = [one.start().await, two.start().await];
    let mut clients = tokio::task::JoinSet::new();
    for (number, larder) in larders.iter().enumerate() {
        larder.redis_is(true).await;
        for _ in 0..4 {
            let client = larder.client();
            clients.spawn(async move {
                let mut admitted = Vec::new();
                let mut slowest = Duration::ZERO;
                loop {
                    let asked = Instant::now();
                    let status = client.get("/api/x").await.status;
                    slowest = slowest.max(asked.elapsed());
                    match status {
                        200 => admitted.push((asked, number)),
                        429 => return (admitted, slowest),
                        other => panic!("{other}"),
                    }
                }
            });
        }
    }
    let (mut admitted, mut trip) = (Vec::new(), Duration::ZERO);
    while let Some(one) = clients.join_next().await {
        let (times, slowest) = one.unwrap();
        admitted.extend(times);
        trip = trip.max(slowest);
    }
    // Whatever a request waited bounds what a call to Redis took.
    let unheard = 2 * (Duration::from_millis(50) + trip);
    let most = |larder: usize| {
        let of = |(at, by): &(Instant, usize)| (*by == larder).then_some(*at);
        let times: Vec<Instant> = admitted.iter().filter_map(of).collect();
        let within = |from: &Instant| {
            let times = times.iter();
            times
                .filter(|at| *at >= from && at.duration_since(*from) < unheard)
                .count()
        };
        times.iter().map(within).max().unwrap_or(0)
    };
    let over = most(0).min(most(1));
    assert!(
        (300..=300 + over).contains(&admitted.len()),
        "{} of 300, {over} may be over",
        admitted.len()
    );
}

#[tokio::test]
async fn a_hit_on_a_route_that_is_told_later_does_not_ask_redis() {
    let app = App::says(|_| Answer::public("x")).await;
    let redis = RedisServer::start().await;
    let patient = format!("{{ url: \"{}\", timeout: 5s }}", redis.url());
    let larder = larder(&app).redis_block(&patient).yaml(TOLD_LATER);
    let larder = larder.start().await;
    larder.redis_is(true).await;
    assert_eq!(larder.get("/api/x").await.status, 200);
    let asked = redis.monitor().await;
    let client = larder.client();
    for left in (100..299).rev() {
        let answer = client.get("/api/x").await;
        assert_eq!(answer.header("x-ratelimit-remaining"), left.to_string());
        assert_eq!(answer.header("ratelimit-policy"), "\"hot\";q=300;w=10");
    }
    let lines = asked.lines();
    let calls = lines
        .iter()
        .filter(|line| line.contains("\"cells\""))
        .count();
    assert!(calls < 150, "{calls} calls for 199 requests");
    assert_eq!(app.count("/api/x"), 1);
}

#[tokio::test]
async fn what_was_admitted_while_redis_was_away_is_told_when_it_is_back() {
    let app = App::says(|_| Answer::public("x")).await;
    let mut redis = RedisServer::start().await;
    let yaml = TOLD_LATER.replace("300/10s", "300/10m");
    let first = larder(&app).redis(&redis).yaml(&yaml).start().await;
    first.redis_is(true).await;
    assert_eq!(admitted(&first, "GET", "/api/x", &[], 20).await, 20);
    redis.kill().await;
    first.redis_is(false).await;
    assert_eq!(admitted(&first, "GET", "/api/x", &[], 50).await, 50);
    redis.restart_empty().await;
    first.redis_is(true).await;
    let second = larder(&app).redis(&redis).yaml(&yaml).start().await;
    second.redis_is(true).await;
    let mut asked = 0;
    eventually("the second one hears of fifty", async || {
        asked += 1;
        let left = second.get("/api/x").await.header("x-ratelimit-remaining");
        let left: usize = left.parse().ok()?;
        (left + asked <= 300 - 50).then_some(())
    })
    .await;
}
