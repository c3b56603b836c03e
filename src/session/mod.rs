//! Measuring: epochs of interleaved arms, and scenarios.
//!
//! The session owns the clock and the order of things. It tells what happens through one event sink, hands each
//! finished record to one save function, and ends everything it started, however it ends.
//!
//! Deliberately absent: files and formats (the caller saves), judgement, and any choice of streams.

mod arms;
mod epoch;
pub mod error;
pub mod plan;
mod ready;
mod scenario;
mod soak;
mod throughput;
mod times;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

pub use arms::{Arms, Resolved, resolve};
pub use error::SessionError;
pub use plan::{Plan, PlannedArm};
pub use scenario::run as run_scenario;

use crate::{
    model::{
        event::Event,
        record::{Design, Ended, Format, LoadIdentity, Record, Session, WorkloadIdentity},
        settings::{LoadSettings, Thresholds},
        workload::Workload,
    },
    probe,
};

/// What every session needs, whatever it measures.
#[derive(Clone)]
pub struct Context {
    /// The workload.
    pub workload: Arc<Workload>,
    /// SHA-256 of the requests of the load.
    pub requests_digest: String,
    /// How hard and how long.
    pub load: LoadSettings,
    /// Stored with the records.
    pub thresholds: Thresholds,
    /// The program that can be started as `… supervise`: this one.
    pub own_executable: std::path::PathBuf,
    /// Turns true when the user wants to end.
    pub stop: watch::Receiver<bool>,
    /// Receives what happens.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

impl Context {
    /// The workload, as a record of this session would name it.
    pub fn workload_identity(&self) -> WorkloadIdentity {
        WorkloadIdentity {
            name: self.workload.name.clone(),
            files: self.workload.digests.clone(),
            services: self.workload.services.iter().map(|service| service.name.clone()).collect(),
        }
    }

    /// The load, likewise.
    pub fn load_identity(&self) -> LoadIdentity {
        let load = &self.load;
        LoadIdentity {
            rate_per_second: load.rate_per_second,
            window_s: load.window.as_secs_f64(),
            slot_s: load.slot.as_secs_f64(),
            warmup_s: load.warmup.as_secs_f64(),
            connections: load.connections,
            connection_use: load.connection_use,
            timeout_s: load.timeout.as_secs_f64(),
            precision: load.precision,
            times: load.times,
            throughput_p99_s: load.throughput_p99.map(|limit| limit.as_secs_f64()),
            requests_digest: self.requests_digest.clone(),
        }
    }

    fn tell(&self, event: Event) {
        (self.events)(event);
    }

