//! How long a reload and a restart of an arm take, while nothing loads it.

use std::time::{Duration, Instant};

use super::{
    Arms, Context, SessionError,
    ready::{self, Health, loaded_services},
};
use crate::{
    model::{event::Event, units::format_duration},
    runtime::{Runtime, RuntimeError},
};

/// What an arm's replacements took, in seconds; `None` where its runtime has no such command, or the services did not
/// come back in time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    pub(super) reload_s: Option<f64>,
    pub(super) restart_s: Option<f64>,
}

/// Times a reload of every loaded service to a new release, then a restart.
///
/// # Errors
/// When the runtime fails at either.
pub(super) async fn measure(
    context: &Context,
    arms: &mut Arms,
    index: usize,
    epoch: u32,
) -> Result<Times, SessionError> {
    let health = Health::new()?;
    let (arm, runtime) = arms.arm_and_runtime(index);
    context.tell(Event::ArmTiming { arm: arm.name.clone() });
    let failed = |source| SessionError::Runtime { arm: arm.name.clone(), source };
    arm.sandbox.deploy(&format!("reload-{epoch}")).map_err(failed)?;
    let mut timing = Timing { context, runtime, health };
    let reload = timing.time(Command::Reload).await.map_err(failed)?;
    let restart = timing.time(Command::Restart).await.map_err(failed)?;
    for (outcome, command) in [(reload, "reload"), (restart, "restart")] {
        if outcome == Outcome::Late {
            let limit = format_duration(context.load.ready_timeout);
            let text = format!("{}: not all endpoints answered within {limit} of a {command}", arm.name);
            context.tell(Event::Warning(text));
        }
    }
    Ok(Times { reload_s: reload.seconds(), restart_s: restart.seconds() })
}

#[derive(Clone, Copy)]
enum Command {
    Reload,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Took(Duration),
    Unsupported,
    /// Not all endpoints answered in time.
    Late,
}

impl Outcome {
    fn seconds(self) -> Option<f64> {
        match self {
            Self::Took(time) => Some(time.as_secs_f64()),
            Self::Unsupported | Self::Late => None,
        }
    }
}

struct Timing<'a> {
    context: &'a Context,
    runtime: &'a mut dyn Runtime,
    health: Health,
}

impl Timing<'_> {
    async fn time(&mut self, command: Command) -> Result<Outcome, RuntimeError> {
        // What came before, a search or the other command, must not be in the time of this one.
        if self.all_answer().await.is_none() {
            return Ok(Outcome::Late);
        }
        let services = loaded_services(&self.context.workload);
        let begun = Instant::now();
        for service in &services {
            let done = match command {
                Command::Reload => self.runtime.reload(service).await,
                Command::Restart => self.runtime.restart(service).await,
            };
            match done {
                Err(RuntimeError::Unsupported { .. }) => return Ok(Outcome::Unsupported),
                done => done?,
            }
        }
        let answered = self.all_answer().await;
        Ok(answered.map_or(Outcome::Late, |at| Outcome::Took(at.duration_since(begun))))
    }

    async fn all_answer(&self) -> Option<Instant> {
        let deadline = Instant::now() + self.context.load.ready_timeout;
        ready::all_answer(&*self.runtime, &self.context.workload, &self.health, deadline).await
    }
}
