//! The machine that a run ran on, in one line; and which of its processors are whose.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, ensure};

/// Processors for the server and for the load, as `taskset` takes them: apart when there are two.
#[derive(Debug, Clone)]
pub struct Split {
    pub gateway: Option<String>,
    pub load: Option<String>,
}

impl Split {
    /// Takes what was asked for; else one for the server and the next one for the load.
    pub fn choose(gateway: Option<String>, load: Option<String>) -> Split {
        let is_possible = cores() > 1;
        let or = |asked: Option<String>, cpu: &str| asked.or(is_possible.then(|| cpu.to_owned()));
        let chosen = Split { gateway: or(gateway, "0"), load: or(load, "1") };
        let is_any = |cpus: &String| cpus != "any";
        Split { gateway: chosen.gateway.filter(is_any), load: chosen.load.filter(is_any) }
    }

    /// Puts this process, and the threads it starts from now on, on the load's processors.
    pub fn settle(&self) -> anyhow::Result<()> {
        let Some(cpus) = &self.load else { return Ok(()) };
        let own = std::process::id().to_string();
        let settled = Command::new("taskset").args(["-c", "-p", cpus, &own]).output();
        let settled = settled.context("cannot run taskset")?;
        ensure!(settled.status.success(), "taskset does not take the processors {cpus:?}");
        Ok(())
    }

    pub fn describe(&self) -> String {
        let name = |cpus: &Option<String>| cpus.clone().unwrap_or_else(|| "any".to_owned());
        format!("gateway on cpu {}, load on cpu {}", name(&self.gateway), name(&self.load))
    }
}

/// Asked before anything is pinned.
pub fn describe() -> String {
    let line = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
    let model =
        model.map_or("unknown processor", |model| model.trim_start_matches(['\t', ':', ' ']));
    let load = line("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let kernel = line("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default().to_owned();
    format!("{} cores, {model}, Linux {kernel}, load before {}", cores(), load.join(" "))
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}
