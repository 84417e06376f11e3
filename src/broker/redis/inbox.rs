//! What comes from Redis, handed to whom it is for: the pod's one sequencer.
//!
//! `take` is called by the subscribing connection's own reader, one push after the other, and never
//! waits. What an earlier connection still had is not taken once a later one has begun, so there is
//! one order, and a gap is told before anything that came after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::broker::redis::clock::Clock;
use crate::broker::redis::commands::Commands;
use crate::broker::redis::envelope;
use crate::broker::redis::lease::Lease;
use crate::broker::redis::names::Names;
use crate::broker::redis::pulse::Pulse;
use crate::broker::{Pending, Receiver};
use crate::clock::BootTime;
use crate::complaints::Complaints;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::proto::ask::{Answer, Ask, Reach};
use crate::proto::envelope::{Body, Envelope, VERSION};
use crate::proto::msg::{Address, Msg};
use crate::proto::path::Path;
use crate::proto::session_id::{PodId, SessionId};

/// Questions of other pods that this one works on at once; more are answered `Overloaded`.
const ANSWERING_MAX: usize = 10_000;

/// How long a unicast that a stranger published may wait for its turn: nobody waits for its
/// verdict, so this only bounds what is kept.
const UNASKED_AGE_MAX: Duration = Duration::from_secs(2);

pub struct Inbox {
    pub pod: PodId,
    pub names: Names,
    pub commands: Arc<Commands>,
    pub clock: Arc<Clock>,
    pub lease: Arc<Lease>,
    pub metrics: Arc<Metrics>,
    pub lifecycle: Lifecycle,
    /// What a stranger may publish at once.
    publish_bytes_max: usize,
    sequence: Mutex<Sequence>,
    /// Questions of this pod, by correlation.
    open: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    answering: Arc<Semaphore>,
    pulse: Mutex<Pulse>,
    complaints: Complaints,
}

struct Sequence {
    receiver: Box<dyn Receiver>,
    /// Of the connection that may speak now.
    epoch: u64,
    /// Whether what comes follows what came before without a gap.
    is_continuous: bool,
    /// Whether anything can have been missed: only after something was heard, or could have been.
    is_in_touch: bool,
}

/// The parts that an inbox is made of, beside its own.
pub struct Parts {
    pub pod: PodId,
    pub names: Names,
    pub commands: Arc<Commands>,
    pub clock: Arc<Clock>,
    pub lease: Arc<Lease>,
    pub metrics: Arc<Metrics>,
    pub lifecycle: Lifecycle,
    pub publish_bytes_max: usize,
}

/// A question of this pod that waits for its answer. Dropped, it waits no more.
pub struct Question {
    inbox: Arc<Inbox>,
    pub correlation: u64,
    pub answer: oneshot::Receiver<Answer>,
}

impl Inbox {
    pub fn new(parts: Parts, receiver: Box<dyn Receiver>) -> Inbox {
        let Parts { pod, names, commands, clock, lease, metrics, lifecycle, publish_bytes_max } =
            parts;
        let sequence = Sequence { receiver, epoch: 0, is_continuous: true, is_in_touch: false };
        Inbox {
            pod,
            names,
            commands,
            clock,
            lease,
            metrics,
            lifecycle,
            publish_bytes_max,
            sequence: Mutex::new(sequence),
            open: Mutex::default(),
            answering: Arc::new(Semaphore::new(ANSWERING_MAX)),
            pulse: Mutex::default(),
            complaints: Complaints::default(),
        }
    }

    /// A new connection begins, and what the one before it still has counts no more. Its number.
    pub fn begin(&self) -> u64 {
        *lock(&self.pulse) = Pulse::default();
        let mut sequence = lock(&self.sequence);
        sequence.epoch += 1;
        sequence.is_continuous &= !sequence.is_in_touch;
        sequence.is_in_touch = false;
        sequence.epoch
    }

    /// The number of the connection that may speak now.
    pub fn epoch(&self) -> u64 {
        lock(&self.sequence).epoch
    }

    /// From now on everything is heard.
    pub fn resume(&self) {
        self.touch(&mut lock(&self.sequence));
    }

    /// Before whatever is heard: whether something was missed before it.
    fn touch(&self, sequence: &mut Sequence) {
        sequence.is_in_touch = true;
        if !sequence.is_continuous {
            sequence.is_continuous = true;
            self.metrics.broker.gaps.inc();
            sequence.receiver.gap();
        }
    }

