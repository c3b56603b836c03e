//! One epoch: every arm started anew, a warm-up, one window of interleaved slots, every arm ended.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, time::Duration};

use super::{
    Arms, Context, Plan, SessionError,
    plan::PlannedEpoch,
    throughput,
    times::{self, Times},
};
use crate::{
    load::{self, Lane, Route, Slot, Tuning},
    model::{
        event::Event,
        load::{Disturbance, Pacing},
        measurement::{ArmUsage, LaneMeasurement},
        process::ProcessId,
        record::{ArmEpoch, ClientConditions, Conditions, Epoch, LatencySummary},
        settings::Thresholds,
        units::format_duration,
        verdict::Metric,
        workload::{Endpoint, Workload},
    },
    probe,
};

/// What an epoch came to, for all arms of the session.
pub(super) struct Measured {
    index: u32,
    order: Vec<String>,
    conditions: Conditions,
    arms: Vec<ArmEpoch>,
}

impl Measured {
    /// The part that belongs to one record.
    pub(super) fn for_record(&self, plan: &Plan, record: usize) -> Epoch {
        let own = plan.arms.iter().zip(&self.arms).filter(|(arm, _)| arm.record == record);
        Epoch {
            index: self.index,
            order: self.order.clone(),
            conditions: self.conditions.clone(),
            arms: own.map(|(arm, measured)| (arm.role, measured.clone())).collect(),
        }
    }

    /// The highest rates of the arms, where they were found.
    pub(super) fn throughputs(&self) -> impl Iterator<Item = Option<f64>> {
        self.arms.iter().map(|arm| arm.throughput)
    }

    /// One line for people: each arm's median, highest rate and errors.
    pub(super) fn summary(&self, plan: &Plan) -> String {
        let mut line = String::new();
        for (arm, measured) in plan.arms.iter().zip(&self.arms) {
            let p50 = measured
                .latency
                .p50_s
                .map_or("unknown".to_owned(), |s| format_duration(Duration::from_secs_f64(s)));
            let separator = if line.is_empty() { "" } else { ", " };
            let _ = write!(line, "{separator}{} p50 {p50}", arm.name);
            if let Some(rate) = measured.throughput {
                let _ = write!(line, " up to {rate:.0}/s");
            }
            if measured.requests.failures() > 0 {
                let _ = write!(line, " ({} failed)", measured.requests.failures());
            }
        }
        line
    }
}

/// Runs one epoch; a search of an arm's highest rate begins with its own of `first_rates`. On an error the arms may
/// still run; the caller tears them down.
///
/// # Errors
/// When an arm fails, or the load cannot be sent.
pub(super) async fn run(
    context: &Context,
    plan: &Plan,
    planned: &PlannedEpoch,
    arms: &mut Arms,
    first_rates: &[f64],
) -> Result<Measured, SessionError> {
    let mut start_to_ready = vec![Duration::ZERO; plan.arms.len()];
    for index in &planned.start_order {
        start_to_ready[*index] = arms.start(*index, planned.index).await?;
    }
    let lanes = lanes(context, arms, plan.arms.len());
    if !planned.warmup.is_empty() {
        send(context, &planned.warmup, &lanes).await?;
    }
    context.tell(Event::WindowStarted { epoch: planned.index, window: context.load.window });
    let window = probe::host::Window::begin();
    let before = read_all(arms, plan.arms.len()).await?;
    let measured = send(context, &planned.window, &lanes).await?;
    let after = read_all(arms, plan.arms.len()).await?;
    let ended = window.end();
    let client = client_conditions(&measured, &context.thresholds);
    let afterwards = afterwards(context, planned, arms, first_rates).await?;
    arms.stop_all().await?;
    let usage = usage_of_all(context, plan, before, after);
    let own_cpu = own_cpu(&usage).map(|cpu| cpu + measured.client.cpu);
    let conditions = Conditions { client: Some(client), ..ended.conditions(own_cpu) };
    for reason in conditions.disturbances() {
        context.tell(Event::Warning(format!("epoch {}: {reason}", planned.index + 1)));
    }
    let arms = measured.lanes.iter().zip(usage).zip(start_to_ready).zip(afterwards);
    Ok(Measured {
        index: planned.index,
        order: planned.start_order.iter().map(|arm| plan.arms[*arm].name.clone()).collect(),
        conditions,
        arms: arms
            .map(|(((lane, usage), ready), afterwards)| arm_epoch(lane, usage, ready, afterwards))
            .collect(),
    })
}

/// What was asked for beside the window, of one arm.
#[derive(Clone, Copy, Debug, Default)]
struct Afterwards {
    times: Times,
    throughput: Option<f64>,
}

/// Measures what was asked for beside the window, arm by arm in the order in which they were started. First the
/// rates, of the processes that the window has warmed; the times end them.
async fn afterwards(
    context: &Context,
    planned: &PlannedEpoch,
    arms: &mut Arms,
    first_rates: &[f64],
) -> Result<Vec<Afterwards>, SessionError> {
    let mut all = vec![Afterwards::default(); first_rates.len()];
    if let Some(p99) = context.load.throughput_p99 {
        for index in &planned.start_order {
            let rate = first_rates[*index];
            all[*index].throughput = throughput::search(context, arms, *index, p99, rate).await?;
        }
    }
    if context.load.times {
        for index in &planned.start_order {
            all[*index].times = times::measure(context, arms, *index, planned.index).await?;
        }
    }
    Ok(all)
}

