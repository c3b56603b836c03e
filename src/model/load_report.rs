//! What `qbench load` was asked, what it measured, and whether that holds what was wanted.
//!
//! Deliberately absent: words for people, which are the report's.

use std::{path::PathBuf, time::Duration};

use super::{
    load::{ClientCost, ConnectionCounts, Disturbance, Pacing, Precision, ReceiveClock},
    measurement::LaneMeasurement,
    settings::ConnectionUse,
    verdict::Verdict,
};

/// Everything there is to say about a load.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// What was asked.
    pub asked: LoadAsked,
    /// What was measured; with a search, in the window that says most about its outcome.
    pub measured: LoadMeasured,
    /// What was wanted of it.
    pub thresholds: Vec<LoadThreshold>,
    /// The search for the highest rate, when that was asked.
    pub search: Option<SearchReport>,
    /// The user ended it early.
    pub interrupted: bool,
}

/// A load as it was asked for. Header values and bodies are not in it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadAsked {
    /// Where to, without user name or password.
    pub url: String,
    /// What its host was found to be: addresses, or the path of a Unix socket. Looked up once, before the load.
    pub peers: Vec<String>,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: &'static str,
    /// How the server's certificate was judged; `None` without TLS.
    pub trust: Option<AskedTrust>,
    /// The kinds of requests; at least one.
    pub requests: Vec<RequestKind>,
    /// Statuses that count as success, as given; `None` for 200 to 299 or what a requests file says.
    pub expected_status: Option<String>,
    /// When requests are sent.
    pub pacing: Pacing,
    /// For how long.
    pub duration: Duration,
    /// Connections per address at most, or clients of a closed loop.
    pub connections: u32,
    /// Whether they are used again.
    pub connection_use: ConnectionUse,
    /// From a request's actual send to the end of its answer.
    pub timeout: Duration,
    /// Whether cookies are kept and sent.
    pub cookies: bool,
    /// How exactly requests are sent on time.
    pub precision: Precision,
    /// Which clock was asked for; [`ClientCost`] says which it was.
    pub receive_clock: ReceiveClock,
    /// Whether the load's threads ran at a real-time priority.
    pub realtime: bool,
    /// The cores its threads were kept to; empty when they were not.
    pub cores: Vec<usize>,
}

/// How the server's certificate was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedTrust {
    /// By the system's roots.
    System,
    /// By the roots of a file.
    File(PathBuf),
    /// Not at all.
    Anything,
}

/// One kind of request, as far as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKind {
    /// The method, upper case.
    pub method: String,
    /// Path and query, variables by their names.
    pub path: String,
    /// Its share relative to the others.
    pub weight: u32,
}

/// What one load brought back.
#[derive(Clone, Debug, Default)]
pub struct LoadMeasured {
    /// How long the schedule ran; less than asked when it was stopped.
    pub scheduled: Duration,
    /// From the start to the last outcome.
    pub elapsed: Duration,
    /// The requests.
    pub lane: LaneMeasurement,
    /// What the load itself took.
    pub client: ClientCost,
    /// What happened on the connections.
    pub connections: ConnectionCounts,
}

impl LoadMeasured {
    /// Answered well per second, until the last answer: a service that only caught up after the load was slower.
    pub fn throughput_per_second(&self) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (seconds > 0.0).then(|| self.lane.counts.succeeded as f64 / seconds)
    }

    /// Failed at the first try, of those with an outcome.
    pub fn failed_share(&self) -> Option<f64> {
        let counts = &self.lane.counts;
        (counts.completed() > 0).then(|| counts.failures() as f64 / counts.completed() as f64)
    }

    /// The longest time between two successes; unknown when nothing succeeded.
    pub fn longest_gap(&self) -> Option<Duration> {
        (self.lane.counts.succeeded > 0).then_some(self.lane.longest_gap)
    }

    /// Whether the load's own machine was in the way. A full backlog is not counted: it fills when answers do not keep
    /// up, and what was given up has no outcome, which is held against the service.
    pub fn is_disturbed(&self) -> bool {
        self.client.disturbances.iter().any(|reason| !matches!(reason, Disturbance::BacklogFull { .. }))
    }

    /// The load's own CPU time for each request it sent.
    pub fn cpu_per_request(&self) -> Option<Duration> {
        let sent = self.lane.counts.sent;
        (sent > 0).then(|| Duration::from_secs_f64(self.client.cpu.as_secs_f64() / sent as f64))
    }
}

