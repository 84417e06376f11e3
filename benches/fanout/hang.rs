//! A webhook that hangs, and what clients of another path feel of it: nothing, is the aim.
//!
//! The webhook lets everybody in and never answers a message. Its clients go on talking, so requests
//! hang, then lanes are full, then sockets are not read. Each measurement has a new gateway, so that
//! all of that happens in each; one of a pair has clients there, the other has the same path empty.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pathcast::cli::load::latency::Latency;

use crate::bench::{Bench, check_faults};
use crate::loader::{Job, Loader, Orders, TALK};
use crate::pairs::Median;
use crate::report::grouped;
use crate::server::{HOOKED, Server, Setup};
use crate::side::Side;
use crate::single::PACE;

/// Who talks to the webhook: more than the gateway posts for at once.
const TALKERS: usize = 100;

/// How long each is measured: a hundred messages, so that the worst one alone is not the p99; and
/// after two thirds of it those who talk are held.
const SPAN: Duration = Duration::from_secs(5);

/// Messages before the measured ones: the sockets' buffers have found their size.
const WARM_UP: u64 = 6;

/// How much later messages may come than they do alone.
const BAR: f64 = 2.0;

/// Until every session that talks is not read any more, after the measurement.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often that is looked at.
const GLANCE: Duration = Duration::from_millis(50);

const HELD: &str = "pathcast_backend_held_sessions{backend=\"webhook\"}";

/// All measurements of a kind.
#[derive(Debug, Default)]
struct Felt {
    latency: Latency,
    /// Of each.
    p99_ms: Vec<f64>,
}

pub fn hang(bench: &mut Bench) -> anyhow::Result<()> {
    let setup = Setup { webhook: Some(serve()?), ..bench.setup() };
    let (mut beside, mut alone) = (Felt::default(), Felt::default());
    let pairs = if bench.options.quick { 3 } else { bench.options.pairs };
    for _ in 0..pairs {
        beside.measure(bench, &setup, true)?;
        alone.measure(bench, &setup, false)?;
    }
    let ratios = beside.p99_ms.iter().zip(&alone.p99_ms).map(|(beside, alone)| beside / alone);
    let Median { value, from, to } = Median::of(ratios.collect());
    let [own, other] = [&beside, &alone].map(|felt| Median::of(felt.p99_ms.clone()).value);
    let clients = grouped(bench.scaled(1_000) as f64);
    let talking = format!("{TALKERS} clients with a message each {} ms there", TALK.as_millis());
    let pace = format!("a message every {} ms to {clients} clients", PACE.as_millis());
    let bytes = bench.options.bytes;
    let settings = format!(
        "bar {BAR}; {pace}, {bytes} B; {talking}; {pairs} pairs of {} s, a new gateway each time",
        SPAN.as_secs()
    );
    let settings = bench.settings(&settings);
    let what = "paced, beside a path whose webhook hangs";
    let figure = format!("**{value:.2}** ({from:.2}–{to:.2}): {own:.2} ms by {other:.2}");
    bench.report.add(format!("{what}: p99 by alone"), figure, &settings);
    let figure = format!("{}; alone: {}", beside.latency, alone.latency);
    bench.report.add(format!("{what}: latency"), figure, &settings);
    Ok(())
}

impl Felt {
    fn measure(&mut self, bench: &Bench, setup: &Setup, is_talking: bool) -> anyhow::Result<()> {
        let mut side = Side::http(vec![bench.gateway(setup)?], bench.scaled(1_000), bench.load())?;
        side.beat(PACE, WARM_UP)?;
        let talkers = is_talking.then(|| {
            let (server, path) = (side.servers[0].clients, HOOKED.to_owned());
            let orders = Orders { job: Job::Talk, server, path, clients: TALKERS, in_flight: 16 };
            Loader::start(&orders, bench.split.load.as_deref())
        });
        let mut talkers = talkers.transpose()?;
        if let Some(talkers) = &mut talkers {
            talkers.open()?;
            talkers.urge()?;
        }
        let mut latency = Latency::new();
        let messages = SPAN.as_millis() / PACE.as_millis();
        side.pace(PACE, messages as u64, &mut latency)?;
        check_faults(&side.crowd)?;
        if let Some(talkers) = talkers {
            held(&side.servers[0])?;
            talkers.end()?;
        }
        self.p99_ms.push(latency.at_ms(0.99));
        self.latency.add(&latency);
        Ok(())
    }
}

/// Waits until all who talk are held: else it did not hang, and the figure is none.
fn held(server: &Server) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let held = server.metric(HELD)?;
        if held == TALKERS as f64 {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{held} of {TALKERS} sessions are held");
        std::thread::sleep(GLANCE);
    }
}

/// A webhook that takes every event but messages, which it never answers.
fn serve() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // It ends with its connection, however that does.
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(addr)
}

fn answer(stream: TcpStream) -> anyhow::Result<()> {
    let mut from = BufReader::new(&stream);
    loop {
        let (mut is_message, mut bytes) = (false, 0);
        loop {
            let mut line = String::new();
            ensure!(from.read_line(&mut line)? > 0, "the gateway has gone");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            is_message |= line == "ce-type: pathcast.message";
            if let Some(length) = line.strip_prefix("content-length: ") {
                bytes = length.parse().context("a length")?;
            }
        }
        std::io::copy(&mut (&mut from).take(bytes), &mut std::io::sink())?;
        if is_message {
            // Until the gateway gives up.
            std::io::copy(&mut from, &mut std::io::sink())?;
        }
        (&stream).write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
}
