//! larder beside its peers: starts them, asks them in turn, round after round, counts their CPU, and
//! prints the tables. Which rows there are is said in `rows`.

use crate::generator::client::Client;
use crate::generator::paced::Delays;
use crate::generator::{Load, Outcome, Round};
use crate::rows::{self, Delay, GROUPS, Reaches, Row};
use crate::servers::{Bed, Door, Larder, Problem, Product, Server, divided};
use crate::table::{markdown, median, minimum, ratios};
use crate::{child, cpu};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::task::JoinSet;

/// Requests at one time for something that is not stored.
const STAMPEDE: usize = 200;
/// Connections before memory is looked at for the first time.
const IDLE_FIRST: usize = 200;
/// Connections that are opened between the two looks.
const IDLE_MORE: usize = 2_000;
/// Entries that are stored to see what one takes.
const STORED: usize = 100_000;
/// The body of each of them.
const STORED_BODY_BYTES: f64 = 128.0;
/// For a server to take back what a burst needed, before its memory is looked at.
const SETTLE: Duration = Duration::from_millis(500);
/// Between two scrapes of metrics.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
/// How long a server is asked before it is measured.
const WARM_SECONDS: f64 = 0.5;
/// Share of requests that may do something else than their row is about.
const STRAY_MAX: f64 = 0.01;

struct Options {
    rows: Vec<String>,
    rounds: usize,
    seconds: f64,
    divisor: usize,
}

impl Options {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rows: GROUPS.map(String::from).to_vec(),
            rounds: 5,
            seconds: 2.0,
            divisor: 1,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--rows" => options.rows = value()?.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = number(&value()?)?.max(1.0) as usize,
                "--seconds" => options.seconds = number(&value()?)?.max(0.1),
                "--small" => options.divisor = 100,
                other => return Err(format!("unknown: {other}")),
            }
        }
        match options
            .rows
            .iter()
            .find(|row| !GROUPS.contains(&row.as_str()))
        {
            Some(unknown) => Err(format!(
                "no rows {unknown}; there are {}",
                GROUPS.join(", ")
            )),
            None => Ok(options),
        }
    }

    fn wants(&self, group: &str) -> bool {
        self.rows.iter().any(|row| row == group)
    }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// Runs `peers`; a signal ends it with everything that it started.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let options = Options::read(arguments)?;
    pin_self();
    // One thread: what is started dies with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| error.to_string())?;
        tokio::select! {
            outcome = measure(&options) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = ended.recv() => Err("ended".into()),
        }
    })
}

