//! Following logs as they grow.
//!
//! By polling: no descriptor per folder, no limit of watches, and it works on any file system. A file that was
//! renamed is read to its end before its successor is begun. Of several rotations between two looks only the oldest
//! and the newest file are seen: enough for a display, which is what this is for.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    time::Duration,
};

use tokio::time::sleep;

const PAUSE: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 64 * 1024;
/// A longer line is told in pieces.
const LINE_BYTES: usize = 1024 * 1024;
/// So much of a file's beginning tells whether it is still the same after it has shrunk.
const HEAD_BYTES: usize = 32;

/// A line that was added to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedLine {
    /// Which of the files, as they were given.
    pub file: usize,
    /// Without its newline.
    pub line: String,
}

/// Yields the lines that are added to files.
#[derive(Debug)]
pub struct Follow {
    files: Vec<Followed>,
    lines: VecDeque<FollowedLine>,
}

#[derive(Debug)]
struct Followed {
    path: PathBuf,
    file: Option<File>,
    inode: u64,
    at: u64,
    head: Vec<u8>,
    unfinished: Vec<u8>,
}

impl Follow {
    /// Begins at the present ends. A file that is not there yet is followed from its beginning.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = paths.into_iter().map(|path| {
            let mut file =
                Followed { path, file: None, inode: 0, at: 0, head: Vec::new(), unfinished: Vec::new() };
            // Not there: it is tried again at each look.
            let _ = file.open();
            file.at = file.length().unwrap_or(0);
            file
        });
        Self { files: files.collect(), lines: VecDeque::new() }
    }

    /// The next line of any of the files; waits for it. May be dropped and called again at any time.
    pub async fn next(&mut self) -> FollowedLine {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return line;
            }
            if !self.look() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Reads a bounded piece of each file; tells whether anything was read.
    fn look(&mut self) -> bool {
        let Self { files, lines } = self;
        let mut any = false;
        for (index, file) in files.iter_mut().enumerate() {
            // A file that cannot be read now may be readable at the next look.
            any |=
                file.look(&mut |line| lines.push_back(FollowedLine { file: index, line })).unwrap_or(false);
        }
        any
    }
}

impl Followed {
    fn open(&mut self) -> io::Result<()> {
        let file = File::open(&self.path)?;
        self.inode = file.metadata()?.ino();
        self.at = 0;
        self.file = Some(file);
        self.note_head()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.as_ref().map_or(Ok(0), |file| Ok(file.metadata()?.len()))
    }

    fn note_head(&mut self) -> io::Result<()> {
        let mut head = vec![0; HEAD_BYTES];
        if let Some(file) = &self.file {
            let bytes = file.read_at(&mut head, 0)?;
            head.truncate(bytes);
            self.head = head;
        }
        Ok(())
    }

    fn look(&mut self, tell: &mut impl FnMut(String)) -> io::Result<bool> {
        if self.file.is_none() {
            self.open()?;
        }
        self.check_shrunk()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let bytes = self.file.as_ref().map_or(Ok(0), |file| file.read_at(&mut chunk, self.at))?;
        if bytes > 0 {
            if self.head.len() < HEAD_BYTES {
                self.note_head()?;
            }
            self.at += bytes as u64;
            self.take(&chunk[..bytes], tell);
            return Ok(true);
        }
        let renamed = self.path.metadata().is_ok_and(|found| found.ino() != self.inode);
        if renamed && self.length()? <= self.at {
            if !self.unfinished.is_empty() {
                self.take(b"\n", tell);
            }
            self.open()?;
        }
        Ok(renamed)
    }

    /// A file that shrank was emptied, or an unfinished batch was cut off its end: then its beginning is the same.
    fn check_shrunk(&mut self) -> io::Result<()> {
        let length = self.length()?;
        if length >= self.at {
            return Ok(());
        }
        let known = std::mem::take(&mut self.head);
        self.note_head()?;
        let same = length > 0 && known.starts_with(&self.head);
        self.at = if same { length } else { 0 };
        self.unfinished.clear();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], tell: &mut impl FnMut(String)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            let ended = self.unfinished.last() == Some(&b'\n');
            if ended || self.unfinished.len() >= LINE_BYTES {
                if ended {
                    self.unfinished.pop();
                }
                tell(String::from_utf8_lossy(&self.unfinished).into_owned());
                self.unfinished.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::Path, time::Duration};

    use tokio::time::timeout;

    use super::Follow;

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    async fn next(follow: &mut Follow) -> (usize, String) {
        let line = timeout(Duration::from_secs(20), follow.next()).await.unwrap();
        (line.file, line.line)
    }

    #[tokio::test]
    async fn lines_are_followed_over_rotation_and_truncation() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.log"), folder.path().join("b.log"));
        append(&a, "old\n");
        let mut follow = Follow::new([a.clone(), b.clone()]);
        append(&a, "one\ntw");
        assert_eq!(next(&mut follow).await, (0, "one".to_owned()));
        append(&a, "o\n");
        assert_eq!(next(&mut follow).await, (0, "two".to_owned()));
        append(&b, "first of b\n");
        assert_eq!(next(&mut follow).await, (1, "first of b".to_owned()));
        append(&a, "three\nunfinished");
        fs::rename(&a, folder.path().join("a__.log")).unwrap();
        append(&a, "four\n");
        assert_eq!(next(&mut follow).await, (0, "three".to_owned()));
        assert_eq!(next(&mut follow).await, (0, "unfinished".to_owned()));
        assert_eq!(next(&mut follow).await, (0, "four".to_owned()));
        // Emptied and written again with something shorter.
        fs::write(&a, "5\n").unwrap();
        assert_eq!(next(&mut follow).await, (0, "5".to_owned()));
        append(&a, "6\n7\n");
        assert_eq!(next(&mut follow).await, (0, "6".to_owned()));
        assert_eq!(next(&mut follow).await, (0, "7".to_owned()));
        // Cut, as a successor of the mover does.
        fs::OpenOptions::new().write(true).open(&a).unwrap().set_len(4).unwrap();
        assert!(!follow.look());
        append(&a, "eight\n");
        assert_eq!(next(&mut follow).await, (0, "eight".to_owned()));
        follow.files.clear();
    }
}
