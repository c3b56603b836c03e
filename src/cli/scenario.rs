//! `qbench scenario`.

use std::{io::Write as _, path::PathBuf};

use super::{CliError, ExitCode};
use crate::config;

/// List, show or check scenarios
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the shipped scenarios
    List,
    /// Print the file of a shipped scenario, as a start for one of your own
    Show {
        /// Its name
        name: String,
    },
    /// Check every scenario file of a folder
    Check {
        /// The folder
        folder: PathBuf,
    },
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let mut stdout = std::io::stdout().lock();
    match &args.command {
        Command::List => {
            for scenario in config::scenario::shipped() {
                writeln!(stdout, "{:<24} {}", scenario.name, scenario.title)?;
            }
        }
        Command::Show { name } => {
            let text = config::scenario::shipped_text(name).ok_or_else(|| {
                CliError::usage(format!("unknown scenario `{name}`"), "see `qbench scenario list`")
            })?;
            stdout.write_all(text.as_bytes())?;
        }
        Command::Check { folder } => {
            let scenarios = config::scenario::load_dir(folder)?;
            writeln!(stdout, "{} scenarios are well-formed", scenarios.len())?;
        }
    }
    Ok(ExitCode::Pass)
}
