//! A crowd's path, kept busy: by a closed loop, as many messages on their way as the window allows,
//! all the time; or by one message at a time at an even pace.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::process::Process;
use crate::server::{CROWD, Server};
use pathcast::cli::load::clock::Clock;
use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::latency::Latency;
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::stamp::Stamp;
use pathcast::cli::load::window::Window;

/// How long no message may get through before a run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest sleep of a paced run, so that answers are taken too.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// What one path's crowd is kept busy with. Several runs may follow each other.
pub struct Saturation<'a> {
    server: &'a Server,
    publisher: Publisher,
    window: Window,
    clock: Clock,
    /// How often the load looks what has come. Between two looks it costs nothing, and what comes
    /// meanwhile is read at once.
    poll: Duration,
    bytes: usize,
    message: Vec<u8>,
}

/// What happened between two moments of a run.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub span: Duration,
    pub messages: u64,
    pub deliveries: u64,
    pub cpu: Duration,
    /// Of the load itself.
    pub load_cpu: Duration,
    /// How long the gateway and the load were kept waiting for a processor.
    pub waited: Duration,
    pub load_waited: Duration,
    /// Rounds of all rooms: `deliveries` by the clients by this is frames per write.
    pub rounds: f64,
}

struct Mark {
    at: Instant,
    messages: u64,
    deliveries: u64,
    cpu: Duration,
    load_cpu: Duration,
    waited: Duration,
    load_waited: Duration,
    rounds: f64,
}

impl<'a> Saturation<'a> {
    pub fn new(
        server: &'a Server,
        crowd: &Crowd,
        window: usize,
        bytes: usize,
        poll: Duration,
    ) -> anyhow::Result<Saturation<'a>> {
        Ok(Saturation {
            server,
            publisher: Publisher::connect(server.api)?,
            window: Window::new(window, u32::try_from(crowd.len())?),
            clock: Clock::start(),
            poll,
            bytes,
            message: Vec::new(),
        })
    }

    /// Warms up, calls `begin`, measures for `span`, and waits until everybody has everything.
    pub fn run(
        &mut self,
        crowd: &mut Crowd,
        warm_up: Duration,
        span: Duration,
        begin: impl FnOnce(),
    ) -> anyhow::Result<Measured> {
        self.turn_for(crowd, warm_up)?;
        begin();
        let from = self.mark(crowd)?;
        self.turn_for(crowd, span)?;
        let to = self.mark(crowd)?;
        let until = Instant::now() + PATIENCE;
        while !self.window.is_empty() {
            ensure!(Instant::now() < until, "{} messages did not get through", self.window.open());
            self.hear(crowd)?;
        }
        Ok(to.since(from))
    }

    /// Publishes `count` messages, one every `interval`, and notes how long each took from the
    /// request to the frame at each client.
    pub fn pace(
        &mut self,
        crowd: &mut Crowd,
        interval: Duration,
        count: u64,
        latency: &mut Latency,
    ) -> anyhow::Result<Measured> {
        let from = self.mark(crowd)?;
        let wanted = self.window.done() + count;
        let last = Instant::now() + interval * u32::try_from(count)? + PATIENCE;
        let (mut due, mut begun) = (Instant::now(), 0);
        while self.window.done() < wanted {
            ensure!(Instant::now() < last, "deliveries are missing: {:?}", crowd.tally);
            if begun < count && Instant::now() >= due {
                ensure!(self.publish()?, "the server is slower than the pace");
                begun += 1;
                due += interval;
            }
            let (window, clock) = (&mut self.window, self.clock);
            let wait = due.saturating_duration_since(Instant::now()).min(WAIT_MAX);
            crowd.turn(wait, |stamp| {
                window.arrived(stamp.seq);
                latency.record(clock.now_ns().saturating_sub(stamp.sent_ns));
            })?;
            crowd.check()?;
            self.publisher.expect(202).context("publishing")?;
        }
        Ok(self.mark(crowd)?.since(from))
    }

    /// Whether the window let one more message out.
    fn publish(&mut self) -> anyhow::Result<bool> {
        let Some(seq) = self.window.begin() else { return Ok(false) };
        Stamp { seq, sent_ns: self.clock.now_ns() }.write(&mut self.message, self.bytes);
        self.publisher.begin(&format!("/v1/publish{CROWD}"), &self.message)?;
        Ok(true)
    }

    fn turn_for(&mut self, crowd: &mut Crowd, span: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + span;
        let mut done = self.window.done();
        let mut since = Instant::now();
        while Instant::now() < until {
            while self.publish()? {}
            self.hear(crowd)?;
            if self.window.done() != done {
                (done, since) = (self.window.done(), Instant::now());
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "no message got through for {PATIENCE:?}: {:?}",
                crowd.tally
            );
        }
        Ok(())
    }

    fn hear(&mut self, crowd: &mut Crowd) -> anyhow::Result<()> {
        sleep(self.poll);
        let window = &mut self.window;
        crowd.turn(Duration::ZERO, |stamp| window.arrived(stamp.seq))?;
        crowd.check()?;
        self.publisher.expect(202).context("publishing")
    }

    fn mark(&self, crowd: &Crowd) -> anyhow::Result<Mark> {
        Ok(Mark {
            at: Instant::now(),
            messages: self.window.done(),
            deliveries: crowd.tally.messages,
            cpu: self.server.process.cpu()?,
            load_cpu: Process::own().cpu()?,
            waited: self.server.process.waited()?,
            load_waited: Process::own().waited()?,
            rounds: self.server.metric("pathcast_fanout_seconds_count")?,
        })
    }
}

impl Mark {
    fn since(self, from: Mark) -> Measured {
        Measured {
            span: self.at - from.at,
            messages: self.messages - from.messages,
            deliveries: self.deliveries - from.deliveries,
            cpu: self.cpu - from.cpu,
            load_cpu: self.load_cpu - from.load_cpu,
            waited: self.waited.saturating_sub(from.waited),
            load_waited: self.load_waited.saturating_sub(from.load_waited),
            rounds: self.rounds - from.rounds,
        }
    }
}

impl Measured {
    /// Frames that one socket was handed at once, on average.
    pub fn frames_per_write(&self, clients: usize, shards: usize) -> f64 {
        let rooms = shards.min(clients) as f64;
        self.deliveries as f64 / clients as f64 * rooms / self.rounds.max(1.0)
    }
}
