use std::sync::Arc;

use proptest::prelude::*;

use crate::proto::envelope::*;
use crate::proto::msg::Msg;

const POD: PodId = PodId(*b"pod-aaaa");
const SESSION: SessionId = SessionId { pod: POD, shard: 2, random: *b"random-random-16" };

fn path(text: &str) -> Path {
    Path::parse(text).expect("a good path")
}

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn msg(json: &str) -> Content {
    Msg::parse(json.as_bytes()).expect("a good msg").content
}

fn envelope(body: Body) -> Envelope {
    Envelope {
        id: Uuid::from_bytes(*b"message-id-is-16"),
        published_ms: 0x0102_0304_0506_0708,
        traceparent: None,
        body,
    }
}

/// The bytes of version 1, for ever. `kind` and `body` are what comes before and after the rest.
#[track_caller]
fn pinned(envelope: Envelope, kind: u8, body: &[&[u8]]) {
    let mut expected = vec![1, kind];
    expected.extend(b"message-id-is-16\x01\x02\x03\x04\x05\x06\x07\x08");
    match &envelope.traceparent {
        None => expected.push(0),
        Some(traceparent) => {
            expected.extend([1, 0, 0, 0, 55]);
            expected.extend(traceparent.as_str().as_bytes());
        }
    }
    expected.extend(body.concat());
    assert_eq!(envelope.encode().escape_ascii().to_string(), expected.escape_ascii().to_string());
    assert_eq!(Envelope::decode(expected.into()), Ok(envelope));
}

#[track_caller]
fn broadcast(content: Content, body: &[&[u8]]) {
    pinned(envelope(Body::Broadcast(content)), 1, body);
}

#[track_caller]
fn ask(ask: Ask, body: &[&[u8]]) {
    let ask =
        Body::Ask { from: PodId(*b"pod-bbbb"), correlation: 5, sent_ms: 6, age_limit_ms: 7, ask };
    let head = b"pod-bbbb\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x07";
    pinned(envelope(ask), 2, &[head, &body.concat()]);
}

#[track_caller]
fn answer(answer: Answer, body: &[&[u8]]) {
    let answer = Body::Answer { correlation: 5, answer };
    pinned(envelope(answer), 3, &[b"\0\0\0\0\0\0\0\x05", &body.concat()]);
}

const ID: &[u8] = b"pod-aaaa\x02random-random-16";

