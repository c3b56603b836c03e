//! The system calls no safe wrapper exists for; the only `unsafe` of this module.
//!
//! Each function does one call and turns its result into a value: nothing here decides. Deliberately absent: anything rustix
//! offers.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

pub(crate) use libc::sock_filter as Instruction;

/// One instruction of classic BPF.
pub(crate) const fn instruction(code: u32, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code: code as u16, jt: jump_true, jf: jump_false, k }
}

/// What the child does between the fork and the exec.
pub(crate) struct Actions<'a> {
    pub(crate) directory: Option<&'a CStr>,
    /// Source and target; no source may be the target of another pair.
    pub(crate) duplicates: &'a [(RawFd, RawFd)],
}

/// Starts `program` in its own session with no blocked and no ignored signal.
pub(crate) fn spawn(
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
    actions: &Actions<'_>,
) -> io::Result<u32> {
    let attributes = Attributes::new()?;
    let file_actions = FileActions::new(actions)?;
    let (argv, envp) = (pointers(arguments), pointers(environment));
    let mut pid = 0;
    // SAFETY: every pointer is to a live, NUL-terminated string or array, and both objects are initialised.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const file_actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    check(failed)?;
    Ok(pid.unsigned_abs())
}

/// Replaces this process; returns only when that failed.
pub(crate) fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: the disposition is a constant; every pointer given to execve is to a live, NUL-terminated string or array.
    unsafe {
        // The Rust runtime ignores SIGPIPE, and an ignored signal stays ignored across exec.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(program.as_ptr(), argv.as_ptr().cast(), envp.as_ptr().cast());
    }
    io::Error::last_os_error()
}

/// Takes a descriptor that the parent left open under a known number.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number has no memory effect; an unused number only gives EBADF.
    cvt(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the number is open, and by the wrapper's contract nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A line of the user database.
pub(crate) struct Account {
    pub(crate) name: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Looks a user up by name.
pub(crate) fn account_by_name(name: &CStr) -> io::Result<Option<Account>> {
    // SAFETY: the closure passes on pointers that `account` keeps valid during the call.
    account(|entry, buffer, size, found| unsafe {
        libc::getpwnam_r(name.as_ptr(), entry, buffer, size, found)
    })
}

/// Looks a user up by number.
pub(crate) fn account_by_uid(uid: u32) -> io::Result<Option<Account>> {
    // SAFETY: the closure passes on pointers that `account` keeps valid during the call.
    account(|entry, buffer, size, found| unsafe { libc::getpwuid_r(uid, entry, buffer, size, found) })
}

/// The number of the group called `name`.
pub(crate) fn group_by_name(name: &CStr) -> io::Result<Option<u32>> {
    lookup::<libc::group, _>(
        // SAFETY: `lookup` keeps the pointers valid during the call.
        |entry, buffer, size, found| unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer, size, found) },
        |entry| entry.gr_gid,
    )
}

