//! Who of several sidecars does what one has to do: a lease in Redis, prolonged while its holder lives.
//!
//! Without Redis everybody leads for himself: to warm twice is better than not to warm. But who follows does
//! not begin by that at once: an outage shorter than a lease changes nothing, so that a stumble of Redis does
//! not set all sidecars upon the app.

use crate::redis_client::{Outage, Redis, Script};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A holder that is gone is succeeded after this time at most.
pub const LEASE: Duration = Duration::from_secs(10);
/// A round that nobody has taken up for so long is forgotten.
const ROUND: Duration = Duration::from_secs(24 * 3_600);
/// A holder prolongs so often.
const PROLONG: Duration = Duration::from_secs(3);
/// Who does not hold asks so often.
const ASK: Duration = Duration::from_secs(2);
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
    /// Until when Redis may be silent before it counts as gone.
    patient_until: Instant,
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
            patient_until: now + START,
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
            // After an outage it may hold yet.
            Standing::Leads | Standing::Alone => match self.prolong(redis).await {
                Ok(false) => self.ask(redis).await,
                prolonged => prolonged,
            },
            Standing::Unknown | Standing::Follows => self.ask(redis).await,
        };
        match asked {
            Ok(true) => (self.standing, self.due) = (Standing::Leads, now + PROLONG),
            Ok(false) => {
                self.patient_until = now + LEASE;
                (self.standing, self.due) = (Standing::Follows, now + ASK);
            }
            // It may only not be there yet.
            Err(_) if self.standing == Standing::Unknown && now < self.patient_until => {}
            Err(_) if self.standing == Standing::Follows && now < self.patient_until => {
                self.due = now + ASK;
            }
            Err(_) => (self.standing, self.due) = (Standing::Alone, now + ASK),
        }
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

    /// Leaves word that a round is under way: were this holder to die, the next takes it up.
    pub async fn round_begins(&self, redis: Option<&Redis>) {
        if let Some(redis) = redis {
            let mut command = redis::cmd("SET");
            command
                .arg(self.round())
                .arg("1")
                .arg("PX")
                .arg(ROUND.as_millis() as u64);
            // Without it, a round that is broken off is not taken up: the next comes at its time.
            let _ = redis.query("set", &command).await;
        }
    }

    /// The round has been led to its end.
    pub async fn round_ends(&self, redis: Option<&Redis>) {
        if let (Some(redis), Standing::Leads) = (redis, self.standing) {
            let mut command = redis::cmd("DEL");
            command.arg(self.round());
            let _ = redis.query("del", &command).await;
        }
    }

    /// Whether a round was broken off.
    pub async fn is_round_open(&self, redis: Option<&Redis>) -> bool {
        let Some(redis) = redis else { return false };
        let mut command = redis::cmd("GET");
        command.arg(self.round());
        let found = redis.query("get", &command).await;
        found.is_ok_and(|found| found != redis::Value::Nil)
    }

    fn round(&self) -> String {
        format!("{}:round", self.key)
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
