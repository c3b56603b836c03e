//! From the workload's compose file to the one an arm runs: its own names, ports, labels and images. Pure.
//!
//! What the user wrote stays as it is wherever arms can coexist with it. Deliberately absent: running anything, and
//! reading variables or files; `compose config` has resolved them before.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{KIND, LABEL_INSTANCE, LABEL_SANDBOX, LABEL_SERVICE};
use crate::{
    model::{target::NetworkPath, workload::Service},
    runtime::{Arm, RuntimeError, environment},
};

/// Where the folder of the release file appears in a container.
const RELEASE_MOUNT: &str = "/run/qbench";

/// The file to run, and what it holds.
#[derive(Clone, Debug)]
pub(super) struct ComposeFile {
    /// As JSON, which is YAML that no parser can read in two ways.
    pub text: String,
    /// The workload's instances, in the order of the compose file.
    pub instances: Vec<Instance>,
    /// Whether any image is built.
    pub builds: bool,
    /// The image of each compose service that is not built, by the service's name.
    pub pulls: BTreeMap<String, String>,
}

/// One instance of a service: a compose service of its own, so that each has a port of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// The workload's service.
    pub service: String,
    /// Which instance, from 0.
    pub index: u32,
    /// The compose service that runs it.
    pub compose: String,
    /// Its port on loopback, where it speaks HTTP.
    pub port: Option<u16>,
}

impl ComposeFile {
    /// The compose services that run a service of the workload.
    pub(super) fn names_of(&self, service: &str) -> Vec<&str> {
        let instances = self.instances.iter().filter(|instance| instance.service == service);
        instances.map(|instance| instance.compose.as_str()).collect()
    }
}

impl Instance {
    /// The name of the compose service it is an instance of.
    fn original_name(&self) -> &str {
        self.compose.strip_suffix(&suffix(self.index)).filter(|_| self.index > 0).unwrap_or(&self.compose)
    }
}

/// What a further instance is named beside the first: `web`, `web-2`.
fn suffix(index: u32) -> String {
    format!("-{}", u64::from(index) + 1)
}

/// Rewrites what `compose config` printed for one arm.
///
/// # Errors
/// When it cannot be read, or lacks what the workload names.
pub(super) fn transform(config: &str, arm: &Arm, project: &str) -> Result<ComposeFile, RuntimeError> {
    let mut file = parse(config)?;
    let Some(Value::Object(originals)) = file.get_mut("services").map(Value::take) else {
        return Err(lacks("services in its compose file".to_owned(), "name the compose file to run"));
    };
    let by_compose_name = workload_services(arm, &originals)?;
    let rewriting = Rewriting { arm, project, container_ports: container_ports(arm, &originals) };
    let mut services = Map::new();
    let mut instances = Vec::new();
    for (name, original) in &originals {
        let Value::Object(original) = original else { continue };
        match by_compose_name.get(name.as_str()) {
            Some(service) => {
                for index in 0..replicas(original) {
                    let instance = rewriting.instance(service, name, index)?;
                    let rewritten = rewriting.rewrite(service, original, &instance)?;
                    add(&mut services, &instance.compose, rewritten)?;
                    instances.push(instance);
                }
            }
            None => add(&mut services, name, rewriting.neighbour(name, original))?,
        }
    }
    refuse_shared_ports(&instances)?;
    wait_for_every_instance(&mut services, &instances);
    let builds = services.values().any(|service| service.get("build").is_some());
    let pulls = pulled_images(&services, project);
    file.insert("services".to_owned(), Value::Object(services));
    own_networks(&mut file, &rewriting.mark());
    // Compose v2 prints its own project name here; ours is given on the command line.
    file.remove("name");
    let text = serde_json::to_string_pretty(&Value::Object(file)).expect("JSON values can be written");
    Ok(ComposeFile { text, instances, builds, pulls })
}

struct Rewriting<'a> {
    arm: &'a Arm,
    project: &'a str,
    /// The port inside the container, by the workload's service.
    container_ports: BTreeMap<String, u16>,
}

