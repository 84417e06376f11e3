//! What a broadcast costs, and what it costs everybody else.
//!
//! ```sh
//! cargo bench --bench fanout                # everything, some minutes
//! cargo bench --bench fanout -- --quick     # whether it works, in seconds; the figures say little
//! cargo bench --bench fanout -- --rows saturated,unicast --shards 2 --gateway-cpus 0,1
//! ```
//!
//! Each row has a gateway of its own, as a child process on loopback, and a crowd of clients in
//! this process. A saturated row is a closed loop: the window stands beside it, for it decides how
//! many frames one write carries, and with that the cost of a delivery.

mod bench;
mod calls;
mod capacity;
mod certificate;
mod counted;
mod crowd;
mod deflate;
mod growth;
mod hang;
mod limit;
mod loader;
mod machine;
mod memory;
mod page;
mod pairs;
mod plot;
mod point;
mod probe;
mod process;
mod redis;
mod report;
mod rush;
mod server;
mod side;
mod single;
#[cfg(target_arch = "x86_64")]
mod steps;
mod strace;
mod verdicts;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};

use crate::bench::Bench;
use crate::limit::Limit;
use crate::machine::Split;
use crate::report::Report;

#[derive(Debug, Parser)]
#[command(name = "fanout", about = "What a broadcast costs, and what it costs everybody else")]
struct Options {
    /// Small counts and short runs: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Which rows; all without it.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Processors for the gateway, as taskset takes them, or "any".
    #[arg(long)]
    gateway_cpus: Option<String>,
    /// Processors for the load, as taskset takes them, or "any".
    #[arg(long)]
    load_cpus: Option<String>,
    /// Messages outstanding in a saturated row.
    #[arg(long, default_value_t = 16)]
    window: usize,
    /// Length of a message.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// How long a row is measured that is measured once, in seconds: 10 without it, and 90 for the
    /// rest of idle sessions.
    #[arg(long)]
    seconds: Option<u64>,
    /// Pairs of a row that compares.
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// How often the load looks what has come in a saturated row, in milliseconds.
    #[arg(long, default_value_t = 4)]
    poll_ms: u64,
    /// Put the figures into docs/performance.md, the plot beside it.
    #[arg(long)]
    write: bool,
    /// Be one of the limits instead of measuring.
    #[arg(long, value_enum, hide = true)]
    limit: Option<Limit>,
    /// Be a gateway that counts its allocations, with these settings.
    #[arg(long, hide = true)]
    counted: Option<PathBuf>,
    /// Be a crowd instead of measuring, as these orders say.
    #[arg(long, hide = true)]
    loader: Option<String>,
    /// Another gateway than the one built here.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Given by cargo bench. Without it nothing runs: cargo test starts benches too.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// A closed loop with 1,000 clients.
    Saturated,
    /// 20 messages a second to 1,000 clients.
    Paced,
    /// A closed loop with 15,000 clients, and unicasts on another path, alone and beside it.
    Unicast,
    /// The gateway beside the limits, pair by pair.
    Limits,
    /// Two pods on one Redis beside one with the memory broker, pair by pair.
    Redis,
    /// A busy path beside idle ones, and alone, pair by pair.
    Aside,
    /// The same gateway with TLS and without, pair by pair.
    Tls,
    /// Unicasts with their verdicts, at one pod and across two.
    Verdicts,
    /// Memory of 10,000 idle sessions.
    Idle,
    /// 10,000 connects, again and again.
    Storm,
    /// What the hot path does not do: further writes, allocations, atomics, waits.
    Calls,
    /// Deflated messages beside plain ones, pair by pair.
    Deflate,
    /// How cost grows: with clients, sizes, paths, pods, shards; and what follows for many.
    Growth,
    /// What live traffic feels of a storm of connects.
    Rush,
    /// A path beside one whose webhook hangs, and alone, pair by pair.
    Hang,
    /// 90,000 sessions at five gateways on one Redis.
    Crowd,
}

/// Measures a row and reports it.
type Measure = fn(&mut Bench) -> anyhow::Result<()>;

const ROWS: &[(Row, Measure)] = &[
    (Row::Limits, pairs::limits),
    (Row::Redis, pairs::redis),
    (Row::Aside, pairs::aside),
    (Row::Tls, pairs::tls),
    (Row::Saturated, single::saturated),
    (Row::Paced, single::paced),
    (Row::Unicast, single::unicast),
    (Row::Verdicts, verdicts::verdicts),
    (Row::Idle, memory::idle),
    (Row::Storm, memory::storm),
    (Row::Calls, calls::calls),
    (Row::Deflate, deflate::deflate),
    (Row::Growth, growth::growth),
    (Row::Rush, rush::rush),
    (Row::Hang, hang::hang),
    (Row::Crowd, crowd::crowd),
];

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !options.bench {
        println!("this measures only under `cargo bench`");
        return Ok(());
    }
    if let Some(limit) = options.limit {
        return limit::serve(limit);
    }
    if let Some(settings) = &options.counted {
        return counted::serve(settings);
    }
    if let Some(orders) = &options.loader {
        return loader::serve(orders);
    }
    let machine = machine::describe();
    let split = Split::choose(options.gateway_cpus.clone(), options.load_cpus.clone());
    split.settle()?;
    let program = options.gateway.clone();
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_pathcast").into());
    let mut bench = Bench { options, split, program, report: Report::default(), plots: Vec::new() };
    let outcome = run(&mut bench);
    let figures = format!("{machine}; {}\n\n{}", bench.split.describe(), bench.report);
    println!("{figures}");
    outcome?;
    match bench.options.write {
        true => page::write(&figures, &bench.plots),
        false => Ok(()),
    }
}

fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for (row, measure) in ROWS {
        if bench.options.rows.is_empty() || bench.options.rows.contains(row) {
            eprintln!("{row:?}");
            measure(bench).with_context(|| format!("row {row:?}"))?;
        }
    }
    Ok(())
}
