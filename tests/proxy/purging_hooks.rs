//! Signed messages that purge, and those that are sent when something was purged.

use crate::support::*;
use larder::secret::SigningKey;
use serde_json::json;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ROUTES: &str = r#"
routes:
  - { name: car, path: "/cars/{id}", ttl: 5m, tags: [cars, "car:{id}"] }
"#;

async fn echo() -> App {
    App::says(|seen| Answer::ok(seen.target.clone())).await
}

fn hook(more: &str) -> String {
    format!("purge: {{ webhook: {{ path: /hooks/purge, secret: \"{SECRET}\"{more} }} }}\n{ROUTES}")
}

/// A message as Standard Webhooks sends it.
struct Message {
    id: String,
    timestamp: String,
    signature: String,
    content: String,
}

impl Message {
    fn new(id: &str, seconds_ago: i64, secret: &str, content: impl ToString) -> Self {
        let content = content.to_string();
        let now = larder::clock::Clock::system().now().as_secs();
        let timestamp = now.saturating_add_signed(-seconds_ago).to_string();
        let key = SigningKey::parse(secret).unwrap();
        let signed = format!("{id}.{timestamp}.{content}");
        Self {
            signature: format!("v1,{}", key.sign(&[signed.as_bytes()])),
            id: id.to_owned(),
            timestamp,
            content,
        }
    }

    async fn post(&self, larder: &Larder) -> Response {
        let fields = [
            ("webhook-id", &*self.id),
            ("webhook-timestamp", &*self.timestamp),
            ("webhook-signature", &*self.signature),
        ];
        larder
            .client()
            .post("/hooks/purge", &fields, self.content.clone())
            .await
    }
}

async fn fill(larder: &Larder, path: &str) {
    larder.get(path).await;
    assert_eq!(larder.get(path).await.cache(), "HIT", "{path}");
}

#[tokio::test]
async fn a_signed_message_purges_once_however_often_it_is_sent() {
    let app = echo().await;
    let redis = RedisServer::start().await;
    let start = async || {
        let larder = larder(&app).redis(&redis).yaml(&hook("")).start().await;
        larder.redis_is(true).await;
        larder
    };
    let (one, two) = (start().await, start().await);
    fill(&one, "/cars/1").await;
    let message = Message::new(
        "msg_1",
        0,
        SECRET,
        json!({"tags": ["car:1"], "soft": false}),
    );
    let done = message.post(&one).await;
    assert_eq!(
        (done.status, &done.json()["outcome"]),
        (200, &"logged".into()),
        "{}",
        done.text()
    );
    assert_eq!(one.get("/cars/1").await.cache(), "MISS");
    fill(&one, "/cars/1").await;
    // By whichever sidecar it comes in.
    for larder in [&one, &two] {
        let again = message.post(larder).await;
        assert_eq!(
            (again.status, again.json()),
            (200, json!({"purges": 0, "outcome": "repeated"}))
        );
    }
    assert_eq!(one.get("/cars/1").await.cache(), "HIT");
    // The same wish by another message is another.
    let other = Message::new(
        "msg_2",
        0,
        SECRET,
        json!({"tags": ["car:1"], "soft": false}),
    );
    assert_eq!(other.post(&two).await.status, 200);
    eventually("both obey", async || {
        (one.get("/cars/1").await.cache() != "HIT").then_some(())
    })
    .await;
    assert_eq!(app.count("/hooks/purge"), 0);
    let recent = two.admin().get("/v1/purges").await.json();
    let newest = &recent["purges"][0];
    assert_eq!(
        (&newest["by"], &newest["name"]),
        (&"webhook".into(), &"msg_2".into())
    );
}

