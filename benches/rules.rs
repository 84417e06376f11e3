//! The rules on the way of a message, each alone: what a decoder, a parser, an envelope cost.
//!
//! `cargo bench --bench rules`. For comparing two builds on one machine; what a delivery costs in
//! all, the bench `fanout` tells.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pathcast::proto::envelope::{Body, Envelope};
use pathcast::proto::frame::{self, Kind};
use pathcast::proto::msg::{Content, Msg};
use pathcast::proto::session::{Action, Session};
use uuid::Uuid;

/// What a read of a busy client holds.
const MESSAGES: usize = 100;

const MESSAGE_BYTES: usize = 100;

/// Frames that one write carries when sixteen messages wait.
const JOINED: usize = 16;

/// As many bytes of text, masked as a client has to (RFC 6455 section 5.3).
fn masked(payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let length = u8::try_from(payload.len()).expect("a short message");
    let mut frame = vec![0x81, 0x80 | length];
    frame.extend(KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn decoder(criterion: &mut Criterion) {
    let input = masked(&[b'x'; MESSAGE_BYTES]).repeat(MESSAGES);
    let mut group = criterion.benchmark_group("decoder");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function("100 texts of 100 B", |bencher| {
        let mut session = Session::new();
        let decode = |mut input: Vec<u8>| {
            let mut rest = &mut input[..];
            loop {
                let (consumed, action) = session.feed(rest, 1 << 20, None);
                if let Action::Idle = action {
                    break;
                }
                black_box(&action);
                rest = &mut rest[consumed..];
            }
            input
        };
        bencher.iter_batched(|| input.clone(), decode, BatchSize::SmallInput);
    });
    group.finish();
}

fn msg(criterion: &mut Criterion) {
    let json = format!(r#"{{"payload":{{"text":"{}","n":1.50}},"topic":"t"}}"#, "x".repeat(80));
    let mut group = criterion.benchmark_group("msg");
    group.bench_function("parse 100 B of JSON", |bencher| {
        bencher.iter(|| Msg::parse(black_box(json.as_bytes())).expect("a good msg"));
    });
    let content = Msg::parse(json.as_bytes()).expect("a good msg").content;
    for (name, wholemsg) in [("payload to frame", false), ("whole msg to frame", true)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (kind, payload) = content.frame(black_box(wholemsg)).expect("something");
                frame::encode(kind, &payload)
            });
        });
    }
    group.finish();
}

fn envelope(criterion: &mut Criterion) {
    let content = Content::binary(Bytes::from_static(&[b'x'; MESSAGE_BYTES]));
    let body = Body::Broadcast(content);
    let envelope = Envelope { id: Uuid::nil(), published_ms: 1, traceparent: None, body };
    let bytes = Bytes::from(envelope.encode());
    let mut group = criterion.benchmark_group("envelope of 100 B");
    group.bench_function("encode", |bencher| bencher.iter(|| black_box(&envelope).encode()));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Envelope::decode(black_box(bytes.clone())).expect("a good envelope"));
    });
    group.finish();
}

fn join(criterion: &mut Criterion) {
    let frames = vec![frame::encode(Kind::Binary, &[b'x'; MESSAGE_BYTES]); JOINED];
    let joined = frames.concat();
    let mut group = criterion.benchmark_group("16 frames of 100 B");
    group.bench_function("join", |bencher| bencher.iter(|| black_box(&frames).concat()));
    group.bench_function("find the one on its way", |bencher| {
        bencher.iter(|| frame::span(black_box(&joined), joined.len() - 1));
    });
    group.finish();
}

criterion_group!(benches, decoder, msg, envelope, join);
criterion_main!(benches);
