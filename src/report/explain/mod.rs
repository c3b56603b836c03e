//! A comparison in sentences, for whoever reads no table.
//!
//! One paragraph for the whole, then one for each metric. Every sentence comes from the figures of the comparison;
//! nothing is said here that they do not say, and an interval that holds zero is never told as a difference.
//!
//! Deliberately absent: wrapping, markup, and advice that is not in the figures.

mod change;
mod metric;
#[cfg(test)]
mod tests;

use super::words;
use crate::model::{
    target::{RuntimeIdentity, RuntimeKind},
    verdict::{Basis, Comparison, EpochCount, Evidence, Grade, MetricVerdict, Verdict},
};

/// The whole in one paragraph, then one for each metric, each on one line.
pub(super) fn paragraphs(comparison: &Comparison) -> Vec<String> {
    let sides = Sides::of(comparison);
    let mut told = vec![whole(comparison, &sides)];
    told.extend(comparison.metrics.iter().map(|verdict| metric::paragraph(verdict, &sides)));
    told.iter().map(|paragraph| words::plain(paragraph)).collect()
}

/// What the two sides are called.
struct Sides {
    baseline: Side,
    candidate: Side,
    /// The name of both, when it is the same.
    both: Option<String>,
}

/// A name in a sentence.
struct Side {
    name: String,
    is_plural: bool,
}

impl Sides {
    fn of(comparison: &Comparison) -> Self {
        let (baseline, candidate) = (Side::of(&comparison.baseline), Side::of(&comparison.candidate));
        if baseline.name != candidate.name {
            return Self { baseline, candidate, both: None };
        }
        let role = |name: &str| Side { name: name.to_owned(), is_plural: false };
        Self { baseline: role("the baseline"), candidate: role("the candidate"), both: Some(baseline.name) }
    }
}

impl Side {
    /// By the runtime that ran, unless the target has a name of its own: a stand-in is never called what it is not.
    fn of(identity: &RuntimeIdentity) -> Self {
        let has_own_name = identity.stands_in_for.is_none() && identity.target != identity.runtime.name();
        if has_own_name {
            return Self { name: identity.target.clone(), is_plural: false };
        }
        let is_plural = identity.runtime == RuntimeKind::Bare;
        Self { name: product(identity.runtime).to_owned(), is_plural }
    }

    fn possessive(&self) -> String {
        format!("{}{}", self.name, if self.is_plural { "'" } else { "'s" })
    }
}

fn product(runtime: RuntimeKind) -> &'static str {
    match runtime {
        RuntimeKind::Bare => "the bare processes",
        RuntimeKind::Builtin => "the built-in supervisor",
        RuntimeKind::Pm2 => "PM2",
        RuntimeKind::Docker => "Docker",
    }
}

fn whole(comparison: &Comparison, sides: &Sides) -> String {
    let mut told = vec![format!("{}: {}.", comparison.verdict, answer(comparison, sides))];
    told.extend(sides.both.iter().map(|both| format!("Both sides are {both}.")));
    told.extend(stand_ins(comparison));
    told.extend(comparison.grade.map(|grade| graded(grade).to_owned()));
    told.extend(epochs(comparison));
    told.extend(decided(comparison));
    told.join(" ")
}

/// What the verdict means, and what it rests on.
fn answer(comparison: &Comparison, sides: &Sides) -> String {
    let (baseline, candidate) = (&sides.baseline.name, &sides.candidate.name);
    let because = because(&comparison.reasons);
    let critical = |wanted: Verdict| -> Vec<&str> {
        let found = comparison.metrics.iter().filter(|metric| metric.critical && metric.verdict == wanted);
        found.map(|metric| metric.metric.title()).collect()
    };
    match comparison.verdict {
        Verdict::Pass => {
            format!("set against {baseline}, {candidate} was shown to keep every limit that decides")
        }
        Verdict::Fail => match critical(Verdict::Fail) {
            // Too much for the candidate's load is a failure of no metric.
            failed if failed.is_empty() => {
                format!("{candidate} does not hold up against {baseline}{because}")
            }
            failed => format!(
                "set against {baseline}, {candidate} was shown to be beyond its limit for {}",
                list(&failed)
            ),
        },
        Verdict::Inconclusive => match critical(Verdict::Inconclusive) {
            open if open.is_empty() => format!(
                "no metric that decides speaks against {candidate}, yet this cannot pass against \
                 {baseline}{because}"
            ),
            open => format!(
                "set against {baseline}, {candidate} was shown neither to keep every limit that decides nor to \
                 break one; still open: {}",
                list(&open)
            ),
        },
        Verdict::Invalid => format!(
            "the measurement of {candidate} against {baseline} cannot be trusted, so no figure of it counts\
             {because}"
        ),
        Verdict::Incomparable => {
            format!("{candidate} and {baseline} must not be set against each other{because}")
        }
    }
}

