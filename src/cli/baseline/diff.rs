//! `qbench baseline diff`.

use super::{CliError, ExitCode, Format, Place, listed_alone, measure, print, show};
use crate::{
    model::{difference, verdict::Metric},
    report,
};

/// Say in what two baselines of a target differ: files, load, machine, runtime, and the medians
///
/// The medians are set side by side and not judged: that is what `compare` does.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The target
    target: String,
    /// A session of the one baseline
    a: String,
    /// A session of the other
    b: String,
    #[command(flatten)]
    place: Place,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let config = measure::configuration(args.place.config.as_deref())?;
    let mut found = args.place.read(&args.target, config.as_ref(), Some(&args.a))?;
    let (from, to) = (found.find(&args.a)?.clone(), found.find(&args.b)?.clone());
    if from.id == to.id && from.workload == to.workload {
        return Err(CliError::usage(
            format!("{} and {} are of the same baseline, {}", args.a, args.b, from.id),
            format!("`qbench baseline show {} {}` shows its sessions side by side", args.target, from.id),
        ));
    }
    let (before, after) = (show::medians(&from.records()), show::medians(&to.records()));
    let medians: Vec<_> = Metric::ALL
        .into_iter()
        .map(|metric| (metric, [before.get(&metric).copied(), after.get(&metric).copied()]))
        .filter(|(_, sides)| sides.iter().any(Option::is_some))
        .collect();
    let from_listed = listed_alone(&from, &args.place, config.as_ref())?;
    let to_listed = listed_alone(&to, &args.place, config.as_ref())?;
    let differences = difference::of_records(from.first(), to.first());
    print(&report::baseline::diff([&from_listed, &to_listed], &differences, &medians), args.format)?;
    Ok(ExitCode::Pass)
}
