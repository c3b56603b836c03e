//! `qbench calibrate`: how much this machine's figures vary on their own, and what a verdict takes here.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{CliError, ExitCode, Folders, Format, measure, tell};
use crate::{
    judge::calibrate::{self, LEAST_SESSIONS},
    model::{
        calibration::{Calibration, FORMAT_MAJOR, FORMAT_NAME},
        record::{Format as RecordFormat, Record},
        settings::{LoadSettings, MOST_EPOCHS, Thresholds},
        target::{RuntimeIdentity, RuntimeKind, Target},
        units::format_duration,
    },
    report::{self, calibration::CalibrationRow},
    session::{self, Plan},
    store,
};

/// Measure the noise of this machine, and say how long a verdict takes here
///
/// Runs a number of sessions as `collect` does, one after the other, everything restarted between them, and keeps
/// how much a target's change against the control varies from epoch to epoch and from session to session.
/// `compare` then widens its intervals by what was measured here, instead of by what is assumed of any machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is measured against the control: docker, pm2, builtin, or a target of the configuration. `compare` uses
    /// the calibrations of both its targets, and assumes what it does not find
    target: String,
    /// Sessions; the fewer, the wider the bound on what they differ by
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(3..=50))]
    sessions: u32,
    /// Use these records of `collect` instead of measuring
    #[arg(long, num_args = 3.., value_name = "RECORD")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    workload: measure::WorkloadArgs,
    #[command(flatten)]
    load: measure::LoadArgs,
    #[command(flatten)]
    folders: Folders,
    /// How the calibration is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let prepared = measure::prepare(&args.workload, Some(&args.load)).await?;
    let context = prepared.context;
    let (records, epoch) = if args.from.is_empty() {
        let target = measure::target(&prepared.config, &args.target)?;
        match measured(args, &context, &target).await? {
            Some(measured) => measured,
            None => return Ok(ExitCode::Pass),
        }
    } else {
        let records = args.from.iter().map(|path| store::load(path)).collect::<Result<Vec<_>, _>>()?;
        (records, session::estimate_epoch(&context.load, ARMS))
    };
    if let Some(other) = records.iter().find(|record| record.target.target != args.target) {
        return Err(CliError::usage(
            format!("session {} is of target {}, not {}", other.session.id, other.target.target, args.target),
            "give records of the target that is calibrated",
        ));
    }
    let calibration = calibration(&records, epoch)?;
    let path = store::calibration_path(&args.folders.baselines, &args.target, &calibration.workload.name);
    store::save_calibration(&path, &calibration)?;
    tell(&format!("saved {}", path.display()));
    print(&calibration, &context.thresholds, args.format)?;
    Ok(ExitCode::Pass)
}

/// The arms of a session of `validate`.
const ARMS: usize = 4;

/// The records, and how long an epoch of `validate` takes, which has an arm more than one of `collect`.
async fn measured(
    args: &Args,
    context: &session::Context,
    target: &Target,
) -> Result<Option<(Vec<Record>, Duration)>, CliError> {
    let control = Target::of(RuntimeKind::Bare);
    let (mut records, mut epochs, begun) = (Vec::new(), 0, Instant::now());
    for number in 0..args.sessions {
        let (id, started_at) = measure::new_session();
        let seed = args.load.seed().wrapping_add(u64::from(number));
        let plan = Plan::collect(id, started_at, seed, target, &control, &context.load);
        if args.load.dry_run {
            let text = format!("{} sessions like this one:\n{}", args.sessions, plan.describe(&context.load));
            std::io::stdout().lock().write_all(text.as_bytes())?;
            return Ok(None);
        }
        tell(&format!("session {} of {}", number + 1, args.sessions));
        let folder = args.folders.reports.join(&plan.id);
        let file = folder.join(format!("calibration-{}.json", target.name));
        let mut save = |_: usize, record: &Record| Ok(store::save(&file, record)?);
        let measured = session::run_epochs(context, &plan, &mut save, &mut |_| None).await?;
        epochs += measured.iter().map(|record| record.epochs.len()).sum::<usize>();
        records.extend(measured);
    }
    let epoch = begun.elapsed() / u32::try_from(epochs).unwrap_or(u32::MAX).max(1);
    let LoadSettings { window, warmup, .. } = context.load;
    Ok(Some((records, epoch + epoch.saturating_sub(window + warmup) / 3)))
}

