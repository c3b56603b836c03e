//! The keys that a supervisor acts on, with PM2's defaults and units.

use std::{path::Path, time::Duration};

use super::{app_tests::Folder, ecosystem_apps};
use crate::model::{
    supervision::{Additions, FilterEnv, Logs, Output, Restart, Stop, User},
    units::Bytes,
};

#[test]
fn supervision_is_read_with_the_defaults_of_pm2() {
    let folder = Folder::new();
    let app = folder.app("{name: 'a_b é', script: 'server.js'}");
    assert_eq!(
        (app.name.as_str(), app.namespace.as_str(), app.file_stem().as_str()),
        ("a_b é", "default", "a-b--")
    );
    assert_eq!(
        (&app.stop, &app.restart, &app.logs),
        (&Stop::default(), &Restart::default(), &Logs::default())
    );
    assert_eq!((app.autostart, app.wait_ready, app.user, app.port), (true, false, None, None));
    assert_eq!((app.filter_env, app.increment_variable), (FilterEnv::Nothing, None));
    assert_eq!(app.additions, Additions::default());
    let app = folder.app(
        "{script: 'server.js', namespace: 'shop', autostart: false, autorestart: false, wait_ready: true,
          shutdown_with_message: true, treekill: false, kill_retry_time: 5, stop_exit_codes: ['1', 2],
          max_memory_restart: '200M', cron: '*/5 * * * *', restart_delay: '100', expBackoffRestartDelay: 150,
          max_restarts: '0', port: '77', filter_env: ['SECRET', '']}",
    );
    assert_eq!((app.namespace.as_str(), app.autostart, app.wait_ready), ("shop", false, true));
    assert_eq!((app.stop.by_message, app.stop.tree), (true, false));
    assert_eq!(app.stop.kill_retry_time, Duration::from_millis(5));
    assert_eq!((app.restart.automatic, app.restart.max_unstable), (false, 0));
    assert_eq!(
        (app.restart.stop_exit_codes.as_slice(), app.restart.max_memory),
        (&[1, 2][..], Some(Bytes(200 << 20)))
    );
    assert_eq!(app.restart.cron.as_deref(), Some("*/5 * * * *"));
    assert_eq!(
        (app.restart.delay, app.restart.backoff),
        (Duration::from_millis(100), Some(Duration::from_millis(150)))
    );
    assert_eq!((app.port, app.env["PORT"].as_str()), (Some(77), "77"));
    assert_eq!(app.filter_env, FilterEnv::Containing(vec!["SECRET".to_owned()]));
    assert!(app.filter_env.removes("MY_SECRET_KEY") && !app.filter_env.removes("PATH"));
    let one = folder.app("{script: 'server.js', filter_env: 'SECRET'}").filter_env;
    assert!(one.removes("SECRET") && !one.removes("SECRETS"));
}

#[test]
fn a_zero_is_the_default_as_in_pm2_and_told() {
    let folder = Folder::new();
    let text = "{name: 'x', script: 'server.js', kill_timeout: 0, listen_timeout: '0', max_restarts: 0, min_uptime: 0,
                 stop_exit_codes: 0, cron_restart: 0, exp_backoff_restart_delay: 0, kill_retry_time: 0, port: 0}";
    let (app, notes) = folder.resolve(None, text).unwrap();
    assert_eq!((&app.stop, &app.restart), (&Stop::default(), &Restart::default()));
    assert_eq!((app.listen_timeout, app.port), (Duration::from_secs(3), None));
    assert_eq!(notes.len(), 4, "{notes:?}");
    assert_eq!(
        notes[3],
        "`stop_exit_codes` of app `x` is zero, which PM2 takes for its default; put it into a list"
    );
    assert_eq!(folder.app("{script: 'server.js', stop_exit_codes: [0]}").restart.stop_exit_codes, [0]);
}

