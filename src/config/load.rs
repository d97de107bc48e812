//! Where a configuration comes from: a file, standard input, or the command line alone.

use super::env::Environment;
use super::problem::{Code, Fault, Report};
use super::settings::{Settings, UpstreamTarget};
use super::tree::{FILE_BYTES_MAX, Source};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where a configuration is looked for, in this order.
pub const FILES: [&str; 2] = ["proxy.yaml", "/etc/larder/proxy.yaml"];
/// The variable that names the app where there is no file.
pub const UPSTREAM_VARIABLE: &str = "LARDER_UPSTREAM";

/// Where a configuration is read from, at the start and again at each reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// A text that stays as it is: standard input, or the command line.
    Text(Source),
}

/// What `larder run` was asked for.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where the configuration comes from.
    pub origin: Origin,
    /// Read again at each reload, like the configuration.
    pub env_file: Option<PathBuf>,
    /// The app, whatever the configuration says: the demo brings its own.
    pub app: Option<UpstreamTarget>,
    /// It runs for show, with secrets that everybody knows.
    pub demo: bool,
    /// Reload when a file changes.
    pub watch: bool,
    /// Whether what people read on the terminal may be coloured.
    pub color: bool,
    /// Whether pretty log lines, on standard output, are coloured.
    pub log_color: bool,
}

impl RunOptions {
    /// Reads the configuration, now.
    pub fn load(&self) -> Result<(Settings, Report), Report> {
        let env = environment(self.env_file.as_deref())?;
        let (mut settings, mut report) = super::load(self.origin.read()?, &env)?;
        if !self.demo && !settings.listen.address.ip().is_loopback() {
            warn_of_demo_secret(&mut report);
        }
        if self.demo {
            // Its first visits are the reader's, so that there is something to see.
            settings.warm.clear();
        }
        if let Some(app) = &self.app {
            settings.upstream.target = app.clone();
        }
        Ok((settings, report))
    }

    /// The files whose change means a reload: the configuration's own, and those that it names for their
    /// content (secrets, certificates, keys), which are renewed without it.
    #[must_use]
    pub fn files(&self, settings: &Settings) -> Vec<PathBuf> {
        let config = match &self.origin {
            Origin::File(path) => Some(path.clone()),
            Origin::Text(_) => None,
        };
        config
            .into_iter()
            .chain(self.env_file.clone())
            .chain(settings.files.iter().cloned())
            .collect()
    }
}

impl Origin {
    /// The origin that `-c` names (`-` is standard input), or the first of [`FILES`] that exists, or
    /// the app that [`UPSTREAM_VARIABLE`] names.
    pub fn find(config: Option<&Path>, env: &Environment) -> Result<Self, Report> {
        match config {
            Some(path) if path == Path::new("-") => {
                read_bounded("standard input", std::io::stdin()).map(Self::Text)
            }
            Some(path) => Ok(Self::File(path.to_owned())),
            None => {
                let found = FILES.iter().map(PathBuf::from).find(|path| path.exists());
                let url = env.get(UPSTREAM_VARIABLE);
                found.map(Self::File).or_else(|| url.map(|url| Self::url(url, None))).ok_or_else(|| {
                    let fault = Fault::new(
                        Code::E102,
                        "no configuration: there is neither ./proxy.yaml nor /etc/larder/proxy.yaml",
                        "name one with -c FILE, or run without: larder run http://localhost:3000 --ttl 30s",
                    );
                    Report::whole(Source::default(), fault)
                })
            }
        }
    }

    /// A configuration of just an app and a lifetime for everything it answers.
    #[must_use]
    pub fn url(url: &str, ttl: Option<&str>) -> Self {
        // A JSON string is a YAML scalar, whatever it holds.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!("upstream: {}\n", quoted(&url.replace("${", "$${")));
        if let Some(ttl) = ttl {
            text.push_str(&format!(
                "routes:\n  - path: /*\n    ttl: {}\n",
                quoted(&ttl.replace("${", "$${"))
            ));
        }
        Self::Text(Source {
            name: "command line".into(),
            text,
        })
    }

