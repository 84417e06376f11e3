//! Whatever the order of broadcasts, unicasts, comings, goings and slow readers: every session gets
//! exactly what a simple model says, in its order, with one shard as with three.

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use pathcast::broker::{Broker, Letter, Pending};
use pathcast::hub::Config;
use pathcast::proto::ask::{Answer, Ask, Reach};
use pathcast::proto::msg::Content;
use pathcast::proto::paths::Configured;
use pathcast::proto::session_id::SessionId;
use proptest::prelude::*;
use support::pod::{Deaf, POD, Pod, path as path_of, roomy};
use support::wait::{DEADLINE, until};
use support::wire;

/// Some are smaller, most are not.
const COMPRESS_FROM_BYTES: usize = 100;

#[derive(Debug, Clone)]
enum Step {
    Join {
        path: usize,
        slow: bool,
        deflates: bool,
    },
    /// `size` is the payload's, in bytes; so are small and joined, large and split ones made.
    Broadcast {
        path: usize,
        size: usize,
    },
    Unicast {
        session: usize,
        size: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![8 => 1usize..300, 2 => 10_000usize..100_000, 1 => 200_000usize..900_000];
    let step = prop_oneof![
        2 => (0usize..3, prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(path, slow, deflates)| Step::Join { path, slow, deflates }),
        6 => (0usize..3, size.clone()).prop_map(|(path, size)| Step::Broadcast { path, size }),
        6 => (0usize..12, size).prop_map(|(session, size)| Step::Unicast { session, size }),
    ];
    prop::collection::vec(step, 1..120)
}

struct Client {
    id: SessionId,
    path: usize,
    stream: TcpStream,
    slow: bool,
    /// By their numbers.
    expected: Vec<usize>,
}

impl Client {
    fn join(pod: &mut Pod, path: usize, slow: bool, deflates: bool) -> Client {
        pod.deflates = deflates;
        let (stream, id) = pod.join(path);
        Client { id, path, stream, slow, expected: Vec::new() }
    }
}

/// Begins with its number, so that what arrives can be told apart. One in three can be made a little
/// smaller, one not at all, one to almost nothing.
fn text(number: usize, size: usize) -> String {
    if number.is_multiple_of(3) {
        return format!("{number:08}{}", "x".repeat(size));
    }
    let mut random = number as u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 25) as u8
    };
    let char = |byte: u8| match number % 3 {
        1 => char::from(b'a' + byte % 16),
        _ => char::from(byte),
    };
    let rest: String = (0..size).map(|_| char(next())).collect();
    format!("{number:08}{rest}")
}

/// Reads server frames until `count` are there; their numbers. Each is to be the text of its number.
fn read(stream: &mut TcpStream, count: usize, texts: &[String]) -> Vec<usize> {
    let mut read = Vec::new();
    let mut exactly = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).expect("what was sent arrives");
        buffer
    };
    while read.len() < count {
        let head = exactly(2);
        assert_eq!(head[0] | wire::DEFLATED, 0xc1, "final text frames only");
        let bytes = match head[1] {
            126 => usize::from(u16::from_be_bytes(exactly(2).try_into().expect("two bytes"))),
            127 => u64::from_be_bytes(exactly(8).try_into().expect("eight bytes")) as usize,
            short => usize::from(short),
        };
        let mut payload = exactly(bytes);
        if head[0] & wire::DEFLATED != 0 {
            payload = wire::inflate(&payload);
            assert!(payload.len() > bytes, "only what becomes smaller is deflated");
        }
        let digits = std::str::from_utf8(&payload[..8]).expect("digits");
        let number: usize = digits.parse().expect("digits");
        assert!(payload == texts[number].as_bytes(), "{number}, {bytes} bytes of it");
        read.push(number);
    }
    read
}

fn delivered(runtime: &tokio::runtime::Runtime, verdict: Pending<Answer>) {
    let verdict = runtime.block_on(async { tokio::time::timeout(DEADLINE, verdict).await });
    assert_eq!(verdict.expect("in time"), Ok(Answer::Delivered));
}

/// Runs the steps and compares what every client got with what the model expects.
fn run(shards: usize, steps: &[Step]) {
    run_with(roomy(shards), None, steps);
}

