//! Ecosystem files: from JSON5, YAML or JavaScript to blocks of keys, one an app.
//!
//! Deliberately absent: what the keys mean, which is `app`'s business.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    app::environments,
    app_keys::{self, canonical},
    app_notes::of_root,
    error::{ConfigError, listed},
    javascript,
    source::Source,
    spelling::nearest,
};

/// Deeper nesting is no configuration.
const DEEPEST: usize = 100;

/// One app's block, with the name it goes by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    /// Its name.
    pub name: String,
    /// Its keys, aliases replaced by the names used here.
    pub keys: Map<String, Value>,
    /// Its keys as written.
    pub raw: Map<String, Value>,
}

/// A file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ecosystem {
    /// Its apps, at least one.
    pub blocks: Vec<Block>,
    /// `deploy`, of which the variables count.
    pub deploy: Option<Value>,
    /// What the user should know of the rest.
    pub notes: Vec<String>,
}

impl Ecosystem {
    /// Refuses an environment that no app has a block for: what is wrong, and what to do.
    pub(super) fn check_environment(&self, name: &str, file: &str) -> Result<(), (String, String)> {
        let mut known: Vec<&str> = self.blocks.iter().flat_map(environments).collect();
        known.sort_unstable();
        known.dedup();
        if known.contains(&name) {
            return Ok(());
        }
        let hint = match (nearest(name, known.iter().copied()), known.is_empty()) {
            (Some(meant), _) => format!("did you mean \"{meant}\"?"),
            (None, true) => format!("no app of {file} has an `env_…` block; leave `environment` out"),
            (None, false) => format!("it has {}", listed(known.iter().copied())),
        };
        Err((format!("no app of {file} has an `env_{name}`"), hint))
    }
}

/// Reads the apps of a file; `shown_as` is its name for messages, and leads to it.
pub(super) fn read(shown_as: &Path) -> Result<Ecosystem, ConfigError> {
    let extension = shown_as.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let source = Source::read(shown_as)?;
    let root = match extension {
        "json" | "json5" => json5(&source)?,
        "yaml" | "yml" => yaml(&source)?,
        "js" | "cjs" | "mjs" => javascript::evaluate(&source)?,
        _ => {
            return Err(ConfigError::new(format!(
                "{} has no ending that ecosystem files have",
                shown_as.display()
            ))
            .help("they end in .json, .yaml, .yml, .config.js or .config.cjs"));
        }
    };
    let (mut deploy, mut notes) = (None, Vec::new());
    if let Some(object) = root.as_object().filter(|object| !object.contains_key("script")) {
        let file = shown_as.file_name().unwrap_or_default().display().to_string();
        notes = of_root(object, &file);
        deploy = object.get("deploy").cloned();
    }
    Ok(Ecosystem { blocks: blocks(root, shown_as)?, deploy, notes })
}

fn json5(source: &Source) -> Result<Value, ConfigError> {
    check_depth(source, &known_words())?;
    json5::from_str(&source.text).map_err(|error| {
        let at = error.position().map_or(0, |position| source.offset(position.line, position.column));
        // Nothing of the text itself may be in the message: it may be a secret.
        let message = error.code().map_or_else(|| "it is not valid".to_owned(), |code| code.to_string());
        let message = message.replace("EOF", "end of file while");
        source
            .syntax_error(format!("syntax error: {message}"), at..at + 1, &known_words())
            .help("PM2 takes JSON with comments and trailing commas; look at this line and the one before")
    })
}

/// The JSON5 parser would come to the end of its stack, and the YAML parser takes time with the square of the depth.
fn check_depth(source: &Source, known: &[&str]) -> Result<(), ConfigError> {
    let mut depth = 0_usize;
    for (at, byte) in source.text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            let message = format!("brackets are nested more than {DEEPEST} deep");
            return Err(source.syntax_error(message, at..at + 1, known));
        }
    }
    Ok(())
}

fn yaml(source: &Source) -> Result<Value, ConfigError> {
    parse_yaml(source, &known_words())
}

