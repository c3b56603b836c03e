//! All that a keeper holds, handed to the program that replaces it in the same process.
//!
//! The descriptors go through exec under their numbers; a memfd lists what each is. It is a sequence of records, each a
//! length (four bytes, little-endian) and as many bytes, the first of them the kind. The head comes first and has a
//! version; a reader knows every earlier one, since the writer is always the older program.

use std::{
    env,
    ffi::{CString, OsString},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, Write},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{MemfdFlags, fcntl_get_seals, memfd_create},
    io::{FdFlags, fcntl_setfd},
};

use super::{
    MANIFEST_VARIABLE, VARIABLES,
    shelf::{Shelf, Value},
    sys,
    wire::{MESSAGE_MAX_BYTES, Malformed, Reader, Summary, put_exit, put_name, put_option, put_summary},
};

const VERSION: u8 = 1;

mod kind {
    pub(super) const HEAD: u8 = 1;
    pub(super) const HELD: u8 = 2;
    pub(super) const SEALED: u8 = 3;
    pub(super) const NOTE: u8 = 4;
    pub(super) const EXIT: u8 = 5;
}

/// What a keeper knows besides the shelf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) summary: Summary,
    /// The serial that the next exit gets.
    pub(super) next_serial: u64,
    /// The brain that lives on through the keeper's exec.
    pub(super) brain: Option<Living>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Living {
    pub(super) pid: u32,
    pub(super) socket: RawFd,
    /// The serial of the first exit that it has not been told.
    pub(super) untold: u64,
}

/// Replaces this program by a keeper that starts from `shelf` and `head`; `socket` is the one to the brain that `head`
/// tells of. The caller holds the signals back. Returns only when that failed, with everything as it was.
pub(super) fn replace(
    program: &Path,
    arguments: &[OsString],
    (shelf, head, socket): (&Shelf, &Head, Option<BorrowedFd<'_>>),
) -> io::Error {
    let mut through: Vec<BorrowedFd<'_>> = shelf.descriptors().chain(socket).collect();
    let manifest = match write(shelf, head) {
        Ok(manifest) => manifest,
        Err(error) => return error,
    };
    through.push(manifest.as_fd());
    let error = match set_flags(&through, FdFlags::empty()) {
        Ok(()) => execute(program, arguments, manifest.as_raw_fd()),
        Err(error) => error,
    };
    let _ = set_flags(&through, FdFlags::CLOEXEC);
    error
}

/// Reads a manifest and takes possession of all descriptors it lists but the brain's socket. What cannot be read is
/// counted as refused rather than given up with the rest; only a head that is not understood is an error.
pub(super) fn read(manifest: OwnedFd) -> io::Result<(Shelf, Head)> {
    let mut file = File::from(manifest);
    file.rewind()?;
    let mut records = BufReader::new(file);
    let mut buffer = Vec::new();
    let mut shelf = Shelf::default();
    if !next_record(&mut records, &mut buffer)? {
        return Err(malformed());
    }
    let mut head = read_head(&buffer).map_err(|Malformed| malformed())?;
    while next_record(&mut records, &mut buffer)? {
        if read_record(&buffer, &mut shelf).is_err() {
            head.summary.refused = head.summary.refused.saturating_add(1);
        }
    }
    Ok((shelf, head))
}

fn write(shelf: &Shelf, head: &Head) -> io::Result<OwnedFd> {
    let mut out = BufWriter::new(File::from(memfd_create("manifest", MemfdFlags::CLOEXEC)?));
    put_record(&mut out, &head_record(head))?;
    for (name, descriptor) in &shelf.held {
        put_record(&mut out, &numbered(kind::HELD, descriptor.as_raw_fd(), name))?;
    }
    for (key, value) in &shelf.notes {
        let record = match value {
            Value::Sealed(memory) => numbered(kind::SEALED, memory.as_raw_fd(), key),
            Value::Inline(bytes) => {
                let mut record = vec![kind::NOTE];
                put_name(&mut record, key);
                record.extend_from_slice(bytes);
                record
            }
        };
        put_record(&mut out, &record)?;
    }
    for exit in shelf.exits.values() {
        let mut record = vec![kind::EXIT];
        put_exit(&mut record, exit);
        put_record(&mut out, &record)?;
    }
    Ok(out.into_inner().map_err(io::IntoInnerError::into_error)?.into())
}

fn head_record(head: &Head) -> Vec<u8> {
    let mut record = vec![kind::HEAD, VERSION];
    put_summary(&mut record, &head.summary);
    record.extend_from_slice(&head.next_serial.to_le_bytes());
    put_option(&mut record, head.brain.map(|brain| brain.pid.to_le_bytes()));
    if let Some(brain) = &head.brain {
        record.extend_from_slice(&brain.socket.to_le_bytes());
        record.extend_from_slice(&brain.untold.to_le_bytes());
    }
    record
}

fn numbered(kind: u8, number: RawFd, name: &str) -> Vec<u8> {
    let mut record = vec![kind];
    record.extend_from_slice(&number.to_le_bytes());
    put_name(&mut record, name);
    record
}

fn put_record(out: &mut impl Write, record: &[u8]) -> io::Result<()> {
    out.write_all(&(record.len() as u32).to_le_bytes())?;
    out.write_all(record)
}

/// False at the end.
fn next_record(records: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0; 4];
    match records.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MESSAGE_MAX_BYTES {
        return Err(malformed());
    }
    buffer.resize(length, 0);
    records.read_exact(buffer).map(|()| true)
}

