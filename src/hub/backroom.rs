//! The back room: a thread that deflates what would stop a shard's loop.
//!
//! A few milliseconds for a megabyte: neither the sequencer nor a shard may stand still for so long.
//! The rooms that need the frame wait for it, with all that is behind it; everybody else goes on.
//! Orders are bounded: when too many wait, a frame goes out as it is.

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;

use crate::hub::command::Command;
use crate::hub::mailbox::Mailbox;
use crate::hub::press::{Deflated, Press};

/// Orders that may wait. Those of the largest frames take a tenth of a second or two.
const ORDERS_MAX: usize = 8;

/// The rooms' side.
#[derive(Clone)]
pub struct Counter {
    orders: mpsc::SyncSender<Order>,
}

/// The thread's side.
pub struct Backroom {
    orders: mpsc::Receiver<Order>,
}

struct Order {
    plain: Bytes,
    deflated: Arc<Deflated>,
    wholemsg: bool,
}

pub fn backroom() -> (Counter, Backroom) {
    let (sender, receiver) = mpsc::sync_channel(ORDERS_MAX);
    (Counter { orders: sender }, Backroom { orders: receiver })
}

impl Counter {
    /// Has a broadcast deflated, once for all who ask. Afterwards it is settled, or every shard will
    /// be told when it is: so two who ask at the same instant may both order it, and nobody relies
    /// on an order that was not taken.
    pub fn order(&self, plain: &Bytes, deflated: &Arc<Deflated>, wholemsg: bool) {
        let form = deflated.form(wholemsg);
        if form.is_ordered() {
            return;
        }
        let order = Order { plain: plain.clone(), deflated: deflated.clone(), wholemsg };
        match self.orders.try_send(order) {
            Ok(()) => form.note_ordered(),
            // Too much waits there, or the pod ends.
            Err(_) => form.settle(plain.clone()),
        }
    }
}

impl Backroom {
    /// Works until nobody can order any more.
    pub fn run(self, mut press: Press, shards: &[Mailbox]) {
        for Order { plain, deflated, wholemsg } in self.orders {
            let form = deflated.form(wholemsg);
            if form.frame().is_none() {
                form.settle(press.deflate(&plain));
            }
            for shard in shards {
                // Without bytes, so it always fits.
                let _ = shard.push(Command::Pressed);
            }
        }
    }
}
