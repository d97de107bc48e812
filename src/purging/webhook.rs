//! Purges that others send, signed as Standard Webhooks are (https://www.standardwebhooks.com): HMAC-SHA256
//! over `id.timestamp.content`, the signature in base64 behind `v1,`.
//!
//! Pure: what was sent is believed or not, and read. Nothing of it is ever repeated in an answer.

use super::request::{Refusal, Request, text_at};
use crate::config::settings::{Webhook, WebhookTable};
use crate::route::Placeholder;
use crate::semantics::Timestamp;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::time::Duration;

/// Names a message; the same when it is sent again.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// When it was sent, in seconds since 1970.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// `v1,` and the signature; several with blanks between them, while the sender's key is changed.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// The largest content, in bytes.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;
/// The longest id, in bytes.
pub(super) const ID_BYTES_MAX: usize = 128;
/// Signatures that are looked at.
const SIGNATURES_MAX: usize = 8;

/// What a message says of itself before its content is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Its name.
    pub id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
}

impl<'a> Claim<'a> {
    /// Reads it. The error says why it is worth no further look.
    pub fn of(
        headers: &'a HeaderMap,
        window: Duration,
        now: Timestamp,
    ) -> Result<Self, &'static str> {
        let field = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            match (
                values.next().and_then(|value| value.to_str().ok()),
                values.next(),
            ) {
                (Some(value), None) => Ok(value),
                _ => Err("webhook-id, webhook-timestamp and webhook-signature are each sent once"),
            }
        };
        let claim = Self {
            id: field(&WEBHOOK_ID)?,
            timestamp: field(&WEBHOOK_TIMESTAMP)?,
            signatures: field(&WEBHOOK_SIGNATURE)?,
        };
        let is_graphic = claim.id.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_graphic || !(1..=ID_BYTES_MAX).contains(&claim.id.len()) {
            return Err("webhook-id has 1 to 128 characters without blanks");
        }
        let sent: u64 = claim
            .timestamp
            .parse()
            .map_err(|_| "webhook-timestamp is in seconds since 1970")?;
        match now.as_secs().abs_diff(sent) > window.as_secs() {
            true => Err("webhook-timestamp is too far from now"),
            false => Ok(claim),
        }
    }

    /// Whether one of the webhook's keys has signed this content.
    #[must_use]
    pub fn is_signed(&self, webhook: &Webhook, content: &[u8]) -> bool {
        let pieces: [&[u8]; 5] = [
            self.id.as_bytes(),
            b".",
            self.timestamp.as_bytes(),
            b".",
            content,
        ];
        let signatures = self.signatures.split(' ').take(SIGNATURES_MAX);
        let mut signatures = signatures.filter_map(|one| one.strip_prefix("v1,"));
        signatures.any(|one| webhook.keys.iter().any(|key| key.verifies(&pieces, one)))
    }
}

/// What a row was changed like, as Supabase's database webhooks tell it.
#[derive(Debug, Deserialize)]
struct Change {
    #[serde(rename = "type")]
    _kind: String,
    table: String,
    #[serde(default)]
    schema: String,
    #[serde(default)]
    record: Value,
    #[serde(default)]
    old_record: Value,
}

/// What a message asks for: purges as the admin port takes them, or the change of a row, of which the
/// webhook's tables say what it purges. `None`: of a table that purges nothing.
pub fn read(webhook: &Webhook, content: &[u8]) -> Result<Option<Request>, Refusal> {
    let json: Value = serde_json::from_slice(content).map_err(|_| bad_json())?;
    if json.get("type").is_some() && json.get("table").is_some() {
        let change: Change = serde_json::from_value(json).map_err(|_| bad_json())?;
        let tags = tags(&webhook.tables, &change);
        return Ok((!tags.is_empty()).then(|| Request::of_tags(tags)));
    }
    let request: Request = serde_json::from_value(json).map_err(|_| bad_json())?;
    match request.dry_run {
        true => Err(bad_json()),
        false => Ok(Some(request)),
    }
}

fn bad_json() -> Refusal {
    Refusal::new(
        "bad-json",
        "The content is neither what POST /v1/purge takes nor a change of a row.",
        "Write {\"tags\": [\"car:42\"]}.",
    )
}

