//! An app of an ecosystem file as a specification for the built-in supervisor.

use std::path::{Path, PathBuf};

use crate::{
    model::{
        supervision::{Every, Output},
        workload::{App, ExecMode},
    },
    supervisor::{
        AppSpec, HttpCheck, Interval, Liveness, Logs, Mode, Port, Ready, ReadyWhen, Reload, Restart, Stop,
        User,
    },
};

/// The specification of an app whose log files, where it names none of its own, lie in `log_dir`. Variables, a port and
/// checks that somebody else knows of are laid over it.
pub fn app_spec(app: &App, log_dir: &Path) -> AppSpec {
    let mode = mode(app);
    let port = app.port.map(|first| Port { variable: "PORT".to_owned(), first });
    let check = |path: &String| HttpCheck { path: path.clone() };
    AppSpec {
        name: app.name.clone(),
        namespace: app.namespace.clone(),
        program: app.program.clone(),
        args: app.args.clone(),
        cwd: app.cwd.clone(),
        env: app.env.clone(),
        instances: app.instances,
        ready: Ready {
            when: ready_when(app, &mode),
            http: app.additions.health.as_ref().map(check),
            timeout_ms: milliseconds(app.listen_timeout),
        },
        mode,
        port,
        instance_variable: app.instance_variable.clone(),
        increment_variable: app.increment_variable.clone(),
        liveness: app.additions.liveness.as_ref().map(|liveness| Liveness {
            http: check(&liveness.path),
            interval_ms: milliseconds(liveness.interval),
            timeout_ms: milliseconds(liveness.timeout),
            failures: liveness.failures,
        }),
        stop: Stop {
            kill_timeout_ms: milliseconds(app.stop.kill_timeout),
            tree: app.stop.tree,
            by_message: app.stop.by_message,
        },
        restart: Restart {
            automatic: app.restart.automatic,
            delay_ms: milliseconds(app.restart.delay),
            backoff_ms: app.restart.backoff.map(milliseconds),
            min_uptime_ms: milliseconds(app.restart.min_uptime),
            max_unstable: app.restart.max_unstable,
            stop_exit_codes: app.restart.stop_exit_codes.clone(),
            max_memory_bytes: app.restart.max_memory.map(|bytes| bytes.0),
            cron: app.restart.cron.clone(),
        },
        reload: Reload { parallel: app.additions.reload_parallel, hot_spare: app.additions.hot_spare },
        autostart: app.autostart,
        user: app.user.map(|user| User { uid: user.uid, gid: user.gid }),
        max_processes: app.additions.max_processes,
        logs: logs(app, log_dir),
    }
}

fn mode(app: &App) -> Mode {
    let is_node = app.program.file_name().is_some_and(|name| name == "node");
    if !app.additions.listen.is_empty() {
        Mode::Sockets(app.additions.listen.clone())
    } else if app.additions.transparent {
        Mode::Transparent
    } else if app.exec_mode == ExecMode::Cluster && is_node {
        Mode::Cluster
    } else {
        Mode::Fork
    }
}

fn ready_when(app: &App, mode: &Mode) -> ReadyWhen {
    match mode {
        _ if app.wait_ready => ReadyWhen::Message,
        Mode::Cluster | Mode::Transparent => ReadyWhen::Listening,
        Mode::Fork | Mode::Sockets(_) => ReadyWhen::Spawned,
    }
}

