//! The last lines of a log file, without reading the rest of it.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// What is read of a file at most.
const TAIL_BYTES: u64 = 64 << 10;

/// The last lines of a file, at most `lines`; none when there is no such file. Bytes that are not UTF-8 are replaced.
pub(crate) fn last_lines(path: &Path, lines: usize) -> Vec<String> {
    let Ok(bytes) = tail(path) else { return Vec::new() };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    // The file may be growing.
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, format!("{}\nbut one\nlast\n", "x".repeat(1 << 20))).unwrap();
        assert_eq!(last_lines(&path, 2), ["but one", "last"]);
        assert_eq!(last_lines(&path, 9).len(), 3);
        assert!(last_lines(&dir.path().join("none"), 2).is_empty());
    }
}
