//! The Docker Engine: reaching it, finding what is ours by its labels, and removing that.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bollard::{
    models::ContainerInspectResponse,
    query_parameters::{
        InspectContainerOptions, ListContainersOptions, ListImagesOptions, ListNetworksOptions,
        ListVolumesOptions, RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
    },
};

use tokio::net::UnixStream;

use super::{KIND, LABEL_INSTANCE, LABEL_PROJECT, LABEL_SANDBOX, LABEL_SERVICE};
use crate::runtime::{COMMAND_TIMEOUT, RuntimeError};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long a request that the Engine has taken may go on after its client is gone.
const SETTLING: Duration = Duration::from_millis(500);
/// How long the removal of everything may take.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// A Docker Engine on this machine.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    api: bollard::Docker,
    socket: PathBuf,
    /// The process that listens; 0 where it is outside of our PID namespace.
    listener: Option<i32>,
}

/// A container of the workload.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub id: String,
    pub service: String,
    pub instance: u32,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Containers.
    pub containers: usize,
    /// Networks.
    pub networks: usize,
    /// Volumes that compose had made for the project.
    pub volumes: usize,
    /// Images that had been built for the project.
    pub images: usize,
}

/// Whose things are meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    pub project: &'a str,
    pub mark: &'a str,
}

/// The socket of `DOCKER_HOST`, else the usual one.
///
/// # Errors
/// When it names an Engine elsewhere.
pub(super) fn socket_of(docker_host: Option<&str>) -> Result<PathBuf, RuntimeError> {
    match docker_host.filter(|host| !host.is_empty()) {
        None => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Some(host) => host.strip_prefix("unix://").map(PathBuf::from).ok_or_else(|| {
            missing(
                format!("DOCKER_HOST is {host}, and its processes must be on this machine to be measured"),
                "unset DOCKER_HOST, or set it to the unix:// socket of an Engine on this machine",
            )
        }),
    }
}

