//! `qbench baseline accept`.

use std::io::Write as _;

use super::{CliError, ExitCode, Place, measure, tell, tell_left_out};
use crate::store::Accepted;

/// Choose the baseline that `compare` takes for a target and workload, until another is chosen
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The target
    target: String,
    /// A session of the baseline; the newest with a complete session without it
    session: Option<String>,
    #[command(flatten)]
    place: Place,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let config = measure::configuration(args.place.config.as_deref())?;
    let session = args.session.as_deref();
    let mut found = args.place.read(&args.target, config.as_ref(), session)?;
    let group = match session {
        Some(session) => found.find(session)?,
        None => found.newest_complete()?,
    }
    .clone();
    if !group.has_complete() {
        return Err(CliError::usage(
            format!("no session of baseline {} came to its end, so nothing could pass against it", group.id),
            format!("add one with `qbench collect {} --append`, or choose another", args.target),
        ));
    }
    tell_left_out(&group);
    // What cannot be read is replaced like any other choice.
    let before = found.accepted(&group.workload).ok().flatten();
    let path = Accepted::path(&args.place.baselines, &args.target, &group.workload);
    Accepted::new(group.id.clone(), measure::now()).save(&path)?;
    tell(&format!("saved {}", path.display()));
    let instead = before.filter(|before| before.group != group.id);
    let instead = instead.map(|before| format!(", instead of {}", before.group)).unwrap_or_default();
    let (id, workload) = (&group.id, &group.workload);
    writeln!(
        std::io::stdout().lock(),
        "accepted: {id} is the baseline of {} for workload {workload}{instead}",
        args.target
    )?;
    Ok(ExitCode::Pass)
}
