//! Scenario files: a load, an action, and what must hold.

use std::{fs, path::Path, time::Duration};

use super::{
    document::{Document, Field, Section},
    error::ConfigError,
    names::check_file_name,
    settings::{connection_use, rate},
    source::Source,
};
use crate::model::{
    scenario::{Action, Expectation, Figure, Scenario, ScenarioLoad},
    settings::ConnectionUse,
};

const ROOT_KEYS: [&str; 6] = ["title", "purpose", "repeat", "load", "action", "expect"];
const LOAD_KEYS: [&str; 4] = ["rate", "connection", "before", "after"];
const ACTION_KEYS: [&str; 1] = ["do"];
const EXPECT_KEYS: [&str; 3] = ["figure", "at_most", "at_least"];

/// The scenarios that come with qbench, by file name.
const SHIPPED: [(&str, &str); 3] = [
    ("start-all", include_str!("../../scenarios/start-all.toml")),
    ("zero-downtime-reload", include_str!("../../scenarios/zero-downtime-reload.toml")),
    ("restart-resilience", include_str!("../../scenarios/restart-resilience.toml")),
];

/// The scenarios that come with qbench, in the order they are best run in.
pub fn shipped() -> Vec<Scenario> {
    SHIPPED
        .iter()
        .map(|(name, text)| {
            parse(name, Path::new(&format!("{name}.toml")), text)
                .expect("the shipped scenarios are part of the program, and a test parses them")
        })
        .collect()
}

/// The file of a scenario that comes with qbench.
pub fn shipped_text(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

/// Parses a scenario; `file` is its name for messages.
///
/// # Errors
/// [`ConfigError`] at the first thing that does not fit.
pub fn parse(name: &str, file: &Path, text: &str) -> Result<Scenario, ConfigError> {
    check_file_name(name)
        .map_err(|problem| ConfigError::new(format!("a scenario's name {problem}")).in_file(file))?;
    let source = Source { shown_as: file.to_owned(), text: text.to_owned() };
    let known: Vec<&str> =
        ROOT_KEYS.into_iter().chain(LOAD_KEYS).chain(ACTION_KEYS).chain(EXPECT_KEYS).collect();
    let document = Document::parse(&source, &known)?;
    let root = document.root(&ROOT_KEYS)?;
    let load = root.optional("load", |field| load(&field.section(&LOAD_KEYS)?))?;
    let action = action(&root.required("action", "[action]")?)?;
    let expect_field = root.required("expect", "[[expect]]")?;
    let sections = expect_field.sections(&EXPECT_KEYS)?;
    let expect = sections
        .iter()
        .map(|section| expectation(section, action, load.is_some()))
        .collect::<Result<Vec<_>, _>>()?;
    if expect.is_empty() {
        return Err(expect_field.error("a scenario must expect something").help("add an `[[expect]]`"));
    }
    Ok(Scenario {
        name: name.to_owned(),
        title: root.required("title", "title = \"…\"")?.text()?.to_owned(),
        purpose: root.required("purpose", "purpose = \"…\"")?.any_text()?.trim().to_owned(),
        load,
        action,
        repeat: root.optional("repeat", |field| field.integer(1, 1000))?.unwrap_or(1) as u32,
        expect,
    })
}

/// Parses every `.toml` file of a folder, by name.
///
/// # Errors
/// [`ConfigError`] when the folder cannot be read or one of its files does not fit.
pub fn load_dir(dir: &Path) -> Result<Vec<Scenario>, ConfigError> {
    let failed = |error: std::io::Error| {
        ConfigError::new(format!("cannot read the folder {}: {error}", dir.display()))
            .help("name a folder of scenario files, or leave it out for the ones that come with qbench")
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let source = Source::read(path)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            parse(&name, path, &source.text)
        })
        .collect()
}

fn load(section: &Section<'_, '_>) -> Result<ScenarioLoad, ConfigError> {
    let span = |key: &str, default: Duration| {
        section.optional(key, |field| field.duration(Duration::ZERO)).map(|span| span.unwrap_or(default))
    };
    Ok(ScenarioLoad {
        rate_per_second: rate(&section.required("rate", "rate = 200")?)?,
        connection_use: section.optional("connection", connection_use)?.unwrap_or(ConnectionUse::KeepAlive),
        before: span("before", Duration::from_secs(1))?,
        after: span("after", Duration::from_secs(2))?,
    })
}

fn action(field: &Field<'_, '_>) -> Result<Action, ConfigError> {
    let section = field.section(&ACTION_KEYS)?;
    let actions =
        [Action::StartAll, Action::Reload, Action::KillInstance].map(|action| (action.name(), action));
    section.required("do", "do = \"reload\"")?.choice(&actions)
}

