//! `qbench compare`.

use std::path::{Path, PathBuf};

use super::{CliError, ExitCode, Folders, Format, measure, tell};
use crate::{
    judge::{self, Question},
    model::{record::Record, settings::Thresholds, verdict::Comparison},
    report,
    store::{self, StoreError},
};

/// Compare two stored records, and give a verdict as exit code
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A target, for its newest record, or a record's file
    baseline: String,
    /// Likewise
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
    let baseline = find(&args.folders.baselines, &args.baseline, workload)?;
    let candidate = find(&args.folders.baselines, &args.candidate, workload)?;
    let thresholds: &Thresholds = config.as_ref().map_or(&candidate.thresholds, |config| &config.thresholds);
    let question =
        Question { across_hosts: args.across_hosts, ..Question::of(&baseline, &candidate, thresholds) };
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

fn find(folder: &Path, name: &str, workload: Option<&str>) -> Result<Record, CliError> {
    let is_file = Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let (path, record) = if is_file {
        (PathBuf::from(name), store::load(Path::new(name))?)
    } else {
        match store::latest(folder, name, workload) {
            // A name that no target has is more likely a slip than a baseline not collected yet.
            Err(error @ StoreError::None { .. }) if !folder.exists() => {
                return Err(CliError::usage(
                    error.to_string(),
                    format!("there is no folder {}; name it with --baselines", folder.display()),
                ));
            }
            found => found?,
        }
    };
    if !record.session.is_complete() {
        tell(&format!("warning: {} was interrupted after {} epochs", path.display(), record.epochs.len()));
    }
    Ok(record)
}
