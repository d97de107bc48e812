//! `GET /v1/hot`: which keys are asked for most, and which many have waited for at once.

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
        let stampedes: Vec<Value> = (self.state.shared.stampedes.lately(now).iter())
            .map(|one| {
                json!({
                    "key": one.key.to_string(),
                    "url": one.what.url,
                    "route": *one.what.route,
                    "waiting": one.waiting,
                    "at_ms": one.at.as_millis(),
                })
            })
            .collect();
        json!({"now_ms": now.as_millis(), "keys": keys, "stampedes": stampedes})
    }
}