/// A condition on a figure of the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadThreshold {
    /// Of what.
    pub figure: LoadFigure,
    /// On which side of the limit it must be.
    pub bound: Bound,
    /// In the unit of the figure.
    pub limit: f64,
}

/// Which figure a threshold is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFigure {
    /// Latency from the intended send, in seconds.
    Latency(LatencyFigure),
    /// Requests that failed at the first try, as a share of those with an outcome.
    FailedShare,
    /// Requests that failed at the first try.
    Failed,
    /// Answered well per second.
    Throughput,
    /// The longest time between two successes, in seconds.
    LongestGap,
}

/// A figure of a latency distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyFigure {
    /// Half are at most this.
    P50,
    /// 90%.
    P90,
    /// 95%.
    P95,
    /// 99%.
    P99,
    /// 99.9%.
    P999,
    /// The largest.
    Max,
    /// The mean.
    Mean,
}

impl LatencyFigure {
    /// All of them, as printed from left to right.
    pub const ALL: [Self; 7] =
        [Self::P50, Self::P90, Self::P95, Self::P99, Self::P999, Self::Max, Self::Mean];

    /// The name used in thresholds and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Max => "max",
            Self::Mean => "mean",
        }
    }

    /// The figure of a histogram; `None` when nothing was counted.
    pub fn of(self, histogram: &super::sample::LatencyHistogram) -> Option<Duration> {
        match self {
            Self::P50 => histogram.quantile(0.50),
            Self::P90 => histogram.quantile(0.90),
            Self::P95 => histogram.quantile(0.95),
            Self::P99 => histogram.quantile(0.99),
            Self::P999 => histogram.quantile(0.999),
            Self::Max => histogram.max(),
            Self::Mean => histogram.mean(),
        }
    }
}

/// On which side of its limit a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

impl Bound {
    /// As written.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
        }
    }

    /// Whether a value is on that side. What is no number is on none.
    pub fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
        }
    }
}

impl LoadThreshold {
    /// The figure as it was measured; `None` when nothing was measured that it could be taken from.
    pub fn measured(&self, load: &LoadMeasured) -> Option<f64> {
        let counts = &load.lane.counts;
        match self.figure {
            LoadFigure::Latency(figure) => figure.of(&load.lane.latency).map(|time| time.as_secs_f64()),
            LoadFigure::FailedShare => load.failed_share(),
            LoadFigure::Failed => (counts.completed() > 0).then(|| counts.failures() as f64),
            LoadFigure::Throughput => load.throughput_per_second().filter(|_| counts.completed() > 0),
            LoadFigure::LongestGap => load.longest_gap().map(|gap| gap.as_secs_f64()),
        }
    }

    /// Whether it holds; `None` when that was not measured.
    pub fn holds(&self, load: &LoadMeasured) -> Option<bool> {
        self.measured(load).map(|measured| self.bound.holds(measured, self.limit))
    }

    fn is_about_errors(&self) -> bool {
        matches!(self.figure, LoadFigure::FailedShare | LoadFigure::Failed)
    }
}

/// Why a load's verdict is not PASS although no threshold was shown not to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The load's own machine was in the way.
    Disturbed,
    /// A threshold is about something that was not measured.
    NotMeasured,
    /// The user ended it early.
    Interrupted,
    /// That many requests were due and have no outcome.
    Unanswered(u64),
    /// That many failed, latencies are only of those that did not, and no threshold says how many may fail.
    FailuresWithoutLimit(u64),
}