#[test]
fn logs_go_where_pm2_puts_them() {
    let folder = Folder::new();
    let logs = |more: &str| folder.app(&format!("{{script: 'server.js', {more}}}")).logs;
    let file = |name: &str| Output::File(folder.0.path().canonicalize().unwrap().join(name));
    let app = logs("out: 'o.log', error_file: './log/e.log', log: 'c.log', pid: 'p.pid'");
    assert_eq!(
        (app.out, app.err, app.combined, app.pid),
        (file("o.log"), file("log/e.log"), file("c.log"), file("p.pid"))
    );
    let app = logs("out_file: 'NULL', error_file: '/dev/null', log_file: true, pid_file: 'NULL'");
    assert_eq!(
        (app.out, app.err, app.combined, app.pid),
        (Output::Off, Output::Off, Output::Default, Output::Off)
    );
    let app = logs("disable_logs: true, out_file: 'o.log', log_file: true");
    assert_eq!((app.out, app.err, app.combined), (Output::Off, Output::Off, Output::Off));
    assert_eq!(logs("out_file: '/var/o.log'").out, Output::File("/var/o.log".into()));
    assert_eq!(logs("out_file: '~/o.log'").out, Output::File(std::env::home_dir().unwrap().join("o.log")));
    assert_eq!(
        logs("time: true, log_date_format: 'YYYY'").date_format.as_deref(),
        Some("YYYY-MM-DDTHH:mm:ss")
    );
    assert_eq!(logs("log_date_format: 'YYYY', log_type: 'json'").date_format.as_deref(), Some("YYYY"));
    assert!(logs("log_type: 'json'").json && !logs("log_type: 'raw'").json);
    for (more, is_merged) in [
        ("time: false", true),
        ("instances: 1", false),
        ("instances: 2, exec_mode: 'fork'", false),
        ("instances: 2, merge_logs: true", true),
        ("instances: 2, combine_logs: true", true),
        ("instances: 'max'", true),
        ("instances: 0", true),
        ("instances: 'max', exec_mode: 'cluster'", false),
        ("exec_mode: 'cluster_mode'", false),
        ("execMode: 'cluster'", true),
        ("merge_logs: false", false),
        ("mergeLogs: false", true),
        ("merge_logs: null", false),
    ] {
        assert_eq!(logs(more).merge, is_merged, "{more}");
    }
}

#[test]
fn names_and_variables_follow_the_environment() {
    let folder = Folder::new();
    let text = "{name: 'web', script: 'server.js', append_env_to_name: true, increment_var: 'N', port: 77, user: 'root',
                 env: {HOME: '/x', N: 'many', PORT: 5}, env_production: {PORT: 9}}";
    let (app, notes) = folder.resolve(Some("production"), text).unwrap();
    assert_eq!((app.name.as_str(), app.port), ("web-production", Some(9)));
    assert_eq!((app.env["N"].as_str(), app.increment_variable.as_deref()), ("0", Some("N")));
    assert_eq!((app.env["HOME"].as_str(), app.user), ("/root", Some(User { uid: 0, gid: 0 })));
    assert!(notes.iter().any(|note| note.contains("`increment_var`") && !note.contains("many")), "{notes:?}");
    assert_eq!(folder.app("{name: 'web', script: 'server.js', append_env_to_name: true}").name, "web");
    assert_eq!(folder.app("{script: 'server.js', increment_var: 'N', env: {N: ' 08 '}}").env["N"], "8");
    assert_eq!(folder.app("{script: 'server.js', env: {PORT: 'x'}}").port, None);
}

#[test]
fn users_are_looked_up_and_never_shown() {
    let folder = Folder::new();
    let user = |more: &str| folder.app(&format!("{{script: 'server.js', {more}}}")).user;
    assert_eq!(user("uid: 4294967294, gid: 7"), Some(User { uid: 4_294_967_294, gid: 7 }));
    assert_eq!(user("uid: '0', gid: 'root'"), Some(User { uid: 0, gid: 0 }));
    for (more, message) in [
        ("uid: 'hunter2'", "`uid` of app `x` names no user of this machine"),
        ("uid: 4294967294", "`uid` of app `x` is no user of /etc/passwd, so that its group is not known"),
        ("uid: 'root', gid: 'hunter2'", "`gid` of app `x` names no group of this machine"),
        ("gid: 'root'", "app `x` has `gid` without `uid`, which PM2 refuses"),
        ("uid: -1", "`uid` of app `x` must be a name, or a number from 0 on"),
        ("uid: ['hunter2']", "`uid` of app `x` must be a name, or a number from 0 on"),
    ] {
        let error = folder.resolve(None, &format!("{{name: 'x', script: 'server.js', {more}}}")).unwrap_err();
        assert_eq!(error.message(), message);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn variables_of_deploy_lie_between_env_and_the_chosen_environment() {
    let folder = Folder::new();
    let path = folder.0.path().join("ecosystem.json");
    let text = "{apps: [{script: 'sleep', env: {A: 'app'}, env_prod: {B: 'prod'}}],
                 deploy: {prod: {env: {A: 'deploy', B: 'deploy', C: 'deploy'}}}, static: [{port: 1}]}";
    std::fs::write(&path, text).unwrap();
    let read = |environment| ecosystem_apps(&path, environment, Path::new("/opt/qbench")).unwrap();
    let file = read(Some("prod"));
    let pairs: Vec<_> =
        file.apps[0].env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("A", "deploy"), ("B", "prod"), ("C", "deploy")]);
    assert!(file.notes[0].starts_with("ecosystem.json has `deploy`"), "{:?}", file.notes);
    assert!(file.notes[1].starts_with("ecosystem.json has `static`"), "{:?}", file.notes);
    assert_eq!(read(None).apps[0].env.len(), 1);
    let error = ecosystem_apps(&path, Some("prd"), Path::new("/opt/qbench")).unwrap_err();
    assert_eq!(error.message(), "no app of ecosystem.json has an `env_prd`");
    assert_eq!(error.hint(), Some("did you mean \"prod\"?"));
}
