//! Which channels this pod has to hear: concrete paths, counted by session, and configured paths
//! that others tell of, counted by listener.
//!
//! A channel is called a path here, and who wants it a session, whichever it is. It is asked for
//! when its first session comes and given up some seconds after its last one went, since clients
//! that reconnect come back to where they were. What has been asked for is believed only when Redis
//! has answered.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::broker::Failure;

/// How long a path without sessions stays subscribed.
pub const LINGER: Duration = Duration::from_secs(10);

pub struct Interest<P> {
    wants: Mutex<Wants<P>>,
    /// A path is to be asked for.
    asked: Notify,
}

struct Wants<P> {
    /// Whether somebody takes care of what is asked for.
    is_up: bool,
    paths: HashMap<P, Want>,
    /// Not asked for yet, in the order of their coming. May name paths that have gone since.
    unasked: VecDeque<P>,
    /// Of all paths.
    sessions: u64,
}

struct Want {
    sessions: u64,
    idle_since: Option<Instant>,
    standing: Standing,
    /// Whether it has ever been confirmed: only then can somebody have been let in on it.
    was_confirmed: bool,
}

enum Standing {
    /// Who waits for it.
    Asked(Vec<oneshot::Sender<Result<(), Failure>>>),
    Confirmed,
    /// Redis does not allow it; asked for again when somebody comes who wants it.
    Refused,
}

const AWAY: Failure = Failure::Unavailable("Redis is away");
const REFUSED: Failure = Failure::Unavailable("Redis refuses that path");

impl<P> Wants<P> {
    /// Whatever was confirmed, or is waited for, was so on a connection that is no more.
    fn forget(&mut self) {
        for want in self.paths.values_mut() {
            want.standing = Standing::Asked(Vec::new());
        }
    }
}

impl<P> Default for Interest<P> {
    fn default() -> Interest<P> {
        let (paths, unasked) = (HashMap::new(), VecDeque::new());
        let wants = Wants { is_up: false, paths, unasked, sessions: 0 };
        Interest { wants: Mutex::new(wants), asked: Notify::new() }
    }
}

impl<P: Clone + Eq + Hash> Interest<P> {
    /// One more session on the path. The future resolves when Redis has confirmed it; its place is
    /// taken at once.
    pub fn arrive(&self, path: &P) -> impl Future<Output = Result<(), Failure>> + Send + use<P> {
        let begun = self.begin(path);
        async move {
            match begun? {
                None => Ok(()),
                Some(answer) => answer.await.unwrap_or(Err(AWAY)),
            }
        }
    }

    /// `None`: it is confirmed already.
    fn begin(&self, path: &P) -> Result<Option<oneshot::Receiver<Result<(), Failure>>>, Failure> {
        let mut wants = self.wants();
        let Wants { is_up, paths, unasked, sessions } = &mut *wants;
        *sessions += 1;
        let want = paths.entry(path.clone()).or_insert_with(|| {
            unasked.push_back(path.clone());
            self.asked.notify_one();
            let standing = Standing::Asked(Vec::new());
            Want { sessions: 0, idle_since: None, standing, was_confirmed: false }
        });
        want.sessions += 1;
        want.idle_since = None;
        if !*is_up {
            return Err(AWAY);
        }
        if let Standing::Refused = want.standing {
            want.standing = Standing::Asked(Vec::new());
            unasked.push_back(path.clone());
            self.asked.notify_one();
        }
        match &mut want.standing {
            Standing::Confirmed | Standing::Refused => Ok(None),
            Standing::Asked(waiting) => {
                let (reply, answer) = oneshot::channel();
                waiting.push(reply);
                Ok(Some(answer))
            }
        }
    }

    /// One session less: once for each `arrive`.
    pub fn depart(&self, path: &P, now: Instant) {
        let mut wants = self.wants();
        wants.sessions = wants.sessions.saturating_sub(1);
        if let Some(want) = wants.paths.get_mut(path) {
            want.sessions = want.sessions.saturating_sub(1);
            if want.sessions == 0 {
                want.idle_since = Some(now);
            }
        }
    }

