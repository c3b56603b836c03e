//! Which file a program's name means.

use std::{
    env, fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The program of that name on PATH.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether this is a file that may be executed.
pub(super) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// What the beginning of a file says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Machine code or the like.
    Binary,
    /// Text whose first line names an interpreter.
    Interpreted(String),
    /// Any other text.
    Text,
}

/// Looks at the beginning of a file. One that cannot be read counts as a program, which can be executed unread.
pub(super) fn content(path: &Path) -> Content {
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(512).read_to_end(&mut head));
    if read.is_err() || head.contains(&0) {
        return Content::Binary;
    }
    let text = String::from_utf8_lossy(&head);
    match text.lines().next().and_then(|line| line.strip_prefix("#!")) {
        Some(interpreter) => Content::Interpreted(interpreter.trim().to_owned()),
        None => Content::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_path() {
        let sh = on_path("sh").unwrap();
        assert!(sh.is_absolute() && is_executable(&sh));
        assert_eq!(content(&sh), Content::Binary);
        assert_eq!(on_path("no-such-program-here"), None);
        assert_eq!(on_path("/bin/sh"), None);
    }
}
