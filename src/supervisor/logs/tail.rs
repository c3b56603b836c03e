//! The last lines of a log.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

const BLOCK_BYTES: usize = 64 * 1024;
/// Beyond this fewer lines are returned than were asked for, the first of them perhaps cut.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// The last `lines` lines of a file, the unfinished one included, without their ends. Reads backwards from the end,
/// at most 8 MiB.
///
/// # Errors
/// When the file cannot be opened or read.
pub fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let file = File::open(path)?;
    let mut start = file.metadata()?.len();
    // The blocks from the last to the first.
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    let (mut newlines, mut bytes) = (0, 0);
    // One more newline than lines: the one before the first of them.
    while start > 0 && newlines <= lines && bytes < MOST_BYTES && lines > 0 {
        let length = start.min(BLOCK_BYTES as u64);
        start -= length;
        let mut block = vec![0; length as usize];
        match file.read_exact_at(&mut block, start) {
            // Truncated meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        newlines += block.split(|byte| *byte == b'\n').count() - 1;
        bytes += block.len();
        blocks.push(block);
    }
    blocks.reverse();
    let text = blocks.concat();
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    if text.is_empty() && bytes == 0 {
        return Ok(Vec::new());
    }
    let mut found: Vec<String> = text
        .rsplit(|byte| *byte == b'\n')
        .take(lines)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::tail;

    #[test]
    fn the_last_lines_are_found_wherever_blocks_begin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let all: Vec<String> = (0..20_000).map(|number| format!("line {number}")).collect();
        fs::write(&path, all.join("\n") + "\n").unwrap();
        for lines in [1, 7, 6_000, 19_999, 20_000, 30_000] {
            assert_eq!(tail(&path, lines).unwrap(), all[20_000_usize.saturating_sub(lines)..]);
        }
        assert!(tail(&path, 0).unwrap().is_empty());
        fs::write(&path, "a\n\nb").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["", "b"]);
        fs::write(&path, "\n").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), [""]);
        fs::write(&path, "").unwrap();
        assert!(tail(&path, 2).unwrap().is_empty());
        assert!(tail(&folder.path().join("none"), 2).is_err());
    }
}
