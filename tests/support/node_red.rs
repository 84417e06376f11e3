//! Node-RED itself, with one of the flows of `integrations/node-red`, as a child.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::gateway::{Gateway, Said, keep_log, send};
use super::redis::free_port;
use super::wait::{poll_pause, within_time};

const MISSING: &str = "Node-RED is needed; tests/run.sh installs it, or `npm install --prefix \
                       target/node-red node-red@4.1.15` does";

/// It reads some thousand files first: four seconds when alone, twenty on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);

pub struct NodeRed {
    child: Child,
    said: Arc<Mutex<String>>,
    /// Of what its flows serve, as the start of a URL.
    url: String,
    http: reqwest::Client,
}

impl NodeRed {
    /// Starts a flow, whose clients go to `clients` and whose requests to the gateway's API, and
    /// waits until it runs.
    pub async fn start(flow: &str, gateway: &Gateway, clients: &str) -> NodeRed {
        NodeRed::start_at(free_port(), flow, gateway, clients, &[]).await
    }

    /// As [`NodeRed::start`], where the gateway knows already, and with additional environment
    /// variables.
    pub async fn start_at(
        port: u16,
        flow: &str,
        gateway: &Gateway,
        clients: &str,
        environment: &[(&str, &str)],
    ) -> NodeRed {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target");
        let installed = target.join("node-red");
        assert!(installed.join("node_modules/node-red/red.js").exists(), "{MISSING}");
        let mut command = Command::new("integrations/node-red/run.sh");
        let api = gateway.api.trim_start_matches("http://");
        command.arg(flow).arg(port.to_string()).args([clients, api]);
        command.envs(environment.iter().copied()).env("NODE_RED", installed).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the script starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (stdout, keep) = (child.stdout.take().expect("it is piped"), Arc::clone(&said));
        std::thread::spawn(move || keep_log(stdout, &keep));
        let (url, http) = (format!("http://127.0.0.1:{port}"), gateway.http.clone());
        let mut red = NodeRed { child, said, url, http };
        let runs = async {
            while !red.log().contains("Started flows") {
                let ended = red.child.try_wait().expect("an own child can be waited for");
                assert_eq!(ended, None, "Node-RED ended:\n{}", red.log());
                poll_pause().await;
            }
        };
        within_time(START_DEADLINE, "flows that run", runs).await;
        red
    }

    /// Posts to what a flow serves.
    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Said {
        let request = self.http.post(format!("{}{path}", self.url));
        send(request.header("content-type", content_type).body(body.into())).await
    }

    pub fn log(&self) -> String {
        self.said.lock().expect("no holder of the log panics").clone()
    }
}

impl Drop for NodeRed {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // In good order the script takes Node-RED's folder away; what is left then is killed.
        let _ = kill_process_group(group, Signal::TERM);
        let _ = self.child.wait();
        let _ = kill_process_group(group, Signal::KILL);
        if std::thread::panicking() {
            eprintln!("--- Node-RED said:\n{}---", self.log());
        }
    }
}