/// Parses YAML; `known` words may be shown in a syntax error.
pub(super) fn parse_yaml<T: DeserializeOwned>(source: &Source, known: &[&str]) -> Result<T, ConfigError> {
    check_depth(source, known)?;
    serde_yaml_ng::from_str(&source.text).map_err(|error| yaml_error(source, &error, known))
}

/// What the YAML parser says, at its place, without the values it may quote.
fn yaml_error(source: &Source, error: &serde_yaml_ng::Error, known: &[&str]) -> ConfigError {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().replace('\n', " ");
    let message = if message.contains(['"', '`', '\'']) { "it is not valid YAML" } else { &message };
    let at = error
        .location()
        .map_or(0, |place| source.offset(place.line().saturating_sub(1), place.column().saturating_sub(1)));
    source
        .syntax_error(format!("syntax error: {message}"), at..at + 1, known)
        .help("look at the indentation of this line and the one before")
}

pub(super) fn known_words() -> Vec<&'static str> {
    ["apps", "deploy", "pm2"].into_iter().chain(app_keys::KNOWN).filter(|key| *key != "env").collect()
}

/// The apps in what a file says.
pub(super) fn blocks(root: Value, shown_as: &Path) -> Result<Vec<Block>, ConfigError> {
    let wrong = |message: &str| {
        ConfigError::new(message)
            .in_file(shown_as)
            .help("write `{ \"apps\": [ { \"name\": \"web\", \"script\": \"server.js\" } ] }`")
    };
    let apps = match root {
        Value::Object(mut object) => match object.remove("apps").or_else(|| object.remove("pm2")) {
            Some(apps) => apps,
            None if object.contains_key("script") => Value::Object(object),
            None => return Err(wrong("the file has no `apps`")),
        },
        Value::Array(apps) => Value::Array(apps),
        _ => return Err(wrong("the file holds no object with `apps`")),
    };
    let apps = match apps {
        Value::Array(apps) => apps,
        app @ Value::Object(_) => vec![app],
        _ => return Err(wrong("`apps` must be a list of objects")),
    };
    let mut blocks: Vec<Block> = Vec::new();
    for (at, app) in apps.into_iter().enumerate() {
        let Value::Object(raw) = app else {
            return Err(wrong(&format!("app number {} must be an object", at + 1)));
        };
        let block = block(raw, at, shown_as)?;
        if blocks.iter().any(|other| other.name == block.name) {
            let message = format!("two apps are named `{}`", block.name);
            return Err(ConfigError::new(message).in_file(shown_as).help("give each app a name of its own"));
        }
        blocks.push(block);
    }
    if blocks.is_empty() {
        return Err(wrong("`apps` is empty"));
    }
    Ok(blocks)
}

