//! Runs a scenario on one target and measures its figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Context, Plan, PlannedArm, SessionError,
    arms::Arms,
    epoch,
    ready::{self, Health, POLL, loaded_services},
};
use crate::{
    load::{self, Lane, LoadHandle, Slot},
    model::{
        event::Event,
        load::Pacing,
        measurement::LaneMeasurement,
        process::{InstanceState, InstanceStatus, ProcessId},
        record::{ArmRole, Design},
        scenario::{Action, Figure, Scenario, ScenarioLoad, ScenarioOutcome},
        target::{RuntimeIdentity, Target},
        units::format_duration,
        workload::Workload,
    },
    runtime::{Runtime, RuntimeError},
};

/// What has not come back by then is not coming back by itself, unless the scenario itself allows for more.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);
/// Far beyond any action; the load is told to stop long before.
const LONGEST_ACTION: Duration = Duration::from_secs(3600);
/// Answers read from an endpoint to see which release serves: several, since instances may share it.
const RELEASE_LOOKS: usize = 8;

type Figures = BTreeMap<Figure, f64>;

/// Runs a scenario, all repetitions, in a sandbox of its own that is gone afterwards.
///
/// What the runtime cannot do, and what breaks on the way, is part of the outcome.
///
/// # Errors
/// When the runtime is not usable here at all, and on an interrupt.
pub async fn run(
    context: &Context,
    id: String,
    scenario: &Scenario,
    target: &Target,
) -> Result<(RuntimeIdentity, ScenarioOutcome), SessionError> {
    let arm =
        PlannedArm { name: target.name.clone(), target: target.clone(), record: 0, role: ArmRole::Target };
    let plan = Plan {
        id,
        started_at: String::new(),
        seed: 0,
        records: vec![target.name.clone()],
        design: Design::Fixed { epochs: 0 },
        appended_to: None,
        arms: vec![arm],
        epochs: Vec::new(),
        soak: None,
    };
    let mut arms = Arms::set_up(context, &plan)?;
    context.tell(Event::ScenarioStarted { scenario: scenario.name.clone(), target: target.name.clone() });
    let ran = tokio::select! {
        biased;
        () = context.interrupted() => Err(SessionError::Interrupted),
        ran = prepared_repetitions(context, scenario, &mut arms) => ran,
    };
    let ended = arms.tear_down().await;
    let (identity, outcome) = super::both(context, ran, ended)?;
    context.tell(Event::ScenarioFinished {
        scenario: scenario.name.clone(),
        target: target.name.clone(),
        summary: summary(&outcome),
    });
    Ok((identity, outcome))
}

async fn prepared_repetitions(
    context: &Context,
    scenario: &Scenario,
    arms: &mut Arms,
) -> Result<(RuntimeIdentity, ScenarioOutcome), SessionError> {
    let prepared = arms.prepare().await;
    let Some(identity) = arms.identities().pop() else {
        return Err(prepared.err().unwrap_or(SessionError::Interrupted));
    };
    let ran = match prepared {
        Ok(()) => repetitions(context, scenario, arms).await,
        Err(error) => Err(error),
    };
    let outcome = match ran {
        Err(error @ SessionError::Runtime { source: RuntimeError::WorkloadLacks { .. }, .. }) => {
            return Err(error);
        }
        Ok(runs) => ScenarioOutcome::Ran { runs },
        Err(SessionError::Runtime { source: source @ RuntimeError::Unsupported { .. }, .. }) => {
            ScenarioOutcome::Unsupported { reason: source.to_string() }
        }
        Err(SessionError::Interrupted) => return Err(SessionError::Interrupted),
        Err(error) => {
            // The hint may quote what a service wrote, which no report may hold.
            if let Some(hint) = error.hint() {
                context.tell(Event::Warning(format!("{error}; {hint}")));
            }
            ScenarioOutcome::Broken { reason: error.to_string() }
        }
    };
    Ok((identity, outcome))
}

