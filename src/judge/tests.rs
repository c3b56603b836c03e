use std::time::Duration;

use proptest::{prelude::ProptestConfig, prop_assert, prop_assert_ne, proptest};

use super::{
    Question, compare,
    fixture::{calm, each_target, paired, record, stored},
};
use crate::model::{
    record::{ArmRole, Record},
    sample::ErrorClass,
    settings::{Allowance, ConnectionUse, Thresholds},
    target::RuntimeKind,
    verdict::{Basis, Comparison, Evidence, Grade, Metric, MetricVerdict, Quantity, Verdict},
};

/// On a machine whose sessions hardly differ, so that one of each is enough.
fn judge(baseline: &Record, candidate: &Record, thresholds: &Thresholds) -> Comparison {
    let calm = calm();
    compare(&Question {
        calibrations: [Some(&calm), Some(&calm)],
        ..Question::of(baseline, candidate, thresholds)
    })
}

fn judged(records: &(Record, Record)) -> Comparison {
    judge(&records.0, &records.1, &Thresholds::default())
}

/// The defaults, with one metric's allowance changed.
fn allowing(metric: Metric, change: impl Fn(&mut Allowance)) -> Thresholds {
    let mut thresholds = Thresholds::default();
    change(thresholds.0.get_mut(&metric).unwrap());
    thresholds
}

fn of(comparison: &Comparison, metric: Metric) -> &MetricVerdict {
    comparison.metrics.iter().find(|found| found.metric == metric).unwrap()
}

fn said(comparison: &Comparison, words: &str) -> bool {
    comparison.reasons.iter().any(|reason| reason.contains(words))
}

#[test]
fn an_equal_candidate_passes_in_one_session() {
    let comparison = judged(&paired(10, 1.0));
    assert_eq!(comparison.verdict, Verdict::Pass, "{comparison:#?}");
    assert_eq!(comparison.grade, Some(Grade::Paired));
    let order: Vec<Metric> = comparison.metrics.iter().map(|metric| metric.metric).collect();
    assert_eq!(order[..4], [Metric::P50, Metric::Mean, Metric::P95, Metric::P99]);
    assert_eq!(order[4..8], [Metric::MaxLatency, Metric::Errors, Metric::Memory, Metric::CpuPerRequest]);
    assert_eq!(order[8..], [Metric::StartTime], "what was not asked for is not missing");
    let Evidence::Change { confidence, n, limit, .. } = of(&comparison, Metric::P50).evidence else {
        panic!()
    };
    assert!(confidence >= 0.95);
    assert_eq!((n, limit), ((10, 10), 0.05));
}

#[test]
fn a_slower_candidate_fails_and_the_estimate_says_by_how_much() {
    let comparison = judged(&paired(10, 1.10));
    assert_eq!(comparison.verdict, Verdict::Fail);
    let Evidence::Change { estimate, low, high, .. } = of(&comparison, Metric::P50).evidence else {
        panic!()
    };
    assert!((estimate - 0.10).abs() < 0.02 && low < estimate && estimate < high, "{estimate}");
    assert_eq!(of(&comparison, Metric::P95).verdict, Verdict::Pass, "its own margin is wider");
    let Some(Quantity::CpuMs(cpu)) = of(&comparison, Metric::CpuPerRequest).baseline else { panic!() };
    assert!((cpu - 400.0).abs() < 8.0, "0.4 s for 1,000 requests: {cpu}");
}

#[test]
fn a_change_about_the_limit_is_undecided_and_the_remedy_is_named() {
    let comparison = judged(&paired(10, 1.049));
    assert_eq!(comparison.verdict, Verdict::Inconclusive);
    assert_eq!(of(&comparison, Metric::P50).verdict, Verdict::Inconclusive);
    assert!(said(&comparison, "epochs would decide it"), "{:?}", comparison.reasons);
}