fn logs(app: &App, log_dir: &Path) -> Logs {
    let stem = app.file_stem();
    let file = |output: &Output, ending: &str| -> Option<PathBuf> {
        match output {
            Output::Off => None,
            Output::Default => Some(log_dir.join(format!("{stem}{ending}"))),
            Output::File(path) => Some(path.clone()),
        }
    };
    let rotate = app.additions.rotate;
    Logs {
        out: file(&app.logs.out, "-out.log"),
        err: file(&app.logs.err, "-error.log"),
        combined: file(&app.logs.combined, ".log"),
        merge: app.logs.merge,
        date_format: app.logs.date_format.clone(),
        json: app.logs.json,
        rotate_bytes: rotate.max_size.0,
        rotate_keep: rotate.keep,
        rotate_gzip: rotate.gzip,
        rotate_every: rotate.every.map(|every| match every {
            Every::Hour => Interval::Hourly,
            Every::Day => Interval::Daily,
        }),
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{supervision, units::Bytes};

    fn app() -> App {
        App::of("web", "/usr/bin/node".into(), "/srv".into())
    }

    fn spec(change: impl FnOnce(&mut App)) -> AppSpec {
        let mut app = app();
        change(&mut app);
        app_spec(&app, Path::new("/logs"))
    }

    #[test]
    fn defaults_are_those_of_pm2() {
        let spec = spec(|_| {});
        assert_eq!((spec.mode, spec.instances, spec.autostart), (Mode::Fork, 1, true));
        assert_eq!(
            (spec.ready.when, spec.ready.http, spec.ready.timeout_ms),
            (ReadyWhen::Spawned, None, 3000)
        );
        assert_eq!(spec.stop, Stop { kill_timeout_ms: 1600, tree: true, by_message: false });
        assert_eq!((spec.restart.min_uptime_ms, spec.restart.max_unstable), (1000, 16));
        assert_eq!((spec.restart.automatic, spec.restart.delay_ms, spec.restart.backoff_ms), (true, 0, None));
        assert_eq!(spec.instance_variable, "NODE_APP_INSTANCE");
        assert_eq!(spec.logs.out, Some("/logs/web-out.log".into()));
        assert_eq!(spec.logs.err, Some("/logs/web-error.log".into()));
        assert_eq!((spec.logs.combined, spec.logs.merge), (None, true));
        assert_eq!(
            (spec.logs.rotate_bytes, spec.logs.rotate_keep, spec.logs.rotate_gzip),
            (50 << 20, 7, true)
        );
    }

    #[test]
    fn only_node_has_a_cluster() {
        let cluster = |app: &mut App| app.exec_mode = ExecMode::Cluster;
        let of_node = spec(cluster);
        assert_eq!((of_node.mode, of_node.ready.when), (Mode::Cluster, ReadyWhen::Listening));
        let of_another = spec(|app| {
            cluster(app);
            app.program = "/usr/bin/python3".into();
        });
        assert_eq!((of_another.mode, of_another.ready.when), (Mode::Fork, ReadyWhen::Spawned));
    }

    #[test]
    fn what_was_asked_for_beyond_pm2_comes_before_the_cluster() {
        let cluster_and = |change: fn(&mut App)| {
            spec(|app| {
                app.exec_mode = ExecMode::Cluster;
                change(app);
            })
        };
        let listens = cluster_and(|app| app.additions.listen = vec!["8080".to_owned()]);
        assert_eq!(listens.mode, Mode::Sockets(vec!["8080".to_owned()]));
        assert_eq!(listens.ready.when, ReadyWhen::Spawned);
        let transparent = cluster_and(|app| app.additions.transparent = true);
        assert_eq!((transparent.mode, transparent.ready.when), (Mode::Transparent, ReadyWhen::Listening));
        // Whoever says when it is ready is believed in every mode.
        assert_eq!(cluster_and(|app| app.wait_ready = true).ready.when, ReadyWhen::Message);
        let both = cluster_and(|app| (app.wait_ready, app.additions.transparent) = (true, true));
        assert_eq!(both.ready.when, ReadyWhen::Message);
    }

    #[test]
    fn every_setting_arrives() {
        let spec = spec(|app| {
            app.port = Some(8000);
            app.listen_timeout = Duration::from_secs(5);
            app.stop.kill_timeout = Duration::from_millis(2500);
            (app.stop.tree, app.stop.by_message) = (false, true);
            app.restart.delay = Duration::from_millis(70);
            app.restart.backoff = Some(Duration::from_millis(90));
            app.restart.max_memory = Some(Bytes(300 << 20));
            app.restart.stop_exit_codes = vec![0, 3];
            app.restart.cron = Some("0 3 * * *".to_owned());
            app.user = Some(supervision::User { uid: 12, gid: 34 });
            app.additions.health = Some("/health".to_owned());
            app.additions.liveness = Some(supervision::Liveness {
                path: "/alive".to_owned(),
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(1),
                failures: 3,
            });
            (app.additions.reload_parallel, app.additions.max_processes) = (2, Some(50));
            app.additions.rotate.every = Some(Every::Hour);
        });
        assert_eq!(spec.port, Some(Port { variable: "PORT".to_owned(), first: 8000 }));
        assert_eq!(spec.ready.http, Some(HttpCheck { path: "/health".to_owned() }));
        assert_eq!(spec.ready.timeout_ms, 5000);
        assert_eq!(spec.stop, Stop { kill_timeout_ms: 2500, tree: false, by_message: true });
        let restart = &spec.restart;
        assert_eq!((restart.delay_ms, restart.backoff_ms), (70, Some(90)));
        assert_eq!((restart.max_memory_bytes, &restart.stop_exit_codes[..]), (Some(300 << 20), &[0, 3][..]));
        assert_eq!(restart.cron.as_deref(), Some("0 3 * * *"));
        assert_eq!(spec.user, Some(User { uid: 12, gid: 34 }));
        let http = HttpCheck { path: "/alive".to_owned() };
        assert_eq!(
            spec.liveness,
            Some(Liveness { http, interval_ms: 10_000, timeout_ms: 1000, failures: 3 })
        );
        assert_eq!((spec.reload.parallel, spec.max_processes), (2, Some(50)));
        assert_eq!(spec.logs.rotate_every, Some(Interval::Hourly));
        assert_eq!(spec.validate(), Ok(()));
    }

    #[test]
    fn log_files_are_named_or_off_or_ours() {
        let spec = spec(|app| {
            app.name = "a b/c".to_owned();
            app.logs.out = Output::File("/elsewhere/out.txt".into());
            app.logs.err = Output::Off;
            app.logs.combined = Output::Default;
        });
        assert_eq!(spec.logs.out, Some("/elsewhere/out.txt".into()));
        assert_eq!(spec.logs.err, None);
        assert_eq!(spec.logs.combined, Some("/logs/a-b-c.log".into()), "and within that folder");
    }

    #[test]
    fn a_time_beyond_all_bounds_is_the_longest_there_is() {
        assert_eq!(spec(|app| app.listen_timeout = Duration::MAX).ready.timeout_ms, u64::MAX);
    }
}
