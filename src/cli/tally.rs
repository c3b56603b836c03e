//! Many verdicts counted.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::json;

use super::{CliError, ExitCode, Format};
use crate::{
    model::{
        random::SplitMix,
        record::Ended,
        verdict::{Comparison, Metric, Verdict},
    },
    stats::binomial,
};

/// How often which verdict came out.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    sessions: u64,
    epochs: u64,
    overall: Counts,
    metrics: BTreeMap<Metric, Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    pass: u64,
    fail: u64,
    inconclusive: u64,
    invalid: u64,
}

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Pass => &mut self.pass,
            Verdict::Fail => &mut self.fail,
            Verdict::Inconclusive => &mut self.inconclusive,
            Verdict::Invalid | Verdict::Incomparable => &mut self.invalid,
        } += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.pass += other.pass;
        self.fail += other.fail;
        self.inconclusive += other.inconclusive;
        self.invalid += other.invalid;
    }
}

impl Tally {
    fn add(&mut self, comparison: &Comparison) {
        self.sessions += 1;
        self.epochs += u64::from(comparison.epochs.measured);
        self.overall.add(comparison.verdict);
        for metric in &comparison.metrics {
            self.metrics.entry(metric.metric).or_default().add(metric.verdict);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.epochs += other.epochs;
        self.overall.merge(&other.overall);
        for (metric, counts) in &other.metrics {
            self.metrics.entry(*metric).or_default().merge(counts);
        }
    }
}

/// Plays sessions on all processors. Each has a seed of its own, so that their number decides and not their order.
pub(super) fn of(sessions: u32, seed: u64, play: impl Fn(&mut SplitMix) -> Comparison + Sync) -> Tally {
    let next = AtomicU32::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let session = next.fetch_add(1, Ordering::Relaxed);
            if session >= sessions {
                return tally;
            }
            // Far apart on the generator's own path, which is one step of a fixed size a draw.
            let own = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(u64::from(session) << 32);
            tally.add(&play(&mut SplitMix::new(own)));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut total = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(tally) => total.merge(&tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    })
}

/// Prints how often each verdict came out, with the bounds on its probability.
pub(super) fn print(tally: &Tally, format: Format) -> Result<ExitCode, CliError> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{:#}", as_json(tally))?,
        Format::Table | Format::Md => table(tally, &mut out)?,
    }
    Ok(ExitCode::Pass)
}

fn rows(tally: &Tally) -> Vec<(String, Counts)> {
    let metrics = tally.metrics.iter().map(|(metric, counts)| (metric.title().to_owned(), *counts));
    metrics.chain([("overall".to_owned(), tally.overall)]).collect()
}

fn as_json(tally: &Tally) -> serde_json::Value {
    let counts = |counts: &Counts| {
        json!({
            "pass": counts.pass,
            "fail": counts.fail,
            "inconclusive": counts.inconclusive,
            "invalid": counts.invalid,
        })
    };
    let metrics: serde_json::Map<String, serde_json::Value> = tally
        .metrics
        .iter()
        .map(|(metric, own)| {
            let name = serde_json::to_value(metric).ok().and_then(|name| Some(name.as_str()?.to_owned()));
            (name.unwrap_or_else(|| metric.title().to_owned()), counts(own))
        })
        .collect();
    json!({
        "sessions": tally.sessions,
        "mean_epochs": tally.epochs as f64 / tally.sessions.max(1) as f64,
        "overall": counts(&tally.overall),
        "metrics": metrics,
    })
}

fn table(tally: &Tally, out: &mut dyn std::io::Write) -> Result<(), CliError> {
    let mean = tally.epochs as f64 / tally.sessions.max(1) as f64;
    writeln!(out, "{} sessions, {mean:.1} epochs each on the average", tally.sessions)?;
    writeln!(out)?;
    writeln!(out, "| metric | PASS | FAIL | INCONCLUSIVE | INVALID |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for (name, counts) in rows(tally) {
        let cell = |count: u64| share(count, tally.sessions);
        writeln!(
            out,
            "| {name} | {} | {} | {} | {} |",
            cell(counts.pass),
            cell(counts.fail),
            cell(counts.inconclusive),
            cell(counts.invalid)
        )?;
    }
    Ok(())
}

/// A share with the interval of its probability at 95%.
fn share(count: u64, of: u64) -> String {
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    match binomial::interval(count, of, 0.95) {
        Some((low, high)) => {
            format!("{} [{}, {}]", percent(count as f64 / of as f64), percent(low), percent(high))
        }
        None => "–".to_owned(),
    }
}

/// Why a session ended, in words.
pub(super) fn why(ended: Ended) -> &'static str {
    match ended {
        Ended::AllMeasured => "all its epochs are measured",
        Ended::Decided => "the data decide",
        Ended::Futile => "what is left of its epochs would hardly decide",
        Ended::Budget => "its budget is used up",
        Ended::Untrusted => "it cannot be trusted",
    }
}
