//! Trimming streams: away with what every group has acknowledged, and with nothing else.
//!
//! A group has acknowledged all before its first pending entry, whoever read that and may have died
//! with it, and before what it was given last where none is pending. Both only ever move forward, so
//! what was true when it was asked stays true, and several pods may trim one stream at once.
//!
//! Where a path says `drop_oldest`, messages go that some group has not acknowledged: the oldest, and
//! messages alone, since every connect that was offered is owed its disconnect. They are looked for from the
//! front, some at a time, and where that has got to is kept: a front of connects is walked once, and not
//! at every look. A stream may thus hold more than its bound, of connects and disconnects, of which there
//! are no more than handshakes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, Value};

use crate::broker::Failure;
use crate::broker::redis::commands::WRONG_TYPE;
use crate::broker::redis::inbox::Inbox;
use crate::clock::BootTime;
use crate::proto::paths::OnFull;
use crate::proto::stream::Backlog;

/// How much of a stream is kept while no group reads it: readers without a group follow it, and a
/// new group finds where to begin.
const HISTORY_MS: u64 = 60_000;

/// One run of the script walks so many entries, or bytes of them, and a few more: Redis serves nobody
/// else meanwhile, which is a matter of a few milliseconds.
const WALK_ENTRIES: u64 = 1_000;
const WALK_BYTES: u64 = 4 << 20;

/// Runs in one look: more than a pod adds until the next one, and an end to what a look may take.
const WALKS_MAX: usize = 64;

/// Drops messages, as many as are too many, behind an entry up to which there are none. It counts what is
/// too many itself, so that several pods together drop no more than one. Answers how many it dropped, how far it
/// got, and whether there is more behind.
const DROP_SCRIPT: &str = "
local stream, from, excess = KEYS[1], ARGV[1], redis.call('XLEN', KEYS[1]) - ARGV[2]
local entries, bytes, dropped = tonumber(ARGV[3]), tonumber(ARGV[4]), 0
while dropped < excess and entries > 0 and bytes > 0 do
  local found = redis.call('XRANGE', stream, from, '+', 'COUNT', 16)
  if #found == 0 or found[#found][1] == from then return {dropped, from, 0} end
  local gone = {}
  for _, entry in ipairs(found) do
    if dropped + #gone == excess then break end
    local id, fields = entry[1], entry[2]
    for at = 1, #fields, 2 do
      if fields[at] == 'type' and fields[at + 1] == 'message' then gone[#gone + 1] = id end
      bytes = bytes - #fields[at + 1]
    end
    from, entries = id, entries - 1
  end
  if #gone > 0 then dropped = dropped + redis.call('XDEL', stream, unpack(gone)) end
end
if dropped < excess then return {dropped, from, 1} end
return {dropped, from, 0}
";

/// The id that Redis gave an entry: its own time, and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EntryId {
    ms: u64,
    number: u64,
}

