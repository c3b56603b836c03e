//! The Docker runtime on a real Engine: the one `DOCKER_HOST` names, which has a `node:20-slim` or can pull it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::query_parameters::{ListContainersOptions, ListImagesOptions, ListNetworksOptions};
use qbench::{
    model::{
        process::{InstanceState, InstanceStatus, ProcessId},
        request::Variables,
        target::{DockerOptions, NetworkPath, ReloadStrategy, RuntimeKind, Target},
        workload::{ComposeService, HttpService, Service, Workload},
    },
    runtime::{
        Arm, Runtime, RuntimeError,
        docker::{Cleaned, Docker, clean},
        ports::PortAllocator,
        sandbox::{Sandbox, SessionSandbox},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const LIMIT: Duration = Duration::from_secs(60);

const COMPOSE: &str = r#"
services:
  front:
    build: ./app
    container_name: qbench-test-front
    init: true
    restart: always
    deploy: { replicas: 2 }
    depends_on: [back]
    ports: ["127.0.0.1:8080:3000"]
    environment: { NAME: front, WORDS: "12e4 $$HOME" }
  back:
    build: ./app
    init: true
    restart: always
    stop_grace_period: 2s
    scale: 2
    expose: ["3000"]
    environment: { NAME: back }
    volumes: ["kept:/kept"]
volumes:
  kept: {}
"#;

const DOCKERFILE: &str =
    "FROM node:20-slim\nCOPY built.txt server.js /app/\nCMD [\"node\", \"/app/server.js\"]\n";

const SERVER: &str = r"
const http = require('http');
const fs = require('fs');
const release = fs.readFileSync(process.env.RELEASE_FILE, 'utf8');
console.log('listening as ' + process.env.NAME);
http.createServer((request, answer) => {
  if (request.url === '/peer') {
    http.get('http://' + process.env.PEER + '/', { agent: false }, (peer) => peer.pipe(answer))
      .on('error', (error) => { answer.statusCode = 502; answer.end(String(error)); });
    return;
  }
  const built = fs.readFileSync('/app/built.txt', 'utf8').trim();
  answer.end([process.env.NAME, release, built, process.env.WORDS].join(' '));
}).listen(process.env.PORT || 3000);
";

/// An arm on the Engine, with the folders it lies in.
struct Rig {
    docker: Docker,
    sandbox: Sandbox,
    session: Option<SessionSandbox>,
    _root: tempfile::TempDir,
}

impl Rig {
    /// `None`, with a word about it, where there is no Engine and none is asked for.
    async fn new(name: &str, docker: DockerOptions) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        write_project(root.path());
        let session = SessionSandbox::create(&format!("test-{name}-{}", std::process::id())).unwrap();
        let sandbox = session.arm("docker").unwrap();
        sandbox.deploy("r1").unwrap();
        let workload = Arc::new(workload(root.path()));
        // The allocator spreads by process only, and these tests share one.
        let ports = PortAllocator::new(Some(free_ports())).for_arm(&workload).unwrap();
        let ports = ports.into_iter().zip([0, 4]).map(|((name, port), gap)| (name, port + gap)).collect();
        let mut target = Target::of(RuntimeKind::Docker);
        target.docker = docker;
        target.before_build =
            Some(vec!["sh".to_owned(), "-c".to_owned(), "echo made-before > app/built.txt".to_owned()]);
        let arm = Arm { name: "docker".to_owned(), target, workload, ports, sandbox: sandbox.clone() };
        let mut docker = Docker::new(arm);
        match docker.probe_environment().await {
            Ok(identity) => eprintln!("{}", identity.describe()),
            Err(error @ RuntimeError::Missing { .. }) => {
                session.remove().unwrap();
                let required = std::env::var("QBENCH_TEST_REQUIRE").unwrap_or_default();
                assert!(!required.contains("docker"), "a Docker Engine is required: {error}");
                eprintln!("skipped: no Docker Engine ({error})");
                return None;
            }
            Err(error) => panic!("{error}"),
        }
        Some(Self { docker, sandbox, session: Some(session), _root: root })
    }

    async fn start(&mut self) {
        ok(self.docker.prepare().await);
        let begun = Instant::now();
        ok(self.docker.start().await);
        eprintln!("start: {:?}", begun.elapsed());
        self.all_answer("r1").await;
        eprintln!("start to ready: {:?}", begun.elapsed());
    }

    /// Waits until each instance answers with that release.
    async fn all_answer(&self, release: &str) {
        for endpoint in self.docker.endpoints() {
            until(&format!("{release} from {endpoint:?}"), async || {
                let answer = get(endpoint.address, "/").await?;
                answer.starts_with(&format!("{} {release} made-before", endpoint.service)).then_some(())
            })
            .await;
        }
    }

    async fn main_processes(&mut self, service: &str) -> Vec<ProcessId> {
        let status = ok(self.docker.status().await);
        status.iter().filter(|s| s.service == service).filter_map(|s| s.process).collect()
    }

    /// Takes everything down and looks for what is left.
    async fn end(mut self) {
        ok(self.docker.teardown().await);
        ok(self.docker.teardown().await);
        assert_eq!(left(&self.sandbox).await, Vec::<String>::new());
        self.session.take().unwrap().remove().unwrap();
    }
}

impl Drop for Rig {
    /// After a failed assertion too, nothing may stay on the Engine.
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let sandbox = self.sandbox.clone();
        let cleaned = std::thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async { clean(&sandbox).await })
        });
        if matches!(cleaned.join(), Ok(Ok(_))) {
            let _ = session.remove();
        }
    }
}

