//! Giving back the pages of our own program that only its start needed.
//!
//! The kernel maps code around each place that is reached, and keeps it mapped. A supervisor waits most of the time, so
//! that is most of the memory it would otherwise have. Code that is needed again is mapped again, from the page cache.

use std::{fs, ops::Range};

use super::sys;

/// Lets go of the pages of our code. It is a saving only, so nothing of it is an error.
pub(super) fn let_go() {
    let own = fs::read_link("/proc/self/exe").ok();
    let Some(own) = own.as_deref().and_then(|path| path.to_str()) else { return };
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    for code in maps.lines().filter_map(|line| code(line, own)) {
        sys::let_go(code);
    }
}

/// The addresses of a line of `/proc/self/maps`, if it is of our own code.
fn code(line: &str, own: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let is_own = line.ends_with(own) && rights == "r-xp";
    let (start, end) = range.split_once('-').filter(|_| is_own)?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_our_own_is_let_go() {
        let line = |rights: &str, path: &str| format!("1000-3000 {rights} 003f9000 fe:00 5310964    {path}");
        assert_eq!(code(&line("r-xp", "/bin/own"), "/bin/own"), Some(0x1000..0x3000));
        assert_eq!(code(&line("r--p", "/bin/own"), "/bin/own"), None);
        assert_eq!(code(&line("rw-p", "/bin/own"), "/bin/own"), None);
        assert_eq!(code(&line("r-xp", "/lib/libc.so.6"), "/bin/own"), None);
        assert_eq!(code("", "/bin/own"), None);
    }

    #[test]
    fn the_program_runs_on() {
        let_go();
        assert_eq!(format!("{:?}", "x".repeat(3)), "\"xxx\"");
    }
}
