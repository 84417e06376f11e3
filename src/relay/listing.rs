//! Listing what all pods hold: sessions, page by page, and paths.
//!
//! Every pod alive is asked; one that does not answer is told to be missing. One that has left
//! meanwhile is not: nothing of it is there any more.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesOrdered;

use crate::broker::{Letter, Peer};
use crate::proto::ask::{Answer, Ask, PathCount, SessionInfo};
use crate::proto::grant::Grant;
use crate::proto::session_id::{PodId, SessionId};
use crate::relay::{Refusal, Relay};

/// How long a listing waits for one pod before it asks the next one as well: a pod that lives answers
/// sooner.
const PATIENCE: Duration = Duration::from_millis(100);

/// Pods that a listing asks ahead, so that a few dead ones cost one timeout together, and what they
/// all answer stays bounded.
const AHEAD_MAX: usize = 16;

/// Which sessions to list.
#[derive(Debug, Clone)]
pub struct Query {
    /// Of a concrete path, or a configured path's text.
    pub path: Option<String>,
    /// Where the page before ended.
    pub after: Option<SessionId>,
    /// At least 1.
    pub limit: usize,
    pub grant: Grant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub sessions: Vec<SessionInfo>,
    /// Where the next page goes on; `None` after the last.
    pub cursor: Option<SessionId>,
    /// Pods that did not answer, in the order of their ids.
    pub missing: Vec<Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    pub paths: Vec<PathCount>,
    /// Pods that did not answer, in the order of their ids.
    pub missing: Vec<Peer>,
}

impl Relay {
    /// Sessions in the order of their ids, so that one that is open during a whole walk appears in
    /// it exactly once.
    pub async fn list(&self, query: Query) -> Result<Page, Refusal> {
        let peers = self.broker.pods().await?;
        Ok(page(peers, &query, |pod, ask| self.ask(Letter::new(pod, ask))).await)
    }

    /// Live concrete paths of all pods, ordered by path.
    pub async fn census(&self) -> Result<Census, Refusal> {
        let peers = self.broker.pods().await?;
        Ok(census(peers, |pod, ask| self.ask(Letter::new(pod, ask))).await)
    }
}

async fn page<F: Future<Output = Result<Answer, Refusal>>>(
    mut peers: Vec<Peer>,
    query: &Query,
    ask: impl Fn(PodId, Ask) -> F,
) -> Page {
    let mut page = Page { sessions: Vec::new(), cursor: None, missing: Vec::new() };
    peers.retain(|peer| query.after.is_none_or(|after| peer.pod >= after.pod));
    peers.sort_unstable_by_key(|peer| peer.pod);
    let mut peers = peers.into_iter();
    let list = |peer: Peer, limit| {
        let after = query.after.filter(|after| after.pod == peer.pod);
        let sessions = list(peer.pod, Query { after, limit, ..query.clone() }, &ask);
        async move { (peer, sessions.await) }
    };
    let mut asked = FuturesOrdered::new();
    loop {
        let left = query.limit - page.sessions.len();
        if left == 0 {
            page.cursor = page.sessions.last().map(|info| info.id);
            return page;
        }
        if asked.is_empty() {
            let Some(peer) = peers.next() else { return page };
            asked.push_back(list(peer, left));
        }
        let may_ask = peers.len() > 0 && asked.len() < AHEAD_MAX;
        tokio::select! {
            Some((peer, sessions)) = asked.next() => match sessions {
                Ok(sessions) => page.sessions.extend(sessions.into_iter().take(left)),
                Err(Refusal::Gone) => {}
                Err(_) => page.missing.push(peer),
            },
            () = tokio::time::sleep(PATIENCE), if may_ask => {
                if let Some(peer) = peers.next() {
                    asked.push_back(list(peer, left));
                }
            }
        }
    }
}

/// The first sessions of one pod, at most `limit`; of another build's too many.
async fn list<F: Future<Output = Result<Answer, Refusal>>>(
    pod: PodId,
    query: Query,
    ask: &impl Fn(PodId, Ask) -> F,
) -> Result<Vec<SessionInfo>, Refusal> {
    let Query { path, mut after, limit, grant } = query;
    let mut found = Vec::new();
    loop {
        let left = limit - found.len();
        let part = Ask::List { filter: path.clone(), after, limit: left, grant: grant.clone() };
        let (sessions, next) = match ask(pod, part).await? {
            Answer::Sessions { sessions, after } => (sessions, after),
            answer => return Err(answer.into()),
        };
        // It says that there is more, and does not give it.
        if sessions.is_empty() && next.is_some() {
            return Err(Refusal::Unknown);
        }
        found.extend(sessions);
        if next.is_none() || found.len() >= limit {
            return Ok(found);
        }
        after = next;
    }
}