/// The harness itself stays off the core of what is measured.
fn pin_self() {
    // Where this does not work, the figures are only a little noisier.
    let _ = Command::new("taskset")
        .args(["-a", "-c", "-p", &child::CLIENT_CORE.to_string()])
        .arg(std::process::id().to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

async fn measure(options: &Options) -> Result<(), String> {
    let bed = Bed::make(options.divisor).await?;
    if cfg!(debug_assertions) {
        println!(
            "This harness was built without optimisation: the app and bare hyper are slower than they should be.\n"
        );
    }
    println!(
        "{} interleaved rounds of {} s; CPU per request as a ratio to the first column: by medians (by the least disturbed round of each).\n",
        options.rounds, options.seconds
    );
    let mut open: Option<Table> = None;
    for row in rows::all()
        .into_iter()
        .filter(|row| options.wants(row.group))
    {
        if open.as_ref().is_some_and(|table| table.title != row.table)
            && let Some(table) = open.take()
        {
            table.print();
        }
        let line = measure_row(&bed, &row, options).await;
        for column in &line {
            let (cpu, notes) = (median(&column.cpu), column.notes.join("; "));
            eprintln!("{}: {} {cpu:.1} µs {notes}", row.name, column.name);
        }
        open.get_or_insert_with(|| Table::new(row.table))
            .add(&row, line);
    }
    if let Some(table) = open {
        table.print();
    }
    if options.wants("latency") {
        for delay in rows::delays() {
            if let Err(problem) = measure_delay(&bed, &delay, options).await {
                println!("## Delay: {}\n\n- failed: {problem}\n", delay.name);
            }
        }
    }
    if options.wants("idle") {
        measure_shelves(&bed).await?;
    }
    Ok(())
}

/// The rounds of one server in one row.
struct Column {
    name: &'static str,
    /// Microseconds of CPU a request, each round.
    cpu: Vec<f64>,
    /// Requests a second, each round.
    rate: Vec<f64>,
    /// What is to be known about these figures.
    notes: Vec<String>,
}

async fn measure_row(bed: &Bed, row: &Row, options: &Options) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut servers = Vec::new();
    for &(name, product) in &row.servers {
        let mut column = Column {
            name,
            cpu: Vec::new(),
            rate: Vec::new(),
            notes: Vec::new(),
        };
        eprintln!("{}: {name} starts", row.name);
        let started = match product.start(bed, row.door == Door::Tls).await {
            Ok(server) => match warm(bed, row, &server).await {
                Ok(()) => Some(server),
                Err(problem) => {
                    column.notes.push(Problem::Failed(problem).to_string());
                    None
                }
            },
            Err(problem) => {
                column.notes.push(problem.to_string());
                None
            }
        };
        servers.push(started);
        columns.push(column);
    }
    for round in 1..=options.rounds {
        eprintln!("{}: round {round} of {}", row.name, options.rounds);
        for (server, column) in servers.iter_mut().zip(&mut columns) {
            let Some(running) = server else { continue };
            if let Err(problem) = one_round(bed, row, running, column, options.seconds).await {
                column.notes.push(Problem::Failed(problem).to_string());
                *server = None;
            }
        }
    }
    columns
}

/// What a row asks for is stored before it is measured: each path once, then a round that does not count.
async fn warm(bed: &Bed, row: &Row, server: &Server) -> Result<(), String> {
    let round = round(bed, row, server, WARM_SECONDS)?;
    if let (Reaches::Nothing, Load::Keys { keys }) = (row.app, row.load) {
        let client = Client::new(round.address, round.certificate)?;
        let mut connection = client.connect().await?;
        for key in 0..keys {
            let path = format!("{}{key}", row.path);
            match connection.get(&path).await? {
                (200, _) => {}
                (status, _) => return Err(format!("{status} to {path}")),
            }
        }
    }
    round.run(row.load).await.map(|_| ())
}

fn round<'a>(
    bed: &'a Bed,
    row: &'a Row,
    server: &Server,
    seconds: f64,
) -> Result<Round<'a>, String> {
    Ok(Round {
        address: server.door(row.door).ok_or("it does not speak this")?,
        path: row.path,
        certificate: (row.door == Door::Tls).then_some(bed.certificate.as_path()),
        seconds,
        folder: bed.folder.path(),
    })
}

async fn one_round(
    bed: &Bed,
    row: &Row,
    server: &Server,
    column: &mut Column,
    seconds: f64,
) -> Result<(), String> {
    let round = round(bed, row, server, seconds)?;
    let counted = server.counted();
    let at_app = bed.app_requests().await?;
    let before = cpu::spent(&counted);
    let outcome = tokio::select! {
        outcome = round.run(row.load) => outcome?,
        problem = scrape(server) => return Err(problem),
    };
    let spent = cpu::spent(&counted).saturating_sub(before);
    let at_app = bed.app_requests().await? - at_app;
    if outcome.requests == 0 {
        return Err(format!("no answers, {} errors", outcome.errors));
    }
    let requests = outcome.requests as f64;
    column.cpu.push(spent.as_secs_f64() * 1e6 / requests);
    column.rate.push(requests / outcome.seconds);
    if let Some(stray) = stray(row.app, &outcome, at_app)
        && !column.notes.contains(&stray)
    {
        column.notes.push(stray);
    }
    Ok(())
}

