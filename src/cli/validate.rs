//! `qbench validate`: the main job.

use std::{path::Path, time::Duration};

use super::{CliError, ExitCode, Folders, Format, compare, measure, tell};
use crate::{
    judge::{self, Question, Steering},
    model::{
        record::{Design, Record},
        settings::{
            LEAST_SOAK_WINDOWS, LoadSettings, MOST_EPOCHS, MOST_SOAK_WINDOWS, SOAK_WINDOW, SoakSettings,
        },
        verdict::Comparison,
    },
    report,
    session::{self, Plan, SessionError},
    store,
};

/// Run baseline and candidate in one interleaved session, compare them, and give a verdict as exit code
///
/// Both run twice in every epoch, so that the noise of the machine is seen. The session ends as soon as
/// the data decide, and after 40 epochs at the latest. Where PM2 is not installed, the built-in supervisor stands
/// in, and every output says so.
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
    /// End within this time, decided or not, instead of after a number of epochs: 10m, 1h
    #[arg(long, value_name = "TIME", value_parser = measure::long_duration, conflicts_with = "epochs")]
    budget: Option<Duration>,
    /// After the last epoch, keep all arms under the same load for this long and see whether their memory grows: 30m
    #[arg(long, value_name = "TIME", value_parser = measure::long_duration)]
    soak: Option<Duration>,
    /// The length of a window of the soak, of which the least memory counts (150s); six windows are needed
    #[arg(long, value_name = "TIME", value_parser = measure::duration, requires = "soak")]
    soak_window: Option<Duration>,
    #[command(flatten)]
    folders: Folders,
    /// How the comparison is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let prepared = measure::prepare(&args.workload, Some(&args.load)).await?;
    let mut context = prepared.context;
    context.load.soak = args
        .soak
        .map(|length| soak(length, args.soak_window.unwrap_or(SOAK_WINDOW), &context.load))
        .transpose()?;
    let baseline = measure::target(&prepared.config, &args.baseline)?;
    let candidate = measure::target(&prepared.config, &args.candidate)?;
    let (id, started_at) = measure::new_session();
    let design = design(&context.load, args.budget)?;
    let arms = (&baseline, &candidate);
    let plan = Plan::validate(id, started_at, args.load.seed(), arms, &context.load, design);
    if args.load.dry_run {
        std::io::Write::write_all(&mut std::io::stdout().lock(), plan.describe(&context.load).as_bytes())?;
        return Ok(ExitCode::Pass);
    }
    if context.load.soak.is_some_and(|soak| soak.length < LONG_ENOUGH) {
        tell(
            "note: in its first minutes a service's memory grows as it warms up; half an hour tells growth from that",
        );
    }
    if let Design::Sequential { cap, .. } = design
        && cap < CAN_FAIL
    {
        tell(&format!(
            "note: {cap} epochs may show a PASS, and are too few to show a FAIL of one of four metrics"
        ));
    }
    let folder = args.folders.reports.join(&plan.id);
    let mut latest: [Option<Record>; 2] = [None, None];
    let ended = session::run_epochs(
        &context,
        &plan,
        &mut |side, record| {
            let name = format!("{}-{}.json", ["baseline", "candidate"][side], record.target.target);
            store::save(&folder.join(name), record)?;
            latest[side] = Some(record.clone());
            Ok(())
        },
        &mut |records| match records {
            [baseline, candidate] => match judge::steer(baseline, candidate, &context.thresholds) {
                Steering::GoOn => None,
                Steering::Stop(ended) => Some(ended),
            },
            _ => None,
        },
    )
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
    let comparison = judge::compare(&Question::of(&baseline, &candidate, &context.thresholds));
    compare::print(&comparison, args.format)?;
    write_reports(&folder, &comparison)?;
    tell(&format!("records and report: {}", folder.display()));
    Ok(if interrupted { ExitCode::Interrupted } else { comparison.verdict.into() })
}

fn soak(length: Duration, window: Duration, load: &LoadSettings) -> Result<SoakSettings, CliError> {
    let soak = SoakSettings { length, window };
    if soak.windows() > MOST_SOAK_WINDOWS {
        return Err(CliError::usage(
            format!(
                "a soak of {length:?} has {} windows of {window:?}; at most {MOST_SOAK_WINDOWS} are judged",
                soak.windows()
            ),
            format!("give at least --soak-window {:?}", length / MOST_SOAK_WINDOWS),
        ));
    }
    if soak.windows() < LEAST_SOAK_WINDOWS {
        return Err(CliError::usage(
            format!(
                "a soak of {length:?} has {} whole windows of {window:?}; {LEAST_SOAK_WINDOWS} are needed",
                soak.windows()
            ),
            format!("give at least --soak {:?}, or a shorter --soak-window", window * LEAST_SOAK_WINDOWS),
        ));
    }
    let round = load.slot * ARMS as u32;
    if window < round {
        return Err(CliError::usage(
            "the window of the soak has no room for a slot of each arm",
            format!("make --soak-window at least {round:?}"),
        ));
    }
    Ok(soak)
}

/// A soak that is over before caches and compilers have had their fill measures these.
const LONG_ENOUGH: Duration = Duration::from_secs(30 * 60);
/// With fewer epochs no signed-rank test reaches a quarter of a hundredth: 2⁻⁹ does.
const CAN_FAIL: u32 = 9;
/// Both sides twice.
const ARMS: usize = 4;

/// The cap is fixed before the session begins: what each look may spend follows from it. A budget is turned into
/// the epochs that it has room for by the plan's own estimate.
fn design(load: &LoadSettings, budget: Option<Duration>) -> Result<Design, CliError> {
    const MOST: u32 = 200;
    let Some(budget) = budget else {
        return Ok(Design::Sequential { cap: load.epochs.unwrap_or(MOST_EPOCHS), budget_s: None });
    };
    let epoch = session::estimate_epoch(load, ARMS);
    // The soak is within the budget, too: the epochs have what it leaves.
    let soak = load.soak.map_or(Duration::ZERO, |soak| soak.length);
    let for_soak = if soak.is_zero() { String::new() } else { format!(" beside the soak of {soak:?}") };
    let budget = budget.saturating_sub(soak);
    let room = (budget.as_secs_f64() / epoch.as_secs_f64()).floor() as u32;
    if (room as usize) < judge::LEAST_EPOCHS {
        return Err(CliError::usage(
            format!(
                "a budget of {:?} has room for {room} epochs of about {epoch:?}{for_soak}; {} are needed",
                budget + soak,
                judge::LEAST_EPOCHS
            ),
            format!("give at least {:?}, or a shorter --window", soak + epoch * judge::LEAST_EPOCHS as u32),
        ));
    }
    Ok(Design::Sequential { cap: room.min(MOST), budget_s: Some(budget.as_secs_f64()) })
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