impl LoadReport {
    /// Whether every threshold holds; `None` when none was given. Disturbed measurements are worth nothing either
    /// way; what was shown not to hold stays so; and what was not measured never passes.
    pub fn verdict(&self) -> Option<Verdict> {
        if let Some(search) = &self.search {
            return Some(search.outcome.verdict());
        }
        if self.thresholds.is_empty() {
            return None;
        }
        let doubts = self.doubts();
        Some(if doubts.contains(&Doubt::Disturbed) {
            Verdict::Invalid
        } else if self.thresholds.iter().any(|threshold| threshold.holds(&self.measured) == Some(false)) {
            Verdict::Fail
        } else if doubts.is_empty() {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        })
    }

    /// What keeps the thresholds from being decided.
    pub fn doubts(&self) -> Vec<Doubt> {
        let counts = &self.measured.lane.counts;
        let thresholds = &self.thresholds;
        let mut doubts = Vec::new();
        if thresholds.is_empty() {
            return doubts;
        }
        if self.measured.is_disturbed() {
            doubts.push(Doubt::Disturbed);
        }
        if thresholds.iter().any(|threshold| threshold.measured(&self.measured).is_none()) {
            doubts.push(Doubt::NotMeasured);
        }
        if self.interrupted {
            doubts.push(Doubt::Interrupted);
        }
        if counts.unanswered() > 0 {
            doubts.push(Doubt::Unanswered(counts.unanswered()));
        }
        let wants_latency = thresholds.iter().any(|t| matches!(t.figure, LoadFigure::Latency(_)));
        if counts.failures() > 0 && wants_latency && !thresholds.iter().any(LoadThreshold::is_about_errors) {
            doubts.push(Doubt::FailuresWithoutLimit(counts.failures()));
        }
        doubts
    }
}

/// A search for the highest rate that a service sustains.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchReport {
    /// What a window must hold.
    pub limits: SustainLimits,
    /// Every window, in the order they were run.
    pub windows: Vec<RateWindow>,
    /// What came of it.
    pub outcome: SearchOutcome,
    /// The rate of the window that [`LoadReport::measured`] is of.
    pub figures_of_rate: f64,
}

/// What a window must hold for its rate to count as sustained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SustainLimits {
    /// The 99th percentile of latency must be below this.
    pub p99: Duration,
    /// At most this share may fail; 0 for none.
    pub failed_share: f64,
    /// At least this share of the requests must have an outcome in time.
    pub achieved_share: f64,
}

/// One window of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateWindow {
    /// Requests per second.
    pub rate: f64,
    /// The 99th percentile of latency; `None` when nothing was answered.
    pub p99: Option<Duration>,
    /// Requests with an outcome in time, of those that were due.
    pub achieved_share: Option<f64>,
    /// Requests that failed, of those with an outcome.
    pub failed_share: Option<f64>,
    /// The client itself was in the way: the window says nothing about the service.
    pub disturbed: bool,
}

/// What a window lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Too few requests had an outcome in time.
    Achieved,
    /// Too many failed.
    Failed,
    /// The 99th percentile was too high.
    Latency,
}

impl SustainLimits {
    /// What the window lacks; `None` when it holds all. What was not measured does not hold.
    pub fn shortfall(&self, window: &RateWindow) -> Option<Shortfall> {
        if window.achieved_share.is_none_or(|share| share.is_nan() || share < self.achieved_share) {
            return Some(Shortfall::Achieved);
        }
        if window.failed_share.is_none_or(|share| share.is_nan() || share > self.failed_share) {
            return Some(Shortfall::Failed);
        }
        window.p99.is_none_or(|p99| p99 >= self.p99).then_some(Shortfall::Latency)
    }
}

