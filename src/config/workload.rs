//! `[workload]` and `[[service]]`: from the file to a workload with every file read.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    app::{self, Surroundings},
    app_notes, compose,
    digest::sha256,
    document::{Field, Section},
    ecosystem::{self, Ecosystem},
    error::{ConfigError, listed},
    names::{check_file_name, is_variable},
    requests,
    source::read_bytes,
    spelling::nearest,
};
use crate::model::workload::{ComposeService, EcosystemFile, HttpService, Service, Workload};

/// Keys of `[workload]`.
pub(super) const WORKLOAD_KEYS: [&str; 7] =
    ["name", "ecosystem", "environment", "compose", "port_variable", "release_variable", "first_port"];
/// Keys of `[[service]]`.
pub(super) const SERVICE_KEYS: [&str; 7] =
    ["name", "compose_service", "health", "release", "env", "request", "variable"];

const ADDRESS: &str = "{address:";
const LARGEST_FILE_BYTES: u64 = 1 << 20;

/// What the workload's own files say.
struct Files {
    ecosystem: Option<(PathBuf, Ecosystem)>,
    compose: Option<(PathBuf, Vec<compose::Declared>)>,
    environment: Option<String>,
}

/// Reads the workload; `notes` gets warnings.
pub(super) fn read(
    root: &Section<'_, '_>,
    own_executable: &Path,
    notes: &mut Vec<String>,
) -> Result<Workload, ConfigError> {
    let field = root.required("workload", "[workload]")?;
    let section = field.section(&WORKLOAD_KEYS)?;
    let name_field = section.required("name", "name = \"shop\"")?;
    let name = name_field.text()?;
    check_file_name(name).map_err(|problem| name_field.error(format!("the workload's name {problem}")))?;
    let shown_folder = field.document().folder();
    let folder = std::path::absolute(shown_folder.join("."))
        .map_err(|error| section.error(format!("the folder of this file has no path: {error}")))?;
    let files = files(&section)?;

    let services_field = root.field("service").ok_or_else(|| {
        section.error("the workload has no service").help("add a `[[service]]` with the name of an app")
    })?;
    let sections = services_field.sections(&SERVICE_KEYS)?;
    if sections.is_empty() {
        return Err(services_field.error("the workload has no service").help("add a `[[service]]`"));
    }
    let mut request_files = Vec::new();
    let mut services: Vec<Service> = Vec::new();
    for section in &sections {
        let service = service(section, &files, &folder, own_executable, &mut request_files, notes)?;
        if services.iter().any(|other| other.name == service.name) {
            let field = section.required("name", "")?;
            return Err(field
                .error(format!("two services are named `{}`", service.name))
                .help("say it once; an app's `instances` gives it several processes"));
        }
        services.push(service);
    }
    for (section, service) in sections.iter().zip(&services) {
        check_addresses(section, service, &services)?;
    }
    if !services.iter().filter_map(|service| service.http.as_ref()).any(|http| !http.requests.is_empty()) {
        return Err(section
            .error("no service has a request, so that the load has nowhere to go")
            .help("give a service with a `health` path a `[[service.request]]` with `path = \"/\"`"));
    }
    note_unused_apps(&files, &services, notes);

    let mut workload = Workload {
        name: name.to_owned(),
        root: folder,
        port_variable: section.optional("port_variable", variable)?.unwrap_or_else(|| "PORT".to_owned()),
        first_port: first_port(&section, &services)?,
        release_variable: section.optional("release_variable", variable)?,
        services,
        ecosystem: files
            .ecosystem
            .as_ref()
            .map(|(path, _)| EcosystemFile { path: path.clone(), environment: files.environment.clone() }),
        compose: files.compose.as_ref().map(|(path, _)| path.clone()),
        digests: BTreeMap::new(),
    };
    workload.digests = digests(&section, &workload, request_files)?;
    Ok(workload)
}

fn files(section: &Section<'_, '_>) -> Result<Files, ConfigError> {
    let ecosystem = section.optional("ecosystem", |field| own_file(field, ecosystem::read))?;
    let compose = section.optional("compose", |field| own_file(field, compose::read))?;
    if ecosystem.is_none() && compose.is_none() {
        return Err(section
            .error("the workload names neither an ecosystem file nor a compose file, so that nothing can be started")
            .help("add `ecosystem = \"ecosystem.json\"`, `compose = \"compose.yaml\"`, or both"));
    }
    let environment = section.optional("environment", |field| {
        let name = field.text()?;
        let Some((path, file)) = &ecosystem else {
            return Err(field
                .key_error("`environment` chooses a block of an ecosystem file, and there is none")
                .help("add `ecosystem = \"ecosystem.json\"`, or leave `environment` out"));
        };
        let shown_as = path.file_name().unwrap_or_default().display().to_string();
        file.check_environment(name, &shown_as).map_err(|(message, hint)| field.error(message).help(hint))?;
        Ok(name.to_owned())
    })?;
    Ok(Files { ecosystem, compose, environment })
}

