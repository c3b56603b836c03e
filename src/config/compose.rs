//! Compose files, as far as the names of their services and whether they listen.
//!
//! Deliberately absent: what a service is made of. Compose itself reads the file when it is run.

use std::path::Path;

use serde_yaml_ng::Value;

use super::{ecosystem::parse_yaml, error::ConfigError, source::Source};

/// Words that may be shown in a syntax error.
const KNOWN: [&str; 20] = [
    "services",
    "version",
    "name",
    "image",
    "build",
    "context",
    "dockerfile",
    "ports",
    "expose",
    "depends_on",
    "healthcheck",
    "restart",
    "networks",
    "volumes",
    "deploy",
    "replicas",
    "condition",
    "init",
    "profiles",
    "stop_grace_period",
];

/// One service of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    /// Its name.
    pub name: String,
    /// It declares a port to be reached at.
    pub has_port: bool,
    /// Its containers: `deploy.replicas`, else `scale`, where that is a plain number; 1 otherwise.
    pub replicas: u32,
}

/// Reads the services of a file, in its order.
pub(super) fn read(shown_as: &Path) -> Result<Vec<Declared>, ConfigError> {
    let source = Source::read(shown_as)?;
    let root: Value = parse_yaml(&source, &KNOWN)?;
    let services = root.get("services").and_then(Value::as_mapping).ok_or_else(|| {
        ConfigError::new("the file has no `services`")
            .in_file(shown_as)
            .help("a compose file begins its services with `services:`")
    })?;
    let named = |(name, block): (&Value, &Value)| {
        let name = name.as_str()?.to_owned();
        Some(Declared { name, has_port: has_port(block), replicas: replicas(block) })
    };
    Ok(services.iter().filter_map(named).collect())
}

fn replicas(block: &Value) -> u32 {
    let of_deploy = block.get("deploy").and_then(|deploy| deploy.get("replicas"));
    let count = of_deploy.or_else(|| block.get("scale")).and_then(Value::as_u64);
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(1).max(1)
}

fn has_port(block: &Value) -> bool {
    let lists = |key: &str| block.get(key).and_then(Value::as_sequence).is_some_and(|list| !list.is_empty());
    let sets_port = match block.get("environment") {
        Some(Value::Mapping(map)) => map.contains_key("PORT"),
        Some(Value::Sequence(list)) => {
            list.iter().filter_map(Value::as_str).any(|line| line.starts_with("PORT="))
        }
        _ => false,
    };
    lists("ports") || lists("expose") || sets_port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(text: &str) -> Result<Vec<Declared>, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compose.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn services_and_their_ports_are_read() {
        let text = "services:\n  web:\n    ports: [\"80:80\"]\n  api:\n    environment:\n      - PORT=3000\n  \
                    db:\n    environment: {PORT: 1}\n  worker:\n    image: x\n  bare:\n";
        let found = services(text).unwrap();
        let pairs: Vec<_> = found.iter().map(|service| (service.name.as_str(), service.has_port)).collect();
        assert_eq!(pairs, [("web", true), ("api", true), ("db", true), ("worker", false), ("bare", false)]);
    }

    #[test]
    fn replicas_are_read() {
        let text = "services:\n  a: {deploy: {replicas: 3}}\n  b: {scale: 2}\n  c: {deploy: {replicas: \"${N}\"}}\n  d:\n";
        let found: Vec<u32> = services(text).unwrap().iter().map(|service| service.replicas).collect();
        assert_eq!(found, [3, 2, 1, 1]);
    }

    #[test]
    fn what_is_no_compose_file_is_refused() {
        assert_eq!(services("a: 1").unwrap_err().message(), "the file has no `services`");
        assert_eq!(services("").unwrap_err().message(), "the file has no `services`");
        let error = services("services:\n  web:\n\timage: hunter2\n").unwrap_err();
        assert_eq!(error.position().map(|(line, _)| line), Some(3), "{error}");
    }
}
