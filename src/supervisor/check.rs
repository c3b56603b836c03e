//! What a specification must hold, so that nothing fails later and less clearly.

use super::{
    cron::Cron,
    spec::{AppSpec, HttpCheck, Mode, ReadyWhen},
};

/// The most instances one app may have.
pub(super) const INSTANCES_MAX: u32 = 1024;
/// The longest name; log files are named after it.
const NAME_MAX_BYTES: usize = 128;

/// Refuses a specification that makes no sense, with the reason.
pub(super) fn check(app: &AppSpec) -> Result<(), String> {
    if app.name.is_empty() || app.name.len() > NAME_MAX_BYTES || app.name.contains('\0') {
        return Err(format!("the name must be 1 to {NAME_MAX_BYTES} bytes: log files are named after it"));
    }
    check_paths(app)?;
    check_variables(app)?;
    check_readiness(app)?;
    if let Some(cron) = &app.restart.cron {
        Cron::parse(cron).map_err(|why| format!("cron_restart: {why}"))?;
    }
    if app.max_processes == Some(0) {
        return Err("max_processes must be at least 1".to_owned());
    }
    check_instances(app, app.instances)
}

/// Whether so many instances can be run.
pub(super) fn check_instances(app: &AppSpec, instances: u32) -> Result<(), String> {
    if instances > INSTANCES_MAX {
        return Err(format!("{instances} instances are more than {INSTANCES_MAX}"));
    }
    match instances.checked_sub(1) {
        Some(last) if app.port.is_some() && app.port_of(last).is_none() => {
            Err(format!("there are not {instances} ports left for its instances"))
        }
        _ => Ok(()),
    }
}

fn check_paths(app: &AppSpec) -> Result<(), String> {
    let logs = [&app.logs.out, &app.logs.err, &app.logs.combined].into_iter().flatten();
    let paths = [("program", &app.program), ("working folder", &app.cwd)].into_iter();
    for (what, path) in paths.chain(logs.map(|path| ("log file", path))) {
        if !path.is_absolute() {
            return Err(format!("the {what} {} is not an absolute path", path.display()));
        }
    }
    Ok(())
}

fn check_variables(app: &AppSpec) -> Result<(), String> {
    let port = app.port.as_ref().map(|port| &port.variable);
    let named = port.into_iter().chain([&app.instance_variable]).chain(&app.increment_variable);
    for variable in app.env.keys().chain(named) {
        if variable.is_empty() || variable.contains(['=', '\0']) {
            return Err(format!("{variable:?} cannot be the name of an environment variable"));
        }
    }
    let texts = app.env.iter().map(|(name, value)| (name.as_str(), value));
    for (what, text) in texts.chain(app.args.iter().map(|argument| ("an argument", argument))) {
        if text.contains('\0') {
            // Not the value itself: it may be a secret.
            return Err(format!("{what} contains a zero byte"));
        }
    }
    Ok(())
}

fn check_readiness(app: &AppSpec) -> Result<(), String> {
    let liveness = app.liveness.as_ref();
    for check in app.ready.http.iter().chain(liveness.map(|liveness| &liveness.http)) {
        check_http(app, check)?;
    }
    if liveness.is_some_and(|liveness| liveness.interval_ms == 0 || liveness.failures == 0) {
        return Err("a liveness check needs an interval and a number of failures above 0".to_owned());
    }
    let sees_listening = matches!(app.mode, Mode::Cluster | Mode::Transparent);
    if app.ready.when == ReadyWhen::Listening && !sees_listening {
        return Err("only in cluster and transparent mode can it be seen that an app listens".to_owned());
    }
    if app.reload.hot_spare && app.mode != Mode::Cluster {
        return Err("a hot spare is possible in cluster mode only".to_owned());
    }
    Ok(())
}

