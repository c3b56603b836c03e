//! Snapshots of every format, on a comparison and parity rows made by hand.

use std::{collections::BTreeMap, io};

use super::{ParityRow, json, markdown, table};
use crate::model::{
    scenario::{Expectation, Figure, ScenarioOutcome},
    target::{RuntimeIdentity, RuntimeKind, StandIn},
    verdict::{Basis, Comparison, EpochCount, Evidence, Grade, Metric, MetricVerdict, Quantity, Verdict},
};

pub(super) fn identity(runtime: RuntimeKind, version: &str) -> RuntimeIdentity {
    RuntimeIdentity {
        target: runtime.name().to_owned(),
        runtime,
        version: version.to_owned(),
        path: format!("/usr/bin/{runtime}"),
        stands_in_for: None,
        options: BTreeMap::new(),
    }
}

pub(super) fn stand_in() -> RuntimeIdentity {
    let reason = "no pm2 on PATH".to_owned();
    RuntimeIdentity {
        target: "pm2".to_owned(),
        stands_in_for: Some(StandIn { runtime: RuntimeKind::Pm2, reason }),
        ..identity(RuntimeKind::Builtin, "0.1.0")
    }
}

pub(super) fn metric(metric: Metric, critical: bool, evidence: Evidence, verdict: Verdict) -> MetricVerdict {
    let (baseline, candidate) = (Some(Quantity::Seconds(0.0102)), Some(Quantity::Seconds(0.010_35)));
    MetricVerdict { metric, critical, baseline, candidate, evidence, verdict, note: None }
}

/// Of ten epochs in one session.
pub(super) fn change(estimate: f64, low: f64, high: f64, limit: f64) -> Evidence {
    let is_within = high < limit;
    Evidence::Change {
        estimate,
        low,
        high,
        confidence: 0.95,
        n: (10, 10),
        limit,
        certified: Some(high),
        epochs_needed: (low < limit && !is_within).then_some(18),
        basis: Basis::Sequential { looks: vec![10], decided_at: (is_within || low > limit).then_some(10) },
    }
}

pub(super) fn compared() -> Comparison {
    let rate =
        Evidence::Rate { events: 0, trials: 4000, upper_bound: 0.000_748_658, confidence: 0.95, limit: 0 };
    let largest = Evidence::Largest { value_s: 0.25, n: 4000, limit_s: 5.0 };
    let missing = Evidence::Missing { reason: "4 usable epochs, 6 are needed".to_owned() };
    let errors = MetricVerdict {
        baseline: Some(Quantity::Count(0.0)),
        candidate: Some(Quantity::Count(0.0)),
        note: Some("baseline 0 of 4000 requests".to_owned()),
        ..metric(Metric::Errors, true, rate, Verdict::Pass)
    };
    let memory = MetricVerdict {
        baseline: Some(Quantity::Bytes(52_428_800.0)),
        candidate: Some(Quantity::Bytes(55_000_000.0)),
        ..metric(Metric::Memory, true, change(0.049, 0.031, 0.112, 0.10), Verdict::Inconclusive)
    };
    let cpu = MetricVerdict {
        baseline: None,
        candidate: None,
        ..metric(Metric::CpuPerRequest, false, missing, Verdict::Inconclusive)
    };
    Comparison {
        baseline: identity(RuntimeKind::Docker, "27.0"),
        candidate: stand_in(),
        sessions: (vec!["20260101T000000Z-1a2b".to_owned()], vec!["20260101T000000Z-1a2b".to_owned()]),
        workload: "demo".to_owned(),
        grade: Some(Grade::Paired),
        epochs: EpochCount { measured: 11, dropped: 1 },
        metrics: vec![
            metric(Metric::P50, true, change(0.0149, -0.002, 0.031, 0.05), Verdict::Pass),
            metric(Metric::P95, false, change(0.31, 0.26, 0.40, 0.25), Verdict::Fail),
            MetricVerdict {
                candidate: Some(Quantity::Seconds(0.25)),
                ..metric(Metric::MaxLatency, true, largest, Verdict::Pass)
            },
            errors,
            memory,
            cpu,
        ],
        verdict: Verdict::Inconclusive,
        reasons: vec!["memory (anonymous) is undecided: it would take about 18 epochs".to_owned()],
    }
}

