//! The roles this binary plays when a test starts it: the wrapper, and small apps.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::super::{run_wrapper, sys, transparent};

/// The first argument of a process that plays a role.
pub(crate) const MARK: &str = "play-a-role";

/// Plays the role and exits.
pub(crate) fn play(arguments: &[String]) {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let code = match arguments.as_slice() {
        ["wrapper"] => {
            // What the real main does with the error.
            let _ = writeln!(std::io::stderr(), "{}", run_wrapper());
            125
        }
        ["wrapper-without-seccomp"] => {
            forbid_seccomp();
            let _ = run_wrapper();
            125
        }
        ["server", address, text] => serve(&TcpListener::bind(address).unwrap(), text),
        ["late-server", address, text] => late_server(address.parse().unwrap(), text),
        ["inheritor", text] => inherit(text),
        ["bomb"] => explode(),
        ["binder", address, rounds] => bind_again_and_again(address, rounds.parse().unwrap()),
        ["variety", address, unix] => variety(address.parse().unwrap(), unix),
        ["flags", address] => flags(address.parse().unwrap()),
        ["twice", address] => twice(address),
        ["sharing", address] => sharing(address.parse().unwrap()),
        ["bind-only", address] => match TcpListener::bind(address) {
            Ok(_) => say("bound"),
            Err(error) => say(&format!("{:?}", error.raw_os_error())),
        },
        ["brain", generation] => super::takeover::brain(generation.parse().unwrap()),
        ["calls", count] => calls(count.parse().unwrap()),
        ["seccomp-twice"] => match transparent::install() {
            Ok(_) => say("installed"),
            Err(error) => say(&format!("{:?}", error.raw_os_error())),
        },
        _ => 2,
    };
    std::process::exit(code);
}

/// What a container's profile may do.
fn forbid_seccomp() {
    rustix::thread::set_no_new_privs(true).unwrap();
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        sys::instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        sys::instruction(equal, libc::SYS_seccomp as u32, 0, 1),
        sys::instruction(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        sys::instruction(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    // Without a listener the call returns 0, which is no descriptor of ours.
    std::mem::forget(sys::install_filter(0, &mut program).unwrap());
}

/// Answers one connection after the other, blocking, until it is killed.
fn serve(listener: &TcpListener, text: &str) -> i32 {
    say("serving");
    loop {
        let Ok((mut connection, _)) = listener.accept() else { continue };
        let _ = answer(&mut connection, text);
    }
}

/// Stops itself between `bind` and `listen`.
fn late_server(address: SocketAddr, text: &str) -> i32 {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP).unwrap();
    rustix::net::listen(&socket, 100).unwrap();
    serve(&TcpListener::from(socket), text)
}

fn answer(connection: &mut TcpStream, text: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 512];
    while !request.ends_with(b"\r\n\r\n") {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        request.extend(&buffer[..length]);
    }
    std::thread::sleep(Duration::from_millis(1));
    write!(connection, "HTTP/1.0 200 OK\r\n\r\n{text}")
}

/// Serves descriptor 3, if the variables say that it is for this process.
fn inherit(text: &str) -> i32 {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() || variable("LISTEN_FDS") != "1" {
        return say(&format!("not for me: {:?}", std::env::vars().collect::<Vec<_>>()));
    }
    serve(&TcpListener::from(sys::inherited(3).unwrap()), text)
}

/// Starts itself as often as it can.
fn explode() -> i32 {
    let this = std::env::current_exe().unwrap();
    loop {
        if std::process::Command::new(&this).args([MARK, "bomb"]).spawn().is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Binds and listens on one port after another; every call must succeed.
fn bind_again_and_again(address: &str, rounds: u32) -> i32 {
    let address: SocketAddr = address.parse().unwrap();
    for round in 0..rounds {
        // The caller is a thread, and not always the first one.
        let bound = match round % 8 {
            0 => std::thread::spawn(move || TcpListener::bind(address)).join().unwrap(),
            _ => TcpListener::bind(address),
        };
        let listener = match bound {
            Ok(listener) => listener,
            Err(error) => return say(&format!("failed: {error}")),
        };
        if listener.local_addr().unwrap() != address {
            return say("wrong address");
        }
    }
    say("all bound")
}

/// Everything that the kernel is left to do.
fn variety(address: SocketAddr, unix: &str) -> i32 {
    let any = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    let unix = UnixListener::bind(unix).unwrap();
    let own = any.local_addr().unwrap();
    let client = TcpStream::connect(own).unwrap();
    any.accept().unwrap();
    // Errors are the kernel's own, too.
    let bad = rustix::net::listen(unix.as_fd(), 5).is_ok();
    let closed = { std::fs::File::open("/dev/null").map(|file| rustix::net::listen(&file, 1)).unwrap() };
    say(&format!(
        "{} {} {bad} {closed:?}",
        udp.local_addr().unwrap() == address,
        client.peer_addr().unwrap() == own
    ))
}

/// Shows what is left of its settings after `bind`.
fn flags(address: SocketAddr) -> i32 {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    sockopt::set_tcp_nodelay(&socket, true).unwrap();
    sockopt::set_socket_keepalive(&socket, true).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 50_000).unwrap();
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    let shown = |socket: BorrowedFd<'_>| {
        format!(
            "{:?} {:?} {} {} {} {:?} {}",
            rustix::fs::fcntl_getfl(socket).unwrap(),
            rustix::io::fcntl_getfd(socket).unwrap(),
            sockopt::tcp_nodelay(socket).unwrap(),
            sockopt::socket_keepalive(socket).unwrap(),
            sockopt::socket_recv_buffer_size(socket).unwrap(),
            sockopt::ipv6_v6only(socket).ok(),
            socket.as_raw_fd(),
        )
    };
    let before = shown(socket.as_fd());
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 7).unwrap();
    let elsewhere = SocketAddr::new(address.ip(), 40_000);
    let rebound = rustix::net::bind(&socket, &elsewhere).err();
    say(&format!("{} {rebound:?}", before == shown(socket.as_fd())))
}

/// Tries to open the same address twice, then again after closing it.
fn twice(address: &str) -> i32 {
    let first = TcpListener::bind(address).unwrap();
    let second = TcpListener::bind(address).map(drop).map_err(|error| error.raw_os_error());
    drop(first);
    let third = TcpListener::bind(address).is_ok();
    say(&format!("{second:?} {third}"))
}

/// Two sockets on one address, as an app with several acceptors makes them.
fn sharing(address: SocketAddr) -> i32 {
    let acceptor = || {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        sockopt::set_socket_reuseport(&socket, true).unwrap();
        rustix::net::bind(&socket, &address).and_then(|()| rustix::net::listen(&socket, 10)).map(|()| socket)
    };
    let both = (acceptor(), acceptor());
    say(&format!("{} {}", both.0.is_ok(), both.1.is_ok()))
}

/// Prints how long a system call that the filter lets pass takes.
fn calls(count: u32) -> i32 {
    let start = std::time::Instant::now();
    for _ in 0..count {
        let _ = rustix::process::getppid();
    }
    say(&format!("{}", start.elapsed().as_nanos() / u128::from(count)))
}

fn say(text: &str) -> i32 {
    let mut out = std::io::stdout();
    let told = writeln!(out, "{text}").and_then(|()| out.flush());
    i32::from(told.is_err())
}
