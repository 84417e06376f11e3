//! A closed loop's window: messages that are on their way, and how many clients have each of them.

/// Messages are told apart by their number; those on their way are the latest ones, in a ring.
#[derive(Debug)]
pub struct Window {
    clients: u32,
    /// By number, modulo the length, which is the most that may be on their way.
    arrived: Vec<u32>,
    begun: u64,
    done: u64,
}

impl Window {
    /// At most `size` messages, at least one, on their way to `clients`.
    pub fn new(size: usize, clients: u32) -> Window {
        Window { clients, arrived: vec![0; size.max(1)], begun: 0, done: 0 }
    }

    /// The number of the next message, if it may be sent now.
    pub fn begin(&mut self) -> Option<u64> {
        if self.begun - self.done == self.arrived.len() as u64 {
            return None;
        }
        self.begun += 1;
        Some(self.begun - 1)
    }

    /// One more client has message `seq`. On one path messages are done in order; where there are
    /// several, one that overtook others is counted when these are done.
    #[inline]
    pub fn arrived(&mut self, seq: u64) {
        let at = seq as usize % self.arrived.len();
        self.arrived[at] += 1;
        if self.arrived[at] == self.clients {
            self.advance();
        }
    }

    fn advance(&mut self) {
        let size = self.arrived.len();
        while self.done < self.begun && self.arrived[self.done as usize % size] == self.clients {
            self.arrived[self.done as usize % size] = 0;
            self.done += 1;
        }
    }

    /// Messages that every client has.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Messages that not every client has yet.
    pub fn open(&self) -> u64 {
        self.begun - self.done
    }

    pub fn is_empty(&self) -> bool {
        self.begun == self.done
    }
}
