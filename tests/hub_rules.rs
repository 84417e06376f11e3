//! Rules of a shard that only show from close by: order of farewells, bounds, accounts.

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use pathcast::broker::Receiver;
use pathcast::hub::Config;
use pathcast::hub::command::{Command, Greeting};
use pathcast::hub::inbound::{Inbound, Who};
use pathcast::proto::ask::{Answer, Reach};
use pathcast::proto::close::{Cause, Close};
use pathcast::proto::frame::Kind;
use pathcast::proto::grant::Grant;
use pathcast::proto::msg::Content;
use pathcast::proto::paths::{Configured, OnGap};
use support::pod::{Deaf, Pod, path, roomy};
use support::wait::{DEADLINE, until};
use support::wire;
use tokio::sync::oneshot;

fn pod(change: impl FnOnce(&mut Config)) -> Pod {
    let mut config = roomy(1);
    change(&mut config);
    Pod::start(config, Arc::new(Deaf))
}

#[test]
fn a_kick_comes_after_what_was_broadcast_before_it() {
    let pod = pod(|_| {});
    for round in 0..300 {
        let (mut client, id) = pod.join(0);
        assert!(pod.broadcast(0, "last word"));
        assert_eq!(pod.kick(id), Answer::Closed);
        let mut heard = [0; 15];
        client.read_exact(&mut heard).expect("a message and a close frame");
        assert_eq!(&heard[..11], b"\x81\x09last word", "round {round}");
        assert_eq!(heard[11], 0x88, "round {round}");
    }
}

#[test]
fn what_waits_in_rooms_counts_against_the_mailboxs_bound() {
    let pod = pod(|config| {
        config.mailbox_bytes_max = 1 << 20;
        config.frame_bytes_max = 1 << 20;
    });
    let clients: Vec<_> = (0..500).map(|_| pod.join(0)).collect();
    let text = "x".repeat(60_000);
    let taken = (0..10_000).take_while(|_| pod.broadcast(0, &text)).count();
    assert!(taken * text.len() < 8 << 20, "{taken} were taken before one was refused");
    assert!(pod.hub.is_crowded());
    drop(clients);
    until("the room is empty and takes again", || !pod.hub.is_crowded());
}

#[test]
fn half_a_message_of_one_who_was_kicked_is_not_counted_for_ever() {
    let pod = pod(|config| {
        config.message_bytes_max = 1000;
        config.inbound_total_bytes_max = 1000;
        config.close_timeout = Duration::from_millis(50);
    });
    for _ in 0..20 {
        let (mut client, id) = pod.join(0);
        client.write_all(&[0x82, 0x80 | 100, 0, 0, 0, 0, 1, 2, 3]).expect("it is open");
        assert_eq!(pod.kick(id), Answer::Closed);
        client.write_all(&[4, 5, 6]).expect("it lingers");
        until("it is forgotten", || pod.hub.occupied() == 0);
    }
    let (mut client, _) = pod.join(0);
    client.write_all(&[0x02, 0x81, 0, 0, 0, 0, 1]).expect("it is open");
    client.write_all(&[0x89, 0x80, 0, 0, 0, 0]).expect("it is open");
    let mut pong = [0; 2];
    client.read_exact(&mut pong).expect("it is served");
    assert_eq!(pong, [0x8a, 0]);
}

#[test]
fn one_who_is_kicked_in_mid_frame_can_still_close_in_good_order() {
    let pod = pod(|config| config.close_timeout = 10 * DEADLINE);
    let (mut client, id) = pod.join(0);
    client.write_all(&[0x82, 0x80 | 10, 0, 0, 0, 0, 1, 1, 1]).expect("it is open");
    assert_eq!(pod.kick(id), Answer::Closed);
    client.write_all(&[1; 7]).expect("it lingers");
    client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x0f, 0xa0]).expect("it lingers");
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("the server ends it, and long before its patience does");
    assert_eq!(heard, b"\x88\x08\x0f\xa0kicked");
}

#[test]
fn a_flood_of_pings_is_answered_whole_and_in_order() {
    let pod = pod(|_| {});
    let (mut client, _) = pod.join(0);
    let mut pings = Vec::new();
    let mut pongs = Vec::new();
    for number in 0..20_000u32 {
        let bytes = number.to_be_bytes();
        pings.extend_from_slice(&[0x89, 0x84, 0, 0, 0, 0]);
        pings.extend_from_slice(&bytes);
        pongs.extend_from_slice(&[0x8a, 4]);
        pongs.extend_from_slice(&bytes);
    }
    let mut writer = client.try_clone().expect("a socket can be shared");
    let writing = std::thread::spawn(move || writer.write_all(&pings));
    let mut heard = vec![0; pongs.len()];
    client.read_exact(&mut heard).expect("every ping is answered");
    assert!(heard == pongs, "the pongs are the pings");
    writing.join().expect("it wrote").expect("it wrote all");
}

