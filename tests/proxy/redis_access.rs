//! Getting into Redis: TLS, users and passwords, secrets that change, and every way in which it goes
//! wrong. Meanwhile everything is answered, and nothing of a secret is told.

use crate::support::*;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet};

/// Redis alone holds what is stored, so that a hit is a hit there.
const ROUTES: &str = "cache: { memory: 0B }\nworkers: 2\n\
    routes: [{ name: car, path: \"/api/cars/{id}\", ttl: 5m }]";

/// A file with a secret.
struct SecretFile {
    path: PathBuf,
    _folder: TempDir,
}

impl SecretFile {
    fn with(secret: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Self {
            path: folder.path().join("password"),
            _folder: folder,
        };
        file.write(secret);
        file
    }

    /// Renamed into place, as a secrets manager does.
    fn write(&self, secret: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, format!("{secret}\n")).unwrap();
        std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(beside, &self.path).unwrap();
    }

    /// As if it had been written in 2001.
    fn is_old(&self) {
        let file = std::fs::File::options().write(true).open(&self.path);
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        file.unwrap().set_modified(then).unwrap();
    }

    fn reference(&self) -> String {
        format!("\"file:{}\"", self.path.display())
    }
}

/// The ids of larder's connections, as Redis numbers them.
async fn connections(redis: &RedisServer) -> Vec<u64> {
    let list = redis.cli(&["CLIENT", "LIST"]).await;
    let is_ours = |line: &&str| line.contains(" user=larder ");
    let ours = list.lines().filter(is_ours);
    let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
    ours.filter_map(id).collect()
}

/// Until each of larder's connections is younger than those.
async fn all_newer(redis: &RedisServer, than: &[u64]) {
    let last = than.iter().max().copied().unwrap_or_default();
    eventually("every connection was replaced", async || {
        let now = connections(redis).await;
        (now.len() >= than.len() && now.iter().all(|id| *id > last)).then_some(())
    })
    .await;
}

/// Asks for every car once, so that Redis has them all.
async fn warm(larder: &Larder) {
    let client = larder.client();
    for n in 0..50 {
        let path = format!("/api/cars/{n}");
        eventually("it is stored", async || {
            (client.get(&path).await.cache() == "HIT").then_some(())
        })
        .await;
    }
}

/// Changes larder's user.
async fn set_user(redis: &RedisServer, rules: &[&str]) {
    let mut command = vec!["ACL", "SETUSER", "larder"];
    command.extend(rules);
    assert_eq!(redis.cli(&command).await, "OK");
}

async fn credentials_age(larder: &Larder) -> f64 {
    let metrics = larder.metrics().await;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("larder_redis_credentials_age_seconds "));
    line.expect("the age is told").parse().unwrap()
}

#[tokio::test]
async fn a_private_authority_another_name_and_a_certificate_of_our_own_are_enough() {
    let authority = Authority::new();
    authority.issue("server", &["cache.internal"]);
    authority.issue("client", &["larder"]);
    let port = free_port();
    let options = authority.redis_options("server", port, true);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let redis = RedisServer::with(&options).await;
    let app = shop().await;
    let block = |tls: &str| {
        format!(
            "{{ url: \"rediss://larder:pw@127.0.0.1:{port}\", require_tls: true, tls: {{ ca: \"{}\"{tls} }} }}",
            authority.file("ca.pem")
        )
    };
    let own = format!(
        ", server_name: cache.internal, cert: \"{}\", key: \"{}\"",
        authority.file("client.pem"),
        authority.file("client.key")
    );
    let larder = larder(&app)
        .redis_block(block(&own))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    warm(&larder).await;
    assert!(!redis.keys().await.is_empty());
    // A certificate that is renewed is shown by the next connections; the old ones live until then.
    let before = connections(&redis).await;
    let traffic = Traffic::of(&larder, 4);
    let asked = app.total();
    authority.issue("client", &["larder", "renewed"]);
    all_newer(&redis, &before).await;
    traffic.end().await;
    assert_eq!(app.total(), asked, "every answer came from Redis");
}

