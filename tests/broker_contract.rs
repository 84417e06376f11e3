//! The contract every broker keeps, by one suite: what `Broker` promises, not how it is done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pathcast::broker::memory::Memory;
use pathcast::broker::{Broker, Failure, Pending, Receiver};
use pathcast::proto::ask::{Answer, Ask, Reach};
use pathcast::proto::grant::Grant;
use pathcast::proto::msg::Content;
use pathcast::proto::path::Path;
use pathcast::proto::session_id::{PodId, SessionId};

const DEADLINE: Duration = Duration::from_secs(20);

/// Writes down what reaches a pod, in order.
#[derive(Clone, Default)]
struct Pod {
    heard: Arc<Mutex<Vec<String>>>,
    wanted: Arc<Mutex<HashMap<Path, u32>>>,
}

impl Pod {
    fn note(&self, line: String) {
        self.heard.lock().expect("nobody panicked").push(line);
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("nobody panicked").clone()
    }
}

impl Receiver for Pod {
    fn broadcast(&self, path: &Path, content: &Content) -> bool {
        self.note(format!("{path} {}", text(content)));
        self.wanted.lock().expect("nobody panicked").contains_key(path)
    }

    fn ask(&self, ask: Ask) -> Pending<Answer> {
        let answer = match ask {
            Ask::Unicast { content, .. } => {
                self.note(format!("unicast {}", text(&content)));
                Answer::Delivered
            }
            Ask::Census => Answer::Census(Vec::new()),
            _ => Answer::Gone,
        };
        Box::pin(async { Ok(answer) })
    }
}

fn text(content: &Content) -> String {
    let (_, bytes) = content.frame(false).expect("something to send");
    String::from_utf8(bytes.to_vec()).expect("a text")
}

fn path(text: &str) -> Path {
    Path::parse(text).expect("a good path")
}

fn unicast(pod: PodId, number: usize) -> Ask {
    Ask::Unicast {
        to: SessionId { pod, ..SessionId::MIN },
        reach: Reach::Granted(Grant::All),
        content: Content::text(number.to_string()),
    }
}

async fn in_time<T>(pending: Pending<T>) -> Result<T, Failure> {
    tokio::time::timeout(DEADLINE, pending).await.expect("an answer in time")
}

/// What every broker has to pass. `broker` serves `own`, whose messages go to `pod`.
async fn contract(broker: Arc<dyn Broker>, own: PodId, pod: Pod) {
    let (here, nowhere) = (path("/ws/here"), path("/ws/nowhere"));

    // A subscription that is confirmed hears everything that is begun from then on.
    pod.wanted.lock().expect("nobody panicked").insert(here.clone(), 1);
    in_time(broker.subscribe(&here)).await.expect("subscribed");
    assert_eq!(in_time(broker.publish(here.clone(), Content::text("first".into()))).await, Ok(1));
    assert_eq!(pod.heard(), ["/ws/here first"]);

    // Nobody there is an answer, not a failure.
    assert_eq!(in_time(broker.publish(nowhere, Content::text("x".into()))).await, Ok(0));

    // The order of calls is the order of messages, broadcasts and unicasts together, whenever the
    // answers are waited for.
    pod.heard.lock().expect("nobody panicked").clear();
    let mut expected = Vec::new();
    let mut published = Vec::new();
    let mut asked = Vec::new();
    for number in 0..200 {
        if number % 3 == 0 {
            asked.push(broker.ask(own, unicast(own, number)));
            expected.push(format!("unicast {number}"));
        } else {
            published.push(broker.publish(here.clone(), Content::text(number.to_string())));
            expected.push(format!("/ws/here {number}"));
        }
    }
    for pending in asked.into_iter().rev() {
        assert_eq!(in_time(pending).await, Ok(Answer::Delivered));
    }
    for pending in published.into_iter().rev() {
        assert_eq!(in_time(pending).await, Ok(1));
    }
    assert_eq!(pod.heard(), expected);

    // Publishers on many threads: each one's own order is kept, and nothing is lost or doubled.
    pod.heard.lock().expect("nobody panicked").clear();
    let publishers = (0..8).map(|publisher| {
        let (broker, here) = (broker.clone(), here.clone());
        tokio::spawn(async move {
            for number in 0..100 {
                let content = Content::text(format!("{publisher} {number}"));
                in_time(broker.publish(here.clone(), content)).await.expect("published");
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.expect("it published");
    }
    let heard = pod.heard();
    assert_eq!(heard.len(), 800);
    for publisher in 0..8 {
        let its = format!("/ws/here {publisher} ");
        let numbers: Vec<usize> =
            heard.iter().filter_map(|line| line.strip_prefix(&its)?.parse().ok()).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>(), "publisher {publisher}");
    }

    // A pod that cannot exist has no sessions.
    let other = PodId([0xee; 8]);
    assert_eq!(in_time(broker.ask(other, unicast(other, 1))).await, Ok(Answer::Gone));

    // This pod is alive, and says so.
    assert!(broker.pods().contains(&own));
    assert_eq!(in_time(broker.ask(own, Ask::Census)).await, Ok(Answer::Census(Vec::new())));
    broker.unsubscribe(&here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_contract() {
    let own = PodId([1; 8]);
    let pod = Pod::default();
    contract(Arc::new(Memory::new(own, pod.clone())), own, pod).await;
}
