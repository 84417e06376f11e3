//! What this pod wants of its link: the channels that it has to hear, and the roster that it owes.
//!
//! All of it begins anew with each link, and none of it is taken care of while there is none.

use std::sync::Arc;
use std::time::Instant;

use crate::broker::redis::interest::Interest;
use crate::broker::redis::names::Names;
use crate::broker::redis::roster::Roster;
use crate::broker::redis::taps::Taps;
use crate::broker::redis::tenures::Keys;
use crate::proto::path::Path;

pub struct Wanted {
    pub interest: Arc<Interest<Path>>,
    pub taps: Arc<Taps>,
    pub tenures: Arc<Keys>,
    pub roster: Arc<Roster>,
}

impl Wanted {
    /// New connections: whatever stood on those before is to be asked for, and written, again.
    pub fn restart(&self) {
        self.interest.restart();
        self.taps.interest.restart();
        self.tenures.interest.restart();
        self.roster.restart();
    }

    /// What is wanted from now on will be taken care of.
    pub fn open(&self) {
        self.interest.open();
        self.taps.interest.open();
        self.tenures.interest.open();
        self.roster.open();
    }

    /// Nothing stands any more, and whoever waits for it is told so.
    pub fn close(&self) {
        self.interest.close();
        self.taps.interest.close();
        self.tenures.interest.close();
        self.roster.close();
    }

    /// Resolves when there may be a channel to ask for. Cancel-safe.
    pub async fn asked(&self) {
        tokio::select! {
            () = self.interest.asked() => {}
            () = self.taps.interest.asked() => {}
            () = self.tenures.interest.asked() => {}
        }
    }

    /// Gives up the channels that nobody has wanted for a while. They are to be unsubscribed before anything
    /// more is asked for.
    pub fn expired(&self, now: Instant, names: &Names) -> Vec<String> {
        let out = self.interest.expire(now).into_iter().map(|path| names.out(&path));
        let told = self.taps.interest.expire(now).into_iter().map(|path| names.events(&path));
        let up = self.tenures.interest.expire(now).into_iter().map(|name| names.up(&name));
        out.chain(told).chain(up).collect()
    }
}
