//! Real kills: a process of this test binary runs the mover, is killed at random moments, and is followed by another
//! with the same descriptors, as the keeper would hand them over.

use std::{
    env,
    fs::File,
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, SystemTime},
};

use rustix::fs::{Mode, OFlags, open};

use super::{
    super::rotation::tidy, Dice, JournalFds, LogMover, LogNews, Stream, a_pipe, assert_plan, family,
    numbered, plan, wait_until,
};

const KILLS: u32 = 50;
const FOLDER: &str = "LOG_CHAOS_FOLDER";
const DESCRIPTORS: &str = "LOG_CHAOS_DESCRIPTORS";
/// So many bytes each writer writes at most.
const WRITER_BYTES: usize = 12 << 20;

/// Opens a descriptor of the test by its number, without `unsafe`. Not by inheritance: other tests of the same process
/// have all of its descriptors close on exec.
fn held(number: &str, flags: OFlags) -> OwnedFd {
    let parent = std::os::unix::process::parent_id();
    open(format!("/proc/{parent}/fd/{number}"), flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// The process that is killed; nothing when run as a test.
#[test]
fn child() {
    let (Ok(folder), Ok(descriptors)) = (env::var(FOLDER), env::var(DESCRIPTORS)) else { return };
    let numbers: Vec<&str> = descriptors.split(',').collect();
    let journal = JournalFds {
        memory: held(numbers[0], OFlags::RDWR),
        staging: (
            held(numbers[1], OFlags::RDONLY | OFlags::NONBLOCK),
            held(numbers[2], OFlags::WRONLY | OFlags::NONBLOCK),
        ),
    };
    let (mover, mut news) = LogMover::start(journal).unwrap();
    let targets = plan(Path::new(&folder), true);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut dice = Dice(now.as_nanos() as u64 | 1);
    let first = dice.below(targets.len() as u64) as usize;
    for offset in 0..targets.len() {
        let id = (first + offset) % targets.len();
        let pipe = held(numbers[3 + id], OFlags::RDONLY);
        mover.attach(Stream { id: id as u64, pipe, target: targets[id].clone() });
        sleep(Duration::from_micros(dice.below(1500)));
    }
    let mut ended = 0;
    while ended < targets.len() {
        match news.blocking_recv() {
            Some(LogNews::Ended(_)) => ended += 1,
            Some(_) => {}
            None => panic!("the mover is gone"),
        }
    }
}

/// A process that is killed at the end of the scope.
struct Life(Child);

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

fn start(folder: &Path, held: &[&OwnedFd]) -> Life {
    let numbers: Vec<String> = held.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let name = module_path!().split_once("::").unwrap().1.to_owned() + "::child";
    let child = Command::new(env::current_exe().unwrap())
        .args([&name, "--exact", "--test-threads=1", "--nocapture"])
        .env(FOLDER, folder)
        .env(DESCRIPTORS, numbers.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Life(child)
}

/// Writes numbered lines in pieces that end anywhere, in bursts; returns how many lines.
fn write(writer: u64, mut pipe: File, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    spawn(move || {
        let mut dice = Dice(writer * 77 + 1);
        let (mut count, mut written, mut text) = (0, 0, String::new());
        while !stop.load(Ordering::Relaxed) && written < WRITER_BYTES {
            for _ in 0..=dice.below(if writer == 7 { 20 } else { 400 }) {
                text += &numbered(writer, count);
                text.push('\n');
                count += 1;
            }
            let cut = dice.below(text.len() as u64) as usize;
            pipe.write_all(&text.as_bytes()[..cut]).unwrap();
            written += cut;
            text.drain(..cut);
            sleep(Duration::from_micros(dice.below(2500)));
        }
        pipe.write_all(text.as_bytes()).unwrap();
        count
    })
}

#[test]
fn killed_fifty_times_nothing_is_lost_doubled_or_torn() {
    let folder = tempfile::tempdir().unwrap();
    let journal = JournalFds::create().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut pipes, mut writers) = (Vec::new(), Vec::new());
    for writer in 0..plan(folder.path(), true).len() as u64 {
        let (pipe, end) = a_pipe();
        pipes.push(pipe);
        writers.push(write(writer, end.into(), Arc::clone(&stop)));
    }
    let mut descriptors = vec![&journal.memory, &journal.staging.0, &journal.staging.1];
    descriptors.extend(&pipes);
    let mut dice = Dice(4711);
    for _ in 0..KILLS {
        let life = start(folder.path(), &descriptors);
        sleep(Duration::from_micros(3000 + dice.below(50_000)));
        drop(life);
    }
    stop.store(true, Ordering::Relaxed);
    let mut last = start(folder.path(), &descriptors);
    let counts: Vec<u64> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    let json = folder.path().join("json.log");
    wait_until("the last to end", || last.0.try_wait().unwrap().is_some());
    assert!(last.0.wait().unwrap().success());
    // What the killed and the last left half compressed.
    tidy(&json, &plan(folder.path(), true)[7].rotate, &AtomicBool::new(false)).unwrap();
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
    let uncompressed = |name: &&String| name.starts_with("json__") && name.strip_suffix(".gz").is_none();
    assert_eq!(names.iter().find(uncompressed), None);
    eprintln!("{} lines, {} json files", counts.iter().sum::<u64>(), family(&json).len());
    assert!(family(&json).len() > 2, "nothing was rotated");
    assert_plan(folder.path(), &counts);
}
