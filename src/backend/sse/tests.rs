use crate::backend::sse::*;
use crate::proto::event::Kind;

fn event(path: &str, bytes: usize) -> Event {
    Event {
        id: "id".to_owned(),
        kind: Kind::Message,
        json: vec![b'x'; bytes].into(),
        path: Path::parse(path).expect("a good path"),
        configured: "/ws/rooms/{room}".into(),
        origin: Origin::Own,
    }
}

fn sse() -> (Sse, Lifecycle) {
    let lifecycle = Lifecycle::default();
    let metrics = Arc::new(Metrics::new().expect("families have names of their own"));
    (Sse::start(&lifecycle, metrics), lifecycle)
}

#[tokio::test]
async fn a_listener_hears_its_topic_and_nobody_is_heard_after_it_left() {
    let (sse, _lifecycle) = sse();
    let configured: Arc<str> = "/ws/rooms/{room}".into();
    let path = Path::parse("/ws/rooms/a").expect("a good path");
    assert!(!sse.is_heard(&path, &configured));
    let mut one = sse.listen(Topic::Concrete(path.clone()));
    let mut all = sse.listen(Topic::Configured(configured.clone()));
    assert!(sse.is_heard(&path, &configured));
    sse.offer(event("/ws/rooms/b", 1));
    sse.offer(event("/ws/rooms/a", 2));
    let lengths = |heard| match heard {
        Some(Heard::Event(event)) => event.json.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(lengths(one.next().await), 2);
    assert_eq!(lengths(all.next().await), 1);
    assert_eq!(lengths(all.next().await), 2);
    drop((one, all));
    assert!(!sse.is_heard(&path, &configured));
}

#[tokio::test]
async fn whoever_comes_back_goes_on_behind_the_last_event_he_had() {
    let (sse, _lifecycle) = sse();
    let configured: Arc<str> = "/ws/rooms/{room}".into();
    let numbered = |path, number: usize| Event { id: number.to_string(), ..event(path, number) };
    let path = Path::parse("/ws/rooms/a").expect("a good path");
    let concrete = || Topic::Concrete(path.clone());
    let keep = sse.keep(&configured);
    assert!(sse.is_heard(&path, &configured));
    let mut first = sse.listen(concrete());
    sse.offer(numbered("/ws/rooms/a", 1));
    assert!(matches!(first.next().await, Some(Heard::Event(_))));
    drop(first);
    sse.offer(numbered("/ws/rooms/b", 2));
    sse.offer(numbered("/ws/rooms/a", 3));
    sse.miss(&configured, Missed::Counted(7));
    // Nothing of this was handed on yet.
    let mut again = sse.listen_behind(concrete(), &configured, "1");
    let mut all = sse.listen_behind(Topic::Configured(configured.clone()), &configured, "1");
    let mut unknown = sse.listen_behind(concrete(), &configured, "0");
    sse.offer(numbered("/ws/rooms/a", 4));
    let id = |heard| match heard {
        Some(Heard::Event(event)) => event.id.clone(),
        Some(Heard::Gap(missed)) => format!("{missed:?}"),
        None => panic!("the pod is there"),
    };
    for expected in ["3", "Uncounted", "4"] {
        assert_eq!(id(again.next().await), expected);
    }
    for expected in ["2", "3", "Counted(7)", "4"] {
        assert_eq!(id(all.next().await), expected);
    }
    for expected in ["Uncounted", "4"] {
        assert_eq!(id(unknown.next().await), expected);
    }
    // And now everything was.
    drop(again);
    let mut again = sse.listen_behind(concrete(), &configured, "1");
    sse.offer(numbered("/ws/rooms/a", 5));
    for expected in ["3", "Uncounted", "4", "5"] {
        assert_eq!(id(again.next().await), expected);
    }
    drop((again, all, unknown, keep));
    assert!(!sse.is_heard(&path, &configured));
    let mut late = sse.listen_behind(concrete(), &configured, "4");
    assert!(matches!(late.next().await, Some(Heard::Gap(Missed::Uncounted))));
}

#[tokio::test]
async fn a_slow_listener_is_told_what_it_missed() {
    let (sse, _lifecycle) = sse();
    let mut slow = sse.listen(Topic::Configured("/ws/rooms/{room}".into()));
    for _ in 0..20 {
        sse.offer(event("/ws/rooms/a", 1024 * 1024));
    }
    while sse.shared.metrics.events_missed.get() < 4 {
        tokio::task::yield_now().await;
    }
    for _ in 0..16 {
        assert!(matches!(slow.next().await, Some(Heard::Event(_))));
    }
    let gap = slow.next().await;
    assert!(
        matches!(gap, Some(Heard::Gap(Missed::Counted(4)))),
        "told though nothing follows: {gap:?}"
    );
    for _ in 0..20 {
        sse.offer(event("/ws/rooms/a", 1024 * 1024));
    }
    while sse.shared.metrics.events_missed.get() < 8 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(slow.next().await, Some(Heard::Event(_))));
    sse.offer(event("/ws/rooms/a", 1));
    for _ in 0..15 {
        assert!(matches!(slow.next().await, Some(Heard::Event(_))));
    }
    let gap = slow.next().await;
    assert!(matches!(gap, Some(Heard::Gap(Missed::Counted(4)))), "told in its place: {gap:?}");
    assert!(matches!(slow.next().await, Some(Heard::Event(_))));
}