impl Engine {
    /// Reaches the Engine behind a socket.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`], with what to do about it.
    pub(super) async fn connect(socket: &Path) -> Result<Self, RuntimeError> {
        // Tried by hand first: the client folds the reasons into one.
        let stream = UnixStream::connect(socket).await.map_err(|source| unreachable(socket, &source))?;
        let listener = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let path = socket.display().to_string();
        let api = bollard::Docker::connect_with_socket(
            &path,
            COMMAND_TIMEOUT.as_secs(),
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(answer)?;
        Ok(Self { api, socket: socket.to_owned(), listener })
    }

    /// What the Engine calls its version.
    pub(super) async fn version(&self) -> Result<String, RuntimeError> {
        let version = self.api.version().await.map_err(answer)?;
        Ok(version.version.unwrap_or_else(|| "unknown".to_owned()))
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn docker_host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(super) fn listener(&self) -> Option<i32> {
        self.listener
    }

    /// # Errors
    /// When the pids it tells are another namespace's: nothing could be measured, and a kill could hit anybody.
    pub(super) fn refuse_foreign_pids(&self) -> Result<(), RuntimeError> {
        if self.listener != Some(0) {
            return Ok(());
        }
        Err(missing(
            format!("the Engine behind {} runs in another PID namespace", self.socket.display()),
            "run qbench on the Engine's own host, or in a container with `--pid host`",
        ))
    }

    /// The containers of the workload, running or not, by service and instance.
    pub(super) async fn containers(&self, mark: &str) -> Result<Vec<Container>, RuntimeError> {
        let found = self.api.list_containers(Some(labelled(LABEL_SANDBOX, mark))).await.map_err(answer)?;
        let mut containers: Vec<Container> = found
            .into_iter()
            .filter_map(|summary| {
                let labels = summary.labels?;
                Some(Container {
                    id: summary.id?,
                    service: labels.get(LABEL_SERVICE)?.clone(),
                    instance: labels.get(LABEL_INSTANCE)?.parse().ok()?,
                })
            })
            .collect();
        containers.sort_by(|a, b| (&a.service, a.instance).cmp(&(&b.service, b.instance)));
        Ok(containers)
    }

    /// What the Engine knows of a container; `None` when it has gone meanwhile.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let asked = self.api.inspect_container(id, None::<InspectContainerOptions>).await;
        unless_gone(asked)
    }

    /// Ends a container the way its own settings say, and starts it again.
    pub(super) async fn restart(&self, id: &str) -> Result<(), RuntimeError> {
        self.api.restart_container(id, None).await.map_err(answer)
    }

    pub(super) async fn has_image(&self, image: &str) -> Result<bool, RuntimeError> {
        Ok(unless_gone(self.api.inspect_image(image).await)?.is_some())
    }

    /// Removes containers, with their anonymous volumes, and networks.
    pub(super) async fn remove_containers(&self, owner: Owner<'_>) -> Result<Cleaned, RuntimeError> {
        let mut cleaned = Cleaned::default();
        let limit = REMOVAL_LIMIT;
        let deadline = Instant::now() + limit;
        loop {
            let containers = self.container_ids(owner).await?;
            let networks = self.network_ids(owner).await?;
            if containers.is_empty() && networks.is_empty() {
                return Ok(cleaned);
            }
            let what = format!("removing {} containers and {} networks", containers.len(), networks.len());
            let mut refused = RuntimeError::TimedOut { what, limit };
            for id in &containers {
                let options = RemoveContainerOptions { v: true, force: true, link: false };
                match unless_gone(self.api.remove_container(id, Some(options)).await) {
                    Ok(done) => cleaned.containers += usize::from(done.is_some()),
                    Err(error) => refused = error,
                }
            }
            for id in &networks {
                match unless_gone(self.api.remove_network(id).await) {
                    Ok(done) => cleaned.networks += usize::from(done.is_some()),
                    Err(error) => refused = error,
                }
            }
            if Instant::now() > deadline {
                return Err(refused);
            }
            // A removal already under way is refused until it is done; the list then tells.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes everything of a project: containers, networks, volumes that compose made for it, images built for it.
    pub(super) async fn remove_everything(&self, owner: Owner<'_>) -> Result<Cleaned, RuntimeError> {
        let mut cleaned = self.remove_containers(owner).await?;
        // What a compose command that was cut off had asked for may still be made by the Engine.
        tokio::time::sleep(SETTLING).await;
        let late = self.remove_containers(owner).await?;
        cleaned.containers += late.containers;
        cleaned.networks += late.networks;
        let filters = Some(filter("label", &format!("{LABEL_PROJECT}={}", owner.project)));
        let listed = self.api.list_volumes(Some(ListVolumesOptions { filters })).await.map_err(answer)?;
        for volume in listed.volumes.unwrap_or_default() {
            let removed = self.api.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await;
            cleaned.volumes += usize::from(unless_gone(removed)?.is_some());
        }
        let filters = Some(filter("reference", &format!("{}/*", owner.project)));
        let options = ListImagesOptions { filters, ..ListImagesOptions::default() };
        let ours = format!("{}/", owner.project);
        for image in self.api.list_images(Some(options)).await.map_err(answer)? {
            // By its name: the same image may have a name of the user's as well.
            for name in image.repo_tags.iter().filter(|name| name.starts_with(&ours)) {
                let removed = self.api.remove_image(name, None::<RemoveImageOptions>, None).await;
                cleaned.images += usize::from(unless_gone(removed)?.is_some());
            }
        }
        Ok(cleaned)
    }

    async fn container_ids(&self, owner: Owner<'_>) -> Result<Vec<String>, RuntimeError> {
        let mut ids = Vec::new();
        for (label, value) in [(LABEL_SANDBOX, owner.mark), (LABEL_PROJECT, owner.project)] {
            let found = self.api.list_containers(Some(labelled(label, value))).await.map_err(answer)?;
            ids.extend(found.into_iter().filter_map(|container| container.id));
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    async fn network_ids(&self, owner: Owner<'_>) -> Result<Vec<String>, RuntimeError> {
        let mut ids = Vec::new();
        for (label, value) in [(LABEL_SANDBOX, owner.mark), (LABEL_PROJECT, owner.project)] {
            let options = ListNetworksOptions { filters: Some(filter("label", &format!("{label}={value}"))) };
            let found = self.api.list_networks(Some(options)).await.map_err(answer)?;
            ids.extend(found.into_iter().filter_map(|network| network.id));
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}

fn labelled(label: &str, value: &str) -> ListContainersOptions {
    let filters = Some(filter("label", &format!("{label}={value}")));
    ListContainersOptions { all: true, filters, ..ListContainersOptions::default() }
}

fn filter(key: &str, value: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([(key.to_owned(), vec![value.to_owned()])])
}

fn unless_gone<T>(result: Result<T, bollard::errors::Error>) -> Result<Option<T>, RuntimeError> {
    use bollard::errors::Error;
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(answer(error)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err, which passes by value")]
fn answer(error: bollard::errors::Error) -> RuntimeError {
    RuntimeError::Answer { runtime: KIND.name(), message: error.to_string() }
}

fn unreachable(socket: &Path, source: &io::Error) -> RuntimeError {
    let socket = socket.display();
    match source.kind() {
        io::ErrorKind::NotFound => missing(
            format!("there is no socket {socket}"),
            "install Docker Engine and start it, or point DOCKER_HOST at its socket (unix://…)",
        ),
        io::ErrorKind::PermissionDenied => missing(
            format!("permission denied on {socket}"),
            "add the user to the group docker (`usermod -aG docker USER`, then log in again), or run with sudo",
        ),
        io::ErrorKind::ConnectionRefused => missing(
            format!("nothing answers on {socket}"),
            "the daemon is not running: start it, e.g. `systemctl start docker`",
        ),
        _ => {
            missing(format!("{socket}: {source}"), "see that DOCKER_HOST names the socket of a Docker Engine")
        }
    }
}

fn missing(reason: String, hint: &str) -> RuntimeError {
    RuntimeError::Missing { runtime: KIND.name(), reason, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_engine_elsewhere_is_refused() {
        assert_eq!(socket_of(None).unwrap(), Path::new(DEFAULT_SOCKET));
        assert_eq!(socket_of(Some("")).unwrap(), Path::new(DEFAULT_SOCKET));
        assert_eq!(socket_of(Some("unix:///x/docker.sock")).unwrap(), Path::new("/x/docker.sock"));
        for host in ["tcp://10.0.0.1:2375", "ssh://me@there"] {
            let error = socket_of(Some(host)).unwrap_err();
            assert!(error.to_string().contains(host), "{error}");
            assert!(error.hint().unwrap().contains("unset DOCKER_HOST"));
        }
    }

    #[tokio::test]
    async fn an_absent_engine_and_a_dead_one_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let absent = Engine::connect(&socket).await.unwrap_err();
        assert!(absent.hint().unwrap().contains("install Docker"), "{absent}");
        drop(UnixListener::bind(&socket).unwrap());
        let dead = Engine::connect(&socket).await.unwrap_err();
        assert!(dead.hint().unwrap().contains("not running"), "{dead}");
        let denied = unreachable(&socket, &io::ErrorKind::PermissionDenied.into());
        assert!(denied.hint().unwrap().contains("group docker"));
    }
}
