//! Changes of rows in a real PostgreSQL purge what is stored of them: by the files in deploy/postgres.

use crate::support::*;
use std::path::Path;
use std::process::Stdio;

const SECRET: &str = "a-secret-that-postgres-knows-too";
const ENCODED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ROUTES: &str = r#"
routes:
  - { name: fleet, path: /cars, ttl: 5m, tags: [cars] }
  - { name: car, path: "/cars/{id}", ttl: 5m, tags: ["car:{id}"] }
"#;
const CARS: &str = "CREATE TABLE cars (id int PRIMARY KEY, price int); \
                    INSERT INTO cars SELECT n, 1 FROM generate_series(1, 9) AS n;";

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/postgres")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

async fn echo() -> App {
    App::says(|seen| Answer::ok(seen.target.clone())).await
}

async fn fill(larder: &Larder, paths: &[&str]) {
    for path in paths {
        larder.get(path).await;
        assert_eq!(larder.get(path).await.cache(), "HIT", "{path}");
    }
}

async fn goes(larder: &Larder, path: &str) {
    eventually(&format!("{path} is purged"), async || {
        (larder.get(path).await.cache() != "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_trigger_keeps_what_a_change_purges_and_the_relay_hands_it_on() {
    let postgres = Postgres::start().await;
    postgres.sql(CARS).await;
    postgres.sql(&text("larder.sql")).await;
    postgres
        .sql(
            "CREATE TRIGGER purge AFTER INSERT OR UPDATE OR DELETE ON cars \
             FOR EACH ROW EXECUTE FUNCTION larder_purge('car:{id}', 'none:{missing}'); \
             CREATE TRIGGER purge_all AFTER INSERT OR UPDATE OR DELETE ON cars \
             FOR EACH STATEMENT EXECUTE FUNCTION larder_purge('cars');",
        )
        .await;
    let token = "0123456789abcdef0123456789abcdef";
    let app = echo().await;
    let start = async || {
        let admin = format!("admin: {{ listen: \"127.0.0.1:{{ADMIN}}\", token: {token} }}");
        larder(&app).yaml(&admin).yaml(ROUTES).start().await
    };
    let one = start().await;
    let relay = |larder: &Larder| {
        let mut relay = postgres.client("sh");
        relay
            .arg(file("relay.sh"))
            .env("LARDER", format!("http://{}", larder.admin_address))
            .env("ADMIN_TOKEN", token)
            .env("EVERY", "0.05")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // What it has started ends with PostgreSQL; until then it finds nobody to hand anything on to.
        relay.spawn().unwrap()
    };
    let relaying = relay(&one);
    let waiting = async || postgres.sql("SELECT count(*) FROM larder_purges").await;
    fill(
        &one,
        &["/cars", "/cars/1", "/cars/2", "/cars/3", "/cars/10"],
    )
    .await;
    postgres.sql("UPDATE cars SET id = 10 WHERE id = 1").await;
    for path in ["/cars", "/cars/1", "/cars/10"] {
        goes(&one, path).await;
    }
    postgres.sql("DELETE FROM cars WHERE id = 2").await;
    goes(&one, "/cars/2").await;
    // What is rolled back has not changed.
    postgres
        .sql("BEGIN; UPDATE cars SET price = 2 WHERE id = 3; ROLLBACK;")
        .await;
    eventually("all is handed on", async || {
        (waiting().await == "0").then_some(())
    })
    .await;
    assert_eq!(one.get("/cars/3").await.cache(), "HIT");
    // While nobody takes it, it stays.
    drop(relaying);
    drop(one);
    postgres
        .sql("UPDATE cars SET price = 3 WHERE id IN (3, 4)")
        .await;
    assert_eq!(waiting().await, "5");
    let two = start().await;
    fill(&two, &["/cars/3", "/cars/4"]).await;
    let _relaying = relay(&two);
    goes(&two, "/cars/3").await;
    goes(&two, "/cars/4").await;
    eventually("all is handed on", async || {
        (waiting().await == "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_change_that_postgres_signs_is_believed_by_the_webhook() {
    let postgres = Postgres::start().await;
    postgres.sql(CARS).await;
    // What Supabase has and Debian's PostgreSQL does not: its vault, and pg_net, which sends a body as it prints it.
    postgres
        .sql(&format!(
            "CREATE SCHEMA extensions; CREATE EXTENSION pgcrypto SCHEMA extensions; \
             CREATE SCHEMA vault; CREATE TABLE vault.decrypted_secrets (name text, decrypted_secret text); \
             INSERT INTO vault.decrypted_secrets VALUES ('larder_secret', '{SECRET}'), ('larder_url', 'http://larder'); \
             CREATE SCHEMA net; CREATE TABLE net.sent (body text, headers jsonb); \
             CREATE FUNCTION net.http_post(url text, body jsonb, headers jsonb) RETURNS bigint LANGUAGE sql \
             AS 'INSERT INTO net.sent VALUES (body::text, headers) RETURNING 1::bigint';"
        ))
        .await;
    postgres.sql(&text("supabase.sql")).await;
    postgres
        .sql("CREATE TRIGGER purge AFTER INSERT OR UPDATE OR DELETE ON cars FOR EACH ROW EXECUTE FUNCTION larder_webhook()")
        .await;
    let app = echo().await;
    let yaml = format!(
        "purge:\n  webhook:\n    path: /hooks/purge\n    secret: \"{SECRET},{ENCODED}\"\n    \
         tables: [{{ table: public.cars, tags: [cars, \"car:{{record.id}}\"] }}]\n{ROUTES}"
    );
    let larder = larder(&app).yaml(&yaml).start().await;
    for (change, gone) in [
        ("INSERT INTO cars VALUES (20, 1)", "/cars/20"),
        ("UPDATE cars SET price = 7 WHERE id = 5", "/cars/5"),
        ("DELETE FROM cars WHERE id = 6", "/cars/6"),
    ] {
        fill(&larder, &["/cars", "/cars/9", gone]).await;
        if gone == "/cars/6" {
            let exchange = format!(
                "UPDATE vault.decrypted_secrets SET decrypted_secret = '{ENCODED}' WHERE name = 'larder_secret'"
            );
            postgres.sql(&exchange).await;
        }
        postgres.sql(change).await;
        let sent = postgres
            .sql("DELETE FROM net.sent RETURNING headers, body")
            .await;
        let (headers, body) = sent.split_once('|').unwrap();
        let headers: serde_json::Value = serde_json::from_str(headers).unwrap();
        let fields: Vec<(&str, &str)> = (headers.as_object().unwrap().iter())
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        let done = larder
            .client()
            .post("/hooks/purge", &fields, body.to_owned())
            .await;
        assert_eq!(
            (done.status, &done.json()["purges"]),
            (200, &2.into()),
            "{change}: {}",
            done.text()
        );
        for path in ["/cars", gone] {
            assert_ne!(larder.get(path).await.cache(), "HIT", "{change}");
        }
        assert_eq!(larder.get("/cars/9").await.cache(), "HIT");
    }
}

#[tokio::test]
async fn what_can_be_no_tag_holds_up_no_other() {
    let postgres = Postgres::start().await;
    postgres
        .sql("CREATE TABLE pages (slug text PRIMARY KEY)")
        .await;
    postgres.sql(&text("larder.sql")).await;
    postgres
        .sql(
            "CREATE TRIGGER purge AFTER INSERT ON pages FOR EACH ROW EXECUTE FUNCTION larder_purge('{slug}', 'pages'); \
             INSERT INTO pages VALUES (''), (repeat('x', 257)), (E'two\\nlines'), (U&'\\0085'), ('good');",
        )
        .await;
    // Everything of larder's would be refused for one of them, again and again.
    assert_eq!(
        postgres
            .sql("SELECT string_agg(DISTINCT tag, ' ' ORDER BY tag) FROM larder_purges")
            .await,
        "good pages"
    );
}
