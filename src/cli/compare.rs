//! `qbench compare`.

use std::path::{Path, PathBuf};

use super::{CliError, ExitCode, Folders, Format, baseline, calibrate, measure, tell};
use crate::{
    config::Config,
    judge::{self, Question},
    model::{difference::changed_files, record::Record, settings::Thresholds, verdict::Comparison},
    report,
    store::{self, Group},
};

/// Compare stored records, and give a verdict as exit code
///
/// Of a target, all complete sessions of a baseline count: as the baseline the one that was accepted with
/// `qbench baseline accept`, else the newest; as the candidate the newest.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A target, for its baseline in force, or a record's file
    baseline: String,
    /// A target, for its newest sessions, or a record's file
    candidate: String,
    /// The description of the workload: its name selects the records, its thresholds decide; without one, the
    /// newest records and the candidate's own thresholds
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Compare records of different machines all the same; the answer is advisory
    #[arg(long)]
    across_hosts: bool,
    #[command(flatten)]
    folders: Folders,
    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let config = measure::configuration(args.config.as_deref())?;
    let workload = config.as_ref().map(|config| config.workload.name.as_str());
    let folder = &args.folders.baselines;
    let baseline = side(folder, &args.baseline, workload, Part::Baseline)?;
    let candidate = side(folder, &args.candidate, workload, Part::Candidate)?;
    if let Some(config) = &config {
        tell_changed_files(&baseline, config);
    }
    // The newest, since limits may have been changed on purpose.
    let own = &candidate[candidate.len() - 1].thresholds;
    let thresholds: &Thresholds = config.as_ref().map_or(own, |config| &config.thresholds);
    let calibrations =
        [calibrate::fitting(folder, &baseline[0])?, calibrate::fitting(folder, &candidate[0])?];
    let question = Question {
        baseline: &baseline,
        candidate: &candidate,
        thresholds,
        across_hosts: args.across_hosts,
        calibrations: [calibrations[0].as_ref(), calibrations[1].as_ref()],
    };
    let comparison = judge::compare(&question);
    print(&comparison, args.format)?;
    Ok(comparison.verdict.into())
}

/// Prints a comparison in the format asked for.
pub(super) fn print(comparison: &Comparison, format: Format) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match format {
        Format::Table => report::table::comparison(comparison, &mut stdout, super::wants_colour())?,
        Format::Json => report::json::comparison(comparison, &mut stdout)?,
        Format::Md => report::markdown::comparison(comparison, &mut stdout)?,
    }
    Ok(())
}

/// Which side of a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Baseline,
    Candidate,
}

/// The records of a side; never none.
fn side(folder: &Path, name: &str, workload: Option<&str>, part: Part) -> Result<Vec<Record>, CliError> {
    let is_file = Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if is_file {
        let record = store::load(Path::new(name))?;
        if !record.session.is_complete() {
            tell(&format!("warning: {name} was interrupted after {} epochs", record.epochs.len()));
        }
        return Ok(vec![record]);
    }
    let found = baseline::read(folder, name, workload)?;
    baseline::tell_unreadable(&found);
    let group = match part {
        Part::Baseline => found.in_force()?,
        Part::Candidate => found.newest()?,
    };
    baseline::tell_left_out(&group);
    let accepted = part == Part::Baseline && baseline::is_accepted(&group, folder)?;
    tell_age(&group, part, accepted);
    Ok(group.records())
}

fn tell_age(group: &Group, part: Part, accepted: bool) {
    let first = group.first();
    let part = match part {
        Part::Baseline => "baseline",
        Part::Candidate => "candidate",
    };
    let accepted = if accepted { ", accepted" } else { "" };
    let sessions = match group.counted().len() {
        1 => "1 session".to_owned(),
        sessions => format!("{sessions} sessions"),
    };
    tell(&format!(
        "{part}: {} of {} ({}), {sessions}{accepted}, age: {}",
        group.id,
        first.target.target,
        first.session.started_at,
        report::baseline::age(measure::age_s(&first.session.started_at))
    ));
}

/// A baseline of another workload than today's still compares with a candidate of the same day; whoever reads the
/// verdict should know that it is not about today's files.
fn tell_changed_files(baseline: &[Record], config: &Config) {
    let first = &baseline[0];
    let changed = changed_files(&first.workload.files, &config.workload.digests);
    if first.workload.name == config.workload.name && !changed.is_empty() {
        tell(&format!(
            "warning: the baseline is not of today's workload; changed since: {}",
            changed.join(", ")
        ));
    }
}
