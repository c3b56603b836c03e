//! `qbench validate`: the main job.

use std::path::Path;

use super::{CliError, ExitCode, Folders, Format, compare, measure, tell};
use crate::{
    judge,
    model::{record::Record, verdict::Comparison},
    report,
    session::{self, Plan, SessionError},
    store,
};

/// Run baseline and candidate in one interleaved session, compare them, and give a verdict as exit code
///
/// The baseline runs twice in every epoch, so that the noise of the machine is seen. Where PM2 is not installed, the
/// built-in supervisor stands in, and every output says so.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// docker, pm2, builtin, bare, or a target of the configuration
    #[arg(default_value = "docker")]
    baseline: String,
    /// Likewise
    #[arg(default_value = "pm2")]
    candidate: String,
    #[command(flatten)]
    workload: measure::WorkloadArgs,
    #[command(flatten)]
    load: measure::LoadArgs,
    #[command(flatten)]
    folders: Folders,
    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let prepared = measure::prepare(&args.workload, Some(&args.load)).await?;
    let context = prepared.context;
    let baseline = measure::target(&prepared.config, &args.baseline)?;
    let candidate = measure::target(&prepared.config, &args.candidate)?;
    let (id, started_at) = measure::new_session();
    let plan = Plan::validate(id, started_at, args.load.seed(), &baseline, &candidate, &context.load);
    if args.load.dry_run {
        std::io::Write::write_all(&mut std::io::stdout().lock(), plan.describe(&context.load).as_bytes())?;
        return Ok(ExitCode::Pass);
    }
    let folder = args.folders.reports.join(&plan.id);
    let mut latest: [Option<Record>; 2] = [None, None];
    let ended = session::run_epochs(&context, &plan, &mut |side, record| {
        let name = format!("{}-{}.json", ["baseline", "candidate"][side], record.target.target);
        store::save(&folder.join(name), record)?;
        latest[side] = Some(record.clone());
        Ok(())
    })
    .await;
    let interrupted = matches!(ended, Err(SessionError::Interrupted));
    if let Err(error) = ended
        && !(interrupted && latest.iter().all(Option::is_some))
    {
        return Err(error.into());
    }
    let [Some(baseline), Some(candidate)] = latest else {
        return Err(SessionError::Interrupted.into());
    };
    let comparison = judge::compare(&baseline, &candidate, &context.thresholds, false);
    compare::print(&comparison, args.format)?;
    write_reports(&folder, &comparison)?;
    tell(&format!("records and report: {}", folder.display()));
    Ok(if interrupted { ExitCode::Interrupted } else { comparison.verdict.into() })
}

fn write_reports(folder: &Path, comparison: &Comparison) -> Result<(), CliError> {
    let mut markdown = Vec::new();
    report::markdown::comparison(comparison, &mut markdown)?;
    store::write_atomically(&folder.join("comparison.md"), &markdown)?;
    let mut json = Vec::new();
    report::json::comparison(comparison, &mut json)?;
    store::write_atomically(&folder.join("comparison.json"), &json)?;
    Ok(())
}
