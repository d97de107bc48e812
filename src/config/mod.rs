//! `proxy.yaml`: raw (the YAML's mirror) → compile (every problem at once) → [`Settings`].
//!
//! YAML types end at this room's door. Nothing here opens a socket.
//!
//! The way of a text: `tree` (YAML with line and column) → `env` (`${…}` filled in) → `read` (serde
//! types, every problem recorded) → `compile` (defaults, cross-checks) → [`Settings`] and a [`Report`].

mod compile;
pub mod cron;
pub mod env;
pub mod load;
mod pem;
mod places;
mod preset;
pub mod problem;
mod raw;
mod read;
pub mod redis_url;
pub mod settings;
mod tree;
mod values;
pub mod warm;
pub mod watch;

pub use env::Environment;
pub use load::{Origin, RunOptions};
pub use places::Places;
pub use problem::{Code, Format, Problem, Report, Severity};
pub use redis_url::RedisUrl;
pub use settings::Settings;
pub use tree::{FILE_BYTES_MAX, Place, Source};

/// Reads a text into settings. The report holds every warning and note, or, where there is at least
/// one error, everything that is wrong at once.
pub fn load(source: Source, env: &Environment) -> Result<(Settings, Report), Report> {
    let mut root = match tree::parse(&source.text) {
        Ok(root) => root,
        Err((problem::Fault { code, message, fix }, place)) => {
            let problem = Problem {
                code,
                message,
                path: String::new(),
                place,
                fix,
            };
            return Err(Report::new(source, vec![problem]));
        }
    };
    let mut problems = Vec::new();
    env.fill(&mut root, "", &mut problems);
    let raw: raw::Raw = read::read(&root, env.ignored, &mut problems);
    let mut settings = compile::compile(&raw, &root, env, &mut problems);
    settings.places = Places::of(&source.name, &root);
    let mut report = Report::new(source, problems);
    if report.count(Severity::Error) == 0 {
        return Ok((settings, report));
    }
    // Beside errors, what is merely good to know is noise.
    report
        .problems
        .retain(|problem| problem.code.severity() != Severity::Note);
    Err(report)
}

/// A size as the file has them, `64MiB`, in bytes. Errors: a sentence for people.
pub fn size(text: &str) -> Result<u64, String> {
    values::number::<values::Size>(text).map(|size| size.0)
}

/// A duration as the file has them, `1h30m`. Errors: a sentence for people.
pub fn span(text: &str) -> Result<std::time::Duration, String> {
    values::number::<values::Span>(text).map(|span| span.0)
}