fn read_head(record: &[u8]) -> Result<Head, Malformed> {
    let mut reader = Reader(record);
    if (reader.byte()?, reader.byte()?) != (kind::HEAD, VERSION) {
        return Err(Malformed);
    }
    let (summary, next_serial) = (reader.summary()?, reader.u64()?);
    let brain = match reader.option()?.map(u32::from_le_bytes) {
        Some(pid) => Some(Living { pid, socket: reader.i32()?, untold: reader.u64()? }),
        None => None,
    };
    reader.finish()?;
    Ok(Head { summary, next_serial, brain })
}

fn read_record(record: &[u8], shelf: &mut Shelf) -> Result<(), Malformed> {
    let mut reader = Reader(record);
    match reader.byte()? {
        kind::HELD => {
            let descriptor = inherited(reader.i32()?)?;
            shelf.held.insert(reader.name()?.into(), descriptor);
        }
        kind::SEALED => {
            let memory = inherited(reader.i32()?)?;
            shelf.note(reader.name()?, Value::Sealed(memory));
        }
        kind::NOTE => {
            let key = reader.name()?;
            shelf.note(key, Value::Inline(reader.rest().into()));
        }
        kind::EXIT => drop(shelf.record(reader.exit()?)),
        _ => return Err(Malformed),
    }
    reader.finish()
}

/// The manifest of the keeper that this process took over from, for `Start`; once only.
pub(crate) fn inherited_manifest() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = env::var(MANIFEST_VARIABLE).ok()?.parse().ok()?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // A variable left over from elsewhere may name anything; only a memfd has seals.
    let manifest = sys::adopt(number, |descriptor| fcntl_get_seals(descriptor).is_ok())?;
    fcntl_setfd(&manifest, FdFlags::CLOEXEC).ok()?;
    Some(manifest)
}

/// Takes a descriptor that came through exec, and lets it not go through another.
pub(super) fn inherited(number: RawFd) -> Result<OwnedFd, Malformed> {
    let descriptor = sys::adopt(number, |_| true).ok_or(Malformed)?;
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(|_| Malformed)?;
    Ok(descriptor)
}