#[test]
fn a_difference_within_the_slack_passes_whatever_its_share() {
    let (baseline, mut candidate) = paired(10, 1.0);
    each_target(&mut candidate, |_, arm| {
        arm.latency.p50_s = arm.latency.p50_s.map(|s| s * 1.10);
        arm.latency.mean_s = arm.latency.mean_s.map(|s| s * 1.10);
    });
    let strict = judge(&baseline, &candidate, &Thresholds::default());
    let mut slack = Thresholds::default();
    for metric in [Metric::P50, Metric::Mean] {
        slack.0.get_mut(&metric).unwrap().slack = 0.002;
    }
    let lenient = judge(&baseline, &candidate, &slack);
    assert_eq!((strict.verdict, lenient.verdict), (Verdict::Fail, Verdict::Pass));
    let Evidence::Change { limit, .. } = of(&lenient, Metric::P50).evidence else { panic!() };
    assert!((limit - 0.2).abs() < 0.01, "2 ms of 10 ms: {limit}");
}

#[test]
fn advisory_metrics_do_not_decide() {
    let (baseline, mut candidate) = paired(10, 1.0);
    each_target(&mut candidate, |_, arm| {
        arm.latency.p99_s = arm.latency.p99_s.map(|s| s * 3.0);
        arm.service.cpu = arm.service.cpu.map(|cpu| cpu * 2);
    });
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert_eq!(of(&comparison, Metric::P99).verdict, Verdict::Fail);
    assert_eq!(of(&comparison, Metric::CpuPerRequest).verdict, Verdict::Fail);
    assert_eq!(comparison.verdict, Verdict::Fail);
    let advisory = allowing(Metric::CpuPerRequest, |allowance| allowance.critical = false);
    assert_eq!(judge(&baseline, &candidate, &advisory).verdict, Verdict::Pass);
}

#[test]
fn one_failed_request_fails_and_its_class_is_named() {
    let (baseline, mut candidate) = paired(10, 1.0);
    let arm = candidate.epochs[3].arms.get_mut(&ArmRole::Target).unwrap();
    arm.requests.succeeded -= 1;
    arm.requests.failed.insert(ErrorClass::StaleKeepAlive, 1);
    arm.requests.mended_by_retry = 1;
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    let errors = of(&comparison, Metric::Errors);
    assert_eq!((errors.verdict, comparison.verdict), (Verdict::Fail, Verdict::Fail));
    let Evidence::Rate { events, trials, upper_bound, .. } = errors.evidence else { panic!() };
    assert_eq!((events, trials), (1, 20_000), "both arms of the candidate");
    assert!(upper_bound > 0.0001 && upper_bound < 0.0005, "{upper_bound}");
    let note = errors.note.as_deref().unwrap();
    assert!(note.contains("1 stale-keep-alive; 0 left after one idempotent retry"), "{note}");
    let one_allowed = allowing(Metric::Errors, |allowance| allowance.limit = 1.0);
    assert_eq!(judge(&baseline, &candidate, &one_allowed).verdict, Verdict::Pass);
}

#[test]
fn one_slow_answer_fails() {
    let (baseline, mut candidate) = paired(10, 1.0);
    candidate.epochs[9].arms.get_mut(&ArmRole::Target).unwrap().latency.max_s = Some(5.001);
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert_eq!(of(&comparison, Metric::MaxLatency).verdict, Verdict::Fail);
    assert_eq!(of(&comparison, Metric::MaxLatency).candidate, Some(Quantity::Seconds(5.001)));
    assert_eq!(comparison.verdict, Verdict::Fail);
}

#[test]
fn more_memory_fails_in_one_session_and_across_sessions() {
    for mut records in [paired(10, 1.0), stored(10, 1.0, 1.0)] {
        each_target(&mut records.1, |_, arm| {
            let memory = arm.service.memory.as_mut().unwrap();
            memory.anonymous.0 += memory.anonymous.0 / 4;
        });
        let comparison = judged(&records);
        assert_eq!(of(&comparison, Metric::Memory).verdict, Verdict::Fail);
        assert_eq!(comparison.verdict, Verdict::Fail);
    }
}

#[test]
fn the_control_takes_the_machine_out_of_a_stored_comparison() {
    let comparison = judged(&stored(12, 1.0, 1.3));
    assert_eq!(comparison.verdict, Verdict::Pass, "a slower day is nobody's fault: {comparison:#?}");
    assert_eq!(comparison.grade, Some(Grade::Controlled));
    let Evidence::Change { basis, .. } = &of(&comparison, Metric::P50).evidence else { panic!() };
    assert!(matches!(basis, Basis::Stored { sessions: (1, 1), .. }), "{basis:?}");
    assert_eq!(judged(&stored(12, 1.12, 0.7)).verdict, Verdict::Fail);
}