#[tokio::test]
async fn a_published_workload_lives_through_its_whole_life() {
    let options = DockerOptions { reload: ReloadStrategy::Restart, network: NetworkPath::Published };
    let Some(mut rig) = Rig::new("published", options).await else { return };
    rig.start().await;

    let endpoints = rig.docker.endpoints();
    assert_eq!(endpoints.len(), 4);
    assert_eq!(rig.docker.declared_instances(), 4);
    let front = endpoints.iter().find(|endpoint| endpoint.service == "front").unwrap().address;
    assert_eq!(get(front, "/").await.unwrap(), "front r1 made-before 12e4 $HOME");
    assert!(get(front, "/peer").await.unwrap().starts_with("back r1"), "a peer is reached by its name");

    let status = ok(rig.docker.status().await);
    assert_eq!(names(&status), ["back 0", "back 1", "front 0", "front 1"]);
    for one in &status {
        assert_eq!(one.state, InstanceState::Online, "{one:?}");
        assert_eq!(one.restarts, Some(0));
        assert!(one.process.is_some() && one.uptime.is_some_and(|up| up < LIMIT), "{one:?}");
    }
    let processes = ok(rig.docker.processes().await);
    eprintln!("{processes:?}");
    assert_eq!(processes.service.len(), 4);
    assert!(!processes.overhead_fixed.is_empty(), "the Engine's own process is found");
    assert!(processes.overhead_per_instance.len() >= 4, "a shim for each: {processes:?}");

    survives_a_kill(&mut rig).await;
    restarts_and_reloads(&mut rig).await;

    let logs = ok(rig.docker.logs("front", 100).await);
    assert!(logs.iter().any(|line| line == "listening as front"), "{logs:?}");
    assert_eq!(ok(rig.docker.logs("front", 1).await).len(), 1);

    ok(rig.docker.stop().await);
    assert_eq!(ok(rig.docker.status().await), []);
    assert!(get(front, "/").await.is_none());
    ok(rig.docker.start().await);
    rig.all_answer("r3").await;
    rig.end().await;
}