    /// One message of a subscription of connection number `epoch`.
    pub fn take(self: &Arc<Self>, epoch: u64, channel: &[u8], message: Vec<u8>) {
        let message = Bytes::from(message);
        if let Some(name) = self.names.upstream_of(channel) {
            if let Err(why) = self.upstream(epoch, name, message) {
                self.complain(channel, &why);
            }
            return;
        }
        let taken = match (self.names.path(channel), self.names.configured(channel)) {
            (Some(path), _) if message.first() == Some(&VERSION) => {
                self.broadcast(epoch, &path, message)
            }
            (Some(_), _) if message.len() > self.publish_bytes_max => {
                Err(format!("a msg of more than {} bytes", self.publish_bytes_max))
            }
            (Some(path), _) => self.publication(epoch, path, &message),
            (None, Some(configured)) => self.told(epoch, configured, message),
            (None, None) => self.letter(epoch, message),
        };
        if let Err(why) = taken {
            self.complain(channel, &why);
        }
    }

    fn broadcast(&self, epoch: u64, path: &Path, message: Bytes) -> Result<(), String> {
        match Envelope::decode(message).map_err(|malformed| malformed.to_string())?.body {
            Body::Broadcast(content) => {
                self.in_order(epoch, |receiver| receiver.broadcast(path, &content));
                Ok(())
            }
            _ => Err("an envelope that belongs into a pod's inbox".to_owned()),
        }
    }

    /// A msg from somebody who is no pod.
    fn publication(self: &Arc<Self>, epoch: u64, path: Path, json: &[u8]) -> Result<(), String> {
        let Msg { content, session } = Msg::parse(json).map_err(|invalid| invalid.to_string())?;
        match session {
            Address::All => {
                self.in_order(epoch, |receiver| {
                    receiver.published(&path);
                    receiver.broadcast(&path, &content)
                });
            }
            Address::One(id) => {
                // Whoever owns the session hears this too; an id that is nobody's is gone.
                if let Some(to) = SessionId::parse(&id).filter(|id| id.pod == self.pod) {
                    self.in_order(epoch, |receiver| receiver.published(&path));
                    let ask = Ask::Unicast { to, reach: Reach::Path(path), content };
                    self.answer(epoch, ask, UNASKED_AGE_MAX, None);
                }
            }
        }
        Ok(())
    }

    /// A msg for an upstream, from somebody who is no pod, or in an envelope.
    fn upstream(&self, epoch: u64, name: &str, message: Bytes) -> Result<(), String> {
        let content = if message.first() == Some(&VERSION) {
            match Envelope::decode(message).map_err(|malformed| malformed.to_string())?.body {
                Body::Broadcast(content) => content,
                _ => return Err("an envelope that belongs into a pod's inbox".to_owned()),
            }
        } else if message.len() > self.publish_bytes_max {
            return Err(format!("a msg of more than {} bytes", self.publish_bytes_max));
        } else {
            let msg = Msg::parse(&message).map_err(|invalid| invalid.to_string())?;
            if msg.session != Address::All {
                return Err("an upstream has no sessions".to_owned());
            }
            msg.content
        };
        self.in_order(epoch, |receiver| receiver.upstream(name, content));
        Ok(())
    }

    /// What another pod, or this one, sent to this pod.
    fn letter(self: &Arc<Self>, epoch: u64, message: Bytes) -> Result<(), String> {
        match Envelope::decode(message).map_err(|malformed| malformed.to_string())?.body {
            Body::Ask { from, correlation, sent_ms, age_limit_ms, ask } => {
                let now_ms = self.clock.now_ms(BootTime::now()).unwrap_or(sent_ms);
                let age_ms = now_ms.saturating_sub(sent_ms);
                if age_ms > age_limit_ms {
                    self.metrics.unicasts.late.inc();
                } else {
                    let left = Duration::from_millis(age_limit_ms - age_ms);
                    self.answer(epoch, ask, left, Some((from, correlation)));
                }
            }
            Body::Answer { correlation, answer } => {
                if let Some(question) = lock(&self.open).remove(&correlation) {
                    // It may have given up just now.
                    let _ = question.send(answer);
                }
            }
            Body::Ping { nonce } => self.pong(nonce),
            Body::Broadcast(_) | Body::Told(_) => {
                return Err("an envelope that does not belong into a pod's inbox".to_owned());
            }
        }
        Ok(())
    }

