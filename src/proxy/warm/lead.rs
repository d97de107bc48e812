//! Who of several sidecars does what one has to do: a lease in Redis, prolonged while its holder lives.
//!
//! Without Redis everybody leads for himself: to warm twice is better than not to warm.

use crate::redis_client::{Outage, Redis, Script};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A holder that is gone is succeeded after this time at most.
pub const LEASE: Duration = Duration::from_secs(15);
/// A holder prolongs so often.
const PROLONG: Duration = Duration::from_secs(4);
/// Who does not hold asks so often.
const ASK: Duration = Duration::from_secs(3);
/// At the start Redis is given this time to be there before anybody leads for himself.
const START: Duration = Duration::from_secs(2);

static PROLONGED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end \
         return {redis.call('PEXPIRE', KEYS[1], ARGV[2])}",
    )
});
static RELEASED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0} end \
         return {redis.call('DEL', KEYS[1])}",
    )
});

/// A claim to lead.
#[derive(Debug)]
pub struct Lead {
    key: String,
    token: String,
    began: Instant,
    /// When it is asked for next, or prolonged.
    due: Instant,
    standing: Standing,
}

/// How a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not known yet.
    Unknown,
    /// It holds.
    Leads,
    /// It holds because there is no Redis to ask.
    Alone,
    /// Another's holds.
    Follows,
}

impl Standing {
    /// Whether to do what one has to do.
    #[must_use]
    pub const fn leads(self) -> bool {
        matches!(self, Self::Leads | Self::Alone)
    }
}

impl Lead {
    /// A claim to what is called `key` in Redis.
    #[must_use]
    pub fn new(key: String, now: Instant) -> Self {
        Self {
            key,
            token: format!("{:032x}", fastrand::u128(..)),
            began: now,
            due: now,
            standing: Standing::Unknown,
        }
    }

    /// Asks for it, or prolongs it, where it is time to.
    pub async fn hold(&mut self, redis: Option<&Redis>, now: Instant) -> Standing {
        let Some(redis) = redis else {
            self.standing = Standing::Alone;
            return self.standing;
        };
        if now < self.due {
            return self.standing;
        }
        let asked = match self.standing {
            Standing::Leads => match self.prolong(redis).await {
                Ok(false) => self.ask(redis).await,
                prolonged => prolonged,
            },
            _ => self.ask(redis).await,
        };
        (self.standing, self.due) = match asked {
            Ok(true) => (Standing::Leads, now + PROLONG),
            Ok(false) => (Standing::Follows, now + ASK),
            // It may only not be there yet.
            Err(_) if now < self.began + START => (self.standing, now),
            Err(_) => (Standing::Alone, now + ASK),
        };
        self.standing
    }

    /// Lets another have it at once.
    pub async fn release(&mut self, redis: Option<&Redis>) {
        if let (Some(redis), Standing::Leads) = (redis, self.standing) {
            // One that is not released ends by itself.
            let keys = [self.key.as_bytes()];
            let _ = redis
                .script("release", &RELEASED, &keys, &[self.token.as_bytes()])
                .await;
        }
        self.standing = Standing::Unknown;
    }

    async fn ask(&self, redis: &Redis) -> Result<bool, Outage> {
        let mut command = redis::cmd("SET");
        command
            .arg(&self.key)
            .arg(&self.token)
            .arg("NX")
            .arg("PX")
            .arg(LEASE.as_millis() as u64);
        let answer = redis.query("set", &command).await?;
        Ok(answer != redis::Value::Nil)
    }

    async fn prolong(&self, redis: &Redis) -> Result<bool, Outage> {
        let life = LEASE.as_millis().to_string();
        let args = [self.token.as_bytes(), life.as_bytes()];
        let answer = redis
            .script("prolong", &PROLONGED, &[self.key.as_bytes()], &args)
            .await?;
        Ok(answer.first() == Some(&1))
    }
}