fn run_with(config: Config, flush_interval: Option<Duration>, steps: &[Step]) {
    let shards = config.shards;
    let mut pod = Pod::start(config, Arc::new(Deaf));
    pod.configured = Arc::new(Configured {
        flush_interval,
        compress_from_bytes: Some(COMPRESS_FROM_BYTES),
        ..Configured::clone(&pod.configured)
    });
    let mut clients: Vec<Client> =
        (0..3).map(|path| Client::join(&mut pod, path, false, path == 0)).collect();
    let mut verdicts: Vec<Pending<Answer>> = Vec::new();
    let texts: Vec<String> = steps
        .iter()
        .enumerate()
        .map(|(number, step)| match *step {
            Step::Join { .. } => String::new(),
            Step::Broadcast { size, .. } | Step::Unicast { size, .. } => text(number, size),
        })
        .collect();
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Join { path, slow, deflates } => {
                clients.push(Client::join(&mut pod, path, slow, deflates));
            }
            Step::Broadcast { path, .. } => {
                drop(pod.publish(path_of(path), Content::text(texts[number].clone())));
                for client in clients.iter_mut().filter(|client| client.path == path) {
                    client.expected.push(number);
                }
            }
            Step::Unicast { session, .. } => {
                let session = session % clients.len();
                let client = &mut clients[session];
                client.expected.push(number);
                let reach = Reach::Path(path_of(client.path));
                let content = Content::text(texts[number].clone());
                verdicts.push(
                    pod.broker
                        .ask(Letter::new(POD, Ask::Unicast { to: client.id, reach, content })),
                );
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime starts");
    // The slow ones read only when everybody else has everything.
    clients.sort_by_key(|client| client.slow);
    let mut got = BTreeMap::new();
    for client in &mut clients {
        if client.slow && !verdicts.is_empty() {
            // Verdicts do not wait for readers.
            for verdict in std::mem::take(&mut verdicts) {
                delivered(&runtime, verdict);
            }
        }
        got.insert(client.id, read(&mut client.stream, client.expected.len(), &texts));
    }
    for verdict in verdicts {
        delivered(&runtime, verdict);
    }
    for client in &mut clients {
        assert_eq!(got[&client.id], client.expected, "{shards} shards, path {}", client.path);
        client.stream.set_nonblocking(true).expect("a socket can be non-blocking");
        let more = client.stream.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(more, Err(std::io::ErrorKind::WouldBlock), "and nothing more");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_shard_and_three_give_every_session_what_the_model_says(steps in steps()) {
        run(1, &steps);
        run(3, &steps);
    }

    #[test]
    fn rounds_that_wait_to_be_joined_give_the_same(steps in steps()) {
        run_with(roomy(1), Some(Duration::from_millis(2)), &steps);
        let join_pause = Some(Duration::from_micros(200));
        run_with(Config { join_pause, ..roomy(1) }, None, &steps);
    }
}

#[test]
fn a_unicast_in_a_fan_out_to_many_waits_for_its_turn() {
    let join = |deflates| Step::Join { path: 0, slow: false, deflates };
    let mut steps: Vec<Step> = (0..700).map(|number| join(number % 2 == 0)).collect();
    for session in 0..200 {
        steps.push(Step::Broadcast { path: 0, size: 50 + session });
        steps.push(Step::Unicast { session: session * 7 % 700, size: 20 });
        if session % 50 == 0 {
            steps.push(join(session % 100 == 0));
        }
    }
    run(1, &steps);
    run(3, &steps);
}

#[test]
fn more_large_broadcasts_than_may_wait_to_be_deflated_lose_nothing() {
    let join = |number: usize| Step::Join {
        path: number % 2,
        slow: number.is_multiple_of(5),
        deflates: !number.is_multiple_of(4),
    };
    let mut steps: Vec<Step> = (0..24).map(join).collect();
    for number in 0..60 {
        steps.push(Step::Broadcast { path: number % 2, size: 66_000 + 1000 * (number % 7) });
        steps.push(Step::Broadcast { path: number % 2, size: 100 + number });
        steps.push(Step::Unicast { session: number % 24, size: 150 });
    }
    run(1, &steps);
    run(3, &steps);
}

#[test]
fn shards_stay_balanced_through_comings_and_goings() {
    let mut pod = Pod::start(roomy(3), Arc::new(Deaf));
    let mut clients: Vec<Client> = Vec::new();
    for round in 0..10 {
        clients.extend((0..60).map(|number| Client::join(&mut pod, number % 3, false, false)));
        let leaving: Vec<Client> = {
            let mut at = 0;
            let (go, stay) = clients.into_iter().partition(|_| {
                at += 1;
                (at * 7 + round) % 3 == 0
            });
            clients = stay;
            go
        };
        drop(leaving);
        let staying = clients.len();
        until("sessions that left are forgotten", || pod.hub.occupied() == staying);
        clients.extend((0..60).map(|number| Client::join(&mut pod, number % 3, false, false)));
        let imbalance = pod.hub.imbalance();
        assert!(imbalance <= clients.len() / 30 + 1, "{imbalance} of {}", clients.len());
    }
}