/// Asks for metrics once a second for as long as a round lasts, where the row wants that.
async fn scrape(server: &Server) -> String {
    let Some(admin) = server.admin.filter(|_| server.scraped) else {
        return std::future::pending().await;
    };
    loop {
        let asked = async {
            let mut connection = Client::new(admin, None)?.connect().await?;
            connection.get("/metrics").await.map(|(status, _)| status)
        };
        match asked.await {
            Ok(200) => tokio::time::sleep(SCRAPE_EVERY).await,
            other => return format!("metrics: {other:?}"),
        }
    }
}

/// What shows that a server did something else than the row is about.
fn stray(expected: Reaches, outcome: &Outcome, at_app: u64) -> Option<String> {
    let share = |part: u64| part as f64 / outcome.requests.max(1) as f64;
    let wrong = match expected {
        Reaches::Nothing if share(at_app) > STRAY_MAX => "not hits: requests reached the app",
        Reaches::Everything if share(at_app) < 1.0 - STRAY_MAX => "requests did not reach the app",
        Reaches::Refused if share(outcome.refused) < 1.0 - STRAY_MAX => "requests were not refused",
        Reaches::Nothing | Reaches::Everything if share(outcome.refused) > STRAY_MAX => {
            "answers were neither 2xx nor 3xx"
        }
        _ if share(outcome.errors) > STRAY_MAX => "connections failed",
        _ => return None,
    };
    Some(format!("WRONG: {wrong}"))
}

/// A table of ratios that grows row by row.
struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<(Row, Vec<Column>)>,
}

impl Table {
    fn new(title: &'static str) -> Self {
        Self {
            title,
            columns: Vec::new(),
            rows: Vec::new(),
        }
    }

    fn add(&mut self, row: &Row, line: Vec<Column>) {
        for column in &line {
            if !self.columns.contains(&column.name) {
                // larder stays the last.
                let at = match self.columns.last() {
                    Some(&"larder") => self.columns.len() - 1,
                    _ => self.columns.len(),
                };
                self.columns.insert(at, column.name);
            }
        }
        self.rows.push((row.clone(), line));
    }

