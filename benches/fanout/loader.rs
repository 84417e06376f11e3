//! A crowd in a process of its own: this very program with another job.
//!
//! One process may hold some 20,000 sockets, and what one thread does while it connects would
//! falsify what it measures meanwhile. A loader takes its orders as an argument, tells what happens
//! to its clients in lines of JSON, and ends when its input does: so it never outlives the bench.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::frames;
use pathcast::cli::load::stamp::Stamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::server::pinned;

/// How long a loader may say nothing while something is awaited of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two messages of a client that talks.
pub const TALK: Duration = Duration::from_millis(50);

/// What it says at most: sockets take that much, also where nobody reads.
const SAID_MAX: usize = 500;

/// How often a loader to which nothing happens looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    pub job: Job,
    pub server: SocketAddr,
    pub path: String,
    pub clients: usize,
    /// Handshakes at once.
    pub in_flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// Connects, and tells of each message when all its clients have it.
    Hear,
    /// Connects at the first word, leaves at the next, and so on.
    Storm,
    /// Connects, and from the first word on each of its clients says something every [`TALK`].
    Talk,
}

/// One line of a loader.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Said {
    /// All clients are connected.
    Open { taken: Duration },
    /// Its last client has this message since then, by [`now_ns`].
    Heard { seq: u64, last_ns: u64 },
    /// All of a storm's clients are gone.
    Gone,
    /// At the end: what all clients got, and the fewest and the most that one did.
    End { lost: u64, again: u64, late: u64, fewest: u64, most: u64 },
}

/// The bench's end of one.
pub struct Loader {
    child: Child,
    said: Receiver<anyhow::Result<Said>>,
}

/// Nanoseconds of a clock that all processes of the machine share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let [seconds, ns] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000_000 + ns
}

impl Loader {
    /// Starts it on these processors. Who does not measure runs only while nobody else there wants
    /// to: what is measured beside it on the same processor is not to wait for it.
    pub fn start(orders: &Orders, cpus: Option<&str>) -> anyhow::Result<Loader> {
        let mut command = pinned(&std::env::current_exe()?, cpus);
        command.args(["--bench", "--loader", &serde_json::to_string(orders)?]);
        if orders.job != Job::Hear {
            command = yielding(&command);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {command:?}"))?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let (say, said) = channel();
        std::thread::spawn(move || {
            for line in lines {
                let told = line.map_err(Into::into).and_then(|line| {
                    serde_json::from_str(&line).with_context(|| format!("a loader said {line}"))
                });
                // Nobody listens any more to one that is dropped.
                let _ = say.send(told);
            }
        });
        Ok(Loader { child, said })
    }

    /// Says the word that a storm waits for, or who is to talk.
    pub fn urge(&mut self) -> anyhow::Result<()> {
        let mut input = self.child.stdin.as_ref().context("a loader whose input has ended")?;
        input.write_all(b"\n").context("a loader does not listen")
    }

    /// What it has said and nobody has heard yet, if there is anything.
    pub fn heard(&self) -> anyhow::Result<Option<Said>> {
        match self.said.try_recv() {
            Ok(said) => said.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => bail!("a loader ended"),
        }
    }

    /// What it says next.
    pub fn next(&self) -> anyhow::Result<Said> {
        match self.said.recv_timeout(PATIENCE) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => bail!("a loader said nothing for {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("a loader ended"),
        }
    }

    /// Waits until all its clients are connected; how long that took.
    pub fn open(&self) -> anyhow::Result<Duration> {
        match self.next()? {
            Said::Open { taken } => Ok(taken),
            said => bail!("a loader said {said:?} instead of its being open"),
        }
    }

    /// Tells it to end, and everything that it said until then.
    pub fn end(mut self) -> anyhow::Result<Vec<Said>> {
        drop(self.child.stdin.take());
        let mut all = Vec::new();
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(said) => all.push(said?),
                Err(RecvTimeoutError::Timeout) => bail!("a loader does not end"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "a loader ended with {status}");
        Ok(all)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // It may have ended by itself; its sockets the system closes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same command, for when the processor has nothing else to do.
fn yielding(command: &Command) -> Command {
    let mut idle = Command::new("chrt");
    idle.args(["--idle", "0"]).arg(command.get_program()).args(command.get_args());
    idle
}

/// Is a loader until its input ends.
pub fn serve(orders: &str) -> anyhow::Result<()> {
    let orders: Orders = serde_json::from_str(orders).context("orders")?;
    let (say, words) = channel();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            // The last one may come when nobody waits for it any more.
            let _ = say.send(());
        }
    });
    match orders.job {
        Job::Hear => hear(&orders, &words),
        Job::Storm => storm(&orders, &words),
        Job::Talk => talk(&orders, &words),
    }
}

fn hear(orders: &Orders, words: &Receiver<()>) -> anyhow::Result<()> {
    let mut crowd = Crowd::new(None)?;
    connect(&mut crowd, orders)?;
    // How many have each message, by its number.
    let mut heard: Vec<usize> = Vec::new();
    while !matches!(words.try_recv(), Err(TryRecvError::Disconnected)) {
        let mut told = Ok(());
        crowd.turn(GLANCE, |Stamp { seq, .. }| {
            let at = seq as usize;
            heard.resize(heard.len().max(at + 1), 0);
            heard[at] += 1;
            if heard[at] == orders.clients {
                told = tell(&Said::Heard { seq, last_ns: now_ns() });
            }
        })?;
        told?;
        crowd.check()?;
    }
    let (fewest, most) = crowd.messages();
    let tally = crowd.tally;
    tell(&Said::End { lost: tally.lost, again: tally.again, late: tally.late, fewest, most })
}

fn storm(orders: &Orders, words: &Receiver<()>) -> anyhow::Result<()> {
    let mut crowd = Crowd::new(None)?;
    while words.recv().is_ok() {
        connect(&mut crowd, orders)?;
        if words.recv().is_ok() {
            crowd.leave()?;
            tell(&Said::Gone)?;
        }
    }
    Ok(())
}

fn talk(orders: &Orders, words: &Receiver<()>) -> anyhow::Result<()> {
    let mut crowd = Crowd::new(None)?;
    connect(&mut crowd, orders)?;
    let frame = frames::text(&[b'x'; 100]);
    // An error is the end of the words.
    let mut goes_on = words.recv().is_ok();
    for _ in 0..SAID_MAX {
        if !goes_on {
            break;
        }
        crowd.say(&frame)?;
        goes_on = words.recv_timeout(TALK) != Err(RecvTimeoutError::Disconnected);
        crowd.turn(Duration::ZERO, |_| {})?;
        crowd.check()?;
    }
    Ok(())
}

fn connect(crowd: &mut Crowd, orders: &Orders) -> anyhow::Result<()> {
    let begun = Instant::now();
    let Orders { server, clients, path, in_flight, .. } = orders;
    crowd.connect(*server, *clients, |_| path.clone(), *in_flight)?;
    tell(&Said::Open { taken: begun.elapsed() })
}

fn tell(said: &Said) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(said)?)?;
    Ok(out.flush()?)
}