pub(super) fn incomparable() -> Comparison {
    Comparison {
        sessions: (vec!["s1".to_owned()], vec!["s2".to_owned(), "s3".to_owned()]),
        grade: None,
        epochs: EpochCount::default(),
        metrics: Vec::new(),
        verdict: Verdict::Incomparable,
        reasons: vec![
            "the kernel differs: 6.1 | <b>\u{1b}[2J for the baseline, 6.2 for the candidate".to_owned(),
        ],
        ..compared()
    }
}

pub(super) fn parity_rows() -> Vec<ParityRow> {
    let no_errors = Expectation { figure: Figure::Errors, at_most: Some(0.0), at_least: None };
    let released = Expectation { figure: Figure::NewReleaseShare, at_most: None, at_least: Some(1.0) };
    let run = |errors, gap| {
        BTreeMap::from([
            (Figure::Errors, errors),
            (Figure::NewReleaseShare, 1.0),
            (Figure::LongestGapSeconds, gap),
        ])
    };
    let row = |target, outcome, run_error_rate_bound| ParityRow {
        error_rate_bound: None,
        run_error_rate_bound,
        scenario: "zero-downtime-reload".to_owned(),
        target,
        outcome,
        expectations: vec![no_errors, released],
    };
    vec![
        row(
            stand_in(),
            ScenarioOutcome::Ran { runs: vec![run(0.0, 0.012), run(0.0, 0.02), run(0.0, 0.011)] },
            Some(0.631_597),
        ),
        row(
            identity(RuntimeKind::Docker, "27.0"),
            ScenarioOutcome::Ran { runs: vec![run(41.0, 0.6), run(38.0, 0.55), run(0.0, 0.01)] },
            Some(0.983_048),
        ),
        row(
            identity(RuntimeKind::Bare, "1"),
            ScenarioOutcome::Unsupported { reason: "bare has no reload".to_owned() },
            None,
        ),
    ]
}