#[test]
fn version_1_of_a_broadcast_stays() {
    broadcast(Content::text("héllo".into()), &[b"\0", b"\0\0\0\x06", "héllo".as_bytes()]);
    broadcast(Content::binary(Bytes::from_static(b"\0\xff")), &[b"\x01", b"\0\0\0\x02\0\xff"]);
    broadcast(msg("{}"), &[b"\x02", b"\0\0\0\x02{}", b"\0"]);
    broadcast(
        msg(r#"{"payload":"hi"}"#),
        &[b"\x02", b"\0\0\0\x10{\"payload\":\"hi\"}", b"\x01\0\0\0\x0c\0\0\0\x0e"],
    );
    broadcast(
        msg(r#"{"payload":"\n"}"#),
        &[b"\x02", b"\0\0\0\x10{\"payload\":\"\\n\"}", b"\x02\0\0\0\x0c\0\0\0\x0e"],
    );
    broadcast(
        msg(r#"{"payload":{"type":"Buffer","data":[7]}}"#),
        &[
            b"\x02",
            b"\0\0\0\x28{\"payload\":{\"type\":\"Buffer\",\"data\":[7]}}",
            b"\x03\0\0\0\x01\x07",
        ],
    );
    broadcast(
        msg(r#"{"a":1,"payload":1.50}"#),
        &[b"\x02", b"\0\0\0\x16{\"a\":1,\"payload\":1.50}", b"\x04\0\0\0\x11\0\0\0\x15"],
    );
}

#[test]
fn version_1_of_a_question_stays() {
    let globs = [Glob::parse("/a/*").unwrap(), Glob::parse("*").unwrap()];
    let grant = Grant::Globs(globs.into());
    let grant_bytes = b"\x01\0\0\0\x02\0\0\0\x04/a/*\0\0\0\x02**";
    ask(
        Ask::Unicast {
            to: SESSION,
            reach: Reach::Path(path("/ws")),
            content: Content::text("x".into()),
        },
        &[b"\x01", ID, b"\0\0\0\0\x03/ws", b"\0\0\0\0\x01x"],
    );
    ask(
        Ask::Unicast {
            to: SESSION,
            reach: Reach::Granted(grant.clone()),
            content: Content::text("x".into()),
        },
        &[b"\x01", ID, b"\x01", grant_bytes, b"\0\0\0\0\x01x"],
    );
    ask(Ask::LookUp { id: SESSION, grant: Grant::All }, &[b"\x02", ID, b"\0"]);
    ask(
        Ask::Close { id: SESSION, grant: Grant::All, close: Close::new(4000, "bye") },
        &[b"\x03", ID, b"\0", b"\x0f\xa0\0\0\0\x03bye"],
    );
    ask(
        Ask::List { filter: Some("/ws/{r}".into()), after: Some(SESSION), limit: 9, grant },
        &[b"\x04", b"\x01\0\0\0\x07/ws/{r}", b"\x01", ID, b"\0\0\0\x09", grant_bytes],
    );
    ask(
        Ask::List { filter: None, after: None, limit: 9, grant: Grant::All },
        &[b"\x04\0\0\0\0\0\x09\0"],
    );
    ask(Ask::Census, &[b"\x05"]);
    ask(Ask::Tap { configured: "/ws/{r}".into() }, &[b"\x06", b"\0\0\0\x07/ws/{r}"]);
    ask(
        Ask::Upstream { name: "feed".into(), content: Content::text("x".into()) },
        &[b"\x14", b"\0\0\0\x04feed", b"\0\0\0\0\x01x"],
    );
    ask(Ask::UpstreamState { name: "feed".into() }, &[b"\x15", b"\0\0\0\x04feed"]);
}

#[test]
fn version_1_of_an_answer_stays() {
    answer(Answer::Delivered, &[b"\x01"]);
    answer(Answer::Gone, &[b"\x02"]);
    answer(Answer::OutboxFull, &[b"\x03"]);
    answer(Answer::Overloaded, &[b"\x04"]);
    answer(Answer::Nothing, &[b"\x05"]);
    answer(Answer::TooBig(1 << 20), &[b"\x06\0\0\0\0\0\x10\0\0"]);
    answer(Answer::Closed, &[b"\x07"]);
    let info = |remote: &str, subprotocol: Option<&str>| SessionInfo {
        id: SESSION,
        path: path("/ws"),
        opened_ms: 3,
        remote: remote.parse().ok(),
        subprotocol: subprotocol.map(str::to_owned),
    };
    let head = [ID, b"\0\0\0\x03/ws", b"\0\0\0\0\0\0\0\x03"].concat();
    answer(Answer::Info(info("", None)), &[b"\x08", &head, b"\0\0"]);
    answer(
        Answer::Info(info("127.0.0.1:258", Some("v1"))),
        &[b"\x08", &head, b"\x04\x7f\0\0\x01\x01\x02", b"\x01\0\0\0\x02v1"],
    );
    answer(
        Answer::Sessions { sessions: vec![info("[::1]:258", None)], after: Some(SESSION) },
        &[
            b"\x09\0\0\0\x01",
            &head,
            b"\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02",
            b"\0",
            b"\x01",
            ID,
        ],
    );
    answer(Answer::Sessions { sessions: vec![], after: None }, &[b"\x09\0\0\0\0\0"]);
    let count = PathCount { path: path("/ws/1"), configured: "/ws/{r}".into(), sessions: 4 };
    answer(
        Answer::Census(vec![count]),
        &[b"\x0a\0\0\0\x01", b"\0\0\0\x05/ws/1\0\0\0\x07/ws/{r}\0\0\0\0\0\0\0\x04"],
    );
    answer(
        Answer::Tapped(Place { stretch: 2, number: 3 }),
        &[b"\x0b", b"\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"],
    );
    answer(Answer::Dispatched(Dispatch::Sent), &[b"\x14"]);
    answer(Answer::Dispatched(Dispatch::Queued), &[b"\x15"]);
    let state = State {
        epoch: 1,
        is_connected: true,
        why: Some("x".into()),
        received: 2,
        sent: 3,
        lost: 4,
        waiting: 5,
        waiting_bytes: 6,
    };
    let counts = [2, 3, 4, 5, 6].map(u64::to_be_bytes).concat();
    let head = b"\x16\0\0\0\0\0\0\0\x01\x01\x01\0\0\0\x01x";
    answer(Answer::UpstreamState(state), &[head, &counts]);
}

#[test]
fn version_1_of_what_is_told_stays() {
    #[track_caller]
    fn told(what: What, body: &[&[u8]]) {
        let told = Told { from: POD, place: Place { stretch: 2, number: 3 }, what };
        let head = b"pod-aaaa\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03";
        pinned(envelope(Body::Told(told)), 5, &[head, &body.concat()]);
    }
    for (kind, byte) in [(Kind::Connect, 1), (Kind::Message, 2), (Kind::Disconnect, 3)] {
        let json = Bytes::from_static(br#"{"id":"x-0"}"#);
        let event = What::Event { id: "x-0".into(), kind, path: path("/ws"), json };
        let texts = b"\0\0\0\x03x-0\0\0\0\x03/ws\0\0\0\x0c{\"id\":\"x-0\"}";
        told(event, &[&[byte], texts]);
    }
    told(What::Beat, &[b"\x04"]);
    told(What::Last, &[b"\x05"]);
}

#[test]
fn version_1_of_a_ping_and_of_a_trace_context_stays() {
    let ping = envelope(Body::Ping { nonce: 9 });
    pinned(ping.clone(), 4, &[b"\0\0\0\0\0\0\0\x09"]);
    let traced = Envelope { traceparent: Traceparent::parse(TRACEPARENT), ..ping };
    pinned(traced, 4, &[b"\0\0\0\0\0\0\0\x09"]);
}

#[track_caller]
fn refused(bytes: &[u8], why: &'static str) {
    let refused = Envelope::decode(Bytes::copy_from_slice(bytes));
    assert_eq!(refused.map_err(|malformed| malformed.0), Err(why));
}

#[test]
fn what_this_version_cannot_have_written_is_refused() {
    let good = envelope(Body::Broadcast(msg(r#"{"payload":"é"}"#))).encode();
    for end in 0..good.len() {
        refused(&good[..end], "cut short");
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    refused(&with(0, 2), "no such version");
    refused(&with(0, b'{'), "no such version");
    refused(&with(1, 0), "no such kind");
    refused(&with(1, 6), "no such kind");
    refused(&with(27, 3), "no such content");
    refused(&with(good.len() - 1, 13), "a text that is not UTF-8");
    refused(&with(good.len() - 1, 99), "a part outside of its whole");
    refused(&with(good.len() - 20, 0xff), "a text that is not UTF-8");
    refused(&[&good[..], b"x"].concat(), "more than was announced");

    let traceparent = Traceparent::parse(TRACEPARENT);
    let mut traced = Envelope { traceparent, ..envelope(Body::Ping { nonce: 0 }) }.encode();
    traced[31..33].copy_from_slice(b"01");
    refused(&traced, "a trace context that is none");

    for (id, json) in [("x\n", "{}"), ("x", "{\n}")] {
        let (id, path, json) = (id.into(), path("/ws"), Bytes::from_static(json.as_bytes()));
        let what = What::Event { id, kind: Kind::Message, path, json };
        let told = Told { from: POD, place: Place { stretch: 0, number: 0 }, what };
        refused(&envelope(Body::Told(told)).encode(), "an event of more than one line");
    }
}

#[test]
fn a_content_shares_the_memory_of_its_envelope() {
    let bytes = Bytes::from(envelope(Body::Broadcast(Content::text("x".repeat(100)))).encode());
    let within = bytes.as_ptr_range();
    let Ok(Envelope { body: Body::Broadcast(content), .. }) = Envelope::decode(bytes) else {
        panic!("a broadcast");
    };
    let (_, payload) = content.frame(false).expect("something to send");
    assert!(within.contains(&payload.as_ptr()));
}

fn any_content() -> impl Strategy<Value = Content> {
    prop_oneof![
        any::<String>().prop_map(Content::text),
        any::<Vec<u8>>().prop_map(|bytes| Content::binary(bytes.into())),
        any::<String>().prop_map(|text| {
            let json = serde_json::json!({"a": text, "payload": text, "b": [text]});
            msg(&json.to_string())
        }),
        any::<Vec<u8>>().prop_map(|bytes| {
            msg(&serde_json::json!({"payload": {"type": "Buffer", "data": bytes}}).to_string())
        }),
        any::<Option<i64>>()
            .prop_map(|n| msg(&serde_json::json!({"x": 1, "payload": n}).to_string())),
    ]
}

fn any_id() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(|random| SessionId { random, ..SESSION })
}

fn any_path() -> impl Strategy<Value = Path> {
    "/[a-zA-Z0-9%._~/-]{0,40}".prop_map(|text| path(&text))
}

fn any_grant() -> impl Strategy<Value = Grant> {
    let globs = prop::collection::vec("/[a-z*/]{0,10}", 0..4);
    prop_oneof![
        Just(Grant::All),
        globs.prop_map(|globs| {
            let globs: Arc<[Glob]> =
                globs.iter().filter_map(|glob| Glob::parse(glob).ok()).collect();
            Grant::Globs(globs)
        }),
    ]
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let reach = prop_oneof![any_path().prop_map(Reach::Path), any_grant().prop_map(Reach::Granted)];
    prop_oneof![
        (any_id(), reach, any_content()).prop_map(|(to, reach, content)| Ask::Unicast {
            to,
            reach,
            content
        }),
        (any_id(), any_grant()).prop_map(|(id, grant)| Ask::LookUp { id, grant }),
        (any_id(), any_grant(), any::<u16>(), any::<String>()).prop_map(
            |(id, grant, code, why)| Ask::Close { id, grant, close: Close::new(code, why) }
        ),
        (any::<Option<String>>(), prop::option::of(any_id()), any::<u32>(), any_grant()).prop_map(
            |(filter, after, limit, grant)| Ask::List {
                filter,
                after,
                limit: limit as usize,
                grant
            }
        ),
        Just(Ask::Census),
        any::<String>().prop_map(|text| Ask::Tap { configured: text.into() }),
        (any::<String>(), any_content())
            .prop_map(|(text, content)| Ask::Upstream { name: text.into(), content }),
        any::<String>().prop_map(|text| Ask::UpstreamState { name: text.into() }),
    ]
}

fn any_info() -> impl Strategy<Value = SessionInfo> {
    let remote = prop::option::of((any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from));
    (any_id(), any_path(), any::<u64>(), remote, any::<Option<String>>()).prop_map(
        |(id, path, opened_ms, remote, subprotocol)| SessionInfo {
            id,
            path,
            opened_ms,
            remote,
            subprotocol,
        },
    )
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let count = (any_path(), any::<String>(), any::<u64>())
        .prop_map(|(path, text, sessions)| PathCount { path, configured: text.into(), sessions });
    prop_oneof![
        Just(Answer::Delivered),
        any::<usize>().prop_map(Answer::TooBig),
        any_info().prop_map(Answer::Info),
        (prop::collection::vec(any_info(), 0..4), prop::option::of(any_id()))
            .prop_map(|(sessions, after)| Answer::Sessions { sessions, after }),
        prop::collection::vec(count, 0..4).prop_map(Answer::Census),
        any_place().prop_map(Answer::Tapped),
        Just(Answer::Dispatched(Dispatch::Sent)),
        Just(Answer::Dispatched(Dispatch::Queued)),
        (any::<[u64; 6]>(), any::<bool>(), any::<Option<String>>()).prop_map(
            |([epoch, received, sent, lost, waiting, waiting_bytes], is_connected, why)| {
                Answer::UpstreamState(State {
                    epoch,
                    is_connected,
                    why,
                    received,
                    sent,
                    lost,
                    waiting,
                    waiting_bytes,
                })
            }
        ),
    ]
}

fn any_place() -> impl Strategy<Value = Place> {
    any::<(u64, u64)>().prop_map(|(stretch, number)| Place { stretch, number })
}

fn any_told() -> impl Strategy<Value = Told> {
    let kind = prop_oneof![Just(Kind::Connect), Just(Kind::Message), Just(Kind::Disconnect)];
    let what = prop_oneof![
        ("[ -~é]{0,20}", kind, any_path(), "[ -~é]{0,40}").prop_map(|(id, kind, path, json)| {
            What::Event { id, kind, path, json: json.into() }
        }),
        Just(What::Beat),
        Just(What::Last),
    ];
    (any_place(), what).prop_map(|(place, what)| Told { from: POD, place, what })
}

fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        any_content().prop_map(Body::Broadcast),
        (any::<[u8; 3]>(), any::<[u64; 3]>(), any_ask()).prop_map(
            |([a, b, c], [correlation, sent_ms, age_limit_ms], ask)| Body::Ask {
                from: PodId([a, b, c, 0, 1, 2, 3, 4]),
                correlation,
                sent_ms,
                age_limit_ms,
                ask,
            }
        ),
        (any::<u64>(), any_answer())
            .prop_map(|(correlation, answer)| Body::Answer { correlation, answer }),
        any::<u64>().prop_map(|nonce| Body::Ping { nonce }),
        any_told().prop_map(Body::Told),
    ]
}

proptest! {
    #[test]
    fn an_envelope_is_its_bytes_and_they_are_it(
        id: [u8; 16],
        published_ms: u64,
        traceparent in prop::option::of("00-[0-9a-f]{31}1-[0-9a-f]{15}1-[0-9a-f]{2}"),
        body in any_body(),
    ) {
        let traceparent = traceparent.and_then(|text| Traceparent::parse(&text));
        let envelope = Envelope { id: Uuid::from_bytes(id), published_ms, traceparent, body };
        prop_assert_eq!(Envelope::decode(envelope.encode().into()), Ok(envelope));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        kind in 0u8..7, form: u8, rest: Vec<u8>, at: prop::sample::Index, byte: u8, body in any_body(),
    ) {
        let mut bent = envelope(body).encode();
        let at = at.index(bent.len());
        bent[at] = byte;
        let mut made = envelope(Body::Ping { nonce: 0 }).encode();
        made[1] = kind;
        made.truncate(27);
        made.push(form % 12);
        made.extend(&rest);
        for bytes in [rest, made, bent] {
            if let Ok(envelope) = Envelope::decode(bytes.clone().into()) {
                prop_assert_eq!(envelope.encode(), bytes);
                if let Body::Broadcast(content) = envelope.body {
                    let _ = (content.frame(false), content.frame(true));
                }
            }
        }
    }
}
