//! No secret comes out, whatever goes wrong: not on the terminal, not in a header, a page, a metric, an
//! explanation or the output of a command.

use crate::support::*;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;

/// Each is known by its beginning, so that a part of one is found as well.
const MARK: &str = "hush-";

/// What larder says and answers, piece by piece.
#[derive(Default)]
struct Heard(String);

impl Heard {
    fn answer(&mut self, of: &str, answer: &Response) {
        let _ = writeln!(self.0, "== {of}: {} {:?}", answer.status, answer.headers);
        self.0.push_str(&answer.text());
    }

    fn output(&mut self, of: &str, output: &std::process::Output) {
        let _ = writeln!(self.0, "== {of}");
        self.0.push_str(&String::from_utf8_lossy(&output.stdout));
        self.0.push_str(&String::from_utf8_lossy(&output.stderr));
    }

    /// Nothing of a secret, as it is, encoded as in a URL, or in base64.
    fn is_clean(&self) {
        for mark in [MARK, "hush%2D", "aHVzaC"] {
            if let Some(at) = self.0.find(mark) {
                let from = self.0.floor_char_boundary(at.saturating_sub(600));
                let to = self.0.floor_char_boundary((at + 100).min(self.0.len()));
                panic!("a secret came out:\n{}", &self.0[from..to]);
            }
        }
    }
}

/// A secret in a file of its own.
fn in_file(folder: &tempfile::TempDir, name: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, secret(name)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    format!("file:{}", path.display())
}

fn secret(name: &str) -> String {
    format!("{MARK}{name}-0123456789abcdef0123456789abcdef")
}

#[tokio::test]
async fn nothing_that_larder_says_or_answers_holds_a_secret() {
    let app = shop().await;
    let redis = RedisServer::start().await;
    redis.may_refuse("AUTH");
    redis.may_refuse("acl|whoami");
    let folder = tempfile::tempdir().unwrap();
    let (admin, debug, jwt) = (secret("admin"), secret("debug"), secret("jwt"));
    let rest = format!(
        "identity: {{ jwt: {{ secret: \"{jwt}\" }}, user: sub }}\n\
         headers: {{ debug_token: \"{debug}\" }}\n\
         admin: {{ listen: \"127.0.0.1:{{ADMIN}}\", token: \"{}\" }}\n\
         limits: {{ tiers: [{{ name: all, for: anyone, rate: 100/min, per: ip }}] }}\n\
         routes: [{{ name: car, path: \"/api/cars/{{id}}\", ttl: 1m, key: {{ per: token }} }}]",
        in_file(&folder, "admin")
    );
    let right = "resetpass".to_owned();
    let password = format!(">{}", secret("password"));
    redis
        .cli(&["ACL", "SETUSER", "larder", &right, &password])
        .await;
    let port = redis.port;
    let closed = free_port();
    let mut heard = Heard::default();
    for (what, block) in [
        (
            "a password in the URL",
            format!(
                "{{ url: \"redis://larder:{}@127.0.0.1:{port}\" }}",
                secret("password")
            ),
        ),
        (
            "a password in a file",
            format!(
                "{{ url: \"redis://larder@127.0.0.1:{port}\", password: \"{}\" }}",
                in_file(&folder, "password")
            ),
        ),
        (
            "a wrong password",
            format!(
                "{{ url: \"redis://127.0.0.1:{port}\", username: larder, password: {} }}",
                secret("wrong")
            ),
        ),
        (
            "nobody there",
            format!(
                "{{ url: \"redis://:{}@127.0.0.1:{closed}\" }}",
                secret("password")
            ),
        ),
        (
            "not a Redis",
            format!(
                "{{ url: \"redis://:{}@{}\" }}",
                secret("password"),
                app.address
            ),
        ),
    ] {
        let larder = larder(&app)
            .redis_block(&block)
            .yaml(&rest)
            .yaml("log: { level: debug }")
            .start()
            .await;
        let bearer = format!("Bearer {}", signed(&jwt, "u1", "user", 3_600));
        let client = larder.client();
        for headers in [
            &[
                ("Authorization", bearer.as_str()),
                ("Larder-Debug", debug.as_str()),
            ][..],
            &[
                ("Authorization", "Bearer hush-forged"),
                ("Cookie", "session=hush-cookie"),
            ],
            &[("Larder-Debug", "hush-guess")],
        ] {
            for target in ["/api/cars/1", "/api/cars/1", "/other?token=hush-query"] {
                let answer = client.get_with(target, headers).await;
                assert_eq!(answer.status, 200);
                // The app repeats the query, as apps may.
                if !target.contains("hush") {
                    heard.answer(&format!("{what}: {target}"), &answer);
                }
            }
        }
        let token = format!("Bearer {admin}");
        for who in [None, Some(token.as_str()), Some("Bearer hush-nobody")] {
            let headers: Vec<_> = who.map(|who| ("Authorization", who)).into_iter().collect();
            for page in [
                "/",
                "/livez",
                "/readyz?verbose",
                "/healthz",
                "/metrics",
                "/v1/stats",
                "/v1/config",
                "/v1/redis",
                "/v1/explain?url=/api/cars/1",
                "/v1/nothing",
            ] {
                let answer = larder.admin().get_with(page, &headers).await;
                heard.answer(&format!("{what}: {page}"), &answer);
            }
        }
        let text = std::fs::read_to_string(&larder.config).unwrap();
        for command in ["check", "doctor"] {
            let output = larder_cli(&[command, "-c", "-"], &text).await;
            heard.output(&format!("{what}: {command}"), &output);
        }
        let at = format!("http://{}", larder.admin_address);
        for arguments in [
            &["purge", "--all", "--token", "hush-wrong"][..],
            &["purge", "--all", "--token", admin.as_str()],
            &["explain", "/api/cars/1", "--token", admin.as_str()],
        ] {
            let output = larder_cli(&[arguments, &["--admin", &at]].concat(), "").await;
            heard.output(&format!("{what}: {}", arguments[0]), &output);
        }
        // A configuration that is broken beside a secret, taken up while it serves.
        larder.configure("ttl: 1m", "tll: 1m");
        larder.signal("HUP");
        larder.says("tll").await;
        larder.configure("log: { level: debug }", "log: [hush-1, *hush");
        larder.signal("HUP");
        larder.says("E101").await;
        larder.signal("USR1");
        heard
            .0
            .push_str(&larder.log().replace("log: [hush-1, *hush", ""));
        heard.is_clean();
    }
    assert!(
        heard.0.len() > 100_000,
        "{} bytes were heard",
        heard.0.len()
    );
}