    /// The next paths to ask for, at most `limit`.
    pub fn next(&self, limit: usize) -> Vec<P> {
        let mut wants = self.wants();
        let Wants { paths, unasked, .. } = &mut *wants;
        let mut next = Vec::new();
        while next.len() < limit {
            let Some(path) = unasked.pop_front() else { break };
            let want = paths.get(&path);
            if want.is_some_and(|want| matches!(want.standing, Standing::Asked(_))) {
                next.push(path);
            }
        }
        next
    }

    /// Redis has confirmed these.
    pub fn confirm(&self, paths: &[P]) {
        for path in paths {
            self.settle(path, Standing::Confirmed, Ok(()));
        }
    }

    /// Redis does not allow this one: only those who wait for it are told.
    pub fn refuse(&self, path: &P) {
        self.settle(path, Standing::Refused, Err(REFUSED));
    }

    /// Whether somebody may be there who relies on hearing it.
    pub fn is_relied_on(&self, path: &P) -> bool {
        self.wants().paths.get(path).is_some_and(|want| want.was_confirmed)
    }

    fn settle(&self, path: &P, standing: Standing, answer: Result<(), Failure>) {
        let mut wants = self.wants();
        let Some(want) = wants.paths.get_mut(path) else { return };
        want.was_confirmed |= matches!(standing, Standing::Confirmed);
        let asked = std::mem::replace(&mut want.standing, standing);
        if let Standing::Asked(waiting) = asked {
            for reply in waiting {
                // A client may have gone meanwhile.
                let _ = reply.send(answer);
            }
        }
    }

    /// Gives up confirmed paths that nobody has wanted for [`LINGER`]. They are to be unsubscribed
    /// before anything more is asked for. Refused ones go as soon as nobody wants them.
    pub fn expire(&self, now: Instant) -> Vec<P> {
        let mut wants = self.wants();
        wants
            .paths
            .retain(|_, want| !matches!(want.standing, Standing::Refused) || want.sessions > 0);
        let has_expired = |_: &P, want: &mut Want| {
            matches!(want.standing, Standing::Confirmed)
                && want.idle_since.is_some_and(|since| now.duration_since(since) >= LINGER)
        };
        let expired = wants.paths.extract_if(has_expired).map(|(path, _)| path).collect();
        let Wants { paths, unasked, .. } = &mut *wants;
        // After a storm its memory goes too.
        paths.shrink_to(2 * paths.len());
        unasked.shrink_to(2 * unasked.len());
        expired
    }

    /// Resolves when there may be something to ask for.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// A connection without subscriptions: everything that is still wanted is to be asked for.
    pub fn restart(&self) {
        let mut wants = self.wants();
        wants.paths.retain(|_, want| want.sessions > 0);
        wants.forget();
        wants.unasked = wants.paths.keys().cloned().collect();
    }

    /// What is asked for from now on will be taken care of.
    pub fn open(&self) {
        self.wants().is_up = true;
    }

    /// No subscription stands any more. Whoever waits is told so.
    pub fn close(&self) {
        let mut wants = self.wants();
        wants.is_up = false;
        wants.forget();
    }

    /// What somebody wants now.
    pub fn wanted(&self) -> Vec<P> {
        let wants = self.wants();
        let wanted = wants.paths.iter().filter(|(_, want)| want.sessions > 0);
        wanted.map(|(path, _)| path.clone()).collect()
    }

    /// Sessions and concrete paths.
    pub fn counts(&self) -> (u64, usize) {
        let wants = self.wants();
        (wants.sessions, wants.paths.len())
    }

    fn wants(&self) -> MutexGuard<'_, Wants<P>> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::path::Path;
    use futures_util::FutureExt;

    fn path(text: &str) -> Path {
        Path::parse(text).expect("a good path")
    }

    #[test]
    fn a_path_is_asked_for_once_and_believed_when_confirmed() {
        let (interest, ws) = (Interest::default(), path("/ws"));
        interest.open();
        let mut first = Box::pin(interest.arrive(&ws));
        let second = interest.arrive(&ws);
        assert_eq!(first.as_mut().now_or_never(), None);
        assert_eq!(interest.next(10), std::slice::from_ref(&ws));
        assert!(interest.next(10).is_empty());
        interest.confirm(std::slice::from_ref(&ws));
        assert_eq!(first.now_or_never(), Some(Ok(())));
        assert_eq!(second.now_or_never(), Some(Ok(())));
        assert_eq!(interest.arrive(&ws).now_or_never(), Some(Ok(())));
        assert_eq!(interest.counts(), (3, 1));
    }