/// Reads a file that the workload names. What is wrong in it is shown there; that it is missing is shown here.
fn own_file<T>(
    field: &Field<'_, '_>,
    read: impl FnOnce(&Path) -> Result<T, ConfigError>,
) -> Result<(PathBuf, T), ConfigError> {
    let shown_as = field.document().folder().join(field.text()?);
    let content = read(&shown_as).map_err(|error| match error.file() {
        Some(_) => error,
        None => {
            let hint =
                error.hint().unwrap_or("it is looked for relative to the folder of this file").to_owned();
            field.error(error.message()).help(hint)
        }
    })?;
    let path = std::path::absolute(&shown_as).unwrap_or(shown_as);
    Ok((path, content))
}

fn service(
    section: &Section<'_, '_>,
    files: &Files,
    folder: &Path,
    own_executable: &Path,
    request_files: &mut Vec<(String, String)>,
    notes: &mut Vec<String>,
) -> Result<Service, ConfigError> {
    let name_field = section.required("name", "name = \"web\"")?;
    let name = name_field.text()?;
    if name.chars().count() > 128 || name.contains(['{', '}', '/', '\\']) {
        return Err(name_field
            .error("a service's name has at most 128 characters, none of `{`, `}`, `/` and `\\`")
            .help("give the app another name"));
    }
    let http = http(section, request_files)?;
    let app = match &files.ecosystem {
        None => None,
        Some((path, file)) => {
            let shown_as = shown(section_folder(&name_field), folder, path);
            let block = app::find(&file.blocks, name).map_err(|(message, hint)| {
                name_field.error(format!("{message} in {}", shown_as.display())).help(hint)
            })?;
            let surroundings = Surroundings {
                shown_as: &shown_as,
                folder: path.parent().unwrap_or(folder),
                environment: files.environment.as_deref(),
                deploy: file.deploy.as_ref(),
                own_executable,
            };
            let (app, warnings) = app::resolve(block, &surroundings)?;
            notes.extend(warnings);
            notes.extend(app_notes::on_bare(&app));
            Some(app)
        }
    };
    let env = section.optional("env", variables)?.unwrap_or_default();
    let compose = compose_service(section, name_field, files)?;
    Ok(Service { name: name.to_owned(), http, env, app, compose })
}

fn section_folder<'d>(field: &Field<'d, '_>) -> &'d Path {
    field.document().folder()
}

/// A path below the workload's folder as the user would write it.
fn shown(shown_folder: &Path, folder: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(folder).map_or_else(|_| path.to_owned(), |within| shown_folder.join(within))
}

fn http(
    section: &Section<'_, '_>,
    request_files: &mut Vec<(String, String)>,
) -> Result<Option<HttpService>, ConfigError> {
    let Some(health) = section.optional("health", requests::path)? else {
        for key in ["request", "release", "variable"] {
            if let Some(field) = section.field(key) {
                return Err(field
                    .key_error(format!("a service without `health` is a worker and can have no `{key}`"))
                    .help("add `health = \"/health\"`: a path that answers 200 once the service is ready"));
            }
        }
        return Ok(None);
    };
    let release = section.optional("release", requests::path)?;
    let (requests, variables) = requests::read(section, "[[service.variable]]", request_files)?;
    Ok(Some(HttpService { health, release, requests, variables }))
}

fn compose_service(
    section: &Section<'_, '_>,
    name_field: Field<'_, '_>,
    files: &Files,
) -> Result<Option<ComposeService>, ConfigError> {
    let own = section.field("compose_service");
    let Some((path, declared)) = &files.compose else {
        return own.map_or(Ok(None), |field| {
            Err(field
                .key_error("`compose_service` names a service of a compose file, and there is none")
                .help("add `compose = \"compose.yaml\"` to `[workload]`, or leave this out"))
        });
    };
    let field = own.unwrap_or(name_field);
    let name = field.text()?;
    if let Some(service) = declared.iter().find(|service| service.name == name) {
        return Ok(Some(ComposeService { name: name.to_owned(), replicas: service.replicas }));
    }
    let file = path.file_name().unwrap_or_default().display();
    let names = || declared.iter().map(|service| service.name.as_str());
    let known = if declared.is_empty() { "none".to_owned() } else { listed(names()) };
    let hint = if field.key() == "name" {
        format!("its services are {known}; say which with `compose_service = \"…\"`")
    } else {
        format!("its services are {known}")
    };
    Err(field.error(format!("{file} has no service `{name}`")).help(hint))
}

fn variable(field: &Field<'_, '_>) -> Result<String, ConfigError> {
    let name = field.text()?;
    if !is_variable(name) {
        return Err(field
            .error(format!("`{}` must be the name of an environment variable", field.key()))
            .help("for example \"PORT\""));
    }
    Ok(name.to_owned())
}