fn because(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ").trim_end_matches('.')) }
}

/// Who ran in whose place.
fn stand_ins(comparison: &Comparison) -> Vec<String> {
    [("baseline", &comparison.baseline), ("candidate", &comparison.candidate)]
        .into_iter()
        .filter_map(|(side, identity)| {
            let stand_in = identity.stands_in_for.as_ref()?;
            Some(format!(
                "The {side} is {}, standing in for {}: {}.",
                product(identity.runtime),
                product(stand_in.runtime),
                stand_in.reason.trim_end_matches('.')
            ))
        })
        .collect()
}

fn graded(grade: Grade) -> &'static str {
    match grade {
        Grade::Paired => "Both ran in one interleaved session (paired).",
        Grade::Controlled => {
            "The evidence is stored records, each measured against the same control in its own session \
             (controlled)."
        }
        Grade::AcrossHosts => "The machines differ: advisory only.",
    }
}

fn epochs(comparison: &Comparison) -> Option<String> {
    let EpochCount { measured, dropped } = comparison.epochs;
    let were = if measured == 1 { "was" } else { "were" };
    let dropped = match dropped {
        0 => "none dropped".to_owned(),
        dropped => format!("{} of them dropped as disturbed", words::count(dropped.into())),
    };
    (measured > 0).then(|| format!("{} {were} measured, {dropped}.", counted(measured, "epoch")))
}

/// At which look of a session that was looked at several times the answer was there.
fn decided(comparison: &Comparison) -> Option<String> {
    let tests: Vec<(&MetricVerdict, &[u32], Option<u32>)> = comparison
        .metrics
        .iter()
        .filter(|metric| metric.critical)
        .filter_map(|metric| match &metric.evidence {
            Evidence::Change { basis: Basis::Sequential { looks, decided_at }, .. } => {
                Some((metric, looks.as_slice(), *decided_at))
            }
            _ => None,
        })
        .collect();
    let of = |wanted: Verdict| tests.iter().filter(move |(metric, ..)| metric.verdict == wanted);
    match comparison.verdict {
        Verdict::Pass => {
            let last = of(Verdict::Pass).filter_map(|(.., at)| *at).max()?;
            Some(format!("The last metric was decided at the look after {last} undisturbed epochs."))
        }
        Verdict::Fail => {
            let first = of(Verdict::Fail).filter_map(|(.., at)| *at).min()?;
            Some(format!("The first metric to fail did so at the look after {first} undisturbed epochs."))
        }
        Verdict::Inconclusive => {
            let looks =
                of(Verdict::Inconclusive).map(|(_, looks, _)| *looks).max_by_key(|looks| looks.len())?;
            let looks: Vec<String> = looks.iter().map(u32::to_string).collect();
            let which = if looks.len() == 1 { "The look" } else { "Looks" };
            (!looks.is_empty())
                .then(|| format!("{which} after {} undisturbed epochs did not decide it.", list(&looks)))
        }
        Verdict::Invalid | Verdict::Incomparable => None,
    }
}

/// `1 epoch`, `15 epochs`.
fn counted(number: u32, thing: &str) -> String {
    format!("{} {thing}{}", words::count(number.into()), if number == 1 { "" } else { "s" })
}

/// `a`, `a and b`, `a, b and c`.
fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// A sentence that begins with an article begins with a capital; a name stays as it was given.
fn sentence(text: String) -> String {
    match text.strip_prefix("the ") {
        Some(rest) => format!("The {rest}"),
        None => text,
    }
}