impl Rewriting<'_> {
    fn mark(&self) -> String {
        escaped(&self.arm.sandbox.mark())
    }

    fn on_host(&self) -> bool {
        self.arm.target.docker.network == NetworkPath::Host
    }

    fn instance(&self, service: &Service, compose: &str, index: u32) -> Result<Instance, RuntimeError> {
        let port = match (&service.http, self.arm.ports.get(&service.name)) {
            (Some(_), Some(first)) => {
                Some(u16::try_from(index).ok().and_then(|index| first.checked_add(index)).ok_or_else(
                    || lacks(format!("ports for the replicas of {}", service.name), "ask for fewer replicas"),
                )?)
            }
            _ => None,
        };
        let compose = if index == 0 { compose.to_owned() } else { format!("{compose}{}", suffix(index)) };
        Ok(Instance { service: service.name.clone(), index, compose, port })
    }

    fn rewrite(
        &self,
        service: &Service,
        original: &Map<String, Value>,
        instance: &Instance,
    ) -> Result<Map<String, Value>, RuntimeError> {
        let mut new = original.clone();
        // A service that the workload names is wanted, whatever profile it is in.
        for key in ["container_name", "scale", "ports", "profiles"] {
            new.remove(key);
        }
        without_replicas(&mut new);
        self.name_image(&mut new, instance);
        mapping(&mut new, "environment").extend(self.environment(service));
        let labels = mapping(&mut new, "labels");
        labels.insert(LABEL_SANDBOX.to_owned(), self.mark().into());
        labels.insert(LABEL_SERVICE.to_owned(), escaped(&service.name).into());
        labels.insert(LABEL_INSTANCE.to_owned(), instance.index.to_string().into());
        if self.arm.workload.release_variable.is_some() {
            let mount = json!({
                "type": "bind",
                "source": escaped(&self.arm.sandbox.release_dir().display().to_string()),
                "target": RELEASE_MOUNT,
                "read_only": true,
            });
            match new.get_mut("volumes") {
                Some(Value::Array(volumes)) => volumes.push(mount),
                _ => _ = new.insert("volumes".to_owned(), json!([mount])),
            }
        }
        if self.on_host() {
            self.use_host_network(&mut new, instance);
        } else {
            self.publish(&mut new, original, instance)?;
        }
        Ok(new)
    }

    /// A service beside the workload: a database, a cache. It keeps its settings; only what would make two arms
    /// collide is taken away.
    fn neighbour(&self, name: &str, original: &Map<String, Value>) -> Map<String, Value> {
        let mut new = original.clone();
        new.remove("container_name");
        if !self.on_host() {
            // Reached by its name inside the network. On the host path the workload is outside, and needs the ports.
            new.remove("ports");
        }
        self.name_image(
            &mut new,
            &Instance { service: name.to_owned(), index: 0, compose: name.to_owned(), port: None },
        );
        mapping(&mut new, "labels").insert(LABEL_SANDBOX.to_owned(), self.mark().into());
        new
    }

    /// Names what is built after the project, so that it can be told from the user's images and removed. Further
    /// instances run the image of the first.
    fn name_image(&self, service: &mut Map<String, Value>, instance: &Instance) {
        if !service.contains_key("build") {
            return;
        }
        let image = format!("{}/{}", self.project, instance.original_name().to_lowercase());
        service.insert("image".to_owned(), image.into());
        service.remove("pull_policy");
        if instance.index > 0 {
            service.remove("build");
        }
    }

    fn environment(&self, service: &Service) -> Map<String, Value> {
        let address_of = |peer: &str| {
            if self.on_host() {
                return self.arm.ports.get(peer).map(|port| format!("127.0.0.1:{port}"));
            }
            let name = &self.arm.workload.service(peer)?.compose.as_ref()?.name;
            self.container_ports.get(peer).map(|port| format!("{name}:{port}"))
        };
        let mut env: Map<String, Value> = environment::resolved(service, address_of)
            .into_iter()
            .map(|(name, value)| (name, escaped(&value).into()))
            .collect();
        if let Some(variable) = &self.arm.workload.release_variable {
            env.insert(variable.clone(), format!("{RELEASE_MOUNT}/RELEASE").into());
        }
        env
    }

    fn use_host_network(&self, service: &mut Map<String, Value>, instance: &Instance) {
        for key in ["networks", "expose", "links", "mac_address"] {
            service.remove(key);
        }
        service.insert("network_mode".to_owned(), "host".into());
        if let Some(port) = instance.port {
            let variable = self.arm.workload.port_variable.clone();
            mapping(service, "environment").insert(variable, port.to_string().into());
        }
    }

    fn publish(
        &self,
        service: &mut Map<String, Value>,
        original: &Map<String, Value>,
        instance: &Instance,
    ) -> Result<(), RuntimeError> {
        if let Some(port) = instance.port {
            if let Some(mode) =
                original.get("network_mode").and_then(Value::as_str).filter(|m| *m != "bridge")
            {
                return Err(lacks(
                    format!(
                        "network to publish ports of: compose service {} has network_mode {mode}",
                        instance.compose
                    ),
                    "set network = \"host\" on the docker target, or drop network_mode from the compose file",
                ));
            }
            let inside = self.container_ports.get(&instance.service).ok_or_else(|| {
                lacks(
                    format!("port for compose service {}", instance.compose),
                    "give the service `ports` or `expose` in the compose file",
                )
            })?;
            service.insert("ports".to_owned(), json!([format!("127.0.0.1:{port}:{inside}")]));
        }
        if instance.index > 0 && !service.contains_key("network_mode") {
            answer_to(service, instance.original_name());
        }
        Ok(())
    }
}

