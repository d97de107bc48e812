//! Spans over OTLP and the access log.

use crate::support::*;

#[tokio::test]
async fn a_collector_gets_spans_of_each_step_under_the_clients_trace() {
    let app = App::says(|_| Answer::public("x")).await;
    let collector = App::says(|_| Answer::new(200, "")).await;
    let redis = RedisServer::start().await;
    let larder = larder(&app)
        .redis(&redis)
        .yaml("limits: { tiers: [{ name: all, for: anyone, rate: 1000/min, per: ip }] }")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .env("OTEL_SERVICE_NAME", "larder-under-test")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .start()
        .await;
    let trace: [u8; 16] = *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36";
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    larder.get_with("/", &[("traceparent", parent)]).await;
    let spans = eventually("spans arrive", async || {
        let all: Vec<u8> = collector
            .seen("/v1/traces")
            .iter()
            .flat_map(|seen| seen.body.clone())
            .collect();
        let whole = ["limit", "lookup", "fetch", "store"]
            .iter()
            .all(|name| contains(&all, name.as_bytes()));
        whole.then_some(all)
    })
    .await;
    assert!(contains(&spans, &trace), "the client's trace goes on");
    assert!(contains(&spans, b"larder-under-test"));
    let passed = app.last("/").header("traceparent").unwrap().to_owned();
    assert!(
        passed.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && passed != parent,
        "{passed}"
    );
    eventually("metrics arrive", async || {
        (collector.count("/v1/metrics") > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_hangs_delays_no_request() {
    let app = App::says(|_| Answer::ok("x")).await;
    let never = Gate::closed();
    let collector = App::says(move |_| Answer::new(200, "").behind(&never)).await;
    let mut larder = larder(&app)
        .yaml("shutdown: { delay: 0s, grace: 2s }")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start()
        .await;
    let client = larder.client();
    let started = std::time::Instant::now();
    for n in 0..200 {
        client.get(&format!("/{n}")).await;
    }
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    larder.signal("TERM");
    larder.exit().await;
}

#[tokio::test]
async fn the_access_log_is_json_off_a_terminal_and_names_trace_route_and_reason_but_no_query() {
    let app = App::says(|_| Answer::ok("x")).await;
    let larder = larder(&app)
        .yaml("log: { level: info, slow: 0ms }\nroutes: [{ name: car, path: \"/api/cars/{id}\", ttl: 1m }]")
        .start()
        .await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    larder
        .get_with(
            "/api/cars/7?token=hush",
            &[
                ("traceparent", parent),
                ("Cookie", "id=hush"),
                ("X-Request-Id", "checkout-7"),
            ],
        )
        .await;
    larder.says("/api/cars/7").await;
    let log = larder.log();
    let line = log
        .lines()
        .find(|line| line.contains("/api/cars/7"))
        .unwrap();
    let line: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    let text = line.to_string();
    for word in [
        "\"cache\":\"bypass\"",
        "\"reason\":\"cookie\"",
        "\"route\":\"car\"",
        "\"request_id\":\"checkout-7\"",
        "4bf92f3577b34da6a3ce929d0e0e4736",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(!log.contains("hush"), "{log}");
}
