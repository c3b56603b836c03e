//! Runs a runtime's own command line tools: `pm2`, `docker-compose`.
//!
//! Deliberately absent: long-lived processes, and any reading of what a command means by its output.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::RuntimeError;

/// What is kept of each stream at most; the answers that are parsed are some kilobytes an instance.
const OUTPUT_LIMIT_BYTES: usize = 16 << 20;
/// The lines of output that an error carries.
const ERROR_LINES: usize = 20;
/// A daemon that a command leaves behind may hold its pipes for ever; what it writes later is not the answer.
const PIPES_AFTER_EXIT: Duration = Duration::from_millis(500);

/// A command to run to its end.
#[derive(Clone, Debug)]
pub(crate) struct CommandLine {
    /// The program, absolute or on PATH.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The folder it runs in.
    pub cwd: PathBuf,
    /// Variables laid over those that qbench itself was started with.
    pub env: BTreeMap<String, String>,
}

/// What a command wrote before it ended well. Bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command in a process group of its own, so that a Ctrl-C at the terminal reaches qbench alone. The group
/// is killed when `limit` has passed, and when the future is dropped.
///
/// # Errors
/// [`RuntimeError::System`] when it cannot be started, [`RuntimeError::Command`] when it ends badly,
/// [`RuntimeError::TimedOut`] when it is not done within `limit`.
pub(crate) async fn run(command: &CommandLine, limit: Duration) -> Result<Finished, RuntimeError> {
    let failed =
        |source: io::Error| RuntimeError::System { action: format!("run `{}`", command.describe()), source };
    let mut child = command.spawn().map_err(failed)?;
    let mut group = Group::of(&child);
    let ended = timeout(limit, finish(&mut child, &mut group)).await;
    let Ok(ended) = ended else {
        drop(group);
        // Just killed: it is only reaped here, so that no zombie of ours stays.
        let _ = child.wait().await;
        return Err(RuntimeError::TimedOut { what: format!("`{}`", command.describe()), limit });
    };
    let (status, finished) = ended.map_err(failed)?;
    if status.success() {
        return Ok(finished);
    }
    let output = if finished.stderr.trim().is_empty() { &finished.stdout } else { &finished.stderr };
    Err(RuntimeError::Command {
        command: command.describe(),
        status: status.to_string(),
        output: last_lines(output),
    })
}

impl CommandLine {
    /// Without its environment, which may hold secrets.
    fn describe(&self) -> String {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str());
        let mut text = name.to_string_lossy().into_owned();
        for arg in &self.args {
            text.push(' ');
            text.push_str(arg);
        }
        text
    }

    fn spawn(&self) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.args)
            .current_dir(&self.cwd)
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
    }
}

/// Kills the process group when dropped, unless its leader has ended by itself.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// The leader is reaped: its id may soon be another's.
    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn finish(child: &mut Child, group: &mut Group) -> io::Result<(ExitStatus, Finished)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let reading = async { tokio::join!(read_end(stdout, &mut out), read_end(stderr, &mut err)) };
        tokio::pin!(reading);
        tokio::select! {
            status = child.wait() => {
                group.release();
                let _ = timeout(PIPES_AFTER_EXIT, reading).await;
                status
            }
            _ = &mut reading => {
                let status = child.wait().await;
                group.release();
                status
            }
        }
    }?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status, Finished { stdout: text(out), stderr: text(err) }))
}

/// Reads to the end, keeping the last of it when it is too long. A read error ends the stream like its end.
async fn read_end(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    while let Ok(1..) = stream.read_buf(into).await {
        if into.len() > OUTPUT_LIMIT_BYTES {
            into.drain(..into.len() - OUTPUT_LIMIT_BYTES / 2);
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> CommandLine {
        CommandLine {
            program: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            cwd: "/".into(),
            env: BTreeMap::from([("SECRET_WORD".to_owned(), "hunter2".to_owned())]),
        }
    }

    /// Whether a process group still has a member that runs.
    fn group_lives(id: &str) -> bool {
        let group: i32 = id.trim().parse().unwrap();
        procfs::process::all_processes()
            .unwrap()
            .flatten()
            .filter_map(|process| process.stat().ok())
            .any(|stat| stat.pgrp == group && stat.state != 'Z')
    }

    async fn read_when_written(path: &std::path::Path) -> String {
        for _ in 0..2000 {
            match std::fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("{} was never written", path.display());
    }

    #[tokio::test]
    async fn both_streams_and_the_environment_arrive() {
        let done = run(&shell("pwd; echo $SECRET_WORD >&2"), Duration::from_secs(20)).await.unwrap();
        assert_eq!(done, Finished { stdout: "/\n".to_owned(), stderr: "hunter2\n".to_owned() });
    }

    #[tokio::test]
    async fn a_failure_carries_its_status_and_the_end_of_its_output() {
        let script = "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i >&2; done; exit 3";
        let error = run(&shell(script), Duration::from_secs(20)).await.unwrap_err();
        let RuntimeError::Command { command, status, output } = error else { panic!("{error}") };
        assert_eq!(status, "exit status: 3");
        assert_eq!(output.lines().count(), ERROR_LINES);
        assert!(output.starts_with("line 31\n") && output.ends_with("\nline 50"), "{output}");
        assert!(command.starts_with("sh -c ") && !command.contains("hunter2"));
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let mut command = shell("");
        command.program = "/no/such/program".into();
        let error = run(&command, Duration::from_secs(20)).await.unwrap_err();
        assert!(matches!(error, RuntimeError::System { ref action, .. } if action.contains("program")));
    }

    #[tokio::test]
    async fn a_command_over_its_limit_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("group");
        let script = format!("echo $$ > {}; sleep 600 & sleep 600", file.display());
        let error = run(&shell(&script), Duration::from_millis(700)).await.unwrap_err();
        assert!(matches!(error, RuntimeError::TimedOut { .. }), "{error}");
        let group = read_when_written(&file).await;
        for _ in 0..2000 {
            if !group_lives(&group) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the group lives on");
    }

    #[tokio::test]
    async fn a_dropped_command_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("group");
        let command = shell(&format!("echo $$ > {}; sleep 600", file.display()));
        let group = tokio::select! {
            ended = run(&command, Duration::from_secs(600)) => panic!("{ended:?}"),
            group = read_when_written(&file) => group,
        };
        for _ in 0..2000 {
            if !group_lives(&group) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the group lives on");
    }

    #[tokio::test]
    async fn a_daemon_left_behind_holds_nothing_up() {
        let started = std::time::Instant::now();
        let done = run(&shell("sleep 60 & echo $!"), Duration::from_secs(50)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(30));
        let left = crate::model::process::ProcessId::find(done.stdout.trim().parse().unwrap()).unwrap();
        assert!(left.kill());
    }
}
