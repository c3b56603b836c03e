//! `qbench pm start`, `restart` and `reload`: of ecosystem files, or of what is known already.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{Chosen, CliError, ExitCode, call, daemon, for_each, reports, selection, show, tell};
use crate::{
    config,
    model::workload::App,
    runtime::supervised::app_spec,
    supervisor::{AppSpec, Client, Request, Select, SupervisorError},
};

/// Endings of ecosystem files.
const ENDINGS: [&str; 7] = ["json", "json5", "yaml", "yml", "js", "cjs", "mjs"];

/// Start the apps of an ecosystem file, or apps that the supervisor knows already
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An ecosystem file, or names, ids or namespaces of apps, or `all`
    #[arg(required = true, value_name = "FILE|APP")]
    what: Vec<String>,
    /// Use the `env_NAME` blocks of the file
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Only these apps of the file
    #[arg(long, value_name = "APP", value_delimiter = ',')]
    only: Vec<String>,
}

pub(super) async fn start(args: &Args, home: &Path) -> Result<(), CliError> {
    let Some(file) = args.file() else {
        let mut client = daemon::connect(home).await?;
        for_each(&mut client, &args.chosen(), Request::Start).await?;
        return show(&mut client).await;
    };
    let specs = args.specs(&file, home)?;
    let by_hand: Vec<String> =
        specs.iter().filter(|spec| !spec.autostart).map(|spec| spec.name.clone()).collect();
    let mut client = daemon::start(home).await?;
    let mut names = apply(&mut client, specs).await?;
    names.retain(|name| !by_hand.contains(name));
    for name in &names {
        call(&mut client, Request::Start(Select::App(name.clone()))).await?;
    }
    let settled = settle(&mut client, names).await;
    show(&mut client).await?;
    settled
}

/// Waits until every app is ready, or will not be.
async fn settle(client: &mut Client, names: Vec<String>) -> Result<(), CliError> {
    for name in names {
        call(client, Request::Settle(Select::App(name))).await?;
    }
    Ok(())
}

pub(super) async fn restart(args: &Args, home: &Path) -> Result<(), CliError> {
    let Some(file) = args.file() else {
        let mut client = daemon::connect(home).await?;
        for_each(&mut client, &args.chosen(), Request::Restart).await?;
        return show(&mut client).await;
    };
    let specs = args.specs(&file, home)?;
    let mut client = daemon::start(home).await?;
    let names = apply(&mut client, specs).await?;
    for name in &names {
        call(&mut client, Request::Restart(Select::App(name.clone()))).await?;
    }
    let settled = settle(&mut client, names).await;
    show(&mut client).await?;
    settled
}

/// A reload that fails is a failure of the release, not of the command: it ends with 1.
pub(super) async fn reload(args: &Args, home: &Path) -> Result<ExitCode, CliError> {
    let mut client;
    let selected = if let Some(file) = args.file() {
        let specs = args.specs(&file, home)?;
        client = daemon::start(home).await?;
        apply(&mut client, specs).await?.into_iter().map(Select::App).collect()
    } else {
        client = daemon::connect(home).await?;
        let known = reports(&mut client).await?;
        selection::resolve(&args.what, &known)?
    };
    let mut code = ExitCode::Pass;
    for select in selected {
        match reload_one(&mut client, home, select).await {
            Ok(()) => {}
            Err(CliError::Supervisor(SupervisorError::Refused(why))) => {
                tell(&format!("error: {why}"));
                code = ExitCode::Fail;
            }
            Err(other) => return Err(other),
        }
    }
    show(&mut client).await?;
    Ok(code)
}

/// Reloads, and waits for the end also when the supervisor is replaced meanwhile: the next one carries on.
async fn reload_one(client: &mut Client, home: &Path, select: Select) -> Result<(), CliError> {
    let mut request = Request::Reload(select.clone());
    loop {
        match call(client, request).await {
            Err(CliError::Supervisor(SupervisorError::Closed)) => {
                *client = daemon::connect(home).await?;
                request = Request::Await(select.clone());
            }
            answer => return answer.map(drop),
        }
    }
}

async fn apply(client: &mut Client, apps: Vec<AppSpec>) -> Result<Vec<String>, CliError> {
    let names = apps.iter().map(|app| app.name.clone()).collect();
    call(client, Request::Apply { apps }).await?;
    Ok(names)
}

impl Args {
    fn chosen(&self) -> Chosen {
        Chosen { apps: self.what.clone() }
    }

    /// The ecosystem file, if it is one that was named.
    fn file(&self) -> Option<PathBuf> {
        let [what] = &self.what[..] else { return None };
        let path = PathBuf::from(what);
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        (path.is_file() || (ENDINGS.contains(&ending) && what.contains('.'))).then_some(path)
    }

    fn specs(&self, file: &Path, home: &Path) -> Result<Vec<AppSpec>, CliError> {
        let read = config::ecosystem_apps(file, self.env.as_deref(), &env::current_exe()?)?;
        for note in &read.notes {
            tell(&format!("note: {note}"));
        }
        for name in &self.only {
            if !read.apps.iter().any(|app| app.name == *name) {
                let names: Vec<&str> = read.apps.iter().map(|app| app.name.as_str()).collect();
                return Err(CliError::usage(
                    format!("{} has no app {name:?}", file.display()),
                    format!("its apps are {}", names.join(", ")),
                ));
            }
        }
        let wanted = read.apps.iter().filter(|app| self.only.is_empty() || self.only.contains(&app.name));
        Ok(wanted.map(|app| spec(app, home)).collect())
    }
}

/// As PM2 does, an app also gets the environment of whoever starts it.
fn spec(app: &App, home: &Path) -> AppSpec {
    let mut spec = app_spec(app, &daemon::log_dir(home));
    let own = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut environment: std::collections::BTreeMap<String, String> =
        own.filter(|(name, _)| !app.filter_env.removes(name)).collect();
    environment.extend(std::mem::take(&mut spec.env));
    spec.env = environment;
    spec
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::supervision::FilterEnv;

    fn args(what: &[&str]) -> Args {
        Args { what: what.iter().map(|&word| word.to_owned()).collect(), env: None, only: Vec::new() }
    }

    #[test]
    fn one_word_that_is_a_file_or_is_called_like_one_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("apps");
        fs::write(&there, "").unwrap();
        let there = there.to_str().unwrap();
        for file in [there, "missing.json", "missing.config.js", "./a/b.yaml", "x.mjs"] {
            assert_eq!(args(&[file]).file(), Some(file.into()), "{file}");
        }
        for names in [&["web"][..], &["all"], &["js"], &["web.v2"], &["0"], &["a.json", "b.json"], &["/tmp"]]
        {
            assert_eq!(args(names).file(), None, "{names:?}");
        }
    }

    #[test]
    fn an_app_gets_the_environment_of_its_starter_with_its_own_over_it() {
        let mut app = App::of("web", "/bin/true".into(), "/".into());
        app.env.insert("HOME".to_owned(), "/srv".to_owned());
        let of = |app: &App| spec(app, Path::new("/home")).env;
        assert_eq!(of(&app).get("PATH").cloned(), env::var("PATH").ok());
        assert_eq!(of(&app)["HOME"], "/srv");
        app.filter_env = FilterEnv::Containing(vec!["PATH".to_owned(), "HOME".to_owned()]);
        assert!(!of(&app).contains_key("PATH"));
        assert_eq!(of(&app)["HOME"], "/srv", "its own stay");
    }
}