/// Every group that the user is a member of, `gid` among them.
pub(crate) fn groups_of(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut count = c_int::try_from(groups.len()).unwrap_or(c_int::MAX);
        // SAFETY: `groups` has room for `count` numbers; the call writes no more than that.
        let written = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if written >= 0 {
            groups.truncate(written.unsigned_abs() as usize);
            return Ok(groups);
        }
        if groups.len() >= 65_536 {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

/// Installs a seccomp filter on this thread and returns the descriptor of its listener.
pub(crate) fn install_filter(flags: libc::c_ulong, program: &mut [Instruction]) -> io::Result<OwnedFd> {
    let program = program_of(program)?;
    // SAFETY: `program` points to `len` instructions that outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let fd = cvt(c_int::try_from(fd).unwrap_or(-1))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel knows the user-notification action.
pub(crate) fn notification_available() -> io::Result<()> {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads one u32.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    cvt(c_int::try_from(result).unwrap_or(-1)).map(drop)
}

/// A system call of the app that waits for our answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// The calling thread, not the process.
    pub(crate) thread: u32,
    pub(crate) number: i32,
    pub(crate) arguments: [u64; 6],
}

/// One page shared with whoever holds its descriptor: the kernel writes a notification straight into it, so that no instant
/// exists at which only the memory of a mortal process knows it.
pub(crate) struct Page(ptr::NonNull<c_void>);

// SAFETY: the mapping belongs to this value alone, and is of the process, not of the thread that made it.
unsafe impl Send for Page {}

impl Page {
    pub(crate) const BYTES: usize = 4096;

    /// Maps `file`, which must be at least [`Page::BYTES`] long and sealed against shrinking.
    pub(crate) fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address the kernel chooses aliases nothing.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        ptr::NonNull::new(address).map(Self).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }

    /// The notification written here last and not yet cleared.
    pub(crate) fn load(&self) -> Option<Notification> {
        // SAFETY: the page is mapped, aligned and larger than the structure, of which any bit pattern is a value.
        let raw = unsafe { ptr::read_volatile(self.0.as_ptr().cast::<libc::seccomp_notif>()) };
        // The kernel always fills in the architecture, and no architecture is 0.
        (raw.data.arch != 0).then_some(Notification {
            id: raw.id,
            thread: raw.pid,
            number: raw.data.nr,
            arguments: raw.data.args,
        })
    }

    /// Forgets the notification. The kernel, too, insists on zeros.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the page is mapped and `BYTES` long.
        unsafe { ptr::write_bytes(self.0.as_ptr().cast::<u8>(), 0, Self::BYTES) }
    }

    /// Receives the next notification into the page. Waits when there is none, so poll first.
    pub(crate) fn receive(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the page has room for whatever the kernel's version of the structure holds.
        cvt(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, self.0.as_ptr()) })
            .map(drop)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no reference into it exists.
        unsafe { libc::munmap(self.0.as_ptr(), Self::BYTES) };
    }
}

/// The answer to a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel carries the call out as if nothing had happened.
    Continue,
    /// The call returns 0.
    Done,
    /// The call fails with this error number.
    Fail(i32),
}

/// Answers a notification; `NotFound` when its caller is gone.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    let (error, flags) = match answer {
        Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Done => (0, 0),
        Answer::Fail(errno) => (-errno, 0),
    };
    let mut response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the response is a live structure of the size the request number says.
    cvt(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) })
        .map(drop)
}

/// Whether the caller of this notification still waits for us.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one u64.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Puts a duplicate of `source` in the place of the caller's descriptor `target`.
pub(crate) fn replace_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    source: BorrowedFd<'_>,
    target: u32,
    close_on_exec: bool,
) -> io::Result<()> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: source.as_raw_fd().unsigned_abs(),
        newfd: target,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC.unsigned_abs() } else { 0 },
    };
    // SAFETY: the request is a live structure of the size the request number says.
    cvt(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) })
        .map(drop)
}

/// Makes every socket of the group of `socket` that listens get its connections by what `program` returns.
pub(crate) fn attach_selector(socket: BorrowedFd<'_>, program: &mut [Instruction]) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program_of(program)?)
}

/// The first fields of `TCP_INFO`, as far as they say something about a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenInfo {
    pub(crate) state: TcpState,
    /// Established connections that nobody has accepted yet.
    pub(crate) queued: u32,
}

/// The states of a TCP socket that make a difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpState {
    Closed,
    Listening,
    /// In one of the states of a connection.
    Connected,
}

/// Reads state and queue of a TCP socket.
pub(crate) fn listen_info(socket: BorrowedFd<'_>) -> io::Result<ListenInfo> {
    // Eight single bytes, of which the first is the state, then words; word 4 is `unacked`, which of a listener is its queue.
    let info: [u32; 8] = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let state = match info[0].to_ne_bytes()[0] {
        7 => TcpState::Closed,
        10 => TcpState::Listening,
        _ => TcpState::Connected,
    };
    Ok(ListenInfo { state, queued: info[6] })
}

/// Reads a socket option that is one number.
pub(crate) fn number_option(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    get_option(socket, level, name)
}

/// Sets a socket option that is one number.
pub(crate) fn set_number_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    set_option(socket, level, name, &value)
}

/// Types of which every bit pattern is a value, so that the kernel may write them.
trait Plain: Copy {}
impl Plain for c_int {}
impl Plain for [u32; 8] {}

fn get_option<T: Plain>(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`.
    cvt(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    })?;
    // SAFETY: zeroed at first, and plain: whatever the kernel wrote is a value.
    Ok(unsafe { value.assume_init() })
}

fn set_option<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`, and what that points to lives as long.
    cvt(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(value).cast(), length) })
        .map(drop)
}

