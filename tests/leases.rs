//! A pod whose lease has lapsed may be taken for dead: until it holds one again no event leaves it,
//! neither for streams nor for other pods' listeners, and then those that waited do, in their order.

mod support;

use std::time::{Duration, Instant};

use pathcast::broker::Failure;
use pathcast::proto::session_id::PodId;
use pathcast::proto::stream::{Entry, Fate};
use pathcast::proto::telling::{Place, What};
use rustix::process::Signal;
use support::brokered::{CONFIGURED, LEASE_TTL, Pod, in_time, path};
use support::events::{Event, Events};
use support::gateway::Gateway;
use support::pods::msg;
use support::redis::Redis;
use support::wait::{eventually, poll_pause};

/// The shortest there is.
const LEASE: Duration = Duration::from_secs(3);

/// One stream, so that one order is to be looked at.
const SETTINGS: &str = r#"stream_partitions = 1
lease_ttl = "3s"
[[path]]
path = "/ws"
backend = { stream = true }
"#;

const STREAM: &str = "pathcast:in:/ws:0";

/// A pod, and another one that listens to its events.
struct Trial {
    server: Redis,
    talked_at: Gateway,
    _heard_at: Gateway,
    events: Events,
}

impl Trial {
    async fn start() -> Trial {
        let server = Redis::start();
        server.command(&["ACL", "SETUSER", "lessee", "on", ">word", "~*", "&*", "+@all"]);
        let own = format!("redis://lessee:word@127.0.0.1:{}", server.port);
        let talked_at = start(&own).await;
        // One that may not claim the other, whose lease is to lapse for longer than is needed for that.
        server.command(&["ACL", "SETUSER", "witness", "on", ">word", "~*", "&*", "+@all", "-eval"]);
        let heard_at = start(&format!("redis://witness:word@127.0.0.1:{}", server.port)).await;
        let events = heard_at.listen("/ws").await;
        Trial { server, talked_at, _heard_at: heard_at, events }
    }

    fn lease_of(&self, session: &str) -> String {
        // An id begins with its pod's.
        format!("pathcast:lease:{}", &session[..13])
    }

    /// What the clients said, as the stream has it; of what came again, the first.
    fn streamed(&self) -> Vec<String> {
        let range = self.server.command(&["-2", "--json", "XRANGE", STREAM, "-", "+"]);
        let range: Vec<(String, Vec<String>)> = serde_json::from_str(&range).expect("entries");
        let mut found: Vec<(String, String)> = Vec::new();
        for (_, fields) in range {
            let field = |name| {
                let at = fields.iter().step_by(2).position(|field| field == name)?;
                Some(fields[2 * at + 1].clone())
            };
            let id = field("id").expect("every event has one");
            if let Some(msg) = field("msg")
                && found.iter().all(|(known, _)| *known != id)
            {
                let msg: serde_json::Value = serde_json::from_str(&msg).expect("JSON");
                found.push((id, msg["payload"].as_str().expect("a text").to_owned()));
            }
        }
        found.into_iter().map(|(_, payload)| payload).collect()
    }

    /// The next messages that a listener is told of, and how many events it is told to have missed.
    async fn told_until(&mut self, last: &str) -> (Vec<String>, u64) {
        let (mut told, mut missed) = (Vec::new(), 0);
        loop {
            let event = self.events.next().await;
            match event.kind.as_str() {
                "message" => told.push(payload(&event)),
                "gap" => missed += event.json()["missed"].as_u64().expect("their number"),
                _ => {}
            }
            if told.last().is_some_and(|told| told == last) {
                return (told, missed);
            }
        }
    }
}

async fn start(url: &str) -> Gateway {
    let gateway = Gateway::start(&format!("[broker]\nurl = \"{url}\"\n{SETTINGS}")).await;
    gateway.ready().await;
    gateway
}

fn payload(event: &Event) -> String {
    event.json()["msg"]["payload"].as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_stood_still_lets_no_event_out_before_it_has_renewed_its_lease() {
    let mut trial = Trial::start().await;
    let (mut client, session) = trial.talked_at.open_known("/ws", &mut trial.events).await;
    client.writer.text("before").await;
    assert_eq!(trial.told_until("before").await, (vec!["before".to_owned()], 0));
    eventually("the stream", async || (trial.streamed() == ["before"]).then_some(())).await;

    trial.talked_at.signal(Signal::STOP);
    // So that it does not do that at once.
    trial.server.command(&["ACL", "SETUSER", "lessee", "-set"]);
    for number in 0..5 {
        client.writer.text(&number.to_string()).await;
    }
    let lease = trial.lease_of(&session);
    let lapsed = async || (trial.server.command(&["EXISTS", &lease]) == "0").then_some(());
    eventually("a lease that has lapsed", lapsed).await;
    trial.talked_at.signal(Signal::CONT);
    for number in 5..10 {
        client.writer.text(&number.to_string()).await;
    }
    // The link is up all the while, and carries what is no event.
    let begun = Instant::now();
    while begun.elapsed() < LEASE {
        trial.talked_at.broadcast("/ws", msg("all")).await;
        client.expect_text("all").await;
        assert_eq!(trial.streamed(), ["before"]);
        poll_pause().await;
    }

    trial.server.command(&["ACL", "SETUSER", "lessee", "+set"]);
    let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let waited = async || Some(trial.streamed()).filter(|streamed| streamed.len() > 10);
    assert_eq!(eventually("what waited", waited).await[1..], expected);
    client.writer.text("after").await;
    // Listeners hear what happens now, and how much they have missed.
    assert_eq!(trial.told_until("after").await, (vec!["after".to_owned()], 10));
    let streamed = async || Some(trial.streamed()).filter(|streamed| streamed.len() > 11);
    assert_eq!(eventually("the last", streamed).await[11..], ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_waited_for_redis_longer_than_the_lease_go_back() {
    /// A batch ends with what is so long.
    const LONG: usize = 1 << 20;
    let server = Redis::start();
    let teller = Pod::start(PodId(*b"teller--"), &server).await;
    let hearer = Pod::start(PodId(*b"hearer--"), &server).await;
    let configured = CONFIGURED.into();
    in_time(hearer.broker.tap(&configured)).await.expect("tapped");
    let tell = |number| teller.broker.tell(CONFIGURED, Place { stretch: 1, number }, What::Beat);
    let fields = vec![("id", "event".to_owned())];
    let entries = [Entry { configured, partition: 0, fields }];

    server.signal(Signal::STOP);
    let under_way = teller.publish(&path("/ws/here"), "x".repeat(LONG));
    let told: Vec<_> = (0..10).map(tell).collect();
    let appended = teller.broker.append(&entries);
    // The last renewal that can be confirmed began before.
    tokio::time::sleep(LEASE_TTL).await;
    server.signal(Signal::CONT);
    in_time(under_way).await.expect("published");
    for told in told {
        let told = in_time(told).await;
        assert!(matches!(told, Err(Failure::Unavailable(_))), "{told:?}");
    }
    let appended = in_time(appended).await;
    assert!(matches!(appended, Err(Failure::Unavailable(_))), "{appended:?}");

    eventually("a lease", async || in_time(tell(10)).await.ok()).await;
    let line = format!("{CONFIGURED} {} 1:10 beat", teller.id);
    assert_eq!(hearer.heard.wait(1).await, [line]);
    assert_eq!(server.command(&["KEYS", "pathcast:in:*"]), "");
    assert_eq!(in_time(teller.broker.append(&entries)).await, Ok(vec![Fate::Taken]));
}
