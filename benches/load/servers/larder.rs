//! larder: one worker, and what a row wants of it.

use super::{Bed, Problem, Server, free_address, larder_binary, redis, write};
use crate::child::{Child, SERVER_CORE, pinned};
use crate::generator::client::Client;
use std::fmt::Write as _;
use std::net::SocketAddr;
use tokio::task::JoinSet;

/// Purges that the admin port takes in one request.
const PURGES_A_REQUEST: usize = 128;
/// Clients that fill the store.
const FILLERS: usize = 32;

/// What a larder is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Larder {
    /// The memory tier is on; without it every hit is Redis's.
    pub memory: bool,
    /// It has a Redis.
    pub redis: bool,
    /// `/limited/*` and `/refused/*` have limits.
    pub limits: bool,
    /// That of `/limited/*` is told to Redis afterwards.
    pub batched: bool,
    /// Routes that the requests of the rows do not match, before those that they do.
    pub routes: usize,
    /// Entries of 128 bytes stored beforehand.
    pub entries: usize,
    /// Purges in the log, of tags that nothing has.
    pub purges: usize,
    /// Metrics are scraped once a second.
    pub scraped: bool,
}

impl Larder {
    /// Hits from memory, nothing else.
    pub const MEMORY: Self = Self {
        memory: true,
        redis: false,
        limits: false,
        batched: false,
        routes: 0,
        entries: 0,
        purges: 0,
        scraped: false,
    };
    /// Hits from Redis.
    pub const REDIS: Self = Self {
        memory: false,
        redis: true,
        ..Self::MEMORY
    };
    /// Hits from memory on a route whose limit is counted in Redis.
    pub const LIMITED: Self = Self {
        redis: true,
        limits: true,
        ..Self::MEMORY
    };
    /// The same, told to Redis afterwards.
    pub const BATCHED: Self = Self {
        batched: true,
        ..Self::LIMITED
    };
    /// Everything on.
    pub const WHOLE: Self = Self {
        redis: true,
        limits: true,
        routes: 50,
        purges: 1_000,
        scraped: true,
        ..Self::MEMORY
    };
}

/// Starts it, fills its store and its purge log.
pub async fn start(bed: &Bed, kind: Larder, tls: bool) -> Result<Server, Problem> {
    let program = larder_binary();
    if !program.is_file() {
        return Err(Problem::Absent(program.display().to_string()));
    }
    let room = bed.room("larder")?;
    let [address, admin] = [free_address()?, free_address()?];
    let redis = match kind.redis {
        true => Some(redis(&room).await?),
        false => None,
    };
    let file = room.join("proxy.yaml");
    let at = redis.as_ref().map(|(_, at)| *at);
    write(&file, &configuration(bed, kind, tls, address, admin, at))?;
    let mut command = pinned(SERVER_CORE, &program);
    // No Redis but the row's own.
    for name in [
        "REDIS_URL",
        "KV_URL",
        "UPSTASH_REDIS_REST_URL",
        "KV_REST_API_URL",
    ] {
        command.env_remove(name);
    }
    command.arg("run").arg("-c").arg(&file).arg("--watch=false");
    let child = Child::start(command, room.join("larder.log"))?;
    let mut server = Server {
        admin: Some(admin),
        scraped: kind.scraped,
        ..Server::new(child)
    };
    server.children.extend(redis.map(|(child, _)| child));
    if tls {
        server.tls = Some(address);
        let client = Client::new(address, Some(&bed.certificate))?;
        let began = std::time::Instant::now();
        while client.connect().await.is_err() {
            if began.elapsed() > super::START_MAX {
                let said = server.children.first().map(Child::said);
                return Err(Problem::Failed(format!("no answer {said:?}")));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    } else {
        server.plain = Some(address);
        server.h2c = Some(address);
        server = server.ready().await?;
        fill(address, kind.entries / divided(kind.entries, bed.divisor)).await?;
    }
    purge(admin, kind.purges / divided(kind.purges, bed.divisor)).await?;
    Ok(server)
}

/// Only what is large gets smaller.
pub fn divided(count: usize, divisor: usize) -> usize {
    if count >= 10_000 { divisor } else { 1 }
}

fn configuration(
    bed: &Bed,
    kind: Larder,
    tls: bool,
    address: SocketAddr,
    admin: SocketAddr,
    redis: Option<SocketAddr>,
) -> String {
    let mut text = format!("listen:\n  address: \"{address}\"\n");
    if tls {
        let (certificate, key) = (bed.certificate.display(), bed.key.display());
        let _ = writeln!(text, "  tls: {{ cert: \"{certificate}\", key: \"{key}\" }}");
    }
    let memory = if kind.memory { "4GiB" } else { "0B" };
    let _ = write!(
        text,
        "workers: 1\nupstream: http://{}\nadmin: {{ listen: \"{admin}\" }}\n\
         cache: {{ memory: {memory}, max_body: 1MiB }}\nlog: {{ format: json }}\n",
        bed.app
    );
    if let Some(redis) = redis {
        let _ = writeln!(text, "redis: redis://{redis}");
    }
    text.push_str("routes:\n");
    for n in 0..kind.routes {
        let _ = writeln!(
            text,
            "  - {{ name: other-{n}, path: \"/other/{n}/{{id}}\", ttl: 1m, tags: [\"other:{{id}}\"] }}"
        );
    }
    if kind.limits {
        let sync = if kind.batched { ", sync: 100ms" } else { "" };
        let _ = write!(
            text,
            "  - {{ name: limited, path: /limited/*, ttl: 1h, limit: {{ rate: 1000000/s, per: ip{sync} }} }}\n  \
               - {{ name: refused, path: /refused/*, ttl: 1h, limit: {{ rate: 5/day, per: ip }} }}\n",
        );
    }
    text.push_str("  - { name: pass, path: /pass/*, no_store: true }\n");
    text
}

/// Asks for so many numbered paths, so that they are stored.
async fn fill(address: SocketAddr, entries: usize) -> Result<(), String> {
    let client = Client::new(address, None)?;
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let client = client.clone();
        fillers.spawn(async move {
            let mut connection = client.connect().await?;
            for n in (filler..entries).step_by(FILLERS) {
                match connection.get(&format!("/g/128/{n}")).await? {
                    (200, _) => {}
                    (status, _) => return Err(format!("the store was not filled: {status}")),
                }
            }
            Ok::<(), String>(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Puts so many purges into the log. They come after what is stored, so that every hit is checked against them.
async fn purge(admin: SocketAddr, purges: usize) -> Result<(), String> {
    if purges == 0 {
        return Ok(());
    }
    let mut connection = Client::new(admin, None)?.connect().await?;
    for from in (0..purges).step_by(PURGES_A_REQUEST) {
        let tags: Vec<String> = (from..purges.min(from + PURGES_A_REQUEST))
            .map(|n| format!("\"nothing:{n}\""))
            .collect();
        let body = format!("{{\"tags\":[{}]}}", tags.join(","));
        let request = format!(
            "POST /v1/purge HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        match connection.ask(request.as_bytes()).await? {
            (200..300, _) => {}
            (status, said) => {
                let said = String::from_utf8_lossy(said);
                return Err(format!("a purge was refused: {status} {said}"));
            }
        }
    }
    Ok(())
}
