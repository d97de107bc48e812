//! A real browser in front of the demo page, direct and through larder (`make test-browser`).

use crate::support::*;

#[tokio::test]
#[ignore = "needs chromium, node and playwright-core: make test-browser installs them"]
async fn a_browser_sees_the_same_page_direct_and_through_larder() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let demo = format!("http://{}", listener.local_addr().unwrap());
    let options = ::larder::demo::DemoOptions {
        speed: 0.0,
        ..Default::default()
    };
    tokio::spawn(::larder::demo::serve(
        listener,
        options,
        std::future::pending(),
    ));
    let unused = App::says(|_| Answer::ok("")).await;
    let larder = larder(&unused)
        .upstream(Some(demo.clone()))
        .yaml("routes: [{ path: /api/fleet, ttl: 5m, override: true, key: { query: [page] } }, { path: /, ttl: 1m }]")
        .start()
        .await;
    let root = env!("CARGO_MANIFEST_DIR");
    let modules =
        std::env::var("NODE_PATH").unwrap_or(format!("{root}/target/browser/node_modules"));
    let output = tokio::process::Command::new("node")
        .arg(format!("{root}/tests/browser/run.mjs"))
        .args([&demo, &format!("http://{}", larder.address)])
        .env("NODE_PATH", modules)
        .kill_on_drop(true)
        .output()
        .await
        .expect("node is installed");
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    println!("{told}");
}