#[tokio::test]
async fn the_name_that_is_asked_for_is_the_one_in_the_configuration() {
    let authority = Authority::new();
    authority.issue("server", &["cache.internal", "localhost"]);
    let redis = RedisServer::start().await;
    let any = (Ipv4Addr::LOCALHOST, 0);
    let front = TlsFront::before(redis.address(), any, &authority, "server").await;
    let app = shop().await;
    for (host, server_name) in [
        ("127.0.0.1", ", server_name: cache.internal"),
        ("localhost", ""),
    ] {
        let block = format!(
            "{{ url: \"rediss://larder:pw@{host}:{}\", tls: {{ ca: \"{}\"{server_name} }} }}",
            front.address.port(),
            authority.file("ca.pem")
        );
        let larder = larder(&app).redis_block(block).yaml(ROUTES).start().await;
        larder.redis_is(true).await;
    }
    let asked = front.asked();
    for name in ["cache.internal", "localhost"] {
        assert!(asked.contains(&Some(name.to_owned())), "{asked:?}");
    }
}

#[tokio::test]
async fn a_password_is_exchanged_without_losing_a_request_or_a_hit() {
    let redis = RedisServer::start().await;
    set_user(&redis, &["resetpass", ">first"]).await;
    redis.may_refuse("AUTH");
    let file = SecretFile::with("first");
    file.is_old();
    let app = shop().await;
    let larder = larder(&app)
        .redis_block(format!(
            "{{ url: \"redis://127.0.0.1:{}\", username: larder, password: {}, timeout: 2s }}",
            redis.port,
            file.reference()
        ))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    warm(&larder).await;
    let traffic = Traffic::of(&larder, 8);
    let asked = app.total();
    assert!(credentials_age(&larder).await > 99.0 * 86_400.0);

    // The usual order: both are valid for a while.
    let before = connections(&redis).await;
    assert!(before.len() >= 5, "{before:?}");
    set_user(&redis, &[">second"]).await;
    file.write("second");
    all_newer(&redis, &before).await;
    set_user(&redis, &["<first"]).await;
    traffic.goes_on(200).await;
    assert!(credentials_age(&larder).await < 3_600.0);

    // Redis first: standing connections live on, and the new password is known before it is needed.
    let before = connections(&redis).await;
    set_user(&redis, &["resetpass", ">third"]).await;
    traffic.goes_on(200).await;
    file.write("third");
    all_newer(&redis, &before).await;
    assert_eq!(app.total(), asked, "every answer came from Redis");

    // The file first: whoever connects meanwhile is greeted with the old one.
    let before = connections(&redis).await;
    file.write("fourth");
    larder.says("wrong-password").await;
    redis
        .cli(&["CLIENT", "KILL", "ID", &before[0].to_string()])
        .await;
    eventually("it is connected again", async || {
        let now = connections(&redis).await;
        (now.len() >= before.len()).then_some(())
    })
    .await;
    eventually("every worker uses it again", async || {
        let metrics = larder.metrics().await;
        metrics.contains("larder_redis_up 1\n").then_some(())
    })
    .await;
    warm(&larder).await;
    let (asked, before) = (app.total(), connections(&redis).await);
    set_user(&redis, &["resetpass", ">fourth"]).await;
    all_newer(&redis, &before).await;
    assert_eq!(app.total(), asked, "every answer came from Redis");

    assert!(traffic.end().await > 600);
    let log = larder.log();
    for secret in ["first", "second", "third", "fourth"] {
        assert!(!log.contains(&format!("{secret}\"")), "{log}");
    }
}

