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
    /// Has a broadcast deflated, once for all who ask. It is settled now, or every shard is told
    /// when it is.
    pub fn order(&self, plain: &Bytes, deflated: &Arc<Deflated>, wholemsg: bool) {
        if !deflated.form(wholemsg).order() {
            return;
        }
        let order = Order { plain: plain.clone(), deflated: deflated.clone(), wholemsg };
        if let Err(mpsc::TrySendError::Full(order) | mpsc::TrySendError::Disconnected(order)) =
            self.orders.try_send(order)
        {
            order.deflated.form(wholemsg).settle(order.plain);
        }
    }
}

impl Backroom {
    /// Works until nobody can order any more.
    pub fn run(self, mut press: Press, shards: &[Mailbox]) {
        for Order { plain, deflated, wholemsg } in self.orders {
            deflated.form(wholemsg).settle(press.deflate(&plain));
            for shard in shards {
                // Without bytes, so it always fits.
                let _ = shard.push(Command::Pressed);
            }
        }
    }
}