fn check_http(app: &AppSpec, check: &HttpCheck) -> Result<(), String> {
    if app.port.is_none() {
        return Err("an HTTP check needs a port".to_owned());
    }
    if !check.path.starts_with('/') || check.path.parse::<hyper::Uri>().is_err() {
        return Err(format!("{:?} is no path to ask for", check.path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            spec::{Liveness, Port},
            tests::fixture::{server, sleeper},
        },
        *,
    };

    /// Why an app that makes sense makes none after this change.
    fn refused(change: impl FnOnce(&mut AppSpec)) -> String {
        let mut app = server("/srv".as_ref(), 2);
        assert_eq!(check(&app), Ok(()));
        change(&mut app);
        check(&app).unwrap_err()
    }

    fn liveness(interval_ms: u64, failures: u32) -> Liveness {
        let http = HttpCheck { path: "/alive".to_owned() };
        Liveness { http, interval_ms, timeout_ms: 1000, failures }
    }

    #[test]
    fn names_name_files() {
        assert!(refused(|a| a.name = "x".repeat(129)).contains("1 to 128 bytes"));
        assert!(refused(|a| a.name = String::new()).contains("1 to 128 bytes"));
        assert!(refused(|a| a.name = "a\0b".to_owned()).contains("1 to 128 bytes"));
    }

    #[test]
    fn paths_are_absolute() {
        assert!(refused(|a| a.program = "node".into()).contains("program node is not an absolute path"));
        assert!(refused(|a| a.cwd = ".".into()).contains("working folder . is not an absolute path"));
        let file = || Some("x.log".into());
        for reason in [
            refused(|a| a.logs.out = file()),
            refused(|a| a.logs.err = file()),
            refused(|a| a.logs.combined = file()),
        ] {
            assert!(reason.contains("log file x.log is not an absolute path"), "{reason}");
        }
    }

    #[test]
    fn variables_have_names_and_no_zero_bytes() {
        for name in ["A=B", "", "A\0"] {
            let what = "cannot be the name of an environment variable";
            assert!(refused(|a| drop(a.env.insert(name.to_owned(), String::new()))).contains(what));
            assert!(refused(|a| a.instance_variable = name.to_owned()).contains(what));
            assert!(refused(|a| a.increment_variable = Some(name.to_owned())).contains(what));
            assert!(refused(|a| a.port.as_mut().unwrap().variable = name.to_owned()).contains(what));
        }
        let secret = refused(|a| drop(a.env.insert("TOKEN".to_owned(), "hunter2\0".to_owned())));
        assert_eq!(secret, "TOKEN contains a zero byte");
        assert_eq!(refused(|a| a.args = vec!["\0".to_owned()]), "an argument contains a zero byte");
    }

    #[test]
    fn what_is_asked_over_http_can_be_asked() {
        assert!(refused(|a| a.port = None).contains("needs a port"));
        for path in ["health", "", "/a b"] {
            assert!(refused(|a| a.ready.http.as_mut().unwrap().path = path.to_owned()).contains("no path"));
        }
        assert!(refused(|a| a.liveness = Some(liveness(0, 3))).contains("above 0"));
        assert!(refused(|a| a.liveness = Some(liveness(1000, 0))).contains("above 0"));
        let without_port = |a: &mut AppSpec| {
            (a.port, a.ready.http, a.liveness) = (None, None, Some(liveness(1000, 3)));
        };
        assert!(refused(without_port).contains("needs a port"));
    }

    #[test]
    fn what_needs_a_mode_has_it() {
        assert!(refused(|a| a.ready.when = ReadyWhen::Listening).contains("cluster and transparent mode"));
        assert!(refused(|a| a.reload.hot_spare = true).contains("cluster mode only"));
        for mode in [Mode::Cluster, Mode::Transparent] {
            let mut app = sleeper("/srv".as_ref());
            (app.mode, app.ready.when) = (mode, ReadyWhen::Listening);
            assert_eq!(check(&app), Ok(()));
        }
    }

    #[test]
    fn there_are_ports_for_all_instances_and_no_more_instances_than_bearable() {
        assert!(refused(|a| a.instances = 1025).contains("more than 1024"));
        assert!(refused(|a| a.port.as_mut().unwrap().first = 65_535).contains("not 2 ports"));
        assert!(refused(|a| a.max_processes = Some(0)).contains("at least 1"));
        let mut app = sleeper("/srv".as_ref());
        app.port = Some(Port { variable: "PORT".to_owned(), first: 65_535 });
        for instances in [0, 1] {
            assert_eq!(check_instances(&app, instances), Ok(()));
        }
        assert!(check_instances(&app, 2).is_err());
        // One port for all.
        app.mode = Mode::Cluster;
        assert_eq!(check_instances(&app, 2), Ok(()));
    }

    #[test]
    fn the_calendar_is_one() {
        assert!(refused(|a| a.restart.cron = Some("often".to_owned())).starts_with("cron_restart: "));
    }
}