    #[test]
    fn a_path_lingers_and_a_session_that_comes_back_keeps_it() {
        let (interest, ws, start) = (Interest::default(), path("/ws"), Instant::now());
        interest.open();
        drop(interest.arrive(&ws));
        interest.confirm(&interest.next(1));
        interest.depart(&ws, start);
        assert!(interest.expire(start + LINGER / 2).is_empty());
        drop(interest.arrive(&ws));
        assert!(interest.expire(start + 2 * LINGER).is_empty());
        interest.depart(&ws, start + 2 * LINGER);
        assert_eq!(interest.expire(start + 3 * LINGER), std::slice::from_ref(&ws));
        assert_eq!(interest.counts(), (0, 0));
        // It is new again.
        drop(interest.arrive(&ws));
        assert_eq!(interest.next(10), [ws]);
    }

    #[test]
    fn a_refused_path_fails_those_who_wait_and_is_asked_for_again_by_the_next() {
        let (interest, ws, other) = (Interest::default(), path("/ws"), path("/other"));
        interest.open();
        let (first, kept) = (interest.arrive(&ws), interest.arrive(&other));
        interest.next(10);
        interest.refuse(&ws);
        interest.confirm(std::slice::from_ref(&other));
        assert_eq!(first.now_or_never(), Some(Err(REFUSED)));
        assert_eq!(kept.now_or_never(), Some(Ok(())));
        // The first one's departure comes after the second one's arrival, and takes nothing away.
        let second = interest.arrive(&ws);
        interest.depart(&ws, Instant::now());
        assert_eq!(interest.next(10), std::slice::from_ref(&ws));
        interest.confirm(std::slice::from_ref(&ws));
        assert_eq!(second.now_or_never(), Some(Ok(())));
        assert!(interest.expire(Instant::now() + LINGER).is_empty());
        assert_eq!(interest.counts(), (2, 2));
    }

    #[test]
    fn a_refused_path_that_nobody_wants_is_forgotten() {
        let (interest, ws) = (Interest::default(), path("/ws"));
        interest.open();
        drop(interest.arrive(&ws));
        interest.refuse(&interest.next(1)[0]);
        assert!(interest.expire(Instant::now()).is_empty());
        assert_eq!(interest.counts(), (1, 1));
        interest.depart(&ws, Instant::now());
        // There is nothing to unsubscribe from.
        assert!(interest.expire(Instant::now()).is_empty());
        assert_eq!(interest.counts(), (0, 0));
    }

    #[test]
    fn without_a_link_nobody_waits_and_what_is_wanted_is_asked_for_again() {
        let (interest, here, gone) = (Interest::default(), path("/here"), path("/gone"));
        let away = Err(AWAY);
        assert_eq!(interest.arrive(&here).now_or_never(), Some(away));
        interest.open();
        let waiting = interest.arrive(&here);
        drop(interest.arrive(&gone));
        assert!(!interest.is_relied_on(&gone));
        interest.confirm(std::slice::from_ref(&gone));
        assert!(interest.is_relied_on(&gone));
        interest.close();
        assert_eq!(waiting.now_or_never(), Some(away));
        assert_eq!(interest.arrive(&gone).now_or_never(), Some(away));
        interest.depart(&gone, Instant::now());
        interest.depart(&gone, Instant::now());
        interest.restart();
        assert_eq!(interest.next(10), std::slice::from_ref(&here));
        interest.confirm(std::slice::from_ref(&here));
        interest.open();
        assert_eq!(interest.arrive(&here).now_or_never(), Some(Ok(())));
    }

    #[test]
    fn what_was_confirmed_on_a_connection_that_never_came_up_is_asked_for_again() {
        let (interest, ws) = (Interest::default(), path("/ws"));
        drop(interest.arrive(&ws));
        for _attempt in 0..2 {
            interest.restart();
            assert_eq!(interest.next(10), std::slice::from_ref(&ws));
            interest.confirm(std::slice::from_ref(&ws));
        }
    }
}
