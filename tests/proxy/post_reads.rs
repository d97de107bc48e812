//! POST as a read, where a route declares it: by every byte of the content, or by what GraphQL asks for.

use crate::support::*;
use serde_json::json;

const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn echo() -> App {
    App::says(|seen| Answer::ok(format!("{} {}", seen.method, seen.text()))).await
}

const BYTES: &str = "routes:
  - { path: /search, methods: [GET, POST], ttl: 1h, key: { body: true } }";
const GRAPHQL: &str = "routes:
  - { path: /graphql, methods: [GET, POST], ttl: 1h, tags: [graph], purge: [graph], key: { body: graphql } }
  - { path: /other, ttl: 1h, tags: [graph] }";

#[tokio::test]
async fn every_content_has_its_own_answer() {
    let app = echo().await;
    let larder = larder(&app).yaml(BYTES).start().await;
    let client = larder.client();
    for outcome in ["MISS", "HIT"] {
        for (kind, content) in [("a/b", "1"), ("a/b", "2"), ("a/b", ""), ("a/c", "1")] {
            let answer = client
                .post("/search", &[("Content-Type", kind)], content)
                .await;
            assert_eq!(answer.text(), format!("POST {content}"));
            assert_eq!(answer.cache(), outcome, "{kind} {content}");
        }
        assert_eq!(client.get("/search").await.cache(), outcome);
        let query = client
            .send("QUERY", "/search", &[("Content-Type", "a/b")], "1")
            .await;
        assert_eq!(query.text(), "QUERY 1");
    }
    assert_eq!(app.last("/search").method, "QUERY");
}

#[tokio::test]
async fn a_declared_read_invalidates_nothing_even_where_it_is_passed() {
    let app = echo().await;
    let larder = larder(&app).yaml(BYTES).start().await;
    let client = larder.client();
    client.get("/search").await;
    client.post("/search", &[JSON], "1").await;
    client.post("/search", &[JSON], "x".repeat(70_000)).await;
    let conditional = client
        .post("/search", &[JSON, ("If-None-Match", "*")], "1")
        .await;
    assert_eq!(conditional.cache(), "BYPASS");
    assert_eq!(client.get("/search").await.cache(), "HIT");
    // Any other method changes something, and so ends what was read by POST.
    client.send("DELETE", "/search", &[], "").await;
    assert_eq!(client.post("/search", &[JSON], "1").await.cache(), "MISS");
    assert_eq!(client.get("/search").await.cache(), "MISS");
}

#[tokio::test]
async fn elsewhere_a_post_is_passed_and_invalidates() {
    let app = App::says(|seen| Answer::public(format!("{} {}", seen.method, seen.text()))).await;
    let larder = larder(&app).yaml(BYTES).start().await;
    let client = larder.client();
    client.get("/x").await;
    for _ in 0..2 {
        assert_eq!(client.post("/x", &[JSON], "1").await.cache(), "BYPASS");
        assert_eq!(client.get("/x").await.cache(), "MISS");
    }
}

#[tokio::test]
async fn what_is_private_is_not_shared_by_post_either() {
    let app = App::says(|seen| match seen.path() {
        "/search" => Answer::ok(format!("for {:?}", seen.header("cookie"))),
        _ => Answer::ok("x"),
    })
    .await;
    let larder = larder(&app).yaml(BYTES).start().await;
    let client = larder.client();
    for user in ["a", "b"] {
        let cookie = format!("sid={user}");
        let answer = client
            .post("/search", &[JSON, ("Cookie", &cookie)], "1")
            .await;
        assert_eq!(answer.text(), format!("for {:?}", Some(&cookie)));
        assert_eq!(answer.cache(), "BYPASS");
    }
}

#[tokio::test]
async fn what_is_stale_is_asked_for_anew_without_conditions() {
    let app = App::says(|seen| {
        Answer::ok(seen.text())
            .header("ETag", "\"1\"")
            .header("Cache-Control", "max-age=60")
    })
    .await;
    let larder = larder(&app).yaml(BYTES).manual_clock().start().await;
    let client = larder.client();
    client.post("/search", &[JSON], "1").await;
    larder.advance("2m").await;
    assert_eq!(client.post("/search", &[JSON], "1").await.text(), "1");
    let seen = app.last("/search");
    assert_eq!(
        (seen.method.as_str(), seen.header("if-none-match")),
        ("POST", None)
    );
    assert_eq!(client.post("/search", &[JSON], "1").await.cache(), "HIT");
}

fn graphql(document: &str) -> String {
    json!({ "query": document }).to_string()
}

#[tokio::test]
async fn a_graphql_query_is_stored_by_what_it_asks_for() {
    let app = echo().await;
    let larder = larder(&app).yaml(GRAPHQL).start().await;
    let client = larder.client();
    let post = async |content: &str| client.post("/graphql", &[JSON], content.to_owned()).await;
    let first = post(&graphql("{ car(id: 1) { name } }")).await;
    assert_eq!(first.cache(), "MISS");
    let spaced = "{ \"query\" : \"{\\n  car(id: 1) {\\n    name\\n  }\\n}\" }";
    let again = post(spaced).await;
    assert_eq!((again.cache(), again.text()), ("HIT".into(), first.text()));
    for other in [
        graphql("{ car(id: 2) { name } }"),
        json!({ "query": "query($id:ID){car(id:$id){name}}", "variables": { "id": 1 } })
            .to_string(),
        json!({ "query": "query($id:ID){car(id:$id){name}}", "variables": { "id": 2 } })
            .to_string(),
        json!({ "query": "query A{a} query B{b}", "operationName": "A" }).to_string(),
        json!({ "query": "query A{a} query B{b}", "operationName": "B" }).to_string(),
        json!({ "query": "{a}", "extensions": { "x": 1 } }).to_string(),
        json!([{ "query": "{a}" }, { "query": "{b}" }]).to_string(),
    ] {
        let (one, two) = (post(&other).await, post(&other).await);
        assert_eq!(
            (one.cache(), two.cache()),
            ("MISS".into(), "HIT".into()),
            "{other}"
        );
        assert_eq!(
            two.text(),
            format!("POST {other}"),
            "the app got the very bytes"
        );
    }
}

