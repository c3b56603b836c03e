//! The arms of a session: made, prepared, started, ended.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{Context, Plan, SessionError, ready};
use crate::{
    model::{
        event::Event,
        record::ArmRole,
        target::{RuntimeIdentity, RuntimeKind, StandIn, Target},
        workload::Workload,
    },
    runtime::{
        Arm, Runtime, RuntimeError, bare::Bare, builtin::Builtin, docker::Docker, pm2::Pm2,
        ports::PortAllocator, sandbox::SessionSandbox,
    },
};

/// A runtime for an arm, and who it says it is.
pub struct Resolved {
    /// The runtime.
    pub runtime: Box<dyn Runtime>,
    /// What really runs.
    pub identity: RuntimeIdentity,
}

/// Makes the runtime of an arm and asks whether it is here. Where PM2 is asked for and not installed, the
/// built-in supervisor stands in, and the identity says so.
///
/// # Errors
/// When the runtime is not usable here and has no stand-in.
pub async fn resolve(arm: Arm, own_executable: &Path) -> Result<Resolved, RuntimeError> {
    let mut runtime = make(arm.target.runtime, arm.clone(), own_executable);
    match runtime.probe_environment().await {
        Ok(identity) => Ok(Resolved { runtime, identity }),
        Err(RuntimeError::Missing { reason, .. })
            if arm.target.runtime == RuntimeKind::Pm2 && !asked_by_path(&arm.target) =>
        {
            let mut runtime = make(RuntimeKind::Builtin, arm, own_executable);
            let mut identity = runtime.probe_environment().await?;
            identity.stands_in_for = Some(StandIn { runtime: RuntimeKind::Pm2, reason });
            Ok(Resolved { runtime, identity })
        }
        Err(error) => Err(error),
    }
}

/// A PM2 that the configuration names must be there; only the one that may be on PATH has a stand-in.
fn asked_by_path(target: &Target) -> bool {
    target.pm2_program.is_some()
}

fn make(kind: RuntimeKind, arm: Arm, own_executable: &Path) -> Box<dyn Runtime> {
    match kind {
        RuntimeKind::Bare => Box::new(Bare::new(arm)),
        RuntimeKind::Builtin => Box::new(Builtin::new(arm, own_executable.to_owned())),
        RuntimeKind::Pm2 => Box::new(Pm2::new(arm)),
        RuntimeKind::Docker => Box::new(Docker::new(arm)),
    }
}

/// All arms of a session, with the folder they live in.
pub struct Arms {
    context: Context,
    folder: Option<SessionSandbox>,
    planned: Vec<Arm>,
    running: Vec<Resolved>,
}

impl Arms {
    /// Makes their folders and finds their ports; starts nothing.
    ///
    /// # Errors
    /// When a folder cannot be made or a port is taken.
    pub fn set_up(context: &Context, plan: &Plan) -> Result<Self, SessionError> {
        let of_session = |source| SessionError::Runtime { arm: "session".to_owned(), source };
        let folder = SessionSandbox::create(&plan.id).map_err(of_session)?;
        let mut allocator = PortAllocator::new(context.workload.first_port);
        let mut arms =
            Self { context: context.clone(), folder: Some(folder), planned: Vec::new(), running: Vec::new() };
        for planned in &plan.arms {
            let arm = arms.arm(planned, &mut allocator);
            match arm {
                Ok(arm) => arms.planned.push(arm),
                Err(source) => {
                    // Nothing runs yet, so the folder is all there is to take back; its own failure would hide why.
                    let _ = arms.folder.take().map(SessionSandbox::remove);
                    return Err(SessionError::Runtime { arm: planned.name.clone(), source });
                }
            }
        }
        Ok(arms)
    }

    fn arm(&self, planned: &super::PlannedArm, allocator: &mut PortAllocator) -> Result<Arm, RuntimeError> {
        let folder = self.folder.as_ref().expect("the folder is there until tear_down");
        Ok(Arm {
            name: planned.name.clone(),
            target: planned.target.clone(),
            workload: self.workload_on(&planned.target),
            ports: allocator.for_arm(&self.context.workload)?,
            sandbox: folder.arm(&planned.name)?,
        })
    }

    /// The workload with the target's own variables over its services'.
    fn workload_on(&self, target: &Target) -> Arc<Workload> {
        if target.env.is_empty() {
            return Arc::clone(&self.context.workload);
        }
        let mut workload = Workload::clone(&self.context.workload);
        for service in &mut workload.services {
            service.env.extend(target.env.clone());
        }
        Arc::new(workload)
    }

