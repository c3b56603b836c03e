//! Baselines: the sessions of a target and workload that were added to one another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{Accepted, StoreError, failed, load, split_name};
use crate::model::record::Record;

/// A record and its file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub record: Record,
}

impl Stored {
    /// Removes the file.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(failed("remove", &self.path))
    }
}

/// The sessions that form one baseline.
#[derive(Clone, Debug)]
pub struct Group {
    /// The first session, which all others were added to. Its record may be lost.
    pub id: String,
    /// The workload.
    pub workload: String,
    /// Oldest first; never empty.
    pub sessions: Vec<Stored>,
}

impl Group {
    /// The sessions that count: the complete ones. Where none is complete, the newest, which cannot pass.
    pub fn counted(&self) -> Vec<&Stored> {
        if self.has_complete() {
            self.sessions.iter().filter(|stored| stored.record.session.is_complete()).collect()
        } else {
            self.sessions.last().into_iter().collect()
        }
    }

    /// The sessions that do not count.
    pub fn left_out(&self) -> Vec<&Stored> {
        let counted: Vec<&Path> = self.counted().iter().map(|stored| stored.path.as_path()).collect();
        self.sessions.iter().filter(|stored| !counted.contains(&stored.path.as_path())).collect()
    }

    /// The records that count.
    pub fn records(&self) -> Vec<Record> {
        self.counted().into_iter().map(|stored| stored.record.clone()).collect()
    }

    /// The first record that there is: what the others are measured by.
    pub fn first(&self) -> &Record {
        &self.sessions[0].record
    }

    /// Whether any session came to its end.
    pub fn has_complete(&self) -> bool {
        self.sessions.iter().any(|stored| stored.record.session.is_complete())
    }

    fn holds(&self, session: &str) -> bool {
        self.id == session || self.sessions.iter().any(|stored| stored.record.session.id == session)
    }
}

/// A file with the name of a record that is none that counts.
#[derive(Debug)]
pub struct Unreadable {
    /// The workload by the file's name.
    pub workload: String,
    /// The session by the file's name.
    pub session: String,
    /// What is wrong with it; says which file.
    pub error: StoreError,
}

/// What is stored of a target.
#[derive(Debug)]
pub struct Baselines {
    folder: PathBuf,
    target: String,
    workload: Option<String>,
    /// Oldest first.
    pub groups: Vec<Group>,
    /// Files that cannot be told to belong to a group. Nothing ever touches them.
    pub unreadable: Vec<Unreadable>,
}

