//! Each kind of evidence in words, from comparisons made by hand.

use super::{Side, Sides, metric, paragraphs};
use crate::{
    model::{
        target::RuntimeKind,
        verdict::{
            Basis, Comparison, EpochCount, Evidence, Grade, Metric, MetricVerdict, Quantity, SpreadSource,
            Verdict,
        },
    },
    report::tests::{change, compared, identity, incomparable, metric as judged, stand_in},
};

fn sides() -> Sides {
    let side = |kind| Side::of(&identity(kind, "1"));
    Sides { baseline: side(RuntimeKind::Docker), candidate: side(RuntimeKind::Pm2), both: None }
}

fn told(name: Metric, evidence: Evidence, verdict: Verdict) -> String {
    metric::paragraph(&judged(name, true, evidence, verdict), &sides())
}

fn stored(sessions: (u32, u32), spread_from: SpreadSource) -> Evidence {
    Evidence::Change {
        estimate: 0.024,
        low: -0.061,
        high: 0.112,
        confidence: 0.95,
        n: (20, 10),
        limit: 0.05,
        certified: Some(0.1114),
        epochs_needed: Some(400),
        basis: Basis::Stored { sessions, spread: 0.04, spread_from },
    }
}

#[test]
fn passes() {
    let slower = told(Metric::P50, change(0.018, 0.009, 0.027, 0.05), Verdict::Pass);
    insta::assert_snapshot!(slower, @"PM2 answers 1.8% slower than Docker at the median (95% interval 0.9% to 2.7%, 10 epochs); the limit is 5%: PASS. It would pass any limit from 2.7% up.");
    let faster = told(Metric::Mean, change(-0.2, -0.223, -0.181, 0.05), Verdict::Pass);
    insta::assert_snapshot!(faster, @"PM2 answers 20.0% faster than Docker on the average (95% interval 18.1% to 22.3%, 10 epochs); the limit is 5%: PASS. It would pass any limit, even one of 0%.");
    let alike = told(Metric::P95, change(0.0149, -0.002, 0.0305, 0.25), Verdict::Pass);
    insta::assert_snapshot!(alike, @"No difference could be told between PM2 and Docker in the answer time where the slowest 5% begin (95% interval 0.2% faster to 3.0% slower, 10 epochs); the limit is 25%: PASS. It would pass any limit from 3.1% up.");
    let less_load = told(Metric::Throughput, change(0.02, 0.0106, 0.0305, 0.05), Verdict::Pass);
    insta::assert_snapshot!(less_load, @"PM2 carries 2.0% less load than Docker at saturation (95% interval 1.1% to 3.0%, 10 epochs); the limit is 5% less: PASS. It would pass any limit from 3.1% up.");
    let more_load = told(Metric::Throughput, change(-0.08, -0.1, -0.06, 0.05), Verdict::Pass);
    insta::assert_snapshot!(more_load, @"PM2 carries 8.0% more load than Docker at saturation (95% interval 6.0% to 10.0%, 10 epochs); the limit is 5% less: PASS. It would pass any limit, even one of 0%.");
    let later = told(Metric::StartTime, change(0.31, 0.26, 0.4012, 0.5), Verdict::Pass);
    insta::assert_snapshot!(later, @"PM2 is ready 31.0% later than Docker after a start (95% interval 26.0% to 40.1%, 10 epochs); the limit is 50%: PASS. It would pass any limit from 40.2% up.");
}

#[test]
fn failures() {
    let memory = told(Metric::Memory, change(0.124, 0.112, 0.136, 0.10), Verdict::Fail);
    insta::assert_snapshot!(memory, @"PM2 uses 12.4% more memory than Docker (95% interval 11.2% to 13.6%, 10 epochs), beyond the limit of 10%: FAIL.");
    let advisory = judged(Metric::P99, false, change(0.7, 0.6, 0.8, 0.5), Verdict::Fail);
    insta::assert_snapshot!(metric::paragraph(&advisory, &sides()), @"PM2 answers 70.0% slower than Docker where the slowest 1% of answers begin (95% interval 60.0% to 80.0%, 10 epochs), beyond the limit of 50%: FAIL (advisory, it does not decide).");
    let less_load = told(Metric::Throughput, change(0.12, 0.1, 0.14, 0.05), Verdict::Fail);
    insta::assert_snapshot!(less_load, @"PM2 carries 12.0% less load than Docker at saturation (95% interval 10.0% to 14.0%, 10 epochs), beyond the limit of 5% less: FAIL.");
}

