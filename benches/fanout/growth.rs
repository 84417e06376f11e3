//! How cost grows, one thing at a time: clients, the size of a message, paths, pods, shards.

use std::time::Duration;

use pathcast::cli::load::crowd::Crowd;
use pathcast::cli::load::publisher::Publisher;
use pathcast::cli::load::run::Outlet;

use crate::bench::{Bench, check_faults};
use crate::capacity::{self, Model};
use crate::pairs::Median;
use crate::plot::{self, Line};
use crate::point::Point;
use crate::redis::{Audience, Redis, Stranger};
use crate::report::{grouped, micros_each};
use crate::server::{CROWD, Server, Setup};
use crate::side::{Load, Side};

const CLIENTS: &[usize] = &[100, 300, 1_000, 3_000, 10_000];
/// Where nothing is joined: what a write costs.
const SINGLY: &[usize] = &[100, 1_000, 10_000];
const SIZES: &[usize] = &[10, 100, 1_000, 10_000, 100_000];
const PATHS: &[usize] = &[1, 10, 100, 1_000];
const PODS: &[usize] = &[1, 2, 3];
const SHARDS: &[usize] = &[1, 2];

/// Subscribers that are no pods, but cost Redis what pods do.
const SUBSCRIBERS: &[usize] = &[1, 10, 30, 100];

/// Of each point: the median stands for it.
const RUNS: usize = 3;

const SPAN: Duration = Duration::from_secs(2);

const WARM_UP: Duration = Duration::from_millis(300);

/// Of the rows with large messages: so much as 1,000 sockets can hold.
const SIZES_WINDOW: usize = 4;

/// `PUBLISH`es to subscribers that are no pods, and how many are on their way.
const PUBLISHES: usize = 20_000;
const PIPELINED: usize = 64;

/// Points by how much there is of what grows.
pub type Curve = Vec<(usize, Point)>;

pub fn growth(bench: &mut Bench) -> anyhow::Result<()> {
    let by_clients = clients(bench, CLIENTS, bench.options.window)?;
    let singly = clients(bench, SINGLY, 1)?;
    let by_size = sizes(bench)?;
    let by_paths = paths(bench)?;
    let (by_pods, carried) = pods(bench)?;
    shards(bench)?;
    let publishes = subscribers(bench)?;
    let lines = [
        Line { name: "clients, W = 16, 100 B", color: "#0b66c3", points: of(&by_clients) },
        Line { name: "clients, W = 1, 100 B", color: "#5f6b7a", points: of(&singly) },
        Line { name: "bytes, 1,000 clients, W = 4", color: "#c3420b", points: of(&by_size) },
        Line { name: "paths, 1,000 clients, W = 16", color: "#2b8a3e", points: of(&by_paths) },
        Line { name: "pods of 1,000 clients, W = 16", color: "#7b3fb0", points: of(&by_pods) },
    ];
    let title = "CPU per delivery in µs, by the number of … (both axes logarithmic)";
    bench.plots.push(("growth.svg", plot::growth(title, &lines)));
    let model = Model::fit(&singly, &by_clients, &by_size, &carried, &publishes);
    capacity::tell(bench, &model);
    Ok(())
}

fn clients(bench: &mut Bench, counts: &[usize], window: usize) -> anyhow::Result<Curve> {
    let load = Load { window, ..bench.load() };
    let mut points = Vec::new();
    for &clients in counts {
        let clients = bench.scaled(clients);
        let gateway = bench.gateway(&bench.setup())?;
        let point = measure(bench, Side::http(vec![gateway], clients, load)?)?;
        tell(bench, &format!("W = {window}, clients: {}", grouped(clients as f64)), point, load);
        points.push((clients, point));
    }
    Ok(points)
}

fn sizes(bench: &mut Bench) -> anyhow::Result<Curve> {
    let mut points = Vec::new();
    for &bytes in SIZES {
        let load = Load { bytes, window: SIZES_WINDOW, ..bench.load() };
        let gateway = bench.gateway(&bench.setup())?;
        let side = Side::http(vec![gateway], bench.scaled(1_000), load)?;
        let point = measure(bench, side)?;
        tell(bench, &format!("bytes: {}", grouped(bytes as f64)), point, load);
        points.push((bytes, point));
    }
    Ok(points)
}

/// The same clients, spread evenly; messages go to all paths in turn.
fn paths(bench: &mut Bench) -> anyhow::Result<Curve> {
    let mut points = Vec::new();
    let clients = bench.scaled(1_000);
    for &paths in PATHS.iter().filter(|&&paths| paths <= clients) {
        let gateway = bench.gateway(&bench.setup())?;
        let mut crowd = Crowd::new(None)?;
        crowd.paths = paths;
        let clients = clients / paths * paths;
        let room = |number: usize| format!("/rooms/{}", number % paths);
        crowd.connect(gateway.clients, clients, room, 64)?;
        let publisher = Publisher::connect(gateway.api, None)?;
        let outlet = Box::new(InTurn::new(publisher, paths, room));
        let side = Side::gathered(vec![gateway], crowd, outlet, bench.load())?;
        let point = measure(bench, side)?;
        tell(bench, &format!("paths: {}", grouped(paths as f64)), point, bench.load());
        points.push((paths, point));
    }
    Ok(points)
}

