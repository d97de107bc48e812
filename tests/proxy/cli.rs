//! Commands: what they print, where, and what they return.

use crate::support::*;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn check_is_silent_trouble_free_and_exits_0_on_a_good_file() {
    let good = "upstream: http://localhost:3000\nroutes:\n  - { path: /api/*, ttl: 30s }\n";
    let output = larder_cli(&["check", "-c", "-"], good).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test]
async fn check_shows_every_problem_with_line_and_suggestion_and_exits_78() {
    let bad = "upstream: http://localhost:3000\nroutes:\n  - { path: /api/*, tll: 30s }\n  - { path: /b, ttl: 60 }\n";
    let output = larder_cli(&["check", "-c", "-"], bad).await;
    assert_eq!(output.status.code(), Some(78));
    let told = text(&output.stderr) + &text(&output.stdout);
    for part in [
        "tll",
        "did you mean `ttl`",
        "no unit",
        ":3:",
        ":4:",
        "more: larder explain E107\n",
        "more: larder explain E112\n",
    ] {
        assert!(told.contains(part), "{part:?} is not in:\n{told}");
    }
}

#[tokio::test]
async fn run_with_a_broken_file_exits_78_and_wrong_usage_2() {
    let output = larder_cli(&["run", "-c", "-"], "upstrem: x\n").await;
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
    assert_eq!(
        larder_cli(&["no-such-verb"], "").await.status.code(),
        Some(2)
    );
}

#[tokio::test]
async fn a_broken_certificate_is_found_by_check_and_named_by_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(at("cert.pem"), "junk\n").unwrap();
    std::fs::write(at("key.pem"), "junk\n").unwrap();
    let yaml = format!(
        "upstream: http://localhost:3000\nlisten: {{ address: \":0\", tls: {{ cert: {}, key: {} }} }}\n",
        at("cert.pem"),
        at("key.pem")
    );
    for verb in ["check", "run"] {
        let output = larder_cli(&[verb, "-c", "-"], &yaml).await;
        let told = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{told}");
        for part in ["E123", "cert.pem", "key.pem", "no certificate in PEM"] {
            assert!(told.contains(part), "{part:?} is not in:\n{told}");
        }
    }
}

#[tokio::test]
async fn version_help_and_completions_go_to_stdout() {
    let version = larder_cli(&["version"], "").await;
    assert!(
        text(&version.stdout).contains(env!("CARGO_PKG_VERSION")),
        "{}",
        text(&version.stdout)
    );
    let help = larder_cli(&["--help"], "").await;
    for verb in ["run", "check", "demo", "purge", "healthcheck"] {
        assert!(text(&help.stdout).contains(verb), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = larder_cli(&["completions", shell], "").await;
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("larder"));
    }
}

#[tokio::test]
async fn healthcheck_and_purge_speak_to_a_running_larder() {
    let app = App::says(|_| Answer::public("x")).await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /x, ttl: 1m, tags: [things] }]")
        .start()
        .await;
    let admin = format!("http://{}", larder.admin_address);
    assert_eq!(
        larder_cli(&["healthcheck", "--admin", &admin], "")
            .await
            .status
            .code(),
        Some(0)
    );
    larder.get("/x").await;
    assert_eq!(larder.get("/x").await.cache(), "HIT");
    let purged = larder_cli(
        &["purge", "--admin", &admin, "--tag", "things", "--hard"],
        "",
    )
    .await;
    assert_eq!(purged.status.code(), Some(0), "{}", text(&purged.stderr));
    assert_eq!(larder.get("/x").await.cache(), "MISS");
}

#[tokio::test]
async fn client_verbs_exit_69_where_nobody_listens() {
    let admin = format!("http://127.0.0.1:{}", free_port());
    for verb in [
        &["healthcheck", "--admin", &admin][..],
        &["purge", "--admin", &admin, "--tag", "x"][..],
    ] {
        let code = larder_cli(verb, "").await.status.code();
        assert!(
            code == Some(69) || (verb[0] == "healthcheck" && code == Some(1)),
            "{verb:?}: {code:?}"
        );
    }
}

#[tokio::test]
async fn run_needs_no_file() {
    let app = App::says(|_| Answer::ok("x")).await;
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["run", &app.url(), "--ttl", "30s"])
        .current_dir(folder.path())
        .env("PORT", port.to_string())
        .env_remove("REDIS_URL")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = Client::new(([127, 0, 0, 1], port).into());
    eventually("it caches", async || {
        let answer = client.try_send("GET", "/x", &[], "").await.ok()?;
        (answer.cache() == "HIT").then_some(())
    })
    .await;
    let _ = child.kill().await;
}

#[tokio::test]
async fn the_log_is_coloured_where_the_command_line_says_so_and_only_there() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
    let app = App::says(|_| Answer::ok("x")).await;
    for (color, coloured) in [("always", true), ("never", false)] {
        let port = free_port();
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["run", "-c", "-", "--color", color])
            .env_remove("REDIS_URL")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let yaml = format!(
            "listen: 127.0.0.1:{port}\nupstream: {}\nadmin: off\nlog: {{ format: pretty }}\n\
             routes: [{{ path: /x, ttl: 5m }}]\n",
            app.url()
        );
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(yaml.as_bytes()).await.unwrap();
        drop(stdin);
        let client = Client::new(([127, 0, 0, 1], port).into());
        eventually("it serves", async || {
            client.try_send("GET", "/x", &[], "").await.ok()
        })
        .await;
        let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let line = loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if line.contains("MISS") {
                break line;
            }
        };
        assert_eq!(line.contains("\x1b[34m"), coloured, "{line:?}");
        let _ = child.kill().await;
    }
}
