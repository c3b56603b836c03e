//! `qbench collect`.

use super::{CliError, ExitCode, Folders, Format, append, measure, tell};
use crate::{
    model::target::{RuntimeKind, Target},
    report,
    session::{self, Plan, SessionError},
    store,
};

/// Measure a target and store its record as a baseline
///
/// The control, the same processes started directly, runs in the same interleaved epochs, so that records of
/// different days can be compared. Where PM2 is not installed, the built-in supervisor stands in, and every output
/// says so.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// docker, pm2, builtin, bare, or a target of the configuration
    target: String,
    #[command(flatten)]
    workload: measure::WorkloadArgs,
    #[command(flatten)]
    load: measure::LoadArgs,
    /// Add the session to the baseline in force, the accepted one, else the newest, instead of beginning a new one:
    /// several sessions show how much they vary, and decide more
    #[arg(long)]
    append: bool,
    #[command(flatten)]
    folders: Folders,
    /// How the record is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let prepared = measure::prepare(&args.workload, Some(&args.load)).await?;
    let context = prepared.context;
    let target = measure::target(&prepared.config, &args.target)?;
    let (id, started_at) = measure::new_session();
    let control = Target::of(RuntimeKind::Bare);
    let mut plan = Plan::collect(id, started_at, args.load.seed(), &target, &control, &context.load);
    if args.append {
        plan.appended_to = Some(append::group(&args.folders.baselines, &args.target, &context)?);
    }
    let mut stdout = std::io::stdout().lock();
    if args.load.dry_run {
        std::io::Write::write_all(&mut stdout, plan.describe(&context.load).as_bytes())?;
        return Ok(ExitCode::Pass);
    }
    let path = store::path_of(&args.folders.baselines, &args.target, &context.workload.name, &plan.id);
    let ended =
        session::run_epochs(&context, &plan, &mut |_, record| Ok(store::save(&path, record)?), &mut |_| None)
            .await;
    if path.exists() {
        tell(&format!("saved {}", path.display()));
    }
    let records = match ended {
        Err(SessionError::Interrupted) if path.exists() => vec![store::load(&path)?],
        ended => ended?,
    };
    for record in &records {
        append::tell_if_outdated(&args.folders.baselines, record);
        match args.format {
            Format::Table => report::table::record(record, &mut stdout)?,
            Format::Json => report::json::record(record, &mut stdout)?,
            Format::Md => report::markdown::record(record, &mut stdout)?,
        }
    }
    let complete = records.iter().all(|record| record.session.is_complete());
    Ok(if complete { ExitCode::Pass } else { ExitCode::Interrupted })
}
