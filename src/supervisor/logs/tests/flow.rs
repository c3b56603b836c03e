//! Streams as they come and go.

use std::{fs, io::Write, os::fd::OwnedFd, thread};

use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

use super::{super::Format, JournalFds, LogNews, Rig, Stream, Target, assert_exactly, numbered, wait_until};

#[test]
fn a_plain_stream_is_written_at_once_and_to_its_end() {
    let mut rig = Rig::new();
    let mut writer = rig.attach(1, rig.target("sub/folder/a.log"));
    writer.write_all(b"prompt: ").unwrap();
    rig.wait_for_text("sub/folder/a.log", "prompt: ");
    writer.write_all(b"yes\nno end").unwrap();
    drop(writer);
    rig.wait_for_end(1);
    assert_eq!(rig.text("sub/folder/a.log"), "prompt: yes\nno end");
    // The next process does not go on in the line.
    let mut writer = rig.attach(2, rig.target("sub/folder/a.log"));
    writer.write_all(b"next\n").unwrap();
    rig.wait_for_text("sub/folder/a.log", "prompt: yes\nno end\nnext\n");
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let _writer = rig.attach(1, rig.target("sub/a.log"));
    wait_until("the file", || rig.path("sub/a.log").exists());
    assert_eq!(fs::metadata(rig.path("sub")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(rig.path("sub/a.log")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_framed_stream_waits_for_the_line_and_is_completed_at_its_end() {
    let mut rig = Rig::new();
    let format = Format { timestamp: Some("[T]".to_owned()), json: false };
    let target = Target { format, combined: Some(rig.path("both.log")), ..rig.target("a.log") };
    let mut writer = rig.attach(1, target.clone());
    let mut errors = rig.attach(2, Target { file: Some(rig.path("b.log")), out: false, ..target });
    writer.write_all(b"one\ntw").unwrap();
    rig.wait_for_text("a.log", "T: one\n");
    errors.write_all(b"bad\n").unwrap();
    rig.wait_for_text("b.log", "T: bad\n");
    writer.write_all(b"o\nthree").unwrap();
    drop(writer);
    rig.wait_for_end(1);
    assert_eq!(rig.text("a.log"), "T: one\nT: two\nT: three\n");
    assert_eq!(rig.text("both.log"), "T: one\nT: bad\nT: two\nT: three\n");
}

#[test]
fn json_lines_name_the_stream() {
    let mut rig = Rig::new();
    let format = Format { timestamp: None, json: true };
    let mut writer = rig.attach(1, Target { format, instance: 7, out: false, ..rig.target("a.log") });
    writer.write_all(b"a \"b\"\n").unwrap();
    drop(writer);
    rig.wait_for_end(1);
    let text = rig.text("a.log");
    assert!(text.starts_with("{\"message\":\"a \\\"b\\\"\",\"timestamp\":\"20"), "{text}");
    assert!(text.ends_with("Z\",\"type\":\"err\",\"process_id\":7,\"app_name\":\"app\"}\n"), "{text}");
}

#[test]
fn what_goes_nowhere_is_consumed() {
    let mut rig = Rig::new();
    let mut writer = rig.attach(1, Target::default());
    writer.write_all(&vec![b'x'; 3 << 20]).unwrap();
    drop(writer);
    rig.wait_for_end(1);
}

#[test]
fn finish_closes_a_pipe_that_a_descendant_still_holds() {
    for (id, shared) in [(1, false), (2, true)] {
        let mut rig = Rig::new();
        let mut writer = rig.attach(id, Target { shared, ..rig.target("a.log") });
        let mut descendant = writer.try_clone().unwrap();
        writer.write_all(b"a\nlast words").unwrap();
        drop(writer);
        rig.mover.finish(id);
        rig.wait_for_end(id);
        assert_eq!(rig.text("a.log").trim_end(), "a\nlast words");
        assert!(descendant.write_all(b"x").is_err(), "the pipe is still open");
    }
}

#[test]
fn finish_ends_even_if_a_descendant_floods() {
    let mut rig = Rig::new();
    let mut descendant = rig.attach(1, Target { shared: true, ..rig.target("a.log") });
    let flood =
        thread::spawn(
            move || while descendant.write_all(&[b"y".repeat(999), vec![b'\n']].concat()).is_ok() {},
        );
    wait_until("the flood", || !rig.text("a.log").is_empty());
    rig.mover.finish(1);
    rig.wait_for_end(1);
    flood.join().unwrap();
}

#[test]
fn a_line_longer_than_the_pipe_passes_in_pieces() {
    for (capacity_factor, pieces) in [(0.9, 1), (2.5, 2)] {
        let mut rig = Rig::new();
        let format = Format { timestamp: Some("[T]".to_owned()), json: false };
        let mut writer = rig.attach(1, Target { format, ..rig.target("a.log") });
        writer.write_all(b"first\n").unwrap();
        rig.wait_for_text("a.log", "T: first\n");
        let capacity = fcntl_getpipe_size(&writer).unwrap();
        let line = vec![b'z'; (capacity as f64 * capacity_factor) as usize];
        writer.write_all(&line).unwrap();
        writer.write_all(b"\nshort\n").unwrap();
        drop(writer);
        rig.wait_for_end(1);
        let text = rig.text("a.log");
        let found: Vec<&str> = text.lines().skip(1).collect();
        assert!(found.len() > pieces && found.iter().all(|line| line.starts_with("T: ")));
        assert_eq!(found.last(), Some(&"T: short"));
        assert_eq!(text.matches('z').count(), line.len());
        if pieces == 1 {
            assert_eq!(found.len(), 2);
        }
    }
}

#[test]
fn a_flood_does_not_starve_the_others() {
    let rig = Rig::new();
    let mut flooding = Vec::new();
    for id in 0..3 {
        let mut writer = rig.attach(id, Target { shared: id == 1, ..rig.target(&format!("{id}.log")) });
        flooding.push(thread::spawn(move || {
            let lines = [b"f".repeat(99), vec![b'\n']].concat().repeat(600);
            let mut written = 0;
            while written < 60 << 20 && writer.write_all(&lines).is_ok() {
                written += lines.len();
            }
        }));
    }
    let mut quiet = rig.attach(9, rig.target("quiet.log"));
    let mut expected = String::new();
    for number in 0..20 {
        let line = format!("{number}\n");
        quiet.write_all(line.as_bytes()).unwrap();
        expected += &line;
        rig.wait_for_text("quiet.log", &expected);
    }
    drop(rig.mover);
    for flood in flooding {
        // Their pipes are closed, so they end.
        flood.join().unwrap();
    }
}

/// A reload: the old and the new process of an instance write the same file for a while.
#[test]
fn two_plain_streams_that_meet_in_a_file_tear_no_line() {
    let mut rig = Rig::new();
    let write = |id: u64, mut writer: fs::File| {
        thread::spawn(move || {
            let text: String = (0..6000).map(|number| numbered(id, number) + "\n").collect();
            for piece in text.as_bytes().chunks(777) {
                writer.write_all(piece).unwrap();
            }
        })
    };
    let old = write(1, rig.attach(1, rig.target("a.log")));
    wait_until("the first lines", || rig.text("a.log").len() > 5000);
    let new = write(2, rig.attach(2, rig.target("a.log")));
    old.join().unwrap();
    new.join().unwrap();
    rig.wait_for_end(1);
    rig.wait_for_end(2);
    assert_exactly("a.log", rig.text("a.log").as_bytes(), str::to_owned, &[(1, 6000), (2, 6000)]);
}

#[test]
fn an_unfinished_line_holds_others_up_only_for_a_while() {
    let rig = Rig::new();
    let mut first = rig.attach(1, rig.target("a.log"));
    first.write_all(b"prompt: ").unwrap();
    rig.wait_for_text("a.log", "prompt: ");
    let mut second = rig.attach(2, rig.target("a.log"));
    second.write_all(b"other\n").unwrap();
    rig.wait_for_text("a.log", "prompt: \nother\n");
    first.write_all(b"answer\n").unwrap();
    rig.wait_for_text("a.log", "prompt: \nother\nanswer\n");
}

#[test]
fn files_are_opened_again_at_the_end_of_a_line() {
    let rig = Rig::new();
    let mut plain = rig.attach(1, rig.target("a.log"));
    let mut framed = rig.attach(2, Target { shared: true, ..rig.target("b.log") });
    plain.write_all(b"on").unwrap();
    framed.write_all(b"1\n").unwrap();
    rig.wait_for_text("a.log", "on");
    rig.wait_for_text("b.log", "1\n");
    for name in ["a.log", "b.log"] {
        fs::rename(rig.path(name), rig.path(&format!("{name}.1"))).unwrap();
    }
    framed.write_all(b"2\n").unwrap();
    rig.wait_for_text("b.log.1", "1\n2\n");
    rig.mover.reopen();
    plain.write_all(b"e\ntwo\n").unwrap();
    framed.write_all(b"3\n").unwrap();
    rig.wait_for_text("b.log", "3\n");
    rig.wait_for_text("a.log", "two\n");
    rig.wait_for_text("a.log.1", "one\n");
}

#[test]
fn a_log_or_its_folder_may_be_removed_or_emptied() {
    let rig = Rig::new();
    let mut plain = rig.attach(1, rig.target("sub/a.log"));
    let mut framed = rig.attach(2, Target { shared: true, app: "b".to_owned(), ..rig.target("sub/b.log") });
    let mut both = |text: &str| {
        plain.write_all(text.as_bytes()).unwrap();
        framed.write_all(text.as_bytes()).unwrap();
    };
    both("1\n");
    rig.wait_for_text("sub/a.log", "1\n");
    rig.wait_for_text("sub/b.log", "1\n");
    fs::remove_dir_all(rig.path("sub")).unwrap();
    both("2\n");
    rig.wait_for_text("sub/a.log", "2\n");
    rig.wait_for_text("sub/b.log", "2\n");
    // As logrotate's copytruncate does.
    fs::OpenOptions::new().write(true).truncate(true).open(rig.path("sub/a.log")).unwrap();
    both("3\n");
    rig.wait_for_text("sub/a.log", "3\n");
    rig.wait_for_text("sub/b.log", "2\n3\n");
    assert_eq!(rig.mover.truncate(Some("b")).blocking_recv(), Ok(1));
    assert_eq!(rig.text("sub/b.log"), "");
    assert_eq!(rig.text("sub/a.log"), "3\n");
    assert_eq!(rig.mover.truncate(None).blocking_recv(), Ok(2));
    both("4\n");
    rig.wait_for_text("sub/a.log", "4\n");
    rig.wait_for_text("sub/b.log", "4\n");
}

#[test]
fn a_log_that_links_elsewhere_is_written_there() {
    let rig = Rig::new();
    fs::create_dir(rig.path("real")).unwrap();
    std::os::unix::fs::symlink(rig.path("real/a.log"), rig.path("a.log")).unwrap();
    let mut one = rig.attach(1, rig.target("a.log"));
    let mut two = rig.attach(2, rig.target("real/a.log"));
    one.write_all(b"1\n").unwrap();
    rig.wait_for_text("real/a.log", "1\n");
    two.write_all(b"2\n").unwrap();
    rig.wait_for_text("real/a.log", "1\n2\n");
}

#[test]
fn stop_moves_what_is_there_and_leaves_the_rest_to_the_successor() {
    let rig = Rig::new();
    let (pipe, writer) = super::a_pipe();
    let keeper: OwnedFd = pipe.try_clone().unwrap();
    let mut writer = fs::File::from(writer);
    rig.mover.attach(Stream { id: 1, pipe, target: Target { shared: true, ..rig.target("a.log") } });
    let lines = "a line\n".repeat(5000);
    writer.write_all(lines.as_bytes()).unwrap();
    writer.write_all(b"unfini").unwrap();
    let Rig { folder, mover, news, .. } = rig;
    mover.stop();
    assert_eq!(fs::read_to_string(folder.path().join("a.log")).unwrap(), lines);
    drop(news);
    writer.write_all(b"shed\n").unwrap();
    let mut left = [0; 20];
    let bytes = rustix::io::read(&keeper, &mut left).unwrap();
    assert_eq!(&left[..bytes], b"unfinished\n");
}

#[test]
fn a_descriptor_that_is_no_pipe_ends_at_once() {
    let mut rig = Rig::new();
    let file: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    rig.mover.attach(Stream { id: 5, pipe: file, target: rig.target("a.log") });
    rig.wait_for_news(|news| matches!(news, LogNews::Ended(5)));
}

/// As for a user whose pipes are used up.
#[test]
fn pipes_may_be_tiny() {
    let journal = JournalFds::create().unwrap();
    fcntl_setpipe_size(&journal.staging.0, 2 * 4096).unwrap();
    let mut rig = Rig::with(journal);
    let text: String = (0..9000).map(|number| numbered(1, number) + "\n").collect();
    let mut writer = rig.attach(1, Target { shared: true, ..rig.target("a.log") });
    for piece in text.as_bytes().chunks(2049) {
        writer.write_all(piece).unwrap();
    }
    drop(writer);
    rig.wait_for_end(1);
    assert_exactly("a.log", rig.text("a.log").as_bytes(), str::to_owned, &[(1, 9000)]);
}