#[tokio::test]
async fn a_second_redis_for_limits_is_let_in_to_anew_as_well() {
    let (redis, second) = (RedisServer::start().await, RedisServer::start().await);
    let address = |password: &str| format!("redis://larder:{password}@{}", second.address());
    let file = SecretFile::with(&address("pw"));
    let app = shop().await;
    let limit =
        "limits: { paths: [/*], tiers: [{ name: all, for: anyone, rate: 5/min, per: ip }] }";
    let larder = larder(&app)
        .redis_block(format!(
            "{{ url: \"{}\", limits_url: {} }}",
            redis.url(),
            file.reference()
        ))
        .yaml(&format!("workers: 2\n{limit}"))
        .start()
        .await;
    larder.redis_is(true).await;
    eventually("the limit is counted there", async || {
        larder.get("/api/cars/1").await;
        (!second.keys().await.is_empty()).then_some(())
    })
    .await;
    let before = connections(&second).await;
    set_user(&second, &[">other"]).await;
    file.write(&address("other"));
    all_newer(&second, &before).await;
    set_user(&second, &["<pw"]).await;
    eventually("the same counter refuses", async || {
        (larder.get("/api/cars/1").await.status == 429).then_some(())
    })
    .await;
    let settings = "is taken up only by a restart";
    assert!(!larder.log().contains(settings), "{}", larder.log());
}

/// Exchanges the password under traffic in a Redis of several servers, and has nobody let in by the old
/// one in the end.
async fn exchanged_at(servers: &[RedisServer], url: &str) {
    for server in servers {
        set_user(server, &["resetpass", ">first"]).await;
    }
    let file = SecretFile::with("first");
    let (scheme, hosts) = url.split_once("larder:pw@").unwrap();
    let app = shop().await;
    let larder = larder(&app)
        .redis_block(format!(
            "{{ url: \"{scheme}{hosts}\", username: larder, password: {}, timeout: 2s }}",
            file.reference()
        ))
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    warm(&larder).await;
    let (traffic, asked) = (Traffic::of(&larder, 4), app.total());
    let mut last = Vec::new();
    for server in servers {
        last.push(connections(server).await.into_iter().max().unwrap_or(0));
        set_user(server, &[">second"]).await;
    }
    file.write("second");
    for (server, last) in servers.iter().zip(&last) {
        eventually("every connection was replaced", async || {
            let now = connections(server).await;
            now.iter().all(|id| id > last).then_some(())
        })
        .await;
        set_user(server, &["<first"]).await;
    }
    traffic.goes_on(200).await;
    assert_eq!(app.total(), asked, "every answer came from Redis");
    // Whoever connects from now on is let in by the new one, and so is who asks for the servers.
    for server in servers {
        server.cli(&["CLIENT", "KILL", "USER", "larder"]).await;
    }
    larder.redis_is(true).await;
    warm(&larder).await;
    traffic.goes_on(100).await;
    traffic.end().await;
    for wrong in ["are not known", "wrong-password"] {
        assert!(!larder.log().contains(wrong), "{}", larder.log());
    }
}

#[tokio::test]
async fn the_password_of_a_cluster_is_exchanged_without_losing_a_hit() {
    let cluster = RedisCluster::start().await;
    exchanged_at(&cluster.nodes, &cluster.url()).await;
}

#[tokio::test]
async fn the_password_of_what_sentinels_monitor_is_exchanged_without_losing_a_hit() {
    let redis = Monitored::start().await;
    exchanged_at(&redis.servers, &redis.url()).await;
}

