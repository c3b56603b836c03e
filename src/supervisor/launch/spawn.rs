//! One start of one process.
//!
//! All descriptors of our own close on exec and have numbers from 64 on. A source with a low number (or one that some target
//! would overwrite) is duplicated out of the way first, so that the order of the pairs cannot matter.
//!
//! Deliberately absent: a fork (it would copy the page tables of a big supervisor) and a search along `PATH`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::orders::{Dispatch, Orders};
use super::sys;
use super::wrapper::{ORDERS_FD, REPORT_FD};

/// What to start, and with what.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Absolute, since the child is in another directory when it is looked for.
    pub(crate) program: &'a Path,
    /// Without the program itself.
    pub(crate) args: &'a [String],
    /// The whole environment: nothing is inherited.
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: &'a Path,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    /// Further descriptors and the numbers the child finds them under.
    pub(crate) pass: &'a [(BorrowedFd<'a>, i32)],
    /// Starts through the wrapper, whose later failures the report tells.
    pub(crate) wrap: Option<Wrap<'a>>,
}

/// How to start the wrapper and what it does.
#[derive(Debug)]
pub(crate) struct Wrap<'a> {
    /// Our own binary.
    pub(crate) program: &'a Path,
    /// The arguments that lead it to [`run_wrapper`](super::run_wrapper).
    pub(crate) args: &'a [String],
    /// The other end of a [`Report`](super::Report).
    pub(crate) report: BorrowedFd<'a>,
    pub(crate) orders: Orders,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("cannot execute {}: {source}", path.display())]
    Program { path: PathBuf, source: io::Error },
    #[error("cannot execute {}: the interpreter that its first line names is missing", path.display())]
    Interpreter { path: PathBuf },
    #[error("cannot enter the working directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("{what} contains a NUL byte")]
    Nul { what: String },
    #[error("{name:?} is no name for an environment variable")]
    Variable { name: String },
    #[error("the child cannot have descriptor {number}: it is reserved, or given twice")]
    Target { number: i32 },
    #[error("cannot prepare the start: {0}")]
    System(#[from] io::Error),
}

/// Starts the process in a session of its own and returns its id. With a [`Wrap`] the id is the app's, too, but the app runs
/// only when the report says so.
pub(crate) fn spawn(launch: &Launch<'_>) -> Result<u32, LaunchError> {
    let environment = variables(launch.env)?;
    let directory = c_string(launch.cwd.as_os_str().as_bytes(), || "the working directory".into())?;
    let arguments = strings(launch.program, launch.args)?;
    let Some(wrap) = &launch.wrap else {
        let pairs = Pairs::new(launch, &[])?;
        let actions = sys::Actions { directory: Some(&directory), duplicates: &pairs.numbers };
        return sys::spawn(&arguments[0], &arguments, &environment, &actions)
            .map_err(|source| explain(launch.program, Some(launch.cwd), source));
    };
    let dispatch = Dispatch {
        program: launch.program.to_path_buf(),
        directory: launch.cwd.to_path_buf(),
        arguments: arguments.into_iter().map(CString::into_bytes).collect(),
        environment: environment.into_iter().map(CString::into_bytes).collect(),
        orders: wrap.orders.clone(),
    };
    let orders = dispatch.seal()?;
    let pairs = Pairs::new(launch, &[(orders.as_fd(), ORDERS_FD), (wrap.report, REPORT_FD)])?;
    let actions = sys::Actions { directory: None, duplicates: &pairs.numbers };
    let arguments = strings(wrap.program, wrap.args)?;
    sys::spawn(&arguments[0], &arguments, &[], &actions).map_err(|source| explain(wrap.program, None, source))
}

/// Sources and targets that do not get into each other's way, and the duplicates that this took.
struct Pairs {
    numbers: Vec<(RawFd, RawFd)>,
    _moved: Vec<OwnedFd>,
}

impl Pairs {
    fn new(launch: &Launch<'_>, own: &[(BorrowedFd<'_>, RawFd)]) -> Result<Self, LaunchError> {
        let standard = [(launch.stdout, 1), (launch.stderr, 2)];
        let all: Vec<_> = standard.iter().chain(launch.pass).chain(own).copied().collect();
        let mut targets: Vec<_> = all.iter().map(|pair| pair.1).collect();
        targets.sort_unstable();
        let twice = targets.windows(2).find(|two| two[0] == two[1]).map(|two| two[0]);
        let reserved = launch.pass.iter().map(|pair| pair.1).find(|number| *number < 3);
        if let Some(number) = twice.or(reserved) {
            return Err(LaunchError::Target { number });
        }
        let floor = targets.last().map_or(0, |highest| highest.saturating_add(1)).max(sys::FLOOR);
        let (mut numbers, mut moved) = (Vec::with_capacity(all.len()), Vec::new());
        for (source, target) in all {
            let mut number = source.as_raw_fd();
            if number < floor {
                let duplicate = sys::duplicate_above(source, floor)?;
                number = duplicate.as_raw_fd();
                moved.push(duplicate);
            }
            numbers.push((number, target));
        }
        Ok(Self { numbers, _moved: moved })
    }
}

fn variables(pairs: &[(String, String)]) -> Result<Vec<CString>, LaunchError> {
    pairs
        .iter()
        .map(|(name, value)| {
            if name.is_empty() || name.contains('=') {
                return Err(LaunchError::Variable { name: name.clone() });
            }
            c_string(format!("{name}={value}").as_bytes(), || format!("the variable {name}"))
        })
        .collect()
}

fn strings(program: &Path, args: &[String]) -> Result<Vec<CString>, LaunchError> {
    let program = c_string(program.as_os_str().as_bytes(), || "the program".into());
    let arguments = args.iter().map(|argument| c_string(argument.as_bytes(), || "an argument".into()));
    std::iter::once(program).chain(arguments).collect()
}

fn c_string(bytes: &[u8], what: impl FnOnce() -> String) -> Result<CString, LaunchError> {
    CString::new(bytes).map_err(|_| LaunchError::Nul { what: what() })
}

/// `posix_spawn` gives one number for several steps; look which one it can have been.
fn explain(program: &Path, directory: Option<&Path>, source: io::Error) -> LaunchError {
    if let Some(path) = directory {
        let trouble = match std::fs::metadata(path) {
            Err(trouble) => Some(trouble),
            Ok(found) if !found.is_dir() => Some(io::Error::from_raw_os_error(libc::ENOTDIR)),
            Ok(_) => rustix::fs::access(path, rustix::fs::Access::EXEC_OK).err().map(io::Error::from),
        };
        if let Some(source) = trouble {
            return LaunchError::Directory { path: path.to_path_buf(), source };
        }
    }
    let path = program.to_path_buf();
    if source.raw_os_error() == Some(libc::ENOENT) && program.exists() {
        return LaunchError::Interpreter { path };
    }
    LaunchError::Program { path, source }
}
