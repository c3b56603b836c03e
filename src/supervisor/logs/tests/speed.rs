//! How fast lines move; only told, as machines differ.

use std::{fs, io::Write, time::Instant};

use super::{super::Format, Rig, Target};

const LINE: &[u8; 100] =
    b"2024-02-03 a line of one hundred bytes, as an application might write it to its output, at length..\n";

fn measure(what: &str, bytes: usize, write_bytes: usize, target: impl Fn(&Rig) -> Target) {
    let mut rig = Rig::new();
    let mut writer = rig.attach(1, target(&rig));
    let piece = LINE.repeat(write_bytes / LINE.len());
    let began = Instant::now();
    for _ in 0..bytes / piece.len() {
        writer.write_all(&piece).unwrap();
    }
    drop(writer);
    rig.wait_for_end(1);
    let seconds = began.elapsed().as_secs_f64();
    let lines = (bytes / piece.len() * piece.len() / LINE.len()) as f64;
    assert_eq!(fs::read_to_string(rig.path("a.log")).unwrap().lines().count(), lines as usize);
    let megabytes = bytes as f64 / 1e6 / seconds;
    eprintln!("{what}: {megabytes:.0} MB/s, {:.2} million lines/s", lines / 1e6 / seconds);
}

#[test]
fn throughput_is_told() {
    let bytes = if cfg!(debug_assertions) { 16_000_000 } else { 400_000_000 };
    let with = |timestamp: Option<&str>, json, rig: &Rig| Target {
        format: Format { timestamp: timestamp.map(str::to_owned), json },
        rotate: super::small(0, false),
        ..rig.target("a.log")
    };
    measure("plain", bytes, 64_000, |rig| with(None, false, rig));
    measure("plain, a write per line", bytes / 4, 100, |rig| with(None, false, rig));
    measure("shared", bytes, 64_000, |rig| Target { shared: true, ..with(None, false, rig) });
    measure("shared, a write per line", bytes / 4, 100, |rig| Target {
        shared: true,
        ..with(None, false, rig)
    });
    measure("timestamps", bytes, 64_000, |rig| with(Some("YYYY-MM-DD HH:mm:ss.SSS Z"), false, rig));
    measure("JSON", bytes, 64_000, |rig| with(None, true, rig));
    let combined = |rig: &Rig| Target { combined: Some(rig.path("b.log")), ..with(None, false, rig) };
    measure("combined file too", bytes, 64_000, combined);
}
