//! What the wrapper has to do, and its way through a sealed file in memory.
//!
//! The file holds fields: a tag of one byte, a length of four, the bytes. It is read and written by the same binary, so there
//! is no version; an unknown tag is an error. Nothing of it appears in an argument list, which every user may read.
//!
//! Deliberately absent: doing any of it (`wrapper`).

use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};

use super::sys;

/// What the wrapper does before it becomes the app; the default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) identity: Option<Identity>,
    pub(crate) limits: Vec<Limit>,
    /// The `cgroup.procs` file to enter, from [`Cgroup::procs`](super::Cgroup::procs).
    pub(crate) cgroup: Option<PathBuf>,
    /// Sets `LISTEN_PID` to the app's own process id.
    pub(crate) listen_pid: bool,
    /// Installs the listener for `bind` and `listen` and sends it with the report. Implies "no new privileges".
    pub(crate) transparent: bool,
    /// The process whose descendants may look into the app where Yama restricts that: the keeper, since a brain that took
    /// over is no ancestor of the app.
    pub(crate) tracer: Option<u32>,
}

/// Who the app runs as: names or numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: Option<String>,
    /// The user's own group when absent.
    pub(crate) group: Option<String>,
}

/// A resource limit, soft and hard alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) kind: LimitKind,
    pub(crate) maximum: u64,
}

/// The resources that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitKind {
    /// Processes and threads of the app's *user*, everywhere; not enforced for root.
    Processes,
    OpenFiles,
    CoreBytes,
    AddressSpaceBytes,
    FileBytes,
    LockedBytes,
}

/// Everything the wrapper reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dispatch {
    pub(crate) program: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) arguments: Vec<Vec<u8>>,
    /// `name=value` each.
    pub(crate) environment: Vec<Vec<u8>>,
    pub(crate) orders: Orders,
}

impl Dispatch {
    /// Writes everything into a sealed file in memory.
    pub(crate) fn seal(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = sys::duplicate_above(rustix::fs::memfd_create("orders", flags)?, sys::FLOOR)?;
        let mut file = std::fs::File::from(file);
        file.write_all(&self.encode()?)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(file.into())
    }

    /// Reads what [`Dispatch::seal`] wrote.
    pub(crate) fn unseal(file: OwnedFd) -> io::Result<Self> {
        let mut file = std::fs::File::from(file);
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Self::decode(&bytes)
    }

    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut out = Fields(Vec::new());
        out.put(b'p', self.program.as_os_str().as_bytes())?;
        out.put(b'd', self.directory.as_os_str().as_bytes())?;
        for argument in &self.arguments {
            out.put(b'a', argument)?;
        }
        for variable in &self.environment {
            out.put(b'e', variable)?;
        }
        self.orders.encode(&mut out)?;
        Ok(out.0)
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<Self> {
        let mut dispatch = Self::default();
        while let Some((tag, value, rest)) = next_field(bytes)? {
            bytes = rest;
            match tag {
                b'p' => dispatch.program = path(value),
                b'd' => dispatch.directory = path(value),
                b'a' => dispatch.arguments.push(value.to_vec()),
                b'e' => dispatch.environment.push(value.to_vec()),
                _ => dispatch.orders.decode(tag, value)?,
            }
        }
        Ok(dispatch)
    }
}

impl Orders {
    fn encode(&self, out: &mut Fields) -> io::Result<()> {
        if let Some(identity) = &self.identity {
            out.put(b'i', &[])?;
            for (tag, name) in [(b'u', &identity.user), (b'g', &identity.group)] {
                if let Some(name) = name {
                    out.put(tag, name.as_bytes())?;
                }
            }
        }
        for limit in &self.limits {
            let mut value = vec![limit.kind.code()];
            value.extend(limit.maximum.to_le_bytes());
            out.put(b'l', &value)?;
        }
        if let Some(cgroup) = &self.cgroup {
            out.put(b'c', cgroup.as_os_str().as_bytes())?;
        }
        if let Some(tracer) = self.tracer {
            out.put(b't', &tracer.to_le_bytes())?;
        }
        for (tag, wanted) in [(b'n', self.listen_pid), (b's', self.transparent)] {
            if wanted {
                out.put(tag, &[])?;
            }
        }
        Ok(())
    }

