//! The compose command line: v2 (`docker compose`) where it is installed, else v1 (`docker-compose`).

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::KIND;
use crate::runtime::{
    COMMAND_TIMEOUT, RuntimeError,
    command::{self, CommandLine, Finished},
};

/// Builds and pulls go over the network, and compile.
pub(super) const BUILD_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Which compose there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ComposeCli {
    program: &'static str,
    first_args: &'static [&'static str],
    /// As it reports it.
    pub version: String,
}

/// A project as compose is asked for it: which, in which file, from which folder, with which variables.
#[derive(Clone, Debug)]
pub(super) struct Project {
    /// Which compose.
    pub cli: ComposeCli,
    /// The project's name.
    pub name: String,
    /// The compose file.
    pub file: PathBuf,
    /// The folder commands run in.
    pub cwd: PathBuf,
    /// The variables commands get.
    pub env: BTreeMap<String, String>,
}

impl ComposeCli {
    /// Finds it.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] when neither is installed.
    pub(super) async fn find() -> Result<Self, RuntimeError> {
        const KNOWN: [(&str, &[&str]); 2] = [("docker", &["compose"]), ("docker-compose", &[])];
        for (program, first_args) in KNOWN {
            let mut args: Vec<String> = first_args.iter().map(|arg| (*arg).to_owned()).collect();
            args.extend(["version", "--short"].map(str::to_owned));
            let asked =
                CommandLine { program: program.into(), args, cwd: "/".into(), env: BTreeMap::default() };
            if let Ok(answer) = command::run(&asked, COMMAND_TIMEOUT).await {
                return Ok(Self { program, first_args, version: answer.stdout.trim().to_owned() });
            }
        }
        Err(RuntimeError::Missing {
            runtime: KIND.name(),
            reason: "neither `docker compose` nor `docker-compose` runs".to_owned(),
            hint: "install the compose plugin (docker-compose-plugin), or docker-compose".to_owned(),
        })
    }
}

impl Project {
    /// Runs one of compose's commands.
    ///
    /// # Errors
    /// When it fails, or takes longer than `limit`.
    pub(super) async fn run(&self, args: &[&str], limit: Duration) -> Result<Finished, RuntimeError> {
        command::run(&self.command(args), limit).await
    }

    /// Builds the images, with the classic builder where the client has no other.
    ///
    /// # Errors
    /// When a build fails.
    pub(super) async fn build(&self) -> Result<(), RuntimeError> {
        let Err(failed) = self.run(&["build"], BUILD_TIMEOUT).await else { return Ok(()) };
        let no_buildkit = matches!(
            &failed,
            RuntimeError::Command { output, .. } if output.contains("buildx") || output.contains("BuildKit")
        );
        if !no_buildkit {
            return Err(failed);
        }
        let mut command = self.command(&["build"]);
        command.env.insert("DOCKER_BUILDKIT".to_owned(), "0".to_owned());
        command::run(&command, BUILD_TIMEOUT).await.map(drop)
    }

    fn command(&self, args: &[&str]) -> CommandLine {
        let file = self.file.display().to_string();
        let project = ["-p", self.name.as_str(), "-f", file.as_str()];
        let all = self.cli.first_args.iter().copied().chain(project).chain(args.iter().copied());
        CommandLine {
            program: self.cli.program.into(),
            args: all.map(str::to_owned).collect(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
        }
    }
}