#[tokio::test]
async fn a_cluster_that_refuses_us_is_not_asked_again_and_again() {
    let (app, cluster) = (shop().await, RedisCluster::start().await);
    for node in &cluster.nodes {
        node.may_refuse("AUTH");
        node.may_refuse("cluster|slots");
        set_user(node, &["-cluster|slots"]).await;
    }
    let refused = async || {
        let mut refused = 0;
        for node in &cluster.nodes {
            let log = node.cli(&["ACL", "LOG", "100"]).await;
            let counts = log.lines().skip_while(|line| *line != "count");
            let counts = counts.collect::<Vec<_>>();
            let each = counts.windows(2).filter(|pair| pair[0] == "count");
            refused += each
                .map(|pair| pair[1].parse::<u64>().unwrap())
                .sum::<u64>();
        }
        refused
    };
    for (password, why) in [("other", "WRONGPASS"), ("pw", "NOPERM")] {
        let url = cluster.url().replace(":pw@", &format!(":{password}@"));
        let larder = larder(&app).redis_url(url).yaml(ROUTES).start().await;
        larder.says(why).await;
        let before = refused().await;
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            assert_eq!(larder.get("/api/cars/1").await.status, 200);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // The two that are named, once.
        let tries = refused().await - before;
        assert!(tries <= 2, "{why}: {tries} tries in three seconds");
    }
}

