//! `qbench pm` as a user has it: commands, their output and their exit codes.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    arms::get,
    support::{Outcome, Qbench, folder},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// In the environment of every command of a test, and so of the apps that it starts.
const MARK: &str = "QBENCH_TEST_PM";

/// A folder with apps, and the supervisor's home in it. Whatever still runs in there is killed in the end.
struct Desk {
    folder: tempfile::TempDir,
    port: u16,
}

impl Desk {
    fn new() -> Self {
        let folder = folder();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(folder.path().join("ticker.sh"), TICKER).unwrap();
        let desk = Self { folder, port };
        desk.release("one");
        desk.write("ecosystem.config.js", &ECOSYSTEM.replace("$PORT", &port.to_string()));
        desk
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// Puts a release of the web service in place.
    fn release(&self, name: &str) {
        self.write("server.js", &SERVER.replace("$RELEASE", name));
    }

    fn pm(&self, args: &[&str]) -> Outcome {
        Qbench::new(self.path(), &["pm"])
            .arg("--home")
            .arg(self.home())
            .args(args)
            .env(MARK, self.path())
            .env("SECRET_OF_THE_SHELL", "hunter2-in-the-shell")
            .run()
    }

    fn list(&self) -> Vec<Value> {
        let listed = self.pm(&["list", "--format", "json"]).exits_with(0).json();
        listed.as_array().unwrap().clone()
    }

    /// Waits until every process is online, and returns the list.
    fn until_online(&self) -> Vec<Value> {
        eventually("every process online", || {
            Some(self.list()).filter(|list| list.iter().all(|row| row["state"] == "online"))
        })
    }

    fn pids(&self, app: &str) -> Vec<u64> {
        let of_app = self.list().into_iter().filter(|row| row["app"] == app);
        of_app.map(|row| row["pid"].as_u64().unwrap()).collect()
    }

    fn answer(&self) -> String {
        get(([127, 0, 0, 1], self.port).into()).unwrap()
    }

    /// The apps and, by their arguments, the keeper and the brain.
    fn processes(&self) -> Vec<i32> {
        let home = self.home().display().to_string();
        let mark = format!("{MARK}={}", self.path().display());
        let processes = procfs::process::all_processes().unwrap().flatten();
        let has = |pid: i32, list: &str, entry: &str| {
            fs::read(format!("/proc/{pid}/{list}"))
                .is_ok_and(|text| text.split(|byte| *byte == 0).any(|it| it == entry.as_bytes()))
        };
        let is_marked = |pid: &i32| has(*pid, "environ", &mark) || has(*pid, "cmdline", &home);
        processes.map(|process| process.pid).filter(is_marked).collect()
    }

    /// Ends as a user ends it, and leaves nothing.
    fn kill(&self) {
        self.pm(&["kill"]).exits_with(0).stderr_has("every process has ended, and so has the supervisor");
        eventually("the end of the keeper", || self.processes().is_empty().then_some(()));
        assert!(!self.home().join("control.sock").exists());
        assert_eq!(fs::read_to_string(self.home().join("supervisor.log")).unwrap(), "");
        self.pm(&["kill"]).exits_with(0).stderr_has("no supervisor runs");
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

const SERVER: &str = "
const http = require('http');
console.log('release $RELEASE');
http.createServer((_, answer) => answer.end(`$RELEASE ${process.env.NODE_APP_INSTANCE}`))
  .listen(Number(process.env.PORT), '127.0.0.1');
";
const TICKER: &str = "echo ticking; echo trouble >&2; exec sleep 100000\n";
const ECOSYSTEM: &str = "
module.exports = {
  apps: [
    {
      name: 'web',
      script: 'server.js',
      instances: 2,
      env: { PORT: $PORT, API_TOKEN: 'hunter2-in-the-file' },
      env_staging: { STAGE: 'hunter2-in-the-block' },
      kill_timeout: 20000,
      listen_timeout: 60000,
    },
    { name: 'ticker', script: 'ticker.sh', namespace: 'tools', min_uptime: 0, kill_timeout: 20000 },
  ],
};
";

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether there is Node to read `.js` files and run the web service. Panics when it is required and absent.
fn has_node() -> bool {
    let there =
        Command::new("node").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    assert!(there || !crate::support::engine_is_required("node"), "node is required and not there");
    if !there {
        eprintln!("skipped: there is no node");
    }
    there
}

#[test]
fn from_start_to_kill() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    desk.pm(&["list"]).exits_with(2).stderr_has("no supervisor runs in").stderr_has("qbench pm start FILE");
    desk.pm(&["start", "ecosystem.config.js"]).exits_with(0).stdout_has("web").stdout_has("tools/ticker");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&desk.home()), 0o700);
    assert_eq!(mode(&desk.home().join("control.sock")), 0o600);
    assert_eq!(mode(&desk.home().join("supervisor.log")), 0o600);

