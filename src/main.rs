//! settings → logs → `App::start` → signals → leave → exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use pathcast::app::App;
use pathcast::cli::bench;
use pathcast::cli::check::{self, Form};
use pathcast::cli::{Cli, Command, ready};
use pathcast::config::{self, Settings, Source};
use pathcast::lifecycle::{Signals, Wish};
use pathcast::trace::lines;
use pathcast::trace::logs::{self, Format};
use rustix::process::{Resource, getrlimit, setrlimit};

/// After a storm of connects it gives back what the system's own keeps (`.cargo/config.toml` says how
/// soon).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let source = Source::from_env(cli.config.clone());
    match cli.command() {
        Command::Serve => match serve(source) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
        Command::Bench(args) => bench::run(&args, &mut std::io::stdout(), &mut std::io::stderr()),
        Command::Check(args) => {
            let text = |form| -> anyhow::Result<String> {
                Ok(match form {
                    Form::Schema => config::schema(),
                    Form::Toml => config::check(&source)?.to_toml(),
                    Form::Json => config::check(&source)?.to_json(),
                    Form::Ready => {
                        ready::ask(config::api_listen(&source)?).map_err(anyhow::Error::msg)?
                    }
                })
            };
            check::run(args, text, &mut std::io::stdout(), &mut std::io::stderr())
        }
    }
}

fn serve(source: Source) -> anyhow::Result<()> {
    let mut settings = config::load(&source)?;
    logs::init(&settings.log)?;
    fit_to_descriptors(&mut settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(settings, source));
    // A look-up of a name cannot be broken off, and may last half a minute.
    runtime.shutdown_background();
    lines::flush();
    outcome
}

async fn run(mut settings: Settings, source: Source) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let mut is_anew = false;
    loop {
        let app = App::start(settings.clone(), source.clone()).await?;
        announce(&app, &settings);
        // A pod that begins anew keeps its doors, also where the kernel chose them.
        settings.gateway.listen = app.clients();
        settings.api.listen = app.api();
        let mut changes = app.changes();
        if is_anew {
            // It may have changed while nobody looked.
            app.reload();
        }
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Reload => app.reload(),
                    Wish::Leave | Wish::Hurry => {
                        app.leave(wish, &mut signals).await;
                        return Ok(());
                    }
                },
                () = changes.next() => app.reload(),
                () = app.claimed() => break,
            }
        }
        let Some(last) = app.give_up(&mut signals).await else { return Ok(()) };
        (settings.paths, settings.upstreams) = last;
        is_anew = true;
    }
}

/// Says where the doors are, in the form of the log: the two may end in one place. Nobody may be reading; that is
/// no reason not to serve.
fn announce(app: &App, settings: &Settings) {
    let scheme = if settings.gateway.tls.is_some() { "wss" } else { "ws" };
    let clients = format!("{scheme}://{}", app.clients());
    let api = format!("http://{}", app.api());
    let paths: Vec<&str> = settings.paths.iter().map(|path| &**path.pattern.text()).collect();
    let broker = if settings.broker.is_some() { "Redis" } else { "the memory broker" };
    let who = format!("pathcast {} on {broker}", env!("CARGO_PKG_VERSION"));
    let text = match settings.log.format {
        Format::Human => {
            format!("{who}\n  clients {clients}  paths {}\n  api {api}", paths.join(" "))
        }
        Format::Json => {
            serde_json::json!({ "message": who, "clients": clients, "api": api, "paths": paths })
                .to_string()
        }
    };
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Open files that handshakes, calls and backends are left beside the sessions; of a low limit a quarter.
const FILES_SPARE_MAX: u64 = 1024;

/// Every session is a descriptor, and the soft limit is often 1,024. Who takes the last one leaves none to
/// refuse the next client with, and none for probes: so no more sessions are let in than the files carry.
fn fit_to_descriptors(settings: &mut Settings) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files; sessions are bounded by it");
    }
    let Some(files) = getrlimit(Resource::Nofile).current else { return };
    let carried = files - (files / 4).min(FILES_SPARE_MAX);
    let carried = usize::try_from(carried).unwrap_or(usize::MAX);
    let (hard, soft) = (&mut settings.hub.sessions_max, &mut settings.relay.sessions_soft_max);
    if *hard > carried {
        tracing::warn!(
            "lets in {carried} sessions, not limits.sessions_max ({hard}): it may open {files} files"
        );
        *hard = carried;
        *soft = soft.map(|soft| soft.min(carried));
    }
}