    /// What a pod tells of its sessions. What this one tells comes back too: it knows that.
    fn told(&self, epoch: u64, configured: &str, message: Bytes) -> Result<(), String> {
        match Envelope::decode(message).map_err(|malformed| malformed.to_string())?.body {
            Body::Told(told) => {
                if told.from != self.pod {
                    self.in_order(epoch, |receiver| receiver.told(configured, told));
                }
                Ok(())
            }
            _ => Err("an envelope that tells no event".to_owned()),
        }
    }

    /// The configured paths whose taps matter to this pod.
    pub fn configured(&self) -> Vec<Arc<str>> {
        lock(&self.sequence).receiver.configured()
    }

    /// Which of them are tapped, and for how long.
    pub fn tapped(&self, taps: &[(Arc<str>, Duration)]) {
        lock(&self.sequence).receiver.tapped(taps);
    }

    /// Puts the question into its place, and tells the answer when it is there; that to a stranger,
    /// who cannot be told, is counted here. What is not done by the time `left` is over is not done
    /// any more: its asker has been told "unknown".
    fn answer(self: &Arc<Self>, epoch: u64, ask: Ask, left: Duration, to: Option<(PodId, u64)>) {
        let Ok(permit) = self.answering.clone().try_acquire_owned() else {
            return match to {
                Some((pod, correlation)) => self.tell(pod, correlation, Answer::Overloaded),
                None => self.metrics.unicasts.of(&Answer::Overloaded).inc(),
            };
        };
        let Some(answer) = self.in_order(epoch, |receiver| receiver.ask(ask)) else { return };
        let inbox = self.clone();
        self.lifecycle.spawn(async move {
            let answer: Pending<Answer> = answer;
            // An answer that cannot be known is none: the asker finds that out by itself.
            let answer = tokio::time::timeout(left, answer).await;
            match (answer, to) {
                (Ok(Ok(answer)), Some((pod, correlation))) => inbox.tell(pod, correlation, answer),
                (Ok(Ok(answer)), None) => inbox.metrics.unicasts.of(&answer).inc(),
                (_, Some(_)) => {}
                (_, None) => inbox.metrics.unicasts.unknown.inc(),
            }
            drop(permit);
        });
    }

    fn tell(&self, pod: PodId, correlation: u64, answer: Answer) {
        let body = Body::Answer { correlation, answer };
        let letter = envelope(Uuid::now_v7(), body);
        drop(self.commands.send_vital(redis::Cmd::publish(self.names.pod(pod), letter)));
    }

    /// One at a time, in the order of the connection that may speak.
    fn in_order<T>(&self, epoch: u64, act: impl FnOnce(&dyn Receiver) -> T) -> Option<T> {
        let mut sequence = lock(&self.sequence);
        (sequence.epoch == epoch).then(|| {
            self.touch(&mut sequence);
            act(&*sequence.receiver)
        })
    }

    /// Opens a question; its answer is the one that names its correlation.
    pub fn question(self: &Arc<Self>) -> Question {
        let (answered, answer) = oneshot::channel();
        let mut open = lock(&self.open);
        // Random, so that a late answer to somebody else's is no answer to this one.
        let correlation = Uuid::new_v4().as_u64_pair().0;
        open.insert(correlation, answered);
        drop(open);
        Question { inbox: self.clone(), correlation, answer }
    }

    /// The next self-ping: its nonce, or how many were missed if those are too many.
    pub fn ping(&self, missed_max: u32) -> Result<u64, u32> {
        lock(&self.pulse).ping(missed_max, Instant::now())
    }

    /// Whether this pod has heard all that was said for so long, until now.
    pub fn has_heard_for(&self, time: Duration) -> bool {
        let now = BootTime::now();
        lock(&self.pulse).unbroken_since(now).is_some_and(|since| now.since(since) >= time)
    }

    fn pong(&self, nonce: u64) {
        if let Some(taken) = lock(&self.pulse).pong(nonce, BootTime::now()) {
            self.metrics.broker.roundtrip_seconds.observe(taken.as_secs_f64());
        }
    }

    fn complain(&self, channel: &[u8], why: &str) {
        self.metrics.broker.malformed.inc();
        if self.complaints.are_due() {
            tracing::warn!(channel = %channel.escape_ascii(), "dropped what was published: {why}");
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        lock(&self.inbox.open).remove(&self.correlation);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
