//! What the tests run: specifications, and programs that are simple enough to be written here. Also part of the
//! integration tests, which run the same on the real program.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use super::supervisor::{AppSpec, HttpCheck, Logs, Mode, Port, Ready, ReadyWhen, Reload, Restart, Stop};

/// The variable that every process of a test carries; its value is the test's folder.
pub(crate) const MARK: &str = "QBENCH_TEST_FOLDER";

/// Serves 200 on `$PORT` unless the file `broken` lies in the working folder; while there is a file `hung` it answers
/// nobody.
const SERVER: &str = "
import http.server, os, sys, time
if os.path.exists('broken'): sys.exit(7)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        while os.path.exists('hung'): time.sleep(0.01)
        self.send_response(200 if self.path == '/health' else 404); self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

/// A worker of a Node cluster. `broken` and `mute` are files in the working folder; with the variable `WAIT` it waits
/// for the file `go` before it listens, and before it says that it is ready. `FAIL_AT` is the number of an instance.
const WORKER: &str = "
const http = require('http'), fs = require('fs');
const { RELEASE, INSTANCE, FAIL_AT, WAIT, PORT } = process.env;
if (fs.existsSync('broken') || FAIL_AT === INSTANCE) process.exit(7);
console.log('up', process.pid);
const server = http.createServer((_, answer) => answer.end(`${RELEASE} ${INSTANCE} ${process.pid}`));
const begin = () => {
  if (WAIT === 'to listen' && !fs.existsSync('go')) return setTimeout(begin, 5);
  if (fs.existsSync('mute')) return setInterval(() => {}, 1000);
  server.listen(Number(PORT), '127.0.0.1', say);
};
const say = () => {
  if (WAIT === 'to say' && !fs.existsSync('go')) return setTimeout(say, 5);
  if (process.send) process.send('ready');
};
begin();
";

/// An app of one instance, in fork mode, with times that are never used up and no check of readiness.
pub(crate) fn app(dir: &Path, program: &str, args: &[&str]) -> AppSpec {
    AppSpec {
        name: "app".to_owned(),
        namespace: "default".to_owned(),
        program: program.into(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        cwd: dir.to_owned(),
        env: BTreeMap::from([(MARK.to_owned(), dir.display().to_string())]),
        instances: 1,
        mode: Mode::Fork,
        port: None,
        instance_variable: "INSTANCE".to_owned(),
        increment_variable: None,
        ready: Ready { when: ReadyWhen::Spawned, http: None, timeout_ms: 60_000 },
        liveness: None,
        stop: Stop { kill_timeout_ms: 30_000, tree: true, by_message: false },
        restart: Restart {
            automatic: true,
            delay_ms: 0,
            backoff_ms: None,
            min_uptime_ms: 0,
            max_unstable: 16,
            stop_exit_codes: Vec::new(),
            max_memory_bytes: None,
            cron: None,
        },
        reload: Reload { parallel: 1, hot_spare: false },
        autostart: true,
        user: None,
        max_processes: None,
        logs: Logs {
            out: Some(dir.join("out.log")),
            err: Some(dir.join("err.log")),
            combined: None,
            merge: false,
            date_format: None,
            json: false,
            rotate_bytes: 50 << 20,
            rotate_keep: 7,
            rotate_every: None,
            rotate_gzip: false,
        },
    }
}

/// The file of an instance's output, where the app is as [`app`] makes it.
pub(crate) fn out_log(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("out-{id}.log"))
}

pub(crate) fn named(name: &str, spec: AppSpec) -> AppSpec {
    AppSpec { name: name.to_owned(), ..spec }
}

pub(crate) fn with_env(mut spec: AppSpec, variables: &[(&str, &str)]) -> AppSpec {
    spec.env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    spec
}

pub(crate) fn shell(dir: &Path, script: &str) -> AppSpec {
    app(dir, "/bin/sh", &["-c", script])
}

/// Does nothing for ever.
pub(crate) fn sleeper(dir: &Path) -> AppSpec {
    app(dir, "/bin/sleep", &["100000"])
}

pub(crate) fn python(dir: &Path, script: &str) -> AppSpec {
    app(dir, "/usr/bin/python3", &["-c", script])
}

/// An HTTP service in fork mode, asked whether it is ready.
pub(crate) fn server(dir: &Path, instances: u32) -> AppSpec {
    let mut spec = python(dir, SERVER);
    spec.instances = instances;
    spec.port = Some(Port { variable: "PORT".to_owned(), first: free_ports(instances as u16 + 1) });
    spec.ready.http = Some(HttpCheck { path: "/health".to_owned() });
    spec
}

/// An app of workers of a Node cluster that are ready once they listen. `None`, and words about it, without Node.
pub(crate) fn workers(dir: &Path, instances: u32) -> Option<AppSpec> {
    std::fs::write(dir.join("worker.js"), WORKER).unwrap();
    let mut spec = with_env(node(dir, "worker.js")?, &[("RELEASE", "one")]);
    spec.mode = Mode::Cluster;
    spec.instances = instances;
    spec.port = Some(Port { variable: "PORT".to_owned(), first: free_ports(1) });
    spec.ready.when = ReadyWhen::Listening;
    Some(spec)
}

/// An app that is a script for Node, in fork mode.
pub(crate) fn node(dir: &Path, script: &str) -> Option<AppSpec> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|folder| folder.join("node")).find(|node| node.is_file());
    let Some(program) = program else {
        let required =
            std::env::var("QBENCH_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|it| it == "node"));
        assert!(!required, "node is required and not there");
        eprintln!("skipped: there is no node");
        return None;
    };
    Some(app(dir, program.to_str().unwrap(), &[script]))
}

/// The first of so many ports in a row, free now and given to no other test, of this process or another. They lie below
/// those that outgoing connections take.
pub(crate) fn free_ports(count: u16) -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    loop {
        let first = 10_000 + (std::process::id() % 6_000) as u16 + TAKEN.fetch_add(count, Ordering::Relaxed);
        let reserved: Vec<_> = (first..first + count).filter_map(reserve).collect();
        if reserved.len() == usize::from(count) {
            // For as long as this process lives.
            reserved.into_iter().for_each(std::mem::forget);
            return first;
        }
    }
}

/// A name that only one process can have says whose the port is.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("qbench-test-port-{port}")).unwrap();
    let reserved = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind(("127.0.0.1", port)).ok().map(|_| reserved)
}
