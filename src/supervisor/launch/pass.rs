//! Sockets for apps that take descriptors: opened once here, passed to every instance, open across restarts.
//!
//! All instances share one socket per address, so there is no `SO_REUSEPORT`, which would hide a conflict. The sockets block:
//! `O_NONBLOCK` belongs to the shared open file, and whoever needs it sets it.
//!
//! Two conventions at once, as they do not meet: systemd's `LISTEN_FDS` (with `LISTEN_PID`, which only the wrapper can know) and
//! Einhorn's `EINHORN_FD_*`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::address::ListenAddress;
use super::sys;

/// The number of the first passed socket; the others follow without a gap.
pub(crate) const FIRST_PASSED: i32 = 3;

/// Why a listen address could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("cannot listen on {address}: {source}")]
    System { address: ListenAddress, source: io::Error },
    #[error("cannot listen on {address}: something that is no socket is in its place")]
    NotASocket { address: ListenAddress },
}

/// Opens a listening socket.
pub(crate) fn open_listener(address: &ListenAddress) -> Result<OwnedFd, ListenError> {
    let opened = match address {
        ListenAddress::Port(port) => open_port(*port),
        ListenAddress::Tcp(tcp) => open_tcp(*tcp),
        ListenAddress::Unix(path) => match clear_stale(path) {
            Ok(true) => open_unix(path),
            Ok(false) => return Err(ListenError::NotASocket { address: address.clone() }),
            Err(error) => Err(error),
        },
    };
    opened.map_err(|source| ListenError::System { address: address.clone(), source })
}

/// The variables that tell an app of `names.len()` sockets from [`FIRST_PASSED`] on. `LISTEN_PID` is missing: set
/// [`Orders::listen_pid`](super::Orders).
pub(crate) fn pass_environment(names: &[&str]) -> Vec<(String, String)> {
    let count = names.len().to_string();
    // The names are a list with colons between them, so they cannot contain one themselves.
    let names: Vec<_> =
        names.iter().map(|name| name.replace(|c: char| c == ':' || c.is_control(), "_")).collect();
    let mut variables = vec![
        ("LISTEN_FDS".into(), count.clone()),
        ("LISTEN_FDNAMES".into(), names.join(":")),
        ("EINHORN_FD_COUNT".into(), count),
    ];
    let numbers = (FIRST_PASSED..).zip(0..names.len());
    variables.extend(numbers.map(|(fd, index)| (format!("EINHORN_FD_{index}"), fd.to_string())));
    variables
}

/// As many as the kernel's own limit allows, 4096 by default: a restart must fit in.
const BACKLOG: i32 = i32::MAX;

fn open_port(port: u16) -> io::Result<OwnedFd> {
    match open_tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            open_tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        opened => opened,
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let socket = sys::duplicate_above(socket, sys::FLOOR)?;
    // Connections of an earlier life that wait out their time must not block the address.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Independent of the host's default.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn open_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    // The file takes the mode of the socket (less the umask), so at no instant can others connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes a socket file nobody listens on; false when something else is there.
fn clear_stale(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Ok(false);
    }
    let probe = unix_socket()?;
    // A listener with a full queue must not hold us up; it is a listener all the same.
    rustix::io::ioctl_fionbio(probe.as_fd(), true)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED) => std::fs::remove_file(path).map(|()| true),
        _ => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}

fn unix_socket() -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sys::duplicate_above(socket, sys::FLOOR)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::ListenAddress;
    use super::{ListenError, open_listener, pass_environment};

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn a_bare_port_serves_both_families() {
        let port = free_port();
        let socket = open_listener(&ListenAddress::Port(port)).unwrap();
        assert!(socket.as_raw_fd() >= 64);
        let listener = TcpListener::from(socket);
        TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"x").unwrap();
        let mut byte = [0];
        // Blocking, as the socket is passed on.
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        let again = open_listener(&ListenAddress::Tcp(([0, 0, 0, 0], port).into()));
        assert!(matches!(again, Err(ListenError::System { .. })));
        assert!(again.unwrap_err().to_string().contains("in use"));
    }

    #[test]
    fn a_unix_socket_replaces_only_a_stale_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let address = ListenAddress::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let held = open_listener(&address).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(open_listener(&address).unwrap_err().to_string().contains("in use"));
        UnixStream::connect(&path).unwrap();
        drop(held);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(open_listener(&address), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn sockets_close_on_exec() {
        let socket = open_listener(&ListenAddress::Tcp(([127, 0, 0, 1], free_port()).into())).unwrap();
        assert!(rustix::io::fcntl_getfd(socket.as_fd()).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn the_variables_of_two_sockets() {
        let variables = pass_environment(&["web", "unix:/a"]);
        let expected = [
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "web:unix_/a"),
            ("EINHORN_FD_COUNT", "2"),
            ("EINHORN_FD_0", "3"),
            ("EINHORN_FD_1", "4"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