#[test]
fn identical_arms_that_differ_make_the_session_invalid() {
    for again in [1.15, 0.85] {
        let arms = [(ArmRole::Target, 1.0), (ArmRole::TargetAgain, again)];
        let baseline = record(RuntimeKind::Docker, "s1", 10, &arms);
        let candidate = paired(10, 1.3).1;
        let comparison = judge(&baseline, &candidate, &Thresholds::default());
        assert_eq!(comparison.verdict, Verdict::Invalid, "even before a FAIL");
        assert!(said(&comparison, "the baseline differs from itself: p50"), "{:?}", comparison.reasons);
    }
    let (baseline, _) = stored(10, 1.0, 1.0);
    let arms = [(ArmRole::Target, 1.5), (ArmRole::Control, 1.0), (ArmRole::ControlAgain, 1.2)];
    let candidate = record(RuntimeKind::Pm2, "s2", 10, &arms);
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert_eq!(comparison.verdict, Verdict::Invalid);
    assert!(said(&comparison, "the candidate's control differs from itself"), "{:?}", comparison.reasons);
}

#[test]
fn too_few_epochs_never_pass() {
    for epochs in 0..6 {
        for records in [paired(epochs, 1.0), stored(epochs, 1.0, 1.0)] {
            let comparison = judged(&records);
            assert_eq!(comparison.verdict, Verdict::Inconclusive, "{epochs} epochs");
            let p50 = of(&comparison, Metric::P50);
            assert!(matches!(p50.evidence, Evidence::Missing { .. }));
            assert_eq!(p50.verdict, Verdict::Inconclusive);
        }
    }
    let empty = judged(&paired(0, 1.0));
    assert!(empty.metrics.iter().all(|metric| metric.verdict == Verdict::Inconclusive));
    assert_eq!(judged(&paired(6, 1.0)).verdict, Verdict::Pass, "six are enough");
}

#[test]
fn an_epoch_only_one_side_has_cannot_help_a_pass() {
    let (baseline, mut candidate) = paired(10, 1.0);
    candidate.epochs.pop();
    assert_eq!(judge(&baseline, &candidate, &Thresholds::default()).verdict, Verdict::Inconclusive);
    let (baseline, mut candidate) = paired(5, 1.0);
    let mut twice = candidate.epochs.clone();
    candidate.epochs.append(&mut twice);
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert_eq!(comparison.verdict, Verdict::Inconclusive, "an epoch written twice counts once");
}

#[test]
fn less_load_than_asked_for_is_said_and_cannot_pass() {
    let (baseline, mut candidate) = paired(10, 1.0);
    let cut = |arm: &mut crate::model::record::ArmEpoch| {
        arm.requests.sent = 900;
        arm.requests.succeeded = 900;
    };
    cut(candidate.epochs[0].arms.get_mut(&ArmRole::Target).unwrap());
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert!(
        said(&comparison, "1 of 20 times in undisturbed epochs it took less than 99%"),
        "{:?}",
        comparison.reasons
    );
    assert_eq!(of(&comparison, Metric::Errors).verdict, Verdict::Inconclusive, "100 were never answered");
    assert_eq!(comparison.verdict, Verdict::Inconclusive);
    cut(candidate.epochs[1].arms.get_mut(&ArmRole::Target).unwrap());
    assert_eq!(judge(&baseline, &candidate, &Thresholds::default()).verdict, Verdict::Inconclusive);
}

#[test]
fn a_session_cut_short_cannot_pass() {
    let (baseline, mut candidate) = paired(10, 1.0);
    candidate.session.ended = None;
    assert_eq!(judge(&baseline, &candidate, &Thresholds::default()).verdict, Verdict::Inconclusive);
    let (baseline, mut candidate) = paired(10, 1.0);
    candidate.session.measured_epochs = 12;
    assert_eq!(judge(&baseline, &candidate, &Thresholds::default()).verdict, Verdict::Inconclusive);
}

