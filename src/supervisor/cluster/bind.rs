//! Listening sockets: made, bound, and told apart.
//!
//! Deliberately absent: who uses them (`listener`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
        listen, netdevice::name_to_index, socket_with, sockopt,
    },
};

use super::{
    channel::{duplicate, lift},
    query::Host,
};

/// How a TCP socket shares its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// With nobody.
    Alone,
    /// With other sockets of this user's that are bound the same way.
    Group,
}

/// A TCP socket that listens. Without a host: on every address, as Node does it.
pub(super) fn listen_tcp(
    host: Option<&Host>,
    port: u16,
    only_v6: bool,
    backlog: i32,
    sharing: Sharing,
) -> Result<OwnedFd, Errno> {
    let socket = bind_tcp(host, port, only_v6, sharing)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// A TCP socket that is bound but does not listen yet.
pub(super) fn bind_tcp(
    host: Option<&Host>,
    port: u16,
    only_v6: bool,
    sharing: Sharing,
) -> Result<OwnedFd, Errno> {
    let Some(host) = host else {
        let any = |ip| Host { ip, zone: None };
        return bind_tcp(Some(&any(Ipv6Addr::UNSPECIFIED.into())), port, only_v6, sharing)
            .or_else(|_| bind_tcp(Some(&any(Ipv4Addr::UNSPECIFIED.into())), port, only_v6, sharing));
    };
    let socket = internet_socket(host.ip, SocketType::STREAM, only_v6)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if sharing == Sharing::Group {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &resolve(&socket, host, port)?)?;
    Ok(socket)
}

/// One more socket of the group that is bound to this address.
pub(super) fn join_group(address: SocketAddr, only_v6: bool, backlog: i32) -> Result<OwnedFd, Errno> {
    let socket = internet_socket(address.ip(), SocketType::STREAM, only_v6)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// A UDP socket.
pub(super) fn bind_udp(host: &Host, port: u16, only_v6: bool, reuse_address: bool) -> Result<OwnedFd, Errno> {
    let socket = internet_socket(host.ip, SocketType::DGRAM, only_v6)?;
    sockopt::set_socket_reuseaddr(&socket, reuse_address)?;
    bind(&socket, &resolve(&socket, host, port)?)?;
    Ok(socket)
}

/// A Unix socket that listens. A file that a dead socket left behind gives way; anything else that is there stays.
pub(super) fn listen_unix(path: &Path, backlog: i32) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = new_socket(AddressFamily::UNIX, SocketType::STREAM)?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_stale(path, &address) => {
            rustix::fs::unlink(path)?;
            bind(&socket, &address)?;
        }
        other => other?,
    }
    listen(&socket, backlog)?;
    Ok(socket)
}

/// The descriptor that the process was given, for a worker.
pub(super) fn inherit(descriptor: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let socket = duplicate(descriptor)?;
    fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
    Ok(socket)
}

/// The next connection that waits at a listening socket, if one does.
pub(super) fn accept(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    loop {
        match accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(connection) => return lift(connection).ok(),
            // The client is gone already; the next one may be there.
            Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
            Err(_) => return None,
        }
    }
}

/// Where a TCP socket is bound.
pub(super) fn bound_to(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok())
}

/// Device and inode of a socket's file: another file at the same path is not ours.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = path.symlink_metadata().ok()?;
    metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
}

/// Whether a connection to one of these addresses could have reached the other.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    one.port() == other.port() && (one.ip() == other.ip() || any(one.ip()) || any(other.ip()))
}

fn internet_socket(ip: IpAddr, kind: SocketType, only_v6: bool) -> Result<OwnedFd, Errno> {
    let family = if ip.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = new_socket(family, kind)?;
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    Ok(socket)
}

fn new_socket(family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
    lift(socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

fn resolve(socket: &OwnedFd, host: &Host, port: u16) -> Result<SocketAddr, Errno> {
    match (host.ip, &host.zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            let scope =
                zone.parse().or_else(|_| name_to_index(socket.as_fd(), zone)).map_err(|_| Errno::INVAL)?;
            Ok(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        (ip, _) => Ok(SocketAddr::new(ip, port)),
    }
}

/// Whether the file is a socket's at which nobody listens any more.
fn is_stale(path: &Path, address: &SocketAddrUnix) -> bool {
    identity(path).is_some()
        && new_socket(AddressFamily::UNIX, SocketType::STREAM)
            .is_ok_and(|client| connect(&client, address) == Err(Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost() -> Host {
        Host { ip: Ipv4Addr::LOCALHOST.into(), zone: None }
    }

    #[test]
    fn only_a_stale_file_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = listen_unix(&path, 1).unwrap();
        assert_eq!(listen_unix(&path, 1).unwrap_err(), Errno::ADDRINUSE);
        drop(first);
        let second = listen_unix(&path, 1).unwrap();
        assert!(identity(&path).is_some());
        drop(second);
        let file = folder.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert_eq!(listen_unix(&file, 1).unwrap_err(), Errno::ADDRINUSE);
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
        let long = folder.path().join("x".repeat(120));
        assert_eq!(listen_unix(&long, 1).unwrap_err(), Errno::NAMETOOLONG);
    }

    #[test]
    fn alone_means_alone() {
        let first = listen_tcp(Some(&localhost()), 0, false, 1, Sharing::Group).unwrap();
        let address = bound_to(first.as_fd()).unwrap();
        assert_eq!(
            bind_tcp(Some(&localhost()), address.port(), false, Sharing::Alone).unwrap_err(),
            Errno::ADDRINUSE
        );
        assert_eq!(bind_tcp(None, address.port(), false, Sharing::Alone).unwrap_err(), Errno::ADDRINUSE);
        join_group(address, false, 1).unwrap();
        let other = Host { ip: "203.0.113.7".parse().unwrap(), zone: None };
        assert_eq!(bind_tcp(Some(&other), 0, false, Sharing::Alone).unwrap_err(), Errno::ADDRNOTAVAIL);
    }

    #[test]
    fn addresses_overlap() {
        for (one, other, expected) in [
            ("[::]:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "0.0.0.0:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:80", true),
        ] {
            assert_eq!(overlap(one.parse().unwrap(), other.parse().unwrap()), expected, "{one} {other}");
        }
    }
}