    fn decode(&mut self, tag: u8, value: &[u8]) -> io::Result<()> {
        match tag {
            b'i' => self.identity = Some(Identity::default()),
            b'u' => self.identity.get_or_insert_default().user = Some(text(value)?),
            b'g' => self.identity.get_or_insert_default().group = Some(text(value)?),
            b'l' => self.limits.push(Limit::decode(value).ok_or_else(damaged)?),
            b'c' => self.cgroup = Some(path(value)),
            b't' => self.tracer = Some(u32::from_le_bytes(value.try_into().map_err(|_| damaged())?)),
            b'n' => self.listen_pid = true,
            b's' => self.transparent = true,
            _ => return Err(damaged()),
        }
        Ok(())
    }
}

impl Limit {
    fn decode(value: &[u8]) -> Option<Self> {
        let (code, maximum) = value.split_first()?;
        let kind = LimitKind::ALL.into_iter().find(|kind| kind.code() == *code)?;
        Some(Self { kind, maximum: u64::from_le_bytes(maximum.try_into().ok()?) })
    }
}

impl LimitKind {
    const ALL: [Self; 6] = [
        Self::Processes,
        Self::OpenFiles,
        Self::CoreBytes,
        Self::AddressSpaceBytes,
        Self::FileBytes,
        Self::LockedBytes,
    ];

    fn code(self) -> u8 {
        self as u8
    }
}

struct Fields(Vec<u8>);

impl Fields {
    fn put(&mut self, tag: u8, value: &[u8]) -> io::Result<()> {
        let length = u32::try_from(value.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.0.push(tag);
        self.0.extend(length.to_le_bytes());
        self.0.extend(value);
        Ok(())
    }
}

type Field<'a> = (u8, &'a [u8], &'a [u8]);

fn next_field(bytes: &[u8]) -> io::Result<Option<Field<'_>>> {
    let Some((&tag, rest)) = bytes.split_first() else { return Ok(None) };
    let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (value, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
    Ok(Some((tag, value, rest)))
}

fn path(value: &[u8]) -> PathBuf {
    Path::new(&std::ffi::OsString::from_vec(value.to_vec())).to_path_buf()
}

fn text(value: &[u8]) -> io::Result<String> {
    String::from_utf8(value.to_vec()).map_err(|_| damaged())
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the orders of the wrapper are damaged")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

    use super::{Dispatch, Identity, Limit, LimitKind, Orders};

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..40)
    }

    fn orders() -> impl Strategy<Value = Orders> {
        let name = proptest::option::of("[a-zé]{0,8}");
        let identity = (name.clone(), name).prop_map(|(user, group)| Identity { user, group });
        let kind = prop_oneof![Just(LimitKind::Processes), Just(LimitKind::LockedBytes)];
        let limit = (kind, any::<u64>()).prop_map(|(kind, maximum)| Limit { kind, maximum });
        (
            proptest::option::of(identity),
            proptest::collection::vec(limit, 0..3),
            proptest::option::of(bytes().prop_map(|value| super::path(&value))),
            any::<(bool, bool, Option<u32>)>(),
        )
            .prop_map(|(identity, limits, cgroup, (listen_pid, transparent, tracer))| Orders {
                identity,
                limits,
                cgroup,
                listen_pid,
                transparent,
                tracer,
            })
    }

    proptest! {
        #[test]
        fn orders_survive_the_way(
            program in bytes(), directory in bytes(), orders in orders(),
            arguments in proptest::collection::vec(bytes(), 0..4),
            environment in proptest::collection::vec(bytes(), 0..4),
        ) {
            let (program, directory) = (super::path(&program), super::path(&directory));
            let sent = Dispatch { program, directory, arguments, environment, orders };
            let received = Dispatch::unseal(sent.seal().unwrap()).unwrap();
            assert_eq!(received, sent);
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Dispatch::decode(&bytes);
        }
    }
}
