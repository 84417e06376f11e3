//! Appending to streams: the transaction, and what its answers say of each entry.
//!
//! All entries go in one transaction, so that the order of a session's entries survives whatever
//! happens to it. Redis aborts it when it refuses one of them; then the others wait for the next
//! one, in which those that will never be taken are no more.

use redis::{Cmd, Value};

use crate::broker::Failure;
use crate::broker::redis::commands::{NOT_PERMITTED, WRONG_TYPE};
use crate::broker::redis::names::Names;
use crate::proto::stream::{Entry, Fate};

pub fn transaction(entries: &[Entry], names: &Names) -> Vec<Cmd> {
    let addition = |entry: &Entry| {
        let mut addition = redis::cmd("XADD");
        addition.arg(names.stream(&entry.configured, entry.partition));
        addition.arg("*");
        for (name, text) in &entry.fields {
            addition.arg(*name).arg(text);
        }
        addition
    };
    let mut commands = vec![redis::cmd("MULTI")];
    commands.extend(entries.iter().map(addition));
    commands.push(redis::cmd("EXEC"));
    commands
}

/// What became of each entry, of the answers to all commands of the transaction.
///
/// # Errors
/// `Unavailable`: none was taken, and none refused.
pub fn fates(mut answers: Vec<Result<Value, Failure>>) -> Result<Vec<Fate>, Failure> {
    let failure = match answers.pop() {
        Some(Ok(Value::Array(added))) if added.len() + 1 == answers.len() => {
            return Ok(added.iter().map(executed).collect());
        }
        Some(Err(failure)) => failure,
        _ => Failure::Unknown,
    };
    if failure == Failure::Unknown {
        return Err(failure);
    }
    let fates: Result<Vec<Fate>, Failure> = answers[1..].iter().map(not_executed).collect();
    let fates = fates?;
    match fates.iter().all(|&fate| fate == Fate::Left) {
        true => Err(failure),
        false => Ok(fates),
    }
}

/// Of an entry within a transaction that was executed. What is refused there is refused for what
/// the key holds, or for a right that was taken away just now.
fn executed(added: &Value) -> Fate {
    match added {
        Value::ServerError(_) => Fate::Refused,
        _ => Fate::Taken,
    }
}

/// Of an entry of a transaction that was not.
fn not_executed(answer: &Result<Value, Failure>) -> Result<Fate, Failure> {
    match answer {
        // Without the right to MULTI each was on its own.
        Ok(Value::BulkString(_)) => Ok(Fate::Taken),
        Err(NOT_PERMITTED | WRONG_TYPE) => Ok(Fate::Refused),
        Err(Failure::Unknown) => Err(Failure::Unknown),
        // It was queued; or refused for want of memory, of replicas, of a disk, which may return.
        Ok(_) | Err(Failure::Unavailable(_)) => Ok(Fate::Left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::stream::Fate::{Left, Refused, Taken};

    type Answer = Result<Value, Failure>;

    const OUT_OF_MEMORY: Answer = Err(Failure::Unavailable("Redis refused it"));
    const ABORTED: Answer = OUT_OF_MEMORY;
    const FORBIDDEN: Answer = Err(NOT_PERMITTED);
    const LOST: Answer = Err(Failure::Unknown);

    fn queued() -> Answer {
        Ok(Value::SimpleString("QUEUED".to_owned()))
    }

    fn added() -> Answer {
        Ok(Value::BulkString(b"1795330910125-0".to_vec()))
    }

    #[track_caller]
    fn check(multi: Answer, entries: &[Answer], exec: Answer, expected: Result<&[Fate], Failure>) {
        let mut answers = vec![multi];
        answers.extend_from_slice(entries);
        answers.push(exec);
        assert_eq!(fates(answers), expected.map(<[Fate]>::to_vec));
    }

    #[test]
    fn only_what_is_not_permitted_or_no_stream_is_refused_for_good() {
        let (ok, two) = (|| Ok(Value::Okay), [queued(), queued()]);
        let exec = |second: Value| Ok(Value::Array(vec![added().expect("a value"), second]));
        let wrong_type = redis::parse_redis_value(b"-WRONGTYPE no stream\r\n").expect("RESP");
        check(ok(), &two, exec(added().expect("a value")), Ok(&[Taken, Taken]));
        check(ok(), &two, exec(wrong_type), Ok(&[Taken, Refused]));
        check(ok(), &[queued(), FORBIDDEN], ABORTED, Ok(&[Left, Refused]));
        check(ok(), &[FORBIDDEN, OUT_OF_MEMORY, queued()], ABORTED, Ok(&[Refused, Left, Left]));
        check(ok(), &[FORBIDDEN, FORBIDDEN], ABORTED, Ok(&[Refused, Refused]));
        let aborted = Err(Failure::Unavailable("Redis refused it"));
        check(ok(), &[OUT_OF_MEMORY, queued()], ABORTED, aborted);
        check(ok(), &two, LOST, Err(Failure::Unknown));
        check(LOST, &[LOST, LOST], LOST, Err(Failure::Unknown));
        // Each on its own.
        check(FORBIDDEN, &[added(), OUT_OF_MEMORY], ABORTED, Ok(&[Taken, Left]));
        check(FORBIDDEN, &[FORBIDDEN, added()], FORBIDDEN, Ok(&[Refused, Taken]));
        check(FORBIDDEN, &[added(), LOST], ABORTED, Err(Failure::Unknown));
    }
}