    let list = desk.until_online();
    let rows: Vec<_> =
        list.iter().map(|row| (row["app"].as_str().unwrap(), row["instance"].as_u64())).collect();
    assert_eq!(rows, [("web", Some(0)), ("web", Some(1)), ("ticker", Some(0))]);
    assert_eq!((&list[0]["mode"], &list[2]["mode"]), (&"cluster".into(), &"fork".into()));
    assert!(desk.answer().starts_with("one "));
    desk.pm(&["ls", "--format", "md"]).exits_with(0).stdout_has("| id | app |");

    // A stop and a start by name, by namespace, by id.
    for word in ["ticker", "tools", "2"] {
        let before = desk.pids("ticker");
        desk.pm(&["stop", word]).exits_with(0).stdout_has("stopped");
        desk.pm(&["start", word]).exits_with(0);
        desk.until_online();
        assert_ne!(desk.pids("ticker"), before, "{word}");
    }
    let before = desk.pids("ticker");
    desk.pm(&["restart", "all"]).exits_with(0);
    desk.until_online();
    assert_ne!(desk.pids("ticker"), before);
    desk.pm(&["reset", "all"]).exits_with(0);
    assert!(desk.list().iter().all(|row| row["restarts"] == 0));

    for (change, count) in [("+1", 3), ("-2", 1), ("2", 2)] {
        desk.pm(&["scale", "web", change]).exits_with(0);
        assert_eq!(desk.until_online().iter().filter(|row| row["app"] == "web").count(), count);
    }
    desk.pm(&["signal", "SIGTERM", "ticker"]).exits_with(0);
    eventually("the restart of the ticker", || desk.list().iter().find(|row| row["restarts"] == 1).map(drop));
    desk.pm(&["delete", "ticker"]).exits_with(0);
    assert_eq!(desk.list().len(), 2);
    desk.kill();
}

#[test]
fn a_reload_serves_the_new_release_or_keeps_the_old_one() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    desk.pm(&["start", "ecosystem.config.js", "--only", "web"]).exits_with(0);
    let before: Vec<_> = desk.until_online().iter().map(|row| row["pid"].clone()).collect();
    desk.release("two");
    desk.pm(&["reload", "web"]).exits_with(0);
    assert!(desk.answer().starts_with("two "));
    let after: Vec<_> = desk.until_online().iter().map(|row| row["pid"].clone()).collect();
    assert!(before.iter().zip(&after).all(|(before, after)| before != after));

    desk.write("server.js", "process.exit(9)");
    for what in [&["web"][..], &["all"], &["ecosystem.config.js", "--only", "web"]] {
        desk.pm(&[&["reload"], what].concat())
            .exits_with(1)
            .stderr_has("error: web: the reload failed: the new process exited with status 9")
            .stderr_has("the old processes serve on");
        assert!(desk.answer().starts_with("two "));
    }
    let still: Vec<_> = desk.until_online().iter().map(|row| row["pid"].clone()).collect();
    assert_eq!(still, after);
    desk.release("three");
    desk.pm(&["reload", "ecosystem.config.js", "--only", "web"]).exits_with(0);
    assert!(desk.answer().starts_with("three "));
    desk.kill();
}

#[test]
fn an_upgrade_touches_nothing_that_runs() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    desk.pm(&["start", "ecosystem.config.js"]).exits_with(0);
    desk.until_online();
    let before = (desk.pids("web"), desk.pids("ticker"));
    for _ in 0..2 {
        desk.pm(&["upgrade"]).exits_with(0).stdout_has("ticker");
        desk.until_online();
        assert_eq!((desk.pids("web"), desk.pids("ticker")), before);
    }
    assert!(desk.answer().starts_with("one "));
    desk.kill();
}

