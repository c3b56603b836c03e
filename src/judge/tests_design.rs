//! Looks, dropped epochs, shared error rates, and what varies from session to session.

use super::{
    Question, Steering, compare,
    fixture::{calm, collected, each_target, paired, record, stored},
    looks, steer,
};
use crate::model::{
    record::{ArmRole, ClientConditions, Design, Ended, Record, Soak, SoakWindow},
    sample::RequestCounts,
    settings::Thresholds,
    target::RuntimeKind,
    verdict::{Basis, Comparison, Evidence, Metric, MetricVerdict, SpreadSource, Verdict},
};

fn judged(baseline: &[Record], candidate: &[Record]) -> Comparison {
    let thresholds = Thresholds::default();
    compare(&Question {
        baseline,
        candidate,
        thresholds: &thresholds,
        across_hosts: false,
        calibrations: [None, None],
    })
}

fn of(comparison: &Comparison, metric: Metric) -> &MetricVerdict {
    comparison.metrics.iter().find(|found| found.metric == metric).unwrap()
}

fn basis(comparison: &Comparison, metric: Metric) -> &Basis {
    let Evidence::Change { basis, .. } = &of(comparison, metric).evidence else {
        panic!("{:?}", of(comparison, metric))
    };
    basis
}

fn sequential(epochs: u32, cap: u32, factor: f64) -> (Record, Record) {
    let (mut baseline, mut candidate) = paired(epochs, factor);
    for record in [&mut baseline, &mut candidate] {
        record.session.design = Design::Sequential { cap, budget_s: None };
        record.session.ended = None;
    }
    (baseline, candidate)
}

/// Median and mean of the candidate lie around their limit, as far above it as below.
fn at_the_limit(epochs: u32, cap: u32) -> (Record, Record) {
    let (mut baseline, mut candidate) = sequential(epochs, cap, 1.0);
    each_target(&mut baseline, |_, arm| (arm.latency.p50_s, arm.latency.mean_s) = (Some(0.01), Some(0.012)));
    each_target(&mut candidate, |index, arm| {
        let size = 0.01 * (1.0 + f64::from(index / 2) / 100.0);
        let factor = 1.05 * if index % 2 == 0 { size.exp() } else { (-size).exp() };
        (arm.latency.p50_s, arm.latency.mean_s) = (Some(0.01 * factor), Some(0.012 * factor));
    });
    (baseline, candidate)
}

fn steered(records: &(Record, Record)) -> Steering {
    steer(&records.0, &records.1, &Thresholds::default())
}

#[test]
fn looks_are_fixed_by_the_cap_alone() {
    assert_eq!(looks(40), [10, 15, 20, 30, 40]);
    assert_eq!(looks(12), [10, 12]);
    assert_eq!(looks(6), [6]);
    assert_eq!(looks(0), Vec::<u32>::new());
    for epochs in 1..=40 {
        let expected = [10, 15, 20, 30, 40].contains(&epochs);
        let stops = steered(&sequential(epochs, 40, 1.0)) != Steering::GoOn;
        assert_eq!(stops, expected, "equal targets after {epochs} epochs");
    }
}

#[test]
fn a_session_stops_when_it_is_decided_hopeless_or_at_its_end() {
    assert_eq!(steered(&sequential(10, 40, 1.0)), Steering::Stop(Ended::Decided));
    assert_eq!(steered(&sequential(15, 40, 1.3)), Steering::Stop(Ended::Decided));
    // Too close to its limit for the epochs there are, either way.
    assert_eq!(steered(&at_the_limit(30, 40)), Steering::Stop(Ended::Futile));
    assert_eq!(steered(&at_the_limit(10, 40)), Steering::GoOn, "it is too early to say");
    assert_eq!(steered(&sequential(6, 6, 1.052)), Steering::Stop(Ended::AllMeasured));
    let mut broken = sequential(10, 40, 1.0);
    for epoch in &mut broken.0.epochs {
        let arm = epoch.arms.get_mut(&ArmRole::TargetAgain).unwrap();
        arm.latency.p50_s = arm.latency.p50_s.map(|s| s * 1.5);
    }
    // Also at the first look, where the candidate would pass: it is faster than the mean of the two.
    assert_eq!(steered(&broken), Steering::Stop(Ended::Untrusted));
}