#[test]
fn what_is_open_says_what_would_decide_it() {
    let cpu = told(Metric::CpuPerRequest, change(0.049, 0.031, 0.1115, 0.10), Verdict::Inconclusive);
    insta::assert_snapshot!(cpu, @"PM2 takes 4.9% more CPU time per request than Docker (95% interval 3.1% to 11.2%, 10 epochs); the limit of 10% lies within the interval: INCONCLUSIVE. If the change is what it seems to be, about 18 epochs would decide it. It would pass any limit from 11.2% up.");
    let assumed = told(Metric::P50, stored((2, 1), SpreadSource::Assumed), Verdict::Inconclusive);
    insta::assert_snapshot!(assumed, @"No difference could be told between PM2 and Docker in the answer time at the median (95% interval 6.1% faster to 11.2% slower, 10 epochs against 20); the limit of 5% lies within the interval: INCONCLUSIVE. More sessions of each side, or one session of both, would decide it. It would pass any limit from 11.2% up. The interval rests on 2 sessions of Docker and 1 of PM2; the spread between sessions, 4%, is assumed, for want of more sessions or a calibration.");
    let measured = told(Metric::P50, stored((1, 1), SpreadSource::Calibration), Verdict::Inconclusive);
    insta::assert_snapshot!(measured, @"No difference could be told between PM2 and Docker in the answer time at the median (95% interval 6.1% faster to 11.2% slower, 10 epochs against 20); the limit of 5% lies within the interval: INCONCLUSIVE. More sessions of each side, or one session of both, would decide it. It would pass any limit from 11.2% up. The interval rests on 1 session of Docker and 1 of PM2; the spread between sessions, 4%, was measured by calibration.");
    let missing = Evidence::Missing { reason: "4 usable epochs, 6 are needed".to_owned() };
    insta::assert_snapshot!(told(Metric::ReloadTime, missing, Verdict::Inconclusive), @"About the time of a reload nothing can be said, since the data carry no interval (4 usable epochs, 6 are needed): INCONCLUSIVE.");
    let soak = Evidence::Change {
        estimate: 0.031,
        low: 0.012,
        high: 0.0605,
        confidence: 0.95,
        n: (12, 12),
        limit: 0.05,
        certified: Some(0.0605),
        epochs_needed: None,
        basis: Basis::Soak { windows: 12, seconds: 1800.0 },
    };
    insta::assert_snapshot!(told(Metric::MemoryGrowth, soak, Verdict::Inconclusive), @"PM2's memory grows 3.1% an hour more than Docker's (95% interval 1.2% to 6.0%, 12 windows in 30m00s); the limit of 5% an hour lies within the interval: INCONCLUSIVE. A longer soak would decide it. It would pass any limit from 6.1% an hour up.");
}

#[test]
fn what_kept_a_metric_from_passing_is_not_certified_away() {
    let within = change(0.01, 0.002, 0.02, 0.05);
    let lame = MetricVerdict {
        note: Some("1 epochs gave no usable value, so this cannot pass".to_owned()),
        ..judged(Metric::P50, true, within.clone(), Verdict::Inconclusive)
    };
    insta::assert_snapshot!(metric::paragraph(&lame, &sides()), @"PM2 answers 1.0% slower than Docker at the median (95% interval 0.2% to 2.0%, 10 epochs), within the limit of 5%, yet that is not enough for a PASS: INCONCLUSIVE. The reason: 1 epochs gave no usable value, so this cannot pass.");
    let beyond = told(Metric::P50, change(0.09, 0.055, 0.12, 0.05), Verdict::Inconclusive);
    insta::assert_snapshot!(beyond, @"PM2 answers 9.0% slower than Docker at the median (95% interval 5.5% to 12.0%, 10 epochs), beyond the limit of 5%, yet not surely enough for a FAIL: INCONCLUSIVE. How many epochs would decide it cannot be told from these. It would pass any limit from 12% up.");
    assert!(!told(Metric::P50, within, Verdict::Inconclusive).contains("would pass"));
}

