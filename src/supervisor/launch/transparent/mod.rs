//! The transparent mode: an app that knows nothing of us keeps its listening sockets across reloads.
//!
//! # Theory of operation
//! The wrapper installs a seccomp filter that stops `bind` and `listen` of the app and everything it starts until a
//! [`Notifier`] has answered. For a TCP `bind` to a fixed port, the supervisor makes a socket of its own for (address,
//! generation), puts it in the place of the app's descriptor and answers "done"; at `listen` it listens itself, which is also how
//! it learns that the app is ready. All instances of one generation share one socket, and so one queue: none starves, and a
//! crash loses only what the crashed instance had accepted. Anything else is left to the kernel and behaves as ever.
//!
//! A reload starts the next generation, which gets a second socket on the same address. [`steer`] moves new connections to
//! it in one step; then [`Drain`] watches until the old processes have answered all that was theirs, and only then are they
//! stopped and is the old socket [`retire`]d. An app needs no signal handler to lose nothing. The old and the new processes
//! exist side by side, all instances of them: one instance at a time would leave the old queue to the old ones that remain, and
//! suits only apps that stop accepting and drain when asked to stop, for which a second generation is not needed at all.
//!
//! # Order in the group
//! The kernel numbers the sockets of an address in the order in which they began to listen, and fills the gap a leaving
//! one makes with the last. With two, the order is then always that of their generations. So no third generation
//! gets a socket of its own while two listen (it shares the newest one), an old process that listens late gets the newest one,
//! and a socket leaves by `shutdown`, which works even where a forgotten child still has it open. Nothing of this is remembered:
//! it is read off the sockets, so a supervisor that takes over needs only them.
//!
//! # When the supervisor dies
//! The keeper holds the listener, the page into which the kernel writes the pending call ([`Notifier::page`]), and the
//! sockets. An app in `bind` waits for the next supervisor, which does the pending call again: every step can be repeated. If
//! the keeper dies too, calls fail with `ENOSYS`.
//!
//! # What it needs, and its limits
//! Linux 5.9, x86-64 or aarch64, and the right to trace the app: root, or the same user (with Yama's `ptrace_scope` 1 the
//! app itself, not its children, by [`Orders::tracer`](super::Orders); with 2 and 3 root). Without that right the call is left
//! to the kernel and an event says so. No new privileges: `sudo` and file capabilities do not work inside. Port 0, UDP, Unix
//! sockets, sockets bound to a device, other network namespaces, 32-bit programs and `io_uring` are left alone. A duplicate of
//! the descriptor made before `bind` stays the app's own, unbound socket. An address that the app closes for good stays open
//! here until the supervisor retires it, and a client that binds a fixed port before it connects would keep its connection: not
//! for such apps. Busy keep-alive connections are not drained by this:
//! whoever stops an app decides how long to wait for them. Not a security boundary: between our look and the kernel's, a
//! hostile app can change its arguments.

mod bind;
mod caller;
mod diag;
mod drain;
mod filter;
mod notifier;
mod options;
mod reload;
mod sockaddr;
mod sockets;

pub(crate) use drain::{Drain, Remaining, remaining};
pub(crate) use filter::{install, supported};
pub(crate) use notifier::{Notifier, TransparentEvent};
pub(crate) use reload::{retire, steer};
pub(crate) use sockets::{HeldSocket, ListenSockets};
#[cfg(test)]
pub(crate) use {notifier::Unmanaged, reload::is_listening};

use super::sys;
