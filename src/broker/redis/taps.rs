//! Taps: which configured paths somebody listens to, as keys in Redis that live as long as they are
//! renewed.
//!
//! A pod that has a listener renews the keys of what it listens to; every pod reads those of its
//! configured paths. So a pod that was not asked to tell, because it came later or was away, finds
//! out, and one that tells finds out when nobody listens any more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};

use crate::broker::redis::inbox::Inbox;
use crate::broker::redis::interest::Interest;
use crate::proto::millis::millis;

/// How long a tap lives that is not renewed: some renewals may be late or lost.
pub const TAP_TTL: Duration = Duration::from_secs(10);

/// How often taps are renewed, and read.
const TAP_INTERVAL: Duration = Duration::from_secs(2);

pub struct Taps {
    inbox: Arc<Inbox>,
    /// The channels on which others tell, counted by listener.
    pub interest: Interest<Arc<str>>,
}

impl Taps {
    pub fn new(inbox: Arc<Inbox>) -> Taps {
        Taps { inbox, interest: Interest::default() }
    }

    /// What keeps a tap for the next ten seconds.
    pub fn renewal(&self, configured: &str) -> Cmd {
        let mut renewal = redis::cmd("SET");
        renewal.arg(self.inbox.names.tap(configured)).arg(1).arg("PX").arg(millis(TAP_TTL));
        renewal
    }

    fn look(&self, configured: &str) -> Cmd {
        Cmd::pttl(self.inbox.names.tap(configured))
    }

    /// Before the link counts as up: renews and reads all taps.
    pub async fn begin(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let wanted = self.interest.wanted();
        let configured = self.inbox.configured();
        let mut batch = redis::Pipeline::new();
        for configured in &wanted {
            batch.add_command(self.renewal(configured));
        }
        for configured in &configured {
            batch.add_command(self.look(configured));
        }
        let count = wanted.len() + configured.len();
        if count > 0 {
            let answers = connection.send_packed_commands(&batch, 0, count).await?;
            // A Redis that is full takes no taps, and that is no reason to do without it.
            self.read(configured, answers.into_iter().skip(wanted.len()).map(Some));
        } else {
            self.read(configured, std::iter::empty());
        }
        Ok(())
    }

    /// While the link is up: the same again and again.
    pub async fn keep(&self) -> Infallible {
        let mut interval = tokio::time::interval(TAP_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval.tick().await;
        loop {
            interval.tick().await;
            for configured in self.interest.wanted() {
                drop(self.inbox.commands.send_vital(self.renewal(&configured)));
            }
            let configured = self.inbox.configured();
            let look =
                |configured: &Arc<str>| self.inbox.commands.send_vital(self.look(configured));
            let answers = join_all(configured.iter().map(look)).await;
            self.read(configured, answers.into_iter().map(Result::ok));
        }
    }

    fn read(&self, configured: Vec<Arc<str>>, answers: impl Iterator<Item = Option<Value>>) {
        let left = |answer| match answer {
            Some(Value::Int(left_ms)) => u64::try_from(left_ms).ok().map(Duration::from_millis),
            _ => None,
        };
        let taps = configured.into_iter().zip(answers);
        let taps = taps.filter_map(|(configured, answer)| Some((configured, left(answer)?)));
        self.inbox.tapped(&taps.collect::<Vec<_>>());
    }
}