    /// Resolves when the user wants to end.
    async fn interrupted(&self) {
        let mut stop = self.stop.clone();
        // An error means that nobody is left who could ask for the end.
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Saves a record, given with its index in [`Plan::records`]; called after every epoch and every window of a soak.
pub type Save<'a> = dyn FnMut(usize, &Record) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

/// Asked after every epoch with the records so far: why the session may end now, if it may.
pub type Steer<'a> = dyn FnMut(&[Record]) -> Option<Ended> + 'a;

/// Runs the epochs of a plan; gives back the records, one per measured target.
///
/// # Errors
/// What stopped the session. Whole epochs measured before that have been saved. On an interrupt this is
/// [`SessionError::Interrupted`].
pub async fn run_epochs(
    context: &Context,
    plan: &Plan,
    save: &mut Save<'_>,
    steer: &mut Steer<'_>,
) -> Result<Vec<Record>, SessionError> {
    let mut arms = Arms::set_up(context, plan)?;
    let measured = tokio::select! {
        biased;
        () = context.interrupted() => Err(SessionError::Interrupted),
        measured = epochs(context, plan, &mut arms, save, steer) => measured,
    };
    if matches!(measured, Err(SessionError::Interrupted)) {
        context.tell(Event::Interrupted);
    }
    let ended = arms.tear_down().await;
    context.tell(Event::SessionFinished);
    both(context, measured, ended)
}

/// What was measured, if all was cleared as well. Where both failed, the first cause is the error and the other a
/// warning: something may still run.
fn both<T>(
    context: &Context,
    measured: Result<T, SessionError>,
    ended: Result<(), SessionError>,
) -> Result<T, SessionError> {
    match (measured, ended) {
        (Err(error), Err(also)) => {
            context
                .tell(Event::Warning(format!("{also}; `qbench doctor --clean` clears what may still run")));
            Err(error)
        }
        (measured, ended) => measured.and_then(|measured| ended.map(|()| measured)),
    }
}

async fn epochs(
    context: &Context,
    plan: &Plan,
    arms: &mut Arms,
    save: &mut Save<'_>,
    steer: &mut Steer<'_>,
) -> Result<Vec<Record>, SessionError> {
    let begun = Instant::now();
    arms.prepare().await?;
    let mut records = new_records(context, plan, arms);
    context.tell(Event::SessionStarted {
        session: plan.id.clone(),
        identities: arms.identities().into_iter().map(|identity| identity.describe()).collect(),
        epochs: plan.epochs.len() as u32,
        epoch_estimate: estimate_epoch(&context.load, plan.arms.len()),
    });
    let mut longest = Duration::ZERO;
    let mut first_rates = vec![throughput::first_rate(&context.load); plan.arms.len()];
    for planned in &plan.epochs {
        let epoch_begun = Instant::now();
        let measured = epoch::run(context, plan, planned, arms, &first_rates).await?;
        for (first, found) in first_rates.iter_mut().zip(measured.throughputs()) {
            *first = found.unwrap_or(*first);
        }
        let took = epoch_begun.elapsed();
        longest = longest.max(took);
        for (index, record) in records.iter_mut().enumerate() {
            record.epochs.push(measured.for_record(plan, index));
            record.session.measured_epochs += 1;
        }
        let is_last = planned.index as usize + 1 == plan.epochs.len();
        let ended = steer(&records)
            .or_else(|| is_last.then_some(Ended::AllMeasured))
            .or_else(|| is_used_up(plan.design, begun.elapsed() + longest).then_some(Ended::Budget));
        for (index, record) in records.iter_mut().enumerate() {
            record.session.ended = ended;
            save(index, record).map_err(SessionError::Save)?;
        }
        context.tell(Event::EpochFinished { epoch: planned.index, took, summary: measured.summary(plan) });
        if ended.is_some() {
            break;
        }
    }
    // A machine that was no place to measure is none to soak on.
    let trusted = records.iter().all(|record| record.session.ended != Some(Ended::Untrusted));
    if let Some(planned) = plan.soak.as_ref().filter(|_| trusted) {
        soaked(context, soak::run(context, plan, planned, arms, &mut records, save).await)?;
    }
    Ok(records)
}

/// What breaks in a soak leaves the growth of memory unknown, which its record says; the epochs stand.
fn soaked(context: &Context, outcome: Result<(), SessionError>) -> Result<(), SessionError> {
    match outcome {
        Err(error @ (SessionError::Save(_) | SessionError::Interrupted)) => Err(error),
        Err(error) => {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            context.tell(Event::Warning(format!("the soak ended early: {error}{hint}")));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Whether an epoch that ended then would end after the budget.
fn is_used_up(design: Design, next_end: Duration) -> bool {
    match design {
        Design::Sequential { budget_s: Some(budget_s), .. } => next_end.as_secs_f64() > budget_s,
        Design::Sequential { budget_s: None, .. } | Design::Fixed { .. } => false,
    }
}

fn new_records(context: &Context, plan: &Plan, arms: &Arms) -> Vec<Record> {
    let host = probe::host::fingerprint();
    let record = |(index, name): (usize, &String)| Record {
        format: Format::current(),
        qbench_version: env!("CARGO_PKG_VERSION").to_owned(),
        session: Session {
            id: plan.id.clone(),
            started_at: plan.started_at.clone(),
            seed: plan.seed,
            design: plan.design,
            measured_epochs: 0,
            ended: None,
            appended_to: plan.appended_to.clone(),
        },
        target: arms.identity_of_target(plan, index, name),
        arms: arms.identities_of_record(plan, index),
        workload: context.workload_identity(),
        host: host.clone(),
        load: context.load_identity(),
        thresholds: context.thresholds.clone(),
        epochs: Vec::new(),
        soak: None,
    };
    plan.records.iter().enumerate().map(record).collect()
}

/// A first guess, before any epoch has been timed: a start and a stop take about two seconds an arm, and so do a
/// reload and a restart.
pub fn estimate_epoch(load: &LoadSettings, arms: usize) -> Duration {
    let start_and_stop = Duration::from_secs(2);
    let times = if load.times { start_and_stop } else { Duration::ZERO };
    let search =
        load.throughput_p99.map_or(Duration::ZERO, |_| throughput::WINDOW * throughput::USUAL_WINDOWS);
    load.window + load.warmup + (start_and_stop + times + search) * arms as u32
}
