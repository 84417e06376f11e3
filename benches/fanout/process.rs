//! What a process has used, from `/proc`.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use anyhow::Context;

#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

/// Memory that is resident, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// `VmRSS`.
    pub rss_kib: u64,
    /// `RssAnon`: without the pages of the program's file, which come with what ran.
    pub anon_kib: u64,
}

impl Process {
    pub fn own() -> Process {
        Process(std::process::id())
    }

    /// Time on a processor, in user space and in the kernel, of all threads that live.
    pub fn cpu(self) -> anyhow::Result<Duration> {
        self.scheduled(0)
    }

    /// How long its threads, taken together, were ready to run and had to wait for a processor: for
    /// each other, or for what else the machine does.
    pub fn waited(self) -> anyhow::Result<Duration> {
        self.scheduled(1)
    }

    /// Its threads whose names begin so.
    pub fn threads(self, name: &str) -> anyhow::Result<HashSet<u32>> {
        let mut found = HashSet::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let task = task?;
            // One that ends meanwhile is none.
            let Ok(own) = fs::read_to_string(task.path().join("comm")) else { continue };
            if own.starts_with(name) {
                found.insert(task.file_name().to_string_lossy().parse()?);
            }
        }
        Ok(found)
    }

    /// Which addresses hold whose code: the names of the files, without their folders.
    pub fn code(self) -> anyhow::Result<Vec<(Range<u64>, String)>> {
        let mut found = Vec::new();
        for line in self.read("maps")?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [range, rights, .., file] = words[..] else { continue };
            if rights.contains('x')
                && let Some((from, to)) = range.split_once('-')
            {
                let address = |text| u64::from_str_radix(text, 16);
                let name = file.rsplit('/').next().unwrap_or(file);
                found.push((address(from)?..address(to)?, name.to_owned()));
            }
        }
        Ok(found)
    }

    /// A field of the threads' `schedstat`, in nanoseconds, added up.
    fn scheduled(self, field: usize) -> anyhow::Result<Duration> {
        let mut total_ns = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            // One that ends meanwhile has nothing to tell.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let value = text.split_whitespace().nth(field).context("schedstat is short")?;
            total_ns += value.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total_ns))
    }

    pub fn memory(self) -> anyhow::Result<Memory> {
        let status = self.read("status")?;
        let (rss_kib, anon_kib) = (kib(&status, "VmRSS:")?, kib(&status, "RssAnon:")?);
        Ok(Memory { rss_kib, anon_kib })
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

fn kib(text: &str, key: &str) -> anyhow::Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let value = value.with_context(|| format!("no {key}"))?;
    Ok(value.trim().trim_end_matches("kB").trim_end().parse()?)
}