/// What came of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SearchOutcome {
    /// The rate held in every one of its windows.
    Found {
        /// Requests per second.
        rate: f64,
        /// The lowest rate seen not to hold; `None` when the highest rate that may be tried held.
        fails_at: Option<f64>,
    },
    /// Not even the lowest rate that may be tried held.
    NothingHolds {
        /// That rate.
        lowest: f64,
    },
    /// The client came to its own limit first.
    ClientLimit {
        /// The rate it could not send undisturbed.
        at: f64,
        /// The highest rate that held in one window; it was not confirmed.
        held: Option<f64>,
    },
    /// The windows that may be run were used up before a rate was confirmed, or the search was ended.
    Unfinished {
        /// The highest rate that held in one window; it was not confirmed.
        held: Option<f64>,
    },
}

impl SearchOutcome {
    /// What it is worth: a rate that is only half searched for is inconclusive.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Found { .. } => Verdict::Pass,
            Self::NothingHolds { .. } => Verdict::Fail,
            Self::ClientLimit { .. } => Verdict::Invalid,
            Self::Unfinished { .. } => Verdict::Inconclusive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        load::{Disturbance, Pacing},
        sample::ErrorClass,
    };

    fn threshold(figure: LoadFigure, bound: Bound, limit: f64) -> LoadThreshold {
        LoadThreshold { figure, bound, limit }
    }

    fn p99_below(limit: f64) -> LoadThreshold {
        threshold(LoadFigure::Latency(LatencyFigure::P99), Bound::Below, limit)
    }

    /// `succeeded` answers of 10 ms each and `failed` refusals.
    fn report(succeeded: u64, failed: u64, thresholds: &[LoadThreshold]) -> LoadReport {
        let mut measured = LoadMeasured { elapsed: Duration::from_secs(1), ..LoadMeasured::default() };
        for _ in 0..succeeded {
            measured.lane.latency.record(Duration::from_millis(10));
        }
        let counts = &mut measured.lane.counts;
        (counts.offered, counts.sent, counts.succeeded) = (succeeded + failed, succeeded + failed, succeeded);
        if failed > 0 {
            counts.failed.insert(ErrorClass::Refused, failed);
        }
        LoadReport {
            asked: LoadAsked {
                url: "http://127.0.0.1/".to_owned(),
                peers: vec!["127.0.0.1:80".to_owned()],
                protocol: "HTTP/1.1",
                trust: None,
                requests: vec![RequestKind { method: "GET".to_owned(), path: "/".to_owned(), weight: 1 }],
                expected_status: None,
                pacing: Pacing::constant(100.0),
                duration: Duration::from_secs(1),
                connections: 64,
                connection_use: ConnectionUse::KeepAlive,
                timeout: Duration::from_secs(5),
                cookies: false,
                precision: Precision::Balanced,
                receive_clock: ReceiveClock::Kernel,
                realtime: false,
                cores: vec![],
            },
            measured,
            thresholds: thresholds.to_vec(),
            search: None,
            interrupted: false,
        }
    }

    #[test]
    fn thresholds_decide() {
        let none_failed = threshold(LoadFigure::Failed, Bound::AtMost, 0.0);
        assert_eq!(report(100, 0, &[]).verdict(), None);
        assert_eq!(report(100, 0, &[p99_below(0.02), none_failed]).verdict(), Some(Verdict::Pass));
        assert_eq!(report(100, 0, &[p99_below(0.005), none_failed]).verdict(), Some(Verdict::Fail));
        assert_eq!(report(100, 1, &[p99_below(0.02), none_failed]).verdict(), Some(Verdict::Fail));
        let few_failed = threshold(LoadFigure::FailedShare, Bound::Below, 0.02);
        assert_eq!(report(100, 1, &[p99_below(0.02), few_failed]).verdict(), Some(Verdict::Pass));
        let fast = threshold(LoadFigure::Throughput, Bound::AtLeast, 100.0);
        assert_eq!(report(100, 0, &[fast]).verdict(), Some(Verdict::Pass));
        assert_eq!(report(99, 0, &[fast]).verdict(), Some(Verdict::Fail));
    }

    #[test]
    fn what_was_not_measured_never_passes() {
        let figures = [
            LoadFigure::Latency(LatencyFigure::Max),
            LoadFigure::Failed,
            LoadFigure::FailedShare,
            LoadFigure::LongestGap,
            LoadFigure::Throughput,
        ];
        for figure in figures {
            let nothing = report(0, 0, &[threshold(figure, Bound::AtMost, 1e9)]);
            assert_eq!(nothing.verdict(), Some(Verdict::Inconclusive), "{figure:?}");
            assert_eq!(nothing.doubts(), [Doubt::NotMeasured], "{figure:?}");
        }
        let only_failures = report(0, 5, &[p99_below(1.0)]);
        assert_eq!(only_failures.verdict(), Some(Verdict::Inconclusive));
    }

    #[test]
    fn answers_alone_do_not_pass_for_those_that_failed() {
        let some_failed = report(100, 5, &[p99_below(0.02)]);
        assert_eq!(some_failed.verdict(), Some(Verdict::Inconclusive));
        assert_eq!(some_failed.doubts(), [Doubt::FailuresWithoutLimit(5)]);
        let mut unanswered = report(100, 0, &[p99_below(0.02)]);
        unanswered.measured.lane.counts.offered = 103;
        assert_eq!(unanswered.verdict(), Some(Verdict::Inconclusive));
        assert_eq!(unanswered.doubts(), [Doubt::Unanswered(3)]);
        unanswered.thresholds = vec![p99_below(0.001)];
        assert_eq!(unanswered.verdict(), Some(Verdict::Fail), "what is shown not to hold stays so");
    }

    #[test]
    fn a_disturbed_or_interrupted_load_does_not_pass() {
        let mut disturbed = report(100, 0, &[p99_below(0.02)]);
        disturbed.measured.client.disturbances = vec![Disturbance::Saturated { busy_share: 0.99 }];
        assert_eq!(disturbed.verdict(), Some(Verdict::Invalid));
        disturbed.thresholds = vec![p99_below(0.001)];
        assert_eq!(disturbed.verdict(), Some(Verdict::Invalid), "nor does it fail");
        disturbed.measured.client.disturbances = vec![Disturbance::BacklogFull { given_up: 9 }];
        assert_eq!(disturbed.verdict(), Some(Verdict::Fail), "a full backlog is the service's own");
        let mut interrupted = report(100, 0, &[p99_below(0.02)]);
        interrupted.interrupted = true;
        assert_eq!(interrupted.verdict(), Some(Verdict::Inconclusive));
    }

    #[test]
    fn a_window_holds_all_or_lacks_something() {
        let limits =
            SustainLimits { p99: Duration::from_millis(20), failed_share: 0.0, achieved_share: 0.99 };
        let good = RateWindow {
            rate: 100.0,
            p99: Some(Duration::from_millis(19)),
            achieved_share: Some(0.99),
            failed_share: Some(0.0),
            disturbed: false,
        };
        assert_eq!(limits.shortfall(&good), None);
        let table = [
            (RateWindow { p99: Some(Duration::from_millis(20)), ..good }, Shortfall::Latency),
            (RateWindow { p99: None, ..good }, Shortfall::Latency),
            (RateWindow { achieved_share: Some(0.98), ..good }, Shortfall::Achieved),
            (RateWindow { achieved_share: Some(f64::NAN), ..good }, Shortfall::Achieved),
            (RateWindow { achieved_share: None, ..good }, Shortfall::Achieved),
            (RateWindow { failed_share: Some(0.001), ..good }, Shortfall::Failed),
            (RateWindow { failed_share: None, ..good }, Shortfall::Failed),
        ];
        for (window, shortfall) in table {
            assert_eq!(limits.shortfall(&window), Some(shortfall), "{window:?}");
        }
    }
}
