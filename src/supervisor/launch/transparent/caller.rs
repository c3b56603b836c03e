//! The app that waits in `bind` or `listen`: its socket and its memory, from the outside.
//!
//! Every look goes through numbers that can be reused once the caller is gone, so nothing found here counts before
//! [`is_waiting`](super::sys::is_waiting) has said afterwards that the caller still waits.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::sockaddr::MAX_BYTES;
use super::sys::Notification;

/// A caller and the stream socket it names.
pub(super) struct Caller {
    thread: u32,
    pub(super) process: u32,
    pub(super) descriptor: u32,
    pub(super) family: AddressFamily,
    socket: OwnedFd,
    flags: u32,
    capabilities: u64,
}

impl Caller {
    /// Finds out who calls. `None` when the descriptor is no TCP socket.
    pub(super) fn find(call: &Notification) -> io::Result<Option<Self>> {
        // The kernel takes an `int`, whatever the upper half of the register holds.
        let descriptor = call.arguments[0] as u32;
        let Ok(number) = i32::try_from(descriptor) else { return Ok(None) };
        let status = fs::read_to_string(format!("/proc/{}/status", call.thread))?;
        // A process descriptor is made from the process's number, and a call tells the thread's.
        let process = field(&status, "Tgid:", 10).ok_or(io::ErrorKind::InvalidData)?;
        let capabilities = field(&status, "CapEff:", 16).unwrap_or(0);
        let process = u32::try_from(process).map_err(|_| io::ErrorKind::InvalidData)?;
        let pid = Pid::from_raw(process.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let socket = match rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) {
            Err(rustix::io::Errno::BADF) => return Ok(None),
            socket => socket?,
        };
        let Some(family) = tcp_family(socket.as_fd()) else { return Ok(None) };
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", call.thread))?;
        let flags = field(&info, "flags:", 8).ok_or(io::ErrorKind::InvalidData)? as u32;
        Ok(Some(Self { thread: call.thread, process, descriptor, family, socket, flags, capabilities }))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// `O_NONBLOCK` of its descriptor.
    pub(super) fn nonblocking(&self) -> bool {
        self.flags & libc::O_NONBLOCK.cast_unsigned() != 0
    }

    /// `FD_CLOEXEC` of its descriptor.
    pub(super) fn close_on_exec(&self) -> bool {
        self.flags & libc::O_CLOEXEC.cast_unsigned() != 0
    }

    /// Reads the address that the call points to.
    pub(super) fn read_address(&self, call: &Notification) -> io::Result<Vec<u8>> {
        let length = call.arguments[2] as u32 as usize;
        if length > MAX_BYTES {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; length];
        File::open(format!("/proc/{}/mem", self.thread))?.read_exact_at(&mut bytes, call.arguments[1])?;
        Ok(bytes)
    }

    /// Whether it lives in our network. Its sockets could not be replaced by ours otherwise.
    pub(super) fn shares_network(&self) -> bool {
        self.shares("net")
    }

    /// Whether the kernel would let it have this port. We may have more rights than it, and must not lend them.
    pub(super) fn may_bind(&self, port: u16) -> bool {
        const CAP_NET_BIND_SERVICE: u32 = 10;
        let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1024);
        port >= first_free || (self.capabilities & (1 << CAP_NET_BIND_SERVICE) != 0 && self.shares("user"))
    }

    /// Whether it already has this very socket open.
    pub(super) fn has_open(&self, socket: BorrowedFd<'_>) -> bool {
        rustix::fs::fstat(socket).is_ok_and(|found| socket_inodes(self.process).contains(&found.st_ino))
    }

    fn shares(&self, namespace: &str) -> bool {
        let theirs = fs::read_link(format!("/proc/{}/ns/{namespace}", self.thread));
        let ours = fs::read_link(format!("/proc/self/ns/{namespace}"));
        matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
    }
}

/// The inodes of all sockets that a process has open; none when it is gone.
pub(super) fn socket_inodes(process: u32) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { return BTreeSet::new() };
    let inode = |entry: io::Result<fs::DirEntry>| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(inode).collect()
}

/// The family of a TCP socket; multipath TCP counts, since it falls back to TCP with any peer.
fn tcp_family(socket: BorrowedFd<'_>) -> Option<AddressFamily> {
    const MPTCP: u32 = 262;
    let family = sockopt::socket_domain(socket).ok()?;
    let inet = [AddressFamily::INET, AddressFamily::INET6].contains(&family);
    let stream = sockopt::socket_type(socket).ok()? == SocketType::STREAM;
    let protocol = sockopt::socket_protocol(socket).ok()?.map(|protocol| protocol.as_raw().get());
    let tcp = [libc::IPPROTO_TCP.cast_unsigned(), MPTCP].map(Some).contains(&protocol);
    (inet && stream && tcp).then_some(family)
}

/// The number after a key in one of the kernel's lists of lines.
fn field(text: &str, key: &str, radix: u32) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    u64::from_str_radix(value.split_whitespace().next()?, radix).ok()
}
