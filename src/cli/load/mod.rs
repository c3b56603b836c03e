//! `qbench load`: the load engine on its own, against one URL.
//!
//! [`args`] says what may be asked, [`shape`] and [`threshold`] read the small grammars in it, [`target`] finds
//! where to send; [`search`] looks for the highest rate, [`live`] looks after a load while it runs.

mod args;
mod error;
mod live;
mod search;
mod shape;
mod target;
#[cfg(test)]
mod tests;
mod threshold;

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::Path,
};

use tokio::sync::watch;

use super::{ExitCode, wants_colour};
use crate::{
    load::{self, Plan, Slot, Tuning},
    model::{
        load::{Arrivals, Pacing},
        load_report::{LoadAsked, LoadMeasured, LoadReport},
    },
    report::{self, live::LiveLine},
    store::{self, StoreError},
};
use args::Format;
pub(crate) use args::LoadArgs;
pub(crate) use error::LoadCliError;
use live::Channel;
use target::Target;

/// Sends the load and prints what it measured; `stop` ends it early. The exit code says whether the thresholds hold.
///
/// # Errors
/// When the load cannot be asked for or carried, or what it measured not be printed or written.
pub(crate) async fn run(
    args: &LoadArgs,
    stop: watch::Receiver<bool>,
    out: &mut dyn Write,
) -> Result<ExitCode, LoadCliError> {
    let pacing = pacing(args)?;
    let target = Target::of(args).await?;
    let asked = asked(args, &pacing, &target);
    let log = args.result.hdr_log.as_deref().map(create).transpose()?;
    let mut logged = Ok(());
    let (measured, search) = match args.result.find_max {
        Some(find) => {
            let (measured, search) = search::run(args, find, &target, &stop).await?;
            (measured, Some(search))
        }
        None => {
            let measured;
            (measured, logged) = one_load(args, pacing, &target, &stop, log).await?;
            (measured, None)
        }
    };
    let interrupted = *stop.borrow();
    let thresholds = args.result.thresholds.clone();
    let report = LoadReport { asked, measured, thresholds, search, interrupted };
    match args.result.format {
        Format::Table => report::load::table(&report, out, wants_colour())?,
        Format::Json => report::load::json(&report, out)?,
    }
    out.flush()?;
    // Files come after the result, which is not lost with them.
    if let (Err(source), Some(path)) = (logged, &args.result.hdr_log) {
        return Err(LoadCliError::File { path: path.clone(), source });
    }
    if let Some(path) = &args.result.hgrm {
        write_percentiles(path, &report)?;
    }
    Ok(match report.verdict() {
        _ if interrupted => ExitCode::Interrupted,
        None => ExitCode::Pass,
        Some(verdict) => verdict.into(),
    })
}

/// Carries one load to its end, with the live line and the log beside it; says also whether the log is whole.
async fn one_load(
    args: &LoadArgs,
    pacing: Pacing,
    target: &Target,
    stop: &watch::Receiver<bool>,
    log: Option<File>,
) -> Result<(LoadMeasured, io::Result<()>), LoadCliError> {
    let is_terminal = io::stderr().is_terminal();
    let channel = Channel::new();
    let observer = (is_terminal || log.is_some()).then(|| channel.observer());
    let plan = plan(args, pacing, target);
    let handle = load::spawn(plan, vec![target.lane.clone()], stop.clone(), observer)?;
    let line = LiveLine::new(is_terminal, args.duration());
    let watch = channel.watch(handle.started(), line, log)?;
    let measured = handle.finish().await;
    let logged = watch.end();
    Ok((measured?.into_last_lane(), logged))
}

fn plan(args: &LoadArgs, pacing: Pacing, target: &Target) -> Plan {
    let client = &args.client;
    let mut plan = Plan::new(pacing, vec![Slot { lane: 0, length: args.duration() }]);
    plan.connections = args.transport.connections;
    plan.connection_use = args.transport.connection.into();
    plan.timeout = args.transport.timeout;
    plan.tuning = Tuning {
        precision: client.precision.into(),
        receive_clock: client.clock.into(),
        threads: client.threads,
        cores: client.cores.clone(),
        realtime: client.realtime,
        lag_limit: client.lag_limit,
    };
    plan.transport = target.transport.clone();
    plan.cookies = args.request.cookies;
    plan.series = args.result.format == Format::Json || args.result.find_max.is_some();
    plan
}

fn pacing(args: &LoadArgs) -> Result<Pacing, LoadCliError> {
    if args.pacing.closed {
        return Ok(Pacing::Closed { think: args.pacing.think_time.unwrap_or_default() });
    }
    let shape = args.rate().over(args.duration()).map_err(|message| {
        LoadCliError::option(message, "give a longer --duration, or leave it out to have the shape's own")
    })?;
    let arrivals = args.poisson_seed().map_or(Arrivals::Even, |seed| Arrivals::Poisson { seed });
    Ok(Pacing::Open { shape, arrivals })
}

fn asked(args: &LoadArgs, pacing: &Pacing, target: &Target) -> LoadAsked {
    let (client, transport) = (&args.client, &args.transport);
    LoadAsked {
        url: target.url.clone(),
        peers: target.peers.clone(),
        protocol: if transport.http2 { "HTTP/2" } else { "HTTP/1.1" },
        trust: target.trust.clone(),
        requests: target.kinds.clone(),
        expected_status: args.request.expect_status.as_ref().map(|list| list.text.clone()),
        pacing: pacing.clone(),
        duration: args.duration(),
        connections: transport.connections,
        connection_use: transport.connection.into(),
        timeout: transport.timeout,
        cookies: args.request.cookies,
        precision: client.precision.into(),
        receive_clock: client.clock.into(),
        realtime: client.realtime,
        cores: client.cores.clone(),
    }
}

/// Before the load, so that a load is not run for a file that cannot be.
fn create(path: &Path) -> Result<File, LoadCliError> {
    File::create(path).map_err(|source| LoadCliError::File { path: path.to_owned(), source })
}

fn write_percentiles(path: &Path, report: &LoadReport) -> Result<(), LoadCliError> {
    let failed = |source| LoadCliError::File { path: path.to_owned(), source };
    let mut text = Vec::new();
    report::hdr::percentiles(&report.measured.lane.latency, &mut text)?;
    if path.exists() && !path.is_file() {
        // A pipe or /dev/null is to be written to, not replaced.
        return std::fs::write(path, text).map_err(failed);
    }
    // With a folder, also where that is this one: its entry is synced.
    let in_folder = if path.parent() == Some(Path::new("")) { &Path::new(".").join(path) } else { path };
    store::write_atomically(in_folder, &text).map_err(|error| match error {
        StoreError::File { source, .. } => failed(source),
        other => failed(io::Error::other(other)),
    })
}
