//! From the names of a user and a group to the numbers a process has.
//!
//! Runs in the wrapper, so that name services are never loaded into the supervisor.

use std::ffi::CString;
use std::io;

use rustix::process::{Gid, Uid};

use super::orders::Identity;
use super::sys::{self, Account};

/// Becomes that user, for good.
pub(crate) fn assume(identity: &Identity) -> io::Result<()> {
    let wanted = Numbers::find(identity)?;
    let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
    let ours = (rustix::process::getuid(), rustix::process::getgid());
    if ours == (uid, gid) && !uid.is_root() {
        // Nothing changes, and without privileges the calls below would be refused all the same.
        return Ok(());
    }
    let groups: Vec<_> = wanted.groups.into_iter().map(Gid::from_raw).collect();
    // The wrapper has one thread, so what holds for its thread holds for the process.
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_gid(gid)?;
    rustix::thread::set_thread_uid(uid)?;
    Ok(())
}

struct Numbers {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Numbers {
    fn find(identity: &Identity) -> io::Result<Self> {
        let group = identity.group.as_deref().map(find_group).transpose()?;
        let (uid, account) = match identity.user.as_deref() {
            None => {
                let uid = rustix::process::getuid().as_raw();
                (uid, sys::account_by_uid(uid)?)
            }
            Some(user) => find_user(user)?,
        };
        match (account, group) {
            (Some(account), group) => {
                let gid = group.unwrap_or(account.gid);
                Ok(Self { uid, gid, groups: sys::groups_of(&account.name, gid)? })
            }
            (None, Some(gid)) => Ok(Self { uid, gid, groups: vec![gid] }),
            // Its group cannot be guessed, and keeping ours would give rights away.
            (None, None) => Err(unknown()),
        }
    }
}

fn find_user(user: &str) -> io::Result<(u32, Option<Account>)> {
    if let Some(account) = sys::account_by_name(&c_string(user)?)? {
        return Ok((account.uid, Some(account)));
    }
    let uid = number(user)?;
    Ok((uid, sys::account_by_uid(uid)?))
}

fn find_group(group: &str) -> io::Result<u32> {
    match sys::group_by_name(&c_string(group)?)? {
        Some(gid) => Ok(gid),
        None => number(group),
    }
}

/// The number -1 means "unchanged" to the kernel, so it names nobody.
fn number(text: &str) -> io::Result<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX).ok_or_else(unknown)
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| unknown())
}

fn unknown() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}
