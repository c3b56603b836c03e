//! Clears what a qbench that was killed has left.

use super::{RuntimeError, Sandbox, docker, sandbox};

/// Clears every session whose owner is gone: containers and networks by their label, processes by their mark, then
/// the folder. Gives one line for each session cleared.
///
/// # Errors
/// The first thing that could not be cleared; the others are cleared all the same, and its folder stays, so that
/// the next try finds it again.
pub async fn clear_orphans() -> Result<Vec<String>, RuntimeError> {
    let mut cleared = Vec::new();
    let mut first_error = None;
    for (session, arms) in sandbox::orphans() {
        match clear(&arms).await.and_then(|()| sandbox::remove_session(&session)) {
            Ok(()) => cleared.push(session.display().to_string()),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(cleared), Err)
}

async fn clear(arms: &[Sandbox]) -> Result<(), RuntimeError> {
    for arm in arms {
        arm.kill_marked()?;
        docker::clean(arm).await?;
    }
    Ok(())
}
