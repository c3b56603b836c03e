//! Proposes a `qbench.toml` from the files that are there.
//!
//! Deliberately absent: writing it. Whoever asks decides where it goes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    app::{environments, variable_text},
    compose,
    ecosystem::{self, Block},
    error::{ConfigError, listed},
    names::{check_file_name, is_variable},
};

const ECOSYSTEM_FILES: [&str; 3] = ["ecosystem.json", "ecosystem.config.js", "ecosystem.config.cjs"];
const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// A file to write, and what it is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The text of the `qbench.toml`.
    pub text: String,
    /// What was found, one line a file; empty when there was nothing, and the text is a template to fill in.
    pub found: Vec<String>,
}

/// What is known of a service before anybody has described it.
struct Guess {
    name: String,
    has_port: bool,
    /// Variables that point to other services.
    peers: BTreeMap<String, String>,
}

/// Looks for ecosystem and compose files in a folder and proposes a `qbench.toml` that fits them.
///
/// # Errors
/// [`ConfigError`] when the folder cannot be read, or a file that was found cannot be understood.
pub fn propose(dir: &Path) -> Result<Proposal, ConfigError> {
    if !dir.is_dir() {
        return Err(ConfigError::new(format!("{} is no folder", dir.display()))
            .help("name the folder of the workload, where its ecosystem or compose file is"));
    }
    let first = |names: &[&'static str]| names.iter().copied().find(|name| dir.join(name).is_file());
    let ecosystem = first(&ECOSYSTEM_FILES)
        .map(|name| ecosystem::read(&shown(dir, name)).map(|file| (name, file.blocks)))
        .transpose()?;
    let compose = first(&COMPOSE_FILES)
        .map(|name| compose::read(&shown(dir, name)).map(|services| (name, services)))
        .transpose()?
        .filter(|(_, services)| !services.is_empty());

    let mut found = Vec::new();
    if let Some((name, blocks)) = &ecosystem {
        found.push(format!("{name}: {}", listed(blocks.iter().map(|block| block.name.as_str()))));
    }
    if let Some((name, services)) = &compose {
        found.push(format!("{name}: {}", listed(services.iter().map(|service| service.name.as_str()))));
    }
    let guesses = match (&ecosystem, &compose) {
        (Some((_, blocks)), services) => {
            guess_from_apps(blocks, services.as_ref().map(|(_, services)| services.as_slice()))
        }
        (None, Some((_, services))) => services
            .iter()
            .map(|service| Guess {
                name: service.name.clone(),
                has_port: service.has_port,
                peers: BTreeMap::new(),
            })
            .collect(),
        (None, None) => Vec::new(),
    };
    let mut text = String::from(
        "# What qbench measures: the services of this workload, the requests they get, and what must hold.\n\
         # `qbench validate docker pm2` compares two targets; `qbench doctor` says which can be used here.\n\n",
    );
    write_workload(&mut text, dir, ecosystem.as_ref(), compose.as_ref(), &guesses);
    write_services(&mut text, &guesses);
    text.push_str(SETTINGS);
    Ok(Proposal { text, found })
}

/// A file of the folder, without a `./` before its name.
fn shown(dir: &Path, name: &str) -> PathBuf {
    if dir == Path::new(".") { PathBuf::from(name) } else { dir.join(name) }
}

fn guess_from_apps(blocks: &[Block], services: Option<&[compose::Declared]>) -> Vec<Guess> {
    let ports: BTreeMap<String, &str> =
        blocks.iter().filter_map(|block| Some((port_of(block)?, block.name.as_str()))).collect();
    blocks
        .iter()
        .map(|block| {
            let in_compose = services.into_iter().flatten().find(|service| service.name == block.name);
            Guess {
                name: block.name.clone(),
                has_port: port_of(block).is_some() || in_compose.is_some_and(|service| service.has_port),
                peers: peers(block, &ports),
            }
        })
        .collect()
}

/// The variables of an app, `env_production` over `env`, since that is what runs where it matters.
fn variables(block: &Block) -> BTreeMap<&str, String> {
    ["env", "env_production"]
        .iter()
        .filter_map(|key| block.keys.get(*key)?.as_object())
        .flatten()
        .map(|(name, value)| (name.as_str(), variable_text(value)))
        .collect()
}

fn port_of(block: &Block) -> Option<String> {
    let by_key = block.keys.get("port").filter(|port| port.is_u64()).map(Value::to_string);
    by_key.or_else(|| variables(block).remove("PORT"))
}

/// Variables that hold the address of another app: each target has ports of its own, so that qbench must fill
/// them in. A value with an `@` may carry a password, and is left alone.
fn peers(block: &Block, ports: &BTreeMap<String, &str>) -> BTreeMap<String, String> {
    let mut peers = BTreeMap::new();
    for (name, value) in variables(block) {
        let is_plain = value.starts_with("http://") && !value.contains(['@', '?', '{', '}']);
        if !is_plain || !is_variable(name) {
            continue;
        }
        for host in ["localhost", "127.0.0.1"] {
            let Some(rest) = value.strip_prefix(&format!("http://{host}:")) else { continue };
            let end = rest.find('/').unwrap_or(rest.len());
            match ports.get(&rest[..end]) {
                Some(peer) if *peer != block.name => {
                    let address = format!("http://{{address:{peer}}}{}", &rest[end..]);
                    peers.insert(name.to_owned(), address);
                }
                _ => {}
            }
        }
    }
    peers
}

fn write_workload(
    text: &mut String,
    dir: &Path,
    ecosystem: Option<&(&str, Vec<Block>)>,
    compose: Option<&(&str, Vec<compose::Declared>)>,
    guesses: &[Guess],
) {
    let name = workload_name(dir);
    let _ = writeln!(text, "[workload]\nname = {}", quoted(&name));
    match ecosystem {
        Some((file, blocks)) => {
            let _ = writeln!(text, "ecosystem = {}", quoted(file));
            let mut known: Vec<&str> = blocks.iter().flat_map(environments).collect();
            known.sort_unstable();
            known.dedup();
            if known.contains(&"production") {
                text.push_str("environment = \"production\"          # env_production is merged over env\n");
            } else {
                text.push_str("# environment = \"production\"        # env_production would be merged over env\n");
            }
        }
        None => text.push_str(
            "# What runs on bare, builtin and pm2: the apps of this file.\n# ecosystem = \"ecosystem.json\"\n",
        ),
    }
    match compose {
        Some((file, services)) => {
            let has = |guess: &&Guess| services.iter().any(|service| service.name == guess.name);
            let absent: Vec<&str> =
                guesses.iter().filter(|guess| !has(guess)).map(|guess| guess.name.as_str()).collect();
            if absent.is_empty() {
                let _ = writeln!(text, "compose = {}", quoted(file));
            } else {
                let _ = writeln!(
                    text,
                    "# {file} has no service named {}: say which it is with `compose_service` below, then\n\
                     # remove the `#` here.\n# compose = {}",
                    listed(
                        absent
                            .iter()
                            .map(|name| one_line(name))
                            .collect::<Vec<_>>()
                            .iter()
                            .map(String::as_str)
                    ),
                    quoted(file)
                );
            }
        }
        None => {
            text.push_str(
                "# What runs on docker: the services of this file.\n# compose = \"compose.yaml\"\n",
            );
        }
    }
    text.push_str(
        "port_variable = \"PORT\"              # how a process is told its port\n\
         # release_variable = \"RELEASE_FILE\" # names the file whose content is the deployed release\n\n",
    );
}

fn write_services(text: &mut String, guesses: &[Guess]) {
    if guesses.is_empty() {
        text.push_str(
            "# Neither an ecosystem file nor a compose file was found here. Name one of them above, and a\n\
             # service of it below.\n",
        );
        write_service(text, "web", &BTreeMap::new(), Some(true));
        return;
    }
    let any_port = guesses.iter().any(|guess| guess.has_port);
    for (at, guess) in guesses.iter().enumerate() {
        // The load has to go somewhere: without any port declared, the first service is the best guess.
        let http = match (guess.has_port, any_port) {
            (true, _) => Some(true),
            (false, false) if at == 0 => Some(false),
            _ => None,
        };
        write_service(text, &guess.name, &guess.peers, http);
    }
}

fn write_service(text: &mut String, name: &str, peers: &BTreeMap<String, String>, http: Option<bool>) {
    let _ = writeln!(text, "[[service]]\nname = {}", quoted(name));
    match http {
        Some(is_sure) => {
            if !is_sure {
                text.push_str("# A guess: no service declares a port, and the load must go somewhere. Please check.\n");
            }
            text.push_str(
                "health = \"/health\"                 # a guess: a path that answers 200 once the service is ready\n\
                 # release = \"/version\"             # a path whose answer contains the release that runs\n",
            );
        }
        None => text.push_str(
            "# No port was found, so this is taken for a worker. If it answers over HTTP:\n# health = \"/health\"\n",
        ),
    }
    if !peers.is_empty() {
        text.push_str("[service.env]                      # each target has ports of its own\n");
        for (variable, value) in peers {
            let _ = writeln!(text, "{} = {}", key(variable), quoted(value));
        }
    }
    if http.is_some() {
        text.push_str(
            "[[service.request]]                # the load: as many of these as there are kinds of requests\n\
             method = \"GET\"\npath = \"/health\"                   # works at once; better take what your users ask for most\nweight = 1\n",
        );
    }
    text.push('\n');
}

fn workload_name(dir: &Path) -> String {
    let path = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().map(|c| if usable(c) { c } else { '-' }).take(64).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if check_file_name(name).is_ok() { name.to_owned() } else { "workload".to_owned() }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(one_line(text)).to_string()
}

/// A TOML key, in quotes where it needs them.
fn key(name: &str) -> String {
    let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare { name.to_owned() } else { quoted(name) }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

const SETTINGS: &str = r#"[load]
rate = 200                         # requests per second, sent on schedule whatever the answers
window = "20s"                     # measured in each epoch
# epochs = 40                       # restarts of everything after which `validate` gives up; `collect` takes 10
# warmup = "2s"
# slot = "250ms"
# connections = 32
# connection = "keep-alive"          # or "per-request"
# timeout = "5s"
# ready_timeout = "30s"
# times = true                        # after each window, time a reload and a restart of every arm
# throughput_p99 = "50ms"             # after each window, search the highest rate with p99 below this

[thresholds]                       # what the candidate may cost, relative to the baseline
response_time = "5%"
memory = "10%"
errors = 0
max_latency = "5s"
# response_time_slack = "0us"        # differences below this never fail
# cpu = "10%"
# p95 = { limit = "25%", slack = "1ms", critical = false }
# p99 = { limit = "50%", slack = "1ms", critical = false }

# bare, builtin, pm2 and docker are targets without being declared; declare one to set its options.
# [target.docker]
# reload = "restart"                 # or "recreate"
# network = "published"              # or "host"
# before_build = ["sh", "image.sh"]
# [target.pm2]
# program = "/opt/pm2/bin/pm2"
"#;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Config, load};

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn round_trip(folder: &tempfile::TempDir) -> Result<Config, ConfigError> {
        let proposal = propose(folder.path()).unwrap();
        let path = folder.path().join("qbench.toml");
        fs::write(&path, &proposal.text).unwrap();
        load(&path, Path::new("/opt/qbench"))
    }

    const ECOSYSTEM: &str = "{apps: [
        {name: 'engine', script: 'a.js', env: {PORT: 3000, TOKEN: 'hunter2'}, env_production: {X: 1}},
        {name: 'analytics', script: 'a.js', port: 3001,
         env: {ENGINE_URL: 'http://localhost:3000/v1', DB: 'http://u:hunter2@localhost:3000'}},
        {name: 'mon \"itor\"', script: 'a.js'}]}";

    #[test]
    fn an_ecosystem_file_is_understood() {
        let folder = folder(&[("ecosystem.json", ECOSYSTEM), ("a.js", "")]);
        let proposal = propose(folder.path()).unwrap();
        assert_eq!(proposal.found, ["ecosystem.json: `engine`, `analytics` and `mon \"itor\"`"]);
        assert!(!proposal.text.contains("hunter2"));
        let config = round_trip(&folder).unwrap();
        assert_eq!(config.workload.ecosystem.as_ref().unwrap().environment.as_deref(), Some("production"));
        let services = &config.workload.services;
        assert_eq!(services.len(), 3);
        assert!(services[0].http.is_some() && services[1].http.is_some() && services[2].http.is_none());
        assert_eq!(services[1].env["ENGINE_URL"], "http://{address:engine}/v1");
        assert_eq!(services[1].env.len(), 1);
    }

    #[test]
    fn a_compose_file_is_understood_alone_and_beside_an_ecosystem_file() {
        let compose = "services:\n  engine:\n    ports: [\"3000\"]\n  monitor:\n    image: x\n";
        let alone = folder(&[("docker-compose.yml", compose)]);
        let config = round_trip(&alone).unwrap();
        assert!(config.workload.services[0].http.is_some() && config.workload.services[1].http.is_none());
        assert!(config.workload.compose.unwrap().ends_with("docker-compose.yml"));

        let both = folder(&[("compose.yaml", compose), ("ecosystem.json", ECOSYSTEM), ("a.js", "")]);
        assert!(
            propose(both.path())
                .unwrap()
                .text
                .contains("has no service named `analytics` and `mon \"itor\"`")
        );
        assert_eq!(round_trip(&both).unwrap().workload.compose, None);

        let same = "{apps: [{name: 'engine', script: 'a.js'}, {name: 'monitor', script: 'a.js'}]}";
        let both = folder(&[("compose.yaml", compose), ("ecosystem.json", same), ("a.js", "")]);
        let config = round_trip(&both).unwrap();
        let first = &config.workload.services[0];
        assert!(first.app.is_some() && first.compose.is_some() && first.http.is_some());
    }

    #[test]
    fn without_any_port_the_first_service_is_a_guess_that_says_so() {
        let folder = folder(&[("ecosystem.json", "{apps: [{name: 'x', script: 'a.js'}]}"), ("a.js", "")]);
        assert!(propose(folder.path()).unwrap().text.contains("Please check."));
        assert!(round_trip(&folder).unwrap().workload.services[0].http.is_some());
    }

    #[test]
    fn with_nothing_there_it_is_a_template_whose_gap_load_explains() {
        let folder = folder(&[]);
        let proposal = propose(folder.path()).unwrap();
        assert_eq!(proposal.found, Vec::<String>::new());
        let error = round_trip(&folder).unwrap_err();
        assert!(error.message().contains("neither an ecosystem file nor a compose file"), "{error}");
        // Naming a file is all that is missing.
        fs::write(folder.path().join("e.json"), "{name: 'web', script: 'sleep'}").unwrap();
        let filled = proposal.text.replace("# ecosystem = \"ecosystem.json\"", "ecosystem = \"e.json\"");
        let path = folder.path().join("qbench.toml");
        fs::write(&path, filled).unwrap();
        load(&path, Path::new("/opt/qbench")).unwrap();
    }

    #[test]
    fn a_broken_file_is_not_passed_over() {
        let folder = folder(&[("ecosystem.json", "{apps: [")]);
        assert!(propose(folder.path()).unwrap_err().message().starts_with("syntax error"));
        assert!(propose(Path::new("/no/such/folder")).is_err());
    }
}