async fn repetitions(
    context: &Context,
    scenario: &Scenario,
    arms: &mut Arms,
) -> Result<Vec<Figures>, SessionError> {
    let mut runs = Vec::new();
    for repetition in 0..scenario.repeat {
        // Every repetition begins from fresh processes: what one leaves behind is not the next one's.
        let ready = arms.start(0, repetition).await?;
        let mut run = Run { context, arms, health: Health::new()?, patience: patience(scenario) };
        let figures = match scenario.action {
            Action::StartAll => run.start_all(ready).await?,
            Action::Reload | Action::KillInstance => run.under_load(scenario, repetition).await?,
        };
        runs.push(figures);
        arms.stop_all().await?;
    }
    Ok(runs)
}

struct Run<'a> {
    context: &'a Context,
    arms: &'a mut Arms,
    health: Health,
    /// How long a recovery is awaited.
    patience: Duration,
}

impl Run<'_> {
    fn workload(&self) -> Arc<Workload> {
        Arc::clone(&self.context.workload)
    }

    fn runtime(&mut self) -> &mut dyn Runtime {
        self.arms.arm_and_runtime(0).1
    }

    fn arm_name(&mut self) -> String {
        self.arms.arm_and_runtime(0).0.name.clone()
    }

    async fn status(&mut self) -> Result<Vec<InstanceStatus>, SessionError> {
        let name = self.arm_name();
        self.runtime().status().await.map_err(SessionError::runtime(&name))
    }

    async fn start_all(&mut self, ready: Duration) -> Result<Figures, SessionError> {
        let online = self.online_share().await?;
        Ok(BTreeMap::from([(Figure::ReadySeconds, ready.as_secs_f64()), (Figure::OnlineShare, online)]))
    }

    /// Load before, the action, load after; the figures of the load and of the action together.
    async fn under_load(&mut self, scenario: &Scenario, repetition: u32) -> Result<Figures, SessionError> {
        let load = scenario.load.map(|load| self.begin_load(&load)).transpose()?;
        if let Some(load) = &scenario.load {
            tokio::time::sleep(load.before).await;
        }
        begin_phase(load.as_ref());
        let acted = match scenario.action {
            Action::Reload => self.reload(repetition).await,
            Action::KillInstance => self.kill().await,
            Action::StartAll => Ok(Figures::new()),
        };
        begin_phase(load.as_ref());
        if let Some(load) = &scenario.load {
            tokio::time::sleep(load.after).await;
        }
        let measured = match load {
            Some(load) => Some(load.end().await?),
            None => None,
        };
        let mut figures = acted?;
        if let Some(lane) = measured {
            figures.extend(load_figures(&lane));
        }
        figures.insert(Figure::OnlineShare, self.online_share().await?);
        Ok(figures)
    }

    fn begin_load(&mut self, load: &ScenarioLoad) -> Result<RunningLoad, SessionError> {
        let endpoints = self.runtime().endpoints();
        let lane = Lane { name: self.arm_name(), routes: epoch::routes(&self.workload(), &endpoints) };
        let settings = &self.context.load;
        let slot = Slot { lane: 0, length: load.before + LONGEST_ACTION + load.after };
        let plan = load::Plan {
            connections: settings.connections,
            connection_use: load.connection_use,
            timeout: settings.timeout,
            ..load::Plan::new(Pacing::constant(load.rate_per_second), vec![slot])
        };
        let (stop, stopped) = tokio::sync::watch::channel(false);
        Ok(RunningLoad { handle: load::spawn(plan, vec![lane], stopped, None)?, stop })
    }

    async fn reload(&mut self, repetition: u32) -> Result<Figures, SessionError> {
        let workload = self.workload();
        let release = format!("reload-{repetition}");
        let before = processes(&self.status().await?);
        let name = self.arm_name();
        self.arms.arm_and_runtime(0).0.sandbox.deploy(&release).map_err(SessionError::runtime(&name))?;
        let begun = Instant::now();
        for service in loaded_services(&workload) {
            self.runtime().reload(&service).await.map_err(SessionError::runtime(&name))?;
        }
        let took = begun.elapsed();
        self.recovered(&workload, |_| true).await?;
        let mut figures = Figures::from([(Figure::ReloadSeconds, took.as_secs_f64())]);
        let loaded: BTreeSet<String> = loaded_services(&workload).into_iter().collect();
        let after = self.status().await?;
        let of_loaded = |process: &&(String, ProcessId)| loaded.contains(&process.0);
        let now = processes(&after);
        let count = after.iter().filter(|instance| loaded.contains(&instance.service)).count();
        if count > 0 {
            let replaced = now.iter().filter(of_loaded).filter(|process| !before.contains(process)).count();
            figures.insert(Figure::ReplacedShare, replaced as f64 / count as f64);
        }
        if let Some(share) = self.new_release_share(&workload, &release).await {
            figures.insert(Figure::NewReleaseShare, share);
        }
        Ok(figures)
    }

    async fn kill(&mut self) -> Result<Figures, SessionError> {
        let workload = self.workload();
        let name = self.arm_name();
        let services: BTreeSet<String> = loaded_services(&workload).into_iter().collect();
        let before = spawned(&self.status().await?, &services).len();
        let mut killed = Vec::new();
        let mut first_kill = None;
        for service in &services {
            let dead =
                self.runtime().kill_instance(service, 0).await.map_err(SessionError::runtime(&name))?;
            // Only now: what a runtime takes to look an instance up is no part of its recovery.
            first_kill.get_or_insert_with(Instant::now);
            killed.push(dead);
        }
        let begun = first_kill.unwrap_or_else(Instant::now);
        let respawned = self
            .recovered(&workload, |status| {
                let now = spawned(status, &services);
                now.len() >= before && killed.iter().all(|dead| !now.contains(dead))
            })
            .await?;
        let mut figures = Figures::new();
        if let Some(Recovery { condition, healthy }) = respawned {
            figures.insert(Figure::RespawnSeconds, condition.duration_since(begun).as_secs_f64());
            figures.insert(Figure::ServeSeconds, healthy.duration_since(begun).as_secs_f64());
        }
        Ok(figures)
    }

    /// Online instances over those declared, or those the runtime knows of, whichever is more.
    async fn online_share(&mut self) -> Result<f64, SessionError> {
        let status = self.status().await?;
        let declared = self.runtime().declared_instances().max(status.len());
        let online = status.iter().filter(|instance| instance.state == InstanceState::Online).count();
        Ok(if declared == 0 { 0.0 } else { online as f64 / declared as f64 })
    }

    /// Waits until a condition on the runtime's view holds and then every endpoint answers. `None` when that
    /// does not come about in time: its figures are then missing, and missing figures meet no expectation.
    async fn recovered(
        &mut self,
        workload: &Workload,
        condition: impl Fn(&[InstanceStatus]) -> bool,
    ) -> Result<Option<Recovery>, SessionError> {
        let deadline = Instant::now() + self.patience;
        while !condition(&self.status().await?) {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
        let condition = Instant::now();
        let runtime = self.arms.arm_and_runtime(0).1;
        let healthy = ready::all_answer(runtime, workload, &self.health, deadline).await;
        Ok(healthy.map(|healthy| Recovery { condition, healthy }))
    }

    /// Of the answers of every endpoint that tells its release, the share that names the new one.
    async fn new_release_share(&mut self, workload: &Workload, release: &str) -> Option<f64> {
        workload.release_variable.as_ref()?;
        let (mut asked, mut new) = (0_u32, 0_u32);
        for endpoint in self.runtime().endpoints() {
            let http = workload.service(&endpoint.service).and_then(|service| service.http.as_ref());
            let Some(http) = http.filter(|http| !http.requests.is_empty()) else { continue };
            let Some(path) = &http.release else { continue };
            for _ in 0..RELEASE_LOOKS {
                let body = self.health.body(endpoint.address, path).await;
                asked += 1;
                new += u32::from(body.is_some_and(|body| body.contains(release)));
            }
        }
        (asked > 0).then(|| f64::from(new) / f64::from(asked))
    }
}