#[tokio::test]
async fn a_configuration_that_is_broken_in_any_way_is_told_without_its_secrets() {
    let mut heard = Heard::default();
    for redis in [
        "redis//:hush-1@h",
        "redis:/:hush-1@h",
        "redis://:hush-1@h:port",
        "redis://:hush-1@h/first",
        "redis://:hush-1 @h",
        "redis://:hush-1@",
        "rediss://:hush-1@h/#insecure",
        "mysql://root:hush-1@h",
        "https://default:hush-1@h",
        "redis://:hush%ff-1@h",
    ] {
        for yaml in [
            format!("redis: \"{redis}\"\n"),
            format!("redis: {{ url: \"{redis}\", pool: {{ min: 9, max: 1 }} }}\n"),
            format!("redis:\n  url: {redis}\n  limits_url:\n    {redis}\n"),
            format!("redis:\n  {redis}\n"),
            format!("redis: {{ url: \"redis://h\", limits_url: '{redis}', }}\ntll: 1\n"),
        ] {
            let yaml = format!("upstream: http://a\n{yaml}");
            for format in ["human", "json", "github"] {
                let arguments = ["check", "--format", format, "-c", "-"];
                let output = larder_cli(&arguments, &yaml).await;
                assert_eq!(output.status.code(), Some(78), "{yaml}");
                heard.output(format, &output);
            }
        }
    }
    for yaml in [
        "admin: { listen: ':9800', token: hush-short }\n",
        "admin:\n  listen: ':9800'\n  token:\n    hush-short\n",
        "admin:\n  listen: ':9800'\n  token: |\n    hush-short\n",
        "admin: { token: [hush-1] }\n",
        "admin: { tokn: hush-1, token: hush-1 }\n",
        "identity: { jwt: { secret: hush-1, jwks: /no/such } }\n",
        "identity: { jwt: { secret: hush-1 } }\n\tx\n",
        "redis: { url: 'redis://h', password: { is: hush-1 } }\n",
        "redis:\n  url: redis://h\n  password: hush-1, hush-2\n  tll: 1\n",
        "redis: { url: 'redis://h', username: larder, password: 'hush-1', require_tls: true }\n",
        "headers: { debug_token: \"hush-1\n",
    ] {
        let output = larder_cli(
            &["check", "-c", "-"],
            &format!("upstream: http://a\n{yaml}"),
        )
        .await;
        heard.output(yaml.split(':').next().unwrap(), &output);
    }
    heard.is_clean();
}

#[tokio::test]
async fn a_core_dump_would_hold_nothing_of_the_memory() {
    let app = shop().await;
    let larder = larder(&app).start().await;
    let filter = format!("/proc/{}/coredump_filter", larder.pid());
    // Kernels without core dumps have no such file.
    if let Ok(filter) = std::fs::read_to_string(filter) {
        assert_eq!(filter.trim(), "00000000");
    }
}