/// The tags that the change of a row purges: those of the row as it was, and as it is. A tag whose column
/// is missing is left out, never guessed.
fn tags(tables: &[WebhookTable], change: &Change) -> Vec<String> {
    let is_named = |table: &&WebhookTable| {
        table.table == change.table
            || (table.table.split_once('.'))
                .is_some_and(|(schema, name)| schema == change.schema && name == change.table)
    };
    let mut tags = Vec::new();
    for template in tables.iter().filter(is_named).flat_map(|table| &table.tags) {
        for row in [&change.record, &change.old_record] {
            let value = |placeholder: &Placeholder| match placeholder {
                Placeholder::Request(path) => text_at(Some(row), path).map(Cow::Owned),
                _ => None,
            };
            // An insert was no row before, and a deletion leaves none: what needs no column is in either.
            if let Some(tag) = template.render(value)
                && !tags.contains(&tag)
            {
                tags.push(tag);
            }
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Template;
    use crate::secret::SigningKey;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const WINDOW: Duration = Duration::from_secs(300);
    const KEY: &str = "0123456789abcdef0123456789";

    fn webhook(tables: Vec<WebhookTable>) -> Webhook {
        let other = "another key of some length";
        Webhook {
            path: "/hook".into(),
            keys: [other, KEY]
                .map(|key| SigningKey::parse(key).unwrap())
                .to_vec(),
            window: WINDOW,
            tables,
        }
    }

    fn sent(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
        [
            (WEBHOOK_ID, id),
            (WEBHOOK_TIMESTAMP, timestamp),
            (WEBHOOK_SIGNATURE, signature),
        ]
        .into_iter()
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
    }

    #[test]
    fn a_message_is_believed_if_one_of_its_signatures_is_by_one_of_the_keys() {
        let key = SigningKey::parse(KEY).unwrap();
        let good = key.sign(&[b"msg_1.1700000000.{}"]);
        let signed = |signatures: &str, content: &[u8]| {
            let headers = sent("msg_1", "1700000000", signatures);
            let claim = Claim::of(&headers, WINDOW, NOW).unwrap();
            claim.is_signed(&webhook(Vec::new()), content)
        };
        assert!(signed(&format!("v1,{good}"), b"{}"));
        assert!(signed(&format!("v1,AAAA v1a,x v1,{good}"), b"{}"));
        assert!(!signed(&format!("v1,{good}"), b"{ }"));
        assert!(!signed(&format!("v1a,{good}"), b"{}"));
        assert!(!signed(&good, b"{}"));
        assert!(!signed("v1,", b"{}"));
        let many = "v1,AAAA ".repeat(SIGNATURES_MAX);
        assert!(!signed(&format!("{many}v1,{good}"), b"{}"));
    }

    #[test]
    fn what_cannot_be_meant_is_not_looked_at_further() {
        let is_claim = |headers: &HeaderMap| Claim::of(headers, WINDOW, NOW).is_ok();
        assert!(is_claim(&sent("a", "1699999700", "v1,x")));
        assert!(is_claim(&sent("a", "1700000300", "v1,x")));
        for (id, timestamp) in [
            ("a", "1699999699"),
            ("a", "1700000301"),
            ("a", "now"),
            ("a", "-1"),
            ("a", "99999999999999999999"),
            ("", "1700000000"),
            ("a b", "1700000000"),
            (&"a".repeat(129), "1700000000"),
        ] {
            assert!(!is_claim(&sent(id, timestamp, "v1,x")), "{id} {timestamp}");
        }
        let mut twice = sent("a", "1700000000", "v1,x");
        twice.append(WEBHOOK_ID, "b".parse().unwrap());
        assert!(!is_claim(&twice));
        assert!(!is_claim(&HeaderMap::new()));
    }

    #[test]
    fn the_change_of_a_row_purges_it_as_it_was_and_as_it_is() {
        let tags = |names: &[&str]| {
            names
                .iter()
                .map(|name| Template::parse(name).unwrap())
                .collect()
        };
        let webhook = webhook(vec![
            WebhookTable {
                table: "cars".into(),
                tags: tags(&["cars", "car:{request.id}"]),
            },
            WebhookTable {
                table: "shop.prices".into(),
                tags: tags(&["prices"]),
            },
        ]);
        let read = |json: Value| {
            let content = serde_json::to_vec(&json).unwrap();
            read(&webhook, &content).map(|asked| asked.map(|asked| format!("{asked:?}")))
        };
        let of = |names: &[&str]| {
            let tags = names.iter().map(|name| (*name).to_owned()).collect();
            Ok(Some(format!("{:?}", Request::of_tags(tags))))
        };
        let change = |kind: &str, table: &str, record: Value, old: Value| json!({"type": kind, "table": table, "schema": "public", "record": record, "old_record": old});
        let moved = change("UPDATE", "cars", json!({"id": 2}), json!({"id": 1}));
        assert_eq!(read(moved), of(&["cars", "car:2", "car:1"]));
        let inserted = change("INSERT", "cars", json!({"id": "x"}), Value::Null);
        assert_eq!(read(inserted), of(&["cars", "car:x"]));
        let deleted = change("DELETE", "cars", Value::Null, json!({"id": 7, "extra": []}));
        assert_eq!(read(deleted), of(&["cars", "car:7"]));
        assert_eq!(
            read(change("INSERT", "prices", json!({}), Value::Null)),
            Ok(None)
        );
        let mut named = change("INSERT", "prices", json!({}), Value::Null);
        named["schema"] = "shop".into();
        assert_eq!(read(named), of(&["prices"]));
        assert_eq!(read(json!({"tags": ["a"]})), of(&["a"]));
        for bad in [
            json!([]),
            json!({"tags": 1}),
            json!({"type": 1, "table": "cars"}),
            json!({"tags": ["a"], "dry_run": true}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