    /// Finds every runtime and does what must be done once.
    ///
    /// # Errors
    /// When a runtime is not usable here, or its preparation fails.
    pub async fn prepare(&mut self) -> Result<(), SessionError> {
        for arm in &self.planned {
            let failed = SessionError::runtime(&arm.name);
            let mut resolved = resolve(arm.clone(), &self.context.own_executable).await.map_err(failed)?;
            resolved.identity.target.clone_from(&arm.target.name);
            if !arm.target.env.is_empty() {
                let names: Vec<&str> = arm.target.env.keys().map(String::as_str).collect();
                resolved.identity.options.insert("env".to_owned(), names.join(" "));
            }
            self.running.push(resolved);
            let prepared = self.running.last_mut().expect("one was just pushed").runtime.prepare().await;
            prepared.map_err(SessionError::runtime(&arm.name))?;
        }
        Ok(())
    }

    /// Starts one arm and waits until all its services answer; gives the time from the start command to then.
    ///
    /// # Errors
    /// When it cannot be started or does not get ready.
    pub(super) async fn start(&mut self, index: usize, epoch: u32) -> Result<Duration, SessionError> {
        let arm = &self.planned[index];
        let runtime = self.running[index].runtime.as_mut();
        self.context.tell(Event::ArmStarting { epoch, arm: arm.name.clone() });
        arm.sandbox.deploy(&format!("epoch-{epoch}")).map_err(SessionError::runtime(&arm.name))?;
        let begun = std::time::Instant::now();
        runtime.start().await.map_err(SessionError::runtime(&arm.name))?;
        ready::wait(runtime, &arm.name, &self.context).await?;
        let after = begun.elapsed();
        self.context.tell(Event::ArmReady { arm: arm.name.clone(), after });
        Ok(after)
    }

    /// Ends the services of every arm.
    ///
    /// # Errors
    /// The first failure; the other arms are ended all the same.
    pub(super) async fn stop_all(&mut self) -> Result<(), SessionError> {
        let mut first = Ok(());
        for (arm, resolved) in self.planned.iter().zip(&mut self.running) {
            let stopped = resolved.runtime.stop().await.map_err(SessionError::runtime(&arm.name));
            first = first.and(stopped);
        }
        first
    }

    /// Leaves nothing of any arm.
    ///
    /// # Errors
    /// The first failure; everything else is cleared all the same.
    pub async fn tear_down(mut self) -> Result<(), SessionError> {
        let mut first = Ok(());
        for (arm, resolved) in self.planned.iter().zip(&mut self.running) {
            let ended = resolved.runtime.teardown().await.map_err(SessionError::runtime(&arm.name));
            first = first.and(ended);
        }
        for arm in &self.planned {
            // Also of an arm whose runtime was never made, or whose own commands were cut off.
            let ended = arm.sandbox.kill_marked().map_err(SessionError::runtime(&arm.name));
            first = first.and(ended);
        }
        if let Some(folder) = self.folder.take()
            && first.is_ok()
        {
            first = folder.remove().map_err(SessionError::runtime("session"));
        }
        first
    }

    pub(super) fn arm_and_runtime(&mut self, index: usize) -> (&Arm, &mut dyn Runtime) {
        (&self.planned[index], self.running[index].runtime.as_mut())
    }

    /// What really runs, one an arm, without repetition.
    pub fn identities(&self) -> Vec<RuntimeIdentity> {
        let mut identities: Vec<RuntimeIdentity> = Vec::new();
        for resolved in &self.running {
            if !identities.contains(&resolved.identity) {
                identities.push(resolved.identity.clone());
            }
        }
        identities
    }

    /// The identity of the target that a record is about.
    pub(super) fn identity_of_target(&self, plan: &Plan, record: usize, name: &str) -> RuntimeIdentity {
        let index = plan.arms.iter().position(|arm| arm.record == record && arm.role == ArmRole::Target);
        let mut identity = self.running[index.expect("every record has a target arm")].identity.clone();
        name.clone_into(&mut identity.target);
        identity
    }

    /// The identities of all arms of a record.
    pub(super) fn identities_of_record(
        &self,
        plan: &Plan,
        record: usize,
    ) -> BTreeMap<ArmRole, RuntimeIdentity> {
        let arms = plan.arms.iter().zip(&self.running);
        arms.filter(|(arm, _)| arm.record == record)
            .map(|(arm, running)| (arm.role, running.identity.clone()))
            .collect()
    }
}