#[test]
fn without_an_arm_measured_twice_nothing_passes() {
    let (mut baseline, mut candidate) = paired(10, 1.0);
    assert_eq!(judge(&baseline, &candidate, &Thresholds::default()).verdict, Verdict::Pass);
    for epoch in baseline.epochs.iter_mut().chain(&mut candidate.epochs) {
        epoch.arms.remove(&ArmRole::TargetAgain);
    }
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert_eq!(comparison.verdict, Verdict::Inconclusive);
    assert!(said(&comparison, "have both arms of both sides"), "{:?}", comparison.reasons);
}

#[test]
fn a_time_out_below_the_limit_hides_how_long_it_took() {
    let (baseline, mut candidate) = paired(10, 1.0);
    candidate.load.timeout_s = 1.0;
    let mut baseline = baseline;
    baseline.load.timeout_s = 1.0;
    each_target(&mut candidate, |_, arm| {
        arm.requests.succeeded -= 1;
        arm.requests.failed.insert(crate::model::sample::ErrorClass::Timeout, 1);
    });
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert_eq!(of(&comparison, Metric::MaxLatency).verdict, Verdict::Inconclusive);
}

#[test]
fn requests_without_an_outcome_cannot_pass() {
    let (baseline, mut candidate) = paired(10, 1.0);
    each_target(&mut candidate, |_, arm| arm.requests.succeeded -= 1);
    let comparison = judge(&baseline, &candidate, &Thresholds::default());
    assert_eq!(of(&comparison, Metric::Errors).verdict, Verdict::Inconclusive);
}

#[test]
fn a_limit_that_is_no_number_decides_nothing() {
    let mut thresholds = Thresholds::default();
    for allowance in thresholds.0.values_mut() {
        (allowance.limit, allowance.slack) = (f64::NAN, f64::NAN);
    }
    let (baseline, candidate) = paired(10, 1.0);
    assert_eq!(judge(&baseline, &candidate, &thresholds).verdict, Verdict::Inconclusive);
}

/// What makes two records incomparable, and the words it is told in.
#[test]
fn records_of_different_things_are_incomparable() {
    type Change = fn(&mut Record);
    let changes: [(Change, &str); 16] = [
        (|r| r.workload.name = "qse".into(), "the workload differs: demo for the baseline, qse for the"),
        (|r| r.qbench_version = "0.2.0".into(), ""),
        (
            |r| drop(r.workload.files.insert("ecosystem.json".into(), "zz".into())),
            "file ecosystem.json changed",
        ),
        (
            |r| drop(r.workload.files.insert("extra".into(), "zz".into())),
            "file extra is the candidate's only",
        ),
        (|r| r.workload.services.push("monitor".into()), "the list of services differs"),
        (|r| r.load.rate_per_second = 100.0, "the rate (requests per second) differs: 200 for"),
        (|r| r.load.rate_per_second = f64::NAN, "the rate"),
        (|r| r.load.window_s = 10.0, "the window"),
        (|r| r.load.slot_s = 1.0, "the slot"),
        (|r| r.load.timeout_s = 1.0, "the time-out"),
        (|r| r.load.connections = 1, "the number of connections"),
        (|r| r.load.connection_use = ConnectionUse::PerRequest, "one a request for the candidate"),
        (
            |r| r.load.precision = crate::model::load::Precision::Eco,
            "balanced for the baseline, eco for the candidate",
        ),
        (|r| r.load.requests_digest = "cc".into(), "the requests of the load changed"),
        (|r| r.format.major += 1, "the record format"),
        (|r| r.host.kernel = "6.2".into(), "the kernel differs: 6.1 for the baseline, 6.2 for the candidate"),
    ];
    for (change, words) in changes {
        for mut records in [paired(10, 1.0), stored(10, 1.0, 1.0)] {
            change(&mut records.1);
            let comparison = judged(&records);
            if words.is_empty() {
                assert_eq!(comparison.verdict, Verdict::Pass, "the writer's version does not matter");
                continue;
            }
            assert_eq!(comparison.verdict, Verdict::Incomparable, "{words}");
            assert_eq!((comparison.grade, comparison.metrics.len()), (None, 0));
            assert!(said(&comparison, words), "{words}: {:?}", comparison.reasons);
        }
    }
}

