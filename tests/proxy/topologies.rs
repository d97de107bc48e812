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

async fn beside(app: &App, url: &str, more: &str) -> Larder {
    let setup = larder(app).redis_block(block(url, more));
    setup.yaml(ROUTES).start().await
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

/// How often this server was asked for a value.
async fn gets(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]).await;
    let line = stats.lines().find(|line| line.starts_with("cmdstat_get:"));
    let calls = line.and_then(|line| line.split(['=', ',']).nth(1)?.parse::<u64>().ok());
    calls.unwrap_or(0)
}

/// Until this server follows that one.
async fn follows(replica: &RedisServer, primary: &RedisServer) {
    let port = primary.port.to_string();
    replica.cli(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually("the replica follows", async || {
        let info = replica.cli(&["INFO", "replication"]).await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
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
    let larder = beside(&app, &cluster.url(), "").await;
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
    let larder = beside(&app, &cluster.nodes[0].url(), "").await;
    for n in 0..CARS {
        assert_eq!(larder.get(&car(n)).await.text(), format!("car {}", car(n)));
    }
    larder.says("write redis+cluster://").await;
}

#[tokio::test]
async fn a_killed_primary_costs_its_own_keys_until_its_replica_takes_over() {
    let (app, mut cluster) = (shop().await, RedisCluster::start().await);
    let larder = beside(&app, &cluster.url(), "").await;
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
    let larder = beside(&app, &redis.url(), "").await;
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
    let larder = beside(&app, &redis.url(), "").await;
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
    let gets = async || gets(replica).await;
    let larder = beside(&app, &redis.url(), ", read_from: replica").await;
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

#[tokio::test]
async fn whoever_is_nearest_is_read_from() {
    let (app, primary) = (shop().await, RedisServer::with(&FOLLOWS).await);
    let replica = RedisServer::with(&FOLLOWS).await;
    let to_primary = FaultProxy::before(primary.address()).await;
    let to_replica = FaultProxy::before(replica.address()).await;
    replica.others_send("config");
    let port = to_replica.address.port().to_string();
    for (name, value) in [("ip", "127.0.0.1"), ("port", &port)] {
        let name = format!("replica-announce-{name}");
        replica.cli(&["CONFIG", "SET", &name, value]).await;
    }
    follows(&replica, &primary).await;
    let url = primary.url_by(to_primary.address);
    let larder = larder(&app)
        .redis_block(format!(
            "{{ url: \"{url}\", timeout: 2s, read_from: nearest }}"
        ))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    let far = Fault::Delay(Duration::from_millis(20));
    for (near, near_by, far_by) in [
        (&replica, &to_replica, &to_primary),
        (&primary, &to_primary, &to_replica),
    ] {
        far_by.set(far);
        near_by.set(Fault::Pass);
        eventually("the nearest alone is asked", async || {
            let before = gets(near).await;
            for n in 0..CARS {
                assert_eq!(larder.get(&car(n)).await.cache(), "HIT");
            }
            (gets(near).await >= before + CARS as u64).then_some(())
        })
        .await;
    }
}

/// A failover as managed servers have it: the address is given to the other, and connections stand.
async fn address_moves(read_from: &str) {
    let (app, old) = (shop().await, RedisServer::with(&FOLLOWS).await);
    let new = RedisServer::with(&FOLLOWS).await;
    follows(&new, &old).await;
    let name = FaultProxy::before(old.address()).await;
    let larder = larder(&app)
        .redis_block(block(
            &old.url_by(name.address),
            &format!(", read_from: {read_from}"),
        ))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    let traffic = Traffic::of(&larder, 4);
    new.cli(&["REPLICAOF", "NO", "ONE"]).await;
    name.leads_to(new.address());
    follows(&old, &new).await;
    // The first that is not stored tells it.
    eventually("all speak with the new primary", async || {
        larder.get("/api/cars/new").await;
        let left = old.cli(&["CLIENT", "LIST"]).await;
        (!left.contains(" user=larder ") || read_from == "replica").then_some(())
    })
    .await;
    larder.says("takes no writes").await;
    eventually("what is new is stored there", async || {
        (larder.get("/api/cars/newer").await.cache() == "HIT").then_some(())
    })
    .await;
    traffic.goes_on(100).await;
    traffic.end().await;
    assert_eq!(larder.purge(everything()).await.status, 200);
    assert_eq!(larder.get(&car(1)).await.cache(), "MISS");
}

#[tokio::test]
async fn an_address_that_leads_to_another_server_now_is_followed_there() {
    address_moves("primary").await;
}

#[tokio::test]
async fn an_address_that_moves_is_followed_where_replicas_are_read_from_as_well() {
    address_moves("replica").await;
}

#[tokio::test]
async fn what_a_cluster_says_of_itself_is_what_its_primaries_say_together() {
    let (app, cluster) = (shop().await, RedisCluster::start().await);
    for node in &cluster.nodes {
        node.others_send("config");
        node.cli(&["CONFIG", "SET", "maxmemory", "64mb"]).await;
        node.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
            .await;
        node.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "20000"])
            .await;
        node.cli(&["ACL", "SETUSER", "larder", "+slowlog|get"])
            .await;
    }
    let larder = larder(&app)
        .redis_block(block(&cluster.url(), ""))
        .yaml(ROUTES)
        .manual_clock()
        .start()
        .await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    eventually("all keys are counted", async || {
        let mut keys = 0;
        for node in &cluster.nodes[..3] {
            keys += node.cli(&["DBSIZE"]).await.parse::<u64>().unwrap();
        }
        larder.advance("10s").await;
        let page = larder.admin().get("/v1/redis").await.json();
        let info = &page["info"];
        let is_known = page["slowlog"]["readable"] == true;
        let is_sum = info["keys"] == keys && info["maxmemory"] == 3 * (64 << 20);
        (is_sum && is_known).then_some(())
    })
    .await;
    for node in &cluster.nodes[..3] {
        node.cli(&["DEBUG", "SLEEP", "0.03"]).await;
    }
    eventually("what took each of them long is counted", async || {
        larder.advance("10s").await;
        let page = larder.admin().get("/v1/redis").await.json();
        (page["slowlog"]["total"].as_u64() >= Some(3)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_breaker_is_told_to_be_holds_for_the_primary_that_comes_next() {
    let (app, redis) = (shop().await, Monitored::start().await);
    let larder = beside(&app, &redis.url(), "").await;
    larder.redis_is(true).await;
    fill(&app, &larder).await;
    let json = [("Content-Type", "application/json")];
    let told = larder
        .admin()
        .post("/v1/redis/breaker", &json, r#"{"state": "open"}"#)
        .await;
    assert_eq!(told.status, 200);
    let primary = redis.fail_over().await;
    eventually("the new primary is not asked either", async || {
        let page = larder.admin().get("/v1/redis").await.json();
        let node = page["nodes"][0]["address"] == format!("redis://127.0.0.1:{primary}");
        let breaker = &page["breaker"];
        (node && breaker["forced"] == "open" && breaker["state"] == "open").then_some(())
    })
    .await;
    assert_ne!(larder.get(&car(1)).await.cache(), "HIT");
}