async fn survives_a_kill(rig: &mut Rig) {
    let killed = ok(rig.docker.kill_instance("front", 1).await);
    assert!(rig.docker.kill_instance("front", 7).await.is_err());
    let begun = Instant::now();
    loop {
        let status = ok(rig.docker.status().await);
        let one = status.iter().find(|s| s.service == "front" && s.instance == 1).unwrap();
        if one.state == InstanceState::Online && one.process.is_some_and(|process| process != killed) {
            assert_eq!(one.restarts, Some(1));
            break;
        }
        assert!(begun.elapsed() < LIMIT, "never started again: {one:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!killed.is_alive());
    eprintln!("kill to respawned: {:?}", begun.elapsed());
    rig.all_answer("r1").await;
}

async fn restarts_and_reloads(rig: &mut Rig) {
    for (release, reloads) in [("r2", false), ("r3", true)] {
        rig.sandbox.deploy(release).unwrap();
        for service in ["front", "back"] {
            let before = rig.main_processes(service).await;
            let begun = Instant::now();
            if reloads {
                ok(rig.docker.reload(service).await);
            } else {
                ok(rig.docker.restart(service).await);
            }
            eprintln!("{} of {service}: {:?}", if reloads { "reload" } else { "restart" }, begun.elapsed());
            let after = rig.main_processes(service).await;
            assert_eq!(after.len(), 2);
            assert!(after.iter().all(|process| !before.contains(process)), "{before:?} {after:?}");
        }
        rig.all_answer(release).await;
    }
}

#[tokio::test]
async fn the_host_path_reloads_by_making_containers_anew() {
    let options = DockerOptions { reload: ReloadStrategy::Recreate, network: NetworkPath::Host };
    let Some(mut rig) = Rig::new("host", options).await else { return };
    rig.start().await;
    let front = rig.docker.endpoints().into_iter().find(|endpoint| endpoint.service == "front").unwrap();
    assert!(
        get(front.address, "/peer").await.unwrap().starts_with("back r1"),
        "a peer is reached by its port"
    );
    let processes = ok(rig.docker.processes().await);
    assert_eq!((processes.service.len(), processes.overhead_per_instance.len()), (4, 4));

    let before = rig.main_processes("front").await;
    let untouched = rig.main_processes("back").await;
    rig.sandbox.deploy("r2").unwrap();
    let begun = Instant::now();
    ok(rig.docker.reload("front").await);
    eprintln!("recreate: {:?}", begun.elapsed());
    until("the new release", async || {
        let answer = get(front.address, "/").await?;
        answer.starts_with("front r2").then_some(())
    })
    .await;
    let after = rig.main_processes("front").await;
    assert!(after.len() == 2 && after.iter().all(|process| !before.contains(process)));
    assert_eq!(rig.main_processes("back").await, untouched);
    rig.end().await;
}

#[tokio::test]
async fn what_a_killed_qbench_left_is_found_by_its_sandbox_alone() {
    let options = DockerOptions::default();
    let Some(mut rig) = Rig::new("orphan", options).await else { return };
    rig.start().await;
    assert_eq!(left(&rig.sandbox).await.len(), 4 + 1 + 2);
    // A new runtime knows nothing of what the old one did, as after a crash.
    let found = Sandbox::existing(rig.sandbox.dir().to_owned());
    let cleaned = ok(clean(&found).await);
    assert_eq!(cleaned, Cleaned { containers: 4, networks: 1, volumes: 1, images: 2 });
    assert_eq!(left(&found).await, Vec::<String>::new());
    assert_eq!(ok(clean(&found).await), Cleaned::default());
    rig.end().await;
}

#[tokio::test]
async fn a_start_given_up_in_the_middle_leaves_nothing() {
    let Some(mut rig) = Rig::new("given-up", DockerOptions::default()).await else { return };
    ok(rig.docker.prepare().await);
    let sandbox = rig.sandbox.clone();
    // Images there are from the beginning; a container or a network means that the start is under way.
    let under_way = async {
        while left(&sandbox).await.len() < 2 + 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        done = rig.docker.start() => ok(done),
        () = under_way => {}
    }
    rig.end().await;
}

#[tokio::test]
async fn a_build_that_fails_shows_why() {
    let Some(mut rig) = Rig::new("broken", DockerOptions::default()).await else { return };
    let root = rig.docker.arm().workload.root.clone();
    fs::write(root.join("app/Dockerfile"), "FROM node:20-slim\nCOPY no-such-file /\n").unwrap();
    let error = rig.docker.prepare().await.unwrap_err();
    assert!(error.hint().unwrap_or_default().contains("no-such-file"), "{error} {:?}", error.hint());
    rig.end().await;
}

fn write_project(root: &Path) {
    fs::create_dir(root.join("app")).unwrap();
    fs::write(root.join("docker-compose.yml"), COMPOSE).unwrap();
    fs::write(root.join("app/Dockerfile"), DOCKERFILE).unwrap();
    fs::write(root.join("app/server.js"), SERVER).unwrap();
}

fn workload(root: &Path) -> Workload {
    let service = |name: &str, peer: &str| Service {
        name: name.to_owned(),
        http: Some(HttpService {
            health: "/".to_owned(),
            release: None,
            requests: Vec::new(),
            variables: Variables::default(),
        }),
        env: BTreeMap::from([("PEER".to_owned(), format!("{{address:{peer}}}"))]),
        app: None,
        compose: Some(ComposeService { name: name.to_owned(), replicas: 1 }),
    };
    Workload {
        name: "pair".to_owned(),
        root: root.to_owned(),
        port_variable: "PORT".to_owned(),
        first_port: None,
        release_variable: Some("RELEASE_FILE".to_owned()),
        services: vec![service("front", "back"), service("back", "front")],
        ecosystem: None,
        compose: Some(root.join("docker-compose.yml")),
        digests: BTreeMap::new(),
    }
}

/// The first of some ports that no other test of this file takes.
fn free_ports() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = (std::process::id() % 500) as u16 * 20;
    let listens = |port: u16| std::net::TcpListener::bind(("0.0.0.0", port)).is_ok();
    loop {
        let first = 21_000 + (spread + NEXT.fetch_add(10, Ordering::Relaxed)) % 10_000;
        if (first..first + 10).all(listens) {
            return first;
        }
    }
}

fn ok<T>(result: Result<T, RuntimeError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}\n{}", error.hint().unwrap_or_default()))
}

