//! Shares in words: how much slower, more or later, with the interval and the limit.

use super::{Sides, counted};
use crate::{
    model::verdict::{Basis, Metric, SpreadSource, Verdict},
    report::words,
};

/// A larger percentage than this says nothing that it would not say as well.
const MOST_PERCENT: f64 = 1e6;

/// A relative change with its interval, so turned that more of it is worse, as the evidence has it.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) metric: Metric,
    pub(super) estimate: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) confidence: f64,
    pub(super) n: (u32, u32),
    pub(super) limit: f64,
    pub(super) certified: Option<f64>,
    pub(super) epochs_needed: Option<u32>,
    pub(super) basis: &'a Basis,
    pub(super) verdict: Verdict,
    /// Why what was found is not enough, where that is known.
    pub(super) note: Option<&'a str>,
}

impl Change<'_> {
    /// The change and what it means, up to the verdict.
    pub(super) fn finding(&self, sides: &Sides) -> String {
        let wording = Wording::of(self.metric);
        if [self.estimate, self.low, self.high].iter().any(|share| !share.is_finite()) {
            return format!(
                "About {} nothing can be said, since its change is no usable number",
                noun(self.metric)
            );
        }
        // Where more is better the evidence holds how much less there is.
        let turned = self.metric.more_is_better();
        let [estimate, low, high] = if turned {
            [-self.estimate, -self.high, -self.low]
        } else {
            [self.estimate, self.low, self.high]
        };
        let aside = format!(
            "({} interval {}, {})",
            sure(self.confidence),
            interval(low, high, &wording),
            self.measured()
        );
        let told = if low <= 0.0 && high >= 0.0 {
            let (baseline, candidate) = (&sides.baseline.name, &sides.candidate.name);
            format!("No difference could be told between {candidate} and {baseline} in {}", noun(self.metric))
        } else {
            difference(self.metric, estimate, sides, &wording)
        };
        format!("{told} {aside}{}", self.against_limit(&wording))
    }

    /// Sentences after the verdict: what is certified, what would decide, what the interval rests on.
    pub(super) fn remarks(&self, sides: &Sides) -> Vec<String> {
        let mut told = Vec::new();
        if self.verdict == Verdict::Inconclusive {
            told.push(self.decider());
        }
        told.extend(self.certified());
        if let Basis::Stored { sessions, spread, spread_from } = self.basis {
            let from = match spread_from {
                SpreadSource::Sessions => "is estimated from these sessions",
                SpreadSource::Calibration => "was measured by calibration",
                SpreadSource::Assumed => "is assumed, for want of more sessions or a calibration",
            };
            told.push(format!(
                "The interval rests on {} of {} and {} of {}; the spread between sessions, {}, {from}.",
                counted(sessions.0, "session"),
                sides.baseline.name,
                words::count(sessions.1.into()),
                sides.candidate.name,
                percent(*spread)
            ));
        }
        told
    }

    fn measured(&self) -> String {
        match self.basis {
            Basis::Sequential { .. } => counted(self.n.0, "epoch"),
            Basis::Stored { .. } => {
                format!("{} against {}", counted(self.n.1, "epoch"), words::count(self.n.0.into()))
            }
            Basis::Soak { windows, seconds } => {
                format!("{} in {}", counted(*windows, "window"), words::seconds(*seconds))
            }
        }
    }

    fn against_limit(&self, wording: &Wording) -> String {
        let worse = if self.metric.more_is_better() { " less" } else { "" };
        let limit = format!("{}{}{worse}", percent(self.limit), wording.unit);
        match self.verdict {
            Verdict::Fail => format!(", beyond the limit of {limit}"),
            Verdict::Inconclusive if self.high < self.limit => {
                format!(", within the limit of {limit}, yet that is not enough for a PASS")
            }
            Verdict::Inconclusive if self.low > self.limit => {
                format!(", beyond the limit of {limit}, yet not surely enough for a FAIL")
            }
            Verdict::Inconclusive => format!("; the limit of {limit} lies within the interval"),
            Verdict::Pass | Verdict::Invalid | Verdict::Incomparable => format!("; the limit is {limit}"),
        }
    }

    fn decider(&self) -> String {
        if let Some(note) = self.note {
            return format!("The reason: {note}.");
        }
        match (self.basis, self.epochs_needed) {
            (Basis::Sequential { .. }, Some(needed)) => format!(
                "If the change is what it seems to be, about {} would decide it.",
                counted(needed, "epoch")
            ),
            (Basis::Sequential { .. }, None) => {
                "How many epochs would decide it cannot be told from these.".to_owned()
            }
            (Basis::Stored { .. }, _) => {
                "More sessions of each side, or one session of both, would decide it.".to_owned()
            }
            (Basis::Soak { .. }, _) => "A longer soak would decide it.".to_owned(),
        }
    }

    /// The smallest limit that would be passed, rounded up so that it stays true.
    fn certified(&self) -> Option<String> {
        let bound = self.certified.filter(|bound| bound.is_finite())?;
        let holds = match self.verdict {
            Verdict::Pass => true,
            // What kept it from passing this limit would keep it from passing any other.
            Verdict::Inconclusive => self.note.is_none() && bound >= self.limit,
            Verdict::Fail | Verdict::Invalid | Verdict::Incomparable => false,
        };
        let up = (bound * 1000.0).ceil() / 1000.0;
        // No metric can have the whole of itself less, so that no limit is left to pass.
        let is_limit = up * 100.0 < MOST_PERCENT && !(self.metric.more_is_better() && up >= 1.0);
        (holds && is_limit).then(|| {
            if up <= 0.0 {
                "It would pass any limit, even one of 0%.".to_owned()
            } else {
                format!("It would pass any limit from {}{} up.", percent(up), Wording::of(self.metric).unit)
            }
        })
    }
}