fn usage_of_all(context: &Context, plan: &Plan, before: Vec<Reading>, after: Vec<Reading>) -> Vec<ArmUsage> {
    let readings = after.into_iter().zip(before).zip(&plan.arms);
    let usage = readings.map(|((after, before), arm)| {
        let same = after.processes == before.processes;
        if !same {
            let text = format!(
                "{}: its processes changed within the window, so it has no memory or CPU figure",
                arm.name
            );
            context.tell(Event::Warning(text));
        }
        window_usage(after.usage, before.usage, same)
    });
    usage.collect()
}

pub(super) fn lanes(context: &Context, arms: &mut Arms, count: usize) -> Vec<Lane> {
    (0..count).map(|index| lane(context, arms, index)).collect()
}

pub(super) fn lane(context: &Context, arms: &mut Arms, index: usize) -> Lane {
    let (arm, runtime) = arms.arm_and_runtime(index);
    Lane { name: arm.name.clone(), routes: routes(&context.workload, &runtime.endpoints()) }
}

/// The services that take load, with the addresses of their instances.
pub(super) fn routes(workload: &Workload, endpoints: &[Endpoint]) -> Vec<Route> {
    let mut addresses: BTreeMap<&str, Vec<SocketAddr>> = BTreeMap::new();
    for endpoint in endpoints {
        addresses.entry(&endpoint.service).or_default().push(endpoint.address);
    }
    let loaded = workload.services.iter().filter_map(|service| {
        let http = service.http.as_ref().filter(|http| !http.requests.is_empty())?;
        let addresses = addresses.remove(service.name.as_str())?;
        let peers = addresses.into_iter().map(Into::into).collect();
        Some(Route { peers, requests: http.requests.clone(), variables: http.variables.clone() })
    });
    loaded.collect()
}

async fn send(context: &Context, slots: &[Slot], lanes: &[Lane]) -> Result<load::Measured, SessionError> {
    Ok(load::run(load_plan(context, slots), lanes.to_vec(), context.stop.clone()).await?)
}

/// The session's load in these slots.
pub(super) fn load_plan(context: &Context, slots: &[Slot]) -> load::Plan {
    let load = &context.load;
    load::Plan {
        connections: load.connections,
        connection_use: load.connection_use,
        timeout: load.timeout,
        tuning: Tuning { precision: load.precision, ..Tuning::default() },
        ..load::Plan::new(Pacing::constant(load.rate_per_second), slots.to_vec())
    }
}

/// What the load took in a window. Beside what the engine itself finds disturbing, its own lag is held to a fifth of
/// what each deciding quantile may change by: more of it, and a verdict would be about the client.
fn client_conditions(measured: &load::Measured, thresholds: &Thresholds) -> ClientConditions {
    let client = &measured.client;
    // A full backlog is what a target that cannot take its load leaves: that is a finding about the target.
    let own = client.disturbances.iter().filter(|it| !matches!(it, Disturbance::BacklogFull { .. }));
    let mut disturbed: Vec<String> = own.map(ToString::to_string).collect();
    let gated = [(0.50, "p50", Metric::P50), (0.95, "p95", Metric::P95), (0.99, "p99", Metric::P99)];
    for (quantile, name, metric) in gated {
        // What is only told is not worth an epoch of what decides.
        let Some(allowance) = thresholds.of(metric).filter(|allowance| allowance.critical) else { continue };
        let latencies = measured.lanes.iter().filter_map(|lane| lane.latency.quantile(quantile));
        // The mean of all arms: a limit that followed the fastest would drop epochs by what one arm did.
        let (sum, count) = latencies.fold((Duration::ZERO, 0), |(sum, count), own| (sum + own, count + 1));
        let Some((latency, lag)) = sum.checked_div(count).zip(client.own_lag.quantile(quantile)) else {
            continue;
        };
        let slack = Duration::try_from_secs_f64(allowance.slack).unwrap_or_default();
        let limit = latency.mul_f64(allowance.limit).max(slack) / 5;
        if lag > limit {
            disturbed.push(format!(
                "the client's own lag, {name} {}, is more than a fifth of the margin of that latency ({})",
                format_duration(lag),
                format_duration(limit)
            ));
        }
    }
    let elapsed = measured.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let share = |time: Duration| time.as_secs_f64() / elapsed;
    let lag = |quantile| client.own_lag.quantile(quantile).map(|lag| lag.as_secs_f64());
    ClientConditions {
        receive_clock: client.receive_clock,
        cpu_share: share(client.cpu),
        spun_share: share(client.spun),
        waiting_share: client.waited_for_cpu.map(share),
        own_lag_p50_s: lag(0.50),
        own_lag_p99_s: lag(0.99),
        disturbed,
    }
}

