//! Who holds which upstream: the part of a broker that keeps each in one pod's hands.

use std::sync::Arc;

use crate::broker::Pending;
use crate::proto::tenure::Tenure;

/// How an upstream is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grip {
    /// Higher than that of every holder before.
    pub epoch: u64,
    /// Whether it has to be renewed; where there are no other pods, nobody else can take it.
    pub expires: bool,
}

/// Upstreams by name, held by at most one pod each.
///
/// Order: what one pod asks is done in the order of its calls. A grip counts from the moment
/// *before* `seize` or `renew` was called, for [`HELD_FOR`](crate::proto::tenure::HELD_FOR).
///
/// Failure: nothing is known of a call that failed, except that a later one may succeed. Whoever
/// seized without learning it finds the upstream held by himself, which expires.
pub trait Tenures: Send + Sync {
    fn look(&self, name: &str) -> Pending<Tenure>;

    /// Takes what nobody holds. `None`: somebody does. To be asked only when
    /// [`Taker`](crate::proto::tenure::Taker) says so; `above`: the highest epoch that it saw.
    fn seize(&self, name: &str, above: u64) -> Pending<Option<Grip>>;

    /// Whether it is still held by this pod, and will be for another term.
    fn renew(&self, name: &str) -> Pending<bool>;

    /// Gives it back: whoever looks may take it at once. Only while it is held.
    fn release(&self, name: &str, grip: Grip) -> Pending<()>;

    /// From now on what is published for it reaches [`Receiver::upstream`](crate::broker::Receiver::upstream).
    fn hear(&self, name: &Arc<str>) -> Pending<()>;

    /// One call for each of `hear`.
    fn unhear(&self, name: &Arc<str>);
}
