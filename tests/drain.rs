//! Leaving in good order: settle, close evenly, flush; and what else moves clients to other pods.

mod support;

use std::collections::HashSet;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use support::backend::Backend;
use support::client::{Heard, Request, ask};
use support::gateway::{DOORS, Gateway};
use support::wait::{eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const WS: &str = "[[path]]\npath = \"/ws\"\n";

fn draining(settle: &str, window: &str) -> String {
    format!("[drain]\nsettle = \"{settle}\"\nwindow = \"{window}\"\n{WS}")
}

/// The reason of a 1012.
fn reason(heard: &Heard) -> &str {
    match heard {
        Heard::Close(Some((1012, reason))) => reason,
        other => panic!("{other:?}, not 1012"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_settles_is_not_ready_but_serves_all_that_come() {
    let mut gateway = Gateway::start(&draining("60s", "off")).await;
    let mut early = gateway.open("/ws").await;
    assert_eq!(gateway.counted("pathcast_draining").await, 0);
    let kept = gateway.fetch("/readyz").await;
    assert_eq!((kept.status, kept.headers.get("connection")), (200, None));
    gateway.signal(Signal::TERM);
    let said = eventually("a pod that is not ready", async || {
        let said = gateway.fetch("/readyz").await;
        (said.status == 503).then_some(said)
    })
    .await;
    assert!(said.text.contains("leaving"), "{}", said.text);
    assert_eq!(said.headers["connection"], "close", "publishers go to another pod");

    let mut late = gateway.open("/ws").await;
    gateway.broadcast("/ws", "{\"payload\":\"still here\"}").await;
    early.expect_text("still here").await;
    late.expect_text("still here").await;
    assert_eq!(gateway.counted("pathcast_draining").await, 1);
    eventually("what is left", async || {
        (gateway.counted("pathcast_drain_remaining").await == 2).then_some(())
    })
    .await;

    gateway.signal(Signal::TERM);
    for mut client in [early, late] {
        assert!(reason(&client.closing().await).starts_with("retry_after_ms="));
    }
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_closed_evenly_over_the_window_and_in_no_order_of_their_own() {
    const SESSIONS: usize = 200;
    let window = Duration::from_secs(3);
    let mut gateway = Gateway::start(&draining("off", "3s")).await;
    let clients = join_all((0..SESSIONS).map(|_| gateway.open("/ws"))).await;
    gateway.signal(Signal::TERM);
    let begun = Instant::now();
    let closings = clients.into_iter().enumerate().map(async |(number, mut client)| {
        let close = client.closing().await;
        assert_eq!(reason(&close), "retry_after_ms=100");
        (begun.elapsed(), number)
    });
    let mut closed = join_all(closings).await;
    closed.sort();
    let at = |part: usize| closed[SESSIONS * part / 100].0;
    // A busy machine makes some of them late, none early.
    assert!(at(50) >= window * 40 / 100, "half of them by {:?}", at(50));
    assert!(at(90) >= window * 80 / 100, "nine of ten by {:?}", at(90));
    assert!(at(0) < window / 2, "the first one at {:?}", at(0));
    let first: HashSet<usize> = closed[..SESSIONS / 4].iter().map(|&(_, number)| number).collect();
    let oldest = first.iter().filter(|&&number| number < SESSIONS / 4).count();
    assert!((1..SESSIONS / 8).contains(&oldest), "{oldest} of the oldest quarter go first");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_shards_close_their_few_sessions_in_turn() {
    const SESSIONS: usize = 16;
    let window = Duration::from_secs(2);
    let config = format!("[hub]\nshards = {SESSIONS}\n{}", draining("off", "2s"));
    let gateway = Gateway::start(&config).await;
    let clients = join_all((0..SESSIONS).map(|_| gateway.open("/ws"))).await;
    gateway.signal(Signal::TERM);
    let begun = Instant::now();
    let closings = clients.into_iter().map(async |mut client| {
        client.closing().await;
        begun.elapsed()
    });
    let mut closed = join_all(closings).await;
    closed.sort();
    assert!(closed[SESSIONS / 2] >= window * 40 / 100, "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_a_window_are_told_what_all_others_are() {
    let mut gateway = Gateway::start(&draining("off", "310ms")).await;
    let clients = join_all((0..300).map(|_| gateway.open("/ws"))).await;
    gateway.signal(Signal::TERM);
    let closings = clients.into_iter().map(async |mut client| client.closing().await);
    for close in join_all(closings).await {
        assert_eq!(reason(&close), "retry_after_ms=100");
    }
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_window_and_a_keyboard_has_none() {
    for signals in [&[Signal::TERM, Signal::TERM][..], &[Signal::INT]] {
        let mut gateway = Gateway::start(&draining("off", "10m")).await;
        let clients = join_all((0..50).map(|_| gateway.open("/ws"))).await;
        for &signal in signals {
            gateway.signal(signal);
            // Two that come at once are one.
            eventually("the signal is heard", async || {
                gateway.log().contains("leaving").then_some(())
            })
            .await;
        }
        for mut client in clients {
            assert!(reason(&client.closing().await).starts_with("retry_after_ms="));
        }
        assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_signal_waits_for_nobody() {
    let rest = format!("[limits]\nclose_timeout = \"10m\"\n{}", draining("10m", "10m"));
    let mut gateway = Gateway::start(&rest).await;
    // It does not answer the close.
    let mut mute = gateway.open("/ws").await;
    gateway.signal(Signal::TERM);
    eventually("settling", async || gateway.log().contains("not ready any more").then_some(()))
        .await;
    gateway.signal(Signal::TERM);
    assert!(reason(&mute.reader.next().await).starts_with("retry_after_ms="));
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_nobody_left_does_not_wait_for_the_window() {
    let mut gateway = Gateway::start(&draining("off", "10m")).await;
    let mut client = gateway.open("/ws").await;
    gateway.signal(Signal::TERM);
    assert_eq!(reason(&client.closing().await), "retry_after_ms=100");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lasted_long_enough_is_sent_on_and_nobody_notices_it_of_another() {
    let age = Duration::from_millis(800);
    let gateway = Gateway::start(&format!("[limits]\nsession_age_max = \"800ms\"\n{WS}")).await;
    let mut events = gateway.listen("/ws").await;
    let begun = Instant::now();
    let mut clients = join_all((0..20).map(|_| gateway.open("/ws"))).await;
    for client in &mut clients {
        assert_eq!(reason(&client.closing().await), "retry_after_ms=100");
    }
    assert!(begun.elapsed() >= age * 85 / 100, "after {:?}", begun.elapsed());
    let ends = within("the ends", async {
        let mut ends = Vec::new();
        while ends.len() < 20 {
            let event = events.next().await;
            if event.kind == "disconnect" {
                ends.push(event.json());
            }
        }
        ends
    });
    for end in ends.await {
        assert_eq!((&end["code"], &end["cause"]), (&1012.into(), &"drain".into()), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_soft_limit_a_pod_is_not_ready_and_takes_who_comes_up_to_the_hard_one() {
    let limits = "[limits]\nsessions_soft_max = 20\nsessions_max = 22\n";
    let gateway = Gateway::start(&format!("{limits}{WS}")).await;
    let is_ready = async || gateway.fetch("/readyz").await.status == 200;
    let mut clients = join_all((0..20).map(|_| gateway.open("/ws"))).await;
    assert!(is_ready().await, "the limit itself is allowed");
    clients.push(gateway.open("/ws").await);
    let said = gateway.fetch("/readyz").await;
    assert_eq!(said.status, 503);
    assert!(said.text.contains("sessions_soft_max"), "{}", said.text);
    clients.push(gateway.open("/ws").await);
    let refused = ask(gateway.clients, &Request::upgrade("/ws")).await;
    let refused = refused.err().expect("the hard limit");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(gateway.counted("pathcast_sessions_limit{kind=\"soft\"}").await, 20);
    assert_eq!(gateway.counted("pathcast_sessions_limit{kind=\"hard\"}").await, 22);

    let mut leave = async |count: usize| {
        let left = clients.len() - count;
        for mut client in clients.drain(..count) {
            client.leave().await;
        }
        eventually("fewer sessions", async || {
            (gateway.counted("pathcast_sessions{path=\"/ws\"}").await == left as u64).then_some(())
        })
        .await;
    };
    leave(3).await;
    assert!(!is_ready().await, "19 are hardly fewer");
    let said = gateway.fetch("/readyz").await.text;
    assert!(said.contains("19 sessions") && said.contains("18"), "{said}");
    leave(1).await;
    eventually("a pod that is ready", async || is_ready().await.then_some(())).await;
}

/// `pathcast check --ready` with the settings of a gateway.
fn check_ready(config: &str) -> Output {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("pathcast.toml");
    std::fs::write(&file, config).expect("a temporary file can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pathcast"));
    command.arg("--config").arg(file).args(["check", "--ready"]);
    command.output().expect("the built binary runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_command_asks_the_gateway_of_its_settings() {
    let gateway = Gateway::start(&draining("10m", "off")).await;
    let api = gateway.api.strip_prefix("http://").expect("an address");
    let config =
        DOORS.replacen("[api]\nlisten = \"127.0.0.1:0\"", &format!("[api]\nlisten = \"{api}\""), 1);
    let settings = format!("{config}{WS}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let said = check_ready(&settings);
    assert_eq!((said.status.code(), &*text(&said.stdout)), (Some(0), "ready\n"), "{said:?}");
    // Settings that the gateway would not take: it runs on with those before them.
    let said = check_ready(&format!("{settings}heart_beat = \"10s\"\n"));
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    gateway.signal(Signal::TERM);
    eventually("a pod that is not ready", async || {
        let said = check_ready(&settings);
        (said.status.code() == Some(1)).then(|| {
            assert!(text(&said.stderr).contains("leaving"), "{said:?}");
        })
    })
    .await;
    drop(gateway);
    let said = check_ready(&settings);
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said.stderr).contains("no gateway answers"), "{said:?}");
    let said = check_ready("[api]\nlisten = 1");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_command_has_an_end_whatever_it_meets() {
    let meets = async |say: &'static [u8], expected: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let api = listener.local_addr().expect("it is bound");
        // Byte by byte, for as long as somebody listens.
        let other = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("it is asked");
            let _ = stream.read(&mut [0; 1024]).await;
            for byte in say {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let _ = stream.read(&mut [0; 1024]).await;
        });
        let settings = format!("[api]\nlisten = \"{api}\"\n{WS}");
        let asking = tokio::task::spawn_blocking(move || check_ready(&settings));
        let said = within("an end", asking).await.expect("it does not panic");
        other.abort();
        let told = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(told.contains(expected), "{told}");
    };
    tokio::join!(meets(b"", "no answer in time"), meets(&[b'x'; 100], "no answer in time"),);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_still_asked_about_when_the_window_begins_is_not_let_in() {
    let backend = Backend::start().await;
    let go = backend.hold(|asked| asked.kind() == "connect");
    let url = backend.url();
    let asking = format!("[[path]]\npath = \"/asked\"\nbackend = {{ webhook = \"{url}\" }}\n");
    let gateway = Gateway::start(&(draining("off", "1m") + &asking)).await;
    let _open = join_all((0..10).map(|_| gateway.open("/ws"))).await;
    let clients = gateway.clients;
    let asked = tokio::spawn(async move { ask(clients, &Request::upgrade("/asked")).await });
    backend.wait("connect", 1).await;
    gateway.signal(Signal::TERM);
    let says = "closing the sessions";
    eventually(says, async || gateway.log().contains(says).then_some(())).await;
    go.send_replace(true);
    let answer = within("an answer", asked).await.expect("nothing panics");
    let Err(answer) = answer else { panic!("it was let in") };
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let end = backend.wait("disconnect", 1).await[0].json();
    assert_eq!(end["code"], 1006, "no frame: {end}");
    assert_eq!(gateway.counted("pathcast_handshakes_total{result=\"accepted\"}").await, 10);
    assert_eq!(gateway.counted("pathcast_sessions_opened_total{path=\"/asked\"}").await, 0);
}
