//! What is measured: one place that lists the rows, who takes part, how each is asked, and the goals.

use crate::generator::Load;
use crate::servers::{Door, Larder, Product};

/// Groups that `--rows` may name, in the order of the report.
pub const GROUPS: [&str; 11] = [
    "memory",
    "h2c",
    "tls",
    "whole",
    "connections",
    "redis",
    "pass",
    "limits",
    "latency",
    "growth",
    "idle",
];

/// A ratio of CPU per request that one column must not exceed beside another.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Whose goal.
    pub column: &'static str,
    /// Beside whom.
    pub against: &'static str,
    /// At most so many times as much.
    pub at_most: f64,
}

/// One line of a table of CPU per request.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which of [`GROUPS`].
    pub group: &'static str,
    /// The heading of its table; rows with the same one share a table.
    pub table: &'static str,
    /// The case, as the table says it.
    pub name: &'static str,
    /// What is asked for.
    pub path: &'static str,
    /// How clients come in.
    pub door: Door,
    /// How they ask.
    pub load: Load,
    /// What the app sees of it.
    pub app: Reaches,
    /// Columns and who is in them; the first is 1.
    pub servers: Vec<(&'static str, Product)>,
    /// What must hold.
    pub goals: Vec<Goal>,
}

/// Which requests reach the app: what tells a wrong set-up from a fast one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaches {
    /// None: they are hits.
    Nothing,
    /// All.
    Everything,
    /// None, and nearly all are refused.
    Refused,
}

const NGINX: (&str, Product) = ("nginx", Product::Nginx { sendfile: true });
const NGINX_PLAIN: (&str, Product) = ("nginx, sendfile off", Product::Nginx { sendfile: false });
const NGINX_LUA: (&str, Product) = ("nginx + lua + Redis", Product::NginxLua);
const VARNISH: (&str, Product) = ("Varnish", Product::Varnish);
const HAPROXY: (&str, Product) = ("HAProxy", Product::Haproxy);
const HYPER: (&str, Product) = ("bare hyper", Product::Hyper);
const HYPER_GET: (&str, Product) = ("bare hyper + multiplexed GET", Product::HyperGet);
const HYPER_PASS: (&str, Product) = ("bare hyper client + server", Product::HyperPass);

const fn larder(kind: Larder) -> (&'static str, Product) {
    ("larder", Product::Larder(kind))
}

const HITS: &str = "Hits from memory";
const REDIS: &str = "Hits from Redis (Redis's CPU included; 1 = nginx from its own local cache)";
const PASS: &str = "Pass-through of what is not cached";
const LIMITS: &str = "Limits (Redis's CPU included)";
const WRK: Load = Load::Wrk { connections: 64 };

/// Every row of CPU per request.
pub fn all() -> Vec<Row> {
    let mut rows = hits();
    rows.extend(redis_hits());
    rows.push(Row {
        group: "pass",
        table: PASS,
        path: "/pass/1024",
        app: Reaches::Everything,
        servers: vec![NGINX, VARNISH, HAPROXY, HYPER_PASS, larder(Larder::MEMORY)],
        goals: goal(1.40),
        ..row("1 KiB")
    });
    let limited = Row {
        group: "limits",
        table: LIMITS,
        path: "/limited/1024",
        servers: vec![NGINX, larder(Larder::LIMITED)],
        ..row("memory hit, admitted, 1 KiB")
    };
    rows.push(Row {
        goals: goal(2.5),
        ..limited.clone()
    });
    rows.push(Row {
        name: "memory hit, batched, 1 KiB",
        servers: vec![NGINX, larder(Larder::BATCHED)],
        goals: goal(1.2),
        ..limited.clone()
    });
    rows.push(Row {
        name: "refused",
        path: "/refused/1024",
        app: Reaches::Refused,
        goals: goal(1.1),
        ..limited
    });
    rows.extend(growth());
    rows
}

/// 1 KiB from memory over HTTP/1.1; what a row does not say is this.
fn row(name: &'static str) -> Row {
    Row {
        group: "memory",
        table: HITS,
        name,
        path: "/b/1024",
        door: Door::Plain,
        load: WRK,
        app: Reaches::Nothing,
        servers: vec![
            NGINX,
            NGINX_PLAIN,
            VARNISH,
            HAPROXY,
            HYPER,
            larder(Larder::MEMORY),
        ],
        goals: Vec::new(),
    }
}

fn goal(at_most: f64) -> Vec<Goal> {
    let [column, against] = ["larder", "nginx"];
    vec![Goal {
        column,
        against,
        at_most,
    }]
}