/// A server that takes connections and says this to whoever says something.
async fn stranger(says: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if says.is_empty() {
                open.push(stream);
                continue;
            }
            tokio::spawn(async move {
                let mut heard = [0; 64];
                let _ = stream.read(&mut heard).await;
                let _ = stream.write_all(says.as_bytes()).await;
                let _ = stream.read(&mut heard).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn whatever_is_wrong_is_named_with_its_cure_and_every_request_is_answered() {
    let authority = Authority::new();
    authority.issue("good", &["127.0.0.1", "localhost"]);
    authority.issue("other", &["cache.internal"]);
    authority.issue_until("expired", &["127.0.0.1"], 2021);
    let ca = format!("tls: {{ ca: \"{}\" }}", authority.file("ca.pem"));
    let mut servers = Vec::new();
    let mut tls = Vec::new();
    for (name, clients) in [
        ("good", false),
        ("other", false),
        ("expired", false),
        ("good", true),
    ] {
        let port = free_port();
        let options = authority.redis_options(name, port, clients);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        servers.push(RedisServer::with(&options).await);
        tls.push(port);
    }
    let redis = RedisServer::start().await;
    redis.may_refuse("AUTH");
    let web = stranger("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let silent = stranger("").await;
    let plain = redis.port;
    let cases = [
        (
            format!("url: \"redis://larder:hunter2@127.0.0.1:{plain}\""),
            "user `larder` is refused",
            "redis.password",
        ),
        (
            format!("url: \"redis://nobody:hunter2@127.0.0.1:{plain}\""),
            "user `nobody` is refused",
            "redis.username",
        ),
        (
            format!("url: \"redis://127.0.0.1:{}\"", redis.port),
            "it wants a password",
            "set redis.password",
        ),
        (
            format!("url: \"redis://:hunter2@127.0.0.1:{}\"", redis.port),
            "user `default` is refused",
            "redis.password",
        ),
        (
            format!("url: \"redis://larder:pw@127.0.0.1:{plain}/99\""),
            "DB index",
            "databases",
        ),
        (
            format!("url: \"redis://127.0.0.1:{}\"", free_port()),
            "nobody listens",
            "start Redis",
        ),
        (
            "url: \"redis://no-such-host.invalid\"".into(),
            "is not found",
            "mend the host",
        ),
        (
            format!("url: \"redis://{web}\""),
            "it answered in HTTP",
            "6379",
        ),
        (
            format!("url: \"redis://{silent}\""),
            "the greeting was not answered within",
            "rediss://",
        ),
        (
            format!("url: \"rediss://{silent}\", {ca}"),
            "the TLS handshake was not answered within",
            "redis://",
        ),
        (
            format!("url: \"rediss://127.0.0.1:{plain}\", {ca}"),
            "in plain text",
            "redis://",
        ),
        (
            format!("url: \"redis://127.0.0.1:{}\"", tls[0]),
            "it speaks TLS there",
            "rediss://",
        ),
        (
            format!("url: \"rediss://127.0.0.1:{}\"", tls[0]),
            "an authority that is not trusted",
            "redis.tls.ca",
        ),
        (
            format!("url: \"rediss://127.0.0.1:{}\", {ca}", tls[1]),
            "is for cache.internal, not for 127.0.0.1",
            "redis.tls.server_name",
        ),
        (
            format!("url: \"rediss://127.0.0.1:{}\", {ca}", tls[2]),
            "expired on Fri, 01 Jan 2021",
            "renew",
        ),
        (
            format!("url: \"rediss://127.0.0.1:{}\", {ca}", tls[3]),
            "it wants a certificate of ours",
            "redis.tls.cert",
        ),
        (
            format!("url: \"redis+cluster://larder:pw@127.0.0.1:{plain}\""),
            "cluster support disabled",
            "write redis://",
        ),
        (
            format!("url: \"redis+sentinel://larder:pw@127.0.0.1:{plain}/shop\""),
            "unknown command 'SENTINEL'",
            "26379",
        ),
        (
            format!("url: \"redis+sentinel://127.0.0.1:{}/shop\"", free_port()),
            "nobody listens",
            "start Redis",
        ),
        (
            "url: \"redis+unix:///no/such.sock\"".into(),
            "does not exist",
            "start Redis",
        ),
    ];
    let mut set = JoinSet::new();
    let here = LocalSet::new();
    for (settings, cause, cure) in cases {
        set.spawn_local_on(
            async move {
                let app = shop().await;
                let block = format!("{{ {settings} }}");
                let larder = larder(&app)
                    .redis_block(&block)
                    .yaml("workers: 2\nroutes: [{ path: /*, ttl: 1m }]")
                    .start()
                    .await;
                let traffic = Traffic::of(&larder, 2);
                larder.says(cause).await;
                larder.says(cure).await;
                traffic.goes_on(50).await;
                traffic.end().await;
                assert!(
                    larder.get("/api/cars/1").await.cache() == "HIT",
                    "memory serves"
                );
                let log = larder.log();
                assert!(!log.contains("hunter2"), "{log}");
                let yaml = format!(
                    "upstream: {{ url: {}, health: / }}\nlisten: 127.0.0.1:0\nredis: {block}\n",
                    app.url()
                );
                // On a busy machine a handshake may be late, and that is told, too.
                let told = eventually("the doctor names it", async || {
                    let told = larder_cli(&["doctor", "-c", "-"], &yaml).await;
                    let told = String::from_utf8_lossy(&told.stdout).into_owned();
                    assert!(
                        told.contains("× redis: no connection: ")
                            || told.contains("are not known: "),
                        "{settings}: {told}"
                    );
                    (told.contains(cause) && told.contains(cure)).then_some(told)
                })
                .await;
                assert!(!told.contains("hunter2"), "{told}");
            },
            &here,
        );
    }
    here.run_until(async {
        while let Some(case) = set.join_next().await {
            case.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_cause_is_told_once_in_ten_seconds() {
    let app = shop().await;
    let larder = larder(&app)
        .redis_url("redis://no-such-host.invalid")
        .yaml("workers: 2")
        .start()
        .await;
    larder.says("is not found").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        larder.get("/api/cars/1").await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(larder.log().matches("is not found").count(), 1);
}

#[tokio::test]
async fn a_command_that_the_user_may_not_send_is_named_and_the_rest_goes_on() {
    let redis = RedisServer::start().await;
    for command in ["set", "get", "evalsha"] {
        redis.may_refuse(command);
    }
    let app = shop().await;
    let larder = larder(&app)
        .redis_url(redis.url())
        .yaml(ROUTES)
        .start()
        .await;
    larder.redis_is(true).await;
    warm(&larder).await;
    let traffic = Traffic::of(&larder, 4);
    // Writes are refused, reads are not.
    set_user(&redis, &["-set"]).await;
    larder.get("/api/cars/99").await;
    larder.says("NOPERM").await;
    let line = larder.log();
    let line = line
        .lines()
        .find(|line| line.contains("NOPERM"))
        .unwrap()
        .to_owned();
    for part in ["larder", "'set'", "export acl"] {
        assert!(line.contains(part), "{line}");
    }
    let asked = app.total();
    traffic.goes_on(200).await;
    assert_eq!(app.total(), asked, "hits go on");
    // Reads are refused, too: the app answers.
    set_user(&redis, &["-get", "-evalsha"]).await;
    traffic.goes_on(200).await;
    traffic.end().await;
    assert!(app.total() > asked);
    set_user(&redis, &["+get", "+set", "+evalsha"]).await;
    eventually("hits come back", async || {
        (larder.get("/api/cars/1").await.cache() == "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_lacks_a_command_is_named_with_it_and_every_request_is_answered() {
    let app = shop().await;
    for (lacks, says) in [("EVALSHA", "'EVALSHA'"), ("TIME", "'TIME'")] {
        let redis = RedisServer::with(&["--rename-command", lacks, ""]).await;
        let larder = larder(&app)
            .redis_url(redis.url())
            .yaml("cache: { memory: 0B }\nroutes: [{ path: /*, ttl: 1m }]")
            .start()
            .await;
        let traffic = Traffic::of(&larder, 2);
        larder.says(says).await;
        let log = larder.log();
        let line = log.lines().find(|line| line.contains(says)).unwrap();
        assert!(line.contains("no-such-command"), "{line}");
        assert!(!line.contains("with args"), "{line}");
        traffic.goes_on(50).await;
        traffic.end().await;
    }
}

#[tokio::test]
async fn a_redis_is_found_by_the_variables_of_providers() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    let rights = redis.cli(&["ACL", "LIST"]).await;
    let rights = rights.lines().find(|line| line.contains("user larder "));
    let rights: Vec<&str> = rights.unwrap().split(' ').skip(2).collect();
    let everybody = ["ACL", "SETUSER", "default"];
    let password = ["resetpass", ">the-token"];
    let command = [everybody.as_slice(), &rights, &password].concat();
    assert_eq!(redis.cli(&command).await, "OK");
    let url = format!("redis://:the-token@127.0.0.1:{}", redis.port);
    for name in ["REDIS_URL", "KV_URL"] {
        let larder = larder(&app).env(name, &url).yaml(ROUTES).start().await;
        larder.redis_is(true).await;
        larder.says(&format!("variable {name}: redis://")).await;
        assert!(!larder.log().contains("the-token"), "{}", larder.log());
    }
    // A REST interface: the same host and token, over TLS on the usual port.
    let authority = Authority::new();
    authority.issue("server", &["127.66.0.1"]);
    let here = (Ipv4Addr::new(127, 66, 0, 1), 6379);
    let _front = TlsFront::before(redis.address(), here, &authority, "server").await;
    let block = format!("{{ tls: {{ ca: \"{}\" }} }}", authority.file("ca.pem"));
    for (names, token, works) in [
        (
            ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"],
            "the-token",
            true,
        ),
        (["KV_REST_API_URL", "KV_REST_API_TOKEN"], "the-token", true),
        (["KV_REST_API_URL", "KV_REST_API_TOKEN"], "hunter2", false),
    ] {
        let larder = larder(&app)
            .redis_block(&block)
            .env(names[0], "https://127.66.0.1")
            .env(names[1], token)
            .yaml(ROUTES)
            .start()
            .await;
        larder
            .says(&format!(
                "variable {}: rediss://default:••••@127.66.0.1:6379",
                names[0]
            ))
            .await;
        if works {
            larder.redis_is(true).await;
        } else {
            larder.says("WRONGPASS").await;
            larder
                .says("the rediss:// address from the provider's console")
                .await;
        }
        assert!(!larder.log().contains(token), "{}", larder.log());
    }
}