fn program_of(instructions: &mut [Instruction]) -> io::Result<libc::sock_fprog> {
    let len = u16::try_from(instructions.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(libc::sock_fprog { len, filter: instructions.as_mut_ptr() })
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init fills the object in; the sets are filled in before they are read.
        unsafe {
            check(libc::posix_spawnattr_init(raw.as_mut_ptr()))?;
            let mut attributes = Self(raw.assume_init());
            let mut signals = MaybeUninit::uninit();
            libc::sigemptyset(signals.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, signals.as_ptr()))?;
            // Not `sigfillset`, which leaves out two signals that glibc then makes the child ignore.
            ptr::write_bytes(signals.as_mut_ptr(), 0xFF, 1);
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, signals.as_ptr()))?;
            let flags = c_int::from(libc::POSIX_SPAWN_SETSID)
                | libc::POSIX_SPAWN_SETSIGMASK
                | libc::POSIX_SPAWN_SETSIGDEF;
            check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags as libc::c_short))?;
            Ok(attributes)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new(wanted: &Actions<'_>) -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init fills the object in; every string outlives the call that copies it.
        unsafe {
            check(libc::posix_spawn_file_actions_init(raw.as_mut_ptr()))?;
            let mut actions = Self(raw.assume_init());
            let list = &raw mut actions.0;
            let null = c"/dev/null".as_ptr();
            check(libc::posix_spawn_file_actions_addopen(list, 0, null, libc::O_RDONLY, 0))?;
            for &(source, target) in wanted.duplicates {
                check(libc::posix_spawn_file_actions_adddup2(list, source, target))?;
            }
            if let Some(directory) = wanted.directory {
                check(libc::posix_spawn_file_actions_addchdir_np(list, directory.as_ptr()))?;
            }
            Ok(actions)
        }
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

fn account(
    call: impl Fn(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> c_int,
) -> io::Result<Option<Account>> {
    lookup(call, |entry| {
        // SAFETY: a found entry's name is a NUL-terminated string in the buffer, which is still alive here.
        let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_owned();
        Account { name, uid: entry.pw_uid, gid: entry.pw_gid }
    })
}

/// Calls one of the `get…_r` functions with a buffer that grows until the entry fits.
fn lookup<E, T>(
    call: impl Fn(*mut E, *mut c_char, usize, *mut *mut E) -> c_int,
    read: impl Fn(&E) -> T,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0 as c_char; 1024];
    loop {
        let mut entry = MaybeUninit::<E>::zeroed();
        let mut found = ptr::null_mut();
        match call(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            // SAFETY: a non-null `found` points to the entry that the call has filled in.
            0 => return Ok(unsafe { found.as_ref() }.map(read)),
            libc::ERANGE if buffer.len() < (1 << 20) => buffer.resize(buffer.len() * 4, 0),
            libc::ENOENT | libc::ESRCH => return Ok(None),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// For calls that return the error number itself.
fn check(errno: c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// For calls that return -1 and set `errno`.
fn cvt(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes every descriptor this process has close on exec, its own as well as those its starter forgot to close.
pub(crate) fn close_all_on_exec() -> io::Result<()> {
    let (first, last) = (3_u32, u32::MAX);
    // SAFETY: a flag of descriptors changes; none is closed, and no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    cvt(c_int::try_from(result).unwrap_or(-1)).map(drop)
}

/// The supervisor's own descriptors have at least this number, out of the way of those an app is given.
pub(crate) const FLOOR: RawFd = 64;

/// Duplicates a descriptor to a number of at least `floor`.
pub(crate) fn duplicate_above(fd: impl AsFd, floor: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, floor)?)
}

/// Lets the test binary play the wrapper and the apps: it is looked into before the test harness starts, so such a process
/// has one thread and an output of its own.
#[cfg(test)]
#[used]
#[unsafe(link_section = ".init_array")]
static PLAY_A_ROLE: extern "C" fn() = {
    extern "C" fn play() {
        let mut arguments = std::env::args().skip(1);
        if arguments.next().as_deref() == Some(super::tests::roles::MARK) {
            // SAFETY: a constant disposition; this is what the Rust runtime does before `main`.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
            super::tests::roles::play(&arguments.collect::<Vec<_>>());
        }
    }
    play
};
