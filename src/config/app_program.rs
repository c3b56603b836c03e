//! Which program runs an app, with which arguments.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{
    app::within,
    app_values::Values,
    error::ConfigError,
    programs::{Content, content, is_executable, on_path},
};

/// What is executed.
#[derive(Debug)]
pub(super) struct Command {
    /// The interpreter, or the script itself.
    pub program: PathBuf,
    /// Interpreter arguments, script, arguments.
    pub args: Vec<String>,
    /// The script.
    pub script: PathBuf,
    /// The interpreter's name as PM2 would have it; none when the script is executed by itself.
    pub interpreter: Option<String>,
}

/// Finds the script and its interpreter; puts warnings into `notes`.
pub(super) fn resolve(
    values: &Values<'_>,
    cwd: &Path,
    own_executable: &Path,
    notes: &mut Vec<String>,
) -> Result<Command, ConfigError> {
    let app = &values.block.name;
    let declared = values.text("script")?.ok_or_else(|| {
        values
            .error(format!("app `{app}` has no `script`"))
            .help("say what it runs, for example \"script\": \"server.js\"")
    })?;
    if declared.contains(' ') {
        // PM2 takes a script with a space for a command line, and leaves `args` out.
        let shell = on_path("bash").or_else(|| on_path("sh")).ok_or_else(|| missing(values, "bash"))?;
        let args = vec!["-c".to_owned(), declared.to_owned()];
        return Ok(Command { program: shell.clone(), args, script: shell, interpreter: None });
    }
    let script = script(values, declared, cwd, own_executable)?;
    let args = values.arguments("args")?;
    let Some(interpreter) = interpreter(values, &script, notes)? else {
        if !is_executable(&script) && script != own_executable {
            return Err(values
                .error(format!("script `{declared}` of app `{app}` is run by itself but is not executable"))
                .help(format!("run `chmod +x {}`, or name an `interpreter`", script.display())));
        }
        return Ok(Command { program: script.clone(), args, script, interpreter: None });
    };
    let program = if interpreter.contains('/') {
        Some(within(cwd, &interpreter)).filter(|path| is_executable(path))
    } else {
        on_path(&interpreter)
    };
    let program = program.ok_or_else(|| missing(values, &interpreter))?;
    let path = script.to_str().ok_or_else(|| {
        values.error(format!("the path of the script of app `{app}` is not UTF-8: {}", script.display()))
    })?;
    let mut all = values.arguments("node_args")?;
    all.push(path.to_owned());
    all.extend(args);
    Ok(Command { program, args: all, script, interpreter: Some(interpreter) })
}

fn script(
    values: &Values<'_>,
    declared: &str,
    cwd: &Path,
    own_executable: &Path,
) -> Result<PathBuf, ConfigError> {
    let path = within(cwd, declared);
    if path.is_file() {
        return Ok(path);
    }
    if declared == "qbench" {
        return Ok(own_executable.to_owned());
    }
    on_path(declared).ok_or_else(|| {
        let app = &values.block.name;
        let hint = if declared == "serve" {
            "PM2 has a file server under this name, and only PM2 has it; install one, for example `npm install -g serve`"
                .to_owned()
        } else if declared.contains('/') || Path::new(declared).extension().is_some() {
            format!("it is looked for at {}; build it first, or correct `script` or `cwd`", path.display())
        } else {
            format!("there is neither {} nor a program of that name on PATH", path.display())
        };
        values.error(format!("script `{declared}` of app `{app}` does not exist")).help(hint)
    })
}

/// The interpreter: the declared one, else by the script's ending, else by what is in it.
fn interpreter(
    values: &Values<'_>,
    script: &Path,
    notes: &mut Vec<String>,
) -> Result<Option<String>, ConfigError> {
    let app = &values.block.name;
    match values.text("interpreter")? {
        Some("none") => return Ok(None),
        Some(name) if name.starts_with("node@") => {
            let found = env::var_os("NVM_DIR").and_then(|folder| of_nvm(Path::new(&folder), name));
            let message =
                || format!("interpreter `{name}` of app `{app}` is not among those that nvm has installed");
            return found.map(Some).ok_or_else(|| {
                values
                    .error(message())
                    .help("install it with nvm, whose folder NVM_DIR names, or give the path of that `node` program")
            });
        }
        Some(name) => return Ok(Some(name.to_owned())),
        None => {}
    }
    let name = match script.extension().and_then(|extension| extension.to_str()) {
        Some("js" | "cjs" | "mjs") => "node",
        // As in PM2: `python` where there is one.
        Some("py") if on_path("python").is_none() => "python3",
        Some("py") => "python",
        Some("sh") => "bash",
        Some("rb") => "ruby",
        Some("php") => "php",
        Some("pl") => "perl",
        Some("ts" | "tsx") => "bun",
        _ => match content(script) {
            Content::Binary => return Ok(None),
            Content::Text => "node",
            Content::Interpreted(line) => {
                if !line.contains("node") {
                    notes.push(format!(
                        "the script of app `{app}` begins with `#!{line}`, but PM2 runs it with node, since its \
                         name has no ending; set \"interpreter\": \"none\""
                    ));
                }
                "node"
            }
        },
    };
    Ok(Some(name.to_owned()))
}

/// The version of Node that nvm keeps under that name.
fn of_nvm(folder: &Path, name: &str) -> Option<String> {
    let version =
        name.strip_prefix("node@").filter(|version| !version.is_empty() && !version.contains('/'))?;
    let node = folder.join(format!("versions/node/v{version}/bin/node"));
    is_executable(&node).then(|| node.to_str().map(str::to_owned))?
}

fn missing(values: &Values<'_>, interpreter: &str) -> ConfigError {
    let app = &values.block.name;
    values
        .error(format!("interpreter `{interpreter}` of app `{app}` is not installed"))
        .help(format!("install `{interpreter}` so that it is on PATH, or set `interpreter` to its path"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_version_of_node_is_found_where_nvm_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("versions/node/v20.1.0/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("node"), "").unwrap();
        fs::set_permissions(bin.join("node"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(of_nvm(folder.path(), "node@20.1.0"), bin.join("node").to_str().map(str::to_owned));
        for absent in ["node@20", "node@", "node@../../x", "node"] {
            assert_eq!(of_nvm(folder.path(), absent), None, "{absent}");
        }
    }
}
