//! `proxy.yaml`: raw (the YAML's mirror) → compile (every problem at once) → [`Settings`].
//!
//! YAML types end at this room's door. Nothing here opens a socket.
//!
//! The way of a text: `tree` (YAML with line and column) → `env` (`${…}` filled in) → `read` (serde
//! types, every problem recorded) → `compile` (defaults, cross-checks) → [`Settings`] and a [`Report`].

mod compile;
pub mod env;
pub mod load;
pub mod problem;
mod raw;
mod read;
pub mod settings;
mod tree;
mod values;
pub mod watch;

pub use env::Environment;
pub use load::{Origin, RunOptions};
pub use problem::{Code, Format, Problem, Report, Severity};
pub use settings::Settings;
pub use tree::{FILE_BYTES_MAX, Place, Source};

/// Reads a text into settings. The report holds every warning and note, or, where there is at least
/// one error, everything that is wrong at once.
pub fn load(source: Source, env: &Environment) -> Result<(Settings, Report), Report> {
    let mut root = match tree::parse(&source.text) {
        Ok(root) => root,
        Err((problem::Fault { code, message, fix }, place)) => {
            let problem = Problem { code, message, path: String::new(), place, fix };
            return Err(Report::new(source, vec![problem]));
        }
    };
    let mut faults = Vec::new();
    env.fill(&mut root, &mut faults);
    let mut problems: Vec<Problem> = faults
        .into_iter()
        .map(|(place, problem::Fault { code, message, fix })| Problem {
            code,
            message,
            path: String::new(),
            place: Some(place),
            fix,
        })
        .collect();
    let raw: raw::Raw = read::read(&root, env.ignored, &mut problems);
    let settings = compile::compile(&raw, &root, env, &mut problems);
    let report = Report::new(source, problems);
    match report.count(Severity::Error) {
        0 => Ok((settings, report)),
        _ => Err(report),
    }
}

/// The JSON Schema (draft 7) of the file, made of the same types that read it.
#[must_use]
pub fn schema() -> String {
    raw::schema()
}