#[test]
fn a_verdict_says_at_which_look_it_was_reached_and_what_it_certifies() {
    let (mut baseline, mut candidate) = sequential(20, 40, 1.0);
    baseline.session.ended = Some(Ended::Budget);
    candidate.session.ended = Some(Ended::Budget);
    let comparison = judged(&[baseline], &[candidate]);
    assert_eq!(comparison.verdict, Verdict::Pass);
    let Evidence::Change { high, limit, certified, basis, .. } = &of(&comparison, Metric::P50).evidence
    else {
        panic!()
    };
    assert_eq!(*basis, Basis::Sequential { looks: vec![10, 15, 20], decided_at: Some(10) });
    let certified = certified.unwrap();
    assert!(certified <= *high && certified < *limit, "{certified} {high}");
}

/// A session may end between two looks, by its budget: what that look may spend follows from where it is.
#[test]
fn a_budget_may_end_a_session_anywhere() {
    let (mut baseline, mut candidate) = sequential(13, 40, 1.0);
    baseline.session.ended = Some(Ended::Budget);
    candidate.session.ended = Some(Ended::Budget);
    let comparison = judged(&[baseline], &[candidate]);
    assert_eq!(comparison.verdict, Verdict::Pass);
    let Basis::Sequential { looks, .. } = basis(&comparison, Metric::P50) else { panic!() };
    assert_eq!(*looks, [10, 13]);
}

fn disturb(record: &mut Record, epoch: usize) {
    record.epochs[epoch].conditions.client = Some(ClientConditions {
        receive_clock: crate::model::load::ReceiveClock::Kernel,
        cpu_share: 1.0,
        spun_share: 0.0,
        waiting_share: None,
        own_lag_p50_s: None,
        own_lag_p99_s: None,
        disturbed: vec!["the client waited for a core".to_owned()],
    });
}

#[test]
fn disturbed_epochs_are_dropped_from_both_sides_and_counted() {
    let (baseline, mut candidate) = paired(20, 1.0);
    disturb(&mut candidate, 3);
    candidate.epochs[7].conditions.steal_share = Some(0.06);
    // What the dropped epochs would have said does not matter.
    for epoch in [3, 7] {
        let arm = candidate.epochs[epoch].arms.get_mut(&ArmRole::Target).unwrap();
        arm.latency.p50_s = None;
    }
    let comparison = judged(std::slice::from_ref(&baseline), std::slice::from_ref(&candidate));
    assert_eq!(comparison.verdict, Verdict::Pass, "{:?}", comparison.reasons);
    assert_eq!((comparison.epochs.measured, comparison.epochs.dropped), (20, 2));
    let Evidence::Change { n, .. } = of(&comparison, Metric::P50).evidence else { panic!() };
    assert_eq!(n, (18, 18));
    assert!(comparison.reasons.iter().any(|it| it.contains("6% of the CPU time was stolen")));
    disturb(&mut candidate, 9);
    let comparison = judged(&[baseline], &[candidate]);
    assert_eq!(comparison.verdict, Verdict::Invalid);
    assert!(comparison.reasons.iter().any(|it| it.contains("3 of 20 epochs were disturbed")));
}

#[test]
fn an_epoch_that_was_just_dropped_asks_nothing() {
    let mut records = sequential(11, 40, 1.0);
    disturb(&mut records.1, 2);
    assert_eq!(steered(&records), Steering::Stop(Ended::Decided), "ten are left");
    let mut records = sequential(11, 40, 1.0);
    disturb(&mut records.1, 10);
    assert_eq!(steered(&records), Steering::GoOn, "those ten were asked about before");
}

#[test]
fn failures_in_a_dropped_epoch_are_failures() {
    let (baseline, mut candidate) = paired(20, 1.0);
    disturb(&mut candidate, 3);
    let arm = candidate.epochs[3].arms.get_mut(&ArmRole::Target).unwrap();
    arm.requests.succeeded -= 1;
    arm.requests.failed.insert(crate::model::sample::ErrorClass::Reset, 1);
    assert_eq!(judged(&[baseline], &[candidate]).verdict, Verdict::Fail);
}

#[test]
fn a_candidate_that_cannot_take_the_load_fails() {
    let (baseline, mut candidate) = paired(10, 1.0);
    each_target(&mut candidate, |_, arm| {
        arm.requests = RequestCounts { offered: 1000, sent: 700, succeeded: 700, ..RequestCounts::default() };
    });
    let comparison = judged(std::slice::from_ref(&baseline), std::slice::from_ref(&candidate));
    assert_eq!(comparison.verdict, Verdict::Fail);
    assert!(comparison.reasons.iter().any(|it| it.contains("the candidate was overloaded: 20 of 20 times")));
    let mut both = baseline;
    let served = RequestCounts { offered: 1000, sent: 700, succeeded: 700, ..RequestCounts::default() };
    each_target(&mut both, |_, arm| arm.requests = served.clone());
    assert_eq!(judged(&[both], &[candidate]).verdict, Verdict::Inconclusive, "neither could");
}

