//! Finds PM2 and its version without starting its daemon.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::RUNTIME;
use crate::runtime::RuntimeError;

/// The `pm2` to use: the one named, else the one on PATH.
///
/// # Errors
/// [`RuntimeError::Missing`] when it is not there, or Node.js, which runs it.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    let missing = |reason: String, hint: &str| RuntimeError::Missing {
        runtime: RUNTIME,
        reason,
        hint: hint.to_owned(),
    };
    let install = "npm install -g pm2@7";
    let program = match named {
        Some(path) if is_executable(path) => path.to_owned(),
        Some(path) => return Err(missing(format!("{} is no program", path.display()), install)),
        None => on_path("pm2").ok_or_else(|| missing("no pm2 on PATH".to_owned(), install))?,
    };
    on_path("node").ok_or_else(|| missing("no node on PATH".to_owned(), "install Node.js 18 or newer"))?;
    Ok(program)
}

/// The version in the package that the program belongs to; `None` when it is wrapped in something else.
///
/// Not from `pm2 --version`, which costs a fifth of a second and, without a home of its own, makes one.
pub(super) fn packaged_version(program: &Path) -> Option<String> {
    let real = fs::canonicalize(program).ok()?;
    let package = real.parent()?.parent()?.join("package.json");
    let package: Value = serde_json::from_slice(&fs::read(package).ok()?).ok()?;
    (package.get("name")?.as_str()? == "pm2").then_some(())?;
    Some(package.get("version")?.as_str()?.to_owned())
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_version_is_that_of_the_package_behind_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("node_modules/pm2/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("pm2"), "#!/usr/bin/env node\n").unwrap();
        let link = dir.path().join("pm2");
        symlink(bin.join("pm2"), &link).unwrap();
        assert_eq!(packaged_version(&link), None);
        let package = dir.path().join("node_modules/pm2/package.json");
        fs::write(&package, r#"{"name": "pm2", "version": "7.0.4"}"#).unwrap();
        assert_eq!(packaged_version(&link).as_deref(), Some("7.0.4"));
        fs::write(&package, r#"{"name": "my-wrapper", "version": "1.0.0"}"#).unwrap();
        assert_eq!(packaged_version(&link), None);
    }

    #[test]
    fn a_program_that_is_none_is_missing_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(Some(&dir.path().join("pm2"))).unwrap_err();
        assert!(matches!(error, RuntimeError::Missing { .. }));
        assert_eq!(error.hint().as_deref(), Some("npm install -g pm2@7"));
    }
}