fn block(raw: Map<String, Value>, at: usize, shown_as: &Path) -> Result<Block, ConfigError> {
    let mut keys = Map::new();
    for (key, value) in &raw {
        // As in PM2, the name itself goes before an alias of it.
        let name = canonical(key);
        if name == *key || !raw.contains_key(name.as_ref()) {
            keys.insert(name.into_owned(), value.clone());
        }
    }
    let name = match keys.get("name") {
        Some(Value::String(name)) if !name.trim().is_empty() => name.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => {
            let message = format!("`name` of app number {} must be a string that is not empty", at + 1);
            return Err(ConfigError::new(message).in_file(shown_as));
        }
        // PM2 names an app after its script.
        None => {
            let script = keys.get("script").and_then(Value::as_str).unwrap_or_default();
            let stem = Path::new(script).file_stem().map(|stem| stem.to_string_lossy().into_owned());
            stem.unwrap_or_else(|| format!("app number {}", at + 1))
        }
    };
    Ok(Block { name, keys, raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn names(name: &str, text: &str) -> Result<Vec<String>, ConfigError> {
        let (_folder, path) = written(name, text);
        read(&path).map(|file| file.blocks.into_iter().map(|block| block.name).collect())
    }

    #[test]
    fn every_form_is_read() {
        let apps = ["web", "worker"];
        let json =
            "// what PM2 runs\n{ apps: [{ name: 'web', script: 'a.js', }, { script: './worker.js' }], }";
        assert_eq!(names("ecosystem.json", json).unwrap(), apps);
        let yaml = "apps:\n  - name: web\n    script: a.js\n  - exec: ./worker.js\n";
        assert_eq!(names("ecosystem.yaml", yaml).unwrap(), apps);
        let js = "console.log('noise');\nmodule.exports = { apps: [{ name: 'web', script: 'a.js' }, { script: `worker.js` }] };";
        assert_eq!(names("ecosystem.config.js", js).unwrap(), apps);
        assert_eq!(names("ecosystem.config.cjs", js).unwrap(), apps);
        let esm = "export default { apps: [{ name: 'web', script: 'a.js' }, { script: `worker.js` }] };";
        assert_eq!(names("ecosystem.config.mjs", esm).unwrap(), apps);
        assert_eq!(names("ecosystem.json", "{\"apps\": {\"script\": \"web.js\"}}").unwrap(), ["web"]);
        assert_eq!(names("ecosystem.json", "[{\"script\": \"web.js\"}]").unwrap(), ["web"]);
        assert_eq!(names("ecosystem.json", "{\"script\": \"web.js\"}").unwrap(), ["web"]);
    }

    #[test]
    fn a_syntax_error_has_its_place_and_shows_no_value() {
        let (folder, path) = written(
            "e.json",
            "{\n  apps: [{\n    name: 'web',\n    env: { TOKEN: 'hunter2' x: 1 }\n  }]\n}\n",
        );
        let text = read(&path).unwrap_err().to_string().replace(&folder.path().display().to_string(), "");
        insta::assert_snapshot!(text, @r#"
        syntax error: expected comma
         --> /e.json:4:29
          |
        4 |     env: { TOKEN: '•••••••' •: • }
          |                             ^
          = help: PM2 takes JSON with comments and trailing commas; look at this line and the one before
        "#);
        let (_folder, path) = written("e.yaml", "apps:\n  - name: web\n    env:\n      TOKEN: hunter2: x\n");
        let error = read(&path).unwrap_err();
        assert_eq!(error.position().map(|(line, _)| line), Some(4));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn what_holds_no_apps_is_refused() {
        for (text, message) in [
            ("{}", "the file has no `apps`"),
            ("3", "the file holds no object with `apps`"),
            ("{apps: []}", "`apps` is empty"),
            ("{apps: 1}", "`apps` must be a list of objects"),
            ("{apps: [1]}", "app number 1 must be an object"),
            ("{apps: [{name: {}}]}", "`name` of app number 1 must be a string that is not empty"),
            ("{apps: [{name: 'a'}, {name: 'a'}]}", "two apps are named `a`"),
        ] {
            assert_eq!(names("e.json", text).unwrap_err().message(), message);
        }
        assert!(
            names("e.toml", "").unwrap_err().message().ends_with("has no ending that ecosystem files have")
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_the_end_of_the_stack() {
        for text in ["[".repeat(500_000), "{a:".repeat(300_000)] {
            let error = names("e.json", &text).unwrap_err();
            assert_eq!(error.message(), "brackets are nested more than 100 deep");
        }
        assert!(names("e.yaml", &"[".repeat(500_000)).is_err());
        assert!(names("e.yaml", &"- ".repeat(100_000)).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        #[test]
        fn no_text_makes_it_panic(at in 0_usize..90, cut in 0_usize..20, put in ".{0,6}") {
            let text = "{ apps: [{ name: 'web', script: 'a.js', env: { A: 'é' }, instances: 'max' }] } // end";
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.min(chars.len());
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, put.chars());
            let source = Source { shown_as: "e.json".into(), text: chars.into_iter().collect() };
            if let Err(error) = json5(&source) {
                proptest::prop_assert!(error.position().is_some() && error.to_string().contains('^'));
            }
            let _ = yaml(&source);
        }
    }
}
