//! Reads what the user wrote: `qbench.toml`, scenario files, ecosystem files and compose files, into the model.
//!
//! First a file is parsed, then it is resolved: every file it names is read, every default filled in, every program
//! found. What does not fit is an error with its place, a caret and a remedy.
//!
//! Deliberately absent: starting anything but Node, which alone can say what an `ecosystem.config.js` exports; and
//! any printing. No error or note carries the value of an environment variable, of a header or of a body.

pub mod init;
pub mod scenario;

mod accounts;
mod app;
mod app_additions;
mod app_cron;
mod app_keys;
mod app_logs;
mod app_notes;
mod app_program;
mod app_user;
mod app_values;
mod checks;
mod compose;
mod digest;
mod document;
mod ecosystem;
mod error;
mod javascript;
mod names;
mod programs;
mod requests;
mod settings;
mod source;
mod spelling;
mod thresholds;
mod variables;
mod workload;

#[cfg(test)]
mod app_additions_tests;
#[cfg(test)]
mod app_fuzz_tests;
#[cfg(test)]
mod app_supervision_tests;
#[cfg(test)]
mod app_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use error::ConfigError;

use crate::model::{
    request::{Request, Variables},
    settings::{LoadSettings, Thresholds},
    target::Target,
    workload::{App, Workload},
};

/// A `qbench.toml`, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file, as it was given.
    pub path: PathBuf,
    /// The workload.
    pub workload: Workload,
    /// The targets it declares, in its order; the four runtimes are targets without being declared.
    pub targets: Vec<Target>,
    /// How hard and how long.
    pub load: LoadSettings,
    /// How strictly.
    pub thresholds: Thresholds,
    /// SHA-256 (hex) over the requests of all services.
    pub requests_digest: String,
    /// What the user should know and that stops nothing.
    pub notes: Vec<String>,
}

impl Config {
    /// The target of that name: a declared one, else the runtime of that name with default options.
    pub fn target(&self, name: &str) -> Option<Target> {
        let declared = self.targets.iter().find(|target| target.name == name).cloned();
        declared.or_else(|| name.parse().ok().map(Target::of))
    }
}

/// Keys of the file as a whole.
const ROOT_KEYS: [&str; 5] = ["workload", "service", "load", "thresholds", "target"];

/// Reads a `qbench.toml` and every file it names. `own_executable` is what an app's script `qbench` means.
///
/// # Errors
/// [`ConfigError`] at the first thing that does not fit.
pub fn load(path: &Path, own_executable: &Path) -> Result<Config, ConfigError> {
    let source = source::Source::read(path).map_err(|error| match path.try_exists() {
        Ok(false) => error.help("`qbench init` writes one that fits the files it finds"),
        _ => error,
    })?;
    let document = document::Document::parse(&source, &known_words())?;
    let root = document.root(&ROOT_KEYS)?;
    let load_section = root.optional("load", |field| field.section(&settings::LOAD_KEYS))?;
    let load = settings::load(load_section.as_ref())?;
    let thresholds_section =
        root.optional("thresholds", |field| field.section(&thresholds::THRESHOLD_KEYS))?;
    let thresholds = thresholds::thresholds(thresholds_section.as_ref())?;
    let targets = settings::targets(root.field("target").as_ref())?;
    let mut notes = Vec::new();
    let workload = workload::read(&root, own_executable, &mut notes)?;
    Ok(Config {
        path: path.to_owned(),
        requests_digest: requests::digest(&workload.services),
        workload,
        targets,
        load,
        thresholds,
        notes,
    })
}

/// Reads a file of requests: `[[request]]` and `[[variable]]`, with the keys of `[[service.request]]` and
/// `[[service.variable]]`. Files that it names are looked for in its own folder.
///
/// # Errors
/// [`ConfigError`] at the first thing that does not fit, or when there is no request.
pub fn requests_file(path: &Path) -> Result<(Vec<Request>, Variables), ConfigError> {
    let source = source::Source::read(path)?;
    let document = document::Document::parse(&source, &known_words())?;
    let root = document.root(&requests::FILE_KEYS)?;
    let (requests, variables) = requests::read(&root, "[[variable]]", &mut Vec::new())?;
    if requests.is_empty() {
        return Err(root.error("the file has no request").help("add a `[[request]]` with `path = \"/\"`"));
    }
    Ok((requests, variables))
}

/// The apps of an ecosystem file.
#[derive(Clone, Debug)]
pub struct EcosystemApps {
    /// In the order of the file.
    pub apps: Vec<App>,
    /// What the user should know and that stops nothing.
    pub notes: Vec<String>,
}

/// Reads an ecosystem file for itself, without a `qbench.toml`; `environment` chooses the `env_NAME` blocks.
/// `own_executable` is what an app's script `qbench` means.
///
/// # Errors
/// [`ConfigError`] at the first thing that does not fit.
pub fn ecosystem_apps(
    path: &Path,
    environment: Option<&str>,
    own_executable: &Path,
) -> Result<EcosystemApps, ConfigError> {
    let file = ecosystem::read(path)?;
    if let Some(name) = environment {
        let shown_as = path.file_name().unwrap_or_default().display().to_string();
        file.check_environment(name, &shown_as)
            .map_err(|(message, hint)| ConfigError::new(message).help(hint))?;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder).map_err(|error| {
        ConfigError::new(format!("the folder of {} has no path: {error}", path.display()))
    })?;
    let surroundings = app::Surroundings {
        shown_as: path,
        folder: &folder,
        environment,
        deploy: file.deploy.as_ref(),
        own_executable,
    };
    let (mut apps, mut notes) = (Vec::new(), file.notes);
    for block in &file.blocks {
        let (app, warnings) = app::resolve(block, &surroundings)?;
        apps.push(app);
        notes.extend(warnings);
    }
    Ok(EcosystemApps { apps, notes })
}

/// What may be shown of a line that cannot be parsed: the keys qbench knows, but for those of secrets.
fn known_words() -> Vec<&'static str> {
    ROOT_KEYS
        .into_iter()
        .chain(workload::WORKLOAD_KEYS)
        .chain(workload::SERVICE_KEYS)
        .chain(requests::REQUEST_KEYS)
        .chain(checks::EXPECT_KEYS)
        .chain(variables::VARIABLE_KEYS)
        .chain(settings::LOAD_KEYS)
        .chain(thresholds::THRESHOLD_KEYS)
        .chain(thresholds::ALLOWANCE_KEYS)
        .chain(settings::TARGET_KEYS)
        .filter(|key| !matches!(*key, "env" | "headers" | "body" | "json" | "matches"))
        .collect()
}