pub(super) fn variables(field: &Field<'_, '_>) -> Result<BTreeMap<String, String>, ConfigError> {
    field
        .entries()?
        .iter()
        .map(|entry| {
            if !is_variable(entry.key()) {
                return Err(entry
                    .key_error("this is not the name of an environment variable")
                    .help("it must not be empty, nor have `=` or white space in it"));
            }
            let value = entry.any_text()?;
            if value.contains('\0') {
                return Err(entry.key_error("the value must not contain a NUL character"));
            }
            Ok((entry.key().to_owned(), value.to_owned()))
        })
        .collect()
}

/// Every `{address:NAME}` must name a service that is reached over HTTP.
fn check_addresses(
    section: &Section<'_, '_>,
    service: &Service,
    services: &[Service],
) -> Result<(), ConfigError> {
    let Some(field) = section.field("env") else { return Ok(()) };
    for entry in field.entries()? {
        let Some(value) = service.env.get(entry.key()) else { continue };
        let mut rest = value.as_str();
        while let Some(at) = rest.find(ADDRESS) {
            let after = &rest[at + ADDRESS.len()..];
            let Some(end) = after.find('}') else {
                return Err(entry
                    .key_error("`{address:` is not closed in this value")
                    .help("write {address:SERVICE}"));
            };
            check_address(&entry, &after[..end], services)?;
            rest = &after[end + 1..];
        }
    }
    Ok(())
}

fn check_address(entry: &Field<'_, '_>, name: &str, services: &[Service]) -> Result<(), ConfigError> {
    match services.iter().find(|service| service.name == name) {
        Some(service) if service.http.is_some() => Ok(()),
        Some(_) => Err(entry
            .key_error(format!("service `{name}` is a worker and has no address"))
            .help(format!("give `{name}` a `health` path if it answers over HTTP"))),
        None => {
            let with_address = || {
                let http = services.iter().filter(|service| service.http.is_some());
                http.map(|service| service.name.as_str())
            };
            let hint = match nearest(name, with_address()) {
                Some(meant) => format!("did you mean {{address:{meant}}}?"),
                None => format!("services with an address are {}", listed(with_address())),
            };
            // What stands there is no service, and so may be anything.
            Err(entry.key_error("an `{address:…}` in this value names no service").help(hint))
        }
    }
}

fn first_port(section: &Section<'_, '_>, services: &[Service]) -> Result<Option<u16>, ConfigError> {
    section.optional("first_port", |field| {
        let first = field.integer(1, 65_535)?;
        let needed: u64 = services
            .iter()
            .filter(|service| service.http.is_some())
            .map(|service| u64::from(service.most_instances().min(256)))
            .sum();
        if first + needed > 65_536 {
            return Err(field
                .error(format!("{needed} ports from {first} on go beyond 65535"))
                .help("begin lower, or leave `first_port` out so that free ports are found"));
        }
        Ok(first as u16)
    })
}

fn note_unused_apps(files: &Files, services: &[Service], notes: &mut Vec<String>) {
    let Some((path, file)) = &files.ecosystem else { return };
    notes.extend(file.notes.iter().cloned());
    for block in &file.blocks {
        if !services.iter().any(|service| service.name == block.name) {
            notes.push(format!(
                "app `{}` of {} is in no [[service]] and is not run",
                block.name,
                path.file_name().unwrap_or_default().display()
            ));
        }
    }
}

fn digests(
    section: &Section<'_, '_>,
    workload: &Workload,
    request_files: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut digests: BTreeMap<String, String> = request_files.into_iter().collect();
    let dockerfile = workload
        .compose
        .as_ref()
        .map(|compose| compose.with_file_name("Dockerfile"))
        .filter(|dockerfile| dockerfile.is_file());
    let scripts = workload.services.iter().filter_map(|service| Some(&service.app.as_ref()?.script));
    let scripts = scripts.filter(|script| script.starts_with(&workload.root));
    let files = workload.ecosystem.iter().map(|file| &file.path).chain(&workload.compose).chain(&dockerfile);
    let files = files.chain(scripts);
    for path in files {
        let bytes = read_bytes(path, LARGEST_FILE_BYTES).map_err(|error| section.error(error.message()))?;
        let name = path.strip_prefix(&workload.root).unwrap_or(path);
        digests.insert(name.display().to_string(), sha256(&bytes));
    }
    digests.insert("qbench.toml#workload".to_owned(), sha256(canonical(workload).as_bytes()));
    Ok(digests)
}

/// The resolved `[workload]` and `[[service]]` as one text, without the paths of this machine.
fn canonical(workload: &Workload) -> String {
    let services: Vec<_> = workload
        .services
        .iter()
        .map(|service| {
            let http = service.http.as_ref().map(|http| serde_json::json!([http.health, http.release]));
            let compose = service.compose.as_ref().map(|compose| &compose.name);
            serde_json::json!([service.name, http, service.env, compose])
        })
        .collect();
    serde_json::json!([
        workload.name,
        workload.port_variable,
        workload.release_variable,
        workload.first_port,
        workload.ecosystem.as_ref().map(|file| &file.environment),
        requests::digest(&workload.services),
        services
    ])
    .to_string()
}
