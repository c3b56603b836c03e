//! A file that cannot be written: the writers go on, and what is dropped is told exactly.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    thread::spawn,
};

use super::{LogNews, Rig, Target, numbered};

/// A small file system, most of which a file takes until it is [freed](SmallDisk::free).
pub(super) struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    pub(super) fn new(megabytes: usize, filler_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "qbench-test"])
            .arg(folder.path())
            .output()
            .unwrap();
        let disk = Self { folder };
        assert!(
            mounted.status.success(),
            "this test needs a small file system and could not mount one (root may): {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        disk.fill(filler_bytes);
        disk
    }

    /// Takes so much, or what there is.
    pub(super) fn fill(&self, bytes: usize) {
        let _ = fs::write(self.path("filler"), vec![0; bytes]);
    }

    pub(super) fn free(&self) {
        let _ = fs::remove_file(self.path("filler"));
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a failed test may still have files open; never mounted: nothing happens.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).output();
    }
}

/// Asserts that what is missing of these writers' lines is what the file says was dropped. With `may_tear`, a line
/// before a note may be cut, as it is when the disk fills up within it.
pub(super) fn assert_told(path: &Path, counts: &[(u64, u64)], may_tear: bool) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let mut next: Vec<(u64, u64)> = counts.iter().map(|(writer, _)| (*writer, 0)).collect();
    let (mut present, mut dropped) = (0, 0);
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if let Some(note) = line.strip_prefix("[qbench] ") {
            let (number, rest) = note.split_once(' ').unwrap();
            assert!(rest.contains(" dropped: "), "{line}");
            dropped += number.parse::<u64>().unwrap();
            continue;
        }
        let torn = may_tear && lines.get(at + 1).is_some_and(|next| next.starts_with("[qbench]"));
        let mut words = line.trim_start_matches("<w").split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (writer, number) = (number(), number());
        let (Some(writer), Some(number)) = (writer, number) else {
            assert!(torn, "{at}: {line:?} is no line");
            continue;
        };
        if *line != numbered(writer, number) {
            assert!(torn, "{at}: {line:?} is torn");
            continue;
        }
        let expected = next.iter_mut().find(|(known, _)| *known == writer).unwrap();
        assert!(expected.1 <= number, "{at}: {line:?} comes again");
        expected.1 = number + 1;
        present += 1;
    }
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(present + dropped, total, "{}: {present} there and {dropped} dropped", path.display());
    dropped
}

fn write(writer: u64, count: u64, mut pipe: File) {
    let text: String = (0..count).map(|number| numbered(writer, number) + "\n").collect();
    for piece in text.as_bytes().chunks(7001) {
        pipe.write_all(piece).unwrap();
    }
}

#[test]
fn a_full_disk_blocks_no_writer_and_what_is_dropped_is_told() {
    const LINES: u64 = 60_000;
    let disk = SmallDisk::new(8, 6 << 20);
    let mut rig = Rig::new();
    let target = |name: &str, shared| Target { file: Some(disk.path(name)), shared, ..Target::default() };
    let writers: Vec<_> =
        [(1, target("plain.log", false)), (2, target("both.log", true)), (3, target("both.log", true))]
            .into_iter()
            .map(|(id, target)| {
                let pipe = rig.attach(id, target);
                spawn(move || write(id, LINES, pipe))
            })
            .collect();
    let paused = rig.wait_for_news(|news| matches!(news, LogNews::Paused { .. }));
    let LogNews::Paused { reason, .. } = paused else { return };
    assert_eq!(reason, "no space left on device");
    // They come to their end although nothing can be written.
    for writer in writers {
        writer.join().unwrap();
    }
    disk.free();
    for id in 1..=3 {
        rig.wait_for_end(id);
    }
    let plain = assert_told(&disk.path("plain.log"), &[(1, LINES)], true);
    let both = assert_told(&disk.path("both.log"), &[(2, LINES), (3, LINES)], false);
    assert!(plain > 0 && both > 0, "{plain} and {both} dropped");
    let told: u64 = rig
        .told
        .iter()
        .map(|news| if let LogNews::Resumed { dropped_lines, .. } = news { *dropped_lines } else { 0 })
        .sum();
    assert_eq!(told, plain + both);
    let text = fs::read_to_string(disk.path("both.log")).unwrap();
    assert!(text.contains(" bytes) were dropped: no space left on device\n"));
}

#[test]
fn a_device_that_is_full_pauses() {
    let mut rig = Rig::new();
    let target = Target { file: Some("/dev/full".into()), ..Target::default() };
    let pipe = rig.attach(1, target);
    let writer = spawn(move || write(1, 60_000, pipe));
    rig.wait_for_news(
        |news| matches!(news, LogNews::Paused { reason, .. } if reason == "no space left on device"),
    );
    writer.join().unwrap();
}

#[test]
fn a_file_that_cannot_be_opened_is_tried_again() {
    let mut rig = Rig::new();
    fs::write(rig.path("folder"), "in the way").unwrap();
    let mut writer = rig.attach(1, rig.target("folder/a.log"));
    writer.write_all(b"one\n").unwrap();
    rig.wait_for_news(|news| matches!(news, LogNews::Paused { .. }));
    fs::remove_file(rig.path("folder")).unwrap();
    rig.wait_for_text("folder/a.log", "one\n");
    let path = rig.path("folder/a.log");
    rig.wait_for_news(|news| {
        *news == LogNews::Resumed { path: path.clone(), dropped_lines: 0, dropped_bytes: 0 }
    });
}

#[test]
fn processes_that_fail_in_a_loop_on_a_full_disk_leave_few_pipes() {
    let mut rig = Rig::new();
    for id in 0..40 {
        let mut writer = rig.attach(id, Target { file: Some("/dev/full".into()), ..Target::default() });
        writer.write_all(b"failed\n").unwrap();
    }
    for _ in 0..20 {
        rig.wait_for_news(|news| matches!(news, LogNews::Ended(_)));
    }
}