#[tokio::test]
async fn what_is_forged_old_or_tampered_with_is_refused_and_nothing_of_it_is_repeated() {
    let app = echo().await;
    let larder = larder(&app).yaml(&hook("")).start().await;
    fill(&larder, "/cars/1").await;
    let wish = json!({"tags": ["car:1", "unspeakable"], "soft": false});
    let good = || Message::new("msg", 0, SECRET, &wish);
    let other_secret = "another-secret-of-many-bytes";
    let forged = [
        Message::new("msg", 0, other_secret, &wish),
        Message::new("msg", 301, SECRET, &wish),
        Message::new("msg", -301, SECRET, &wish),
        Message {
            id: "other".into(),
            ..good()
        },
        Message {
            timestamp: "0".into(),
            ..good()
        },
        Message {
            content: good().content + " ",
            ..good()
        },
        Message {
            signature: good().signature.replace("v1,", ""),
            ..good()
        },
        Message {
            signature: "v1,".into(),
            ..good()
        },
    ];
    for message in forged {
        let refused = message.post(&larder).await;
        assert_eq!(refused.status, 401, "{}", message.id);
        assert!(!refused.text().contains("unspeakable"));
    }
    let bare = larder
        .client()
        .post("/hooks/purge", &[], wish.to_string())
        .await;
    assert_eq!(bare.status, 401);
    let large = Message::new(
        "large",
        0,
        SECRET,
        " ".repeat(65 * 1024) + &wish.to_string(),
    );
    assert_eq!(large.post(&larder).await.status, 401);
    assert_eq!(larder.get("/cars/1").await.cache(), "HIT");
    assert!(!larder.log().contains("unspeakable"));
    // What is signed and no purge may be mended, and sent again by the same name.
    for bad in [
        "{}",
        "[1]",
        "{\"tags\": [\"\"]}",
        "{\"tags\": [\"a\"], \"dry_run\": true}",
    ] {
        assert_eq!(
            Message::new("msg", 0, SECRET, bad)
                .post(&larder)
                .await
                .status,
            422,
            "{bad}"
        );
    }
    assert_eq!(good().post(&larder).await.status, 200);
    assert_eq!(larder.get("/cars/1").await.cache(), "MISS");
    // Any other method there is the app's.
    assert_eq!(larder.get("/hooks/purge").await.text(), "/hooks/purge");
}

#[tokio::test]
async fn what_may_not_purge_falls_under_the_limits_and_what_may_under_the_rate() {
    let app = echo().await;
    let yaml = format!(
        "purge: {{ rate: 2/min, webhook: {{ path: /hooks/purge, secret: \"{SECRET}\" }} }}\n\
         limits: {{ paths: [/hooks/*], tiers: [{{ name: all, for: anyone, rate: 1/min }}] }}\n"
    );
    let larder = larder(&app).yaml(&yaml).start().await;
    let send = async |id: &str, secret: &str| {
        Message::new(id, 0, secret, json!({"tags": ["a"]}))
            .post(&larder)
            .await
            .status
    };
    let forged = "another-secret-of-many-bytes";
    assert_eq!(send("a", forged).await, 401);
    assert_eq!(send("b", forged).await, 429);
    assert_eq!(
        (send("c", SECRET).await, send("d", SECRET).await),
        (200, 200)
    );
    let limited = Message::new("e", 0, SECRET, json!({"tags": ["a"]}))
        .post(&larder)
        .await;
    assert_eq!(
        (limited.status, limited.header("retry-after")),
        (429, "60".into())
    );
}