/// The JSON Schema (draft 7) of the file, made of the same types that read it.
#[must_use]
pub fn schema() -> String {
    raw::schema()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::*;
    use std::time::Duration;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn load_in(text: &str, env: &Environment) -> (Settings, Report) {
        let source = Source {
            name: "test".into(),
            text: text.into(),
        };
        load(source, env)
            .map_err(|report| report.render(Format::Human, false))
            .unwrap()
    }

    fn settings(text: &str) -> Settings {
        load_in(text, &Environment::default()).0
    }

    #[test]
    fn a_pool_has_its_numbers_by_name_or_one_by_one() {
        let pool = |redis: &str| {
            let text = format!("upstream: http://h:1\nredis: {{ url: redis://h{redis} }}\n");
            let redis = settings(&text).redis.unwrap();
            let concurrent = redis.concurrent.map(std::num::NonZeroU32::get);
            (redis.pool_min, redis.pool_max.get(), concurrent)
        };
        for (given, expected) in [
            ("", (2, 10, None)),
            (", pool_profile: free", (2, 5, Some(20))),
            (", pool_profile: pro", (2, 50, Some(200))),
            (", pool_profile: enterprise", (2, 100, Some(500))),
            (
                ", pool_profile: pro, pool: { min: 8, concurrent: 300 }",
                (8, 50, Some(300)),
            ),
            (", pool_profile: free, pool: { max: 7 }", (2, 7, Some(20))),
        ] {
            assert_eq!(pool(given), expected, "{given}");
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let settings = settings("upstream: http://localhost:3000\nredis: redis://h\n");
        assert_eq!(settings.listen.address.to_string(), "[::]:8080");
        assert_eq!(settings.upstream.connect_timeout, Duration::from_secs(2));
        assert_eq!(settings.upstream.timeout, Duration::from_secs(30));
        assert_eq!(settings.upstream.max_in_flight, MaxInFlight::Adaptive);
        let redis = settings.redis.unwrap();
        assert_eq!((redis.pool_min, redis.pool_max.get()), (2, 10));
        assert_eq!(redis.timeout, Duration::from_millis(100));
        let breaker = Breaker {
            trip: 0.7,
            window: Duration::from_secs(10),
            min_calls: 10,
            retry_after: Duration::from_secs(15),
        };
        assert_eq!(redis.breaker, breaker);
        assert_eq!(
            (settings.cache.memory, settings.cache.max_body),
            (64 << 20, 1 << 20)
        );
        assert_eq!(settings.cache.namespace, "larder");
        assert_eq!(settings.identity.ipv6_prefix, 64);
        assert!(settings.identity.trusted_proxies.is_empty());
        assert_eq!(
            (settings.limits.mode, settings.limits.redis_down),
            (LimitMode::Enforce, RedisDown::Local)
        );
        assert_eq!(settings.admin.listen.unwrap().to_string(), "127.0.0.1:9800");
        assert_eq!(settings.shutdown.grace, Duration::from_secs(25));
        let fallback = settings.routes.all().last().unwrap();
        let policy = fallback.policy.as_ref().unwrap();
        assert_eq!(
            (policy.ttl.as_ref(), policy.stale_if_error),
            (None, Duration::ZERO)
        );
        assert_eq!(fallback.key.ignore_query.len(), 5);
    }

    #[test]
    fn a_route_takes_what_it_does_not_say_from_the_defaults() {
        let settings = settings(
            "upstream: http://a\ndefaults: { stale_if_error: 1h, stale_while_revalidate: 30s }\n\
             cache: { set_cookie: strip }\nidentity: { jwt: { secret: x } }\nroutes:\n  \
             - { path: /a, ttl: 5m, stale_if_error: 1m, key: { per: token }, limit: { rate: 10/min, per: [user, ip] } }\n  \
             - { path: /b, no_store: true }\n",
        );
        let rule = &settings.routes.all()[0];
        let policy = rule.policy.as_ref().unwrap();
        assert_eq!(policy.stale_if_error, Duration::from_secs(60));
        assert_eq!(policy.stale_while_revalidate, Duration::from_secs(30));
        assert_eq!(policy.set_cookie, crate::semantics::SetCookie::Strip);
        assert!(policy.per_identity && !policy.override_app);
        assert_eq!(rule.methods, [http::Method::GET, http::Method::HEAD]);
        let negative = (http::StatusCode::NOT_FOUND, Duration::from_secs(60));
        assert!(policy.ttl.as_ref().unwrap().by_status.contains(&negative));
        assert_eq!((&*rule.name, rule.limits.as_slice()), ("/a", &[0][..]));
        assert_eq!(settings.limits.all[0].per, [LimitPer::User, LimitPer::Ip]);
        assert!(settings.routes.all()[1].policy.is_none());
    }

    #[test]
    fn redis_is_the_files_then_redis_url_then_kv_url_then_a_guess() {
        let (rest, token) = (
            ("UPSTASH_REDIS_REST_URL", "https://eu1-calm-cat.upstash.io"),
            ("UPSTASH_REDIS_REST_TOKEN", "a/b"),
        );
        let (redis, kv) = (("REDIS_URL", "redis://r"), ("KV_URL", "rediss://k"));
        let found = |text: &str, pairs: &[(&str, &str)]| {
            let (settings, report) = load_in(text, &env(pairs));
            let codes: Vec<_> = report
                .problems
                .iter()
                .map(|problem| problem.code.as_str())
                .collect();
            (
                settings.redis.map(|redis| {
                    let password = redis.url.password.clone().unwrap_or_default();
                    format!("{} {}", redis.url, password.expose())
                }),
                codes.join(" "),
            )
        };
        let bare = "upstream: http://a\n";
        let said = "upstream: http://a\nredis: redis://f\n";
        let unset = "upstream: http://a\nredis: ${MY_REDIS}\n";
        assert_eq!(
            found(said, &[redis, kv]),
            (Some("redis://f:6379 ".into()), String::new())
        );
        assert_eq!(
            found(bare, &[redis, kv, rest, token]),
            (Some("redis://r:6379 ".into()), "N302".into())
        );
        assert_eq!(
            found(unset, &[kv, rest, token]),
            (Some("rediss://k:6379 ".into()), "N302".into())
        );
        let guess = Some("rediss://eu1-calm-cat.upstash.io:6379 a/b".to_owned());
        assert_eq!(found(bare, &[rest, token]), (guess, "W204".into()));
        let vercel = ("KV_REST_API_URL", "https://kv.example");
        let vercel = [vercel, ("KV_REST_API_TOKEN", "t")];
        let guess = Some("rediss://kv.example:6379 t".to_owned());
        assert_eq!(found(bare, &vercel), (guess, "W204".into()));
        assert_eq!(found(unset, &[]), (None, "N301".into()));
        let told = |pairs: &[(&str, &str)]| {
            let text = "upstream: http://a\n";
            let source = Source {
                name: "x".into(),
                text: text.into(),
            };
            match load(source, &env(pairs)) {
                Ok((_, report)) | Err(report) => report.render(Format::Human, false),
            }
        };
        let masked = told(&[("KV_URL", "rediss://u:hunter2@k")]);
        assert!(
            masked.contains("variable KV_URL: rediss://u:••••@k"),
            "{masked}"
        );
        let masked = told(&[rest, ("UPSTASH_REDIS_REST_TOKEN", "hunter2")]);
        assert!(masked.contains("rediss://default:••••@eu1-calm-cat.upstash.io:6379"));
        for bad in [("REDIS_URL", "redis//:hunter2@h"), ("KV_URL", "hunter2")] {
            let told = told(&[bad]);
            assert!(told.contains(&format!("the variable {}", bad.0)), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        let broken = told(&[("KV_REST_API_URL", "/"), ("KV_REST_API_TOKEN", "hunter2")]);
        assert!(
            broken.contains("KV_REST_API_URL is not the address"),
            "{broken}"
        );
    }

    #[test]
    fn the_password_of_redis_may_lie_in_a_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .unwrap();
            path
        };
        let (password, url) = (
            file("password", "p@ss/word\r\n"),
            file("url", "rediss://:hunter2@other:1\n"),
        );
        let text = format!(
            "upstream: http://a\nredis: {{ url: redis://h, username: larder, password: 'file:{}', limits_url: 'file:{}' }}\n",
            password.display(),
            url.display()
        );
        let settings = settings(&text);
        let redis = settings.redis.as_ref().unwrap();
        let secret = |url: &RedisUrl| url.password.as_ref().unwrap().expose().to_owned();
        assert_eq!(redis.url.masked(), "redis://larder:••••@h:6379");
        assert_eq!(secret(&redis.url), "p@ss/word");
        assert_eq!(redis.password_file.as_ref(), Some(&password));
        assert_eq!(secret(redis.limits_url.as_ref().unwrap()), "hunter2");
        assert_eq!(settings.files, [password, url.clone()]);
        let text = format!("upstream: http://a\nredis: file:{}\n", url.display());
        let redis = self::settings(&text).redis.unwrap();
        assert_eq!(
            (redis.url.to_string().as_str(), secret(&redis.url)),
            ("rediss://other:1", "hunter2".into())
        );
        assert_eq!(redis.password_file, Some(url));
        let told = |text: &str| {
            let text = format!("upstream: http://a\nredis: {text}\n");
            let source = Source {
                name: "x".into(),
                text,
            };
            let told = match load(source, &env(&[("REDIS_URL", "redis://r")])) {
                Ok((_, report)) | Err(report) => report.render(Format::Human, false),
            };
            assert!(!told.contains("hunter2"), "{told}");
            told
        };
        let empty = file("empty", "\n");
        for (name, why) in [
            (empty.display().to_string(), "it is empty"),
            (dir.path().display().to_string(), "it is not a file"),
            ("/no/such".into(), "No such file"),
            (
                file("bytes", "x").display().to_string(),
                "not the URL of a Redis",
            ),
            ("/dev/zero".into(), "it is not a file"),
        ] {
            let told = told(&format!("'file:{name}'"));
            assert!(told.contains(why) && told.starts_with("error["), "{told}");
            assert!(
                !told.contains("N302"),
                "nothing else is taken instead: {told}"
            );
        }
        let open = file("open", "redis://:hunter2@h");
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        let told = told(&format!("'file:{}'", open.display()));
        assert!(told.starts_with("warning[W210]"), "{told}");
    }

    #[test]
    fn a_secret_may_lie_in_a_file_and_is_shown_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let text = format!(
            "upstream: http://a\nadmin: {{ listen: ':9800', token: 'file:{}' }}\n",
            file.display()
        );
        let settings = settings(&text);
        assert_eq!(settings.admin.token.as_ref().unwrap().expose().len(), 32);
        assert!(!format!("{settings:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn the_hash_names_what_is_in_force_not_how_it_is_written() {
        let hash = |text: &str| settings(text).hash;
        let one = hash("upstream: http://a\n");
        assert_eq!(one.len(), 8);
        assert_eq!(one, hash("# a comment\nupstream: { url: 'http://a' }\n"));
        assert_ne!(one, hash("upstream: http://b\n"));
        let many = include_str!("../../proxy.yaml");
        assert_eq!(hash(many), hash(many), "in one order each time");
        // Explanations name lines, so what moved in the file is taken up like what changed.
        let moved = settings("# a comment\nupstream: http://a\n");
        assert!(!moved.same_as(&settings("upstream: http://a\n")));
    }

    #[test]
    fn another_secret_is_another_configuration_under_the_same_name() {
        let text = "upstream: http://a\n\
                    redis: { url: 'redis://:${A}@h', limits_url: 'redis://:${B}@h' }\n\
                    identity: { jwt: { secret: '${C}' } }\nadmin: { token: '${D}' }\nheaders: { debug_token: '${E}' }\n";
        let with = |changed: &str| {
            let value = |name: &str| if name == changed { "new" } else { "old" };
            let pairs = ["A", "B", "C", "D", "E"].map(|name| (name, value(name)));
            load_in(text, &env(&pairs)).0
        };
        let before = with("none");
        assert!(before.same_as(&with("none")));
        for changed in ["A", "B", "C", "D", "E"] {
            let now = with(changed);
            assert_eq!(now.hash, before.hash);
            assert!(!now.same_as(&before), "{changed}");
        }
    }

    #[test]
    fn problems_name_the_place_in_the_file_even_behind_a_refused_route() {
        let text = "upstream: http://a\nroutes:\n  - nonsense\n  - { path: /a, slide_up_to: 5m }\n";
        let report = load(
            Source {
                name: "x".into(),
                text: text.into(),
            },
            &Environment::default(),
        )
        .unwrap_err();
        let last = report.problems.last().unwrap();
        assert_eq!(
            (last.path.as_str(), last.place.unwrap().line),
            ("routes[1].slide_up_to", 4)
        );
    }
}
