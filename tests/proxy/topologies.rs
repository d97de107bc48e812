//! Redis of several servers: a Cluster whose slots move and whose primary dies, and what Sentinels
//! monitor while they change the primary, all under traffic.

use crate::support::*;
use std::time::{Duration, Instant};

const ROUTES: &str = r#"
cache: { memory: 0B }
routes: [{ name: car, path: "/api/cars/{id}", ttl: 5m, tags: ["car:{id}"] }]
"#;
/// Cars that traffic asks for.
const CARS: usize = 50;

fn block(url: &str, more: &str) -> String {
    format!("{{ url: \"{url}\", timeout: 100ms{more} }}")
}

fn car(n: usize) -> String {
    format!("/api/cars/{n}")
}

fn everything() -> serde_json::Value {
    serde_json::json!({ "all": true, "soft": false })
}

/// Asks for every car until Redis has all of them. Returns how many requests that took the app.
async fn fill(app: &App, larder: &Larder) -> u64 {
    for n in 0..CARS {
        eventually("a hit", async || {
            (larder.get(&car(n)).await.cache() == "HIT").then_some(())
        })
        .await;
    }
    app.total()
}

/// Which node of a Cluster has each car; asked before anything else is stored.
async fn shards(cluster: &RedisCluster, larder: &Larder) -> Vec<usize> {
    let entries = async |node: &RedisServer| {
        let keys = node.keys().await.into_iter();
        keys.filter(|key| key.contains(":1:{")).count()
    };
    let mut shards = Vec::new();
    let mut before = [0; 3];
    for n in 0..CARS {
        larder.get(&car(n)).await;
        let shard = eventually("the car is stored", async || {
            let mut now = [0; 3];
            for (at, count) in now.iter_mut().enumerate() {
                *count = entries(&cluster.nodes[at]).await;
            }
            let shard = (0..3).find(|at| now[*at] > before[*at])?;
            before = now;
            Some(shard)
        })
        .await;
        shards.push(shard);
    }
    shards
}

#[tokio::test]
async fn a_cluster_is_used_as_one_and_slots_may_move_under_traffic() {
    let (app, cluster) = (shop().await, RedisCluster::start().await);
    let larder = larder(&app)
        .redis_block(block(&cluster.url(), ""))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    let before = fill(&app, &larder).await;
    for node in &cluster.nodes[..3] {
        let keys = node.keys().await;
        assert!(keys.iter().any(|key| key.contains(":1:{")), "{keys:?}");
    }
    let traffic = Traffic::of(&larder, 8);
    traffic.goes_on(100).await;
    cluster.move_slots(0, 1, 300).await;
    cluster.move_slots(1, 2, 300).await;
    cluster.move_slots(2, 0, 600).await;
    traffic.goes_on(200).await;
    traffic.end().await;
    let fetched = app.total() - before;
    // On a busy machine an answer may come too late now and then.
    assert!(
        fetched <= 15,
        "{fetched} fetches, though what moved can be found"
    );

    // What is stored now goes to whoever has its slot now, and a purge reaches all of them.
    larder.purge(everything()).await;
    assert_eq!(larder.get(&car(0)).await.cache(), "MISS");
    fill(&app, &larder).await;
}

