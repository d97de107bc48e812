//! `larder suggest`: what traffic is worth a route, as YAML.

use super::{AdminPort, Exit, Request, ask, say, talk, token};
use clap::Args;
use std::time::Duration;

/// An answer of the admin port comes in this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at whether it is over.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Suggest {
    /// Look at all traffic for so long first; without it, print what follows from what was seen so far
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<String>,
    #[command(flatten)]
    port: AdminPort,
    /// The admin token; by default the variable ADMIN_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn suggest(options: &Suggest) -> Exit {
    if let Some(length) = &options.length
        && let Err(exit) = look(options, length)
    {
        return exit;
    }
    loop {
        let answer = match ask(&options.port, options.token.as_deref(), "/v1/suggest") {
            Ok(answer) => answer,
            Err(exit) => return exit,
        };
        // Who has asked for a look waits for its end.
        if options.length.is_some() && answer["looking"] == true {
            pause();
            continue;
        }
        match options.json {
            true => say(&format!("{answer}\n")),
            false => say(answer["yaml"].as_str().unwrap_or_default()),
        }
        return Exit::Fine;
    }
}

/// A command line has no worker that this could stop.
#[expect(clippy::disallowed_methods, reason = "nothing else runs here")]
fn pause() {
    std::thread::sleep(PATIENCE);
}

fn look(options: &Suggest, length: &str) -> Result<(), Exit> {
    let request = Request {
        admin: options.port.url(),
        path: "/v1/suggest",
        token: token(options.token.as_deref()),
        body: Some(serde_json::json!({ "for": length }).to_string()),
        timeout: TIMEOUT,
    };
    request.told("it cannot look")?;
    talk(&format!(
        "larder looks at what goes to the app for {length}; `larder suggest` prints it at any time"
    ));
    Ok(())
}
