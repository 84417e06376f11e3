//! The examples do what they say, started and stopped as a reader would.

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use support::client::{self, Client, Heard};
use support::wait::{eventually, within};
use tokio::signal::unix::{SignalKind, signal};

/// A running example, in a process group of its own.
struct Example {
    child: Child,
    said: Arc<Mutex<String>>,
    clients_port: u16,
    page_port: u16,
    /// Of the further program that there is.
    other_port: u16,
}

impl Example {
    async fn start(name: &str) -> Example {
        // A signal that is ignored stays so in children, where no script can undo it; one that is
        // listened to does not. So this test may itself run in the background of a script.
        let _listening = signal(SignalKind::interrupt()).expect("SIGINT can be listened to");
        let [clients_port, api_port, page_port, other_port] = [(); 4].map(|()| free_port());
        let script = Path::new("examples").join(name).join("run.sh");
        let mut child = Command::new(script)
            .stdin(Stdio::null())
            .env("PATHCAST", env!("CARGO_BIN_EXE_pathcast"))
            .env("CLIENTS_PORT", clients_port.to_string())
            .env("API_PORT", api_port.to_string())
            .env("PAGE_PORT", page_port.to_string())
            .env("REDIS_PORT", other_port.to_string())
            .env("MQTT_PORT", other_port.to_string())
            .env("REMOTE_PORT", other_port.to_string())
            .env("WEBHOOK_PORT", other_port.to_string())
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let said = Arc::new(Mutex::new(String::new()));
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                *heard.lock().expect("nobody panics with it") += &(line + "\n");
            }
        });
        Example { child, said, clients_port, page_port, other_port }
    }

    /// Waits until this was printed.
    async fn says(&mut self, text: &str) {
        eventually(text, async || {
            let ended = self.child.try_wait().expect("a child can be asked");
            let said = self.said.lock().expect("nobody panics with it");
            assert_eq!(ended, None, "the example ended after:\n{said}");
            said.contains(text).then_some(())
        })
        .await;
    }

    async fn open(&self, path: &str) -> Client {
        client::open(([127, 0, 0, 1], self.clients_port).into(), path).await
    }

    async fn page(&self, file: &str) -> String {
        let url = format!("http://127.0.0.1:{}/{file}", self.page_port);
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client is built");
        let page = within("a page", http.get(url).send()).await.expect("the page is served");
        assert_eq!(page.status(), 200, "{file}");
        page.text().await.expect("the page is whole")
    }

    /// What Ctrl-C does, short of the terminal telling the whole group; nothing may be left.
    async fn interrupt(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it still runs");
        let status: ExitStatus = eventually("the example's end", async || {
            self.child.try_wait().expect("a child can be asked")
        })
        .await;
        assert_eq!(status.code(), Some(0));
        assert_eq!(processes_of_group(self.child.id()), Vec::<String>::new());
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // After a test that passed there is nobody to kill.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The next message, as JSON.
async fn next(client: &mut Client) -> Value {
    match client.message().await {
        Heard::Text(text) => serde_json::from_str(&text).expect("JSON"),
        heard => panic!("{heard:?} instead of a text"),
    }
}

/// Below the ports that the system gives out by itself, so that no other test gets it meanwhile.
fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let own = 10_000 + (std::process::id() % 2_000) as u16 * 10;
    loop {
        let port = own + TRIED.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no port is free");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The command lines of the processes in a group.
fn processes_of_group(group: u32) -> Vec<String> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        // The name stands in parentheses and may hold any character; after it come state, parent
        // and group.
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        if fields.split(' ').nth(2) == Some(&group.to_string()) {
            found.push(stat);
        }
    }
    found
}

#[tokio::test]
async fn every_dashboard_sees_the_readings() {
    let mut example = Example::start("sensor-broadcast").await;
    example.says("Open http://127.0.0.1:").await;
    let mut dashboards = [example.open("/ws/sensors").await, example.open("/ws/sensors").await];
    let mut readings = Vec::new();
    for dashboard in &mut dashboards {
        let reading = next(dashboard).await;
        assert_eq!(reading["type"], "sensor_update");
        for figure in ["temperature", "humidity"] {
            assert!(reading[figure].is_number(), "{reading}");
        }
        assert!(reading["timestamp"].is_string(), "{reading}");
        readings.push(reading);
    }
    while readings[0] != readings[1] {
        // The second one came a reading later.
        readings[0] = next(&mut dashboards[0]).await;
    }
    assert!(example.page("sensor-broadcast/").await.contains("/ws/sensors"));
    assert!(example.page("page/connect.js").await.contains("retry_after_ms"));
    example.interrupt().await;
}

