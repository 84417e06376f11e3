//! What the hot path does not do: no further write, no lock, no allocation, no atomic per delivery.

use std::thread::spawn;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::bench::{Bench, check_faults};
use crate::report::grouped;
use crate::server::{Server, Setup};
use crate::side::{Load, Side};
#[cfg(target_arch = "x86_64")]
use crate::steps::{self, Gap};
use crate::strace::Strace;

/// Traced in a closed loop that joins.
const SPAN: Duration = Duration::from_secs(4);

/// Traced one at a time: some ten thousand writes.
const TRACED: u64 = 40;

/// Between two of the paced ones: a round takes long when it is looked at.
const PACE: Duration = Duration::from_millis(250);

/// Longer than any run here: a ping is a write and an allocation, and none of a delivery's.
const HEARTBEAT_S: u64 = 600;

/// Walked: every instruction takes longer than a write does else.
const WALKED_CLIENTS: usize = 100;
const WALKED_WRITES: usize = 300;

/// Of a count that is compared: enough for what a minute's housekeeping allocates to vanish.
const MESSAGES: u64 = 2_000;

/// Before it: all buffers have their size.
const WARM_UP: u64 = 200;

/// How the load comes.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Saturated(usize),
    Paced,
}

pub fn calls(bench: &mut Bench) -> anyhow::Result<()> {
    for manner in [Manner::Saturated(1), Manner::Saturated(16), Manner::Paced] {
        traced(bench, manner)?;
    }
    for window in [1, 16] {
        allocations(bench, window)?;
    }
    #[cfg(target_arch = "x86_64")]
    atomics(bench)?;
    Ok(())
}

/// System calls, as strace counts them.
fn traced(bench: &mut Bench, manner: Manner) -> anyhow::Result<()> {
    let mut side =
        side(bench, manner.window(), bench.gateway(&setup(bench))?, bench.scaled(1_000))?;
    let (clients, process) = (side.crowd.count(), side.servers[0].process);
    side.beat(Duration::ZERO, WARM_UP)?;
    let before = (side.done(), side.crowd.tally.messages, side.writes()?);
    let strace = Strace::attach(process)?;
    match manner {
        Manner::Saturated(1) => side.beat(Duration::ZERO, TRACED)?,
        Manner::Saturated(_) => side.busy(SPAN)?,
        Manner::Paced => side.beat(PACE, TRACED / 2)?,
    }
    let calls = strace.detach()?;
    check_faults(&side.crowd)?;
    let messages = (side.done() - before.0) as f64;
    let deliveries = (side.crowd.tally.messages - before.1) as f64;
    let writes = calls.writes as f64;
    // By the gateway's own count: a client was handed something once for each.
    let handed = side.writes()? - before.2;
    let figure = format!(
        "**{:.3}** with {:.1} frames each; per delivery {:.3} other calls of the shard's thread, \
         {:.4} of them futex; per message {:.2} futex calls of all threads",
        writes / handed,
        deliveries / writes,
        calls.others as f64 / deliveries,
        calls.futexes as f64 / deliveries,
        calls.futexes_of_all as f64 / messages,
    );
    let what = format!(
        "system calls, {}, {} clients: writes per client and round",
        manner.name(),
        grouped(clients as f64)
    );
    let settings = format!("bar 1.02; strace, {messages} messages, {} B", bench.options.bytes);
    let settings = bench.settings(&settings);
    bench.report.add(what, figure, settings);
    Ok(())
}

