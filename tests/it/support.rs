//! Runs the program as a user would, and looks at what it left.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// No command of a test takes longer on the slowest day; a hang becomes a failure with the output so far.
const LONGEST: Duration = Duration::from_secs(300);

/// A command line of qbench, in a sandbox base of its own so that parallel tests see only what is theirs.
pub(crate) struct Qbench {
    command: Command,
    base: PathBuf,
}

/// How it ended.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A folder for a test, short enough for Unix sockets in it, gone afterwards.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("qb").rand_bytes(4).tempdir_in("/tmp").unwrap()
}

impl Qbench {
    /// `qbench ARGS`, run in `folder`, which also holds everything it makes.
    pub(crate) fn new(folder: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qbench"));
        command
            .args(args)
            .current_dir(folder)
            .env("TMPDIR", folder)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        Self { command, base: folder.to_owned() }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn spawn(mut self) -> Running {
        let mut child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
        Running { child, stdout, stderr, base: self.base }
    }

    pub(crate) fn run(self) -> Outcome {
        self.spawn().wait()
    }
}

/// A qbench that is still running.
pub(crate) struct Running {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
    base: PathBuf,
}

impl Running {
    /// Waits until something that it starts carries its mark, i.e. the work is under way.
    pub(crate) fn wait_until_it_started_something(&self) {
        let deadline = Instant::now() + LONGEST;
        while marked_processes(&self.base).is_empty() {
            assert!(Instant::now() < deadline, "nothing was started");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait(mut self) -> Outcome {
        let deadline = Instant::now() + LONGEST;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                let wrote = self.stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                panic!("it hung; it wrote:\n{wrote}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text =
            |stream: &mpsc::Receiver<String>| stream.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
        let code = status.code().or_else(|| status.signal().map(|signal| -signal));
        Outcome { code, stdout: text(&self.stdout), stderr: text(&self.stderr) }
    }
}

fn drain(mut stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.by_ref().read_to_end(&mut bytes);
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

impl Outcome {
    #[track_caller]
    pub(crate) fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn exits_with_one_of(self, codes: &[i32]) -> Self {
        let found = self.code.is_some_and(|code| codes.contains(&code));
        assert!(found, "exit code {:?}\nstdout:\n{}\nstderr:\n{}", self.code, self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn stderr_has(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in stderr:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn stdout_has(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text),
            "no {text:?} in stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e} in stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr))
    }
}

/// The pids of all processes whose mark lies below a folder.
pub(crate) fn marked_processes(base: &Path) -> Vec<i32> {
    let prefix = format!("QBENCH_SANDBOX={}", base.display());
    procfs::process::all_processes()
        .unwrap()
        .flatten()
        .filter(|process| {
            fs::read(format!("/proc/{}/environ", process.pid)).is_ok_and(|environ| {
                environ.split(|byte| *byte == 0).any(|entry| entry.starts_with(prefix.as_bytes()))
            })
        })
        .map(|process| process.pid)
        .collect()
}

/// Nothing of ours runs any more, and no session's folder is left.
#[track_caller]
pub(crate) fn assert_nothing_is_left(base: &Path) {
    assert_eq!(marked_processes(base), Vec::<i32>::new(), "processes are left");
    let sessions = base.join(format!("qbench-{}", rustix::process::getuid().as_raw()));
    let left: Vec<_> =
        fs::read_dir(sessions).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "folders are left: {left:?}");
}

/// The demo workload, ready in a folder: one HTTP service with two instances, one with one, and a worker.
pub(crate) fn demo_in(folder: &Path) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/demo");
    copy_tree(&demo, folder);
}

/// Copies a folder's files.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Whether an engine must be there (then its absence fails the test) or may be absent (then the test says so).
pub(crate) fn engine_is_required(name: &str) -> bool {
    std::env::var("QBENCH_TEST_REQUIRE")
        .is_ok_and(|required| required.split(',').any(|engine| engine == name))
}

/// Whether a runtime is usable here, by `qbench doctor`'s own word. Panics when it is required and absent.
pub(crate) fn has_runtime(name: &str) -> bool {
    let folder = folder();
    let outcome = Qbench::new(folder.path(), &["doctor"]).run().exits_with(0);
    let line = outcome.stdout.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap().to_owned();
    let usable = !line.contains("STANDING IN")
        && line.starts_with(&format!("{name}: {name} "))
        && !line.contains("not usable");
    assert!(usable || !engine_is_required(name), "{name} is required and not usable: {line}");
    if !usable {
        eprintln!("skipped: {line}");
    }
    usable
}
