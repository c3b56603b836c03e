//! Rotation by size and by the clock, compression, and how many files are kept.

use std::{
    fs::{self, File, FileTimes},
    io::Write,
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use jiff::{Timestamp, tz::TimeZone};
use tokio::sync::mpsc::unbounded_channel;

use super::{
    super::{
        Interval,
        rotation::{Calendar, rename_away, tidy},
        works::Works,
    },
    JournalFds, LogNews, Rig, Rotate, Target, assert_exactly, family, history, numbered, small, wait_until,
};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn compressed(path: &Path, text: &str) {
    let mut encoder = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn files_are_rotated_at_the_end_of_a_line_and_compressed() {
    for (id, shared) in [(1, false), (2, true)] {
        let mut rig = Rig::new();
        let mut writer =
            rig.attach(id, Target { shared, rotate: small(10_000, true), ..rig.target("a.log") });
        let text: String = (0..1000).map(|number| numbered(id, number) + "\n").collect();
        for piece in text.as_bytes().chunks(1111) {
            writer.write_all(piece).unwrap();
        }
        drop(writer);
        rig.wait_for_end(id);
        let path = rig.path("a.log");
        rig.wait_for_news(|news| *news == LogNews::Rotated { path: path.clone() });
        wait_until("compression", || {
            names(rig.folder.path()).iter().all(|name| name == "a.log" || name.ends_with(".log.gz"))
        });
        let files = family(&rig.path("a.log"));
        assert!(files.len() > 5, "{files:?}");
        assert_exactly("a.log", &history(&rig.path("a.log")), str::to_owned, &[(id, 1000)]);
        for file in files.iter().take(files.len() - 1) {
            let mut text = String::new();
            std::io::Read::read_to_string(
                &mut flate2::read::GzDecoder::new(File::open(file).unwrap()),
                &mut text,
            )
            .unwrap();
            assert!(text.ends_with('\n') && text.len() < 10_200, "{} bytes", text.len());
        }
    }
}

#[test]
fn a_line_longer_than_a_file_may_be_is_not_torn() {
    let mut rig = Rig::new();
    let mut writer = rig.attach(1, Target { rotate: small(5_000, false), ..rig.target("a.log") });
    let line = "y".repeat(200_000);
    write!(writer, "{line}\nshort\n").unwrap();
    drop(writer);
    rig.wait_for_end(1);
    let files = family(&rig.path("a.log"));
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), line + "\n");
    assert_eq!(rig.text("a.log"), "short\n");
}

#[test]
fn only_so_many_are_kept_and_the_newest_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let rotate = Rotate { keep: 3, gzip: true, ..Rotate::default() };
    for number in 0..12 {
        fs::write(&path, format!("{number}\n")).unwrap();
        // All within the same second, so the names need numbers.
        rename_away(&path, "2024-02-03_16-05-09").unwrap();
        tidy(&path, &rotate, &AtomicBool::new(false)).unwrap();
    }
    assert_eq!(String::from_utf8(history(&path)).unwrap(), "9\n10\n11\n");
}

#[test]
fn what_was_half_done_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let path = file("a.log");
    // Compressed, but the source not yet removed; half compressed; not begun.
    fs::write(file("a__2024-01-01_00-00-00.log"), "1\n").unwrap();
    compressed(&file("a__2024-01-01_00-00-00.log.gz"), "1\n");
    fs::write(file("a__2024-01-02_00-00-00.log"), "2\n").unwrap();
    fs::write(file("a__2024-01-02_00-00-00.log.gz.tmp"), "half").unwrap();
    fs::write(file("a__2024-01-02_00-00-00-1.log"), "3\n").unwrap();
    let others =
        ["a.log", "a__b.log", "a__2024-01-01_00-00-0x.log", "ab__2024-01-01_00-00-00.log", "a__.log"];
    for other in others {
        fs::write(file(other), "other\n").unwrap();
    }
    tidy(&path, &Rotate::default(), &AtomicBool::new(true)).unwrap();
    assert!(file("a__2024-01-02_00-00-00.log").exists(), "stopped, so not begun");
    tidy(&path, &Rotate::default(), &AtomicBool::new(false)).unwrap();
    let mut expected: Vec<String> = others.iter().map(|name| (*name).to_owned()).collect();
    expected.extend(
        ["01-01_00-00-00", "01-02_00-00-00", "01-02_00-00-00-1"].map(|name| format!("a__2024-{name}.log.gz")),
    );
    expected.sort();
    assert_eq!(names(folder.path()), expected);
    for other in others {
        assert_eq!(fs::read_to_string(file(other)).unwrap(), "other\n");
        fs::remove_file(file(other)).unwrap();
    }
    assert_eq!(history(&path), b"1\n2\n3\n");
}

#[test]
fn files_of_yesterday_are_rotated() {
    let age = |path: &Path| {
        let then = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(then)).unwrap();
    };
    let rotate = Rotate { every: Some(Interval::Daily), gzip: false, ..Rotate::default() };
    let rig = Rig::new();
    for (id, shared) in [(1, false), (2, true)] {
        let name = format!("{id}.log");
        fs::write(rig.path(&name), "old\n").unwrap();
        age(&rig.path(&name));
        let mut writer = rig.attach(id, Target { shared, rotate: rotate.clone(), ..rig.target(&name) });
        writer.write_all(b"new\n").unwrap();
        rig.wait_for_text(&name, "new\n");
        assert_eq!(history(&rig.path(&name)), b"old\nnew\n");
    }
    // Without anything being written.
    let (news, _told) = unbounded_channel();
    let mut works = Works::new(JournalFds::create().unwrap(), news).unwrap();
    let path = rig.path("idle.log");
    fs::write(&path, "old\n").unwrap();
    age(&path);
    works.obtain(path.clone(), &rotate);
    assert!(works.rotates_by_clock());
    works.rotate_idle();
    works.rotate_idle();
    works.close();
    assert_eq!(family(&path).len(), 2);
    assert_eq!(rig.text("idle.log"), "");
}

#[test]
fn hours_and_days_begin_by_the_local_clock() {
    let mut calendar = Calendar::new(TimeZone::posix("IST-5:30").unwrap());
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    for (now, hour, day) in [
        ("2024-02-03T16:05:09Z", "2024-02-03T15:30:00Z", "2024-02-02T18:30:00Z"),
        ("2024-02-03T18:29:59Z", "2024-02-03T17:30:00Z", "2024-02-02T18:30:00Z"),
        ("2024-02-03T18:30:00Z", "2024-02-03T18:30:00Z", "2024-02-03T18:30:00Z"),
        // The clock was set back.
        ("2024-02-03T18:29:59Z", "2024-02-03T17:30:00Z", "2024-02-02T18:30:00Z"),
    ] {
        assert_eq!(calendar.began(Interval::Hourly, at(now)), at(hour).as_second(), "{now}");
        assert_eq!(calendar.began(Interval::Daily, at(now)), at(day).as_second(), "{now}");
    }
    assert_eq!(calendar.file_stamp(at("2024-02-03T16:05:09Z")), "2024-02-03_21-35-09");
}
