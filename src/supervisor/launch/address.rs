//! The listen addresses of the configuration: `8080`, `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock`.
//!
//! Deliberately absent: names. A name may mean several addresses, and another one tomorrow.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ListenAddress {
    /// A port of every address of the host: both families where the host has both.
    Port(u16),
    /// One address; `[::]` means both families, as for a bare port.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
}

/// Why a text is no listen address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no listen address: {problem}")]
pub(crate) struct AddressError {
    pub(crate) text: String,
    pub(crate) problem: Problem,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("expected a port, ADDRESS:PORT, [ADDRESS]:PORT or unix:/PATH")]
    Form,
    #[error("a port is a number from 1 to 65535")]
    Port,
    #[error("port 0 would be another port at every start")]
    PortZero,
    #[error("an IPv6 address needs brackets, as in [::1]:8080")]
    Brackets,
    #[error("write the address as a number; a name may mean several")]
    Name,
    #[error("the path must begin with /")]
    RelativePath,
    #[error("the path of a Unix socket has at most 107 bytes and no NUL")]
    Path,
}

/// The room for a path in `sockaddr_un`, less the NUL.
const MAX_PATH_BYTES: usize = 107;

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parsed = match text.strip_prefix("unix:") {
            Some(path) => unix(path),
            None => tcp(text),
        };
        parsed.map_err(|problem| AddressError { text: text.to_owned(), problem })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "{port}"),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn unix(path: &str) -> Result<ListenAddress, Problem> {
    if !path.starts_with('/') {
        return Err(Problem::RelativePath);
    }
    if path.len() > MAX_PATH_BYTES || path.contains('\0') {
        return Err(Problem::Path);
    }
    Ok(ListenAddress::Unix(Path::new(path).to_path_buf()))
}

fn tcp(text: &str) -> Result<ListenAddress, Problem> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(Problem::PortZero) } else { Ok(ListenAddress::Tcp(address)) };
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return port(text).map(ListenAddress::Port);
    }
    let Some((host, number)) = text.rsplit_once(':') else { return Err(Problem::Form) };
    if text.parse::<std::net::Ipv6Addr>().is_ok() || (host.contains(':') && !host.starts_with('[')) {
        return Err(Problem::Brackets);
    }
    port(number)?;
    let a_name = host.bytes().any(|byte| byte.is_ascii_alphabetic()) && !host.starts_with('[');
    Err(if a_name { Problem::Name } else { Problem::Form })
}

fn port(text: &str) -> Result<u16, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(0) => Err(Problem::PortZero),
        Ok(port) if digits => Ok(port),
        _ => Err(Problem::Port),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::path::PathBuf;

    use proptest::prelude::{any, proptest};

    use super::{ListenAddress, Problem};

    fn problem(text: &str) -> Problem {
        text.parse::<ListenAddress>().unwrap_err().problem
    }

    #[test]
    fn the_four_forms() {
        assert_eq!("8080".parse(), Ok(ListenAddress::Port(8080)));
        let v4 = "127.0.0.1:8080";
        assert_eq!(v4.parse(), Ok(ListenAddress::Tcp(v4.parse().unwrap())));
        let v6 = "[::1]:8080";
        assert_eq!(v6.parse(), Ok(ListenAddress::Tcp(v6.parse().unwrap())));
        assert_eq!("unix:/run/a.sock".parse(), Ok(ListenAddress::Unix(PathBuf::from("/run/a.sock"))));
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, expected) in [
            ("", Problem::Form),
            ("localhost", Problem::Form),
            ("localhost:80", Problem::Name),
            ("0", Problem::PortZero),
            ("127.0.0.1:0", Problem::PortZero),
            ("65536", Problem::Port),
            ("127.0.0.1:", Problem::Port),
            ("127.0.0.1:+80", Problem::Port),
            ("1.2.3:80", Problem::Form),
            ("::1", Problem::Brackets),
            ("::1:8080", Problem::Brackets),
            ("[::1]:99999", Problem::Port),
            ("unix:run/a.sock", Problem::RelativePath),
            ("unix:/a\0b", Problem::Path),
        ] {
            assert_eq!(problem(text), expected, "{text:?}");
        }
        assert_eq!(problem(&format!("unix:/{}", "x".repeat(107))), Problem::Path);
        let error = "localhost:80".parse::<ListenAddress>().unwrap_err();
        assert!(error.to_string().contains("\"localhost:80\" is no listen address"));
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_back(ip in any::<IpAddr>(), port in 1_u16.., path in "/[ -~é]{0,50}") {
            for address in [
                ListenAddress::Port(port),
                ListenAddress::Tcp(SocketAddr::new(ip, port)),
                ListenAddress::Unix(PathBuf::from(path)),
            ] {
                assert_eq!(address.to_string().parse(), Ok(address));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,120}") {
            let _ = text.parse::<ListenAddress>();
        }
    }
}