#[test]
fn another_machine_gives_an_advisory_answer_when_asked() {
    let (baseline, mut candidate) = stored(12, 1.0, 1.3);
    candidate.host.cpu_count = 4;
    candidate.host.governor = Some("performance".to_owned());
    let thresholds = Thresholds::default();
    let calm = calm();
    let question = Question {
        across_hosts: true,
        calibrations: [Some(&calm), Some(&calm)],
        ..Question::of(&baseline, &candidate, &thresholds)
    };
    let comparison = compare(&question);
    assert_eq!((comparison.grade, comparison.verdict), (Some(Grade::AcrossHosts), Verdict::Pass));
    assert!(said(&comparison, "the governor differs: none for the baseline, performance for the candidate"));
    assert!(said(&comparison, "the number of processors differs: 2"));
    assert!(said(&comparison, "advisory"));
}

#[test]
fn a_record_is_not_set_against_itself_nor_without_a_control() {
    let (baseline, candidate) = stored(10, 1.0, 1.0);
    assert_eq!(judged(&(baseline.clone(), baseline.clone())).verdict, Verdict::Incomparable);
    let without = record(RuntimeKind::Pm2, "s3", 10, &[(ArmRole::Target, 1.5)]);
    let comparison = judged(&(baseline, without));
    assert_eq!(comparison.verdict, Verdict::Incomparable);
    assert!(said(&comparison, "the candidate's record has no control arm"), "{:?}", comparison.reasons);
    let mut other_control = candidate;
    let (baseline, _) = stored(10, 1.0, 1.0);
    other_control.arms.get_mut(&ArmRole::Control).unwrap().runtime = RuntimeKind::Builtin;
    assert_eq!(judged(&(baseline, other_control)).verdict, Verdict::Incomparable);
}

/// Spoils one critical value of one epoch's target; returns the metric it belongs to.
fn spoil(record: &mut Record, epoch: usize, what: usize, with: usize) -> Metric {
    let bad = [None, Some(f64::NAN), Some(f64::INFINITY), Some(0.0), Some(-1.0)][with % 5];
    let arm = record.epochs[epoch].arms.get_mut(&ArmRole::Target).unwrap();
    match what {
        0 => arm.latency.p50_s = bad,
        1 => arm.latency.mean_s = bad,
        2 => arm.latency.max_s = bad,
        3 => arm.service.memory = None,
        4 => arm.service.memory.as_mut().unwrap().anonymous.0 = 0,
        _ => (arm.requests.succeeded, arm.requests.sent) = (0, 0),
    }
    [Metric::P50, Metric::Mean, Metric::MaxLatency, Metric::Memory, Metric::Memory, Metric::Errors]
        [what.min(5)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn missing_data_never_passes(
        is_paired in proptest::bool::ANY, epochs in 1..14_u32, factor in 0.3..1.2_f64,
        at in 0..14_usize, what in 0..6_usize, with in 0..5_usize,
    ) {
        let (baseline, mut candidate) =
            if is_paired { paired(epochs, factor) } else { stored(epochs, factor, 1.1) };
        let metric = spoil(&mut candidate, at % epochs as usize, what, with);
        let comparison = judge(&baseline, &candidate, &Thresholds::default());
        prop_assert_ne!(comparison.verdict, Verdict::Pass);
        prop_assert_ne!(of(&comparison, metric).verdict, Verdict::Pass);
    }

    #[test]
    fn any_values_are_judged_without_a_panic(
        is_paired in proptest::bool::ANY, epochs in 0..9_u32,
        figures in proptest::collection::vec(proptest::num::f64::ANY, 9), bytes in proptest::num::u64::ANY,
    ) {
        let (baseline, mut candidate) = if is_paired { paired(epochs, 1.0) } else { stored(epochs, 1.0, 1.0) };
        each_target(&mut candidate, |index, arm| {
            let figure = figures[index as usize % figures.len()];
            arm.latency.p50_s = Some(figure);
            arm.latency.max_s = Some(-figure);
            arm.service.memory.as_mut().unwrap().anonymous.0 = bytes;
            arm.service.cpu = Some(Duration::from_nanos(bytes));
        });
        let thresholds = Thresholds::default();
    let calm = calm();
    let question = Question { across_hosts: true, calibrations: [Some(&calm), Some(&calm)], ..Question::of(&baseline, &candidate, &thresholds) };
    let comparison = compare(&question);
        for metric in &comparison.metrics {
            if let Evidence::Change { estimate, low, high, .. } = metric.evidence {
                prop_assert!(low <= estimate && estimate <= high);
            }
        }
    }
}