#[test]
fn a_unicast_that_nobody_waits_for_is_dropped_and_counted() {
    let pod = pod(|_| {});
    let (mut client, id) = pod.join(0);
    let (reply, answer) = oneshot::channel();
    drop(answer);
    let content = Content::text("late".to_owned());
    let command = Command::Unicast { to: id, reach: Reach::Path(path(0)), content, reply };
    pod.hub.tell(&id, command).expect("it fits");
    assert!(pod.broadcast(0, "now"));
    let mut heard = [0; 5];
    client.read_exact(&mut heard).expect("a message");
    assert_eq!(&heard, b"\x81\x03now");
    assert_eq!(pod.metrics.unicasts.late.get(), 1);
    let (reply, answer) = oneshot::channel();
    let command = Command::LookUp { id, grant: Grant::All, reply };
    pod.hub.tell(&id, command).expect("it fits");
    assert!(matches!(answer.blocking_recv(), Ok(Answer::Info(_))), "and the session lives");
}

#[test]
fn more_unicasts_than_a_slice_sends_keep_their_place_in_a_fan_out() {
    const UNICASTS: usize = 5_000;
    let pod = pod(|_| {});
    let others: Vec<_> = (0..400).map(|_| pod.join(0)).collect();
    let (mut client, id) = pod.join(0);
    let mut answers = Vec::new();
    let mut wanted = Vec::new();
    for number in 0..UNICASTS {
        // Some of the broadcasts come between them, so that their places differ.
        if number % 500 == 0 {
            assert!(pod.broadcast(0, "all"));
            wanted.extend_from_slice(b"\x81\x03all");
        }
        let text = format!("{number:04}");
        wanted.extend_from_slice(&[0x81, 4]);
        wanted.extend_from_slice(text.as_bytes());
        let (reply, answer) = oneshot::channel();
        let content = Content::text(text);
        let command = Command::Unicast { to: id, reach: Reach::Path(path(0)), content, reply };
        pod.hub.tell(&id, command).expect("it fits");
        answers.push(answer);
    }
    let mut heard = vec![0; wanted.len()];
    client.read_exact(&mut heard).expect("everything");
    assert!(heard == wanted, "in the order of the mailbox");
    for answer in answers {
        assert_eq!(answer.blocking_recv(), Ok(Answer::Delivered));
    }
    drop(others);
}

#[test]
fn no_more_come_in_than_may_however_many_come_at_once() {
    const SESSIONS_MAX: usize = 10;
    let pod = pod(|config| {
        config.shards = 3;
        config.sessions_max = SESSIONS_MAX;
    });
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..300_000 {
                    let Ok(id) = pod.hub.place() else { continue };
                    pod.reserve(id, 0);
                    most.fetch_max(pod.hub.occupied(), Ordering::Relaxed);
                    pod.hub.abandon(id);
                }
            });
        }
    });
    assert_eq!(most.into_inner(), SESSIONS_MAX);
    until("everybody has gone", || pod.hub.occupied() == 0);
}

#[test]
fn one_who_closes_still_gets_what_was_broadcast_before() {
    let pod = pod(|_| {});
    for round in 0..300 {
        let (mut client, _) = pod.join(0);
        assert!(pod.broadcast(0, "last word"));
        client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).expect("it is open");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("an end in good order");
        assert_eq!(heard, b"\x81\x09last word\x88\x02\x03\xe8", "round {round}");
    }
}

/// Counts what it hears of sessions after they ended.
#[derive(Default)]
struct Afterwards {
    ended: AtomicUsize,
    messages: AtomicUsize,
}

