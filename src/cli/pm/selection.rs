//! What was named on the command line: apps, namespaces, ids, numbers, signals.

use rustix::process::Signal;

use super::super::CliError;
use crate::supervisor::{InstanceReport, Select};

/// The signals that are sent to services, by name.
const SIGNALS: [(&str, Signal); 10] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("WINCH", Signal::WINCH),
];

/// Every word as what it names: `all`, an app, a namespace, an id, in this order.
pub(super) fn resolve(words: &[String], known: &[InstanceReport]) -> Result<Vec<Select>, CliError> {
    words.iter().map(|word| one(word, known)).collect()
}

fn one(word: &str, known: &[InstanceReport]) -> Result<Select, CliError> {
    if word == "all" {
        return Ok(Select::All);
    }
    if known.iter().any(|report| report.app == word) {
        return Ok(Select::App(word.to_owned()));
    }
    if known.iter().any(|report| report.namespace == word) {
        return Ok(Select::Namespace(word.to_owned()));
    }
    if let Ok(id) = word.parse::<u32>()
        && known.iter().any(|report| report.id == id)
    {
        return Ok(Select::Id(id));
    }
    let mut names: Vec<&str> = known.iter().map(|report| report.app.as_str()).collect();
    names.dedup();
    let hint = if names.is_empty() {
        "nothing is known to it".to_owned()
    } else {
        format!("it knows {}", names.join(", "))
    };
    Err(CliError::usage(format!("the supervisor knows no app, namespace or id {word:?}"), hint))
}

/// `4`, or relative to `now`: `+2`, `-1`.
pub(super) fn count(text: &str, now: usize) -> Result<u32, CliError> {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let wrong = || {
        CliError::usage(
            format!("{text:?} is no number of instances"),
            "say for example 4, +2 or -1; at least 1 must stay",
        )
    };
    // A number may have a sign of its own, so that there are not two.
    let number: i64 = text.parse().map_err(|_| wrong())?;
    let relative = text.starts_with(['+', '-']);
    let wanted = if relative { now.saturating_add(number) } else { number };
    u32::try_from(wanted).ok().filter(|wanted| *wanted > 0).ok_or_else(wrong)
}

/// A signal by its number or name.
pub(super) fn signal(text: &str) -> Result<i32, CliError> {
    let name = text.to_ascii_uppercase();
    let name = name.trim_start_matches("SIG");
    let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, signal)| signal.as_raw());
    named.or_else(|| text.parse().ok()).ok_or_else(|| {
        let known = SIGNALS.map(|(name, _)| name).join(", ");
        CliError::usage(format!("{text:?} is no signal"), format!("say its number, or one of {known}"))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::supervisor::{InstanceState, Mode};

    /// An instance of an app that may be named like anything.
    pub(in super::super) fn report(app: &str, namespace: &str, id: u32) -> InstanceReport {
        InstanceReport {
            app: app.to_owned(),
            instance: 0,
            id,
            namespace: namespace.to_owned(),
            mode: Mode::Fork,
            state: InstanceState::Online,
            pid: Some(4711),
            start_ticks: Some(1),
            uptime_ms: Some(61_000),
            restarts: 2,
            unstable_restarts: 0,
            last_end: None,
            memory_bytes: Some(50 << 20),
            cpu_percent: Some(3),
            out_log: None,
            err_log: None,
        }
    }

    fn resolved(words: &[&str], known: &[InstanceReport]) -> Vec<Select> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        resolve(&words, known).unwrap()
    }

    #[test]
    fn a_word_is_all_or_an_app_or_a_namespace_or_an_id_in_this_order() {
        let known = [
            report("web", "default", 0),
            report("tools", "web", 1),
            report("2", "tools", 3),
            report("x", "y", 2),
        ];
        let app = |name: &str| Select::App(name.to_owned());
        let namespace = |name: &str| Select::Namespace(name.to_owned());
        assert_eq!(resolved(&["all"], &[]), [Select::All]);
        assert_eq!(resolved(&["web", "tools", "2"], &known), [app("web"), app("tools"), app("2")]);
        assert_eq!(resolved(&["default", "y"], &known), [namespace("default"), namespace("y")]);
        assert_eq!(resolved(&["3", "0"], &known), [Select::Id(3), Select::Id(0)]);
    }

    #[test]
    fn what_nobody_is_called_is_refused_with_what_there_is() {
        let known =
            [report("web", "default", 0), report("web", "default", 1), report("worker", "default", 2)];
        for word in ["wob", "7", "-1", ""] {
            let error = resolve(&[word.to_owned()], &known).unwrap_err();
            assert_eq!(error.to_string(), format!("the supervisor knows no app, namespace or id {word:?}"));
            assert_eq!(error.hint().as_deref(), Some("it knows web, worker"));
        }
        let error = resolve(&["web".to_owned()], &[]).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("nothing is known to it"));
    }

    #[test]
    fn numbers_may_be_relative() {
        assert_eq!(count("4", 2).unwrap(), 4);
        assert_eq!(count("+2", 2).unwrap(), 4);
        assert_eq!(count("-1", 2).unwrap(), 1);
        for wrong in ["-2", "0", "x", "", "+", "++1", "+-1", "1.5", "99999999999999999999"] {
            assert!(count(wrong, 2).is_err(), "{wrong}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal("SIGUSR1").unwrap(), 10);
        assert_eq!(signal("hup").unwrap(), 1);
        assert_eq!(signal("15").unwrap(), 15);
        assert!(signal("SIGFOO").is_err());
    }
}