impl EntryId {
    fn parse(value: &Value) -> Option<EntryId> {
        let Value::BulkString(text) = value else { return None };
        let (ms, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(EntryId { ms: ms.parse().ok()?, number: number.parse().ok()? })
    }

    /// The least one that is larger.
    fn next(self) -> EntryId {
        match self.number.checked_add(1) {
            Some(number) => EntryId { number, ..self },
            None => EntryId { ms: self.ms.saturating_add(1), number: 0 },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

/// A group of readers, as `XINFO GROUPS` tells of it.
struct Group {
    name: Value,
    delivered: EntryId,
    has_pending: bool,
}

/// The trimming of all streams.
pub struct Trimming {
    inbox: Arc<Inbox>,
    /// Of streams of which messages were dropped.
    walked: Mutex<HashMap<String, Walked>>,
}

/// Up to where a stream holds no messages any more.
#[derive(Debug, Clone)]
struct Walked {
    id: String,
    /// Of the link. Behind another one may be a server that has not heard of what was dropped.
    epoch: u64,
}

impl Trimming {
    pub fn new(inbox: Arc<Inbox>) -> Trimming {
        Trimming { inbox, walked: Mutex::default() }
    }

    /// Trims the stream `key`, and tells what is left. `backlog_max`: in entries; more than that is kept
    /// only for a group that has not read it, and with `OnFull::DropOldest` only connects and disconnects.
    ///
    /// # Errors
    /// Those of any command. Whatever was trimmed by then needed not be kept.
    pub async fn trim(
        &self,
        key: &str,
        backlog_max: u64,
        on_full: OnFull,
    ) -> Result<Backlog, Failure> {
        let inbox = &*self.inbox;
        // Of a stream that is not there Redis would not even tell that it has no groups. What is no stream
        // holds nothing of ours, and nothing is added to it.
        if let 0 = length(inbox, key).await.or_else(nothing_of_ours)? {
            self.walked().remove(key);
            return Ok(Backlog::default());
        }
        let groups = groups(inbox, key).await?;
        let needed = needed(inbox, key, &groups).await?;
        cut(inbox, key, "MINID", &needed.to_string()).await?;
        let mut backlog = Backlog { length: length(inbox, key).await?, ..Backlog::default() };
        if backlog.length > backlog_max {
            match (groups.is_empty(), on_full) {
                (true, _) => {
                    let trimmed = cut(inbox, key, "MAXLEN", &backlog_max.to_string()).await?;
                    backlog.length = backlog.length.saturating_sub(trimmed);
                }
                (false, OnFull::DropOldest) => {
                    backlog.dropped = self.drop_messages(key, backlog_max).await?;
                    backlog.length = backlog.length.saturating_sub(backlog.dropped);
                }
                (false, OnFull::Backpressure) => {}
            }
        }
        if !groups.is_empty() {
            backlog.unread = backlog.length;
        }
        Ok(backlog)
    }

    /// Drops the oldest messages until `backlog_max` entries are left, or no message: how many.
    ///
    /// # Errors
    /// Only where nothing was dropped: what was has to be counted.
    async fn drop_messages(&self, key: &str, backlog_max: u64) -> Result<u64, Failure> {
        let (epoch, mut dropped) = (self.inbox.epoch(), 0);
        for _ in 0..WALKS_MAX {
            let walked = self.walked().get(key).filter(|walked| walked.epoch == epoch).cloned();
            let from = walked.map_or_else(|| "-".to_owned(), |walked| walked.id);
            let run = self.inbox.commands.send(walk(key, &from, backlog_max)).await;
            let (more, id, goes_on) = match run.and_then(walk_told) {
                Ok(told) => told,
                Err(_) if dropped > 0 => break,
                Err(failure) => return Err(failure),
            };
            dropped += more;
            if id != "-" {
                self.walked().insert(key.to_owned(), Walked { id, epoch });
            }
            if !goes_on {
                break;
            }
        }
        Ok(dropped)
    }

    fn walked(&self) -> MutexGuard<'_, HashMap<String, Walked>> {
        self.walked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn walk(key: &str, from: &str, backlog_max: u64) -> Cmd {
    let mut walk = redis::cmd("EVAL");
    walk.arg(DROP_SCRIPT).arg(1).arg(key).arg(from).arg(backlog_max);
    walk.arg(WALK_ENTRIES).arg(WALK_BYTES);
    walk
}

fn walk_told(told: Value) -> Result<(u64, String, bool), Failure> {
    redis::from_redis_value(told).map_err(|_| NOT_TOLD)
}

fn nothing_of_ours(failure: Failure) -> Result<u64, Failure> {
    match failure {
        WRONG_TYPE => Ok(0),
        failure => Err(failure),
    }
}

async fn groups(inbox: &Inbox, key: &str) -> Result<Vec<Group>, Failure> {
    let groups = inbox.commands.send(redis::cmd("XINFO").arg("GROUPS").arg(key).to_owned());
    groups_of(groups.await?).ok_or(NOT_TOLD)
}

/// Before which entry nobody needs anything.
async fn needed(inbox: &Inbox, key: &str, groups: &[Group]) -> Result<EntryId, Failure> {
    let mut needed = None;
    for group in groups {
        let mut from = group.delivered.next();
        if group.has_pending {
            let pending = redis::cmd("XPENDING").arg(key).arg(name(group)).to_owned();
            let pending = inbox.commands.send(pending).await?;
            from = from.min(first_pending(&pending).unwrap_or(from));
        }
        needed = Some(needed.map_or(from, |needed| from.min(needed)));
    }
    match needed {
        Some(needed) => Ok(needed),
        None => {
            let now_ms = inbox.clock.now_ms(BootTime::now()).ok_or(NOT_TOLD)?;
            Ok(EntryId { ms: now_ms.saturating_sub(HISTORY_MS), number: 0 })
        }
    }
}

/// Redis answered something else than was asked.
const NOT_TOLD: Failure = Failure::Unavailable("Redis does not tell what is in a stream");

async fn length(inbox: &Inbox, key: &str) -> Result<u64, Failure> {
    number(inbox.commands.send(redis::cmd("XLEN").arg(key).to_owned()).await?)
}

/// How many entries went. To the entry, not to the next whole block: a bound may be small.
async fn cut(inbox: &Inbox, key: &str, by: &str, to: &str) -> Result<u64, Failure> {
    let trim = redis::cmd("XTRIM").arg(key).arg(by).arg("=").arg(to).to_owned();
    number(inbox.commands.send(trim).await?)
}

fn number(value: Value) -> Result<u64, Failure> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| NOT_TOLD),
        _ => Err(NOT_TOLD),
    }
}

fn name(group: &Group) -> &[u8] {
    match &group.name {
        Value::BulkString(name) => name,
        _ => &[],
    }
}

fn groups_of(told: Value) -> Option<Vec<Group>> {
    let groups: Vec<HashMap<String, Value>> = redis::from_redis_value(told).ok()?;
    let group = |mut group: HashMap<String, Value>| {
        Some(Group {
            delivered: EntryId::parse(group.get("last-delivered-id")?)?,
            has_pending: *group.get("pending")? != Value::Int(0),
            name: group.remove("name")?,
        })
    };
    groups.into_iter().map(group).collect()
}

/// Of the summary that `XPENDING` tells; `None` where nothing is pending any more.
fn first_pending(summary: &Value) -> Option<EntryId> {
    match summary {
        Value::Array(parts) => EntryId::parse(parts.get(1)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(resp: &str) -> Value {
        redis::parse_redis_value(resp.as_bytes()).expect("RESP")
    }

    #[test]
    fn ids_are_ordered_by_time_and_then_by_number() {
        let id = |ms, number| EntryId { ms, number };
        assert_eq!(EntryId::parse(&told("$6\r\n1700-3\r\n")), Some(id(1700, 3)));
        assert_eq!(EntryId::parse(&told("$4\r\n1700\r\n")), None);
        assert_eq!(EntryId::parse(&told("$-1\r\n")), None);
        assert_eq!(id(7, 3).next(), id(7, 4));
        assert_eq!(id(7, u64::MAX).next(), id(8, 0));
        assert!(id(7, 4) < id(8, 0) && id(7, 4) < id(7, 10));
        assert_eq!(id(7, 4).to_string(), "7-4");
    }

    #[test]
    fn groups_are_read_in_both_forms_of_the_protocol() {
        let members = "$4\r\nname\r\n$1\r\ng\r\n$9\r\nconsumers\r\n:1\r\n$7\r\npending\r\n:2\r\n\
                       $17\r\nlast-delivered-id\r\n$3\r\n5-1\r\n";
        for head in ["*1\r\n%4\r\n", "*1\r\n*8\r\n"] {
            let groups = groups_of(told(&format!("{head}{members}"))).expect("groups");
            let [group] = &groups[..] else { panic!("one group") };
            assert_eq!((name(group), group.has_pending), (&b"g"[..], true));
            assert_eq!(group.delivered, EntryId { ms: 5, number: 1 });
        }
        assert!(groups_of(told("*1\r\n%1\r\n$4\r\nname\r\n$1\r\ng\r\n")).is_none());
        assert!(groups_of(told("*0\r\n")).is_some_and(|groups| groups.is_empty()));
    }

    #[test]
    fn the_first_pending_entry_counts_whoever_has_it() {
        let summary = "*4\r\n:2\r\n$3\r\n4-0\r\n$3\r\n5-1\r\n*1\r\n*2\r\n$1\r\nc\r\n$1\r\n2\r\n";
        assert_eq!(first_pending(&told(summary)), Some(EntryId { ms: 4, number: 0 }));
        assert_eq!(first_pending(&told("*4\r\n:0\r\n$-1\r\n$-1\r\n*-1\r\n")), None);
    }
}
