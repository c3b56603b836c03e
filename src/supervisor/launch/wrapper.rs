//! The wrapper: our own binary, for some milliseconds in the place of the app.
//!
//! It reads its orders from one inherited descriptor, does them in a fixed order, tells a failure through another, and then
//! becomes the app. The order matters: cgroup and limits need the supervisor's rights, the working directory must be readable
//! by the app's user, and the filter comes last since it takes rights away.
//!
//! Must run before anything starts a thread. Deliberately absent: anything the app could notice. Both descriptors close on
//! exec.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::process::{PTracer, Pid, Resource, Rlimit};

use super::orders::{Dispatch, Limit, LimitKind, Orders};
use super::report::{self, Failure, Step};
use super::{sys, transparent, user};

/// Where the wrapper finds its orders: below the supervisor's own numbers, above what an app is given.
pub(crate) const ORDERS_FD: i32 = 62;
/// Where the wrapper reports.
pub(crate) const REPORT_FD: i32 = 63;

/// Does what the orders say and becomes the app. Returns only when that failed, after having reported it.
pub(crate) fn run_wrapper() -> io::Error {
    let report = match sys::inherited(REPORT_FD) {
        Ok(report) => report,
        Err(error) => return error,
    };
    let failure = match prepare(report.as_fd()) {
        Ok(ready) => {
            let error = sys::execute(&ready.program, &ready.arguments, &ready.environment);
            failure(Step::Program, &error, ready.program.to_string_lossy())
        }
        Err(failure) => failure,
    };
    // With nobody left to read it, the exit status has to do.
    let _ = report::send_failure(report.as_fd(), &failure);
    io::Error::other(failure)
}

struct Ready {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

fn prepare(report: BorrowedFd<'_>) -> Result<Ready, Failure> {
    let dispatch = sys::inherited(ORDERS_FD).and_then(Dispatch::unseal).map_err(at(Step::Orders, ""))?;
    let ready = ready(&dispatch).map_err(at(Step::Orders, ""))?;
    let orders = &dispatch.orders;
    if let Some(procs) = &orders.cgroup {
        // 0 stands for the writer itself.
        std::fs::write(procs, "0").map_err(at(Step::Cgroup, procs.to_string_lossy()))?;
    }
    for limit in &orders.limits {
        set_limit(*limit).map_err(at(Step::Limit, format!("{:?} {}", limit.kind, limit.maximum)))?;
    }
    if let Some(identity) = &orders.identity {
        let names = [&identity.user, &identity.group].map(|name| name.as_deref().unwrap_or_default());
        user::assume(identity).map_err(at(Step::Identity, names.join(":")))?;
    }
    rustix::process::chdir(&dispatch.directory)
        .map_err(io::Error::from)
        .map_err(at(Step::Directory, dispatch.directory.to_string_lossy()))?;
    watch(orders, report).map_err(at(Step::Filter, ""))?;
    Ok(ready)
}

fn watch(orders: &Orders, report: BorrowedFd<'_>) -> io::Result<()> {
    if let Some(tracer) = orders.tracer.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // Refused where there is no Yama, and then not needed.
        let _ = rustix::process::set_ptracer(PTracer::ProcessID(tracer));
    }
    if orders.transparent {
        let listener = transparent::install()?;
        report::send_listener(report, listener.as_fd())?;
    }
    Ok(())
}

fn ready(dispatch: &Dispatch) -> io::Result<Ready> {
    let mut environment = dispatch.environment.clone();
    if dispatch.orders.listen_pid {
        environment.retain(|variable| !variable.starts_with(b"LISTEN_PID="));
        environment.push(format!("LISTEN_PID={}", std::process::id()).into_bytes());
    }
    Ok(Ready {
        program: CString::new(dispatch.program.as_os_str().as_bytes())?,
        arguments: c_strings(dispatch.arguments.clone())?,
        environment: c_strings(environment)?,
    })
}

fn c_strings(strings: Vec<Vec<u8>>) -> io::Result<Vec<CString>> {
    Ok(strings.into_iter().map(CString::new).collect::<Result<_, _>>()?)
}

fn set_limit(limit: Limit) -> io::Result<()> {
    let resource = match limit.kind {
        LimitKind::Processes => Resource::Nproc,
        LimitKind::OpenFiles => Resource::Nofile,
        LimitKind::CoreBytes => Resource::Core,
        LimitKind::AddressSpaceBytes => Resource::As,
        LimitKind::FileBytes => Resource::Fsize,
        LimitKind::LockedBytes => Resource::Memlock,
    };
    let maximum = Some(limit.maximum);
    Ok(rustix::process::setrlimit(resource, Rlimit { current: maximum, maximum })?)
}

fn at(step: Step, detail: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let detail = detail.into();
    move |error| failure(step, &error, detail)
}

fn failure(step: Step, error: &io::Error, detail: impl Into<String>) -> Failure {
    Failure { step, errno: error.raw_os_error().unwrap_or(libc::EINVAL), detail: detail.into() }
}
