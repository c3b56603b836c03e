//! `qbench init`.

use std::path::PathBuf;

use super::{CliError, ExitCode, measure::own_executable, tell};
use crate::{config, store};

/// Write a qbench.toml for the workload in a folder, from its ecosystem file or compose file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The workload's folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Replace a qbench.toml that is there
    #[arg(long)]
    force: bool,
    /// Print it instead of writing it
    #[arg(long)]
    stdout: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let proposal = config::init::propose(&args.folder)?;
    if args.stdout {
        std::io::Write::write_all(&mut std::io::stdout().lock(), proposal.text.as_bytes())?;
        return Ok(ExitCode::Pass);
    }
    let path = args.folder.join("qbench.toml");
    if path.exists() && !args.force {
        return Err(CliError::usage(
            format!("{} is there already", path.display()),
            "replace it with --force, or look at the proposal with --stdout",
        ));
    }
    store::write_atomically(&path, proposal.text.as_bytes())?;
    for found in &proposal.found {
        tell(&format!("found {found}"));
    }
    tell(&format!("wrote {}", path.display()));
    // What was just written may still need a hand: say so now, with the line, rather than at the first run.
    if let Err(error) = config::load(&path, &own_executable()?) {
        tell(&format!("it needs your hand before the first run:\n{error}"));
    }
    Ok(ExitCode::Pass)
}