async fn census<F: Future<Output = Result<Answer, Refusal>>>(
    peers: Vec<Peer>,
    ask: impl Fn(PodId, Ask) -> F,
) -> Census {
    let asked = peers.into_iter().map(|peer| {
        let answer = ask(peer.pod, Ask::Census);
        async move { (peer, answer.await) }
    });
    let mut census = Census { paths: Vec::new(), missing: Vec::new() };
    for (peer, answer) in join_all(asked).await {
        match answer {
            Ok(Answer::Census(counts)) => census.paths.extend(counts),
            Ok(Answer::Gone) => {}
            Ok(_) | Err(_) => census.missing.push(peer),
        }
    }
    census.paths.sort_by(|one, two| one.path.cmp(&two.path));
    census.paths.dedup_by(|again, first| {
        let is_same = again.path == first.path;
        first.sessions += if is_same { again.sessions } else { 0 };
        is_same
    });
    census.missing.sort_unstable_by_key(|peer| peer.pod);
    census
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::path::Path;
    use std::cell::RefCell;
    use std::collections::VecDeque;

    fn id(pod: u8, number: u8) -> SessionId {
        SessionId { pod: PodId([pod; 8]), random: [number; 16], ..SessionId::MIN }
    }

    fn info(id: SessionId) -> SessionInfo {
        let path = Path::parse("/ws").expect("a path");
        SessionInfo { id, path, opened_ms: 0, remote: None, subprotocol: None }
    }

    /// A part of a listing: so many sessions from that number on, and whether there is more.
    fn part(pod: u8, from: u8, count: u8, has_more: bool) -> Result<Answer, Refusal> {
        let sessions: Vec<_> = (from..from + count).map(|number| info(id(pod, number))).collect();
        let after = has_more.then(|| sessions.last().map_or(SessionId::MIN, |info| info.id));
        Ok(Answer::Sessions { sessions, after })
    }

    fn peers(pods: &[u8]) -> Vec<Peer> {
        pods.iter().map(|&pod| Peer { pod: PodId([pod; 8]), sessions: None }).collect()
    }

    /// Lists what pods 1 and 2 answer, one after the other: who was found, whether there is more,
    /// and how many are missing.
    #[track_caller]
    fn check(
        limit: usize,
        answers: impl IntoIterator<Item = Result<Answer, Refusal>>,
        expected: (&[(u8, u8)], bool, usize),
    ) {
        let answers: RefCell<VecDeque<_>> = RefCell::new(answers.into_iter().collect());
        let limits = RefCell::new(Vec::new());
        let query = Query { path: None, after: None, limit, grant: Grant::All };
        let ask = |_, ask| {
            let Ask::List { limit, .. } = ask else { panic!("{ask:?}") };
            limits.borrow_mut().push(limit);
            std::future::ready(answers.borrow_mut().pop_front().expect("no more is asked"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let page = runtime.expect("a runtime").block_on(page(peers(&[2, 1]), &query, ask));
        let found: Vec<_> = page.sessions.iter().map(|info| info.id).collect();
        let (ids, has_more, missing) = expected;
        assert_eq!(found, ids.iter().map(|&(pod, number)| id(pod, number)).collect::<Vec<_>>());
        assert_eq!((page.cursor.is_some(), page.missing.len()), (has_more, missing));
        assert!(limits.borrow().iter().all(|asked| (1..=limit).contains(asked)), "{limits:?}");
        assert!(answers.borrow().is_empty(), "all was asked");
    }

    #[test]
    fn a_page_is_filled_from_pod_after_pod_and_part_after_part() {
        let all = [(1, 0), (1, 1), (1, 2), (2, 0)];
        let first = [part(1, 0, 2, true), part(1, 2, 1, false)];
        check(9, first.clone().into_iter().chain([part(2, 0, 1, false)]), (&all, false, 0));
        check(4, first.clone().into_iter().chain([part(2, 0, 1, true)]), (&all, true, 0));
        check(3, first, (&all[..3], true, 0));
        check(2, [part(1, 0, 2, true)], (&all[..2], true, 0));
        // More than was asked for.
        check(2, [part(1, 0, 3, true)], (&all[..2], true, 0));
    }

    #[test]
    fn a_pod_that_has_left_is_not_missing_and_one_that_makes_no_sense_is() {
        let second = || part(2, 0, 1, false);
        check(9, [Ok(Answer::Gone), second()], (&[(2, 0)], false, 0));
        check(9, [Err(Refusal::Unknown), second()], (&[(2, 0)], false, 1));
        check(9, [Ok(Answer::Nothing), second()], (&[(2, 0)], false, 1));
        check(9, [part(1, 0, 0, true), second()], (&[(2, 0)], false, 1));
    }

    #[tokio::test]
    async fn paths_of_a_pod_that_has_left_are_not_missing() {
        let ask = |pod: PodId, _| {
            std::future::ready(match pod.0[0] {
                1 => Ok(Answer::Gone),
                2 => Ok(Answer::Census(Vec::new())),
                _ => Err(Refusal::Unknown),
            })
        };
        let census = census(peers(&[1, 2, 3]), ask).await;
        assert_eq!(census.missing, peers(&[3]));
    }
}
