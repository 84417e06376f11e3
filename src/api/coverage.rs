//! How much of the gateway a listing covers: which pods did not answer, and what they hold.

use serde::Serialize;
use utoipa::ToSchema;

use crate::broker::Peer;
use crate::proto::grant::Grant;

#[derive(Debug, Serialize, ToSchema)]
pub struct Coverage {
    /// Whether every pod answered.
    complete: bool,
    /// The pods that did not.
    missing: Vec<String>,
    /// How many sessions those had, on whatever path, when they were last heard of. Null for a key
    /// that may not touch every path, and where nobody knows.
    #[schema(required = true)]
    missing_sessions: Option<u64>,
}

impl Coverage {
    /// As far as whoever has this grant may know it.
    pub fn new(missing: &[Peer], grant: &Grant) -> Coverage {
        let sessions = missing.iter().map(|peer| peer.sessions).sum();
        Coverage {
            complete: missing.is_empty(),
            missing: missing.iter().map(|peer| peer.pod.to_string()).collect(),
            missing_sessions: if *grant == Grant::All { sessions } else { None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session_id::PodId;

    #[test]
    fn what_is_missing_is_told_to_whom_it_concerns() {
        let peer = |sessions| Peer { pod: PodId([0; 8]), sessions };
        let globs = Grant::Globs([].into());
        let sessions = |missing: &[Peer], grant| Coverage::new(missing, grant).missing_sessions;
        assert_eq!(sessions(&[], &Grant::All), Some(0));
        assert_eq!(sessions(&[peer(Some(2)), peer(Some(3))], &Grant::All), Some(5));
        assert_eq!(sessions(&[peer(Some(2)), peer(None)], &Grant::All), None);
        assert_eq!(sessions(&[peer(Some(2))], &globs), None);
        let coverage = Coverage::new(&[peer(None)], &globs);
        assert_eq!((coverage.complete, &*coverage.missing), (false, &["aaaaaaaaaaaaa".into()][..]));
    }
}