/// Three critical metrics that are well within leave the fourth a quarter of the error to fail by.
#[test]
fn what_a_fail_may_cost_is_shared() {
    // At nine epochs the least probability is 1/512, a little less than a fifth of a hundredth.
    let slower = |epochs| {
        let (baseline, mut candidate) = paired(epochs, 1.0);
        each_target(&mut candidate, |_, arm| arm.latency.p50_s = arm.latency.p50_s.map(|s| s * 1.2));
        of(&judged(&[baseline], &[candidate]), Metric::P50).verdict
    };
    assert_eq!(slower(9), Verdict::Fail, "1/512 is below 1/400");
    assert_eq!(slower(8), Verdict::Inconclusive, "1/256 is above 1/400, though below 1/100");
    // All of them beyond: the first to fail leaves its part to the next.
    let (baseline, candidate) = paired(9, 1.3);
    let comparison = judged(&[baseline], &[candidate]);
    for metric in [Metric::P50, Metric::Mean, Metric::Memory, Metric::CpuPerRequest] {
        assert_eq!(of(&comparison, metric).verdict, Verdict::Fail, "{metric:?}");
    }
}

#[test]
fn one_session_of_each_carries_an_assumed_spread() {
    let (baseline, candidate) = stored(10, 1.0, 1.2);
    let comparison = judged(&[baseline], &[candidate]);
    assert_eq!(comparison.verdict, Verdict::Inconclusive, "11% either way is more than 5%");
    let Basis::Stored { sessions, spread, spread_from } = basis(&comparison, Metric::P50) else { panic!() };
    assert_eq!((*sessions, *spread, *spread_from), ((1, 1), 0.04, SpreadSource::Assumed));
    let Evidence::Change { low, high, .. } = of(&comparison, Metric::P50).evidence else { panic!() };
    let reach = 1.96 * 0.04 * 2.0_f64.sqrt();
    assert!(high.ln_1p() > reach - 0.02 && -low.ln_1p() > reach - 0.02, "{low} {high}");
    // A large gain is worth more than any spread.
    let (baseline, candidate) = stored(10, 0.7, 1.2);
    assert_eq!(of(&judged(&[baseline], &[candidate]), Metric::P50).verdict, Verdict::Pass);
}

#[test]
fn a_calibration_narrows_it() {
    let (baseline, candidate) = stored(10, 1.0, 1.2);
    let (thresholds, calm) = (Thresholds::default(), calm());
    let question = Question {
        calibrations: [Some(&calm), Some(&calm)],
        ..Question::of(&baseline, &candidate, &thresholds)
    };
    let comparison = compare(&question);
    assert_eq!(comparison.verdict, Verdict::Pass, "{:?}", comparison.reasons);
    let Basis::Stored { spread_from, .. } = basis(&comparison, Metric::P50) else { panic!() };
    assert_eq!(*spread_from, SpreadSource::Calibration);
    // Of one side only: the other's is assumed, and is the larger one.
    let question = Question { calibrations: [Some(&calm), None], ..question };
    let comparison = compare(&question);
    let Basis::Stored { spread, spread_from, .. } = basis(&comparison, Metric::P50) else { panic!() };
    assert_eq!((*spread, *spread_from), (0.04, SpreadSource::Assumed));
}

fn sessions(runtime: RuntimeKind, factors: &[f64]) -> Vec<Record> {
    let of = |(at, factor): (usize, &f64)| collected(runtime, &format!("{runtime}{at}"), 10, *factor, 1.0);
    factors.iter().enumerate().map(of).collect()
}