/// CPU time of all arms with what runs them; unknown when it is of one.
fn own_cpu(usage: &[ArmUsage]) -> Option<Duration> {
    let parts = usage.iter().flat_map(|arm| [arm.service, arm.overhead_fixed, arm.overhead_per_instance]);
    parts.filter(|part| part.processes > 0).map(|part| part.cpu).sum()
}

/// The usage of an arm, and the service processes it is the usage of.
pub(super) struct Reading {
    /// Sorted.
    pub(super) processes: Vec<ProcessId>,
    pub(super) usage: ArmUsage,
}

async fn read_all(arms: &mut Arms, count: usize) -> Result<Vec<Reading>, SessionError> {
    let mut readings = Vec::with_capacity(count);
    for index in 0..count {
        readings.push(read(arms, index).await?);
    }
    Ok(readings)
}

pub(super) async fn read(arms: &mut Arms, index: usize) -> Result<Reading, SessionError> {
    let (arm, runtime) = arms.arm_and_runtime(index);
    let name = arm.name.clone();
    let found = runtime.processes().await.map_err(SessionError::runtime(&name))?;
    let usage = probe::read(&found);
    let mut processes = found.service;
    processes.sort_unstable();
    Ok(Reading { processes, usage })
}

/// What was used in the window. A process that ended or was replaced in it would make memory and CPU look smaller
/// than they are, so that the service then has neither figure.
fn window_usage(after: ArmUsage, before: ArmUsage, same_processes: bool) -> ArmUsage {
    let mut usage = after.since(before);
    if !same_processes {
        usage.service.memory = None;
        usage.service.cpu = None;
    }
    usage
}

fn arm_epoch(
    lane: &LaneMeasurement,
    usage: ArmUsage,
    start_to_ready: Duration,
    afterwards: Afterwards,
) -> ArmEpoch {
    ArmEpoch {
        start_to_ready_s: start_to_ready.as_secs_f64(),
        latency: LatencySummary::of(&lane.latency),
        requests: lane.counts.clone(),
        longest_gap_s: lane.longest_gap.as_secs_f64(),
        send_lag_p99_s: lane.lag.quantile(0.99).map(|lag| lag.as_secs_f64()),
        service: usage.service,
        overhead_fixed: usage.overhead_fixed,
        overhead_per_instance: usage.overhead_per_instance,
        reload_s: afterwards.times.reload_s,
        restart_s: afterwards.times.restart_s,
        throughput: afterwards.throughput,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        load::{ClientCost, ConnectionCounts},
        sample::LatencyHistogram,
    };

    fn all(latency: Duration) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::new();
        (0..100).for_each(|_| histogram.record(latency));
        histogram
    }

    /// With median, p95 and p99 deciding.
    fn disturbed(latency: Duration, own_lag: Duration) -> Vec<String> {
        let mut thresholds = Thresholds::default();
        for allowance in thresholds.0.values_mut() {
            allowance.critical = true;
        }
        disturbed_by(latency, own_lag, &thresholds)
    }

    fn disturbed_by(latency: Duration, own_lag: Duration, thresholds: &Thresholds) -> Vec<String> {
        let lane = LaneMeasurement { latency: all(latency), ..LaneMeasurement::default() };
        let measured = load::Measured {
            started: std::time::Instant::now(),
            scheduled: Duration::from_secs(1),
            elapsed: Duration::from_secs(1),
            lanes: vec![lane],
            client: ClientCost { own_lag: all(own_lag), ..ClientCost::default() },
            connections: ConnectionCounts::default(),
        };
        client_conditions(&measured, thresholds).disturbed
    }

    #[test]
    fn a_client_that_is_late_by_a_fifth_of_a_margin_disturbs_that_figure() {
        let millisecond = Duration::from_millis(1);
        // The margins of a millisecond are 50 µs at the median, 250 µs at p95, 500 µs at p99.
        assert!(disturbed(millisecond, Duration::from_micros(9)).is_empty());
        let at_the_median = disturbed(millisecond, Duration::from_micros(11));
        assert_eq!(at_the_median.len(), 1);
        assert!(at_the_median[0].contains("p50") && at_the_median[0].contains("10µs"), "{at_the_median:?}");
        assert_eq!(disturbed(millisecond, Duration::from_micros(101)).len(), 3);
        let of_default = disturbed_by(millisecond, Duration::from_micros(101), &Thresholds::default());
        assert_eq!(of_default.len(), 1, "p95 and p99 are only told: {of_default:?}");
    }

    #[test]
    fn what_was_not_measured_is_not_held_against_the_client() {
        let measured = load::Measured {
            started: std::time::Instant::now(),
            scheduled: Duration::ZERO,
            elapsed: Duration::ZERO,
            lanes: vec![LaneMeasurement::default()],
            client: ClientCost::default(),
            connections: ConnectionCounts::default(),
        };
        let conditions = client_conditions(&measured, &Thresholds::default());
        assert!(conditions.disturbed.is_empty() && conditions.own_lag_p50_s.is_none());
    }
}