fn hits() -> Vec<Row> {
    let memory = |name, path, load, at_most| Row {
        path,
        load,
        goals: goal(at_most),
        ..row(name)
    };
    let h2c = |name, path| Row {
        group: "h2c",
        path,
        door: Door::H2c,
        load: Load::H2,
        goals: goal(0.45),
        ..row(name)
    };
    let tls = |name, path, load, at_most| Row {
        group: "tls",
        path,
        load,
        door: Door::Tls,
        goals: goal(at_most),
        // Varnish leaves TLS to others.
        servers: vec![NGINX, NGINX_PLAIN, HAPROXY, HYPER, larder(Larder::MEMORY)],
        ..row(name)
    };
    let whole = |name, path, at_most| Row {
        group: "whole",
        path,
        servers: vec![NGINX, HYPER, larder(Larder::WHOLE)],
        goals: goal(at_most),
        ..row(name)
    };
    let keys = Load::Keys { keys: 10_000 };
    let thousand = Load::Wrk { connections: 1_000 };
    vec![
        memory("1 KiB", "/b/1024", WRK, 0.62),
        memory("16 KiB", "/b/16384", WRK, 0.65),
        memory("256 KiB", "/b/262144", WRK, 0.92),
        memory("1 KiB, 1,000 connections", "/b/1024", thousand, 0.75),
        memory("1 KiB, 10,000 keys", "/k/1024/", keys, 0.62),
        h2c("h2c, 1 KiB", "/b/1024"),
        h2c("h2c, 16 KiB", "/b/16384"),
        tls("TLS 1.3, 1 KiB", "/b/1024", WRK, 0.58),
        tls("TLS 1.3, h2, 1 KiB", "/b/1024", Load::H2, 0.55),
        tls("TLS 1.3, 256 KiB", "/b/262144", WRK, 0.55),
        tls(
            "TLS 1.3, handshake and 1 KiB",
            "/b/1024",
            Load::Handshakes,
            0.48,
        ),
        whole("1 KiB, the whole product on", "/b/1024", 0.62),
        whole("16 KiB, the whole product on", "/b/16384", 0.65),
        whole("256 KiB, the whole product on", "/b/262144", 0.92),
        Row {
            group: "connections",
            load: Load::NewConnections,
            ..row("1 KiB, a new connection each")
        },
    ]
}

fn redis_hits() -> Vec<Row> {
    let redis = |name, path, kind, at_most| {
        let mut goals = goal(at_most);
        goals.push(Goal {
            column: "larder",
            against: HYPER_GET.0,
            at_most: 1.5,
        });
        Row {
            group: "redis",
            table: REDIS,
            path,
            servers: vec![NGINX, NGINX_LUA, HYPER_GET, larder(kind)],
            goals,
            ..row(name)
        }
    };
    let whole = Larder {
        memory: false,
        ..Larder::WHOLE
    };
    vec![
        redis("1 KiB", "/b/1024", Larder::REDIS, 0.95),
        redis("16 KiB", "/b/16384", Larder::REDIS, 1.6),
        redis("256 KiB", "/b/262144", Larder::REDIS, 3.0),
        redis("1 KiB, the whole product on", "/b/1024", whole, 0.95),
    ]
}

/// The same thousand keys among more and more that are stored; one key with more routes and purges.
fn growth() -> Vec<Row> {
    let with = |column, kind| (column, Product::Larder(kind));
    let flat = |column, against| Goal {
        column,
        against,
        at_most: 1.1,
    };
    let entries = |entries| Larder {
        entries,
        ..Larder::MEMORY
    };
    let routes = |routes| Larder {
        routes,
        ..Larder::MEMORY
    };
    let purges = |purges| Larder {
        purges,
        ..Larder::MEMORY
    };
    let growth = |name, servers, goals| Row {
        group: "growth",
        table: "Growth (larder; 1 = the smallest)",
        servers,
        goals,
        ..row(name)
    };
    let stored = |name, few, many, count| Row {
        path: "/g/128/",
        load: Load::Keys { keys: 1_000 },
        ..growth(
            name,
            vec![with(few, entries(1_000)), with(many, entries(count))],
            vec![flat(many, few)],
        )
    };
    vec![
        stored("stored entries, 10^3 and 10^5", "few", "many", 100_000),
        stored("stored entries, 10^3 and 10^6", "few", "many", 1_000_000),
        growth(
            "routes, 10 and 1,000",
            vec![with("few", routes(10)), with("many", routes(1_000))],
            vec![flat("many", "few")],
        ),
        growth(
            "purge log, 1 and 10^5 entries",
            vec![with("few", purges(1)), with("many", purges(100_000))],
            vec![flat("many", "few")],
        ),
    ]
}

/// A table of delays at a fixed rate: half of what the slowest of these can do.
pub struct Delay {
    /// The case.
    pub name: &'static str,
    /// Who takes part beside the app itself.
    pub servers: Vec<(&'static str, Product)>,
    /// Most that larder's half (p50) may add, in milliseconds.
    pub p50_ms: f64,
    /// … and its p99.
    pub p99_ms: f64,
}

/// What is asked at a fixed rate.
pub fn delays() -> Vec<Delay> {
    vec![
        Delay {
            name: "memory hit, 1 KiB",
            servers: vec![NGINX, VARNISH, HAPROXY, HYPER, larder(Larder::MEMORY)],
            p50_ms: 0.1,
            p99_ms: 0.5,
        },
        Delay {
            name: "Redis hit, 1 KiB",
            servers: vec![NGINX_LUA, HYPER_GET, larder(Larder::REDIS)],
            p50_ms: 0.3,
            p99_ms: 1.0,
        },
    ]
}

/// Those whose memory is looked at, and who are stampeded.
pub fn shelves() -> Vec<(&'static str, Product)> {
    vec![NGINX, VARNISH, HAPROXY, HYPER, larder(Larder::MEMORY)]
}