/// On one Redis, with a crowd each; and with one client each, where nothing counts but messages.
/// Of the latter, how many pods, and what all of them spend on a message.
fn pods(bench: &mut Bench) -> anyhow::Result<(Curve, Vec<(usize, f64)>)> {
    let (mut points, mut carried) = (Vec::new(), Vec::new());
    for &pods in PODS {
        let mut load = bench.load();
        for clients in [bench.scaled(1_000), 1] {
            let redis = Redis::start(bench.split.load.as_deref())?;
            let setup = Setup { redis: Some(redis.url()), ..bench.setup() };
            let gateways = (0..pods).map(|_| bench.gateway(&setup));
            let gateways = gateways.collect::<anyhow::Result<Vec<Server>>>()?;
            let stranger = Box::new(Stranger::connect(&redis, CROWD)?);
            let mut side = Side::new(gateways, clients, stranger, load)?;
            let (mut runs, mut publish_us) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let before = (redis.process.cpu()?, side.done());
                runs.push(side.saturate(WARM_UP, span(bench), || {})?);
                let used = redis.process.cpu()? - before.0;
                publish_us.push(micros_each(used, side.done() - before.1));
            }
            check_faults(&side.crowd)?;
            let (point, publish_us) = (Point::of(&runs), Median::of(publish_us).value);
            let whom = format!("pods: {pods}, clients on each: {}", grouped(clients as f64));
            tell(bench, &whom, point, load);
            if clients == 1 {
                let what = format!("growth, {whom}: Redis' CPU per PUBLISH");
                let figure = format!("{publish_us:.2} µs");
                bench.report.add(what, figure, settings(bench, load));
                carried.push((pods, point.message_us));
            } else {
                points.push((pods, point));
            }
            // One client has room for more, and a fuller pipe makes what is not the message less.
            load = Load { window: PIPELINED, poll: Duration::from_millis(1), ..load };
        }
    }
    Ok((points, carried))
}

fn shards(bench: &mut Bench) -> anyhow::Result<()> {
    for &shards in SHARDS {
        let gateway = bench.gateway(&Setup { shards, ..bench.setup() })?;
        let side = Side::http(vec![gateway], bench.scaled(1_000), bench.load())?;
        let point = measure(bench, side)?;
        tell(bench, &format!("shards: {shards}"), point, bench.load());
    }
    Ok(())
}

/// What Redis spends on a `PUBLISH`, by how many have subscribed.
fn subscribers(bench: &mut Bench) -> anyhow::Result<Vec<(usize, f64)>> {
    let mut points = Vec::new();
    let publishes = if bench.options.quick { PUBLISHES / 20 } else { PUBLISHES };
    for &count in SUBSCRIBERS {
        let redis = Redis::start(bench.split.load.as_deref())?;
        let mut audience = Audience::gather(&redis, CROWD, count)?;
        let mut each_us = Vec::new();
        for _ in 0..RUNS {
            let before = redis.process.cpu()?;
            audience.hear(publishes, PIPELINED, bench.options.bytes)?;
            each_us.push(micros_each(redis.process.cpu()? - before, publishes as u64));
        }
        let each_us = Median::of(each_us).value;
        points.push((count, each_us));
        let what = format!("growth, subscribers: {count}: Redis' CPU per PUBLISH");
        let bytes = bench.options.bytes;
        let settings = format!(
            "{} PUBLISHes, {PIPELINED} at once, {bytes} B, median of {RUNS} runs",
            grouped(publishes as f64)
        );
        bench.report.add(what, format!("{each_us:.2} µs"), settings);
    }
    Ok(points)
}

fn measure(bench: &Bench, mut side: Side) -> anyhow::Result<Point> {
    let run = |_| side.saturate(WARM_UP, span(bench), || {});
    let runs = (0..RUNS).map(run).collect::<anyhow::Result<Vec<_>>>()?;
    check_faults(&side.crowd).map(|()| Point::of(&runs))
}

fn tell(bench: &mut Bench, whom: &str, point: Point, load: Load) {
    let Point { delivery_us, message_us, frames_per_write, deliveries_per_second } = point;
    let figure = format!(
        "{delivery_us:.3} µs, {message_us:.1} µs per message, {frames_per_write:.1} frames per \
         write, {} deliveries/s",
        grouped(deliveries_per_second)
    );
    let what = format!("growth, {whom}: CPU per delivery");
    bench.report.add(what, figure, settings(bench, load));
}

fn settings(bench: &Bench, load: Load) -> String {
    let seconds = span(bench).as_secs();
    let Load { window, bytes, .. } = load;
    let settings = format!("W = {window}, {bytes} B, median of {RUNS} runs of {seconds} s");
    format!("{settings}; {}", bench.split.describe())
}

fn span(bench: &Bench) -> Duration {
    if bench.options.quick { SPAN / 2 } else { SPAN }
}

fn of(points: &[(usize, Point)]) -> Vec<(f64, f64)> {
    points.iter().map(|&(count, point)| (count as f64, point.delivery_us)).collect()
}

/// A publisher to several paths in turn.
struct InTurn {
    publisher: Publisher,
    targets: Vec<String>,
    next: usize,
}

impl InTurn {
    fn new(publisher: Publisher, paths: usize, path: impl Fn(usize) -> String) -> InTurn {
        let targets = (0..paths).map(|number| format!("/v1/publish{}", path(number))).collect();
        InTurn { publisher, targets, next: 0 }
    }
}

impl Outlet for InTurn {
    fn begin(&mut self, message: &[u8]) -> anyhow::Result<()> {
        self.publisher.begin(&self.targets[self.next], message)?;
        self.next = (self.next + 1) % self.targets.len();
        Ok(())
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.publisher.expect(202)
    }
}
