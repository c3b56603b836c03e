//! Ready means: every HTTP service answers its health path with 200 at every endpoint, and the runtime itself says
//! that every instance is online: several may stand behind one endpoint, and a worker has none.
//!
//! Never a TCP connect: docker-proxy accepts long before the app listens.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Context, SessionError};
use crate::{
    model::{
        process::{InstanceState, InstanceStatus},
        workload::{Endpoint, Service, Workload},
    },
    runtime::Runtime,
};

/// Between two looks at what is awaited.
pub(super) const POLL: Duration = Duration::from_millis(5);
/// Between two looks at the runtime's own view.
const STATUS_POLL: Duration = Duration::from_millis(250);
/// A health check that takes longer than this is asked again.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines of a service's output shown when it fails.
const LOG_LINES: usize = 12;

/// Waits until everything is ready, or fails as soon as an instance has given up.
///
/// # Errors
/// When something does not get ready in the time that the settings allow, with its last lines of output.
pub(super) async fn wait(
    runtime: &mut dyn Runtime,
    arm: &str,
    context: &Context,
) -> Result<(), SessionError> {
    let limit = context.load.ready_timeout;
    let deadline = Instant::now() + limit;
    let client = Health::new()?;
    let mut pending = runtime.endpoints();
    let mut looked = Instant::now();
    let mut status = Vec::new();
    loop {
        let mut still = Vec::new();
        for endpoint in pending {
            if !client.is_healthy(&context.workload, &endpoint).await {
                still.push(endpoint);
            }
        }
        pending = still;
        if pending.is_empty() || looked.elapsed() >= STATUS_POLL {
            looked = Instant::now();
            status = runtime.status().await.map_err(SessionError::runtime(arm))?;
            if let Some(dead) = status.iter().find(|instance| has_given_up(instance)) {
                let what =
                    format!("ended before it was ready (instance {}, {:?})", dead.instance, dead.state);
                return Err(not_ready(runtime, arm, &dead.service.clone(), what).await);
            }
            if pending.is_empty() && all_are_online(&status, runtime.declared_instances()) {
                return Ok(());
            }
        }
        if Instant::now() >= deadline {
            let service = first_not_ready(&pending, &status, &context.workload);
            return Err(not_ready(runtime, arm, &service, SessionError::late(limit)).await);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn has_given_up(instance: &InstanceStatus) -> bool {
    matches!(instance.state, InstanceState::Errored | InstanceState::Stopped)
}

fn all_are_online(status: &[InstanceStatus], declared: usize) -> bool {
    status.len() >= declared && status.iter().all(|instance| instance.state == InstanceState::Online)
}

/// The service to name in the error: one that does not answer, else one that is not online, else one that is missing.
fn first_not_ready(pending: &[Endpoint], status: &[InstanceStatus], workload: &Workload) -> String {
    let silent = pending.first().map(|endpoint| &endpoint.service);
    let offline = || status.iter().find(|i| i.state != InstanceState::Online).map(|i| &i.service);
    let missing = || {
        let names = workload.services.iter().map(|service| &service.name);
        names.into_iter().find(|name| status.iter().all(|instance| instance.service != **name))
    };
    silent.or_else(offline).or_else(missing).cloned().unwrap_or_else(|| "unknown".to_owned())
}

async fn not_ready(runtime: &mut dyn Runtime, arm: &str, service: &str, what: String) -> SessionError {
    // Without the log the error still says what happened.
    let log = runtime.logs(service, LOG_LINES).await.unwrap_or_default();
    SessionError::NotReady { arm: arm.to_owned(), service: service.to_owned(), what, log }
}

/// Waits until every endpoint answers its health check, as of one round of asking; gives the moment at which the last
/// one did, and `None` when that has not come about at the deadline.
///
/// Unlike [`wait`] it does not ask the runtime, whose answer may take longer than what is timed with this.
pub(super) async fn all_answer(
    runtime: &dyn Runtime,
    workload: &Workload,
    health: &Health,
    deadline: Instant,
) -> Option<Instant> {
    while Instant::now() < deadline {
        let mut all = true;
        for endpoint in runtime.endpoints() {
            all = all && health.is_healthy(workload, &endpoint).await;
        }
        if all {
            return Some(Instant::now());
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

/// The services that take load, by name.
pub(super) fn loaded_services(workload: &Workload) -> Vec<String> {
    let takes_load = |service: &&Service| service.http.as_ref().is_some_and(|http| !http.requests.is_empty());
    workload.services.iter().filter(takes_load).map(|service| service.name.clone()).collect()
}

/// Asks services over HTTP, a new connection each time: a connection kept alive would ask an instance that is
/// being replaced.
pub(super) struct Health(reqwest::Client);

impl Health {
    /// # Errors
    /// When the client cannot be made.
    pub(super) fn new() -> Result<Self, SessionError> {
        let client =
            reqwest::Client::builder().pool_max_idle_per_host(0).timeout(CHECK_TIMEOUT).no_proxy().build();
        client.map(Self).map_err(SessionError::Client)
    }

    /// Whether an endpoint answers 200 to its service's health path.
    pub(super) async fn is_healthy(&self, workload: &Workload, endpoint: &Endpoint) -> bool {
        let Some(http) = workload.service(&endpoint.service).and_then(|service| service.http.as_ref()) else {
            return true;
        };
        let answer = self.0.get(url(endpoint.address, &http.health)).send().await;
        answer.is_ok_and(|answer| answer.status().as_u16() == 200)
    }

    /// The body of an answer with status 200, at most the first 64 KiB of it.
    pub(super) async fn body(&self, address: SocketAddr, path: &str) -> Option<String> {
        const LONGEST: usize = 64 << 10;
        let mut answer = self.0.get(url(address, path)).send().await.ok()?;
        if answer.status().as_u16() != 200 {
            return None;
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST {
                body.truncate(LONGEST);
                break;
            }
        }
        Some(String::from_utf8_lossy(&body).into_owned())
    }
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("http://{address}{path}")
}