#[test]
fn counts() {
    let rate = |events, upper_bound| Evidence::Rate {
        events,
        trials: 8000,
        upper_bound,
        confidence: 0.95,
        limit: 0,
    };
    insta::assert_snapshot!(told(Metric::Errors, rate(0, 0.000_374_396), Verdict::Pass), @"0 of 8,000 requests to PM2 failed, so the rate is below 0.038% (95%); none may fail: PASS.");
    insta::assert_snapshot!(told(Metric::Errors, rate(12, 0.002_43), Verdict::Fail), @"12 of 8,000 requests to PM2 failed, so the rate is below 0.25% (95%), but none may fail: FAIL.");
    let lost = MetricVerdict {
        note: Some("3 requests were due and have no outcome".to_owned()),
        ..judged(Metric::Errors, true, rate(0, 0.000_374_396), Verdict::Inconclusive)
    };
    insta::assert_snapshot!(metric::paragraph(&lost, &sides()), @"0 of 8,000 requests to PM2 failed, so the rate is below 0.038% (95%); none may fail: INCONCLUSIVE. Note: 3 requests were due and have no outcome.");
    assert!(told(Metric::Errors, rate(8000, 1.0), Verdict::Fail).contains("bounds the rate nowhere"));
    let largest = |value_s| Evidence::Largest { value_s, n: 8000, limit_s: 5.0 };
    insta::assert_snapshot!(told(Metric::MaxLatency, largest(0.25), Verdict::Pass), @"The slowest of 8,000 answers of PM2 took 250.00ms (Docker's slowest: 10.20ms); the limit is 5.00s: PASS.");
    insta::assert_snapshot!(told(Metric::MaxLatency, largest(6.5), Verdict::Fail), @"The slowest of 8,000 answers of PM2 took 6.50s (Docker's slowest: 10.20ms), beyond the limit of 5.00s: FAIL.");
}

#[test]
fn no_figure_is_too_odd_to_be_read() {
    let told = |estimate, low, high| told(Metric::P50, change(estimate, low, high, 0.05), Verdict::Fail);
    insta::assert_snapshot!(told(f64::NAN, 0.1, 0.2), @"About the answer time at the median nothing can be said, since its change is no usable number: FAIL.");
    insta::assert_snapshot!(told(3e12, 0.0001, 4e300), @"PM2 answers more than 1,000,000% slower than Docker at the median (95% interval 0.0% to more than 1,000,000%, 10 epochs), beyond the limit of 5%: FAIL.");
    insta::assert_snapshot!(told(23.456, 11.0, 30.0), @"PM2 answers 2,346% slower than Docker at the median (95% interval 1,100% to 3,000%, 10 epochs), beyond the limit of 5%: FAIL.");
    insta::assert_snapshot!(told(-0.0, -0.0, 0.0), @"No difference could be told between PM2 and Docker in the answer time at the median (95% interval less than 0.1% either way, 10 epochs), beyond the limit of 5%: FAIL.");
    insta::assert_snapshot!(told(0.0002, 0.0001, 0.0003), @"PM2 answers less than 0.1% slower than Docker at the median (95% interval 0.0% to 0.0%, 10 epochs), beyond the limit of 5%: FAIL.");
}

#[test]
fn bounds_are_rounded_up() {
    let certified = |bound: f64| {
        let Evidence::Change { estimate, low, high, confidence, n, limit, basis, .. } =
            change(-0.2, -0.3, -0.1, 0.05)
        else {
            unreachable!()
        };
        let evidence = Evidence::Change {
            estimate,
            low,
            high,
            confidence,
            n,
            limit,
            certified: Some(bound),
            epochs_needed: None,
            basis,
        };
        told(Metric::P50, evidence, Verdict::Pass)
    };
    assert!(certified(0.030_01).ends_with("any limit from 3.1% up."));
    assert!(certified(-0.1).ends_with("any limit, even one of 0%."));
    assert!(certified(-0.0).ends_with("any limit, even one of 0%."));
    assert!(certified(f64::INFINITY).ends_with("PASS."));
}

