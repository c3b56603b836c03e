//! Lines that apps write while the supervisor's processes die: each is in the file once, whole and in order.

use std::path::Path;

use super::{
    Supervisor,
    fixture::{named, out_log, python, with_env},
    supervisor::{AppSpec, InstanceState, Request, Select},
};

/// Writes numbered lines without a pause until told to end, and then how many it has written.
const COUNTER: &str = "
import os, signal, sys, time
told = False
def tell(*_):
    global told
    told = True
signal.signal(signal.SIGINT, tell)
count, pause, tail = 0, float(os.environ['PAUSE']), 'x' * int(os.environ['TAIL'])
while not told:
    sys.stdout.write(f'{count} {tail}\\n'); sys.stdout.flush()
    count += 1
    if pause: time.sleep(pause)
open(f'count-{os.environ[\"INSTANCE\"]}', 'w').write(str(count))
";

fn counter(dir: &Path, pause: &str, tail: &str) -> AppSpec {
    with_env(python(dir, COUNTER), &[("PAUSE", pause), ("TAIL", tail)])
}

/// How many lines the instance says it has written.
fn written(supervisor: &Supervisor, instance: u32) -> usize {
    supervisor.folder.read(&format!("count-{instance}")).parse().unwrap()
}

fn assert_counts(lines: &[String], count: usize, tail: usize) {
    let tail = "x".repeat(tail);
    assert_eq!(lines.len(), count);
    for (number, line) in lines.iter().enumerate() {
        assert!(*line == format!("{number} {tail}"), "line {number} is {line:?}");
    }
}

#[tokio::test]
async fn none_is_lost_when_the_brain_or_the_keeper_dies() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    supervisor.run(vec![AppSpec { instances: 2, ..counter(&dir, "0.0003", "40") }]).await;
    supervisor.lines(&out_log(&dir, 0), 100).await;
    for _ in 0..4 {
        supervisor.kill_brain().await;
        let have = supervisor.lines(&out_log(&dir, 0), 1).await.len();
        supervisor.lines(&out_log(&dir, 0), have + 100).await;
        supervisor.kill_brain().await;
        supervisor.kill_keeper().await;
    }
    supervisor.done(Request::Stop(Select::All)).await;
    for instance in 0..2 {
        let count = written(&supervisor, instance);
        assert_counts(&supervisor.lines(&out_log(&dir, instance), count).await, count, 40);
    }
    supervisor.end().await;
}

#[tokio::test]
async fn none_is_lost_of_merged_files_that_are_transformed() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let mut spec = AppSpec { instances: 2, ..counter(&dir, "0.001", "10") };
    spec.logs.merge = true;
    spec.logs.date_format = Some("YYYY".to_owned());
    supervisor.run(vec![spec]).await;
    let file = dir.join("out.log");
    for round in 1..=5 {
        supervisor.lines(&file, round * 200).await;
        supervisor.kill_brain().await;
    }
    supervisor.done(Request::Stop(Select::All)).await;
    let counts = [written(&supervisor, 0), written(&supervisor, 1)];
    let lines = supervisor.lines(&file, counts[0] + counts[1]).await;
    assert_eq!(lines.len(), counts[0] + counts[1]);
    // Each number is there once for each instance that got so far.
    let mut numbers: Vec<usize> = lines
        .iter()
        .map(|line| {
            let (_, rest) = line.split_once(": ").unwrap();
            rest.strip_suffix(" xxxxxxxxxx").unwrap().parse().unwrap()
        })
        .collect();
    numbers.sort_unstable();
    let mut expected: Vec<usize> = (0..counts[0]).chain(0..counts[1]).collect();
    expected.sort_unstable();
    assert!(numbers == expected);
    supervisor.end().await;
}

#[tokio::test]
async fn the_last_lines_of_one_that_ends_while_there_is_no_brain_are_kept() {
    let mut supervisor = Supervisor::new().await;
    let dir = supervisor.path().to_owned();
    let script = "
import os, time
while not os.path.exists('go'): time.sleep(0.002)
for i in range(2000): print(i)
";
    let mut spec = named("app", python(&dir, script));
    spec.restart.stop_exit_codes = vec![0];
    supervisor.run(vec![spec]).await;
    let identity = supervisor.identity().await;
    super::desk::kill(identity.brain);
    supervisor.folder.touch("go");
    supervisor.until(|r| r.state == InstanceState::Stopped).await;
    let lines = supervisor.lines(&out_log(&dir, 0), 2000).await;
    let expected: Vec<String> = (0..2000).map(|i| i.to_string()).collect();
    assert!(lines == expected);
    supervisor.end().await;
}
