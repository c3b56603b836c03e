//! What a new user gets wrong: each a clear error, the documented exit code, nothing left behind.

use std::{fs, net::TcpListener, path::Path};

use crate::support::{Qbench, assert_nothing_is_left, demo_in, folder};

/// A workload of one app, with a port only where it answers HTTP.
fn workload_in(folder: &Path, script: &str, args: &str) {
    let ecosystem = serde_json::json!({ "apps": [{ "name": "web", "script": script, "args": args, "interpreter": "none" }] });
    fs::write(folder.join("ecosystem.json"), ecosystem.to_string()).unwrap();
    fs::write(
        folder.join("qbench.toml"),
        "[workload]\nname = \"one\"\necosystem = \"ecosystem.json\"\n\n[[service]]\nname = \"web\"\nhealth = \"/health\"\n\n\
         [[service.request]]\npath = \"/work\"\n\n[load]\nready_timeout = \"2s\"\n",
    )
    .unwrap();
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let folder = folder();
    Qbench::new(folder.path(), &["collect", "bare", "--epoch", "3"])
        .run()
        .exits_with(2)
        .stderr_has("--epochs");
}

#[test]
fn without_a_configuration_it_says_how_to_make_one() {
    let folder = folder();
    Qbench::new(folder.path(), &["collect", "bare"])
        .run()
        .exits_with(2)
        .stderr_has("qbench.toml")
        .stderr_has("qbench init");
}

#[test]
fn a_broken_configuration_is_shown_with_its_place() {
    let folder = folder();
    demo_in(folder.path());
    let path = folder.path().join("qbench.toml");
    let text = fs::read_to_string(&path).unwrap() + "\n[tresholds]\n";
    let line = text.lines().count();
    fs::write(&path, text).unwrap();
    Qbench::new(folder.path(), &["collect", "bare"])
        .run()
        .exits_with(2)
        .stderr_has(&format!("qbench.toml:{line}:"))
        .stderr_has("thresholds");
}

#[test]
fn a_broken_ecosystem_file_is_shown_with_its_place() {
    let folder = folder();
    workload_in(folder.path(), "qbench", "demo front");
    fs::write(folder.path().join("ecosystem.json"), "{\n  \"apps\": [\n    { \"name\": }\n  ]\n}\n").unwrap();
    Qbench::new(folder.path(), &["collect", "bare"]).run().exits_with(2).stderr_has("ecosystem.json:3:");
}

#[test]
fn an_unknown_target_names_the_known_ones() {
    let folder = folder();
    demo_in(folder.path());
    Qbench::new(folder.path(), &["collect", "kubernetes"])
        .run()
        .exits_with(2)
        .stderr_has("kubernetes")
        .stderr_has("docker");
}

#[test]
fn no_docker_is_an_environment_error_with_a_hint() {
    let folder = folder();
    demo_in(folder.path());
    Qbench::new(folder.path(), &["collect", "docker"])
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .run()
        .exits_with(3)
        .stderr_has("docker")
        .stderr_has("hint:");
    assert_nothing_is_left(folder.path());
}

#[test]
fn without_pm2_the_built_in_supervisor_stands_in_and_says_so() {
    let folder = folder();
    demo_in(folder.path());
    let outcome = Qbench::new(folder.path(), &["collect", "pm2", "--epochs", "1", "--window", "1s"])
        .env("PATH", folder.path())
        .run()
        .exits_with(0)
        .stdout_has("STANDING IN FOR pm2");
    assert!(
        outcome.stdout.lines().next().unwrap().contains("STANDING IN"),
        "in the first line:\n{}",
        outcome.stdout
    );
    assert_nothing_is_left(folder.path());
}

#[test]
fn a_taken_port_is_named() {
    let folder = folder();
    demo_in(folder.path());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let path = folder.path().join("qbench.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("[workload]\n", &format!("[workload]\nfirst_port = {port}\n"), 1))
        .unwrap();
    Qbench::new(folder.path(), &["collect", "bare", "--epochs", "1", "--window", "1s"])
        .run()
        .exits_with(3)
        .stderr_has(&format!("port {port}"))
        .stderr_has("hint:");
    assert_nothing_is_left(folder.path());
}

#[test]
fn an_app_that_never_gets_ready_is_given_up_with_its_last_lines() {
    for target in ["bare", "builtin"] {
        let folder = folder();
        workload_in(folder.path(), "sh", "-c 'echo warming up for ever; exec sleep 600'");
        Qbench::new(folder.path(), &["collect", target, "--epochs", "1"])
            .run()
            .exits_with(3)
            .stderr_has("not ready")
            .stderr_has("warming up for ever");
        assert_nothing_is_left(folder.path());
    }
}

#[test]
fn an_app_that_crashes_at_once_is_shown_with_its_last_lines() {
    for target in ["bare", "builtin"] {
        let folder = folder();
        workload_in(folder.path(), "sh", "-c 'echo no such table >&2; exit 1'");
        Qbench::new(folder.path(), &["collect", target, "--epochs", "1"])
            .run()
            .exits_with(3)
            .stderr_has("service web")
            .stderr_has("no such table");
        assert_nothing_is_left(folder.path());
    }
}

#[test]
fn a_window_too_short_for_its_slots_is_refused() {
    let folder = folder();
    demo_in(folder.path());
    Qbench::new(folder.path(), &["collect", "bare", "--window", "100ms"])
        .run()
        .exits_with(2)
        .stderr_has("window");
    Qbench::new(folder.path(), &["collect", "bare", "--window", "20"]).run().exits_with(2).stderr_has("unit");
    Qbench::new(folder.path(), &["collect", "bare", "--rate", "-5"]).run().exits_with(2);
}

#[test]
fn init_writes_a_file_that_works() {
    let folder = folder();
    demo_in(folder.path());
    fs::remove_file(folder.path().join("qbench.toml")).unwrap();
    Qbench::new(folder.path(), &["init"]).run().exits_with(0).stderr_has("ecosystem.json");
    Qbench::new(folder.path(), &["init"]).run().exits_with(2).stderr_has("--force");
    Qbench::new(folder.path(), &["validate", "bare", "builtin", "--dry-run"])
        .run()
        .exits_with(0)
        .stdout_has("epoch 1");
    Qbench::new(folder.path(), &["collect", "bare", "--epochs", "1", "--window", "1s"]).run().exits_with(0);
    assert_nothing_is_left(folder.path());
}