    fn print(&self) {
        let mut head = vec!["case".to_owned()];
        head.extend(self.columns.iter().map(|name| (*name).to_owned()));
        head.extend(["goal", "reached"].map(String::from));
        let mut notes = Vec::new();
        let mut lines = Vec::new();
        for (row, line) in &self.rows {
            let find = |name: &str| line.iter().find(|column| column.name == name);
            let first = line.first().map_or(&[][..], |column| &column.cpu);
            let mut cells = vec![row.name.to_owned()];
            for name in &self.columns {
                cells.push(find(name).map_or("–".into(), |column| cell(column, first)));
            }
            let (goals, reached): (Vec<_>, Vec<_>) = row
                .goals
                .iter()
                .map(|goal| {
                    let of = |name| find(name).map_or(&[][..], |column| &column.cpu);
                    let beside = match line.first() {
                        Some(first) if first.name == goal.against => String::new(),
                        _ => format!(" × {}", goal.against),
                    };
                    let said = match ratios(of(goal.column), of(goal.against)) {
                        Some((ratio, _)) if ratio <= goal.at_most => "yes".to_owned(),
                        Some((ratio, _)) => format!("no ({ratio:.2})"),
                        None => "not measured".to_owned(),
                    };
                    (format!("≤ {:.2}{beside}", goal.at_most), said)
                })
                .unzip();
            cells.push(goals.join("; "));
            cells.push(reached.join("; "));
            lines.push(cells);
            for column in line {
                for note in &column.notes {
                    let note = format!("- {}: {note}", column.name);
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
            }
        }
        println!("## {}\n\n{}", self.title, markdown(&head, &lines));
        if !notes.is_empty() {
            println!("{}\n", notes.join("\n"));
        }
    }
}

/// A ratio; the first column's own figures; a mark where a note says more.
fn cell(column: &Column, first: &[f64]) -> String {
    let mark = match column.notes.is_empty() {
        true => "",
        false => " (!)",
    };
    let Some((middle, least)) = ratios(&column.cpu, first) else {
        return format!("–{mark}");
    };
    if std::ptr::eq(column.cpu.as_slice(), first) {
        let (middle, least) = (median(first), minimum(first));
        let rate = median(&column.rate);
        return format!("1.00 ({middle:.1} µs, least {least:.1}; {rate:.0}/s){mark}");
    }
    format!("{middle:.2} ({least:.2}){mark}")
}

/// The app on the server's core, then everybody else, at half of what the slowest can do.
async fn measure_delay(bed: &Bed, delay: &Delay, options: &Options) -> Result<(), String> {
    let mut notes = Vec::new();
    let mut servers = Vec::new();
    let app = ("the app itself", Product::App);
    for &(name, product) in std::iter::once(&app).chain(&delay.servers) {
        eprintln!("{}: {name} starts", delay.name);
        match product.start(bed, false).await {
            Ok(server) => servers.push((name, server, Vec::<Delays>::new())),
            Err(problem) => notes.push(format!("- {name}: {problem}")),
        }
    }
    let round = |server: &Server| {
        Ok::<_, String>(Round {
            address: server.plain.ok_or("it has no door")?,
            path: "/b/1024",
            certificate: None,
            seconds: options.seconds,
            folder: bed.folder.path(),
        })
    };
    let mut slowest = f64::INFINITY;
    for (_, server, _) in &servers {
        let outcome = round(server)?.run(Load::Wrk { connections: 64 }).await?;
        slowest = slowest.min(outcome.requests as f64 / outcome.seconds);
    }
    let rate = (slowest / 2.0).floor();
    for number in 1..=options.rounds {
        eprintln!("{}: round {number} of {}", delay.name, options.rounds);
        for (_, server, delays) in &mut servers {
            delays.push(round(server)?.at_rate(rate).await?);
        }
    }
    let middle = |delays: &[Delays], pick: fn(&Delays) -> u64| -> f64 {
        let values: Vec<f64> = delays.iter().map(|d| pick(d) as f64 / 1e6).collect();
        median(&values)
    };
    let three = |delays: &[Delays]| {
        [
            middle(delays, |d| d.p50),
            middle(delays, |d| d.p99),
            middle(delays, |d| d.p999),
        ]
    };
    let base = servers.first().map_or([0.0; 3], |(_, _, own)| three(own));
    let mut lines = Vec::new();
    for (name, _, delays) in &servers {
        let all = three(delays);
        let mut cells = vec![(*name).to_owned()];
        cells.extend(all.iter().map(|ms| format!("{ms:.3}")));
        cells.extend(
            all.iter()
                .zip(base)
                .map(|(ms, base)| format!("{:+.3}", ms - base)),
        );
        let within = all[0] - base[0] <= delay.p50_ms && all[1] - base[1] <= delay.p99_ms;
        if *name == "larder" {
            cells.push(format!("+{} / +{} ms", delay.p50_ms, delay.p99_ms));
            cells.push(if within { "yes" } else { "no" }.into());
        }
        lines.push(cells);
        let errors: u64 = delays.iter().map(|d| d.errors).sum();
        if errors > 0 {
            notes.push(format!("- {name}: WRONG: {errors} requests without a 2xx"));
        }
    }
    let head = [
        delay.name,
        "p50 ms",
        "p99 ms",
        "p999 ms",
        "added p50",
        "added p99",
        "added p999",
        "goal p50 / p99",
        "reached",
    ];
    println!(
        "## Delay at {rate:.0} requests a second (half of what the slowest can do), from the intended sending: {}\n\n{}",
        delay.name,
        markdown(&head.map(String::from), &lines)
    );
    if !notes.is_empty() {
        println!("{}\n", notes.join("\n"));
    }
    Ok(())
}

/// What one server's memory and its app say.
#[derive(Default)]
struct Shelf {
    start: Option<f64>,
    idle: Option<f64>,
    idle_tls: Option<f64>,
    entry: Option<f64>,
    stampede: Option<u64>,
}

async fn measure_shelves(bed: &Bed) -> Result<(), String> {
    let mut lines = Vec::new();
    let mut notes = Vec::new();
    for (name, product) in rows::shelves() {
        eprintln!("memory and stampede: {name}");
        let mut shelf = Shelf::default();
        if let Err(problem) = look_at(bed, product, &mut shelf).await {
            notes.push(format!("- {name}: {problem}"));
        }
        let show = |value: Option<f64>, unit: &str| {
            value.map_or("–".to_owned(), |value| format!("{value:.1} {unit}"))
        };
        lines.push(vec![
            name.to_owned(),
            show(shelf.start, "MiB"),
            show(shelf.idle, "KiB"),
            show(shelf.idle_tls, "KiB"),
            show(shelf.entry, "bytes"),
            shelf.stampede.map_or("–".into(), |n| n.to_string()),
        ]);
    }
    let goals = [
        "goal of larder",
        "≤ 15 MiB",
        "≤ 12 KiB",
        "≤ 32 KiB",
        "≤ 512 bytes",
        "1",
    ];
    lines.push(goals.map(String::from).to_vec());
    let head = [
        "server",
        "resident at start",
        "idle connection",
        "idle connection, TLS",
        "stored entry, beyond its 128 bytes of body",
        "requests that reached the app, of 200 at once for a cold key",
    ];
    println!(
        "## Memory and stampede\n\n{}",
        markdown(&head.map(String::from), &lines)
    );
    if !notes.is_empty() {
        println!("{}\n", notes.join("\n"));
    }
    Ok(())
}

async fn look_at(bed: &Bed, product: Product, shelf: &mut Shelf) -> Result<(), Problem> {
    let server = product.start(bed, false).await?;
    let resident = |server: &Server| cpu::resident(&server.counted()) as f64;
    let empty = resident(&server);
    shelf.start = Some(empty / 1_048_576.0);
    if let Some(plain) = server.plain {
        if product != Product::Hyper {
            shelf.stampede = Some(stampede(bed, Client::new(plain, None)?).await?);
        }
        shelf.idle = Some(idle(bed, &server, &Client::new(plain, None)?).await? / 1024.0);
    }
    drop(server);
    let server = product.start(bed, true).await?;
    if let Some(tls) = server.tls {
        let client = Client::new(tls, Some(&bed.certificate))?;
        shelf.idle_tls = Some(idle(bed, &server, &client).await? / 1024.0);
    }
    drop(server);
    if let Product::Larder(kind) = product {
        let entries = STORED;
        let full = Product::Larder(Larder { entries, ..kind })
            .start(bed, false)
            .await?;
        tokio::time::sleep(SETTLE).await;
        let stored = (entries / divided(entries, bed.divisor)) as f64;
        shelf.entry = Some((resident(&full) - empty) / stored - STORED_BODY_BYTES);
    }
    Ok(())
}

/// Bytes that a connection takes which has had one answer and waits.
async fn idle(bed: &Bed, server: &Server, client: &Client) -> Result<f64, String> {
    let more = IDLE_MORE / bed.divisor.min(10);
    let mut held = Vec::new();
    let mut first = 0;
    for number in 0..IDLE_FIRST + more {
        if number == IDLE_FIRST {
            tokio::time::sleep(SETTLE).await;
            first = cpu::resident(&server.counted());
        }
        let mut connection = client.connect().await?;
        connection.get("/b/1024").await?;
        held.push(connection);
    }
    tokio::time::sleep(SETTLE).await;
    let last = cpu::resident(&server.counted());
    Ok(last.saturating_sub(first) as f64 / more as f64)
}

/// How many of many requests at one time reach the app.
async fn stampede(bed: &Bed, client: Client) -> Result<u64, String> {
    let mut connections = Vec::new();
    for _ in 0..STAMPEDE {
        connections.push(client.connect().await?);
    }
    let before = bed.app_requests().await?;
    let mut asked = JoinSet::new();
    for mut connection in connections {
        asked.spawn(async move {
            match connection.get("/slow/1024/cold").await? {
                (200, _) => Ok(()),
                (status, _) => Err(format!("{status} in the stampede")),
            }
        });
    }
    while let Some(answer) = asked.join_next().await {
        answer.map_err(|error| error.to_string())??;
    }
    Ok(bed.app_requests().await? - before)
}
