//! Pods of two releases side by side: of a known version of the envelope the later one may say what
//! the earlier one does not know. That is counted and dropped, and everything else goes on.

mod support;

use pathcast::broker::Failure;
use pathcast::proto::ask::{Answer, Ask};
use pathcast::proto::envelope::{Body, Envelope};
use pathcast::proto::session_id::PodId;
use pathcast::proto::telling::{Place, Told, What};
use support::brokered::{CONFIGURED, Pod, in_time, path};
use support::redis::Redis;
use support::wait::eventually;
use uuid::Uuid;

const THIS: PodId = PodId(*b"this-one");
const LATER: PodId = PodId(*b"later---");

/// Known to no release.
const MADE_UP: u8 = 0xee;

/// Where an envelope without a trace context says of what kind it is, and where its body begins.
const KIND_AT: usize = 1;
const BODY_AT: usize = 27;

fn envelope(body: Body) -> Vec<u8> {
    Envelope { id: Uuid::nil(), published_ms: 0, traceparent: None, body }.encode()
}

/// With another kind of something at that place.
fn made_up(mut envelope: Vec<u8>, at: usize) -> Vec<u8> {
    envelope[at] = MADE_UP;
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_release_says_is_counted_and_dropped() {
    let server = Redis::start();
    let pod = Pod::start(THIS, &server).await;
    let here = path("/ws/here");
    pod.subscribe(&here).await;
    in_time(pod.broker.tap(&CONFIGURED.into())).await.expect("tapped");

    let ping = envelope(Body::Ping { nonce: 0 });
    let told = Told { from: LATER, place: Place { stretch: 1, number: 0 }, what: What::Beat };
    let told = envelope(Body::Told(told));
    let (sent_ms, age_limit_ms) = (u64::MAX, u64::MAX);
    let ask = Body::Ask { from: LATER, correlation: 1, sent_ms, age_limit_ms, ask: Ask::Census };
    let answer = Body::Answer { correlation: 1, answer: Answer::Gone };
    let [out, inbox, events] =
        ["out:/ws/here", &format!("pod:{THIS}"), &format!("ev:{CONFIGURED}")]
            .map(|channel| format!("pathcast:{channel}"));
    let said = [
        (&out, made_up(ping.clone(), KIND_AT)),
        (&inbox, made_up(ping.clone(), KIND_AT)),
        (&events, made_up(ping, KIND_AT)),
        (&inbox, made_up(envelope(ask), BODY_AT + 8 + 3 * 8)),
        (&inbox, made_up(envelope(answer), BODY_AT + 8)),
        (&events, made_up(told.clone(), BODY_AT + 8 + 2 * 8)),
    ];
    let mut stranger = server.connect().await;
    for (number, (channel, bytes)) in (1..).zip(&said) {
        assert_eq!(stranger.publish(channel, bytes).await, 1, "{channel}");
        eventually(&format!("number {number}, counted"), async || {
            (pod.metrics.broker.malformed.get() == number).then_some(())
        })
        .await;
    }
    assert!(pod.is_up());
    assert_eq!(pod.metrics.broker.gaps.get(), 0);
    assert_eq!(pod.heard.lines(), [""; 0]);

    // What it says in the words of this release is understood as ever.
    stranger.publish(&events, &told).await;
    assert_eq!(pod.heard.wait(1).await, [format!("{CONFIGURED} {LATER} 1:0 beat")]);
    assert_eq!(in_time(pod.publish(&here, "all")).await, Ok(1));
    assert_eq!(pod.heard.wait(2).await[1], "/ws/here all");
    assert_eq!(pod.unicast(THIS, "one").await, Ok(Answer::Delivered));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_understood_leaves_its_question_unknown() {
    let server = Redis::start();
    let pod = Pod::start(THIS, &server).await;
    let mut later = server.connect().await;
    let mut answering = server.connect().await;
    later.subscribe(&format!("pathcast:pod:{LATER}")).await;
    server.command(&["SET", &format!("pathcast:lease:{LATER}"), "{}"]);
    for is_understood in [false, true] {
        let asked = pod.unicast(LATER, "x");
        let answering = async {
            let heard = Envelope::decode(later.message().await.into()).expect("an envelope");
            let Body::Ask { from, correlation, .. } = heard.body else { panic!("{heard:?}") };
            assert_eq!(from, THIS);
            let answer = envelope(Body::Answer { correlation, answer: Answer::Delivered });
            let answer = match is_understood {
                true => answer,
                false => made_up(answer, BODY_AT + 8),
            };
            answering.publish(&format!("pathcast:pod:{THIS}"), &answer).await;
        };
        let expected = if is_understood { Ok(Answer::Delivered) } else { Err(Failure::Unknown) };
        assert_eq!(tokio::join!(asked, answering).0, expected);
    }
    assert_eq!(pod.metrics.broker.malformed.get(), 1);
    assert!(pod.is_up());
}