fn parse(config: &str) -> Result<Map<String, Value>, RuntimeError> {
    let unreadable = |reason: String| RuntimeError::Answer {
        runtime: KIND.name(),
        message: format!("compose config that cannot be read: {reason}"),
    };
    let mut file = match serde_yaml_ng::from_str(config) {
        Ok(Value::Object(file)) => file,
        Ok(_) => return Err(unreadable("it is not a mapping".to_owned())),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    restore_text(config, &mut file);
    Ok(file)
}

/// The text of the values that are text whatever they look like.
#[derive(Deserialize)]
struct Texts {
    services: BTreeMap<String, ServiceTexts>,
}

#[derive(Deserialize)]
struct ServiceTexts {
    environment: Option<BTreeMap<String, Option<String>>>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

/// Compose v1 speaks YAML 1.1, in which `12e4567` is text that needs no quotes; in YAML 1.2 it is a number. So the
/// values of variables and labels are taken as they are written.
fn restore_text(config: &str, file: &mut Map<String, Value>) {
    // Lists instead of mappings hold whole `NAME=value` texts, which look like nothing else.
    let Ok(texts) = serde_yaml_ng::from_str::<Texts>(config) else { return };
    for (name, texts) in texts.services {
        for (key, written) in [("environment", texts.environment), ("labels", texts.labels)] {
            let place = file.get_mut("services").and_then(|s| s.get_mut(&name)).and_then(|s| s.get_mut(key));
            if let (Some(Value::Object(values)), Some(written)) = (place, written) {
                values.extend(written.into_iter().map(|(name, text)| (name, Value::from(text))));
            }
        }
    }
}

fn workload_services<'a>(
    arm: &'a Arm,
    originals: &Map<String, Value>,
) -> Result<BTreeMap<&'a str, &'a Service>, RuntimeError> {
    let mut services = BTreeMap::new();
    for service in &arm.workload.services {
        let Some(compose) = &service.compose else {
            return Err(lacks(
                format!("compose service for {}", service.name),
                "name it with `compose = \"…\"` in qbench.toml",
            ));
        };
        if !originals.contains_key(&compose.name) {
            let known: Vec<&str> = originals.keys().map(String::as_str).collect();
            return Err(lacks(
                format!("compose service {}", compose.name),
                &format!("the compose file has {}", known.join(", ")),
            ));
        }
        if services.insert(compose.name.as_str(), service).is_some() {
            return Err(lacks(
                format!("compose service of its own for {}", service.name),
                "two services of qbench.toml name the same one",
            ));
        }
    }
    Ok(services)
}

fn container_ports(arm: &Arm, originals: &Map<String, Value>) -> BTreeMap<String, u16> {
    let port_of = |service: &Service| {
        let original = originals.get(&service.compose.as_ref()?.name)?;
        let first = |key: &str| original.get(key)?.as_array()?.first().and_then(target_port);
        first("ports").or_else(|| first("expose"))
    };
    let services = arm.workload.services.iter();
    services.filter_map(|service| Some((service.name.clone(), port_of(service)?))).collect()
}

/// The container's port of a mapping: `3000`, `"127.0.0.1:8080:3000/tcp"` or `{target: 3000}`.
fn target_port(mapping: &Value) -> Option<u16> {
    match mapping {
        Value::Number(port) => u16::try_from(port.as_u64()?).ok(),
        Value::String(text) => {
            text.split('/').next()?.rsplit(':').next()?.split('-').next()?.trim().parse().ok()
        }
        Value::Object(long) => target_port(long.get("target")?),
        _ => None,
    }
}

fn replicas(service: &Map<String, Value>) -> u32 {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let scale = service.get("scale").and_then(number);
    let replicas = service.get("deploy").and_then(|deploy| deploy.get("replicas")).and_then(number);
    scale.or(replicas).and_then(|n| u32::try_from(n).ok()).map_or(1, |n| n.max(1))
}

/// The rest of `deploy` stays: compose v2 takes memory and CPU limits from it.
fn without_replicas(service: &mut Map<String, Value>) {
    if let Some(Value::Object(deploy)) = service.get_mut("deploy") {
        deploy.remove("replicas");
        if deploy.is_empty() {
            service.remove("deploy");
        }
    }
}

/// The mapping under `key`, made where it is missing, from a list of `NAME=value` where it is one.
fn mapping<'a>(service: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let place = service.entry(key).or_insert_with(|| json!({}));
    if !place.is_object() {
        let list = place.as_array().cloned().unwrap_or_default();
        let pairs = list.iter().filter_map(Value::as_str).map(|item| match item.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.into()),
            None => (item.to_owned(), Value::Null),
        });
        *place = Value::Object(pairs.collect());
    }
    place.as_object_mut().expect("it has just been made one")
}

