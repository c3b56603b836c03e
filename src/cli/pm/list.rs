//! `qbench pm list`.

use std::{io::Write as _, path::Path};

use super::{CliError, ExitCode, Format, daemon, reports};
use crate::{
    report::{self, processes::Row},
    supervisor::{InstanceReport, InstanceState, Mode},
};

/// Show every process: its state, how long it is up, what it takes
#[derive(Debug, clap::Args)]
#[command(visible_alias = "ls")]
pub(super) struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(args: &Args, home: &Path) -> Result<ExitCode, CliError> {
    let mut client = daemon::connect(home).await?;
    let reports = reports(&mut client).await?;
    let mut out = std::io::stdout().lock();
    let rows: Vec<Row> = reports.iter().map(row).collect();
    match args.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&reports).map_err(std::io::Error::from)?;
            writeln!(out, "{text}")?;
        }
        Format::Md => report::processes::markdown(&rows, &mut out)?,
        Format::Table => report::processes::table(&rows, &mut out, super::super::wants_colour())?,
    }
    Ok(ExitCode::Pass)
}

pub(super) fn row(report: &InstanceReport) -> Row {
    Row {
        id: report.id,
        app: report.app.clone(),
        namespace: report.namespace.clone(),
        mode: match report.mode {
            Mode::Fork => "fork",
            Mode::Cluster => "cluster",
            Mode::Sockets(_) => "sockets",
            Mode::Transparent => "transparent",
        },
        state: match report.state {
            InstanceState::Stopped => "stopped",
            InstanceState::Launching => "launching",
            InstanceState::Online => "online",
            InstanceState::Stopping => "stopping",
            InstanceState::Waiting => "waiting",
            InstanceState::Errored => "errored",
        },
        is_well: report.state == InstanceState::Online,
        pid: report.pid,
        uptime: report.uptime_ms.map(std::time::Duration::from_millis),
        restarts: report.restarts,
        cpu_percent: report.cpu_percent,
        memory: report.memory_bytes.map(crate::model::units::Bytes),
        last_end: report.last_end.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::selection::tests::report, *};

    #[test]
    fn every_mode_and_state_has_its_word() {
        let words = |mode, state| {
            let row = row(&InstanceReport { mode, state, ..report("web", "default", 0) });
            (row.mode, row.state, row.is_well)
        };
        let sockets = Mode::Sockets(vec!["8080".to_owned()]);
        assert_eq!(words(Mode::Fork, InstanceState::Online), ("fork", "online", true));
        assert_eq!(words(Mode::Cluster, InstanceState::Launching), ("cluster", "launching", false));
        assert_eq!(words(sockets, InstanceState::Stopping), ("sockets", "stopping", false));
        assert_eq!(words(Mode::Transparent, InstanceState::Stopped), ("transparent", "stopped", false));
        assert_eq!(words(Mode::Fork, InstanceState::Waiting), ("fork", "waiting", false));
        assert_eq!(words(Mode::Fork, InstanceState::Errored), ("fork", "errored", false));
    }

    #[test]
    fn what_is_known_is_shown() {
        let row = row(&InstanceReport {
            last_end: Some("exited with status 3".to_owned()),
            ..report("web", "shop", 5)
        });
        assert_eq!((row.id, row.app.as_str(), row.namespace.as_str()), (5, "web", "shop"));
        assert_eq!((row.pid, row.restarts, row.cpu_percent), (Some(4711), 2, Some(3)));
        assert_eq!(row.uptime, Some(std::time::Duration::from_secs(61)));
        assert_eq!(row.memory, Some(crate::model::units::Bytes(50 << 20)));
        assert_eq!(row.last_end.as_deref(), Some("exited with status 3"));
    }
}