#[test]
fn several_sessions_tell_their_own_spread() {
    let docker = sessions(RuntimeKind::Docker, &[1.0, 1.004, 0.996]);
    let comparison = judged(&docker, &sessions(RuntimeKind::Pm2, &[1.003, 0.998, 1.001]));
    assert_eq!(comparison.verdict, Verdict::Pass, "{:?}", comparison.reasons);
    let Basis::Stored { sessions: counted, spread, spread_from } = basis(&comparison, Metric::P50) else {
        panic!()
    };
    assert_eq!((*counted, *spread_from), ((3, 3), SpreadSource::Sessions));
    assert!(*spread > 0.002 && *spread < 0.006, "{spread}");
    // Sessions that differ by as much as the limit decide nothing about it.
    let scattered = judged(
        &sessions(RuntimeKind::Docker, &[1.0, 1.06, 0.95]),
        &sessions(RuntimeKind::Pm2, &[1.05, 0.94, 1.0]),
    );
    assert_eq!(scattered.verdict, Verdict::Inconclusive);
    let slower = judged(
        &sessions(RuntimeKind::Docker, &[1.0, 1.004, 0.996, 1.0, 1.002]),
        &sessions(RuntimeKind::Pm2, &[1.3, 1.304, 1.296, 1.3, 1.302]),
    );
    assert_eq!(slower.verdict, Verdict::Fail);
}

/// One session tells nothing of what its runtime's sessions vary by, however well those of the other agree.
#[test]
fn a_single_session_is_not_taken_on_the_others_word() {
    let docker = sessions(RuntimeKind::Docker, &[1.0, 1.001, 0.999, 1.0, 1.001]);
    let comparison = judged(&docker, &sessions(RuntimeKind::Pm2, &[1.0]));
    assert_eq!(comparison.verdict, Verdict::Inconclusive);
    let Basis::Stored { spread, spread_from, .. } = basis(&comparison, Metric::P50) else { panic!() };
    assert_eq!((*spread, *spread_from), (0.04, SpreadSource::Assumed));
    // Too few to estimate from, and yet they differ by more than is assumed.
    let wild = judged(&sessions(RuntimeKind::Docker, &[0.8, 1.2]), &sessions(RuntimeKind::Pm2, &[1.0, 1.0]));
    let Basis::Stored { spread, spread_from, .. } = basis(&wild, Metric::P50) else { panic!() };
    assert!(*spread > 0.2 && *spread_from == SpreadSource::Sessions, "{spread} {spread_from:?}");
}

#[test]
fn a_second_arm_that_is_missing_is_missing() {
    let (baseline, mut candidate) = paired(20, 1.0);
    for epoch in &mut candidate.epochs[5..] {
        epoch.arms.remove(&ArmRole::TargetAgain);
    }
    let comparison = judged(std::slice::from_ref(&baseline), std::slice::from_ref(&candidate));
    assert_eq!(of(&comparison, Metric::P50).verdict, Verdict::Inconclusive);
    assert_eq!(comparison.verdict, Verdict::Inconclusive);
    // Not even run: the two sides are then not alike.
    for epoch in &mut candidate.epochs {
        epoch.arms.remove(&ArmRole::TargetAgain);
    }
    candidate.arms.remove(&ArmRole::TargetAgain);
    assert_eq!(judged(&[baseline], &[candidate]).verdict, Verdict::Inconclusive);
}

#[test]
fn an_epoch_lost_from_one_file_takes_its_errors_with_it_and_passes_nothing() {
    let (baseline, mut candidate) = paired(20, 1.0);
    candidate.epochs.remove(7);
    let comparison = judged(&[baseline], &[candidate]);
    for metric in &comparison.metrics {
        assert_ne!(metric.verdict, Verdict::Pass, "{metric:?}");
    }
}

#[test]
fn what_was_asked_for_and_not_found_is_missing() {
    let (mut baseline, mut candidate) = paired(12, 1.0);
    baseline.load.throughput_p99_s = Some(0.05);
    candidate.load.throughput_p99_s = Some(0.05);
    let comparison = judged(std::slice::from_ref(&baseline), std::slice::from_ref(&candidate));
    assert!(matches!(of(&comparison, Metric::Throughput).evidence, Evidence::Missing { .. }));
    assert_eq!(comparison.verdict, Verdict::Inconclusive);
    candidate.load.throughput_p99_s = Some(0.2);
    assert_eq!(judged(&[baseline], &[candidate]).verdict, Verdict::Incomparable);
}

#[test]
fn a_session_given_twice_is_refused() {
    let mut docker = sessions(RuntimeKind::Docker, &[1.0, 1.0]);
    docker[1] = docker[0].clone();
    let comparison = judged(&docker, &sessions(RuntimeKind::Pm2, &[1.0, 1.0]));
    assert_eq!(comparison.verdict, Verdict::Incomparable);
    assert!(comparison.reasons.iter().any(|it| it.contains("more than once")), "{:?}", comparison.reasons);
}

