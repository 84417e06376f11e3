//! A crowd's path, kept busy: by a closed loop, as many messages on their way as the window allows,
//! all the time; or by one message at a time at an even pace.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::cli::load::clock::Clock;
use crate::cli::load::crowd::Crowd;
use crate::cli::load::latency::Latency;
use crate::cli::load::stamp::{STAMP_BYTES, Stamp};
use crate::cli::load::window::Window;

/// How long no message may get through before a run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest sleep of a paced run, so that answers are taken too.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// The way in for messages: one connection, FIFO, that needs not wait for its answers.
pub trait Outlet {
    /// Sends a binary message to the path, and leaves the answer for later.
    fn begin(&mut self, message: &[u8]) -> anyhow::Result<()>;

    /// Takes the answers that are there; a refusal is an error.
    fn settle(&mut self) -> anyhow::Result<()>;
}

/// One path's load. Several runs may follow each other.
pub struct Run {
    outlet: Box<dyn Outlet>,
    window: Window,
    clock: Clock,
    message: Vec<u8>,
}

impl Run {
    /// For a crowd that is complete, and has heard nothing yet: messages of `bytes`, at most
    /// `window` on their way, to the crowd's paths in turn, as the outlet does it.
    pub fn new(
        outlet: Box<dyn Outlet>,
        crowd: &Crowd,
        window: usize,
        bytes: usize,
    ) -> anyhow::Result<Run> {
        let window = Window::new(window, u32::try_from(crowd.count() / crowd.paths)?);
        let message = vec![b'x'; bytes.max(STAMP_BYTES)];
        Ok(Run { outlet, window, clock: Clock::start(), message })
    }

    /// What messages say behind their stamps, as far as they reach.
    pub fn fill(&mut self, text: impl Iterator<Item = u8>) {
        for (place, byte) in self.message[STAMP_BYTES..].iter_mut().zip(text) {
            *place = byte;
        }
    }

    /// Messages that every client has.
    pub fn done(&self) -> u64 {
        self.window.done()
    }

    /// Keeps the window full for `span`. The load looks only every `poll` what has come: between two
    /// looks it costs nothing, and what comes meanwhile is read at once.
    pub fn saturate(
        &mut self,
        crowd: &mut Crowd,
        span: Duration,
        poll: Duration,
        latency: &mut Latency,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + span;
        let (mut done, mut since) = (self.done(), Instant::now());
        while Instant::now() < until {
            while self.publish()? {}
            sleep(poll);
            self.hear(crowd, Duration::ZERO, latency)?;
            if self.done() != done {
                (done, since) = (self.done(), Instant::now());
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "no message got through for {PATIENCE:?}: {:?}",
                crowd.tally
            );
        }
        Ok(())
    }

    /// Publishes `count` messages, one every `interval`, and waits until everybody has them.
    pub fn pace(
        &mut self,
        crowd: &mut Crowd,
        interval: Duration,
        count: u64,
        latency: &mut Latency,
    ) -> anyhow::Result<()> {
        let (mut due, mut begun) = (Instant::now(), 0);
        while begun < count {
            if Instant::now() >= due {
                // Behind its pace the window still bounds what is on its way.
                if self.publish()? {
                    begun += 1;
                    due += interval;
                } else {
                    self.drain(crowd, latency)?;
                }
            }
            let wait = due.saturating_duration_since(Instant::now()).min(WAIT_MAX);
            self.hear(crowd, wait, latency)?;
        }
        self.drain(crowd, latency)
    }

    /// Waits until everybody has everything.
    pub fn drain(&mut self, crowd: &mut Crowd, latency: &mut Latency) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.window.is_empty() {
            ensure!(
                Instant::now() < until,
                "{} messages did not get through: {:?}",
                self.window.open(),
                crowd.tally
            );
            self.hear(crowd, WAIT_MAX, latency)?;
        }
        Ok(())
    }

    /// Whether the window let one more message out.
    fn publish(&mut self) -> anyhow::Result<bool> {
        let Some(seq) = self.window.begin() else { return Ok(false) };
        Stamp { seq, sent_ns: self.clock.now_ns() }.put(&mut self.message);
        self.outlet.begin(&self.message)?;
        Ok(true)
    }

    /// Takes what has come: how long each frame took, from the request on; and the answers.
    fn hear(
        &mut self,
        crowd: &mut Crowd,
        wait: Duration,
        latency: &mut Latency,
    ) -> anyhow::Result<()> {
        let (window, clock) = (&mut self.window, self.clock);
        // One look at the clock for a batch: what is read together has come together.
        let mut now_ns = None;
        crowd.turn(wait, |stamp| {
            window.arrived(stamp.seq);
            let now_ns = *now_ns.get_or_insert_with(|| clock.now_ns());
            latency.record(now_ns.saturating_sub(stamp.sent_ns));
        })?;
        crowd.check()?;
        self.outlet.settle().context("publishing")
    }
}