#[test]
fn logs_are_printed_marked_and_followed() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    desk.pm(&["start", "ecosystem.config.js"]).exits_with(0);
    desk.until_online();
    let written = |text: &str| {
        eventually(text, || {
            let outcome = desk.pm(&["logs"]).exits_with(0);
            outcome.stdout.contains(text).then_some(outcome.stdout)
        })
    };
    written("web out | release one");
    written("ticker out | ticking");
    written("ticker err | trouble");
    let only = desk.pm(&["logs", "ticker", "--err"]).exits_with(0);
    assert_eq!(only.stdout, "ticker err | trouble\n");
    desk.pm(&["logs", "nobody"]).exits_with(2).stderr_has("knows no app, namespace or id \"nobody\"");

    let mut follow = Command::new(env!("CARGO_BIN_EXE_qbench"))
        .args(["pm", "logs", "ticker", "--follow", "--out", "-n", "0", "--home"])
        .arg(desk.home())
        .env(MARK, desk.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    desk.pm(&["restart", "ticker"]).exits_with(0);
    let mut stdout = follow.stdout.take().unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"ticker out | ticking\n") {
        let mut buffer = [0; 256];
        let count = stdout.read(&mut buffer).unwrap();
        assert!(count > 0, "it ended after {:?}", String::from_utf8_lossy(&read));
        read.extend(&buffer[..count]);
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&follow), rustix::process::Signal::INT)
        .unwrap();
    assert!(follow.wait().unwrap().success());

    desk.pm(&["flush", "all"]).exits_with(0);
    eventually("empty files", || desk.pm(&["logs"]).exits_with(0).stdout.is_empty().then_some(()));
    desk.kill();
}

#[test]
fn no_value_of_an_environment_is_shown_or_written() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    let mut texts = Vec::new();
    let mut pm = |args: &[&str]| {
        let outcome = desk.pm(args);
        texts.push(format!("{args:?}:\n{}\n{}", outcome.stdout, outcome.stderr));
    };
    pm(&["start", "ecosystem.config.js", "--env", "staging"]);
    desk.until_online();
    pm(&["list"]);
    pm(&["list", "--format", "json"]);
    desk.write("server.js", "process.exit(9)");
    pm(&["reload", "ecosystem.config.js", "--env", "staging"]);
    pm(&["upgrade"]);
    pm(&["logs"]);
    pm(&["delete", "all"]);
    for text in &texts {
        assert!(!text.contains("hunter2"), "{text}");
    }
    for entry in walk(&desk.home()) {
        let text = fs::read(&entry).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("hunter2"), "{}", entry.display());
    }
    desk.kill();
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (folders, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|folder| walk(folder))).collect()
}

#[test]
fn variables_of_the_shell_and_of_the_block_reach_the_app() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    desk.write("ticker.sh", "echo $SECRET_OF_THE_SHELL > seen; echo $STAGE > stage; exec sleep 100000\n");
    let ecosystem =
        "module.exports = { apps: [{ name: 'ticker', script: 'ticker.sh', env_staging: { STAGE: 'two' } }] }";
    desk.write("ecosystem.config.js", ecosystem);
    desk.pm(&["start", "ecosystem.config.js", "--env", "staging"]).exits_with(0);
    let read =
        |name: &str| fs::read_to_string(desk.path().join(name)).ok().filter(|text| text.ends_with('\n'));
    assert_eq!(eventually("the file", || read("stage")), "two\n");
    assert_eq!(eventually("the file", || read("seen")), "hunter2-in-the-shell\n");
    desk.kill();
}

#[test]
fn a_variable_that_is_filtered_does_not_come_by_another_way() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    // The supervisor, too, is started from this shell.
    let script = "echo \"filtered: $SECRET_OF_THE_SHELL\" > seen; exec sleep 100000\n";
    desk.write("ticker.sh", script);
    let ecosystem =
        "module.exports = { apps: [{ name: 'ticker', script: 'ticker.sh', filter_env: ['SECRET'] }] }";
    desk.write("ecosystem.config.js", ecosystem);
    desk.pm(&["start", "ecosystem.config.js"]).exits_with(0);
    let read = || fs::read_to_string(desk.path().join("seen")).ok().filter(|text| text.ends_with('\n'));
    assert_eq!(eventually("the file", read), "filtered: \n");
    desk.kill();
}

