//! Publishers that never rest: at every pod, paced by a clock, whatever they are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::gateway::{Gateway, send};
use super::ledger::{Entry, Ledger};
use super::pods::{msg, to};

/// So often each pod is asked for a broadcast and a unicast.
const PACE: Duration = Duration::from_millis(50);

pub struct Traffic {
    pub ledger: Ledger,
    is_over: Arc<AtomicBool>,
    /// Ends when everything was answered.
    publishing: tokio::task::JoinHandle<()>,
}

impl Traffic {
    /// Publishes to `path`, and to each of the sessions in turn.
    pub fn start(pods: Arc<Vec<Gateway>>, path: &'static str, sessions: Vec<String>) -> Traffic {
        let (ledger, is_over) = (Ledger::default(), Arc::<AtomicBool>::default());
        let (keep, until) = (ledger.clone(), is_over.clone());
        let publishing = tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut asked = JoinSet::new();
            for round in 0.. {
                pace.tick().await;
                if until.load(Ordering::Relaxed) {
                    break;
                }
                let addressee = round % sessions.len();
                for pod in 0..pods.len() {
                    for to_one in [None, Some(addressee)] {
                        let payload = format!("{round} {pod} {to_one:?}");
                        let body = match to_one {
                            Some(number) => to(&sessions[number], &payload),
                            None => msg(&payload),
                        };
                        let target = format!("/v1/publish{path}");
                        let request = pods[pod].call("POST", &target);
                        let request = request.header("content-type", "application/json").body(body);
                        let ledger = keep.clone();
                        asked.spawn(async move {
                            let begun = Instant::now();
                            let status = send(request).await.status;
                            ledger.note(Entry { payload, pod, to: to_one, begun, status });
                        });
                    }
                }
            }
            asked.join_all().await;
        });
        Traffic { ledger, is_over, publishing }
    }

    /// Stops, and waits for the last answers.
    pub async fn end(self) -> Ledger {
        self.is_over.store(true, Ordering::Relaxed);
        self.publishing.await.expect("every request is answered");
        self.ledger
    }
}