#[tokio::test]
async fn an_answer_goes_to_the_asker_alone() {
    let mut example = Example::start("request-response").await;
    example.says("listening to /ws/api").await;
    let mut asker = example.open("/ws/api").await;
    let mut other = example.open("/ws/api").await;

    asker.writer.text(r#"{"action":"get_status"}"#).await;
    let status = next(&mut asker).await;
    assert_eq!(status["status"], "online");
    assert!(status["uptime"].is_number() && status["memory"].is_number(), "{status}");

    asker.writer.text("not JSON").await;
    asker.writer.text(r#"{"action":"hello","price":1}"#).await;
    let echo = next(&mut asker).await;
    assert_eq!(echo.to_string(), r#"{"action":"hello","price":1}"#);

    other.writer.text(r#"{"action":"me"}"#).await;
    assert_eq!(next(&mut other).await.to_string(), r#"{"action":"me"}"#);
    assert!(example.page("request-response/").await.contains("/ws/api"));
    example.interrupt().await;
}

#[tokio::test]
async fn a_webhook_answers_the_asker_alone_and_nobody_but_pathcast() {
    let mut example = Example::start("webhook-responder").await;
    example.says("answering for /ws/api").await;
    let mut asker = example.open("/ws/api").await;
    let mut other = example.open("/ws/api").await;
    asker.writer.text("not JSON").await;
    asker.writer.text(r#"{"action":"get_status"}"#).await;
    let status = next(&mut asker).await;
    assert_eq!(status["status"], "online");
    assert!(status["uptime"].is_number() && status["backend"].is_number(), "{status}");
    asker.writer.text(r#"{"action":"hello","price":1}"#).await;
    assert_eq!(next(&mut asker).await, json!({"action": "hello", "price": 1}));
    other.writer.text(r#"{"action":"me"}"#).await;
    assert_eq!(next(&mut other).await.to_string(), r#"{"action":"me"}"#);

    let http = reqwest::Client::builder().no_proxy().build().expect("a plain client is built");
    let url = format!("http://127.0.0.1:{}/", example.other_port);
    for signature in [None, Some("v1ce,AAAA"), Some("v1ce,\u{e9}")] {
        let stranger = http.post(&url).body(r#"{"action":"get_status"}"#);
        let stranger = match signature {
            Some(signature) => stranger.header("webhook-signature", signature),
            None => stranger,
        };
        let answer = within("a refusal", stranger.send()).await.expect("it is answered");
        assert_eq!(answer.status(), 401, "{signature:?}");
    }
    assert!(example.page("request-response/").await.contains("/ws/api"));
    example.interrupt().await;
}

#[tokio::test]
async fn workers_of_a_stream_answer_the_asker_alone() {
    let mut example = Example::start("stream-workers").await;
    example.says("working for /ws/api\nworking for /ws/api").await;
    let mut asker = example.open("/ws/api").await;
    let mut other = example.open("/ws/api").await;
    asker.writer.text("not JSON").await;
    asker.writer.text(r#"{"action":"get_status"}"#).await;
    let status = next(&mut asker).await;
    assert_eq!(status["status"], "online");
    assert!(status["worker"].is_number(), "{status}");
    other.writer.text(r#"{"action":"me"}"#).await;
    assert_eq!(next(&mut other).await.to_string(), r#"{"action":"me"}"#);
    assert!(example.page("request-response/").await.contains("/ws/api"));
    example.interrupt().await;
}

#[tokio::test]
async fn another_process_answers_later_whoever_ordered() {
    let mut example = Example::start("answer-later").await;
    example.says("taking orders from /ws/api").await;
    let mut first = example.open("/ws/api").await;
    let mut second = example.open("/ws/api").await;
    first.writer.text("tea").await;
    second.writer.text("coffee").await;
    for (client, order) in [(&mut first, "tea"), (&mut second, "coffee")] {
        assert_eq!(next(client).await["taken"], order);
        let done = next(client).await;
        assert_eq!(done["done"], order);
        assert!(done["seconds"].as_f64().is_some_and(|seconds| seconds >= 2.0), "{done}");
    }
    example.interrupt().await;
}

#[tokio::test]
async fn what_is_said_in_a_room_is_heard_in_that_room() {
    let mut example = Example::start("chat").await;
    example.says("listening to /ws/rooms/{room}").await;
    let mut ada = example.open("/ws/rooms/tea?name=Ada").await;
    assert_eq!(next(&mut ada).await, json!({"type": "here", "names": ["Ada"]}));
    assert_eq!(next(&mut ada).await, json!({"type": "who", "name": "Ada", "came": true}));

    // The second one is told who is there; the first one only that somebody came.
    let mut bob = example.open("/ws/rooms/tea?name=Bob%20B").await;
    let mut eve = example.open("/ws/rooms/coffee?name=Eve").await;
    assert_eq!(next(&mut bob).await, json!({"type": "here", "names": ["Ada", "Bob B"]}));
    let came = json!({"type": "who", "name": "Bob B", "came": true});
    assert_eq!([next(&mut ada).await, next(&mut bob).await], [came.clone(), came]);
    assert_eq!(next(&mut eve).await, json!({"type": "here", "names": ["Eve"]}));
    assert_eq!(next(&mut eve).await["name"], "Eve");

    ada.writer.text("milk, or <b>lemon</b>?").await;
    eve.writer.text("two rooms").await;
    for who in [&mut ada, &mut bob] {
        let said = next(who).await;
        assert_eq!(said["type"], "said");
        assert_eq!([&said["name"], &said["text"]], ["Ada", "milk, or <b>lemon</b>?"]);
    }
    assert_eq!(next(&mut eve).await["text"], "two rooms");

    ada.leave().await;
    let left = json!({"type": "who", "name": "Ada", "came": false});
    assert_eq!(next(&mut bob).await, left);
    assert!(example.page("chat/").await.contains("/ws/rooms/"));
    example.interrupt().await;
}

/// Hears prices until all of these were among them.
async fn hears_of(client: &mut Client, symbols: &[&str]) {
    let mut missing = symbols.to_vec();
    while !missing.is_empty() {
        let quoted = next(client).await;
        assert!(quoted["price"].as_f64().is_some_and(|price| price >= 1.0), "{quoted}");
        missing.retain(|symbol| quoted["symbol"] != *symbol);
    }
}

#[tokio::test]
async fn what_another_server_sends_reaches_all_and_what_one_wishes_reaches_it() {
    let mut example = Example::start("upstream-bridge").await;
    example.says("listening to /ws/prices").await;
    let mut clients = [example.open("/ws/prices").await, example.open("/ws/prices").await];
    for client in &mut clients {
        hears_of(client, &["COFFEE", "SUGAR"]).await;
    }
    clients[0].writer.text("no symbol").await;
    clients[0].writer.text("TEA").await;
    for client in &mut clients {
        hears_of(client, &["SUGAR", "TEA"]).await;
    }
    example.says("a client came, epoch").await;
    example.says("wished for TEA - sent").await;
    assert!(example.page("upstream-bridge/").await.contains("/ws/prices"));
    example.interrupt().await;
}

/// Tells the example's Mosquitto something, as any MQTT program would.
async fn tell_mqtt(example: &Example, topic: &str, payload: &str) {
    let publish = "import sys, paho.mqtt.publish as mqtt; \
                   mqtt.single(sys.argv[1], sys.argv[2], port=int(sys.argv[3]))";
    let port = example.other_port.to_string();
    let mut python = Command::new("python3");
    python.args(["-c", publish, topic, payload, &port]);
    let told = tokio::task::spawn_blocking(move || python.status());
    let told = within("MQTT is told", told).await.expect("waiting does not panic");
    assert!(told.expect("python3 is there").success(), "paho-mqtt tells {topic}");
}

#[tokio::test]
async fn a_dashboard_sees_mqtt_and_the_machine_on_one_path() {
    let mut example = Example::start("dashboard").await;
    example.says("listening to MQTT").await;
    let mut dashboards = [example.open("/ws/dashboard").await, example.open("/ws/dashboard").await];
    tell_mqtt(&example, "sensors/cellar/co2", "417").await;
    tell_mqtt(&example, "sensors/door/state", "open").await;
    for dashboard in &mut dashboards {
        // What is still to be seen; the made-up sensor is in between.
        let mut missing =
            vec!["mqtt cellar co2 417", "mqtt door state \"open\"", "kitchen", "system"];
        while !missing.is_empty() {
            let heard = next(dashboard).await;
            assert!(heard["timestamp"].is_string(), "{heard}");
            let seen = match (heard["type"].as_str(), heard["source"].as_str()) {
                (Some("system"), _) => {
                    for figure in ["cpu", "memory"] {
                        let percent = heard[figure].as_f64().expect("a number");
                        assert!((0.0..=100.0).contains(&percent), "{heard}");
                    }
                    "system".to_owned()
                }
                (Some("mqtt"), Some("kitchen")) => {
                    assert!(heard["value"].is_number(), "{heard}");
                    "kitchen".to_owned()
                }
                (Some("mqtt"), Some(source)) => {
                    let metric = heard["metric"].as_str().expect("a text");
                    format!("mqtt {source} {metric} {}", heard["value"])
                }
                _ => panic!("{heard}"),
            };
            missing.retain(|wanted| *wanted != seen);
        }
    }
    assert!(example.page("dashboard/").await.contains("/ws/dashboard"));
    example.interrupt().await;
}