pub(super) fn text(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_comparison_as_a_table() {
    insta::assert_snapshot!(text(|out| table::comparison(&compared(), out, false)), @r"
    baseline   docker: docker 27.0 (/usr/bin/docker)
    candidate  pm2: builtin 0.1.0 (/usr/bin/builtin), STANDING IN FOR pm2: no pm2 on PATH
    workload   demo
    sessions   20260101T000000Z-1a2b (both)
    epochs     11, of which 1 dropped as disturbed
    ┌───────────────────────────────────┬──────────┬──────────────────────────────┬─────────────────────────┬──────────┬───────┬──────────────────┐
    │ metric                            ┆ baseline ┆ candidate                    ┆ change [95% interval]   ┆ limit    ┆ n     ┆ verdict (paired) │
    ╞═══════════════════════════════════╪══════════╪══════════════════════════════╪═════════════════════════╪══════════╪═══════╪══════════════════╡
    │ p50 latency                       ┆ 10.20ms  ┆ 10.35ms                      ┆ +1.5% [-0.2%, +3.1%]    ┆ < +5.0%  ┆ 10    ┆ PASS             │
    │ p95 latency (advisory)            ┆ 10.20ms  ┆ 10.35ms                      ┆ +31.0% [+26.0%, +40.0%] ┆ < +25.0% ┆ 10    ┆ FAIL             │
    │ max latency                       ┆ 10.20ms  ┆ 250.00ms                     ┆ –                       ┆ ≤ 5.00s  ┆ 4,000 ┆ PASS             │
    │ errors                            ┆ 0 failed ┆ 0 of 4,000 (< 0.075% at 95%) ┆ –                       ┆ ≤ 0      ┆ 4,000 ┆ PASS             │
    │ memory (anonymous)                ┆ 50.0 MiB ┆ 52.5 MiB                     ┆ +4.9% [+3.1%, +11.2%]   ┆ < +10.0% ┆ 10    ┆ INCONCLUSIVE     │
    │ CPU per 1,000 requests (advisory) ┆ –        ┆ –                            ┆ missing                 ┆ –        ┆ –     ┆ INCONCLUSIVE     │
    └───────────────────────────────────┴──────────┴──────────────────────────────┴─────────────────────────┴──────────┴───────┴──────────────────┘
    INCONCLUSIVE (paired)
      - memory (anonymous) is undecided: it would take about 18 epochs
      - errors: baseline 0 of 4000 requests
      - CPU per 1,000 requests: 4 usable epochs, 6 are needed
    In words
      INCONCLUSIVE: set against Docker, the built-in supervisor was shown neither to keep every limit
        that decides nor to break one; still open: memory (anonymous). The candidate is the built-in
        supervisor, standing in for PM2: no pm2 on PATH. Both ran in one interleaved session (paired).
        11 epochs were measured, 1 of them dropped as disturbed. The look after 10 undisturbed epochs
        did not decide it.
      No difference could be told between the built-in supervisor and Docker in the answer time at the
        median (95% interval 0.2% faster to 3.1% slower, 10 epochs); the limit is 5%: PASS. It would
        pass any limit from 3.1% up.
      The built-in supervisor answers 31.0% slower than Docker where the slowest 5% of answers begin
        (95% interval 26.0% to 40.0%, 10 epochs), beyond the limit of 25%: FAIL (advisory, it does not
        decide).
      The slowest of 4,000 answers of the built-in supervisor took 250.00ms (Docker's slowest: 10.20ms);
        the limit is 5.00s: PASS.
      0 of 4,000 requests to the built-in supervisor failed, so the rate is below 0.075% (95%); none may
        fail: PASS.
      The built-in supervisor uses 4.9% more memory than Docker (95% interval 3.1% to 11.2%, 10 epochs);
        the limit of 10% lies within the interval: INCONCLUSIVE. If the change is what it seems to be,
        about 18 epochs would decide it. It would pass any limit from 11.2% up.
      About the CPU time per request nothing can be said, since the data carry no interval (4 usable
        epochs, 6 are needed): INCONCLUSIVE (advisory, it does not decide).
    ");
}

#[test]
fn prose_in_a_terminal_keeps_to_its_columns() {
    let long = Comparison { reasons: vec!["/a".repeat(80)], ..incomparable() };
    for comparison in [compared(), long] {
        let written = text(|out| table::comparison(&comparison, out, false));
        let (_, prose) = written.split_once("In words\n").unwrap();
        let fits = |line: &str| line.chars().count() <= 100 || line.split_whitespace().count() == 1;
        assert!(prose.lines().all(fits), "{prose}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(prose), words(&super::explain::paragraphs(&comparison).join(" ")));
    }
}

#[test]
fn an_incomparable_pair_has_no_figures() {
    insta::assert_snapshot!(text(|out| table::comparison(&incomparable(), out, false)), @r"
    baseline   docker: docker 27.0 (/usr/bin/docker)
    candidate  pm2: builtin 0.1.0 (/usr/bin/builtin), STANDING IN FOR pm2: no pm2 on PATH
    workload   demo
    sessions   s1 (baseline), s2, s3 (candidate)
    epochs     –
    INCOMPARABLE (no grade)
      - the kernel differs: 6.1 | <b>�[2J for the baseline, 6.2 for the candidate
    In words
      INCOMPARABLE: the built-in supervisor and Docker must not be set against each other: the kernel
        differs: 6.1 | <b>�[2J for the baseline, 6.2 for the candidate. The candidate is the built-in
        supervisor, standing in for PM2: no pm2 on PATH.
    ");
}

#[test]
fn a_comparison_as_markdown() {
    insta::assert_snapshot!(text(|out| markdown::comparison(&compared(), out)), @r"
    - baseline: docker: docker 27.0 (/usr/bin/docker)
    - candidate: pm2: builtin 0.1.0 (/usr/bin/builtin), STANDING IN FOR pm2: no pm2 on PATH
    - workload: demo
    - sessions: 20260101T000000Z-1a2b (both)
    - epochs: 11, of which 1 dropped as disturbed

    | metric | baseline | candidate | change [95% interval] | limit | n | verdict (paired) |
    |---|---|---|---|---|---|---|
    | p50 latency | 10.20ms | 10.35ms | +1.5% [-0.2%, +3.1%] | &lt; +5.0% | 10 | PASS |
    | p95 latency (advisory) | 10.20ms | 10.35ms | +31.0% [+26.0%, +40.0%] | &lt; +25.0% | 10 | FAIL |
    | max latency | 10.20ms | 250.00ms | – | ≤ 5.00s | 4,000 | PASS |
    | errors | 0 failed | 0 of 4,000 (&lt; 0.075% at 95%) | – | ≤ 0 | 4,000 | PASS |
    | memory (anonymous) | 50.0 MiB | 52.5 MiB | +4.9% [+3.1%, +11.2%] | &lt; +10.0% | 10 | INCONCLUSIVE |
    | CPU per 1,000 requests (advisory) | – | – | missing | – | – | INCONCLUSIVE |

    **INCONCLUSIVE (paired)**

    - memory (anonymous) is undecided: it would take about 18 epochs
    - errors: baseline 0 of 4000 requests
    - CPU per 1,000 requests: 4 usable epochs, 6 are needed

    ## In words

    INCONCLUSIVE: set against Docker, the built-in supervisor was shown neither to keep every limit that decides nor to break one; still open: memory (anonymous). The candidate is the built-in supervisor, standing in for PM2: no pm2 on PATH. Both ran in one interleaved session (paired). 11 epochs were measured, 1 of them dropped as disturbed. The look after 10 undisturbed epochs did not decide it.

    No difference could be told between the built-in supervisor and Docker in the answer time at the median (95% interval 0.2% faster to 3.1% slower, 10 epochs); the limit is 5%: PASS. It would pass any limit from 3.1% up.

    The built-in supervisor answers 31.0% slower than Docker where the slowest 5% of answers begin (95% interval 26.0% to 40.0%, 10 epochs), beyond the limit of 25%: FAIL (advisory, it does not decide).

    The slowest of 4,000 answers of the built-in supervisor took 250.00ms (Docker's slowest: 10.20ms); the limit is 5.00s: PASS.

    0 of 4,000 requests to the built-in supervisor failed, so the rate is below 0.075% (95%); none may fail: PASS.

    The built-in supervisor uses 4.9% more memory than Docker (95% interval 3.1% to 11.2%, 10 epochs); the limit of 10% lies within the interval: INCONCLUSIVE. If the change is what it seems to be, about 18 epochs would decide it. It would pass any limit from 11.2% up.

    About the CPU time per request nothing can be said, since the data carry no interval (4 usable epochs, 6 are needed): INCONCLUSIVE (advisory, it does not decide).
    ");
}

#[test]
fn markdown_is_escaped() {
    let written = text(|out| markdown::comparison(&incomparable(), out));
    assert!(written.contains("6.1 \\| &lt;b>\u{fffd}[2J"), "{written}");
    assert!(!written.contains('\u{1b}'));
}

#[test]
fn parity_as_a_table() {
    insta::assert_snapshot!(text(|out| table::parity(&parity_rows(), out, false)), @r"
    pm2: builtin 0.1.0 (/usr/bin/builtin), STANDING IN FOR pm2: no pm2 on PATH
    docker: docker 27.0 (/usr/bin/docker)
    bare: bare 1 (/usr/bin/bare)
    ┌──────────────────────┬───────────────────────────┬────────────────────┬──────────┬───────────────────────┬─────────────┬──────┬─────────────┐
    │ scenario             ┆ target                    ┆ figure             ┆ median   ┆ worst                 ┆ expected    ┆ runs ┆ verdict     │
    ╞══════════════════════╪═══════════════════════════╪════════════════════╪══════════╪═══════════════════════╪═════════════╪══════╪═════════════╡
    │ zero-downtime-reload ┆ pm2 (builtin standing in) ┆ errors             ┆ 0        ┆ 0                     ┆ ≤ 0 met     ┆ 3    ┆ PASS        │
    │                      ┆                           ┆ new release share  ┆ 100%     ┆ 100%                  ┆ ≥ 100% met  ┆      ┆             │
    │                      ┆                           ┆ longest gap        ┆ 12.00ms  ┆ 20.00ms               ┆ –           ┆      ┆             │
    │                      ┆                           ┆ runs with errors   ┆          ┆ 0 of 3 (< 64% at 95%) ┆             ┆      ┆             │
    │ zero-downtime-reload ┆ docker                    ┆ errors             ┆ 38       ┆ 41                    ┆ ≤ 0 NOT MET ┆ 3    ┆ FAIL        │
    │                      ┆                           ┆ new release share  ┆ 100%     ┆ 100%                  ┆ ≥ 100% met  ┆      ┆             │
    │                      ┆                           ┆ longest gap        ┆ 550.00ms ┆ 600.00ms              ┆ –           ┆      ┆             │
    │                      ┆                           ┆ runs with errors   ┆          ┆ 2 of 3 (< 99% at 95%) ┆             ┆      ┆             │
    │ zero-downtime-reload ┆ bare                      ┆ bare has no reload ┆          ┆                       ┆             ┆ 0    ┆ UNSUPPORTED │
    └──────────────────────┴───────────────────────────┴────────────────────┴──────────┴───────────────────────┴─────────────┴──────┴─────────────┘
    ");
}

#[test]
fn parity_as_markdown() {
    insta::assert_snapshot!(text(|out| markdown::parity(&parity_rows(), out)), @r"
    - pm2: builtin 0.1.0 (/usr/bin/builtin), STANDING IN FOR pm2: no pm2 on PATH
    - docker: docker 27.0 (/usr/bin/docker)
    - bare: bare 1 (/usr/bin/bare)

    | scenario | target | figure | median | worst | expected | runs | verdict |
    |---|---|---|---|---|---|---|---|
    | zero-downtime-reload | pm2 (builtin standing in) | errors<br>new release share<br>longest gap<br>runs with errors | 0<br>100%<br>12.00ms | 0<br>100%<br>20.00ms<br>0 of 3 (&lt; 64% at 95%) | ≤ 0 met<br>≥ 100% met<br>– | 3 | PASS |
    | zero-downtime-reload | docker | errors<br>new release share<br>longest gap<br>runs with errors | 38<br>100%<br>550.00ms | 41<br>100%<br>600.00ms<br>2 of 3 (&lt; 99% at 95%) | ≤ 0 NOT MET<br>≥ 100% met<br>– | 3 | FAIL |
    | zero-downtime-reload | bare | bare has no reload |  |  |  | 0 | UNSUPPORTED |
    ");
}

#[test]
fn parity_as_json() {
    let value: serde_json::Value =
        serde_json::from_str(&text(|out| json::parity(&parity_rows(), out))).unwrap();
    assert_eq!(value["format"]["name"], "qbench-parity");
    let verdicts: Vec<&str> = (0..3).filter_map(|row| value["rows"][row]["verdict"].as_str()).collect();
    assert_eq!(verdicts, ["PASS", "FAIL", "UNSUPPORTED"]);
    let errors = &value["rows"][1]["figures"][0];
    assert_eq!((&errors["figure"], &errors["met"]), (&"errors".into(), &false.into()));
    assert_eq!((errors["median"].as_f64(), errors["worst"].as_f64()), (Some(38.0), Some(41.0)));
    assert_eq!(value["rows"][2]["reason"], "bare has no reload");
    assert_eq!(value["rows"][1]["runs_with_errors"], 2);
    assert_eq!(value["rows"][1]["run_error_rate_bound_95"], 0.983_048);
    assert!(value["rows"][2]["runs_with_errors"].is_null());
}

#[test]
fn a_comparison_survives_json() {
    let value: serde_json::Value =
        serde_json::from_str(&text(|out| json::comparison(&compared(), out))).unwrap();
    assert_eq!(value["format"], serde_json::json!({ "name": "qbench-comparison", "major": 2, "minor": 0 }));
    let back: Comparison = serde_json::from_value(value["comparison"].clone()).unwrap();
    assert_eq!(back, compared());
    let told = value["explanation"].as_array().unwrap();
    assert_eq!(told.len(), 1 + back.metrics.len(), "one for the whole and one for each metric");
    assert!(told.iter().all(|paragraph| paragraph.as_str().is_some_and(|text| text.ends_with('.'))));
}

#[test]
fn colour_only_when_asked_and_it_changes_no_word() {
    let (plain, coloured) = (
        text(|out| table::comparison(&compared(), out, false)),
        text(|out| table::comparison(&compared(), out, true)),
    );
    assert!(!plain.contains('\u{1b}') && coloured.contains('\u{1b}'));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        stripped.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    stripped.push_str(rest);
    assert_eq!(stripped, plain);
}
