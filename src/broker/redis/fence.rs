//! The fence: what a pod may do only while nobody has claimed it, made one with the look for a claim.
//!
//! A pod can stand still between any two lines, and be taken for dead meanwhile. So what must not be
//! done then is a transaction that Redis itself gives up: the claim is watched, and touched if it is
//! there, which a watched key that is changed makes the transaction come to nothing. It costs two
//! small commands and no round trip, whatever is behind it.

use std::time::Duration;

use redis::{Cmd, Value};

use crate::broker::Failure;
use crate::broker::redis::names::Names;
use crate::proto::session_id::PodId;

/// How long a claim stays, from when its pod was last worked for: whoever is away longer need not look
/// for it to know.
pub const CLAIM_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The commands in front of the transaction.
const FENCE: usize = 2;

/// `transaction`: from `MULTI` to `EXEC`.
pub fn fenced(names: &Names, pod: PodId, transaction: Vec<Cmd>) -> Vec<Cmd> {
    let claim = names.claim(pod);
    let mut watch = redis::cmd("WATCH");
    watch.arg(&claim);
    let mut touch = redis::cmd("EXPIRE");
    touch.arg(&claim).arg(CLAIM_TTL.as_secs());
    [vec![watch, touch], transaction].concat()
}

/// From the answers to what `fenced` made: those to the transaction; `None` if this pod is claimed, and
/// nothing was done.
pub fn behind_fence(
    mut answers: Vec<Result<Value, Failure>>,
) -> Option<Vec<Result<Value, Failure>>> {
    let answers = answers.split_off(FENCE.min(answers.len()));
    match answers.last() {
        Some(Ok(Value::Nil)) => None,
        _ => Some(answers),
    }
}
