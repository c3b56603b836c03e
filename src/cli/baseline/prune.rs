//! `qbench baseline prune`.

use std::io::Write as _;

use super::{CliError, ExitCode, Place, measure, read, tell_unreadable};
use crate::store;

/// Remove the oldest baselines of every target and workload
///
/// Never removed: the accepted baseline, the newest one with a complete session, and whatever is no record of the
/// target that this version can read.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only of this target
    target: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Baselines to keep of each target and workload
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keep: u32,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let folder = &args.place.baselines;
    // What lies here by chance must not decide what is removed: only a configuration that was named selects.
    let config = args.place.config.as_deref().map(|path| measure::configuration(Some(path))).transpose()?;
    let workload = config.iter().flatten().map(|config| config.workload.name.as_str()).next();
    let targets = match &args.target {
        Some(target) => vec![target.clone()],
        None => store::targets(folder)?,
    };
    let mut stdout = std::io::stdout().lock();
    let mut removed = 0;
    for target in targets {
        let found = read(folder, &target, workload)?;
        tell_unreadable(&found);
        for stored in found.beyond(args.keep as usize)?.into_iter().flat_map(|group| &group.sessions) {
            if args.dry_run {
                writeln!(stdout, "would remove {}", stored.path.display())?;
            } else {
                stored.remove()?;
                writeln!(stdout, "removed {}", stored.path.display())?;
            }
            removed += 1;
        }
    }
    if removed == 0 {
        writeln!(stdout, "nothing to remove")?;
    }
    Ok(ExitCode::Pass)
}