#[tokio::test]
async fn a_mutation_is_passed_and_invalidates() {
    let app = echo().await;
    let larder = larder(&app).yaml(GRAPHQL).start().await;
    let client = larder.client();
    let query = graphql("{a}");
    for changes in [
        graphql("mutation{a}"),
        graphql("subscription{a}"),
        graphql("# {a}\n,mutation M{a}"),
        json!({ "query": "query A{a} mutation B{b}", "operationName": "B" }).to_string(),
        json!([{ "query": "{a}" }, { "query": "mutation{b}" }]).to_string(),
        "{\"query\":\"{a}\",\"query\":\"mutation{b}\"}".to_owned(),
        "not json".to_owned(),
        format!("{}{}", graphql("{a}"), " ".repeat(70_000)),
    ] {
        client.post("/graphql", &[JSON], query.clone()).await;
        client.get("/other").await;
        assert_eq!(
            client
                .post("/graphql", &[JSON], query.clone())
                .await
                .cache(),
            "HIT"
        );
        for _ in 0..2 {
            let answer = client.post("/graphql", &[JSON], changes.clone()).await;
            assert_eq!(
                (answer.cache(), answer.text()),
                ("BYPASS".into(), format!("POST {changes}"))
            );
        }
        let after = client.post("/graphql", &[JSON], query.clone()).await;
        assert_eq!(after.cache(), "MISS", "{changes}");
        assert_eq!(
            client.get("/other").await.cache(),
            "MISS",
            "the route's purge: {changes}"
        );
    }
}

#[tokio::test]
async fn a_query_purges_nothing_and_a_get_that_mutates_is_not_stored() {
    let app = echo().await;
    let larder = larder(&app).yaml(GRAPHQL).start().await;
    let client = larder.client();
    client.get("/other").await;
    for _ in 0..2 {
        client.post("/graphql", &[JSON], graphql("{a}")).await;
    }
    assert_eq!(client.get("/other").await.cache(), "HIT");
    for (target, outcome) in [
        ("/graphql?query=%7Ba%7D", "HIT"),
        ("/graphql?query=mutation%7Ba%7D", "BYPASS"),
        ("/graphql?query=%7Ba%7D&query=mutation%7Ba%7D", "BYPASS"),
    ] {
        client.get(target).await;
        assert_eq!(client.get(target).await.cache(), outcome, "{target}");
    }
}

#[tokio::test]
async fn a_mutation_purges_by_what_its_content_says() {
    let app = echo().await;
    let larder = larder(&app)
        .yaml(
            "routes:
  - { path: /graphql, methods: [POST], ttl: 1h, key: { body: graphql }, purge: [\"car:{request.variables.id}\"] }
  - { path: \"/cars/{id}\", ttl: 1h, tags: [\"car:{id}\"] }",
        )
        .start()
        .await;
    let client = larder.client();
    for path in ["/cars/1", "/cars/2"] {
        client.get(path).await;
    }
    let rename = json!({ "query": "mutation($id:ID){rename(id:$id)}", "variables": { "id": 1 } });
    let renamed = client.post("/graphql", &[JSON], rename.to_string()).await;
    assert_eq!(renamed.text(), format!("POST {rename}"));
    assert_eq!(client.get("/cars/1").await.cache(), "MISS");
    assert_eq!(client.get("/cars/2").await.cache(), "HIT");
}

#[tokio::test]
async fn what_two_wait_for_is_fetched_once() {
    let gate = Gate::closed();
    let held = gate.clone();
    let app = App::says(move |seen| Answer::ok(seen.text()).behind(&held)).await;
    let larder = larder(&app).yaml(BYTES).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = larder.client();
        clients.spawn(async move { client.post("/search", &[JSON], "1").await });
    }
    eventually("the app is asked", async || {
        (app.count("/search") > 0).then_some(())
    })
    .await;
    gate.open();
    while let Some(answer) = clients.join_next().await {
        assert_eq!(answer.unwrap().text(), "1");
    }
    assert_eq!(app.count("/search"), 1);
}

#[tokio::test]
async fn a_read_that_is_stale_is_renewed_behind_with_its_content() {
    let app = App::says(|seen| Answer::ok(format!("{} {}", seen.method, seen.text()))).await;
    let larder = larder(&app)
        .yaml("routes: [{ path: /search, methods: [POST, QUERY], ttl: 1m, stale_while_revalidate: 1h, key: { body: true } }]")
        .manual_clock()
        .start()
        .await;
    let client = larder.client();
    for method in ["POST", "QUERY"] {
        client.send(method, "/search", &[JSON], "1").await;
        larder.advance("2m").await;
        let stale = client.send(method, "/search", &[JSON], "1").await;
        assert_eq!(
            (stale.cache(), stale.text()),
            ("STALE".into(), format!("{method} 1"))
        );
        eventually("it is renewed", async || {
            let answer = client.send(method, "/search", &[JSON], "1").await;
            (answer.cache() == "HIT" && answer.text() == format!("{method} 1")).then_some(())
        })
        .await;
        assert_eq!(app.last("/search").text(), "1");
    }
}