#[tokio::test]
async fn two_secrets_are_good_while_one_is_changed_for_the_other() {
    let app = echo().await;
    let (old, new) = (
        "the-old-secret-of-many-bytes",
        "the-new-secret-of-many-bytes",
    );
    let yaml = format!("purge: {{ webhook: {{ path: /hooks/purge, secret: \"{new},{old}\" }} }}\n");
    let larder = larder(&app).yaml(&yaml).start().await;
    for (id, secret, status) in [("a", old, 200), ("b", new, 200), ("c", SECRET, 401)] {
        let message = Message::new(id, 0, secret, json!({"tags": ["a"]}));
        assert_eq!(message.post(&larder).await.status, status, "{id}");
    }
    larder.configure(&format!("{new},{old}"), new);
    eventually("the old one is good no more", async || {
        let message = Message::new("d", 0, old, json!({"tags": ["a"]}));
        (message.post(&larder).await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_change_of_a_row_as_supabase_sends_it_purges_what_its_table_says() {
    let app = echo().await;
    let larder = larder(&app)
        .yaml(&hook(
            ", tables: [{ table: cars, tags: [\"car:{record.id}\"] }]",
        ))
        .yaml("defaults: { stale_while_revalidate: 1m }")
        .start()
        .await;
    for path in ["/cars/1", "/cars/2", "/cars/3"] {
        fill(&larder, path).await;
    }
    let change = |kind: &str, table: &str, record, old: serde_json::Value| json!({"type": kind, "table": table, "schema": "public", "record": record, "old_record": old});
    let update = change(
        "UPDATE",
        "cars",
        json!({"id": 2, "price": 9}),
        json!({"id": 1, "price": 9}),
    );
    assert_eq!(
        Message::new("a", 0, SECRET, update)
            .post(&larder)
            .await
            .json()["purges"],
        2
    );
    // Tags are purged softly: the next visitor does not wait.
    assert_eq!(larder.get("/cars/1").await.cache(), "STALE");
    assert_eq!(larder.get("/cars/2").await.cache(), "STALE");
    let other = change("INSERT", "drivers", json!({"id": 3}), json!(null));
    let nothing = Message::new("b", 0, SECRET, other).post(&larder).await;
    assert_eq!(
        (nothing.status, nothing.json()),
        (200, json!({"purges": 0, "outcome": "nothing"}))
    );
    assert_eq!(larder.get("/cars/3").await.cache(), "HIT");
}

#[tokio::test]
async fn others_are_told_of_each_purge_signed_and_until_they_have_taken_it() {
    let app = echo().await;
    let gate = Gate::closed();
    let (held, mut refusals) = (gate.clone(), 2);
    let refusals = std::sync::Mutex::new(std::mem::take(&mut refusals));
    let cdn = App::says(move |_| {
        let mut left = refusals.lock().unwrap();
        match *left {
            0 => Answer::new(204, "").behind(&held),
            _ => {
                *left -= 1;
                Answer::new(503, "")
            }
        }
    })
    .await;
    let yaml = format!(
        "purge: {{ notify: {{ url: \"{}/told\", secret: \"{SECRET}\" }} }}\n{ROUTES}",
        cdn.url()
    );
    let larder = larder(&app).yaml(&yaml).start().await;
    // That nobody answers there delays no purge.
    let begun = std::time::Instant::now();
    larder
        .purge(json!({"tags": ["car:1"], "urls": ["/x"], "soft": false}))
        .await;
    larder.purge(json!({"prefixes": ["/y"]})).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    gate.open();
    let told = eventually("both are told, the first three times", async || {
        let told = cdn.seen("/told");
        (told.len() == 4).then_some(told)
    })
    .await;
    let key = SigningKey::parse(SECRET).unwrap();
    for one in &told {
        let of = |name: &str| one.header(name).unwrap().to_owned();
        let signed = format!(
            "{}.{}.{}",
            of("webhook-id"),
            of("webhook-timestamp"),
            one.text()
        );
        let signature = of("webhook-signature");
        assert!(key.verifies(&[signed.as_bytes()], signature.strip_prefix("v1,").unwrap()));
    }
    let id = |at: usize| told[at].header("webhook-id").unwrap().to_owned();
    assert_eq!((id(0), id(1)), (id(1), id(2)));
    assert_ne!(id(2), id(3));
    let content: serde_json::Value = serde_json::from_str(&told[2].text()).unwrap();
    let purges = json!([{"tags": ["car:1"], "soft": false}, {"urls": ["/x"], "soft": false}]);
    assert_eq!(
        (&content["purges"], &content["by"]),
        (&purges, &"api".into())
    );
    let metrics = larder.metrics().await;
    assert!(
        metrics.contains("larder_purge_notices_total{outcome=\"failed\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn two_larders_that_tell_each_other_come_to_an_end() {
    let app = echo().await;
    let one = larder(&app).yaml(&hook("")).start().await;
    let two = larder(&app).yaml(&hook("")).start().await;
    for (teller, other) in [(&one, &two), (&two, &one)] {
        let url = format!("http://{}/hooks/purge", other.address);
        let notify = format!("notify: {{ url: \"{url}\", secret: \"{SECRET}\" }}, webhook:");
        teller.configure("webhook:", &notify);
    }
    for larder in [&one, &two] {
        larder.says("the configuration was reloaded").await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    fill(&two, "/cars/1").await;
    one.purge(json!({"tags": ["car:1"], "soft": false})).await;
    eventually("the other has purged too", async || {
        (two.get("/cars/1").await.cache() != "HIT").then_some(())
    })
    .await;
    let repeated = "larder_purge_requests_total{way=\"webhook\",outcome=\"repeated\"} 1";
    eventually("it has come back, and is known", async || {
        one.metrics().await.contains(repeated).then_some(())
    })
    .await;
    for (larder, purges) in [(&one, 1), (&two, 1)] {
        let recent = larder.admin().get("/v1/purges").await.json();
        assert_eq!(recent["purges"].as_array().unwrap().len(), purges);
    }
}

#[tokio::test]
async fn one_larder_tells_another_by_its_webhook() {
    let app = echo().await;
    let far = larder(&app).yaml(&hook("")).start().await;
    let url = format!("http://{}/hooks/purge", far.address);
    let yaml = format!("purge: {{ notify: {{ url: \"{url}\", secret: \"{SECRET}\" }} }}\n{ROUTES}");
    let near = larder(&app).yaml(&yaml).start().await;
    fill(&far, "/cars/1").await;
    near.purge(json!({"tags": ["car:1"], "soft": false})).await;
    eventually("the other has purged too", async || {
        (far.get("/cars/1").await.cache() != "HIT").then_some(())
    })
    .await;
}

#[tokio::test]
async fn however_much_is_purged_at_once_a_webhook_takes_what_it_is_told_of() {
    let app = App::says(|seen| match seen.method.as_str() {
        "POST" => {
            let tags: Vec<_> = (0..127).map(|n| format!("none:{n}")).collect();
            Answer::ok("")
                .header("Cache-Tag", &(tags.join(",") + ",car:1"))
                .header("Cache-Group-Invalidation", "\"a\", \"b\"")
        }
        _ => Answer::ok(seen.target.clone()),
    })
    .await;
    let far = larder(&app).yaml(&hook("")).start().await;
    let url = format!("http://{}/hooks/purge", far.address);
    let yaml = format!("purge: {{ notify: {{ url: \"{url}\", secret: \"{SECRET}\" }} }}\n{ROUTES}");
    let near = larder(&app).yaml(&yaml).start().await;
    for path in ["/cars/1", "/cars/2"] {
        fill(&far, path).await;
    }
    let gone = async |path: &str| {
        eventually("the other has purged too", async || {
            (far.get(path).await.cache() != "HIT").then_some(())
        })
        .await;
    };
    near.client().post("/elsewhere", &[], "").await;
    gone("/cars/1").await;
    // As many bytes as the admin port takes are more in a message, where each purge is written out.
    let mut urls: Vec<_> = (0..8)
        .map(|n| format!("/{n}/{}", "x".repeat(8_157)))
        .collect();
    urls.push("/cars/2".into());
    let done = near.purge(json!({"urls": urls, "soft": false})).await;
    assert_eq!(done.status, 200, "{}", done.text());
    gone("/cars/2").await;
}
