//! What an app has set on its socket before `bind`, carried over to ours.
//!
//! Connections inherit these from the socket that accepts them, so losing them would change how the app behaves. Deliberately
//! absent: options of other kinds than a number (`SO_LINGER`, the congestion control).

use std::os::fd::BorrowedFd;

use rustix::net::AddressFamily;

use super::sys;

/// Sets what differs. An option that cannot be set is no reason to fail: the app would rather run.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, family: AddressFamily) {
    let own = if family == AddressFamily::INET6 { INET6 } else { INET };
    for &(level, name) in COMMON.iter().chain(own) {
        let (wanted, present) = (sys::number_option(from, level, name), sys::number_option(to, level, name));
        if let (Ok(wanted), Ok(present)) = (wanted, present)
            && wanted != present
        {
            // The kernel answers with twice the size of a buffer that it was told.
            let halved = level == libc::SOL_SOCKET && [libc::SO_RCVBUF, libc::SO_SNDBUF].contains(&name);
            let _ = sys::set_number_option(to, level, name, if halved { wanted / 2 } else { wanted });
        }
    }
}

const COMMON: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
];
const INET: &[(i32, i32)] = &[(libc::IPPROTO_IP, libc::IP_TRANSPARENT)];
const INET6: &[(i32, i32)] = &[
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
];
