//! Trimming streams: away with what every group has acknowledged, and with nothing else.
//!
//! A group has acknowledged all before its first pending entry, whoever read that and may have died
//! with it, and before what it was given last where none is pending. Both only ever move forward, so
//! what was true when it was asked stays true, and several pods may trim one stream at once.

use std::collections::HashMap;
use std::fmt;

use redis::Value;

use crate::broker::Failure;
use crate::broker::redis::inbox::Inbox;
use crate::clock::BootTime;
use crate::proto::paths::OnFull;
use crate::proto::stream::Backlog;

/// How much of a stream is kept while no group reads it: readers without a group follow it, and a
/// new group finds where to begin.
const HISTORY_MS: u64 = 60_000;

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

/// Trims the stream `key`, and tells what is left. `backlog_max`: in entries; more than that is kept
/// only for a group that has not read it, and only with `OnFull::Backpressure`.
///
/// # Errors
/// Those of any command. Whatever was trimmed by then needed not be kept.
pub async fn trim(
    inbox: &Inbox,
    key: &str,
    backlog_max: u64,
    on_full: OnFull,
) -> Result<Backlog, Failure> {
    // Of a stream that is not there Redis would not even tell that it has no groups.
    if length(inbox, key).await? == 0 {
        return Ok(Backlog::default());
    }
    let groups = inbox.commands.send(redis::cmd("XINFO").arg("GROUPS").arg(key).to_owned());
    let groups = groups.await?;
    let groups = groups_of(groups).ok_or(NOT_TOLD)?;
    let mut needed = None;
    for group in &groups {
        let mut from = group.delivered.next();
        if group.has_pending {
            let pending = redis::cmd("XPENDING").arg(key).arg(name(group)).to_owned();
            let pending = inbox.commands.send(pending).await?;
            from = from.min(first_pending(&pending).unwrap_or(from));
        }
        needed = Some(needed.map_or(from, |needed| from.min(needed)));
    }
    let from = match needed {
        Some(needed) => needed,
        None => {
            let now_ms = inbox.clock.now_ms(BootTime::now()).ok_or(NOT_TOLD)?;
            EntryId { ms: now_ms.saturating_sub(HISTORY_MS), number: 0 }
        }
    };
    cut(inbox, key, "MINID", &from.to_string()).await?;
    let mut backlog = Backlog { length: length(inbox, key).await?, ..Backlog::default() };
    let is_bounded = groups.is_empty() || on_full == OnFull::DropOldest;
    if is_bounded && backlog.length > backlog_max {
        let trimmed = cut(inbox, key, "MAXLEN", &backlog_max.to_string()).await?;
        backlog.length = backlog.length.saturating_sub(trimmed);
        backlog.dropped = if groups.is_empty() { 0 } else { trimmed };
    }
    if !groups.is_empty() {
        backlog.unread = backlog.length;
    }
    Ok(backlog)
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
