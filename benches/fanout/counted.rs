//! A gateway within this program, so that its allocations can be counted.
//!
//! The counting allocator is this whole program's: of the load, whose figures are not told, and of
//! the limits, where it adds some nanoseconds to a message.

use std::alloc::System;
use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::Context;
use pathcast::app::App;
use pathcast::cli::load::descriptors;
use pathcast::config::{self, Source};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// More than any row connects to it.
const CLIENTS_MAX: usize = 2_000;

/// Serves until its input ends; answers each line with the number of allocations until then.
pub fn serve(settings: &Path) -> anyhow::Result<()> {
    descriptors::allow(CLIENTS_MAX)?;
    let source = Source { path: Some(settings.into()), env: Vec::new() };
    let settings = config::load(&source)?;
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let app = runtime.block_on(App::start(settings, source)).context("cannot start")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "clients ws://{}\napi http://{}", app.clients(), app.api())?;
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        line.clear();
        let stats = ALLOCATOR.stats();
        writeln!(out, "{}", stats.allocations + stats.reallocations)?;
    }
    Ok(())
}
