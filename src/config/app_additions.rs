//! The key `qbench` of an app: what PM2, which ignores the key, has no key for.
//!
//! It is ours alone, so that it is read strictly: whatever is unknown in it is an error.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    app_values::{Values, bytes_in},
    error::{ConfigError, listed},
    spelling::nearest,
};
use crate::model::{
    supervision::{Additions, Every, Liveness, Rotate},
    workload::ExecMode,
};

/// The key itself.
const KEY: &str = "qbench";
const KEYS: [&str; 8] = [
    "listen",
    "transparent",
    "health",
    "liveness",
    "reload_parallel",
    "hot_spare",
    "max_processes",
    "rotate",
];
const LIVENESS_KEYS: [&str; 4] = ["path", "interval", "timeout", "failures"];
const ROTATE_KEYS: [&str; 4] = ["max_size", "keep", "gzip", "every"];
/// More sockets than this are a slip.
const MOST_ADDRESSES: usize = 64;
/// `sun_path` holds 108 bytes with its zero.
const LONGEST_SOCKET_PATH_BYTES: usize = 107;
const A_DAY_MS: u64 = 86_400_000;
const ADDRESSES: &str =
    "a list of addresses, for example [\"8080\", \"127.0.0.1:8080\", \"unix:/run/web.sock\"]";

/// An object below the app, and the way to it.
struct Section<'a> {
    values: Values<'a>,
    object: &'a Map<String, Value>,
    /// For example `qbench.rotate`.
    path: String,
}

/// Reads the key.
pub(super) fn read(values: &Values<'_>, mode: ExecMode, instances: u32) -> Result<Additions, ConfigError> {
    let mut additions =
        Additions { reload_parallel: if instances > 2 { 2 } else { 1 }, ..Additions::default() };
    let Some(value) = values.block.keys.get(KEY).filter(|value| !value.is_null()) else {
        return Ok(additions);
    };
    let section = Section::of(*values, value, KEY.to_owned(), &KEYS)?;
    additions.listen = listen(&section)?;
    additions.transparent = section.flag("transparent")?;
    additions.health = section.url_path("health")?;
    additions.liveness = liveness(&section, additions.health.as_deref())?;
    if let Some(number) = section.number("reload_parallel", 1, 256)? {
        additions.reload_parallel = number as u32;
    }
    additions.hot_spare = section.flag("hot_spare")?;
    additions.max_processes = section.number("max_processes", 1, 4_194_304)?.map(|number| number as u32);
    additions.rotate = rotate(&section)?;
    check(&section, &additions, mode)?;
    Ok(additions)
}

/// Sockets come to a process in one way only.
fn check(section: &Section<'_>, additions: &Additions, mode: ExecMode) -> Result<(), ConfigError> {
    let app = &section.values.block.name;
    let listens = !additions.listen.is_empty();
    if listens && additions.transparent {
        return Err(section
            .values
            .error(format!("`qbench` of app `{app}` has both `listen` and `transparent`"))
            .help("keep `listen` for an app that takes inherited sockets, `transparent` for one that binds its own"));
    }
    if mode == ExecMode::Cluster && (listens || additions.transparent) {
        let key = if listens { "listen" } else { "transparent" };
        return Err(section
            .values
            .error(format!("app `{app}` is in cluster mode, in which `qbench.{key}` has no meaning"))
            .help(
                "set `exec_mode` to \"fork\": for Node, a number of `instances` alone means cluster mode",
            ));
    }
    if mode == ExecMode::Fork && additions.hot_spare {
        return Err(section
            .values
            .error(format!("app `{app}` is in fork mode, in which `qbench.hot_spare` has no meaning"))
            .help("set `exec_mode` to \"cluster\", or leave `hot_spare` out"));
    }
    Ok(())
}

fn listen(section: &Section<'_>) -> Result<Vec<String>, ConfigError> {
    let wrong = || section.wrong("listen", ADDRESSES);
    let Some(value) = section.value("listen") else { return Ok(Vec::new()) };
    let list = value.as_array().filter(|list| list.len() <= MOST_ADDRESSES).ok_or_else(wrong)?;
    let mut addresses: Vec<String> = Vec::new();
    for item in list {
        let text = match item {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return Err(wrong()),
        };
        if !is_address(&text) {
            return Err(wrong());
        }
        if addresses.contains(&text) {
            return Err(section.wrong("listen", "a list in which no address stands twice"));
        }
        addresses.push(text);
    }
    Ok(addresses)
}

