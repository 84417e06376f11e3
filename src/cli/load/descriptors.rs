//! Open files: every client is one, and the soft limit is often 1,024.

use anyhow::ensure;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Kept for what is open besides clients.
const SPARE: u64 = 64;

/// Raises the limit as far as it goes, and fails when `clients` do not fit then.
pub fn allow(clients: usize) -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let most = limit.maximum.unwrap_or(u64::MAX);
    let needed = u64::try_from(clients)? + SPARE;
    ensure!(needed <= most, "{clients} clients need {needed} open files; the limit is {most}");
    Ok(())
}