#[test]
fn the_whole() {
    let whole = |comparison: &Comparison| paragraphs(comparison).swap_remove(0);
    insta::assert_snapshot!(whole(&compared()), @"INCONCLUSIVE: set against Docker, the built-in supervisor was shown neither to keep every limit that decides nor to break one; still open: memory (anonymous). The candidate is the built-in supervisor, standing in for PM2: no pm2 on PATH. Both ran in one interleaved session (paired). 11 epochs were measured, 1 of them dropped as disturbed. The look after 10 undisturbed epochs did not decide it.");
    insta::assert_snapshot!(paragraphs(&incomparable()).join("\n"), @"INCOMPARABLE: the built-in supervisor and Docker must not be set against each other: the kernel differs: 6.1 | <b>�[2J for the baseline, 6.2 for the candidate. The candidate is the built-in supervisor, standing in for PM2: no pm2 on PATH.");
    let passed = Comparison {
        candidate: identity(RuntimeKind::Pm2, "7.0.4"),
        epochs: EpochCount { measured: 15, dropped: 0 },
        metrics: vec![judged(Metric::P50, true, change(0.018, 0.009, 0.027, 0.05), Verdict::Pass)],
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        ..compared()
    };
    insta::assert_snapshot!(whole(&passed), @"PASS: set against Docker, PM2 was shown to keep every limit that decides. Both ran in one interleaved session (paired). 15 epochs were measured, none dropped. The last metric was decided at the look after 10 undisturbed epochs.");
    let failed = |metric| judged(metric, true, change(0.124, 0.112, 0.136, 0.10), Verdict::Fail);
    let failed = Comparison {
        metrics: vec![failed(Metric::P50), failed(Metric::Mean), failed(Metric::Memory)],
        verdict: Verdict::Fail,
        ..passed.clone()
    };
    insta::assert_snapshot!(whole(&failed), @"FAIL: set against Docker, PM2 was shown to be beyond its limit for p50 latency, mean latency and memory (anonymous). Both ran in one interleaved session (paired). 15 epochs were measured, none dropped. The first metric to fail did so at the look after 10 undisturbed epochs.");
    let noisy = Comparison {
        verdict: Verdict::Invalid,
        grade: Some(Grade::AcrossHosts),
        reasons: vec!["3 of 15 epochs were disturbed".to_owned()],
        ..passed.clone()
    };
    insta::assert_snapshot!(whole(&noisy), @"INVALID: the measurement of PM2 against Docker cannot be trusted, so no figure of it counts: 3 of 15 epochs were disturbed. The machines differ: advisory only. 15 epochs were measured, none dropped.");
    let unguarded = Comparison {
        baseline: identity(RuntimeKind::Pm2, "6.0"),
        grade: Some(Grade::Controlled),
        verdict: Verdict::Inconclusive,
        reasons: vec!["no arm was measured twice".to_owned()],
        ..passed
    };
    insta::assert_snapshot!(whole(&unguarded), @"INCONCLUSIVE: no metric that decides speaks against the candidate, yet this cannot pass against the baseline: no arm was measured twice. Both sides are PM2. The evidence is stored records, each measured against the same control in its own session (controlled). 15 epochs were measured, none dropped.");
}

#[test]
fn sides_are_called_what_ran() {
    let names = |baseline, candidate| {
        let sides = Sides::of(&Comparison { baseline, candidate, ..compared() });
        (sides.baseline.name, sides.candidate.name)
    };
    let docker = || identity(RuntimeKind::Docker, "27");
    assert_eq!(names(docker(), stand_in()), ("Docker".into(), "the built-in supervisor".into()));
    assert_eq!(names(docker(), docker()), ("the baseline".into(), "the candidate".into()));
    let host = crate::model::target::RuntimeIdentity { target: "docker-host".to_owned(), ..docker() };
    assert_eq!(names(docker(), host), ("Docker".into(), "docker-host".into()));
    let bare = Sides {
        baseline: Side::of(&docker()),
        candidate: Side::of(&identity(RuntimeKind::Bare, "1")),
        both: None,
    };
    let memory = judged(Metric::Memory, true, change(-0.2, -0.25, -0.15, 0.1), Verdict::Pass);
    insta::assert_snapshot!(metric::paragraph(&memory, &bare), @"The bare processes use 20.0% less memory than Docker (95% interval 15.0% to 25.0%, 10 epochs); the limit is 10%: PASS. It would pass any limit, even one of 0%.");
    let largest = Evidence::Largest { value_s: 0.25, n: 4000, limit_s: 5.0 };
    let slowest = MetricVerdict {
        baseline: Some(Quantity::Seconds(0.2)),
        ..judged(Metric::MaxLatency, true, largest, Verdict::Pass)
    };
    let turned = Sides { baseline: bare.candidate, candidate: bare.baseline, both: None };
    insta::assert_snapshot!(metric::paragraph(&slowest, &turned), @"The slowest of 4,000 answers of Docker took 250.00ms (the bare processes' slowest: 200.00ms); the limit is 5.00s: PASS.");
}
