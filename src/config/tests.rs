//! `qbench.toml` as a new user would get it wrong.

use std::{fs, path::Path, time::Duration};

use super::{Config, ConfigError, load, requests_file};
use crate::model::{
    load::Precision,
    settings::ConnectionUse,
    target::{ReloadStrategy, RuntimeKind},
};

const GOOD: &str = r#"[workload]
name = "shop"
ecosystem = "ecosystem.json"
environment = "production"
compose = "compose.yaml"
release_variable = "RELEASE_FILE"
[[service]]
name = "web"
health = "/health"
release = "/version"
[[service.request]]
path = "/work?cpu_us=300"
weight = 3
headers = { accept = "application/json", authorization = "Bearer hunter2" }
[[service.request]]
method = "post"
path = "/orders"
body_file = "order.json"
[[service]]
name = "worker"
compose_service = "jobs"
[service.env]
WEB_URL = "http://{address:web}/"
API_TOKEN = "hunter2"
[load]
rate = 50
window = "2s"
connection = "per-request"
precision = "exact"
[thresholds]
response_time = "5%"
max_latency = "5s"
[target.docker]
reload = "recreate"
[target.pm2-next]
runtime = "pm2"
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "ecosystem.json",
                "{apps: [{name: 'web', script: 'sleep', instances: 2, env: {A: 'hunter2'}, env_production: {B: 1}},
                  {name: 'worker', script: 'sleep', args: '5', watch: true}, {name: 'other', script: 'sleep'}]}",
            ),
            ("compose.yaml", "services:\n  web: {image: x}\n  jobs: {image: x}\n"),
            ("Dockerfile", "FROM scratch\n"),
            ("order.json", "{\"n\": 1}"),
            ("users.csv", "token,name\nhunter2,a\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn load(&self, text: &str) -> Result<Config, ConfigError> {
        let path = self.0.path().join("qbench.toml");
        fs::write(&path, text).unwrap();
        load(&path, Path::new("/opt/qbench"))
    }

    /// The error of a file in which one text was replaced by another.
    fn error(&self, from: &str, to: &str) -> ConfigError {
        assert!(GOOD.contains(from), "{from}");
        let error = self.load(&GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        error
    }

    fn shown(&self, from: &str, to: &str) -> String {
        self.error(from, to).to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn a_good_file_is_resolved_whole() {
    let folder = Folder::new();
    let config = folder.load(GOOD).unwrap();
    let workload = &config.workload;
    assert_eq!(workload.name, "shop");
    assert_eq!(workload.port_variable, "PORT");
    assert_eq!(workload.root, folder.0.path());
    let web = workload.service("web").unwrap();
    assert_eq!(web.instances(), 2);
    assert_eq!(web.app.as_ref().unwrap().env["B"], "1");
    assert_eq!(web.compose.as_ref().unwrap().name, "web");
    let requests = &web.http.as_ref().unwrap().requests;
    assert_eq!((requests[0].method.as_str(), requests[0].weight), ("GET", 3));
    assert_eq!(requests[0].headers[1], ("authorization".to_owned(), "Bearer hunter2".to_owned()));
    assert_eq!((requests[1].method.as_str(), requests[1].body.as_slice()), ("POST", &b"{\"n\": 1}"[..]));
    let worker = workload.service("worker").unwrap();
    assert_eq!((worker.http.as_ref(), worker.compose.as_ref().unwrap().name.as_str()), (None, "jobs"));
    assert_eq!(config.load.rate_per_second.total_cmp(&50.0), std::cmp::Ordering::Equal);
    assert_eq!(config.load.window, Duration::from_secs(2));
    assert_eq!(config.load.epochs, None, "each command has a number of its own");
    assert_eq!(config.load.connection_use, ConnectionUse::PerRequest);
    assert_eq!(config.load.precision, Precision::Exact);
    assert!((config.thresholds.of(crate::model::verdict::Metric::P50).unwrap().limit - 0.05).abs() < 1e-12);
    let names: Vec<_> = workload.digests.keys().map(String::as_str).collect();
    assert_eq!(names, ["Dockerfile", "compose.yaml", "ecosystem.json", "order.json", "qbench.toml#workload"]);
    assert_eq!(
        config.notes,
        [
            "app `worker` has `watch`, which is not supported by the built-in supervisor, nor by bare, because a \
             restart at every change of a file would catch deployments half-way; reload the app once its files \
             are in place; while developing, set `node_args` to \"--watch\"",
            "app `other` of ecosystem.json is in no [[service]] and is not run"
        ]
    );
}

#[test]
fn targets_are_declared_or_runtimes() {
    let config = Folder::new().load(GOOD).unwrap();
    assert_eq!(config.target("docker").unwrap().docker.reload, ReloadStrategy::Recreate);
    assert_eq!(config.target("pm2-next").unwrap().runtime, RuntimeKind::Pm2);
    assert_eq!(config.target("bare").unwrap().runtime, RuntimeKind::Bare);
    assert_eq!(config.target("podman"), None);
}

#[test]
fn digests_tell_what_changed() {
    let folder = Folder::new();
    let before = folder.load(GOOD).unwrap();
    let workload = |config: &Config| config.workload.digests["qbench.toml#workload"].clone();
    let other_load = folder.load(&GOOD.replace("rate = 50", "rate = 51")).unwrap();
    assert_eq!(workload(&before), workload(&other_load));
    assert_eq!(before.requests_digest, other_load.requests_digest);
    let other_env = folder.load(&GOOD.replace("API_TOKEN = \"hunter2\"", "API_TOKEN = \"hunter3\"")).unwrap();
    assert_ne!(workload(&before), workload(&other_env));
    assert_eq!(before.requests_digest, other_env.requests_digest);
    fs::write(folder.0.path().join("order.json"), "{}").unwrap();
    let other_body = folder.load(GOOD).unwrap();
    assert_ne!(before.requests_digest, other_body.requests_digest);
    assert_ne!(before.workload.digests["order.json"], other_body.workload.digests["order.json"]);
}

/// `GOOD` with variables and checks.
fn with_variables() -> String {
    GOOD.replacen("/work?cpu_us=300", "/users/{{id}}?q={{ name }}", 1)
        .replacen("weight = 3", "expect = { status = [200, 404], matches = \"o\" }", 1)
        .replacen("Bearer hunter2", "Bearer {{token}}", 1)
        .replacen(
            "[[service]]\nname = \"worker\"",
            "[[service.variable]]\ncsv = \"users.csv\"\n\
             [[service.variable]]\nname = \"id\"\nsequence = { from = 1, to = 9 }\n\
             [[service]]\nname = \"worker\"",
            1,
        )
}

#[test]
fn variables_and_checks_are_part_of_a_service() {
    let folder = Folder::new();
    let text = with_variables();
    let before = folder.load(&text).unwrap();
    let web = before.workload.service("web").unwrap().http.as_ref().unwrap();
    assert_eq!(web.variables.sources.len(), 2);
    assert_eq!(web.requests[0].path, "/users/{{id}}?q={{ name }}");
    assert_eq!(web.requests[0].checks.status, [200..=200, 404..=404]);
    assert!(before.workload.digests.contains_key("users.csv"));
    let workload = |config: &Config| config.workload.digests["qbench.toml#workload"].clone();
    for (from, to) in [("to = 9", "to = 10"), ("[200, 404]", "[200]"), ("\"o\"", "\"p\"")] {
        let other = folder.load(&text.replacen(from, to, 1)).unwrap();
        assert_ne!(before.requests_digest, other.requests_digest, "{to}");
        assert_ne!(workload(&before), workload(&other), "{to}");
    }
    fs::write(folder.0.path().join("users.csv"), "token,name\nhunter2,b\n").unwrap();
    let other = folder.load(&text).unwrap();
    assert_ne!(before.requests_digest, other.requests_digest);
    assert_ne!(before.workload.digests["users.csv"], other.workload.digests["users.csv"]);
}

#[test]
fn the_digest_of_requests_without_variables_and_checks_is_the_one_of_stored_baselines() {
    assert_eq!(
        Folder::new().load(GOOD).unwrap().requests_digest,
        "a5deff3fb7a561a865b65b5b579065322b4682769ab28d863cbe77a31b9ab6ce"
    );
}

#[test]
fn references_to_variables_are_checked() {
    let folder = Folder::new();
    let shown = |from: &str, to: &str| {
        let text = with_variables();
        assert!(text.contains(from), "{from}");
        let shown = folder.load(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        shown.replace(&format!("{}/", folder.0.path().display()), "")
    };
    insta::assert_snapshot!(shown("{{id}}", "{{idd}}"), @r#"
    `path` refers to a variable `idd`, which is not declared
      --> qbench.toml:12:8
       |
    12 | path = "/users/{{idd}}?q={{ name }}"
       |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = help: did you mean {{id}}?
    "#);
    insta::assert_snapshot!(shown("{{token}}", "hunter2 {{user}}"), @"
    header `authorization` refers to a variable `user`, which is not declared
      --> qbench.toml:14:42
       |
    14 | headers = { accept = ••••••••••••••••••, authorization = ••••••• ••••••• ••••••••• }
       |                                          ^^^^^^^^^^^^^
       = help: declared here: `id`, `name` and `token`
    ");
    insta::assert_snapshot!(shown("body_file = \"order.json\"", "body = \"hunter2 {{nam}}\""), @"
    `body` refers to a variable `nam`, which is not declared
      --> qbench.toml:18:1
       |
    18 | body = •••••••• ••••••••
       | ^^^^
       = help: did you mean {{name}}?
    ");
    insta::assert_snapshot!(shown("{{id}}", "{id}"), @r#"
    `path` must not contain a brace that belongs to no variable
      --> qbench.toml:12:8
       |
    12 | path = "/users/{id}?q={{ name }}"
       |        ^^^^^^^^^^^^^^^^^^^^^^^^^^
       = help: a variable is written {{name}}; a brace itself is written %7B or %7D
    "#);
    insta::assert_snapshot!(shown("csv = \"users.csv\"", "csv = \"order.json\""), @r#"
    column 1 of order.json has no name that a variable can have, in line 1
      --> qbench.toml:20:7
       |
    20 | csv = "order.json"
       |       ^^^^^^^^^^^^
       = help: the first line names the columns, separated by commas: letters, digits, `_` and `-`, no digit first
    "#);
    insta::assert_snapshot!(folder.shown("path = \"/orders\"", "path = \"/orders/{{id}}\""), @r#"
    `path` must not contain a brace that belongs to no variable
      --> qbench.toml:17:8
       |
    17 | path = "/orders/{{id}}"
       |        ^^^^^^^^^^^^^^^^
       = help: a variable, as in {{id}}, needs a `[[service.variable]]`; a brace itself is written %7B or %7D
    "#);
}

#[test]
fn a_text_of_several_lines_is_hidden_where_it_is_broken() {
    let folder = Folder::new();
    for body in
        ["\"\"\"\n{\"name\": \"hunter2\"}\n", "'''\nname = \"hunter2\"", "\"\"\"\nname: \\hunter2\n\"\"\""]
    {
        let to = format!("body = {body}");
        let error = folder.error("body_file = \"order.json\"", &to);
        assert!(error.position().is_some(), "{error}");
    }
    let last = GOOD.replacen("body_file = \"order.json\"", "body = \"\"\"\n", 1) + "name = \"hunter2\"";
    assert!(!folder.load(&last).unwrap_err().to_string().contains("hunter2"));
}

#[test]
fn a_file_of_requests_is_read_alone() {
    let folder = Folder::new();
    let path = folder.0.path().join("requests.toml");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        requests_file(&path)
    };
    let (requests, variables) = read(
        "[[request]]\nmethod = \"PUT\"\npath = \"/{{id}}\"\nbody_file = \"order.json\"\n\
         [[request]]\npath = \"/\"\n[[variable]]\nname = \"id\"\nrandom = { from = 1, to = 6 }\n",
    )
    .unwrap();
    assert_eq!((requests.len(), variables.sources.len()), (2, 1));
    assert_eq!(requests[0].body, b"{\"n\": 1}");
    let message = |text: &str| read(text).unwrap_err().message().to_owned();
    assert_eq!(message(""), "the file has no request");
    assert_eq!(message("[[service]]"), "unknown key `service`");
    assert!(requests_file(Path::new("/no/such.toml")).is_err());
}

#[test]
fn errors_print_as_those_of_a_compiler() {
    let folder = Folder::new();
    insta::assert_snapshot!(folder.shown("[thresholds]", "[tresholds]"), @r#"
    unknown key `tresholds`
      --> qbench.toml:30:2
       |
    30 | [tresholds]
       |  ^^^^^^^^^
       = help: did you mean `thresholds`?
    "#);
    insta::assert_snapshot!(folder.shown("window = \"2s\"", "window = \"20\""), @r#"
    `window` needs a unit
      --> qbench.toml:27:10
       |
    27 | window = "20"
       |          ^^^^
       = help: write "20s" for seconds, or "20ms" for milliseconds
    "#);
    insta::assert_snapshot!(folder.shown("response_time = \"5%\"", "response_time = 5"), @r#"
    `response_time` must be a percentage
      --> qbench.toml:31:17
       |
    31 | response_time = 5
       |                 ^
       = help: write "5%"
    "#);
    insta::assert_snapshot!(folder.shown("{address:web}", "{address:wbe}"), @r#"
    an `{address:…}` in this value names no service
      --> qbench.toml:23:1
       |
    23 | WEB_URL = •••••••••••••••••••••••
       | ^^^^^^^
       = help: did you mean {address:web}?
    "#);
    insta::assert_snapshot!(folder.shown("name = \"web\"", "name = \"wb\""), @r#"
    no app is named `wb` in ecosystem.json
     --> qbench.toml:8:8
      |
    8 | name = "wb"
      |        ^^^^
      = help: did you mean `web`? its apps are `web`, `worker` and `other`
    "#);
}

#[test]
fn errors_about_other_files_are_shown_where_these_are_named() {
    let folder = Folder::new();
    insta::assert_snapshot!(folder.shown("\"order.json\"", "\"none.json\""), @r#"
    none.json does not exist
      --> qbench.toml:18:13
       |
    18 | body_file = "none.json"
       |             ^^^^^^^^^^^
       = help: it is looked for relative to the folder of this file
    "#);
    insta::assert_snapshot!(folder.shown("\"compose.yaml\"", "\"none.yaml\""), @r#"
    none.yaml does not exist
     --> qbench.toml:5:11
      |
    5 | compose = "none.yaml"
      |           ^^^^^^^^^^^
      = help: it is looked for relative to the folder of this file
    "#);
    insta::assert_snapshot!(folder.shown("authorization = \"Bearer hunter2\"", "\"a b\" = \"hunter2\""), @r#"
    this is not a header name
      --> qbench.toml:14:42
       |
    14 | headers = { accept = ••••••••••••••••••, "a b" = ••••••••• }
       |                                          ^^^^^
       = help: it may have letters, digits and `-`, for example "accept"
    "#);
    insta::assert_snapshot!(folder.shown("API_TOKEN = \"hunter2\"", "API_TOKEN = \"hunter2"), @r#"
    invalid basic string, expected `"`
      --> qbench.toml:24:21
       |
    24 | API_TOKEN = "•••••••
       |                     ^
    "#);
    insta::assert_snapshot!(folder.shown("compose_service = \"jobs\"", ""), @r#"
    compose.yaml has no service `worker`
      --> qbench.toml:20:8
       |
    20 | name = "worker"
       |        ^^^^^^^^
       = help: its services are `web` and `jobs`; say which with `compose_service = "…"`
    "#);
}

#[test]
fn a_missing_file_leads_to_init() {
    let error = load(Path::new("/no/such/qbench.toml"), Path::new("/x")).unwrap_err();
    insta::assert_snapshot!(error, @r#"
    /no/such/qbench.toml does not exist
      = help: `qbench init` writes one that fits the files it finds
    "#);
}

/// What is replaced, by what, and the message that it leads to.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "name = \"shop\"",
        "name = \"../shop\"",
        "the workload's name may have only letters, digits, `.`, `_` and `-`",
    ),
    ("name = \"shop\"", "", "`name` is missing"),
    (
        "environment = \"production\"",
        "environment = \"prodution\"",
        "no app of ecosystem.json has an `env_prodution`",
    ),
    (
        "ecosystem = \"ecosystem.json\"\n",
        "",
        "`environment` chooses a block of an ecosystem file, and there is none",
    ),
    (
        "ecosystem = \"ecosystem.json\"\nenvironment = \"production\"\ncompose = \"compose.yaml\"",
        "",
        "the workload names neither an ecosystem file nor a compose file, so that nothing can be started",
    ),
    (
        "compose = \"compose.yaml\"",
        "",
        "`compose_service` names a service of a compose file, and there is none",
    ),
    ("compose_service = \"jobs\"", "compose_service = \"job\"", "compose.yaml has no service `job`"),
    ("release_variable = \"RELEASE_FILE\"", "first_port = 65535", "2 ports from 65535 on go beyond 65535"),
    ("release_variable = \"RELEASE_FILE\"", "first_port = 0", "`first_port` must be from 1 to 65535"),
    (
        "release_variable = \"RELEASE_FILE\"",
        "port_variable = \"A=B\"",
        "`port_variable` must be the name of an environment variable",
    ),
    ("name = \"worker\"\ncompose_service = \"jobs\"", "name = \"web\"", "two services are named `web`"),
    ("health = \"/health\"\n", "", "a service without `health` is a worker and can have no `request`"),
    ("health = \"/health\"", "health = \"health\"", "`health` must begin with `/`"),
    ("path = \"/orders\"", "path = \"/or ders\"", "`path` must not contain ` `"),
    ("path = \"/orders\"", "path = \"http://x/orders\"", "`path` must be a path, not an address"),
    ("path = \"/orders\"\n", "", "`path` is missing"),
    ("method = \"post\"", "method = \"PO ST\"", "`method` is not an HTTP method"),
    ("weight = 3", "weight = 0", "`weight` must be from 1 to 1000000"),
    ("weight = 3", "weight = 1.5", "`weight` must be a whole number, not a float"),
    ("accept =", "host =", "the load sets `host` itself"),
    (
        "\"Bearer hunter2\"",
        "\"Bearer hunter2\\r\\nx: y\"",
        "the value of header `authorization` has characters that headers cannot have",
    ),
    (
        "path = \"/orders\"",
        "path = \"/orders/{{id}}\"",
        "`path` must not contain a brace that belongs to no variable",
    ),
    ("body_file =", "body = \"hunter2\"\nbody_file =", "a request has `body` or `body_file`, not both"),
    ("body_file = \"order.json\"", "body = 5", "`body` must be a string, not an integer"),
    (
        "weight = 3",
        "headers.expect = \"100-continue\"\n[[service.request]]\npath = \"/\"",
        "header `expect` needs a body that waits for the server to continue",
    ),
    ("weight = 3", "expect = { status = 99 }", "`status` must be from 100 to 599"),
    ("{address:web}", "{address:worker}", "service `worker` is a worker and has no address"),
    ("{address:web}", "{address:web", "`{address:` is not closed in this value"),
    (
        "API_TOKEN = \"hunter2\"",
        "\"API TOKEN\" = \"hunter2\"",
        "this is not the name of an environment variable",
    ),
    ("API_TOKEN = \"hunter2\"", "API_TOKEN = 5", "`API_TOKEN` must be a string, not an integer"),
    ("rate = 50", "rate = 0", "`rate` must be more than zero"),
    ("rate = 50", "rate = -1", "`rate` must be more than zero"),
    ("rate = 50", "rate = 1e7", "`rate` must be at most 1000000"),
    ("rate = 50", "rate = inf", "`rate` must be a finite number"),
    ("rate = 50", "rate = \"50\"", "`rate` must be a number, not a string"),
    ("rate = 50", "epochs = 0", "`epochs` must be from 1 to 200"),
    ("rate = 50", "connections = -1", "`connections` must be from 1 to 10000"),
    ("rate = 50", "slot = \"3s\"", "a slot of 3s does not fit into a window of 2s"),
    ("rate = 50", "slot = \"1us\"", "`slot` must be at least 10ms"),
    ("window = \"2s\"", "window = \"100ms\"", "a slot of 250ms does not fit into a window of 100ms"),
    ("window = \"2s\"", "window = \"0s\"", "`window` must be more than zero"),
    ("window = \"2s\"", "window = \"-2s\"", "`window` must not be negative"),
    ("window = \"2s\"", "window = \"soon\"", "`window` is not a duration"),
    ("window = \"2s\"", "window = \"900h\"", "`window` must be at most 24h"),
    ("rate = 50", "times = 1", "`times` must be true or false, not an integer"),
    ("rate = 50", "throughput_p99 = \"0ms\"", "`throughput_p99` must be more than zero"),
    ("\"per-request\"", "\"keepalive\"", "`connection` cannot be `keepalive`"),
    ("\"5%\"", "\"-5%\"", "`response_time` must be from 0% to 1000%"),
    ("\"5%\"", "\"5\"", "`response_time` must be a percentage"),
    ("max_latency = \"5s\"", "errors = -1", "`errors` must be from 0 to 1000000000"),
    ("reload = \"recreate\"", "reload = \"recraete\"", "`reload` cannot be `recraete`"),
    ("reload = \"recreate\"", "before_build = []", "`before_build` must not be empty"),
    ("runtime = \"pm2\"", "", "target `pm2-next` does not say its runtime"),
    ("runtime = \"pm2\"", "runtime = \"pm2\"\nnetwork = \"host\"", "`network` has no meaning on pm2"),
    (
        "[target.docker]",
        "[target.\"a b\"]\nruntime = \"docker\"",
        "the target's name may have only letters, digits, `.`, `_` and `-`",
    ),
    ("[load]", "[[load]]", "`load` must be a table, not an array"),
];

#[test]
fn what_is_measured_beside_the_window_is_asked_for() {
    let folder = Folder::new();
    let plain = folder.load(GOOD).unwrap().load;
    assert_eq!((plain.times, plain.throughput_p99, plain.soak), (false, None, None));
    let asked = GOOD.replacen("rate = 50", "times = true\nthroughput_p99 = \"50ms\"", 1);
    let asked = folder.load(&asked).unwrap().load;
    assert_eq!((asked.times, asked.throughput_p99), (true, Some(Duration::from_millis(50))));
}

#[test]
fn each_mistake_has_its_message() {
    let folder = Folder::new();
    for (from, to, expected) in MISTAKES {
        let error = folder.error(from, to);
        let folder_name = format!("{}/", folder.0.path().display());
        assert_eq!(error.message().replace(&folder_name, ""), *expected, "{to}");
        assert!(error.position().is_some(), "{to}");
    }
}

#[test]
fn hints_show_what_to_write() {
    let folder = Folder::new();
    for (from, to, expected) in [
        ("window = \"2s\"", "window = 20", "write \"20s\" for seconds, or \"20ms\" for milliseconds"),
        ("\"5%\"", "5", "write \"5%\""),
        ("\"5%\"", "0.07", "write \"7%\""),
        ("\"5%\"", "\"5\"", "write \"5%\""),
        ("path = \"/orders\"", "path = \"orders\"", "write \"/orders\""),
        ("name = \"web\"", "name = \"zzz\"", "its apps are `web`, `worker` and `other`"),
    ] {
        assert_eq!(folder.error(from, to).hint(), Some(expected), "{to}");
    }
}

#[test]
fn a_workload_without_services_or_requests_is_refused() {
    let folder = Folder::new();
    let message = |text: &str| folder.load(text).unwrap_err().message().to_owned();
    let head = "[workload]\nname = \"x\"\necosystem = \"ecosystem.json\"\n";
    assert_eq!(message(""), "`workload` is missing");
    assert_eq!(message(head), "the workload has no service");
    let table = format!("{head}[service]\nname = \"web\"\n");
    assert_eq!(message(&table), "`service` must be an array of tables, not a table");
    let twice = folder.load(&format!("{table}[service]\nname = \"worker\"\n")).unwrap_err();
    assert_eq!((twice.message(), twice.position()), ("duplicate key", Some((6, 2))));
    assert!(twice.hint().unwrap().contains("[[service]]"));
    assert_eq!(message(&format!("service = []\n{head}")), "the workload has no service");
    let worker = format!("{head}[[service]]\nname = \"worker\"\n");
    assert_eq!(message(&worker), "no service has a request, so that the load has nowhere to go");
}

#[test]
fn a_secret_on_the_line_of_another_mistake_is_hidden() {
    let folder = Folder::new();
    let text = "service = [{ name = \"web\", env = { A = \"hunter2\" }, bogus = 1 }]\n\
                [workload]\nname = \"x\"\necosystem = \"ecosystem.json\"\n";
    let shown = folder.load(text).unwrap_err().to_string();
    assert!(
        shown.contains("`bogus`") && shown.contains("name = \"web\"") && !shown.contains("hunter2"),
        "{shown}"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]
    #[test]
    fn no_text_makes_it_panic(at in 0_usize..1200, cut in 0_usize..40, put in "(.|\n){0,12}") {
        let folder = Folder::new();
        let good = if at % 2 == 0 { GOOD.to_owned() } else { with_variables() };
        let mut chars: Vec<char> = good.chars().collect();
        let at = at.min(chars.len());
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, put.chars());
        let text: String = chars.into_iter().collect();
        if let Err(error) = folder.load(&text) {
            let shown = error.to_string();
            proptest::prop_assert!(!error.message().is_empty() && shown.contains("-->"), "{}", shown);
        }
    }
}