#[test]
fn whoever_has_read_enough_lines_ends_it_without_an_error() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    desk.write("ticker.sh", "seq 100000; touch written; exec sleep 100000\n");
    desk.pm(&["start", "ecosystem.config.js", "--only", "ticker"]).exits_with(0);
    eventually("the lines", || desk.path().join("written").exists().then_some(()));
    let mut logs = Command::new(env!("CARGO_BIN_EXE_qbench"))
        .args(["pm", "logs", "-n", "100000", "--home"])
        .arg(desk.home())
        .env(MARK, desk.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut few = [0; 100];
    logs.stdout.take().unwrap().read_exact(&mut few).unwrap();
    let ended = logs.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr)), (Some(0), "".into()));
    desk.kill();
}

#[test]
fn what_is_wrong_is_said_and_starts_nothing() {
    if !has_node() {
        return;
    }
    let desk = Desk::new();
    desk.pm(&["start", "missing.config.js"]).exits_with(2).stderr_has("missing.config.js");
    desk.write("broken.json", "{ apps: [ { name: 'web' } ] }");
    desk.pm(&["start", "broken.json"]).exits_with(2).stderr_has("script");
    desk.write("nonsense.json", "{ apps: ");
    desk.pm(&["start", "nonsense.json"]).exits_with(2).stderr_has("nonsense.json");
    desk.write("throws.config.js", "throw new Error('no luck')");
    desk.pm(&["start", "throws.config.js"]).exits_with(2).stderr_has("no luck");
    desk.pm(&["start", "ecosystem.config.js", "--only", "nobody"])
        .exits_with(2)
        .stderr_has("has no app \"nobody\"")
        .stderr_has("its apps are web, ticker");
    desk.pm(&["start"]).exits_with(2).stderr_has("<FILE|APP>");
    desk.pm(&["dance"]).exits_with(2).stderr_has("unrecognized subcommand 'dance'");
    desk.pm(&["list", "--format", "xml"]).exits_with(2).stderr_has("xml");
    desk.pm(&["logs", "--err", "--out"]).exits_with(2).stderr_has("cannot be used with");
    for command in ["stop", "restart", "reload", "delete", "reset", "flush"] {
        desk.pm(&[command, "web"]).exits_with(2).stderr_has("no supervisor runs in");
        desk.pm(&[command]).exits_with(2).stderr_has("required");
    }
    assert!(!desk.home().exists(), "nothing was made");
    assert_eq!(desk.processes(), Vec::<i32>::new());

    desk.pm(&["start", "ecosystem.config.js", "--only", "ticker"]).exits_with(0);
    for command in ["start", "stop", "restart", "reload", "delete", "reset", "flush"] {
        desk.pm(&[command, "nobody"])
            .exits_with(2)
            .stderr_has("the supervisor knows no app, namespace or id \"nobody\"")
            .stderr_has("hint: it knows ticker");
    }
    desk.pm(&["scale", "ticker", "many"]).exits_with(2).stderr_has("\"many\" is no number of instances");
    desk.pm(&["scale", "ticker", "-1"]).exits_with(2).stderr_has("at least 1 must stay");
    desk.pm(&["scale", "nobody", "2"]).exits_with(3).stderr_has("there is no app \"nobody\"");
    desk.pm(&["signal", "SIGDANCE", "ticker"]).exits_with(2).stderr_has("\"SIGDANCE\" is no signal");
    desk.kill();
}

#[test]
fn what_is_not_a_supervisor_is_told_from_one() {
    let desk = Desk::new();
    fs::create_dir(desk.home()).unwrap();
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(desk.home().join("control.sock")).unwrap());
    desk.pm(&["list"]).exits_with(2).stderr_has("no supervisor runs in");
    // One whose owner says something else.
    fs::remove_file(desk.home().join("control.sock")).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(desk.home().join("control.sock")).unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 smtp ready\n").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    });
    desk.pm(&["list"]).exits_with(3).stderr_has("the supervisor's answer cannot be read");
    other.join().unwrap();
    // The hidden command is no way in either.
    Qbench::new(desk.path(), &["supervise"])
        .run()
        .exits_with(3)
        .stderr_has("are started by the program itself");
}