fn patience(scenario: &Scenario) -> Duration {
    let of_recovery = |figure| matches!(figure, Figure::RespawnSeconds | Figure::ServeSeconds);
    let bounds = scenario.expect.iter().filter(|expectation| of_recovery(expectation.figure));
    let longest = bounds.filter_map(|expectation| expectation.at_most).fold(0.0, f64::max);
    RECOVERY_LIMIT.max(Duration::try_from_secs_f64(longest + 1.0).unwrap_or(LONGEST_ACTION))
}

struct Recovery {
    condition: Instant,
    healthy: Instant,
}

fn begin_phase(load: Option<&RunningLoad>) {
    if let Some(load) = load {
        load.handle.begin_phase();
    }
}

struct RunningLoad {
    handle: LoadHandle,
    stop: tokio::sync::watch::Sender<bool>,
}

impl RunningLoad {
    async fn end(self) -> Result<LaneMeasurement, SessionError> {
        self.stop.send_replace(true);
        let mut measured = self.handle.finish().await?;
        Ok(measured.lanes.remove(0))
    }
}

fn load_figures(lane: &LaneMeasurement) -> Figures {
    let counts = &lane.counts;
    // What was due and never answered is lost to its user, whether it was sent or not.
    let requests = counts.completed() + counts.unanswered();
    let errors = counts.failures() + counts.unanswered();
    let mut figures = Figures::from([
        (Figure::Requests, requests as f64),
        (Figure::Errors, errors as f64),
        (Figure::ErrorsAfterRetry, (counts.failures_after_retry() + counts.unanswered()) as f64),
        (Figure::LongestGapSeconds, lane.longest_gap.as_secs_f64()),
        (Figure::OverOneSecond, counts.over_one_second as f64),
    ]);
    if requests > 0 {
        figures.insert(Figure::ErrorRate, errors as f64 / requests as f64);
    }
    if let Some(max) = lane.latency.max() {
        figures.insert(Figure::MaxLatencySeconds, max.as_secs_f64());
    }
    let phases = [Figure::P99BeforeSeconds, Figure::P99DuringSeconds, Figure::P99AfterSeconds];
    for (figure, phase) in phases.into_iter().zip(&lane.phases) {
        if let Some(p99) = phase.latency.quantile(0.99) {
            figures.insert(figure, p99.as_secs_f64());
        }
    }
    figures
}

