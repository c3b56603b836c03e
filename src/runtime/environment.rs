//! The environment qbench adds to a process: its port, its peers, its release, its mark.

use std::collections::BTreeMap;

use super::{Arm, sandbox};
use crate::model::workload::Service;

/// The variables of one instance run as a plain process: the app's own, then those of `qbench.toml`, then the port
/// (first port of the service + `port_offset`), the release file and the mark. What qbench itself was started with
/// is inherited beneath them.
pub fn for_process(
    arm: &Arm,
    service: &Service,
    instance: u32,
    port_offset: u16,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    if let Some(app) = &service.app {
        env.extend(app.env.clone());
        env.insert(app.instance_variable.clone(), instance.to_string());
    }
    env.extend(resolved(service, |peer| arm.ports.get(peer).map(|port| format!("127.0.0.1:{port}"))));
    if let Some(port) = arm.ports.get(&service.name) {
        env.insert(arm.workload.port_variable.clone(), port.saturating_add(port_offset).to_string());
    }
    if let Some(variable) = &arm.workload.release_variable {
        env.insert(variable.clone(), arm.sandbox.release_file().display().to_string());
    }
    env.insert(sandbox::MARK.to_owned(), arm.sandbox.mark());
    env
}

/// The service's variables of `qbench.toml` with `{address:PEER}` replaced by what `address_of` says. A peer
/// without an address leaves the variable as it is; config has refused unknown names before.
pub fn resolved(service: &Service, address_of: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    service.env.iter().map(|(name, value)| (name.clone(), replace_addresses(value, &address_of))).collect()
}

fn replace_addresses(template: &str, address_of: &impl Fn(&str) -> Option<String>) -> String {
    const OPEN: &str = "{address:";
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(OPEN) {
        text.push_str(&rest[..at]);
        let after = &rest[at + OPEN.len()..];
        match after.find('}').and_then(|end| Some((end, address_of(&after[..end])?))) {
            Some((end, address)) => {
                text.push_str(&address);
                rest = &after[end + 1..];
            }
            None => {
                text.push_str(OPEN);
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_filled_in() {
        let known = |name: &str| (name == "web").then(|| "127.0.0.1:4000".to_owned());
        assert_eq!(
            replace_addresses("http://{address:web}/x,{address:web}", &known),
            "http://127.0.0.1:4000/x,127.0.0.1:4000"
        );
        assert_eq!(replace_addresses("{address:other} {address:", &known), "{address:other} {address:");
    }
}