#[tokio::test]
async fn what_is_told_to_other_pods_is_this_pods_own_and_waits_until_it_is_told() {
    let (sse, _lifecycle) = sse();
    let configured: Arc<str> = "/ws/rooms/{room}".into();
    let mut all = sse.listen(Topic::Configured(configured.clone()));
    let mut own = sse.listen(Topic::Own(configured));
    sse.offer(Event { origin: Origin::Far, ..event("/ws/rooms/a", 1) });
    sse.offer(event("/ws/rooms/a", 2));
    let Some(Heard::Event(taken)) = own.take().await else { panic!("an event") };
    assert_eq!(taken.json.len(), 2);
    for bytes in [1, 2] {
        let Some(Heard::Event(event)) = all.next().await else { panic!("an event") };
        assert_eq!(event.json.len(), bytes);
    }
    assert!(sse.has_waiting());
    own.release(2);
    while sse.has_waiting() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_hole_is_told_in_its_place_to_those_it_concerns() {
    let (sse, _lifecycle) = sse();
    let configured: Arc<str> = "/ws/rooms/{room}".into();
    let mut all = sse.listen(Topic::Configured(configured.clone()));
    let path = |text| Path::parse(text).expect("a good path");
    let mut one = sse.listen(Topic::Concrete(path("/ws/rooms/a")));
    let mut other = sse.listen(Topic::Concrete(path("/ws/other")));
    sse.miss(&configured, Missed::Counted(3));
    sse.offer(event("/ws/rooms/a", 1));
    sse.offer(Event { path: path("/ws/other"), ..event("/ws/rooms/a", 2) });
    assert!(matches!(all.next().await, Some(Heard::Gap(Missed::Counted(3)))));
    assert!(matches!(all.next().await, Some(Heard::Event(_))));
    // Nobody knows whether its path was among them.
    assert!(matches!(one.next().await, Some(Heard::Gap(Missed::Uncounted))));
    assert!(matches!(one.next().await, Some(Heard::Event(_))));
    assert!(matches!(other.next().await, Some(Heard::Event(_))));
    // Counted and uncounted together are uncounted.
    sse.miss(&"/ws/other".into(), Missed::Counted(u64::MAX));
    let gap = other.next().await;
    assert!(matches!(gap, Some(Heard::Gap(Missed::Counted(COUNT_MAX)))), "{gap:?}");
    assert_eq!(sse.shared.metrics.events_missed.get(), 3 + COUNT_MAX);
}

#[tokio::test]
async fn losses_that_find_no_room_themselves_are_told_to_all() {
    let (sse, _lifecycle) = sse();
    let configured: Arc<str> = "/ws/rooms/{room}".into();
    let mut other = sse.listen(Topic::Configured("/ws/other".into()));
    let mut own = sse.listen(Topic::Own(configured.clone()));
    // The task has no turn until this one waits.
    let megabyte = event("/ws/rooms/a", 1 << 20);
    for _ in 0..WAITING_BYTES_MAX >> 20 {
        sse.offer(megabyte.clone());
    }
    while sse.shared.metrics.events_missed.get() == 0 {
        sse.miss(&configured, Missed::Counted(1));
    }
    let lost = Event { configured: "/ws/other".into(), ..megabyte };
    sse.offer(lost);
    let gap = other.next().await;
    assert!(matches!(gap, Some(Heard::Gap(Missed::Uncounted))), "{gap:?}");
    while let Some(Heard::Event(_)) = own.next().await {}
    // Once, and what comes next is heard again.
    let late = Event { configured: "/ws/other".into(), ..event("/ws/other", 1) };
    sse.offer(late);
    assert!(matches!(other.next().await, Some(Heard::Event(_))));
}
