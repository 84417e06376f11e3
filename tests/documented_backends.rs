//! The backends of docs/backends.md, pasted and run as the page says, each with its settings.

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use support::client::{self, Client, Heard, Request};
use support::gateway::keep_log;
use support::redis::{Redis, free_port};
use support::wait::{eventually, within};

/// The section's commands, under way in a folder with its settings and its program.
struct Pasted {
    child: Child,
    said: Arc<Mutex<String>>,
    clients_port: u16,
    backend_port: u16,
    _folder: tempfile::TempDir,
}

impl Pasted {
    /// Runs what stands below that heading. Only the ports are others, so that tests may run side by
    /// side; and `pip` is left out, which is for tests/run.sh.
    fn run(heading: &str, broker: Option<&Redis>) -> Pasted {
        let page = std::fs::read_to_string("docs/backends.md").expect("the page is there");
        let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("such a section");
        let section = section.split("\n## ").next().expect("a section ends");
        let [clients_port, api_port, backend_port, redis_port] = [(); 4].map(|()| free_port());
        let block = |language: &str| {
            let (_, rest) = section.split_once(&format!("```{language}\n")).expect("a block");
            let (block, _) = rest.split_once("```").expect("a block ends");
            // 8000 twice: in a URL, and where an environment variable is not set.
            let block = block.replace("8081", &api_port.to_string());
            let block = block.replace("8000", &backend_port.to_string());
            block.replace("6379", &redis_port.to_string())
        };
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        for (file, language) in [("pathcast.toml", "toml"), ("backend.py", "python")] {
            std::fs::write(folder.path().join(file), block(language)).expect("it can be written");
        }
        let commands = block("sh");
        let commands = commands.lines().filter(|line| !line.starts_with("pip "));
        let commands: Vec<&str> = commands.collect();

        let mut command = Command::new("bash");
        command.args(["-e", "-c", &commands.join("\n")]).current_dir(folder.path());
        let binary = Path::new(env!("CARGO_BIN_EXE_pathcast"));
        let path = std::env::var("PATH").expect("there is one");
        let own = binary.parent().expect("it is in a folder").display();
        command.env("PATH", format!("{own}:{path}:/usr/sbin"));
        command.env("PATHCAST__CLIENTS__LISTEN", format!("127.0.0.1:{clients_port}"));
        command.env("PATHCAST__API__LISTEN", format!("127.0.0.1:{api_port}"));
        if let Some(broker) = broker {
            command.env("PATHCAST__BROKER__URL", broker.url());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("bash is there");
        let said = Arc::new(Mutex::new(String::new()));
        let (stdout, keep) = (child.stdout.take().expect("it is piped"), Arc::clone(&said));
        std::thread::spawn(move || keep_log(stdout, &keep));
        Pasted { child, said, clients_port, backend_port, _folder: folder }
    }

    /// As soon as it is let in.
    async fn open(&self) -> Client {
        let address = ([127, 0, 0, 1], self.clients_port).into();
        eventually("a client that is let in", async || {
            // Nobody may be listening yet.
            tokio::net::TcpStream::connect(address).await.ok()?;
            client::ask(address, &Request::upgrade("/ws/api")).await.ok()
        })
        .await
    }

    fn said(&self, text: &str) -> bool {
        self.said.lock().expect("no holder of the log panics").contains(text)
    }
}

impl Drop for Pasted {
    fn drop(&mut self) {
        // After a test that passed there is nobody to kill.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.said.lock().expect("no holder of the log panics");
            eprintln!("--- they said:\n{said}---");
        }
    }
}

/// Says a word, and is told so, before anything else.
async fn talk(client: &mut Client, word: &str) {
    client.writer.text(word).await;
    let answer = client.message().await;
    let Heard::Text(answer) = answer else { panic!("{answer:?} instead of a text") };
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer, json!({"you said": word}));
}

async fn answers_the_asker_alone(heading: &str, broker: Option<&Redis>) -> Pasted {
    let pasted = Pasted::run(heading, broker);
    let (mut first, mut second) = (pasted.open().await, pasted.open().await);
    if heading == "Server-sent events" {
        eventually("a listener", async || pasted.said("listening").then_some(())).await;
    }
    talk(&mut first, "one").await;
    talk(&mut second, "\"zwei\", žluť").await;
    talk(&mut first, "three").await;
    pasted
}

#[tokio::test]
async fn the_webhook_of_the_page_answers_the_asker_alone_and_pathcast_only() {
    let redis = Redis::start();
    for broker in [None, Some(&redis)] {
        let pasted = answers_the_asker_alone("Webhooks", broker).await;
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client is built");
        let url = format!("http://127.0.0.1:{}/ws", pasted.backend_port);
        let stranger = http.post(url).header("webhook-signature", "v1ce,AAAA").body("it is me");
        let answer = within("a refusal", stranger.send()).await.expect("it is answered");
        assert_eq!(answer.status(), 401);
    }
}

#[tokio::test]
async fn the_reader_of_streams_of_the_page_answers_the_asker_alone() {
    // It brings a Redis with it.
    answers_the_asker_alone("Redis Streams", None).await;
}

#[tokio::test]
async fn the_listener_of_the_page_answers_the_asker_alone() {
    let redis = Redis::start();
    for broker in [None, Some(&redis)] {
        answers_the_asker_alone("Server-sent events", broker).await;
    }
}
