//! The demo services: `qbench demo front|back|worker`, hidden, so that a machine without Node can try the main job.
//!
//! They answer as the Node demo does: health, version, work, and knobs that make them misbehave. Like Node they do
//! everything on one thread, so a hang hangs them whole: run them on a current-thread runtime.
//!
//! Deliberately absent: any knowledge of what runs them or measures them.

mod server;
mod service;
mod worker;

use std::{
    fmt, fs,
    future::{Future, pending},
    io::{self, Write as _},
    net::SocketAddr,
};

use clap::ValueEnum;
use tokio::{
    net::{TcpListener, lookup_host},
    signal::unix::{SignalKind, signal},
};

use service::Service;

/// Be one of the services of the demo workload.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Which of the three services to be.
    #[arg(value_enum)]
    pub(crate) role: Role,
}

/// The services of the demo workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// HTTP: work on request.
    Front,
    /// HTTP: takes in values and sums them up.
    Back,
    /// No port: checks the other two each second.
    Worker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Front => "front",
            Self::Back => "back",
            Self::Worker => "worker",
        })
    }
}

/// Why a demo service could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A variable of the environment makes no sense.
    #[error("variable {name} must be {expected}")]
    Variable {
        /// Which.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The file of the release cannot be read.
    #[error("cannot read the release from {path}: {source}")]
    Release {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// Serves until SIGINT or SIGTERM, then stops accepting and finishes what is in flight. With `ABRUPT=1` the
/// signals end the process at once, as they end a program that knows nothing of them.
///
/// # Errors
/// When the environment makes no sense or the port cannot be listened on.
pub(crate) async fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let settings = Settings::read(args.role, |name| std::env::var(name).ok())?;
    let stop = stop_signal(settings.abrupt)?;
    if args.role == Role::Worker {
        log(&format!("worker: pid {}", std::process::id()));
        worker::watch(&settings.watched, stop).await;
        return Ok(());
    }
    let listener = listen(&settings.host, settings.port).await?;
    log(&format!(
        "{}: release {}, pid {}, on {}:{}",
        args.role,
        settings.release,
        std::process::id(),
        settings.host,
        settings.port
    ));
    server::serve(listener, Service::new(&settings), stop).await;
    Ok(())
}

/// What the environment says.
#[derive(Debug)]
struct Settings {
    role: Role,
    host: String,
    port: u16,
    release: String,
    hold_mb: usize,
    knobs: bool,
    abrupt: bool,
    extra_us: u64,
    watched: Vec<worker::Watched>,
}

impl Settings {
    fn read(role: Role, variable: impl Fn(&str) -> Option<String>) -> Result<Self, DemoError> {
        let port = variable("PORT").unwrap_or_else(|| "3000".to_owned());
        let hold_mb =
            variable("HOLD_MB").unwrap_or_else(|| if role == Role::Front { "8" } else { "0" }.to_owned());
        let release = match variable("RELEASE_FILE").filter(|path| !path.is_empty()) {
            None => "unreleased".to_owned(),
            Some(path) => fs::read_to_string(&path)
                .map_err(|source| DemoError::Release { path, source })?
                .trim()
                .to_owned(),
        };
        Ok(Self {
            role,
            host: variable("HOST").unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: port
                .parse()
                .map_err(|_| DemoError::Variable { name: "PORT", expected: "a port, 0 to 65535" })?,
            release,
            hold_mb: hold_mb
                .parse()
                .ok()
                .filter(|mb| *mb <= 4096)
                .ok_or(DemoError::Variable { name: "HOLD_MB", expected: "a number of MiB, 0 to 4096" })?,
            knobs: variable("QBENCH_DEMO_KNOBS").as_deref() == Some("1"),
            extra_us: variable("EXTRA_US")
                .map_or(Some(0), |us| us.parse().ok())
                .filter(|us| *us <= 10_000_000)
                .ok_or(DemoError::Variable { name: "EXTRA_US", expected: "microseconds, 0 to 10000000" })?,
            abrupt: variable("ABRUPT").as_deref() == Some("1"),
            watched: vec![
                worker::Watched::new("front", "FRONT_URL", variable("FRONT_URL"), 3000)?,
                worker::Watched::new("back", "BACK_URL", variable("BACK_URL"), 3010)?,
            ],
        })
    }
}

async fn listen(host: &str, port: u16) -> Result<TcpListener, DemoError> {
    let failed = |source| DemoError::Listen { address: format!("{host}:{port}"), source };
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(failed)?.collect();
    TcpListener::bind(&addresses[..]).await.map_err(failed)
}

fn stop_signal(abrupt: bool) -> Result<impl Future<Output = ()> + Send, DemoError> {
    // Not even registered when abrupt: a handler that is there would swallow the signal.
    let signals = if abrupt {
        None
    } else {
        let interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Signals)?;
        let terminate = signal(SignalKind::terminate()).map_err(DemoError::Signals)?;
        Some((interrupt, terminate))
    };
    Ok(async move {
        match signals {
            None => pending().await,
            Some((mut interrupt, mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
        }
    })
}

/// A line of the service's own log. Whoever read it may be gone, which must not end the service.
fn log(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(role: Role, variables: &[(&str, &str)]) -> Result<Settings, DemoError> {
        Settings::read(role, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn only_the_front_holds_memory_of_its_own_accord() {
        assert_eq!(read(Role::Front, &[]).unwrap().hold_mb, 8);
        assert_eq!(read(Role::Back, &[]).unwrap().hold_mb, 0);
        assert_eq!(read(Role::Back, &[("HOLD_MB", "3")]).unwrap().hold_mb, 3);
    }

    #[test]
    fn variables_that_make_no_sense_are_refused_by_name() {
        for (name, value) in [
            ("PORT", "70000"),
            ("HOLD_MB", "-1"),
            ("HOLD_MB", "9999999999"),
            ("BACK_URL", "ftp://x"),
            ("FRONT_URL", "/x"),
        ] {
            let error = read(Role::Worker, &[(name, value)]).unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("variable {name} must be ")),
                "{name}={value}: {error}"
            );
        }
    }

    #[test]
    fn the_release_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("RELEASE");
        fs::write(&file, "7\n").unwrap();
        let path = file.display().to_string();
        assert_eq!(read(Role::Front, &[("RELEASE_FILE", &path)]).unwrap().release, "7");
        assert_eq!(read(Role::Front, &[]).unwrap().release, "unreleased");
        fs::remove_file(&file).unwrap();
        assert!(matches!(read(Role::Front, &[("RELEASE_FILE", &path)]), Err(DemoError::Release { .. })));
    }
}