/// Makes a further instance answer to the service's name on each of its networks, as a replica does.
fn answer_to(service: &mut Map<String, Value>, name: &str) {
    let networks = service.entry("networks").or_insert_with(|| json!({ "default": null }));
    if let Value::Array(names) = networks {
        *networks =
            Value::Object(names.iter().filter_map(|n| Some((n.as_str()?.to_owned(), Value::Null))).collect());
    }
    for network in networks.as_object_mut().into_iter().flat_map(|networks| networks.values_mut()) {
        if !network.is_object() {
            *network = json!({});
        }
        let settings = network.as_object_mut().expect("it has just been made one");
        // Two containers cannot have one address.
        settings.remove("ipv4_address");
        settings.remove("ipv6_address");
        match settings.get_mut("aliases") {
            Some(Value::Array(aliases)) => aliases.push(name.into()),
            _ => _ = settings.insert("aliases".to_owned(), json!([name])),
        }
    }
}

/// Whoever waits for a service waits for all its instances.
fn wait_for_every_instance(services: &mut Map<String, Value>, instances: &[Instance]) {
    let mut further: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for instance in instances.iter().filter(|instance| instance.index > 0) {
        let first = instances.iter().find(|i| i.service == instance.service && i.index == 0);
        if let Some(first) = first {
            further.entry(&first.compose).or_default().push(&instance.compose);
        }
    }
    for service in services.values_mut() {
        match service.get_mut("depends_on") {
            Some(Value::Object(conditions)) => {
                for (first, others) in &further {
                    let Some(condition) = conditions.get(*first).cloned() else { continue };
                    conditions.extend(others.iter().map(|other| ((*other).to_owned(), condition.clone())));
                }
            }
            Some(Value::Array(names)) => {
                for (first, others) in &further {
                    if names.iter().any(|name| name == first) {
                        names.extend(others.iter().map(|other| Value::from(*other)));
                    }
                }
            }
            _ => {}
        }
    }
}

fn pulled_images(services: &Map<String, Value>, project: &str) -> BTreeMap<String, String> {
    let ours = format!("{project}/");
    let image_of = |service: &Value| service.get("image")?.as_str().map(str::to_owned);
    services
        .iter()
        .filter_map(|(name, service)| Some((name.clone(), image_of(service)?)))
        .filter(|(_, image)| !image.starts_with(&ours))
        .collect()
}

/// Networks of ours carry the mark, and no name that another project could have too.
fn own_networks(file: &mut Map<String, Value>, mark: &str) {
    let networks = mapping(file, "networks");
    networks.entry("default").or_insert(Value::Null);
    for network in networks.values_mut() {
        if !network.is_object() {
            *network = json!({});
        }
        let settings = network.as_object_mut().expect("it has just been made one");
        let external = settings.get("external").is_some_and(|external| *external != Value::Bool(false));
        if !external {
            settings.remove("name");
            mapping(settings, "labels").insert(LABEL_SANDBOX.to_owned(), mark.into());
        }
    }
}

fn refuse_shared_ports(instances: &[Instance]) -> Result<(), RuntimeError> {
    let mut owners: BTreeMap<u16, &str> = BTreeMap::new();
    for instance in instances {
        let Some(port) = instance.port else { continue };
        if let Some(owner) = owners.insert(port, &instance.service) {
            return Err(lacks(
                format!("ports for every replica: {} and {} would share {port}", owner, instance.service),
                "let the ecosystem file declare as many instances as the compose file has replicas",
            ));
        }
    }
    Ok(())
}

fn add(
    services: &mut Map<String, Value>,
    name: &str,
    service: Map<String, Value>,
) -> Result<(), RuntimeError> {
    match services.insert(name.to_owned(), Value::Object(service)) {
        None => Ok(()),
        Some(_) => Err(lacks(
            format!("free name for a replica: there is a compose service {name}"),
            "rename that service in the compose file",
        )),
    }
}

/// Compose reads `$` as the start of a variable unless it is doubled.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

fn lacks(what: String, hint: &str) -> RuntimeError {
    RuntimeError::WorkloadLacks { runtime: KIND.name(), what, hint: hint.to_owned() }
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
