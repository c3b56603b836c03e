//! `qbench baseline show`.

use std::collections::BTreeMap;

use super::{CliError, ExitCode, Format, Place, listed_alone, measure, print};
use crate::{
    judge::{self, calibrate},
    model::{
        record::{ArmRole, Record},
        verdict::{Metric, Quantity},
    },
    report::{self, baseline::SessionFigures},
    store::Group,
};

/// Show one baseline: what it ran on and under which conditions, its sessions' medians, and how much these vary
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The target
    target: String,
    /// A session of the baseline; the one in force without it: the accepted one, else the newest
    session: Option<String>,
    #[command(flatten)]
    place: Place,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let config = measure::configuration(args.place.config.as_deref())?;
    let session = args.session.as_deref();
    let mut found = args.place.read(&args.target, config.as_ref(), session)?;
    let group = match session {
        Some(session) => found.find(session)?.clone(),
        None => found.in_force()?,
    };
    let listed = listed_alone(&group, &args.place, config.as_ref())?;
    let noise = calibrate::noise(&group.records());
    let page = report::baseline::show(&listed, group.first(), &figures(&group), &noise);
    print(&page, args.format)?;
    Ok(ExitCode::Pass)
}

fn figures(group: &Group) -> Vec<SessionFigures> {
    let counted: Vec<_> = group.counted().iter().map(|stored| stored.path.clone()).collect();
    let of = |record: &Record, counts: bool| SessionFigures {
        id: record.session.id.clone(),
        started_at: record.session.started_at.clone(),
        complete: record.session.is_complete(),
        counts,
        epochs: record.epochs.len(),
        disturbed_epochs: record
            .epochs
            .iter()
            .filter(|epoch| !epoch.conditions.disturbances().is_empty())
            .count(),
        failed: failed(record),
        medians: medians(std::slice::from_ref(record)),
    };
    group.sessions.iter().map(|stored| of(&stored.record, counted.contains(&stored.path))).collect()
}

/// Of every metric that was measured.
pub(super) fn medians(records: &[Record]) -> BTreeMap<Metric, Quantity> {
    let typical = |metric| Some((metric, judge::typical(records, metric)?));
    Metric::ALL.into_iter().filter_map(typical).collect()
}

/// The target's failed requests of all epochs, and how many were completed.
fn failed(record: &Record) -> (u64, u64) {
    let arms = record.epochs.iter().filter_map(|epoch| epoch.arms.get(&ArmRole::Target));
    arms.fold((0, 0), |(failed, completed), arm| {
        (failed.saturating_add(arm.requests.failures()), completed.saturating_add(arm.requests.completed()))
    })
}