fn names(status: &[InstanceStatus]) -> Vec<String> {
    status.iter().map(|one| format!("{} {}", one.service, one.instance)).collect()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> Option<()>) {
    let begun = Instant::now();
    while done().await.is_none() {
        assert!(begun.elapsed() < LIMIT, "{what} never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The body of a 200.
async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.split_whitespace().nth(1).filter(|status| *status == "200")?;
        Some(body.to_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), asking).await.ok()?
}

/// The containers, networks and images of a sandbox that the Engine has.
async fn left(sandbox: &Sandbox) -> Vec<String> {
    let engine = bollard::Docker::connect_with_socket_defaults();
    let engine = match std::env::var("DOCKER_HOST") {
        Ok(host) => bollard::Docker::connect_with_socket(&host, 60, bollard::API_DEFAULT_VERSION),
        Err(_) => engine,
    }
    .unwrap();
    let label = format!("qbench.sandbox={}", sandbox.mark());
    let filters = Some(HashMap::from([("label".to_owned(), vec![label])]));
    let options =
        ListContainersOptions { all: true, filters: filters.clone(), ..ListContainersOptions::default() };
    let containers = engine.list_containers(Some(options)).await.unwrap();
    let networks = engine.list_networks(Some(ListNetworksOptions { filters })).await.unwrap();
    let file: serde_json::Value =
        serde_json::from_slice(&fs::read(sandbox.dir().join("engine.json")).unwrap()).unwrap();
    let project = file["project"].as_str().unwrap();
    let images = engine.list_images(None::<ListImagesOptions>).await.unwrap();
    let tags = images.into_iter().flat_map(|image| image.repo_tags);
    let mut left: Vec<String> = containers.into_iter().filter_map(|container| container.id).collect();
    left.extend(networks.into_iter().filter_map(|network| network.name));
    left.extend(tags.filter(|tag| tag.starts_with(project)));
    left
}