/// The living processes of some services, ready or not: for one runtime "online" means spawned, for another ready.
fn spawned(status: &[InstanceStatus], services: &BTreeSet<String>) -> BTreeSet<ProcessId> {
    let living = |state| matches!(state, InstanceState::Online | InstanceState::Launching);
    let own = status.iter().filter(|instance| living(instance.state) && services.contains(&instance.service));
    own.filter_map(|instance| instance.process).collect()
}

fn processes(status: &[InstanceStatus]) -> BTreeSet<(String, ProcessId)> {
    let running = status.iter().filter(|instance| instance.state == InstanceState::Online);
    running.filter_map(|instance| Some((instance.service.clone(), instance.process?))).collect()
}

fn summary(outcome: &ScenarioOutcome) -> String {
    match outcome {
        ScenarioOutcome::Ran { runs } => {
            let errors: f64 = runs.iter().filter_map(|run| run.get(&Figure::Errors)).sum();
            let gap =
                runs.iter().filter_map(|run| run.get(&Figure::LongestGapSeconds)).copied().reduce(f64::max);
            match gap {
                Some(gap) => {
                    format!("{errors} errors, longest gap {}", format_duration(Duration::from_secs_f64(gap)))
                }
                None => format!("{} runs", runs.len()),
            }
        }
        ScenarioOutcome::Unsupported { reason } | ScenarioOutcome::Broken { reason } => reason.clone(),
    }
}