fn set_flags(descriptors: &[BorrowedFd<'_>], flags: FdFlags) -> io::Result<()> {
    descriptors.iter().try_for_each(|descriptor| Ok(fcntl_setfd(descriptor, flags)?))
}

fn execute(program: &Path, arguments: &[OsString], manifest: RawFd) -> io::Error {
    let strings = || -> Result<_, std::ffi::NulError> {
        let path = CString::new(program.as_os_str().as_bytes())?;
        let arguments = [program.as_os_str().to_owned()].into_iter().chain(arguments.iter().cloned());
        let arguments =
            arguments.map(|argument| CString::new(argument.into_vec())).collect::<Result<Vec<_>, _>>()?;
        let mut environment = env::vars_os()
            .filter(|(name, _)| VARIABLES.iter().all(|ours| name != ours))
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                CString::new(name.into_vec())
            })
            .collect::<Result<Vec<_>, _>>()?;
        environment.push(CString::new(format!("{MANIFEST_VARIABLE}={manifest}"))?);
        Ok((path, arguments, environment))
    };
    match strings() {
        Ok((path, arguments, environment)) => sys::execute(&path, &arguments, &environment),
        Err(error) => error.into(),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the manifest of the previous keeper is not understood")
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::fd::{AsRawFd as _, IntoRawFd, OwnedFd},
    };

    use proptest::prelude::*;
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::super::{
        limits::Origin,
        shelf::{Shelf, Value, high},
        wire::{Exit, Summary},
    };
    use super::{Head, Living, read, write};

    fn head() -> Head {
        let origin = Origin { oom_score_adj: Some(-7), nofile_soft: None };
        let summary = Summary { origin, restarts: 3, last_status: Some(9), refused: 1, dropped_exits: 0 };
        Head { summary, next_serial: 12, brain: Some(Living { pid: 77, socket: 5, untold: 11 }) }
    }

    #[test]
    fn everything_goes_through() {
        let mut shelf = Shelf::default();
        shelf.held.insert("listener".into(), high(std::io::stdin()).unwrap());
        shelf.note("small", Value::of(b"bytes").unwrap());
        shelf.note("large", Value::of(&vec![7; 100_000]).unwrap());
        shelf.record(Exit { serial: 11, pid: 4, status: 256 });
        let manifest = write(&shelf, &head()).unwrap();
        // What exec does: the numbers stay, the owner is another.
        let Shelf { held, notes, .. } = shelf;
        let numbers: Vec<_> = held.into_values().map(IntoRawFd::into_raw_fd).collect();
        let notes: Vec<_> = notes
            .into_values()
            .filter_map(|value| match value {
                Value::Inline(_) => None,
                Value::Sealed(memory) => Some(memory.into_raw_fd()),
            })
            .collect();

        let (shelf, back) = read(manifest).unwrap();

        assert_eq!(back, head());
        assert_eq!(shelf.held["listener"].as_raw_fd(), numbers[0]);
        assert_eq!(fcntl_getfd(&shelf.held["listener"]).unwrap(), FdFlags::CLOEXEC);
        assert_eq!(shelf.notes["small"].read().unwrap(), b"bytes");
        assert_eq!(shelf.notes["large"].read().unwrap(), vec![7; 100_000]);
        assert_eq!(notes.len(), 1);
        assert_eq!(shelf.exits[&11].status, 256);
    }

    #[test]
    fn a_descriptor_that_is_not_open_costs_only_itself() {
        let mut shelf = Shelf::default();
        let gone = high(std::io::stdin()).unwrap();
        let manifest = write(&shelf, &head()).unwrap();
        let mut file = std::fs::File::from(manifest);
        super::put_record(&mut file, &super::numbered(super::kind::HELD, 1_000_000, "never")).unwrap();
        super::put_record(&mut file, &[99]).unwrap();
        super::put_record(&mut file, &[super::kind::NOTE, 1, b'k', b'v']).unwrap();
        drop(gone);

        shelf = read(file.into()).unwrap().0;

        assert_eq!(shelf.held.len(), 0);
        assert_eq!(shelf.notes["k"].read().unwrap(), b"v");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error_or_an_empty_shelf(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let memory: OwnedFd =
                rustix::fs::memfd_create("noise", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let mut file = std::fs::File::from(memory);
            file.write_all(&bytes).unwrap();
            let _ = read(file.into());
        }
    }
}