fn calibration(records: &[Record], epoch: Duration) -> Result<Calibration, CliError> {
    let first = &records[0];
    let is_other = |record: &&Record| {
        record.workload != first.workload
            || record.load != first.load
            || record.host != first.host
            || record.target != first.target
    };
    let ids: BTreeSet<&str> = records.iter().map(|record| record.session.id.as_str()).collect();
    if ids.len() < records.len() {
        return Err(CliError::usage("a session is there more than once", "give each record once"));
    }
    if let Some(cut) = records.iter().find(|record| !record.session.is_complete()) {
        return Err(CliError::usage(
            format!("session {} was cut short", cut.session.id),
            "give whole sessions only",
        ));
    }
    if let Some(other) = records.iter().find(is_other) {
        return Err(CliError::usage(
            format!(
                "sessions {} and {} differ in target, workload, load or machine",
                first.session.id, other.session.id
            ),
            "calibrate from sessions of one kind",
        ));
    }
    let metrics = calibrate::noise(records);
    if metrics.is_empty() {
        return Err(CliError::Invalid {
            message: format!("no metric has undisturbed epochs in each of {LEAST_SESSIONS} sessions or more"),
            hint: "find out what disturbs the machine (the warnings of the sessions say) and measure again"
                .to_owned(),
        });
    }
    Ok(Calibration {
        format: RecordFormat { name: FORMAT_NAME.to_owned(), major: FORMAT_MAJOR, minor: 0 },
        made_at: measure::now(),
        target: first.target.clone(),
        workload: first.workload.clone(),
        host: first.host.clone(),
        load: first.load.clone(),
        sessions: records.iter().map(|record| record.session.id.clone()).collect(),
        epoch_s: epoch.as_secs_f64(),
        metrics,
    })
}

fn print(calibration: &Calibration, thresholds: &Thresholds, format: Format) -> Result<(), CliError> {
    let rows: Vec<CalibrationRow> = calibration
        .metrics
        .iter()
        .filter_map(|(metric, noise)| {
            let limit = thresholds.of(*metric)?.limit;
            let waiting = calibrate::waiting(*metric, noise.epoch_sd, limit, MOST_EPOCHS);
            Some(CalibrationRow {
                metric: *metric,
                noise: *noise,
                limit,
                median_epochs: waiting.median,
                most_epochs: waiting.nine_of_ten,
            })
        })
        .collect();
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => report::calibration::json(calibration, &rows, &mut out)?,
        Format::Table => report::calibration::table(calibration, &rows, &mut out)?,
        Format::Md => report::calibration::markdown(calibration, &rows, &mut out)?,
    }
    let slowest = rows.iter().filter(|row| thresholds.of(row.metric).is_some_and(|it| it.critical));
    let slowest =
        slowest.map(|row| row.most_epochs).max_by_key(|epochs| epochs.unwrap_or(u32::MAX)).flatten();
    let words = slowest.map_or_else(
        || format!("a verdict on all critical metrics often takes more than {MOST_EPOCHS} epochs here"),
        |epochs| {
            let time = Duration::from_secs_f64(calibration.epoch_s * f64::from(epochs));
            format!(
                "nine of ten sessions of equal targets pass within {epochs} epochs, {} here",
                format_duration(time)
            )
        },
    );
    tell(&words);
    Ok(())
}

/// The calibration of this machine and workload, if there is one that fits the records.
pub(super) fn fitting(folder: &Path, record: &Record) -> Result<Option<Calibration>, CliError> {
    let path = store::calibration_path(folder, &record.target.target, &record.workload.name);
    let Some(calibration) = store::load_calibration(&path)? else { return Ok(None) };
    let runs = |target: &RuntimeIdentity| (target.runtime, target.version.clone(), target.options.clone());
    let fits = calibration.host == record.host
        && runs(&calibration.target) == runs(&record.target)
        && calibration.workload == record.workload
        && calibration.load == record.load;
    if !fits {
        tell(&format!(
            "note: {} is of another machine, runtime, workload or load, and not used",
            path.display()
        ));
    }
    Ok(fits.then_some(calibration))
}