fn expectation(
    section: &Section<'_, '_>,
    action: Action,
    has_load: bool,
) -> Result<Expectation, ConfigError> {
    let figure_field = section.required("figure", "figure = \"errors\"")?;
    let figure = figure_field.choice(&Figure::ALL.map(|figure| (figure.name(), figure)))?;
    if needs_load(figure) && !has_load {
        return Err(figure_field
            .error(format!("`{figure}` cannot be measured without a load"))
            .help("add a `[load]` with `rate = 200`"));
    }
    if !is_measured(figure, action) {
        return Err(figure_field
            .error(format!("`{figure}` is not measured by `{}`", action.name()))
            .help("missing figures never pass, so that this could only fail"));
    }
    let at_most = section.optional("at_most", Field::number)?;
    let at_least = section.optional("at_least", Field::number)?;
    match (at_least, at_most) {
        (None, None) => {
            Err(section.error("an expectation needs a bound").help("add `at_most = …` or `at_least = …`"))
        }
        (Some(low), Some(high)) if low > high => {
            Err(section.error(format!("nothing is at least {low} and at most {high}")))
        }
        _ => Ok(Expectation { figure, at_most, at_least }),
    }
}

fn needs_load(figure: Figure) -> bool {
    matches!(
        figure,
        Figure::Requests
            | Figure::Errors
            | Figure::ErrorsAfterRetry
            | Figure::ErrorRate
            | Figure::LongestGapSeconds
            | Figure::MaxLatencySeconds
            | Figure::OverOneSecond
    )
}

fn is_measured(figure: Figure, action: Action) -> bool {
    match figure {
        Figure::ReadySeconds => action == Action::StartAll,
        Figure::NewReleaseShare | Figure::ReplacedShare | Figure::ReloadSeconds => action == Action::Reload,
        Figure::RespawnSeconds | Figure::ServeSeconds => action == Action::KillInstance,
        figure if needs_load(figure) => action != Action::StartAll,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse("x", Path::new("x.toml"), text).unwrap_err().message().to_owned()
    }

    const HEAD: &str = "title = 't'\npurpose = 'p'\n";

    #[test]
    fn the_shipped_ones_say_what_the_guide_says() {
        let shipped = shipped();
        let names: Vec<_> = shipped.iter().map(|scenario| scenario.name.as_str()).collect();
        assert_eq!(names, ["start-all", "zero-downtime-reload", "restart-resilience"]);
        let reload = &shipped[1];
        assert_eq!(reload.action, Action::Reload);
        let expected: Vec<_> = reload.expect.iter().map(ToString::to_string).collect();
        assert_eq!(
            expected,
            [
                "errors ≤ 0",
                "max_latency_seconds ≤ 5",
                "new_release_share ≥ 1",
                "replaced_share ≥ 1",
                "online_share ≥ 1"
            ]
        );
        assert!(shipped.iter().all(|scenario| scenario.purpose.len() > 40));
        let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"));
        if let Ok(files) = files {
            let is_toml = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|end| end == "toml");
            assert_eq!(files.flatten().filter(is_toml).count(), SHIPPED.len(), "every file is shipped");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let expect = "[[expect]]\nfigure = 'errors'\nat_most = 0\n";
        for (text, expected) in [
            ("", "`action` is missing"),
            ("[action]\ndo = 'reload'", "`expect` is missing"),
            ("[action]\ndo = 'relaod'", "`do` cannot be `relaod`"),
            (&format!("[action]\ndo = 'reload'\n{expect}"), "`errors` cannot be measured without a load"),
            ("[load]\nrate = 0\n[action]\ndo = 'reload'", "`rate` must be more than zero"),
            ("[load]\nrate = 1\nbefore = 1\n[action]\ndo = 'reload'", "`before` needs a unit"),
            (
                "[action]\ndo = 'start-all'\n[[expect]]\nfigure = 'serve_seconds'",
                "`serve_seconds` is not measured by `start-all`",
            ),
            (
                "[action]\ndo = 'start-all'\n[[expect]]\nfigure = 'ready_seconds'",
                "an expectation needs a bound",
            ),
            (
                "[action]\ndo = 'start-all'\n[[expect]]\nfigure = 'ready_seconds'\nat_most = nan",
                "`at_most` must be a finite number",
            ),
            (
                "[action]\ndo = 'start-all'\n[[expect]]\nfigure = 'ready_seconds'\nat_most = 1\nat_least = 2",
                "nothing is at least 2 and at most 1",
            ),
            (
                "repeat = 0\n[action]\ndo = 'start-all'\n[[expect]]\nfigure = 'online_share'\nat_least = 1",
                "`repeat` must be from 1 to 1000",
            ),
        ] {
            assert_eq!(message(&format!("{HEAD}{text}")), expected);
        }
        assert_eq!(parse("../x", Path::new("x"), "").unwrap_err().position(), None);
    }

    #[test]
    fn a_folder_is_read_in_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml"] {
            fs::write(folder.path().join(name), SHIPPED[0].1).unwrap();
        }
        fs::write(folder.path().join("notes.md"), "not a scenario").unwrap();
        let names: Vec<_> = load_dir(folder.path()).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(load_dir(&folder.path().join("none")).is_err());
    }
}
