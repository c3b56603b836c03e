//! What is done about one `bind` or `listen` of an app.
//!
//! Every step can be done twice: a supervisor that takes over repeats the call its predecessor died in, wherever that was.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::caller::Caller;
use super::notifier::{TransparentEvent, Unmanaged};
use super::sockaddr::{self, Decoded};
use super::sockets::{Group, ListenSockets, Member};
use super::sys::{self, Answer, Notification};
use super::{filter, options, reload};

/// The answer to a call, and what the supervisor should know about it.
pub(super) struct Verdict {
    pub(super) answer: Answer,
    pub(super) event: Option<TransparentEvent>,
}

/// One call and what is needed to answer it.
pub(super) struct Desk<'a> {
    pub(super) listener: BorrowedFd<'a>,
    pub(super) generation: u64,
    pub(super) call: &'a Notification,
}

/// Why a call ends otherwise than with our socket.
enum Stop {
    /// The kernel does it.
    Leave(Option<Unmanaged>),
    /// The app is told this error.
    Refuse(SocketAddr, Errno),
}

impl Desk<'_> {
    pub(super) fn decide(&self, sockets: &mut dyn ListenSockets) -> Verdict {
        let caller = match Caller::find(self.call) {
            Ok(Some(caller)) => caller,
            Ok(None) => return Verdict { answer: Answer::Continue, event: None },
            Err(error) => return self.verdict(None, Err(unreadable(&error))),
        };
        let number = self.call.number.cast_unsigned();
        let done = match filter::CALLS {
            Some(calls) if number == calls.bind => self.bind(&caller, sockets),
            Some(calls) if number == calls.listen => self.listen(&caller, sockets),
            _ => Err(Stop::Leave(None)),
        };
        self.verdict(Some(caller.process), done)
    }

    fn verdict(&self, process: Option<u32>, done: Result<TransparentEvent, Stop>) -> Verdict {
        let process = process.unwrap_or(self.call.thread);
        match done {
            Ok(event) => Verdict { answer: Answer::Done, event: Some(event) },
            Err(Stop::Leave(reason)) => {
                let event = reason.map(|reason| TransparentEvent::Unmanaged { process, reason });
                Verdict { answer: Answer::Continue, event }
            }
            Err(Stop::Refuse(address, errno)) => {
                let error = io::Error::from(errno);
                let event = TransparentEvent::Refused { process, address, error };
                Verdict { answer: Answer::Fail(errno.raw_os_error()), event: Some(event) }
            }
        }
    }

    fn bind(&self, caller: &Caller, sockets: &mut dyn ListenSockets) -> Result<TransparentEvent, Stop> {
        let bytes = caller.read_address(self.call).map_err(|error| unreadable(&error))?;
        let Decoded::Inet(address) = sockaddr::decode(&bytes) else { return Err(Stop::Leave(None)) };
        if address.is_ipv6() != (caller.family == AddressFamily::INET6) {
            return Err(Stop::Leave(None));
        }
        let refuse = |errno| Stop::Refuse(address, errno);
        let process = caller.process;
        let cookie = sockopt::socket_cookie(caller.socket()).map_err(refuse)?;
        let group = group(sockets, address)?;
        if let Some(ours) = group.by_cookie(cookie) {
            // A predecessor died after it had put it there; or (before Linux 5.19) a signal took back the call that we had all
            // but answered. So to bind once more what is bound already succeeds.
            return Ok(TransparentEvent::Bound { process, address, generation: ours.generation });
        }
        check_manageable(caller, address)?;
        let v6only = v6only_of(caller.socket());
        let share = |newest: &Member<'_>, listening: usize| {
            // A third socket would upset the order of the group.
            newest.generation >= self.generation || listening >= 2
        };
        let listening = group.listening().count();
        let same = group.with_v6only(v6only).newest();
        let generation = match same.filter(|newest| share(newest, listening)) {
            Some(newest) => {
                let asks_to_share = sockopt::socket_reuseport(caller.socket()).unwrap_or(false);
                if !asks_to_share && caller.has_open(newest.socket) {
                    return Err(refuse(Errno::ADDRINUSE));
                }
                newest.generation
            }
            None => {
                let socket =
                    make(caller, address, same.is_some()).map_err(|error| refuse(errno_of(&error)))?;
                sockets
                    .keep(address, self.generation, socket)
                    .map_err(|error| Stop::Leave(Some(Unmanaged::NotKept(error))))?;
                self.generation
            }
        };
        let group = self::group(sockets, address)?.with_v6only(v6only);
        let ours = group.newest().ok_or(Stop::Leave(None))?;
        self.hand_over(caller, ours.socket).map_err(|error| refuse(errno_of(&error)))?;
        Ok(TransparentEvent::Bound { process, address, generation })
    }

    fn listen(&self, caller: &Caller, sockets: &mut dyn ListenSockets) -> Result<TransparentEvent, Stop> {
        let Some(address) = local_address(caller.socket()) else { return Err(Stop::Leave(None)) };
        let refuse = |errno| Stop::Refuse(address, errno);
        let process = caller.process;
        let cookie = sockopt::socket_cookie(caller.socket()).map_err(refuse)?;
        let group = group(sockets, address)?;
        let Some(mut ours) = group.by_cookie(cookie) else { return Err(Stop::Leave(None)) };
        let newer = group.listening().find(|member| member.generation > ours.generation);
        if let Some(newer) = newer.filter(|_| !ours.listening) {
            self.hand_over(caller, newer.socket).map_err(|error| refuse(errno_of(&error)))?;
            ours = newer;
        } else if let (Some(first), 1) = (group.listening().next(), group.listening().count())
            && first.cookie != cookie
        {
            // Ours joins the group as its second, and must not get a connection before somebody says so.
            reload::select(first.socket, 0).map_err(|error| refuse(errno_of(&error)))?;
        }
        if !sys::is_waiting(self.listener, self.call.id) {
            return Err(Stop::Leave(None));
        }
        // The kernel takes an `int`, and reads a negative one as "as many as allowed".
        rustix::net::listen(ours.socket, self.call.arguments[1] as i32).map_err(refuse)?;
        Ok(TransparentEvent::Listening { process, address, generation: ours.generation })
    }

    /// Puts our socket in the place of the caller's.
    fn hand_over(&self, caller: &Caller, socket: BorrowedFd<'_>) -> io::Result<()> {
        rustix::io::ioctl_fionbio(socket, caller.nonblocking())?;
        // Fails when the caller is gone, which is also the check that all we read was really its own.
        sys::replace_descriptor(
            self.listener,
            self.call.id,
            socket,
            caller.descriptor,
            caller.close_on_exec(),
        )
    }
}

