//! Signals for the programs that tests start.

use std::process::Child;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Sends it. With `Signal::STOP`, each of its threads stands still when this returns: on a busy
/// machine some would go on for a while.
pub fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).expect("an own child takes signals");
    if signal == Signal::STOP {
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), stopped).expect("an own child can be waited for");
    }
}
