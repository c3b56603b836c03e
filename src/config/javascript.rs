//! Ecosystem files that are programs: Node is asked what they export.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use serde_json::Value;

use super::{ecosystem::known_words, error::ConfigError, programs, source::Source};

const LIMIT: Duration = Duration::from_secs(10);
/// A grandchild may hold the pipes open after Node has ended.
const PIPES_AFTER_EXIT: Duration = Duration::from_millis(500);
const MOST_OUTPUT_BYTES: u64 = 4 << 20;
/// What the file itself prints comes before this.
const MARK: &str = "\u{1e}qbench-ecosystem:";
/// `require` is what PM2 itself uses; a `.mjs` file can only be imported.
const PROGRAM: &str = r#"
const file = process.argv[1];
const show = (value) => process.stdout.write(
  "\u001eqbench-ecosystem:" + JSON.stringify(value, (_, v) => typeof v === "function" ? undefined : v));
if (file.endsWith(".mjs")) import(require("url").pathToFileURL(file)).then((m) => show(m.default ?? m));
else show(require(file));
"#;

/// Runs the file in Node and returns what it exports.
pub(super) fn evaluate(source: &Source) -> Result<Value, ConfigError> {
    evaluate_within(source, LIMIT)
}

fn evaluate_within(source: &Source, limit: Duration) -> Result<Value, ConfigError> {
    let failed = |message: String| ConfigError::new(message).in_file(&source.shown_as);
    let node = programs::on_path("node").ok_or_else(|| {
        failed("`node` is not on PATH, and an ecosystem file in JavaScript needs it".to_owned())
            .help("install Node.js, or write the file as ecosystem.json")
    })?;
    let path =
        std::path::absolute(&source.shown_as).map_err(|error| failed(format!("no such path: {error}")))?;
    let mut command = Command::new(node);
    command.arg("-e").arg(PROGRAM).arg(&path).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(format!("`node` cannot be started: {error}")))?;
    let stdout = collected(child.stdout.take());
    let stderr = collected(child.stderr.take());
    let is_over = ends_within(&child, limit);
    // The group is killed either way: what the file started in the background is not to outlive us.
    if let Ok(pid) = i32::try_from(child.id())
        && let Some(group) = Pid::from_raw(pid)
    {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().map_err(|error| failed(format!("`node` cannot be waited for: {error}")))?;
    match is_over {
        Ok(true) => {}
        Ok(false) => {
            return Err(failed(format!("the file was not evaluated within {limit:?}"))
                .help("an ecosystem file should only describe apps; look for a loop or an open connection"));
        }
        Err(error) => return Err(failed(format!("`node` cannot be waited for: {error}"))),
    }
    let stdout = stdout.recv_timeout(PIPES_AFTER_EXIT).unwrap_or_default();
    let stderr = stderr.recv_timeout(PIPES_AFTER_EXIT).unwrap_or_default();
    let exported = String::from_utf8_lossy(&stdout);
    let exported = exported.rsplit_once(MARK).map(|(_, exported)| exported);
    match exported {
        Some(exported) if status.success() => serde_json::from_str(exported).map_err(|_| {
            failed("the file exports nothing".to_owned())
                .help("end it with `module.exports = { apps: [ … ] }`")
        }),
        _ => Err(thrown(source, &String::from_utf8_lossy(&stderr))),
    }
}

fn collected(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is still of use.
            let _ = pipe.take(MOST_OUTPUT_BYTES).read_to_end(&mut bytes);
        }
        // Nobody listens any more once the evaluation was given up.
        let _ = sender.send(bytes);
    });
    receiver
}

fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The error as Node reports it: the first line may name a line of the file, a later one names the error. Quoted
/// parts of it are left out, since they may be values.
fn thrown(source: &Source, stderr: &str) -> ConfigError {
    let is_error = |line: &&str| {
        line.split_once(':').is_some_and(|(class, _)| class.ends_with("Error") && !class.contains(' '))
            || line.contains("Error [")
    };
    let what = stderr.lines().find(is_error).unwrap_or("node ended with an error");
    let what = what.split(['\'', '"', '`']).next().unwrap_or_default().trim_end();
    let message = format!("the file cannot be evaluated: {what}");
    let hint = format!(
        "try `node -p \"require('./{}')\"`",
        source.shown_as.file_name().unwrap_or_default().display()
    );
    let path = std::path::absolute(&source.shown_as).unwrap_or_default();
    let line = stderr.lines().find_map(|line| {
        let after = line.split_once(&format!("{}:", path.display()))?.1;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    });
    match line {
        Some(line) => {
            let start = source.offset(line.saturating_sub(1), 0);
            let text = source.text[start..].lines().next().unwrap_or_default();
            let indent = text.len() - text.trim_start().len();
            source.syntax_error(message, start + indent..start + text.len(), &known_words())
        }
        None => ConfigError::new(message).in_file(&source.shown_as),
    }
    .help(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(text: &str) -> Result<Value, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ecosystem.config.js");
        std::fs::write(&path, text).unwrap();
        evaluate(&Source::read(&path).unwrap())
    }

    #[test]
    fn what_is_thrown_is_told_without_values() {
        let error = evaluated("module.exports = {\n  env: { TOKEN: 'a' hunter2 }\n};\n").unwrap_err();
        assert_eq!(error.message(), "the file cannot be evaluated: SyntaxError: Unexpected identifier");
        assert_eq!(error.position().map(|(line, _)| line), Some(2));
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = evaluated("\n\nthrow new Error('no');").unwrap_err();
        assert_eq!(error.message(), "the file cannot be evaluated: Error: no");
        let error = evaluated("module.exports = undefined").unwrap_err();
        assert_eq!(error.message(), "the file exports nothing");
        let error = evaluated("process.exit(0)").unwrap_err();
        assert_eq!(error.message(), "the file cannot be evaluated: node ended with an error");
    }

    #[test]
    fn a_file_without_an_end_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ecosystem.config.js");
        std::fs::write(&path, "for (;;) {}").unwrap();
        let source = Source::read(&path).unwrap();
        let error = evaluate_within(&source, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.message(), "the file was not evaluated within 300ms");
    }

    #[test]
    fn a_background_process_of_the_file_does_not_keep_us_waiting() {
        let value = evaluated(
            "require('child_process').spawn('sleep', ['600'], { stdio: 'inherit' }).unref();
             module.exports = { apps: [] };",
        );
        assert_eq!(value.unwrap(), serde_json::json!({ "apps": [] }));
    }
}
