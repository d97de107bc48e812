//! `GET /v1/hot`: which keys are asked for most.

use super::Admin;
use super::api::thousandths;
use serde_json::{Value, json};

/// Keys shown.
const SHOWN_MAX: usize = 100;

impl Admin {
    /// The page.
    pub(super) fn hot(&self) -> Value {
        let now = self.state.clock.now();
        let top = self.state.shared.hot.top(SHOWN_MAX, now);
        let keys: Vec<Value> = top
            .iter()
            .map(|hot| {
                json!({
                    "key": hot.key.to_string(),
                    "url": hot.what.url,
                    "route": *hot.what.route,
                    "personal": hot.what.is_personal,
                    "per_minute": thousandths(f64::from(hot.per_minute)),
                })
            })
            .collect();
        json!({"now_ms": now.as_millis(), "keys": keys})
    }
}
