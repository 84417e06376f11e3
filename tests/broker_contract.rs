//! The contract every broker keeps, by one suite: what `Broker` promises, not how it is done.

mod support;

use std::sync::Arc;

use pathcast::broker::memory::Memory;
use pathcast::broker::{Broker, Failure, Letter};
use pathcast::proto::ask::{Answer, Ask};
use pathcast::proto::path::Path;
use pathcast::proto::session_id::PodId;
use pathcast::proto::telling::{Place, What};
use support::brokered::{CONFIGURED, Heard, Pod, in_time, path, publish, unicast};
use support::redis::Redis;
use support::wait::eventually;

/// What every broker has to pass. `broker` serves `own`, whose messages go to `pod`.
async fn contract(broker: Arc<dyn Broker>, own: PodId, pod: Heard) {
    let (here, nowhere) = (path("/ws/here"), path("/ws/nowhere"));
    let publish = |path: &Path, text: &str| publish(&*broker, path, text);

    // A subscription that is confirmed hears everything that is begun from then on.
    pod.want(&here);
    in_time(broker.subscribe(&here)).await.expect("subscribed");
    assert_eq!(in_time(publish(&here, "first")).await, Ok(1));
    assert_eq!(pod.wait(1).await, ["/ws/here first"]);

    // Nobody there is an answer, not a failure.
    assert_eq!(in_time(publish(&nowhere, "x")).await, Ok(0));

    // The order of calls is the order of messages, broadcasts and unicasts together, whenever the
    // answers are waited for.
    pod.clear();
    let mut expected = Vec::new();
    let mut published = Vec::new();
    let mut asked = Vec::new();
    for number in 0..200 {
        if number % 3 == 0 {
            asked.push(broker.ask(unicast(own, number)));
            expected.push(format!("unicast {number}"));
        } else {
            published.push(publish(&here, &number.to_string()));
            expected.push(format!("/ws/here {number}"));
        }
    }
    for pending in asked.into_iter().rev() {
        assert_eq!(in_time(pending).await, Ok(Answer::Delivered));
    }
    for pending in published.into_iter().rev() {
        assert_eq!(in_time(pending).await, Ok(1));
    }
    assert_eq!(pod.wait(expected.len()).await, expected);

    // Whoever does not wait for the answer has published all the same.
    pod.clear();
    drop(publish(&here, "unwatched"));
    assert_eq!(pod.wait(1).await, ["/ws/here unwatched"]);

    // Publishers on many threads: each one's own order is kept, and nothing is lost or doubled.
    pod.clear();
    let publishers = (0..8).map(|publisher| {
        let (broker, here) = (broker.clone(), here.clone());
        tokio::spawn(async move {
            for number in 0..100 {
                let text = format!("{publisher} {number}");
                in_time(support::brokered::publish(&*broker, &here, text))
                    .await
                    .expect("published");
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.expect("it published");
    }
    let heard = pod.wait(800).await;
    assert_eq!(heard.len(), 800);
    for publisher in 0..8 {
        let its = format!("/ws/here {publisher} ");
        let numbers: Vec<usize> =
            heard.iter().filter_map(|line| line.strip_prefix(&its)?.parse().ok()).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>(), "publisher {publisher}");
    }

    // A pod that cannot exist has no sessions; until that is proven, nothing is known.
    let other = PodId([0xee; 8]);
    let verdict = eventually("a proof", async || {
        let verdict = in_time(broker.ask(unicast(other, 1))).await;
        Some(verdict).filter(|verdict| *verdict != Err(Failure::Unknown))
    });
    assert_eq!(verdict.await, Ok(Answer::Gone));

    // This pod is alive, and says so.
    let pods = in_time(broker.pods()).await.expect("it is there");
    assert_eq!(pods.iter().map(|peer| peer.pod).collect::<Vec<_>>(), [own]);
    assert_eq!(
        in_time(broker.ask(Letter::new(own, Ask::Census))).await,
        Ok(Answer::Census(Vec::new()))
    );

    // What this pod tells of its sessions is for other pods: it does not come back.
    pod.clear();
    let configured: Arc<str> = CONFIGURED.into();
    in_time(broker.tap(&configured)).await.expect("tapped");
    for number in 0..3 {
        let place = Place { stretch: 1, number };
        in_time(broker.tell(&configured, place, What::Beat)).await.expect("told");
    }
    assert_eq!(in_time(publish(&here, "after")).await, Ok(1));
    assert_eq!(pod.wait(1).await, ["/ws/here after"]);
    broker.untap(&configured);

    // Who has come as often as he left is not heard for; who has not, is.
    in_time(broker.subscribe(&here)).await.expect("subscribed");
    broker.unsubscribe(&here);
    assert_eq!(in_time(publish(&here, "last")).await, Ok(1));
    broker.unsubscribe(&here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_contract() {
    let own = PodId([1; 8]);
    let pod = Heard::default();
    let memory = Arc::new(Memory::new(own, pod.clone()));
    contract(memory.clone(), own, pod).await;
    // There is nothing to append to, and nothing was.
    assert!(matches!(in_time(memory.append(&[])).await, Err(Failure::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_keeps_the_contract() {
    let server = Redis::start();
    let pod = Pod::start(PodId([1; 8]), &server).await;
    contract(pod.broker.clone(), pod.id, pod.heard.clone()).await;
}
