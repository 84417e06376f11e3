//! What a gateway asks of the kernel, counted from outside by strace.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::Process;

const WRITES: &[&str] = &["write", "writev", "sendto", "sendmsg"];

/// A trace that runs. It slows its process down a lot, which changes no count of a closed loop.
pub struct Strace {
    child: Child,
    process: Process,
    /// Of the log.
    folder: TempDir,
}

/// So many calls were made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calls {
    /// By the shards' threads: to clients' sockets, and everything else.
    pub writes: u64,
    pub others: u64,
    /// Of these the ones that wait for another thread, or wake one.
    pub futexes: u64,
    /// The same by any thread.
    pub futexes_of_all: u64,
}

impl Strace {
    /// Fails where strace is missing or may not look.
    pub fn attach(process: Process) -> anyhow::Result<Strace> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-s", "0", "-p", &process.0.to_string(), "-o"]);
        command.arg(folder.path().join("log"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.context("this row needs strace: apt-get install strace")?;
        let mut strace = Strace { child, process, folder };
        let mut said = BufReader::new(strace.child.stderr.take().context("no output")?);
        let mut line = String::new();
        // With all of its threads, which it says at once.
        said.read_line(&mut line)?;
        ensure!(line.contains(" attached"), "strace cannot look at the gateway: {}", line.trim());
        // It goes on saying which threads come.
        strace.child.stderr = Some(said.into_inner());
        Ok(strace)
    }

    /// Lets the process go; what it did in the meantime.
    pub fn detach(mut self) -> anyhow::Result<Calls> {
        let shards = self.process.threads("shard-")?;
        let pid = Pid::from_raw(self.child.id().try_into()?).context("a process has a number")?;
        kill_process(pid, Signal::INT)?;
        self.child.wait()?;
        let log = fs::read_to_string(self.folder.path().join("log"))?;
        Calls::read(&log, &shards)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It has ended, unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Calls {
    /// Each line begins with a thread's number; one that is a call's second half counts nothing.
    fn read(log: &str, shards: &HashSet<u32>) -> anyhow::Result<Calls> {
        let mut calls = Calls::default();
        for line in log.lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
            if name.starts_with(|first: char| !first.is_ascii_alphabetic()) {
                continue;
            }
            let is_futex = name == "futex";
            calls.futexes_of_all += u64::from(is_futex);
            if !shards.contains(&thread.parse()?) {
                continue;
            }
            if WRITES.contains(&name) {
                calls.writes += 1;
            } else {
                calls.others += 1;
            }
            calls.futexes += u64::from(is_futex);
        }
        Ok(calls)
    }
}
