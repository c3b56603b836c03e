//! Memory of one process from `/proc/PID/smaps_rollup`.

use std::{fs, io};

use crate::model::{measurement::Memory, units::Bytes};

/// `None` when the process is gone; an error when it is there and may not be read.
pub(super) fn read(pid: u32) -> Option<Result<Memory, io::Error>> {
    match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        Ok(text) => Some(Ok(parse(&text))),
        // ESRCH: it ended, or is a kernel thread; both have no memory of their own.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => None,
        Err(e) => Some(Err(e)),
    }
}

fn parse(text: &str) -> Memory {
    let kib = |key: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok()
            })
            .map_or(Bytes(0), Bytes::from_kib)
    };
    let anonymous = kib("Pss_Anon").saturating_add(kib("Pss_Shmem")).saturating_add(kib("SwapPss"));
    Memory { anonymous, pss: kib("Pss"), rss: kib("Rss") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gated_figure_is_anonymous_shared_and_swapped() {
        let text = "55d-7ff ---p 0 00:00 0 [rollup]\nRss:     42300 kB\nPss:      9400 kB\nPss_Dirty: 1 kB\n\
                    Pss_Anon: 6000 kB\nPss_File: 3000 kB\nPss_Shmem: 100 kB\nSwap: 7 kB\nSwapPss: 5 kB\n";
        let memory = parse(text);
        assert_eq!(memory.anonymous, Bytes::from_kib(6105));
        assert_eq!(memory.pss, Bytes::from_kib(9400));
        assert_eq!(memory.rss, Bytes::from_kib(42300));
    }
}