/// The words of a metric's change.
struct Wording {
    /// Of one and of several.
    verb: (&'static str, &'static str),
    less: &'static str,
    more: &'static str,
    /// Of what there is less or more.
    of: &'static str,
    place: &'static str,
    /// Follows a percentage.
    unit: &'static str,
}

impl Wording {
    fn of(metric: Metric) -> Self {
        let time = |verb, place| Self { verb, less: "faster", more: "slower", of: "", place, unit: "" };
        let amount = |verb, of, place| Self { verb, less: "less", more: "more", of, place, unit: "" };
        let answers = ("answers", "answer");
        match metric {
            Metric::P50 => time(answers, " at the median"),
            Metric::Mean => time(answers, " on the average"),
            Metric::P95 => time(answers, " where the slowest 5% of answers begin"),
            Metric::P99 => time(answers, " where the slowest 1% of answers begin"),
            Metric::MaxLatency => time(answers, " at the worst"),
            Metric::Errors => amount(("loses", "lose"), " requests", ""),
            Metric::Memory => amount(("uses", "use"), " memory", ""),
            Metric::CpuPerRequest => amount(("takes", "take"), " CPU time per request", ""),
            Metric::StartTime => {
                Self { less: "sooner", more: "later", ..time(("is ready", "are ready"), " after a start") }
            }
            Metric::ReloadTime => time(("reloads", "reload"), ""),
            Metric::RestartTime => time(("restarts", "restart"), ""),
            Metric::Throughput => amount(("carries", "carry"), " load", " at saturation"),
            Metric::MemoryGrowth => Self { unit: " an hour", ..amount(("grows", "grows"), "", "") },
        }
    }
}

/// What a metric measures.
pub(super) fn noun(metric: Metric) -> &'static str {
    match metric {
        Metric::P50 => "the answer time at the median",
        Metric::Mean => "the answer time on the average",
        Metric::P95 => "the answer time where the slowest 5% begin",
        Metric::P99 => "the answer time where the slowest 1% begin",
        Metric::MaxLatency => "the slowest answer",
        Metric::Errors => "failed requests",
        Metric::Memory => "the memory used",
        Metric::CpuPerRequest => "the CPU time per request",
        Metric::StartTime => "the time until all is ready",
        Metric::ReloadTime => "the time of a reload",
        Metric::RestartTime => "the time of a restart",
        Metric::Throughput => "the load carried at saturation",
        Metric::MemoryGrowth => "the growth of memory",
    }
}

fn difference(metric: Metric, estimate: f64, sides: &Sides, wording: &Wording) -> String {
    let Wording { verb, less, more, of, place, unit } = wording;
    let (subject, object) = if metric == Metric::MemoryGrowth {
        (format!("{} memory", sides.candidate.possessive()), sides.baseline.possessive())
    } else {
        (sides.candidate.name.clone(), sides.baseline.name.clone())
    };
    let verb = if sides.candidate.is_plural { verb.1 } else { verb.0 };
    let direction = if estimate < 0.0 { less } else { more };
    let much = if estimate.abs() * 100.0 < 0.05 { "less than 0.1%".to_owned() } else { exact(estimate) };
    format!("{subject} {verb} {much}{unit} {direction}{of} than {object}{place}")
}

/// From the end nearer to no change to the farther one; from better to worse where no change lies between.
fn interval(low: f64, high: f64, wording: &Wording) -> String {
    let side = |share: f64| match exact(share) {
        nothing if nothing == "0.0%" => "no change".to_owned(),
        much => format!("{much} {}", if share < 0.0 { wording.less } else { wording.more }),
    };
    if low > 0.0 {
        format!("{} to {}", exact(low), exact(high))
    } else if high < 0.0 {
        format!("{} to {}", exact(high), exact(low))
    } else if exact(low) == "0.0%" && exact(high) == "0.0%" {
        "less than 0.1% either way".to_owned()
    } else {
        format!("{} to {}", side(low), side(high))
    }
}

/// A confidence of at least this.
pub(super) fn sure(confidence: f64) -> String {
    // A little more than the last digit of 0.95 may lack.
    let percent = (confidence * 100.0 + 1e-9).floor();
    if percent.is_finite() { format!("{percent}%") } else { words::NOTHING.to_owned() }
}

/// The size of a share as a percentage of one decimal, without its sign.
fn exact(share: f64) -> String {
    let percent = share.abs() * 100.0;
    if percent.is_nan() {
        words::NOTHING.to_owned()
    } else if percent >= MOST_PERCENT {
        format!("more than {}%", words::count(MOST_PERCENT as u64))
    } else if percent >= 1000.0 {
        format!("{}%", words::count(percent.round() as u64))
    } else {
        format!("{percent:.1}%")
    }
}

/// Like [`exact`], and a whole percentage is written as one.
fn percent(share: f64) -> String {
    exact(share).replace(".0%", "%")
}
