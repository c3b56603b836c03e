//! Ctrl-C: the first ends the session in good order, the second ends the program at once.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{CliError, ExitCode, tell};

/// Turns true at the first SIGINT, SIGTERM or SIGHUP; the second of any ends the program.
///
/// # Errors
/// When the signals cannot be watched.
pub(super) fn watch() -> Result<watch::Receiver<bool>, CliError> {
    let listen =
        |kind| signal(kind).map_err(|e| CliError::environment(format!("cannot watch for signals: {e}")));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (tell_stop, stop) = watch::channel(false);
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if first {
                tell(
                    "ending: saving what was measured and stopping everything started; once more to end at once",
                );
                tell_stop.send_replace(true);
            }
        }
        tell("ended at once; `qbench doctor --clean` clears what may still run");
        std::process::exit(i32::from(ExitCode::Interrupted.code()));
    });
    Ok(stop)
}
