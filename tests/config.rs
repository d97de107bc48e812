//! Configurations that are wrong, each beside what is said of it; configurations that are right; and
//! the files that would rot if nothing read them.
//!
//! `UPDATE=1 cargo test --test config` writes the expected messages anew; read the difference.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use larder::config::{self, Environment, Format, Report, Settings, Severity, Source};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn load(name: &str, text: &str) -> Result<(Settings, Report), Report> {
    let env = [("SECRET", "hunter2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let source = Source {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    config::load(source, &Environment::from_iter(env))
}

fn files(directory: &str) -> Vec<(String, String, PathBuf)> {
    let mut files: Vec<_> = std::fs::read_dir(root(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (
                name,
                std::fs::read_to_string(&path).unwrap(),
                path.with_extension("txt"),
            )
        })
        .collect();
    files.sort();
    files
}

/// Compares with what is committed, or writes it.
fn committed(path: &Path, text: &str) -> bool {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    if known != text {
        eprintln!("{} is out of date; now:\n{text}", path.display());
    }
    known == text
}

#[test]
fn every_mistake_has_its_message() {
    let files = files("tests/config/bad");
    assert!(files.len() >= 30);
    let mut wrong = Vec::new();
    for (name, text, expected) in files {
        match load(&name, &text) {
            Ok(_) => wrong.push(format!("{name} is accepted")),
            Err(report) => {
                let shown = report.render(Format::Human, false);
                assert!(!shown.contains("hunter2"), "{name} shows a secret");
                if !committed(&expected, &shown) {
                    wrong.push(name);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_doubtful_or_good_file_is_accepted_with_its_warnings() {
    let mut wrong = Vec::new();
    for (name, text, expected) in files("tests/config/good") {
        match load(&name, &text) {
            Ok((_, report)) => {
                if !committed(&expected, &report.render(Format::Human, false)) {
                    wrong.push(name);
                }
            }
            Err(report) => wrong.push(report.render(Format::Human, false)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_code_is_shown_by_a_file() {
    let mut shown = BTreeSet::new();
    for directory in ["tests/config/bad", "tests/config/good"] {
        for (name, text, _) in files(directory) {
            let report = load(&name, &text).map_or_else(|report| report, |(_, report)| report);
            shown.extend(report.problems.iter().map(|problem| problem.code));
        }
    }
    // These need an environment of their own, or a run; src/config tests them.
    let elsewhere = ["W204", "W209", "W210", "W212", "N302"];
    let missing: Vec<_> = config::Code::ALL
        .iter()
        .filter(|code| !shown.contains(code) && !elsewhere.contains(&code.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_reference_of_codes_is_up_to_date() {
    assert!(committed(
        &root("docs/errors.md"),
        &config::problem::reference()
    ));
}

#[test]
fn the_reference_of_reasons_is_up_to_date() {
    let path = root("docs/explain.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mark = "<!-- reasons: made from src/semantics/reason.rs -->\n";
    let (before, _) = text.split_once(mark).unwrap();
    let reference = larder::semantics::reason::reference();
    assert!(committed(&path, &format!("{before}{mark}\n{reference}")));
}

#[test]
fn the_schema_is_up_to_date() {
    assert!(committed(&root("proxy.schema.json"), &config::schema()));
}

#[test]
fn the_shipped_file_loads_without_a_warning() {
    let text = std::fs::read_to_string(root("proxy.yaml")).unwrap();
    let (settings, report) = load("proxy.yaml", &text)
        .map_err(|report| report.render(Format::Human, false))
        .unwrap();
    assert_eq!(
        report.count(Severity::Warning),
        0,
        "{}",
        report.render(Format::Human, false)
    );
    assert_eq!(settings.routes.all().len(), 9);
    assert_eq!((settings.limits.tiers, settings.limits.all.len()), (3, 5));
    assert!(settings.redis.is_none());
}

/// Every key of the schema, wherever it stands.
fn keys(schema: &serde_json::Value, found: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(members) => {
            if let Some(serde_json::Value::Object(properties)) = members.get("properties") {
                found.extend(properties.keys().cloned());
            }
            members.values().for_each(|member| keys(member, found));
        }
        serde_json::Value::Array(members) => members.iter().for_each(|member| keys(member, found)),
        _ => {}
    }
}

#[test]
fn the_shipped_file_and_the_manual_mention_every_key() {
    let mut known = BTreeSet::new();
    keys(
        &serde_json::from_str(&config::schema()).unwrap(),
        &mut known,
    );
    assert!(known.len() > 80, "{known:?}");
    for file in ["proxy.yaml", "docs/configuration.md"] {
        let text = std::fs::read_to_string(root(file)).unwrap();
        let words: BTreeSet<&str> = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .collect();
        let missing: Vec<_> = known
            .iter()
            .filter(|key| !words.contains(key.as_str()))
            .collect();
        assert!(missing.is_empty(), "{file} does not mention {missing:?}");
    }
}

#[test]
fn the_keys_of_the_schema_follow_the_naming_rules() {
    let mut known = BTreeSet::new();
    keys(
        &serde_json::from_str(&config::schema()).unwrap(),
        &mut known,
    );
    for key in known {
        let snake = key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        assert!(snake, "{key}");
        assert!(!["on", "off", "yes", "no"].contains(&key.as_str()), "{key}");
    }
}

#[test]
fn the_examples_of_the_manual_load() {
    let manuals = [
        "configuration",
        "presets",
        "post-and-query",
        "purging",
        "audit",
        "warming",
        "redis-security",
    ];
    let text =
        manuals.map(|name| std::fs::read_to_string(root(&format!("docs/{name}.md"))).unwrap());
    let text = text.concat();
    let examples: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        let text = if example.contains("upstream:") {
            example.to_owned()
        } else {
            format!("upstream: http://app\n{example}")
        };
        // What lies in a file of the reader's lies in a variable here.
        let text = text.replace("file:/run/secrets/redis", "${SECRET}");
        if let Err(report) = load("example", &text) {
            panic!("{}", report.render(Format::Human, false));
        }
    }
}

#[test]
fn the_manual_of_presets_spells_out_what_is_read() {
    let manual = std::fs::read_to_string(root("docs/presets.md")).unwrap();
    for preset in ["nextjs", "supabase"] {
        let text = root(&format!("src/config/presets/{preset}.yaml"));
        let text = std::fs::read_to_string(text).unwrap();
        assert!(
            manual.contains(&text),
            "docs/presets.md is not what {preset} says"
        );
    }
}

#[test]
fn ten_thousand_routes_load() {
    let mut text = String::from("upstream: http://app\nredis: redis://localhost\nroutes:\n");
    for index in 0..10_000 {
        text.push_str(&format!(
            "  - {{ path: \"/api/{index}/{{id}}\", ttl: 30s, tags: [\"a:{{id}}\"] }}\n"
        ));
    }
    let (settings, _) = load("many.yaml", &text)
        .map_err(|report| report.render(Format::Human, false))
        .unwrap();
    assert_eq!(settings.routes.all().len(), 10_001);
}

#[test]
fn ten_thousand_mistakes_are_bounded_in_print() {
    let text = format!(
        "upstream: http://app\nroutes:\n{}",
        "  - { path: x, ttl: 5 }\n".repeat(10_000)
    );
    let report = load("many.yaml", &text).unwrap_err();
    assert!(report.problems.len() >= 20_000);
    let shown = report.render(Format::Human, false);
    assert!(shown.len() < 100_000 && shown.contains("more"));
}

#[test]
fn a_file_over_one_mebibyte_is_refused() {
    let report = load("big.yaml", &"# x\n".repeat(300_000)).unwrap_err();
    assert_eq!(report.problems[0].code, config::Code::E102);
}

#[test]
fn without_variables_a_file_that_needs_them_still_checks() {
    let text = "upstream: ${APP}\nredis: ${REDIS_URL}\nadmin: { listen: ':9800', token: '${T:?x}' }\nroutes: [{ path: /a, tll: 1s }]\n";
    let source = Source {
        name: "x".into(),
        text: text.into(),
    };
    let report = config::load(source, &Environment::ignored()).unwrap_err();
    let codes: Vec<_> = report
        .problems
        .iter()
        .map(|problem| problem.code.as_str())
        .collect();
    assert_eq!(codes, ["E107"]);
}

#[test]
fn machines_read_findings_too() {
    let report = load("a.yaml", "upstream: http://app\nredis: redis://h\ntll: 1\n").unwrap_err();
    let json: serde_json::Value =
        serde_json::from_str(&report.render(Format::Json, false)).unwrap();
    assert_eq!(json[0]["code"], "E107");
    assert_eq!(
        (&json[0]["line"], &json[0]["column"]),
        (&3.into(), &1.into())
    );
    assert!(
        report
            .render(Format::Github, false)
            .starts_with("::error file=a.yaml,line=3,col=1,title=E107::unknown key")
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC{0,300}") {
        let _ = load("x", &text).map_err(|report| report.render(Format::Human, true));
    }

    /// The shipped file with a piece cut out and another put in.
    #[test]
    fn no_change_of_a_good_file_makes_the_loader_panic(
        at in 0.0..1.0_f64,
        length in 0_usize..40,
        put in "[-:{}\\[\\],&*!#|>'\"%@$ \n\t0-9a-z€]{0,12}",
    ) {
        let text = std::fs::read_to_string(root("proxy.yaml")).unwrap();
        let chars: Vec<char> = text.chars().collect();
        let start = (at * chars.len() as f64) as usize;
        let end = (start + length).min(chars.len());
        let changed: String = chars[..start].iter().copied().chain(put.chars()).chain(chars[end..].iter().copied()).collect();
        let _ = load("x", &changed).map_err(|report| report.render(Format::Human, false));
    }

    /// Any value in any place of a valid skeleton.
    #[test]
    fn no_value_makes_the_loader_panic(
        key in "(listen|workers|upstream|redis|cache|identity|limits|routes|admin|log)",
        value in "(\\[\\]|\\{\\}|~|-?[0-9]{1,40}(\\.[0-9]{1,5})?(ms|s|d|GiB|%|/min|/[0-9]{1,9}s)?|\\.nan|\\.inf|true|\\PC{0,20})",
    ) {
        let _ = load("x", &format!("upstream: http://a\n{key}: {value}\n"));
        for inner in ["url", "timeout", "pool", "memory", "max_body", "tiers", "user", "jwt", "paths", "address", "slow"] {
            let _ = load("x", &format!("upstream: http://a\n{key}: {{ {inner}: {value} }}\n"));
        }
        let _ = load("x", &format!("routes:\n  - path: /a\n    ttl: {value}\n    limit: {{ rate: {value} }}\n"));
    }
}