impl Baselines {
    /// Reads the baselines of a target, of one workload or of all. A folder that is not there holds none.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn read(folder: &Path, target: &str, workload: Option<&str>) -> Result<Self, StoreError> {
        let mut found = Self {
            folder: folder.to_owned(),
            target: target.to_owned(),
            workload: workload.map(str::to_owned),
            groups: Vec::new(),
            unreadable: Vec::new(),
        };
        let mut groups: BTreeMap<(String, String), Vec<Stored>> = BTreeMap::new();
        for path in files(&folder.join(target))? {
            let Some((of, session)) = path.file_name().and_then(|name| split_name(name.to_str()?)) else {
                continue;
            };
            if workload.is_some_and(|workload| workload != of) {
                continue;
            }
            match load(&path).and_then(|record| in_its_place(&path, record, [target, of, session])) {
                Ok(record) => {
                    let session = &record.session;
                    let id = session.appended_to.clone().unwrap_or_else(|| session.id.clone());
                    groups.entry((id, of.to_owned())).or_default().push(Stored { path, record });
                }
                Err(error) => found.unreadable.push(Unreadable {
                    workload: of.to_owned(),
                    session: session.to_owned(),
                    error,
                }),
            }
        }
        found.groups = groups
            .into_iter()
            .map(|((id, workload), mut sessions)| {
                sessions.sort_by(|a, b| a.record.session.id.cmp(&b.record.session.id));
                Group { id, workload, sessions }
            })
            .collect();
        Ok(found)
    }

    /// The baseline that somebody chose for a workload, if anybody did.
    ///
    /// # Errors
    /// As [`Accepted::load`].
    pub fn accepted(&self, workload: &str) -> Result<Option<Accepted>, StoreError> {
        Accepted::load(&Accepted::path(&self.folder, &self.target, workload))
    }

    /// The group that was begun last.
    ///
    /// # Errors
    /// When there is none, or what is newer cannot be read: whoever asks for the newest must not be given another.
    pub fn newest(mut self) -> Result<Group, StoreError> {
        let newest_unreadable = (0..self.unreadable.len()).max_by_key(|at| &self.unreadable[*at].session);
        if let Some(at) = newest_unreadable
            && self.groups.last().is_none_or(|group| group.id < self.unreadable[at].session)
        {
            return Err(self.unreadable.swap_remove(at).error);
        }
        self.groups.pop().ok_or_else(|| self.none())
    }

    /// The group that was chosen, else the newest.
    ///
    /// # Errors
    /// As [`Self::newest`]; or when the choice cannot be read, or what was chosen is not there.
    pub fn in_force(self) -> Result<Group, StoreError> {
        let Some(workload) = self.newest_workload() else { return self.newest() };
        match self.chosen(&workload)? {
            Some(group) => Ok(group),
            None => self.newest(),
        }
    }

    /// The group that was chosen for a workload, if any was.
    ///
    /// # Errors
    /// When the choice cannot be read, or what was chosen is not there.
    pub fn chosen(&self, workload: &str) -> Result<Option<Group>, StoreError> {
        let Some(accepted) = self.accepted(workload)? else { return Ok(None) };
        let is_it = |group: &&Group| group.id == accepted.group && group.workload == workload;
        let group = self.groups.iter().find(is_it).cloned();
        group.map(Some).ok_or_else(|| StoreError::NoGroup {
            target: self.target.clone(),
            workload: Some(workload.to_owned()),
            session: accepted.group,
            folder: self.folder.join(&self.target),
            named_by: Some(Accepted::path(&self.folder, &self.target, workload)),
        })
    }

    /// The newest group with a session that came to its end.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest_complete(&self) -> Result<&Group, StoreError> {
        self.groups.iter().rev().find(|group| group.has_complete()).ok_or_else(|| self.none())
    }

    /// The group of a session, by its first or any other.
    ///
    /// # Errors
    /// When there is none, or the session's file cannot be read.
    pub fn find(&mut self, session: &str) -> Result<&Group, StoreError> {
        if let Some(at) = self.groups.iter().position(|group| group.holds(session)) {
            return Ok(&self.groups[at]);
        }
        if let Some(at) = self.unreadable.iter().position(|unreadable| unreadable.session == session) {
            return Err(self.unreadable.swap_remove(at).error);
        }
        Err(StoreError::NoGroup {
            target: self.target.clone(),
            workload: self.workload.clone(),
            session: session.to_owned(),
            folder: self.folder.join(&self.target),
            named_by: None,
        })
    }

    /// The groups beyond the newest `keep` of each workload, oldest first; never the chosen one, nor the newest with
    /// a session that came to its end.
    ///
    /// # Errors
    /// When a choice cannot be read, or what was chosen is not there: then nobody knows what may go.
    pub fn beyond(&self, keep: usize) -> Result<Vec<&Group>, StoreError> {
        let mut beyond = Vec::new();
        for workload in self.groups.iter().map(|group| &group.workload).collect::<BTreeSet<_>>() {
            let chosen = self.chosen(workload)?.map(|group| group.id);
            let of_workload: Vec<&Group> =
                self.groups.iter().filter(|group| group.workload == *workload).collect();
            let newest_complete = of_workload.iter().rev().find(|group| group.has_complete());
            let spared = [chosen.as_ref(), newest_complete.map(|group| &group.id)];
            let old = &of_workload[..of_workload.len().saturating_sub(keep)];
            beyond.extend(old.iter().filter(|group| !spared.contains(&Some(&group.id))));
        }
        Ok(beyond)
    }

    /// Of the newest file, whether it can be read or not.
    fn newest_workload(&self) -> Option<String> {
        let groups = self.groups.iter().map(|group| (&group.id, &group.workload));
        let unreadable = self.unreadable.iter().map(|unreadable| (&unreadable.session, &unreadable.workload));
        groups.chain(unreadable).max().map(|(_, workload)| workload.clone())
    }

    fn none(&self) -> StoreError {
        StoreError::None {
            target: self.target.clone(),
            workload: self.workload.clone(),
            folder: self.folder.join(&self.target),
        }
    }
}

/// The targets that have a folder, by name.
///
/// # Errors
/// When the folder cannot be listed. One that is not there holds none.
pub fn targets(folder: &Path) -> Result<Vec<String>, StoreError> {
    let folders = entries(folder)?.into_iter().filter(|path| path.is_dir());
    let mut names: Vec<String> =
        folders.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    Ok(names)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_file()).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("read", folder)(e)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>();
    paths.map_err(failed("read", folder))
}

/// A copy under another name would count as a session of its own.
fn in_its_place(path: &Path, record: Record, place: [&str; 3]) -> Result<Record, StoreError> {
    let said = [&record.target.target, &record.workload.name, &record.session.id];
    for ((what, expected), found) in ["target", "workload", "session"].into_iter().zip(place).zip(said) {
        if found != expected {
            return Err(StoreError::Misplaced {
                path: path.to_owned(),
                what,
                found: found.clone(),
                expected: expected.to_owned(),
            });
        }
    }
    Ok(record)
}