#[tokio::test]
async fn variants_tags_limits_and_another_sidecar_work_in_a_cluster_as_in_one_server() {
    let app = App::says(|seen| {
        let language = seen.header("accept-language").unwrap_or("none");
        Answer::public(format!("{} in {language}", seen.path())).header("Vary", "Accept-Language")
    })
    .await;
    let cluster = RedisCluster::start().await;
    let yaml = r#"
cache: { memory: 0B }
limits: { tiers: [{ name: all, for: anyone, rate: 12/hour, per: ip }], paths: [/limited/*] }
routes:
  - { path: /limited/*, no_store: true }
  - { name: page, path: /pages/*, ttl: 5m, tags: [pages] }
"#;
    let setup = || {
        larder(&app)
            .redis_block(block(&cluster.url(), ""))
            .yaml(yaml)
    };
    let (one, other) = (setup().start().await, setup().start().await);
    one.redis_is(true).await;
    other.redis_is(true).await;
    let page = async |of: &Larder, language| {
        let fields = [("Accept-Language", language)];
        of.get_with("/pages/a", &fields).await
    };
    for language in ["de", "fr"] {
        eventually("the other sidecar has the variant, too", async || {
            let (here, there) = (page(&one, language).await, page(&other, language).await);
            assert_eq!(there.text(), format!("/pages/a in {language}"));
            (here.cache() == "HIT" && there.cache() == "HIT").then_some(())
        })
        .await;
    }
    let purge = serde_json::json!({ "tags": ["pages"], "soft": false });
    assert_eq!(one.purge(purge).await.status, 200);
    eventually("purged everywhere", async || {
        (page(&other, "de").await.cache() == "MISS").then_some(())
    })
    .await;
    let mut admitted = 0;
    for n in 0..20 {
        let sidecar = if n % 2 == 0 { &one } else { &other };
        admitted += u32::from(sidecar.get("/limited/a").await.status == 200);
    }
    assert_eq!(admitted, 12, "counted together");
    // What its primaries say of themselves is added up.
    let mut takes = 0;
    for node in &cluster.nodes[..3] {
        let info = node.cli(&["INFO", "clients"]).await;
        let most = info
            .lines()
            .find_map(|line| line.strip_prefix("maxclients:"));
        takes += most.unwrap().trim().parse::<u64>().unwrap();
    }
    eventually("all primaries are asked", async || {
        let page = one.admin().get("/v1/redis").await.json();
        (page["info"]["maxclients"] == takes).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_of_a_cluster_named_as_one_server_is_recognized() {
    let (app, cluster) = (shop().await, RedisCluster::start().await);
    let larder = larder(&app)
        .redis_block(block(&cluster.nodes[0].url(), ""))
        .yaml(ROUTES)
        .start()
        .await;
    for n in 0..CARS {
        assert_eq!(larder.get(&car(n)).await.text(), format!("car {}", car(n)));
    }
    larder.says("write redis+cluster://").await;
}

#[tokio::test]
async fn a_killed_primary_costs_its_own_keys_until_its_replica_takes_over() {
    let (app, mut cluster) = (shop().await, RedisCluster::start().await);
    let larder = larder(&app)
        .redis_block(block(&cluster.url(), ""))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    let shards = shards(&cluster, &larder).await;
    fill(&app, &larder).await;
    for dead in [cluster.shard_of("larder:purges").await, 0] {
        if cluster.nodes[dead].cli(&["PING"]).await != "PONG" {
            continue;
        }
        let others: Vec<usize> = (0..CARS).filter(|n| shards[*n] != dead).collect();
        let own = (0..CARS).find(|n| shards[*n] == dead).unwrap();
        let traffic = Traffic::of(&larder, 4);
        traffic.goes_on(50).await;
        cluster.nodes[dead].kill().await;
        let killed = Instant::now();
        // The others keep hitting all the while.
        let fetches = || others.iter().map(|n| app.count(&car(*n))).sum::<usize>();
        let before = fetches();
        eventually("the replica takes over", async || {
            let answer = larder.get(&car(own)).await;
            (answer.cache() == "HIT").then_some(())
        })
        .await;
        traffic.goes_on(100).await;
        let asked = traffic.end().await;
        println!("taken over after {:?}", killed.elapsed());
        // On a busy machine an answer may come too late now and then.
        let fetched = fetches() - before;
        assert!(
            fetched <= 10,
            "{fetched} fetches of the other shards' keys in {asked} requests"
        );
    }
}

#[tokio::test]
async fn a_forced_failover_by_sentinels_is_followed_under_traffic() {
    let (app, redis) = (shop().await, Monitored::start().await);
    let larder = larder(&app)
        .redis_block(block(&redis.url(), ""))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    let traffic = Traffic::of(&larder, 8);
    traffic.goes_on(100).await;
    let primary = redis.fail_over().await;
    let named = Instant::now();
    larder
        .says(&format!("redis://127.0.0.1:{primary} is a primary now"))
        .await;
    let noticed = named.elapsed();
    assert!(noticed < Duration::from_millis(500), "{noticed:?}");
    eventually("hits come from the new primary", async || {
        (larder.get(&car(1)).await.cache() == "HIT").then_some(())
    })
    .await;
    traffic.goes_on(200).await;
    traffic.end().await;
    assert_eq!(larder.purge(everything()).await.status, 200);
    assert_eq!(larder.get(&car(1)).await.cache(), "MISS");
    fill(&app, &larder).await;
}

#[tokio::test]
async fn sentinels_that_want_a_password_are_given_that_of_what_they_monitor() {
    let (app, redis) = (shop().await, Monitored::start().await);
    for at in 0..3 {
        let larder = ["ACL", "SETUSER", "larder", "on", ">pw", "+@all"];
        let others = ["ACL", "SETUSER", "default", "resetpass", ">other"];
        for command in [&larder[..], &others] {
            assert_eq!(redis.ask(at, command).await, "OK");
        }
        assert!(redis.ask(at, &["PING"]).await.starts_with("NOAUTH"));
    }
    let larder = larder(&app)
        .redis_block(block(&redis.url(), ""))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    // So does who asks once.
    for server in &redis.servers {
        server.may_refuse("acl|whoami");
    }
    let yaml = format!("upstream: {}\nredis: {}\n", app.url(), redis.url());
    let told = larder_cli(&["doctor", "-c", "-"], &yaml).await;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("round trip"), "{told}");
}

#[tokio::test]
async fn a_primary_that_hangs_is_replaced_and_not_used_when_it_wakes() {
    let (app, redis) = (shop().await, Monitored::start().await);
    let larder = larder(&app)
        .redis_block(block(&redis.url(), ""))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    let before = redis.primary().await;
    let traffic = Traffic::of(&larder, 8);
    redis.servers[0].stop();
    redis.names_another(before).await;
    larder.redis_is(true).await;
    redis.servers[0].resume();
    // What the old primary does not hear of, it does not undo.
    larder.purge(everything()).await;
    traffic.goes_on(200).await;
    traffic.end().await;
    fill(&app, &larder).await;
}

#[tokio::test]
async fn hits_may_come_from_a_replica_while_it_follows_its_primary() {
    let (app, redis) = (shop().await, Monitored::start().await);
    let replica = &redis.servers[1];
    let gets = async || {
        let stats = replica.cli(&["INFO", "commandstats"]).await;
        let line = stats.lines().find(|line| line.starts_with("cmdstat_get:"));
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1)?.parse::<u64>().ok());
        calls.unwrap_or(0)
    };
    let larder = larder(&app)
        .redis_block(block(&redis.url(), ", read_from: replica"))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    eventually("the replica is asked", async || {
        let before = gets().await;
        for n in 0..CARS {
            assert_eq!(larder.get(&car(n)).await.cache(), "HIT");
        }
        (gets().await >= before + CARS as u64).then_some(())
    })
    .await;

    // Purged is purged, whatever the replica has heard of it.
    replica.cli(&["CLIENT", "PAUSE", "1", "WRITE"]).await;
    larder
        .purge(serde_json::json!({ "tags": ["car:1"], "soft": false }))
        .await;
    assert_eq!(larder.get(&car(1)).await.cache(), "MISS");

    // One that has lost its primary is not asked.
    replica.cli(&["REPLICAOF", "127.0.0.1", "1"]).await;
    eventually("the primary is asked instead", async || {
        let before = gets().await;
        for n in 0..CARS {
            larder.get(&car(n)).await;
        }
        (gets().await == before).then_some(())
    })
    .await;
}