#[test]
fn throughput_is_better_when_it_is_more() {
    let verdict = |factor: f64| {
        let (mut baseline, mut candidate) = paired(12, 1.0);
        each_target(&mut baseline, |index, arm| arm.throughput = Some(900.0 + f64::from(index % 3)));
        each_target(&mut candidate, |index, arm| {
            arm.throughput = Some((900.0 + f64::from(index % 5)) * factor);
        });
        let comparison = judged(&[baseline], &[candidate]);
        let found = of(&comparison, Metric::Throughput);
        let Evidence::Change { estimate, limit, .. } = found.evidence else { panic!("{found:?}") };
        assert!((limit - 0.05).abs() < 1e-12 && (estimate - (1.0 - factor)).abs() < 0.01, "{estimate}");
        found.verdict
    };
    assert_eq!((verdict(1.0), verdict(1.5), verdict(0.8)), (Verdict::Pass, Verdict::Pass, Verdict::Fail));
}

#[test]
fn what_only_one_side_measured_is_missing() {
    let (mut baseline, candidate) = paired(12, 1.0);
    each_target(&mut baseline, |_, arm| arm.throughput = Some(900.0));
    let comparison = judged(&[baseline], &[candidate]);
    assert!(matches!(of(&comparison, Metric::Throughput).evidence, Evidence::Missing { .. }));
    assert_eq!(comparison.verdict, Verdict::Inconclusive);
}

fn soaked(record: &mut Record, growth_per_hour: f64, windows: usize) {
    let window = |at: usize| {
        let at_s = 75.0 + 150.0 * at as f64;
        let wobble = 1.0 + 0.0005 * ((at * 7) % 5) as f64;
        let bytes = 5e7 * (growth_per_hour * at_s / 3600.0).exp() * wobble;
        SoakWindow { at_s, least_anonymous: Some(bytes as u64) }
    };
    record.soak = Some(Soak {
        planned_s: 1800.0,
        window_s: 150.0,
        windows: (0..windows).map(window).collect(),
        requests: RequestCounts::default(),
    });
}

#[test]
fn memory_that_grows_fails_and_half_a_soak_does_not_pass() {
    let verdict = |growth: f64, windows: usize| {
        let (mut baseline, mut candidate) = paired(10, 1.0);
        soaked(&mut baseline, 0.01, windows);
        soaked(&mut candidate, 0.01 + growth, windows);
        let comparison = judged(&[baseline], &[candidate]);
        (of(&comparison, Metric::MemoryGrowth).verdict, comparison.verdict)
    };
    assert_eq!(verdict(0.0, 12), (Verdict::Pass, Verdict::Pass));
    assert_eq!(verdict(0.20, 12), (Verdict::Fail, Verdict::Fail));
    assert_eq!(verdict(0.0, 8), (Verdict::Inconclusive, Verdict::Inconclusive), "cut short");
    assert_eq!(verdict(0.0, 3).0, Verdict::Inconclusive);
    let (mut baseline, candidate) = paired(10, 1.0);
    soaked(&mut baseline, 0.0, 12);
    assert_eq!(judged(&[baseline], &[candidate]).verdict, Verdict::Inconclusive, "one side only");
}

#[test]
fn cpu_counts_what_runs_the_service_as_well() {
    let (baseline, mut candidate) = paired(12, 1.0);
    each_target(&mut candidate, |_, arm| {
        arm.overhead_fixed.processes = 1;
        arm.overhead_fixed.cpu = arm.service.cpu;
    });
    let comparison = judged(std::slice::from_ref(&baseline), std::slice::from_ref(&candidate));
    assert_eq!(of(&comparison, Metric::CpuPerRequest).verdict, Verdict::Fail, "twice as much");
    each_target(&mut candidate, |_, arm| arm.overhead_fixed.cpu = None);
    let comparison = judged(&[baseline], &[candidate]);
    assert_eq!(
        of(&comparison, Metric::CpuPerRequest).verdict,
        Verdict::Inconclusive,
        "unknown is not nothing"
    );
}

#[test]
fn a_record_that_was_truncated_never_passes() {
    let arms = [(ArmRole::Target, 1.0), (ArmRole::TargetAgain, 1.0)];
    let mut baseline = record(RuntimeKind::Docker, "s1", 20, &arms);
    let mut candidate = record(RuntimeKind::Pm2, "s1", 20, &arms);
    baseline.epochs.truncate(12);
    candidate.epochs.truncate(12);
    assert_eq!(judged(&[baseline], &[candidate]).verdict, Verdict::Inconclusive);
}
