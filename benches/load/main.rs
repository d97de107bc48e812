//! The load harness.
//!
//! ```text
//! cargo bench --bench load -- people                 1,000 people, each pausing 100 to 500 ms, 30 s
//! cargo bench --bench load -- closed                 the same without pauses
//! … --clients 200 --seconds 10 --check               fewer, shorter; exit 1 where a goal is missed
//! … --url http://127.0.0.1:8080 --app http://127.0.0.1:3000     against what runs already
//!
//! cargo bench --bench load -- peers                  larder beside nginx, Varnish, HAProxy and bare hyper
//! … --rows memory,h2c,tls --rounds 5 --seconds 2     only these; so many interleaved rounds, each so long
//! … --small                                          counts of entries, purges and connections by a hundred smaller
//! ```
//!
//! `LARDER_BIN` names the larder that is measured; without it, the one that cargo built.
//! The harness runs itself as `serve` (the app and bare hyper) and `drive` (its own clients), so that
//! each has a process of its own to pin and to count.

mod child;
mod cpu;
mod generator;
mod peers;
mod people;
mod rows;
mod servers;
mod table;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Cargo says `--bench` to every benchmark.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let rest = || arguments.iter().skip(1).cloned();
    let outcome = match arguments.first().map(String::as_str) {
        Some("peers") => peers::run(rest()),
        Some("serve") => servers::hyper::serve(rest()),
        Some("drive") => generator::paced::drive(rest()),
        _ => return people::run(arguments.into_iter()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(70)
        }
    }
}
