//! `qbench doctor`.

use std::{collections::BTreeMap, io::Write as _, path::Path, sync::Arc};

use super::{CliError, ExitCode, measure};
use crate::{
    model::{
        target::{RuntimeIdentity, RuntimeKind, Target},
        workload::Workload,
    },
    probe,
    runtime::{
        Arm, RuntimeError, cleanup,
        sandbox::{self, SessionSandbox},
    },
    session,
};

/// Say which runtimes are usable here, and what killed runs have left
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Clear what killed runs have left: processes, containers, networks, files
    #[arg(long)]
    clean: bool,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let mut stdout = std::io::stdout().lock();
    let host = probe::host::fingerprint();
    writeln!(
        stdout,
        "host: {} × {}, {} GiB, Linux {}",
        host.cpu_count, host.cpu_model, host.memory_gib, host.kernel
    )?;
    let own_executable = measure::own_executable()?;
    for kind in RuntimeKind::ALL {
        match identify(Target::of(kind), &own_executable).await {
            Ok(identity) => writeln!(stdout, "{}", identity.describe())?,
            Err(error) => {
                writeln!(stdout, "{kind}: {error}")?;
                if let Some(hint) = error.hint() {
                    writeln!(stdout, "  hint: {hint}")?;
                }
            }
        }
    }
    let left: Vec<_> = sandbox::orphans().into_iter().map(|(session, _)| session).collect();
    if args.clean {
        for cleared in cleanup::clear_orphans().await? {
            writeln!(stdout, "cleared: {cleared}")?;
        }
    } else if !left.is_empty() {
        for session in &left {
            writeln!(stdout, "left by a killed run: {}", session.display())?;
        }
        writeln!(stdout, "  hint: clear it with `qbench doctor --clean`")?;
    }
    if left.is_empty() {
        writeln!(stdout, "nothing is left of killed runs")?;
    }
    Ok(ExitCode::Pass)
}

/// Asks a target's runtime whether it is here, in a sandbox that is gone afterwards.
pub(super) async fn identify(target: Target, own_executable: &Path) -> Result<RuntimeIdentity, RuntimeError> {
    let (id, _) = measure::new_session();
    let folder = SessionSandbox::create(&id)?;
    let arm = Arm {
        name: target.runtime.name().to_owned(),
        target: target.clone(),
        workload: Arc::new(nothing()),
        ports: BTreeMap::new(),
        sandbox: folder.arm(target.runtime.name())?,
    };
    let resolved = session::resolve(arm, own_executable).await;
    folder.remove()?;
    let mut identity = resolved?.identity;
    identity.target = target.name;
    Ok(identity)
}

fn nothing() -> Workload {
    Workload {
        name: "nothing".to_owned(),
        root: std::path::PathBuf::from("/"),
        port_variable: "PORT".to_owned(),
        first_port: None,
        release_variable: None,
        services: Vec::new(),
        ecosystem: None,
        compose: None,
        digests: BTreeMap::new(),
    }
}
