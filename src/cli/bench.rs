//! `pathcast bench`: many clients on one path of a running gateway, and how long messages take.
//!
//! A load for finding out what a deployment carries. It publishes to the path, so the path should
//! have no other publisher. Whoever compares two programs wants the project's own benches.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::cli::load::crowd::Crowd;
use crate::cli::load::latency::Latency;
use crate::cli::load::publisher::{Publisher, ToPath};
use crate::cli::load::run::Run;
use crate::cli::load::stamp::STAMP_BYTES;

/// Between two lines of progress.
const PORTION: Duration = Duration::from_secs(1);

/// How often a closed loop looks what has come.
const POLL: Duration = Duration::from_millis(4);

/// Messages of a paced run that may be on their way: a gateway that falls behind by more is told of
/// as one, by its latency.
const PACED_WINDOW: usize = 64;

#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Args {
    /// Where clients connect: host and port.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    gateway: String,

    /// Where publishers call: host and port.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    api: String,

    /// The API's key, where it asks for one; it needs the scope `publish`.
    #[arg(long, env = "PATHCAST_KEY", hide_env_values = true)]
    key: Option<String>,

    /// The path; nobody else should publish to it meanwhile.
    #[arg(long, default_value = "/ws")]
    path: String,

    /// How many clients.
    #[arg(long, default_value_t = 1000)]
    clients: usize,

    /// Messages a second.
    #[arg(long, default_value_t = 20.0, conflicts_with = "window")]
    rate: f64,

    /// As many as it carries instead: a closed loop with so many messages on their way.
    #[arg(long)]
    window: Option<usize>,

    /// Length of a message in bytes, 16 at least.
    #[arg(long, default_value_t = 100)]
    size: usize,

    /// How long, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,

    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// What came of it.
struct Summary<'a> {
    args: &'a Args,
    connect: Duration,
    span: Duration,
    messages: u64,
    crowd: &'a Crowd,
    latency: &'a Latency,
}

/// Prints progress to `err`, the summary to `out`. The code is 1 when something went wrong, a lost
/// message included.
pub fn run(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    match measure(args, out, err) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // If standard error is closed too, the code is all that is left to say it with.
            let _ = writeln!(err, "{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything arrived, once and in order.
fn measure(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<bool> {
    ensure!(args.clients > 0, "--clients: one at least");
    ensure!(args.size >= STAMP_BYTES, "--size: {STAMP_BYTES} bytes at least");
    ensure!(args.rate > 0.0 && args.rate <= 100_000.0, "--rate: more than 0, at most 100000");
    ensure!(args.window != Some(0), "--window: one at least");
    let (gateway, api) = (resolve(&args.gateway)?, resolve(&args.api)?);
    let begun = Instant::now();
    let mut crowd = Crowd::new(None)?;
    crowd.connect(gateway, args.clients, |_| args.path.clone(), 64)?;
    let connect = begun.elapsed();
    writeln!(err, "{} clients are open after {:.1} s", crowd.count(), connect.as_secs_f64())?;

    let outlet = ToPath::new(Publisher::connect(api, args.key.as_deref())?, &args.path);
    let window = args.window.unwrap_or(PACED_WINDOW);
    let mut run = Run::new(Box::new(outlet), &crowd, window, args.size)?;
    let mut latency = Latency::new();
    let begun = Instant::now();
    let span = Duration::from_secs(args.seconds);
    while begun.elapsed() < span {
        if args.window.is_some() {
            run.saturate(&mut crowd, PORTION.min(span), POLL, &mut latency)?;
        } else {
            let interval = Duration::from_secs_f64(1.0 / args.rate);
            let count = (args.rate * PORTION.as_secs_f64()).max(1.0);
            run.pace(&mut crowd, interval, count as u64, &mut latency)?;
        }
        let seconds = begun.elapsed().as_secs();
        writeln!(err, "{seconds:>4} s  {} messages, {latency}", run.done())?;
    }
    run.drain(&mut crowd, &mut latency)?;
    let span = begun.elapsed();
    let messages = run.done();
    let summary = Summary { args, connect, span, messages, crowd: &crowd, latency: &latency };
    match args.json {
        true => writeln!(out, "{}", summary.json())?,
        false => summary.text(out)?,
    }
    let tally = crowd.tally;
    crowd.leave()?;
    Ok(tally.lost + tally.again + tally.late == 0)
}

impl Summary<'_> {
    fn json(&self) -> serde_json::Value {
        let Summary { args, connect, span, messages, crowd, latency } = self;
        let tally = &crowd.tally;
        json!({
            "clients": crowd.count(),
            "path": args.path,
            "message_bytes": args.size,
            "window": args.window,
            "connect_seconds": connect.as_secs_f64(),
            "seconds": span.as_secs_f64(),
            "messages": messages,
            "deliveries": tally.messages,
            "lost": tally.lost,
            "twice": tally.again,
            "out_of_order": tally.late,
            "latency_ms": {
                "p50": latency.at_ms(0.5),
                "p99": latency.at_ms(0.99),
                "p999": latency.at_ms(0.999),
                "max": latency.at_ms(1.0),
            },
        })
    }

    fn text(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Summary { args, connect, span, messages, crowd, latency } = self;
        let tally = &crowd.tally;
        let seconds = span.as_secs_f64();
        let pace = match args.window {
            Some(window) => format!("a closed loop, {window} messages on their way"),
            None => format!("{} messages a second", args.rate),
        };
        let each = |count: u64| count as f64 / seconds;
        writeln!(out, "{} clients on {}, {} B, {pace}", crowd.count(), args.path, args.size)?;
        writeln!(
            out,
            "  connects    {:.0} a second",
            crowd.count() as f64 / connect.as_secs_f64().max(0.001)
        )?;
        writeln!(out, "  messages    {messages}, {:.1} a second", each(*messages))?;
        writeln!(out, "  deliveries  {}, {:.0} a second", tally.messages, each(tally.messages))?;
        writeln!(out, "  latency     {latency}, from the request to the frame read")?;
        writeln!(out, "  lost {}, twice {}, out of order {}", tally.lost, tally.again, tally.late)
    }
}

fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found = address.to_socket_addrs().with_context(|| {
        format!("{address:?} is no address: give host and port, as in 127.0.0.1:8080")
    });
    // The load connects from addresses of this family only.
    let four = found?.find(SocketAddr::is_ipv4);
    four.with_context(|| format!("{address:?} has no IPv4 address"))
}