impl Inbound for Afterwards {
    fn opened(&self, _: Who<'_>, _: Option<SocketAddr>, _: &Greeting) {}

    fn message(&self, _: Who<'_>, _: Kind, _: &[u8]) -> u8 {
        if self.ended.load(Ordering::Relaxed) > 0 {
            self.messages.fetch_add(1, Ordering::Relaxed);
        }
        0
    }

    fn closed(&self, _: Who<'_>, _: Option<(&Close, Cause)>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nothing_is_heard_of_one_who_was_closed_for_not_taking_his_answers() {
    for _ in 0..2 {
        let ears = Arc::<Afterwards>::default();
        let config = Config { outbox_bytes_max: 1000, ..roomy(1) };
        let pod = Pod::start(config, ears.clone());
        let (mut client, _) = pod.join(0);
        // Every ping asks for an answer; the texts are what may be heard.
        let texts = wire::frame(true, wire::TEXT, b"x").repeat(5);
        let frames = [wire::frame(true, wire::PING, &[0; 125]), texts].concat().repeat(100);
        until("it is closed", || {
            client.write_all(&frames).expect("it lingers, and is read");
            ears.ended.load(Ordering::Relaxed) > 0
        });
        let mut told = Vec::new();
        let close = wire::frame(true, wire::CLOSE, &[]);
        client.write_all(&[frames, close].concat()).expect("it lingers, and is read");
        client.read_to_end(&mut told).expect("an end in good order");
        assert_eq!(ears.messages.load(Ordering::Relaxed), 0, "after its end was told");
    }
}

/// Reads whole frames up to a close frame; how many messages came before it.
fn read_to_close(client: &mut std::net::TcpStream) -> (usize, u16, String) {
    let (mut buffer, mut piece, mut messages) = (BytesMut::new(), vec![0; 1 << 16], 0);
    loop {
        match wire::take_frame(&mut buffer).expect("the server speaks RFC 6455") {
            Some(frame) if frame.opcode == wire::CLOSE => {
                let close = wire::parse_close(&frame.payload).expect("a right close frame");
                let (code, reason) = close.expect("a code");
                return (messages, code, reason);
            }
            Some(_) => messages += 1,
            None => match client.read(&mut piece).expect("the close frame is still to come") {
                0 => panic!("the connection ended after {messages} messages without a close"),
                n => buffer.extend_from_slice(&piece[..n]),
            },
        }
    }
}

#[track_caller]
fn is_told_to_come_back((_, code, reason): &(usize, u16, String)) {
    let ms = reason.strip_prefix("retry_after_ms=").and_then(|ms| ms.parse::<u64>().ok());
    assert_eq!((*code, ms.is_some_and(|ms| ms <= 1_000)), (1012, true), "{reason}");
}

#[test]
fn whom_a_gap_closes_is_closed_by_a_broadcast_that_his_shard_refused() {
    let mut pod = pod(|config| {
        config.mailbox_bytes_max = 1 << 20;
        config.frame_bytes_max = 1 << 20;
    });
    let (mut patient, _) = pod.join(0);
    pod.configured =
        Arc::new(Configured { on_gap: OnGap::Close, ..Configured::clone(&pod.configured) });
    let (mut elsewhere, _) = pod.join(1);
    let overload = pod.metrics.path(pod.configured.pattern.text());
    let publish = |number: usize, text: String| {
        drop(pod.publish(path(number), Content::text(text)));
    };
    // Again and again: whoever comes later is told of what he misses, not of what was before him.
    for round in 0..5 {
        let (mut strict, _) = pod.join(0);
        publish(0, format!("welcome {round}"));
        let before = overload.undelivered_overload.get();
        until("a refused broadcast", || {
            (0..10).for_each(|_| publish(0, "x".repeat(300_000)));
            overload.undelivered_overload.get() > before
        });
        let end = read_to_close(&mut strict);
        is_told_to_come_back(&end);
        assert!(end.0 >= 1, "what came before the gap comes before the close");
        until("room", || !pod.hub.is_crowded());
    }
    publish(1, "well".into());
    let mut heard = [0; 6];
    elsewhere.read_exact(&mut heard).expect("a message");
    assert_eq!(&heard, b"\x81\x04well");
    publish(0, "last".into());
    let heard = std::thread::spawn(move || {
        let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while !all.ends_with(b"\x81\x04last") {
            let n = patient.read(&mut piece).expect("he stays");
            assert!(n > 0, "he was not closed");
            all.extend_from_slice(&piece[..n]);
        }
    });
    heard.join().expect("everything that was taken");
}

#[test]
fn a_gap_closes_whom_it_closes_on_every_shard_and_path() {
    let mut pod = Pod::start(roomy(3), Arc::new(Deaf));
    let (mut patient, _) = pod.join(0);
    pod.configured =
        Arc::new(Configured { on_gap: OnGap::Close, ..Configured::clone(&pod.configured) });
    let mut strict: Vec<_> = (0..600).map(|number| pod.join(number % 7).0).collect();
    pod.local().gap();
    for client in &mut strict {
        is_told_to_come_back(&read_to_close(client));
    }
    drop(pod.publish(path(0), Content::text("still here".into())));
    let mut heard = [0; 12];
    patient.read_exact(&mut heard).expect("a message");
    assert_eq!(&heard[2..], b"still here");
}