/// The same messages to few and to many clients: what there is more of is of the deliveries.
fn allocations(bench: &mut Bench, window: usize) -> anyhow::Result<()> {
    let (few, many) = (bench.scaled(100), bench.scaled(1_000));
    let messages = if bench.options.quick { MESSAGES / 10 } else { MESSAGES };
    let each = |clients: usize| -> anyhow::Result<f64> {
        let mut side = side(bench, window, Server::counted(&setup(bench))?, clients)?;
        side.beat(Duration::ZERO, WARM_UP)?;
        let before = side.servers[0].allocations()?;
        side.beat(Duration::ZERO, messages)?;
        let after = side.servers[0].allocations()?;
        check_faults(&side.crowd)?;
        Ok((after - before) as f64 / messages as f64)
    };
    let (with_few, with_many) = (each(few)?, each(many)?);
    let slope = (with_many - with_few) / (many - few) as f64;
    // Joined buffers are a matter of how many rounds there were; no zero is negative.
    let slope = (slope * 1e3).round() / 1e3 + 0.0;
    let figure = format!(
        "**{slope:.3}**; per message {with_few:.1} with {few} clients, {with_many:.1} with {}",
        grouped(many as f64)
    );
    let what = format!("allocations of the whole gateway, W = {window}: per delivery");
    let settings =
        format!("bar 0; {} messages, {} B", grouped(messages as f64), bench.options.bytes);
    let settings = bench.settings(&settings);
    bench.report.add(what, figure, settings);
    Ok(())
}

/// Walks the shard's thread through some rounds.
#[cfg(target_arch = "x86_64")]
fn atomics(bench: &mut Bench) -> anyhow::Result<()> {
    let setup = Setup { shards: 1, ..setup(bench) };
    let mut side = side(bench, 1, bench.gateway(&setup)?, WALKED_CLIENTS)?;
    let clients = side.crowd.count();
    side.beat(Duration::ZERO, WARM_UP)?;
    let process = side.servers[0].process;
    let shards = process.threads("shard-")?;
    let shard = shards.into_iter().next().context("a gateway without a shard")?;
    let walking = spawn(move || steps::between_writes(process, shard, WALKED_WRITES));
    while !walking.is_finished() {
        side.beat(Duration::ZERO, 1)?;
    }
    let walked = walking.join().map_err(|_| anyhow!("the walker panicked"))??;
    check_faults(&side.crowd)?;
    // A slice ends by the clock, which goes on while the thread is walked: every few writes.
    let (within, between): (Vec<Gap>, Vec<Gap>) =
        walked.gaps.iter().partition(|gap| gap.calls == 0);
    let mut instructions: Vec<_> = within.iter().map(|gap| gap.instructions).collect();
    instructions.sort_unstable();
    let locked = |gaps: &[Gap]| gaps.iter().map(|gap| gap.locked).sum::<u64>();
    let each = |gaps: &[Gap]| locked(gaps) as f64 / gaps.len().max(1) as f64;
    let places: Vec<_> =
        walked.places.iter().map(|(file, count)| format!(" ({count} in {file})")).collect();
    let figure = format!(
        "**{:.2}**{}, in {} gaps between two writes of a slice, each {} instructions in the median; \
         {:.1} in a gap between two slices, of which there are {}",
        each(&within),
        places.concat(),
        grouped(within.len() as f64),
        instructions.get(instructions.len() / 2).copied().unwrap_or(0),
        each(&between),
        grouped(between.len() as f64),
    );
    let what = "atomics: locked instructions of the shard's thread per delivery";
    let settings = format!("bar 0; W = 1, {} clients, walked by ptrace", grouped(clients as f64));
    let settings = bench.settings(&settings);
    bench.report.add(what, figure, settings);
    Ok(())
}

fn setup(bench: &Bench) -> Setup {
    Setup { heartbeat_s: HEARTBEAT_S, ..bench.setup() }
}

fn side(bench: &Bench, window: usize, server: Server, clients: usize) -> anyhow::Result<Side> {
    let load = Load { window, ..bench.load() };
    Side::http(vec![server], clients, load)
}

impl Manner {
    /// Paced, only one who falls behind has several on their way.
    fn window(self) -> usize {
        match self {
            Manner::Saturated(window) => window,
            Manner::Paced => 16,
        }
    }

    fn name(self) -> String {
        match self {
            Manner::Saturated(window) => format!("W = {window}"),
            Manner::Paced => format!("a message every {} ms", PACE.as_millis()),
        }
    }
}
