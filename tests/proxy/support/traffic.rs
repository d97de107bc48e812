//! Clients that never stop asking, while something happens to Redis.

use super::{Answer, App, Larder, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// An app whose every page names its own path.
pub async fn shop() -> App {
    App::says(|seen| Answer::ok(format!("car {}", seen.path()))).await
}

/// Asks a [`shop`] for fifty cars, again and again, for as long as it lives; every answer must be a 200 with the right body.
pub struct Traffic {
    ended: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

impl Traffic {
    pub fn of(larder: &Larder, clients: usize) -> Self {
        let (ended, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut set = JoinSet::new();
        for number in 0..clients {
            let (client, ended, asked) = (larder.client(), ended.clone(), asked.clone());
            set.spawn(async move {
                let mut errors = Vec::new();
                let mut n = number;
                while !ended.load(Ordering::Relaxed) {
                    n = (n * 7 + 1) % 50;
                    let path = format!("/api/cars/{n}");
                    match client.try_send("GET", &path, &[], "").await {
                        Ok(answer)
                            if answer.status == 200 && answer.text() == format!("car {path}") => {}
                        Ok(answer) => {
                            errors.push(format!("{path}: {} {}", answer.status, answer.text()))
                        }
                        Err(error) => errors.push(format!("{path}: {error}")),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                errors
            });
        }
        Self {
            ended,
            asked,
            clients: set,
        }
    }

    /// Until so many further requests were answered.
    pub async fn goes_on(&self, requests: u64) {
        let goal = self.asked.load(Ordering::Relaxed) + requests;
        eventually("traffic goes on", async || {
            (self.asked.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Ends it and gives the number of requests; any error fails the test.
    pub async fn end(mut self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        while let Some(errors) = self.clients.join_next().await {
            let errors = errors.unwrap();
            assert!(
                errors.is_empty(),
                "{} errors, the first: {}",
                errors.len(),
                errors[0]
            );
        }
        self.asked.load(Ordering::Relaxed)
    }
}
