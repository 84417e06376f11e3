//! Workers: child processes that hear a path by the consumer of the examples.

use std::process::{Child, Command, Stdio};

use super::redis::Redis;

/// An event as a worker wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    pub id: String,
    pub session: String,
    pub seq: u64,
    pub kind: String,
    /// Who handled it.
    pub worker: String,
}

pub struct Worker(Child);

impl Worker {
    /// One of the workers of that group, which takes so long for an event.
    pub fn start(server: &Redis, path: &str, group: &str, milliseconds: u64) -> Worker {
        let mut command = Command::new("python3");
        command.arg("tests/workers/worker.py").arg(server.port.to_string());
        command.args([path, group, &milliseconds.to_string()]).stdin(Stdio::null());
        Worker(command.spawn().expect("python3 is installed: tests/run.sh does that"))
    }

    /// A program of the documentation.
    pub fn run(program: &str) -> Worker {
        let mut command = Command::new("python3");
        command.args(["-c", program]).stdin(Stdio::null());
        Worker(command.spawn().expect("python3 is installed: tests/run.sh does that"))
    }

    /// Ends it, as a crash would.
    pub fn kill(&mut self) {
        self.0.kill().expect("an own child can be killed");
        self.0.wait().expect("an own child can be waited for");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All that the workers on that Redis have handled, in order, from that number on.
pub fn handled(server: &Redis, from: usize) -> Vec<Handled> {
    let lines = server.command(&["LRANGE", "handled", &from.to_string(), "-1"]);
    lines.lines().map(parse).collect()
}

/// How much that is.
pub fn count_handled(server: &Redis) -> usize {
    server.command(&["LLEN", "handled"]).parse().expect("a number")
}

fn parse(line: &str) -> Handled {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, session, seq, kind, worker] = words[..] else { panic!("{line:?}") };
    let [id, session, kind, worker] = [id, session, kind, worker].map(str::to_owned);
    Handled { id, session, seq: seq.parse().expect("a number"), kind, worker }
}
