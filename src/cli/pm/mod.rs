//! `qbench pm`: the built-in supervisor for daily use.
//!
//! Every command but `start` needs a supervisor that runs; `start` starts one.

mod daemon;
mod list;
mod logs;
mod selection;
mod start;

use std::{path::PathBuf, time::Duration};

use super::{CliError, ExitCode, Format, tell};
use crate::{
    report,
    supervisor::{Client, InstanceReport, Request, Response, Select, SupervisorError},
};

/// Longer than any reload takes that has its time-outs; a client that waits can always be interrupted.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Run apps under the built-in, PM2-compatible supervisor
///
/// Apps are described in ecosystem files, as for PM2. A reload replaces each process only once its successor is ready,
/// and goes back when one is not. The supervisor may die, or be upgraded, without touching what it runs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of the supervisor: its socket and its logs
    #[arg(long, value_name = "DIR", env = "QBENCH_PM_HOME", global = true)]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Start(start::Args),
    /// End processes; they stay in the list
    Stop(Chosen),
    /// End and start processes at once
    Restart(start::Args),
    /// Replace processes one after the other, each once its successor is ready
    Reload(start::Args),
    /// End processes and forget them
    Delete(Chosen),
    /// Change how many processes an app has
    Scale {
        /// The app
        app: String,
        /// How many: 4, +2, -1
        #[arg(allow_hyphen_values = true)]
        instances: String,
    },
    /// Count restarts from 0 again
    Reset(Chosen),
    /// Send a signal to processes
    Signal {
        /// Its number or name: 10, SIGUSR1
        signal: String,
        #[command(flatten)]
        chosen: Chosen,
    },
    List(list::Args),
    Logs(logs::Args),
    /// Empty log files
    Flush(Chosen),
    /// Open log files anew, after something else has renamed them
    ReloadLogs,
    /// Go on as this very program, without touching what runs
    Upgrade,
    /// End every process, then the supervisor
    Kill,
}

/// What a command is about.
#[derive(Clone, Debug, clap::Args)]
struct Chosen {
    /// Names, ids or namespaces of apps, or `all`
    #[arg(required = true, value_name = "APP")]
    apps: Vec<String>,
}

pub(super) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let home = daemon::home(args.home.clone())?;
    match &args.command {
        Command::Start(args) => start::start(args, &home).await?,
        Command::Restart(args) => start::restart(args, &home).await?,
        Command::Reload(args) => return start::reload(args, &home).await,
        Command::Logs(args) => return logs::run(args, &home).await,
        Command::List(args) => return list::run(args, &home).await,
        Command::Upgrade => upgrade(&home).await?,
        Command::Kill => return kill(&home).await,
        other => {
            let mut client = daemon::connect(&home).await?;
            ask(other, &mut client).await?;
            show(&mut client).await?;
        }
    }
    Ok(ExitCode::Pass)
}

async fn ask(command: &Command, client: &mut Client) -> Result<(), CliError> {
    match command {
        Command::Stop(chosen) => for_each(client, chosen, Request::Stop).await,
        Command::Delete(chosen) => for_each(client, chosen, Request::Delete).await,
        Command::Reset(chosen) => for_each(client, chosen, Request::Reset).await,
        Command::Flush(chosen) => for_each(client, chosen, Request::Flush).await,
        Command::Signal { signal, chosen } => {
            let signal = selection::signal(signal)?;
            for_each(client, chosen, |select| Request::Signal { select, signal }).await
        }
        Command::Scale { app, instances } => {
            let now = reports(client).await?.iter().filter(|report| report.app == *app).count();
            let instances = selection::count(instances, now)?;
            call(client, Request::Scale { app: app.clone(), instances }).await.map(drop)
        }
        Command::ReloadLogs => call(client, Request::ReopenLogs).await.map(drop),
        Command::Start(_)
        | Command::Restart(_)
        | Command::Reload(_)
        | Command::List(_)
        | Command::Logs(_)
        | Command::Upgrade
        | Command::Kill => Ok(()),
    }
}

/// The same request for everything that was named.
async fn for_each(
    client: &mut Client,
    chosen: &Chosen,
    request: impl Fn(Select) -> Request,
) -> Result<(), CliError> {
    let known = reports(client).await?;
    for select in selection::resolve(&chosen.apps, &known)? {
        call(client, request(select)).await?;
    }
    Ok(())
}

async fn call(client: &mut Client, request: Request) -> Result<Response, CliError> {
    Ok(client.call(&request, PATIENCE).await?)
}

async fn reports(client: &mut Client) -> Result<Vec<InstanceReport>, CliError> {
    match call(client, Request::Status).await? {
        Response::Status(reports) => Ok(reports),
        other => Err(SupervisorError::Garbled(format!("{other:?}")).into()),
    }
}

/// The list, after a command that changed it.
async fn show(client: &mut Client) -> Result<(), CliError> {
    let rows = reports(client).await?.iter().map(list::row).collect::<Vec<_>>();
    Ok(report::processes::table(&rows, &mut std::io::stdout().lock(), super::wants_colour())?)
}

/// Whoever was asked ends, so the list is of the one that took over.
async fn upgrade(home: &std::path::Path) -> Result<(), CliError> {
    let mut client = daemon::connect(home).await?;
    let before = call(&mut client, Request::Identify).await?;
    call(&mut client, Request::Upgrade { program: std::env::current_exe()? }).await?;
    loop {
        let mut client = daemon::connect(home).await?;
        match call(&mut client, Request::Identify).await {
            Ok(now) if now != before => return show(&mut client).await,
            // It was still the old one that took the connection.
            Ok(_) | Err(CliError::Supervisor(SupervisorError::Closed)) => {}
            Err(other) => return Err(other),
        }
    }
}

async fn kill(home: &std::path::Path) -> Result<ExitCode, CliError> {
    match daemon::running(home).await {
        Some(mut client) => {
            call(&mut client, Request::Shutdown).await?;
            tell("every process has ended, and so has the supervisor");
        }
        None => tell("no supervisor runs"),
    }
    Ok(ExitCode::Pass)
}