/// Makes a socket of our own. Without `beside` it is bound without `SO_REUSEPORT`, so that a conflict with anybody else shows,
/// and gets the option afterwards for the generations to come.
fn make(caller: &Caller, address: SocketAddr, beside: bool) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(caller.family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let socket = sys::duplicate_above(socket, sys::FLOOR)?;
    options::copy(caller.socket(), socket.as_fd(), caller.family);
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, beside)?;
    rustix::net::bind(&socket, &address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    Ok(socket)
}

fn check_manageable(caller: &Caller, address: SocketAddr) -> Result<(), Stop> {
    let leave = |reason| Err(Stop::Leave(Some(reason)));
    if address.port() == 0 {
        return leave(Unmanaged::PortZero);
    }
    if !caller.shares_network() {
        return leave(Unmanaged::OtherNetwork);
    }
    if sys::number_option(caller.socket(), libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX)
        .is_ok_and(|index| index != 0)
    {
        return leave(Unmanaged::BoundToDevice);
    }
    if local_address(caller.socket()).is_some() {
        // Bound before; the kernel has the right error for it.
        return Err(Stop::Leave(None));
    }
    if !caller.may_bind(address.port()) {
        return Err(Stop::Refuse(address, Errno::ACCESS));
    }
    Ok(())
}

fn group(sockets: &dyn ListenSockets, address: SocketAddr) -> Result<Group<'_>, Stop> {
    Group::of(sockets, address).map_err(|error| Stop::Refuse(address, errno_of(&error)))
}

fn v6only_of(socket: BorrowedFd<'_>) -> Option<bool> {
    sockopt::ipv6_v6only(socket).ok()
}

/// Where a TCP socket is bound to, if it is.
fn local_address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    (address.port() != 0).then_some(address)
}

/// A caller that is gone needs no event, a forbidden look does.
fn unreadable(error: &io::Error) -> Stop {
    let forbidden = error.kind() == io::ErrorKind::PermissionDenied;
    Stop::Leave(forbidden.then_some(Unmanaged::NotTraceable))
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::NOBUFS)
}
