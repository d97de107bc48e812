//! What lies in `deploy/` fits the code: it parses, and ports, images, paths and keys are the real ones.

use crate::support::larder_cli;
use serde::Deserialize;
use serde_yaml::Value;
use std::process::Command;

fn read(name: &str) -> String {
    let path = format!("{}/deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents(name: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(&read(name))
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn words(value: &Value) -> Vec<&str> {
    value
        .as_sequence()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn compose_has_the_app_larder_and_a_redis_that_forgets_the_least_used() {
    let compose = &documents("compose.yaml")[0];
    let services = &compose["services"];
    let redis = words(&services["redis"]["command"]).join(" ");
    assert!(
        redis.contains("--maxmemory 256mb --maxmemory-policy allkeys-lru"),
        "{redis}"
    );
    // The one that keeps what limits have counted: neither forgets nor evicts.
    let limits = &services["redis-limits"];
    assert_eq!(words(&limits["profiles"]), ["limits"]);
    let command = words(&limits["command"]).join(" ");
    assert!(
        command.contains("--maxmemory-policy noeviction") && command.contains("--appendonly yes"),
        "{command}"
    );
    assert_eq!(services["app"]["image"], services["larder"]["image"]);
    assert_eq!(words(&services["app"]["command"])[0], "demo");
    assert_eq!(words(&services["larder"]["command"])[0], "run");
    assert_eq!(
        services["larder"]["environment"]["REDIS_URL"],
        "redis://redis:6379"
    );
    let config: Value = serde_yaml::from_str(&read("larder.yaml")).unwrap();
    assert_eq!(config["upstream"], "http://app:3000");
    assert!(
        services["app"]["environment"]["LARDER_DEMO_LISTEN"]
            .as_str()
            .unwrap()
            .ends_with(":3000")
    );
}

#[test]
fn every_rule_for_prometheus_has_what_it_needs() {
    let config = &documents("prometheus/prometheus.yaml")[0];
    let files = words(&config["rule_files"]);
    assert_eq!(files, ["capacity.yaml", "alerts.yaml"]);
    for file in files {
        let groups = &documents(&format!("prometheus/{file}"))[0]["groups"];
        let rules = groups[0]["rules"].as_sequence().unwrap();
        assert!(rules.len() > 5, "{file}");
        for rule in rules {
            assert!(rule["expr"].is_string(), "{rule:?}");
            let alert = rule["labels"]["severity"].is_string()
                && rule["annotations"]["summary"].is_string();
            assert!(rule["record"].is_string() || alert, "{rule:?}");
        }
    }
}

#[test]
fn the_kubernetes_sidecar_restarts_always_and_is_probed_on_the_admin_port() {
    let documents = documents("kubernetes/sidecar.yaml");
    let deployment = documents
        .iter()
        .find(|document| document["kind"] == "Deployment")
        .unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let larder = &pod["initContainers"][0];
    assert_eq!(larder["restartPolicy"], "Always");
    assert_eq!(larder["startupProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(larder["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(larder["securityContext"]["runAsUser"], 65532);
    let port = |name: &str| {
        let ports = larder["ports"].as_sequence().unwrap();
        ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"]
            .as_u64()
            .unwrap()
    };
    let map = documents
        .iter()
        .find(|document| document["kind"] == "ConfigMap")
        .unwrap();
    let config: Value = serde_yaml::from_str(map["data"]["proxy.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(config["listen"], format!(":{}", port("http")));
    assert_eq!(
        config["admin"]["listen"],
        format!("0.0.0.0:{}", port("admin"))
    );
    assert!(
        !config["admin"]["token"].is_null(),
        "an admin port beyond loopback needs a token"
    );
    assert!(!pod["containers"][0]["lifecycle"]["preStop"].is_null());
}

#[tokio::test]
async fn every_configuration_in_deploy_passes_larder_check() {
    let map = documents("kubernetes/sidecar.yaml")
        .into_iter()
        .find(|document| document["kind"] == "ConfigMap");
    let sidecar = map.unwrap()["data"]["proxy.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    for (name, text) in [
        ("larder.yaml", read("larder.yaml")),
        ("sidecar.yaml", sidecar),
    ] {
        let text = text
            .replace("${REDIS_URL}", "redis://localhost:6379")
            .replace(
                "${SUPABASE_JWT_SECRET}",
                "demo-secret-demo-secret-demo-secret!!",
            )
            .replace(
                "${ADMIN_TOKEN:?the secret larder-admin holds it}",
                "0123456789abcdef0123456789abcdef",
            );
        let output = larder_cli(&["check", "-c", "-"], &text).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn the_image_has_no_shell_no_root_and_a_health_check() {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let last = |word: &str| {
        lines
            .iter()
            .rev()
            .find(|line| line.starts_with(word))
            .copied()
            .unwrap_or_default()
    };
    assert!(
        last("FROM").contains("distroless") && last("FROM").ends_with(":nonroot"),
        "{}",
        last("FROM")
    );
    assert_eq!(last("USER"), "USER 65532:65532");
    assert!(
        last("HEALTHCHECK").ends_with("CMD [\"/larder\", \"healthcheck\"]"),
        "{}",
        last("HEALTHCHECK")
    );
    assert_eq!(
        (last("ENTRYPOINT"), last("CMD")),
        ("ENTRYPOINT [\"/larder\"]", "CMD [\"run\"]")
    );
    assert!(
        lines
            .iter()
            .all(|line| !line.starts_with("ADD ") && !line.contains(":latest")),
        "pinned and copied"
    );
    let rust = format!("FROM rust:{}", env!("CARGO_PKG_RUST_VERSION"));
    assert!(
        lines[0].starts_with(&rust),
        "{} is not the crate's {rust}",
        lines[0]
    );
    // Every file that the build copies from the checkout is there.
    for line in lines
        .iter()
        .filter(|line| line.starts_with("COPY ") && !line.contains("--from"))
    {
        let mut names: Vec<&str> = line.split_whitespace().skip(1).collect();
        names.pop();
        for name in names {
            let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
            assert!(
                std::path::Path::new(&path).exists(),
                "{line}: {name} is not there"
            );
        }
    }
}

#[test]
fn the_unit_is_hardened_and_does_not_restart_what_cannot_work() {
    let unit = read("systemd/larder.service");
    for line in [
        "RestartPreventExitStatus=2 78",
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "MemoryDenyWriteExecute=yes",
        "PrivateDevices=yes",
        "SystemCallFilter=@system-service",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ] {
        assert!(unit.lines().any(|one| one == line), "{line} is missing");
    }
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        println!("systemd-analyze is not here: the unit was only read");
        return;
    };
    assert!(version.status.success());
    // `verify` looks for the program, which is not installed here: this checkout's stands in.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("larder.service");
    std::fs::write(
        &path,
        unit.replace("/usr/bin/larder", env!("CARGO_BIN_EXE_larder")),
    )
    .unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("larder.service"))
        .collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

#[tokio::test]
async fn redis_takes_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = read("redis/redis.conf").replace(
        "port 6379",
        &format!("port {}", crate::support::free_port()),
    );
    let path = folder.path().join("redis.conf");
    std::fs::write(&path, config).unwrap();
    let mut child = tokio::process::Command::new("redis-server")
        .arg(&path)
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(output));
    let mut told = String::new();
    let ready = async {
        while let Ok(Some(line)) = lines.next_line().await {
            told.push_str(&line);
            told.push('\n');
            if line.contains("Ready to accept connections") {
                return true;
            }
        }
        false
    };
    let ready = tokio::time::timeout(crate::support::PATIENCE, ready)
        .await
        .unwrap_or(false);
    assert!(ready, "{told}");
}