/// A port, an IP address with one, or `unix:` and an absolute path.
fn is_address(text: &str) -> bool {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/') && path.len() <= LONGEST_SOCKET_PATH_BYTES && !path.contains('\0');
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u16>().is_ok_and(|port| port > 0);
    }
    text.parse().is_ok_and(|address: SocketAddr| {
        // A zone, as link-local addresses have, would name a device of this machine.
        address.port() > 0 && matches!(address.ip(), IpAddr::V4(_) | IpAddr::V6(_)) && !text.contains('%')
    })
}

fn liveness(section: &Section<'_>, health: Option<&str>) -> Result<Option<Liveness>, ConfigError> {
    let Some(section) = section.section("liveness", &LIVENESS_KEYS)? else { return Ok(None) };
    let path = section.url_path("path")?.or_else(|| health.map(str::to_owned));
    let path =
        path.ok_or_else(|| section.wrong("path", "given: there is no `qbench.health` to take it from"))?;
    let time = |key: &str, default: u64| {
        Ok::<_, ConfigError>(Duration::from_millis(section.number(key, 1, A_DAY_MS)?.unwrap_or(default)))
    };
    Ok(Some(Liveness {
        path,
        interval: time("interval", 10_000)?,
        timeout: time("timeout", 1000)?,
        failures: section.number("failures", 1, 1000)?.map_or(3, |number| number as u32),
    }))
}

fn rotate(section: &Section<'_>) -> Result<Rotate, ConfigError> {
    let default = Rotate::default();
    let Some(section) = section.section("rotate", &ROTATE_KEYS)? else { return Ok(default) };
    let max_size = match section.value("max_size") {
        None => default.max_size,
        Some(value) => bytes_in(value).filter(|bytes| bytes.0 > 0).ok_or_else(|| {
            section.wrong("max_size", "a number of bytes, or for example \"512K\", \"50M\" or \"1G\"")
        })?,
    };
    Ok(Rotate {
        max_size,
        keep: section.number("keep", 0, 100_000)?.map_or(default.keep, |number| number as u32),
        gzip: if section.value("gzip").is_some() { section.flag("gzip")? } else { default.gzip },
        every: match section.value("every").map(Value::as_str) {
            None => None,
            Some(Some("hour")) => Some(Every::Hour),
            Some(Some("day")) => Some(Every::Day),
            Some(_) => return Err(section.wrong("every", "\"hour\" or \"day\"")),
        },
    })
}

impl<'a> Section<'a> {
    fn of(values: Values<'a>, value: &'a Value, path: String, known: &[&str]) -> Result<Self, ConfigError> {
        let object = value.as_object().ok_or_else(|| values.wrong(&path, "an object"))?;
        if let Some(unknown) = object.keys().find(|key| !known.contains(&key.as_str())) {
            let app = &values.block.name;
            let hint = match nearest(unknown, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("its keys are {}", listed(known.iter().copied())),
            };
            return Err(values.error(format!("`{path}` of app `{app}` has no key `{unknown}`")).help(hint));
        }
        Ok(Self { values, object, path })
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, wanted: &str) -> ConfigError {
        self.values.wrong(&format!("{}.{key}", self.path), wanted)
    }

    fn section(&self, key: &str, known: &[&str]) -> Result<Option<Self>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        Self::of(self.values, value, format!("{}.{key}", self.path), known).map(Some)
    }

    fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        self.value(key)
            .map_or(Ok(false), |value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false")))
    }

    fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| self.wrong(key, &format!("a whole number from {least} to {most}")))
    }

    /// A path of a URL, as it is written into a request.
    fn url_path(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let path = value.as_str().filter(|path| {
            path.starts_with('/') && path.len() <= 2048 && path.bytes().all(|byte| byte.is_ascii_graphic())
        });
        path.map(|path| Some(path.to_owned()))
            .ok_or_else(|| self.wrong(key, "a path that begins with a slash, for example \"/health\""))
    }
}
