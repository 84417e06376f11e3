//! Signatures of webhooks, as a program in another language verifies them, with a public library of the
//! standard.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::client::{self, Request};
use support::gateway::Gateway;
use support::remote::{Manner, Remote};
use support::wait::eventually;
use tokio_tungstenite::tungstenite::Message;

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDQSm37a1nGGo=";
const WRONG: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A program that ends with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The one with the public library, which knows these secrets: its port.
fn library(secrets: &[&str]) -> (Program, u16) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhook_backend.py");
    let mut command = Command::new("python3");
    command.arg(script).args(secrets).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is installed");
    let stdout = child.stdout.take().expect("stdout was piped");
    let program = Program(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("it prints a line");
    let port = line.trim().parse().expect(
        "it needs `python3 -m pip install standardwebhooks==1.0.0`; tests/run.sh installs it",
    );
    (program, port)
}

async fn start(port: u16, secrets: &[&str]) -> Gateway {
    let secrets = secrets.iter().map(|one| format!("[[webhook.secret]]\nkey = \"{one}\"\n"));
    let secrets: String = secrets.collect();
    Gateway::start(&format!(
        "{secrets}[[path]]\npath = \"/ws\"\nbackend = {{ webhook = \"http://127.0.0.1:{port}/ws\" }}\n"
    ))
    .await
}

fn upstream(port: u16, secret: &str, remote: &Remote) -> String {
    format!(
        "[[webhook.secret]]\nkey = \"{secret}\"\n[[path]]\npath = \"/ws\"\n[[upstream]]\nname = \"feed\"\n\
         url = \"{}\"\nbackend = {{ webhook = \"http://127.0.0.1:{port}/up\" }}\n",
        remote.url()
    )
}

#[tokio::test]
async fn a_public_library_believes_each_secret_in_use_and_no_other() {
    let (_program, port) = library(&[OLD, NEW]);
    // While one replaces the other, whoever knows one of them believes.
    let gateway = start(port, &[OLD, NEW]).await;
    let mut client = gateway.open("/ws").await;
    client.writer.text("žluť").await;
    client.expect_text("[true, true] message žluť").await;
    let gateway = start(port, &[NEW, WRONG]).await;
    let request = Request::upgrade("/ws");
    let answer = client::ask(gateway.clients, &request).await.err().expect("a veto");
    assert_eq!(answer.status, 403);
    assert!(answer.body.starts_with("[false, true] connect"), "{}", answer.body);
    let gateway = start(port, &[]).await;
    let answer = client::ask(gateway.clients, &request).await.err().expect("a veto");
    assert!(answer.body.starts_with("[false, false] connect"), "{}", answer.body);
}

#[tokio::test]
async fn a_public_library_believes_what_is_posted_of_an_upstream_and_its_answer_goes_out() {
    let (_program, port) = library(&[OLD]);
    let remote = Remote::start(Manner::Open).await;
    let _gateway = Gateway::start(&upstream(port, OLD, &remote)).await;
    eventually("a connection", async || (remote.opened() == 1).then_some(())).await;
    remote.say("žluť");
    assert_eq!(remote.wait_said(1).await, [Message::text("[true] message žluť")]);
    let doubted = Remote::start(Manner::Open).await;
    let _gateway = Gateway::start(&upstream(port, WRONG, &doubted)).await;
    eventually("a connection", async || (doubted.opened() == 1).then_some(())).await;
    doubted.say("x");
    assert_eq!(doubted.wait_said(1).await, [Message::text("[false] message x")]);
}
