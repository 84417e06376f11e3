//! Claims: which dead pod's ends this one tells.
//!
//! A pod is dead by the same proof as for a verdict: there is no lease of it, and this pod would have
//! seen it renewed. One script looks for the lease once more and takes the claim, and no lease is taken
//! past a claim ([`fence`](crate::broker::redis::fence)); so of a pod that comes back and one that claims
//! it only one succeeds. A claim holds as long as its owner's lease; another survivor goes on after that.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use crate::broker::redis::fence::CLAIM_TTL;
use crate::broker::redis::inbox::Inbox;
use crate::broker::{Failure, Orphans};
use crate::clock::BootTime;
use crate::proto::roster::Member;
use crate::proto::session_id::{PodId, SessionId};

/// About so many entries of a roster are read at once.
const READ_COUNT: usize = 500;

/// What became of an attempt; a pod that owes nothing is forgotten, and leaves no claim.
const SCRIPT: &str = "
local lease, roster, claim, pods = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local own, pod, ttl, leases = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('EXISTS', lease) == 1 then return 0 end
if redis.call('EXISTS', roster) == 0 then
  redis.call('SREM', pods, pod)
  return 0
end
local owner = redis.call('GET', claim)
if owner and owner ~= own and redis.call('EXISTS', leases .. owner) == 1 then return 0 end
redis.call('SET', claim, own, 'EX', ttl)
return 1
";

/// A session's id and its entry, as they stand in a roster.
type Written = (String, Vec<u8>);

pub struct Claims {
    inbox: Arc<Inbox>,
    lease_ttl: Duration,
}

impl Claims {
    pub fn new(inbox: Arc<Inbox>, lease_ttl: Duration) -> Claims {
        Claims { inbox, lease_ttl }
    }

    /// The dead pods that owe ends and are claimed by this one.
    pub async fn claim(&self) -> Result<Vec<PodId>, Failure> {
        let Inbox { names, commands, pod: own, .. } = &*self.inbox;
        let mut claimed = Vec::new();
        if !self.would_know() {
            return Ok(claimed);
        }
        let known = commands.send_vital(Cmd::smembers(names.pods())).await?;
        let known: Vec<String> = redis::from_redis_value(known).unwrap_or_default();
        let known = known.iter().filter_map(|text| PodId::parse(text));
        let look = |pod| (pod, commands.send_vital(Cmd::exists(names.lease(pod))));
        // Asked together, answered in order.
        let leases: Vec<_> = known.filter(|pod| pod != own).map(look).collect();
        for (pod, leased) in leases {
            if leased.await? == Value::Int(0)
                && self.would_know()
                && commands.send_vital(self.attempt(pod)).await? == Value::Int(1)
            {
                claimed.push(pod);
            }
        }
        Ok(claimed)
    }

    /// Some entries of a claimed pod's roster.
    pub async fn orphans(&self, pod: PodId, cursor: u64) -> Result<Orphans, Failure> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(self.inbox.names.roster(pod)).arg(cursor).arg("COUNT").arg(READ_COUNT);
        let scanned = self.inbox.commands.send(scan).await?;
        let (next, entries): (u64, Vec<Written>) =
            redis::from_redis_value(scanned).map_err(|_| Failure::Unknown)?;
        let (mut members, mut strange) = (Vec::new(), Vec::new());
        for (text, entry) in entries {
            let id = SessionId::parse(&text).filter(|id| id.pod == pod);
            match id.zip(Member::parse(&entry)) {
                Some(member) => members.push(member),
                None => strange.push(text),
            }
        }
        if !strange.is_empty() {
            tracing::error!(%pod, "dropped {} entries of its roster that are none", strange.len());
            self.inbox.commands.send(Cmd::hdel(self.inbox.names.roster(pod), strange)).await?;
        }
        Ok(Orphans { members, next: (next != 0).then_some(next) })
    }

    fn attempt(&self, pod: PodId) -> Cmd {
        let Inbox { names, pod: own, .. } = &*self.inbox;
        let mut attempt = redis::cmd("EVAL");
        attempt.arg(SCRIPT).arg(4);
        attempt.arg(names.lease(pod)).arg(names.roster(pod)).arg(names.claim(pod));
        attempt.arg(names.pods());
        attempt.arg(own.text()).arg(pod.text()).arg(CLAIM_TTL.as_secs()).arg(names.leases());
        attempt
    }

    /// Whether this pod would have seen a lease that was renewed.
    fn would_know(&self) -> bool {
        self.inbox.lease.is_renewed(BootTime::now()) && self.inbox.has_heard_for(self.lease_ttl)
    }
}
