//! Tenures in Redis: a key for each upstream, that expires unless its holder renews it.
//!
//! The key holds the pod and a random number, so that no two grips look alike. A renewal lengthens
//! whatever is there and then looks whose it is: one that comes late lengthens the life of somebody
//! else's key, which harms nobody, and never writes over it. The epoch is counted by whoever has the
//! key, so it grows with each holder.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redis::{Cmd, Value};
use uuid::Uuid;

use crate::broker::redis::inbox::Inbox;
use crate::broker::redis::interest::Interest;
use crate::broker::tenures::{Grip, Tenures};
use crate::broker::{Failure, Pending};
use crate::proto::millis::millis;
use crate::proto::session_id::PodId;
use crate::proto::tenure::{TTL, Tenure};

/// Longer than any pod goes without looking.
const RELEASED_TTL_MS: u64 = 60_000;

pub struct Keys {
    inbox: Arc<Inbox>,
    /// The channels of the upstreams that this pod holds.
    pub interest: Interest<Arc<str>>,
    /// What this pod wrote into the keys it holds, by upstream.
    grips: Mutex<HashMap<String, String>>,
}

impl Keys {
    pub fn new(inbox: Arc<Inbox>) -> Keys {
        Keys { inbox, interest: Interest::default(), grips: Mutex::default() }
    }

    fn grips(&self) -> MutexGuard<'_, HashMap<String, String>> {
        // Each change is one call; a panic leaves it whole.
        self.grips.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tenures for Keys {
    fn look(&self, name: &str) -> Pending<Tenure> {
        let names = &self.inbox.names;
        let keys = [names.upstream(name), names.epoch(name), names.released(name)];
        let looks = keys.map(|key| self.inbox.commands.send_vital(Cmd::get(key)));
        Box::pin(async move {
            let [holder, epoch, released] = looks;
            let (holder, epoch, released) = (holder.await?, epoch.await?, released.await?);
            let epoch = number(&epoch);
            let is_released = epoch.is_some() && number(&released) == epoch;
            Ok(Tenure { holder: pod(&holder), epoch, is_released })
        })
    }

    fn seize(&self, name: &str, above: u64) -> Pending<Option<Grip>> {
        let (inbox, key) = (self.inbox.clone(), self.inbox.names.upstream(name));
        let grip = format!("{} {}", inbox.pod, Uuid::new_v4().simple());
        self.grips().insert(name.to_owned(), grip.clone());
        let mut seize = redis::cmd("SET");
        seize.arg(key).arg(grip).arg("NX").arg("PX").arg(millis(TTL));
        let seized = inbox.commands.send_vital(seize);
        let counter = inbox.names.epoch(name);
        Box::pin(async move {
            if seized.await? == Value::Nil {
                return Ok(None);
            }
            let count = |by: u64| inbox.commands.send_vital(Cmd::incr(&counter, by));
            let mut epoch = number(&count(1).await?).ok_or(Failure::Unknown)?;
            if epoch <= above {
                // A Redis that was emptied has begun to count anew.
                epoch = number(&count(above + 1 - epoch).await?).ok_or(Failure::Unknown)?;
            }
            Ok(Some(Grip { epoch, expires: true }))
        })
    }

    fn renew(&self, name: &str) -> Pending<bool> {
        let Some(grip) = self.grips().get(name).cloned() else {
            return Box::pin(std::future::ready(Ok(false)));
        };
        let key = self.inbox.names.upstream(name);
        let mut renewal = redis::cmd("PEXPIRE");
        renewal.arg(&key).arg(millis(TTL));
        let renewed = self.inbox.commands.send_vital(renewal);
        let held = self.inbox.commands.send_vital(Cmd::get(key));
        Box::pin(async move {
            let (renewed, held) = (renewed.await?, held.await?);
            // What is ours now was so a moment ago: no grip is written twice.
            Ok(renewed == Value::Int(1) && held == Value::BulkString(grip.into_bytes()))
        })
    }

    fn release(&self, name: &str, grip: Grip) -> Pending<()> {
        self.grips().remove(name);
        let names = &self.inbox.names;
        let mut note = redis::cmd("SET");
        note.arg(names.released(name)).arg(grip.epoch).arg("PX").arg(RELEASED_TTL_MS);
        let noted = self.inbox.commands.send_vital(note);
        let released = self.inbox.commands.send_vital(Cmd::del(names.upstream(name)));
        Box::pin(async move { noted.await.and(released.await).map(drop) })
    }

    fn hear(&self, name: &Arc<str>) -> Pending<()> {
        Box::pin(self.interest.arrive(name))
    }

    fn unhear(&self, name: &Arc<str>) {
        self.interest.depart(name, Instant::now());
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// Whom a key names. Whatever else it may hold, somebody holds it.
fn pod(value: &Value) -> Option<PodId> {
    let Value::BulkString(text) = value else { return None };
    let text = std::str::from_utf8(text).ok();
    let pod = text.and_then(|text| PodId::parse(text.split(' ').next()?));
    Some(pod.unwrap_or(PodId([0; 8])))
}