    /// Reads the text, no more than [`FILE_BYTES_MAX`].
    pub fn read(&self) -> Result<Source, Report> {
        match self {
            Self::Text(source) => Ok(source.clone()),
            Self::File(path) => {
                let name = path.display().to_string();
                match std::fs::File::open(path) {
                    Ok(file) => read_bounded(&name, file),
                    Err(error) => Err(unreadable(&name, &error.to_string())),
                }
            }
        }
    }
}

/// The process's variables, and those of an env file.
pub fn environment(file: Option<&Path>) -> Result<Environment, Report> {
    let mut env = Environment::of_process();
    if let Some(path) = file {
        let source = Origin::File(path.to_owned()).read()?;
        env.add_file(&source.text)
            .map_err(|why| unreadable(&source.name, &why))?;
    }
    Ok(env)
}

/// What is right for the demo and in a file at rest is a danger where strangers can come.
fn warn_of_demo_secret(report: &mut Report) {
    for problem in &mut report.problems {
        if problem.code == Code::N303 {
            problem.code = Code::W209;
        }
    }
    report
        .problems
        .sort_by_key(|problem| (problem.code.severity(), problem.place));
}

fn read_bounded(name: &str, from: impl Read) -> Result<Source, Report> {
    let mut bytes = Vec::new();
    // One more than allowed, so that the parser sees that it is too much.
    let read = from.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(name, &error.to_string()))?;
    match String::from_utf8(bytes) {
        Ok(text) if text.len() > FILE_BYTES_MAX => Err(unreadable(name, "it is larger than 1 MiB")),
        Ok(text) => Ok(Source {
            name: name.to_owned(),
            text: text.trim_start_matches('\u{feff}').to_owned(),
        }),
        Err(_) => Err(unreadable(name, "it is not UTF-8 text")),
    }
}

fn unreadable(name: &str, why: &str) -> Report {
    let fault = Fault::new(Code::E102, format!("`{name}` cannot be read: {why}"), "");
    Report::whole(
        Source {
            name: name.to_owned(),
            text: String::new(),
        },
        fault,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_alone_is_a_configuration() {
        let Origin::Text(source) = Origin::url("http://localhost:3000", Some("30s")) else {
            panic!()
        };
        let (settings, _) = crate::config::load(source, &Environment::default()).unwrap();
        assert_eq!(settings.routes.all().len(), 2);
    }

    #[test]
    fn the_demos_secret_is_a_warning_where_strangers_can_come_and_it_is_not_the_demo() {
        let report = |listen: &str, demo: bool| {
            let text = format!(
                "upstream: http://localhost:3000\nlisten: \"{listen}\"\nidentity: {{ jwt: {{ secret: demo-secret-demo-secret-demo-secret!! }} }}\n"
            );
            let options = RunOptions {
                origin: Origin::Text(Source {
                    name: "proxy.yaml".into(),
                    text,
                }),
                env_file: None,
                app: None,
                demo,
                watch: false,
                color: false,
                log_color: false,
            };
            options
                .load()
                .unwrap()
                .1
                .lines(super::super::Severity::Note)
        };
        let told = report(":8080", false);
        let first = told.lines().next().unwrap_or_default();
        assert!(first.starts_with("warning[W209]: "), "{told}");
        assert!(first.ends_with(" (proxy.yaml:3)"), "{told}");
        for (listen, demo) in [("127.0.0.1:8080", false), (":8080", true)] {
            let told = report(listen, demo);
            assert!(
                told.contains("note[N303]") && !told.contains("W209"),
                "{told}"
            );
        }
    }

    #[test]
    fn what_is_typed_cannot_add_settings() {
        for (url, ttl) in [
            ("x\nadmin: off", "30s"),
            ("http://a", "1s\n    no_store: true"),
            ("${HOME}", "1s"),
        ] {
            let Origin::Text(source) = Origin::url(url, Some(ttl)) else {
                panic!()
            };
            assert!(
                crate::config::load(source, &Environment::default()).is_err(),
                "{url}"
            );
        }
    }

    #[test]
    fn a_file_over_the_bound_or_not_text_is_refused() {
        assert!(read_bounded("x", std::io::repeat(b'a')).is_err());
        assert!(read_bounded("x", &b"\xff\xfe"[..]).is_err());
        assert!(
            read_bounded("x", &b"\xef\xbb\xbfa: 1"[..]).is_ok_and(|source| source.text == "a: 1")
        );
    }
}
