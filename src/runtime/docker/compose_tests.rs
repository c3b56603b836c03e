use std::{path::PathBuf, sync::Arc};

use super::*;
use crate::{
    model::{
        request::Variables,
        target::{DockerOptions, RuntimeKind, Target},
        workload::{ComposeService, HttpService, Workload},
    },
    runtime::Sandbox,
};

/// As compose v1 prints it: YAML 1.1, in which neither `1e3` nor `12e4567` is a number.
const V1: &str = r"
networks:
  back: {}
services:
  api:
    build:
      context: /src/api
    container_name: api-one
    depends_on:
      db:
        condition: service_healthy
    environment:
      COMMIT: 12e4567
      KEPT: a$$b
      PORT: 3000
      UNSET: null
    expose:
    - '3000'
    networks:
      back: null
      default:
        aliases:
        - other
    restart: always
    scale: 2
  db:
    container_name: my-db
    image: postgres:16
    ports:
    - 5432:5432/tcp
    volumes:
    - data:/var/lib/postgresql/data:rw
  web:
    deploy:
      replicas: 3
      resources:
        limits:
          memory: 100M
    depends_on:
      api:
        condition: service_started
    image: web:1
    ports:
    - 127.0.0.1:8080:80/tcp
    - 9000:9000/tcp
    volumes:
    - /src/web:/app:ro
version: '3.9'
volumes:
  data: {}
";

fn service(name: &str, compose: &str, env: &[(&str, &str)]) -> Service {
    Service {
        name: name.to_owned(),
        http: Some(HttpService {
            health: "/health".to_owned(),
            release: None,
            requests: Vec::new(),
            variables: Variables::default(),
        }),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        app: None,
        compose: Some(ComposeService { name: compose.to_owned(), replicas: 1 }),
    }
}

fn arm(network: NetworkPath) -> Arm {
    let mut target = Target::of(RuntimeKind::Docker);
    target.docker = DockerOptions { network, ..DockerOptions::default() };
    let workload = Workload {
        name: "shop".to_owned(),
        root: PathBuf::from("/src"),
        port_variable: "PORT".to_owned(),
        first_port: None,
        release_variable: Some("RELEASE_FILE".to_owned()),
        services: vec![
            service("front", "web", &[("API_URL", "http://{address:api}/v1"), ("PRICE", "5$")]),
            service("api", "api", &[]),
        ],
        ecosystem: None,
        compose: Some(PathBuf::from("docker-compose.yml")),
        digests: BTreeMap::new(),
    };
    Arm {
        name: "docker".to_owned(),
        target,
        workload: Arc::new(workload),
        ports: BTreeMap::from([("front".to_owned(), 20_000), ("api".to_owned(), 20_010)]),
        sandbox: Sandbox::existing(PathBuf::from("/tmp/qbench-1/s/docker")),
    }
}

fn run(config: &str, arm: &Arm) -> (Value, ComposeFile) {
    let file = transform(config, arm, "qbench-abc").unwrap();
    (serde_json::from_str(&file.text).unwrap(), file)
}

#[test]
fn each_replica_has_a_service_and_a_published_port_of_its_own() {
    let (file, done) = run(V1, &arm(NetworkPath::Published));
    let services: Vec<&String> = file["services"].as_object().unwrap().keys().collect();
    assert_eq!(services, ["api", "api-2", "db", "web", "web-2", "web-3"]);
    assert_eq!(file["services"]["web-3"]["ports"], json!(["127.0.0.1:20002:80"]));
    assert_eq!(file["services"]["api-2"]["ports"], json!(["127.0.0.1:20011:3000"]));
    assert_eq!(file["services"]["api"].get("scale"), None);
    assert_eq!(file["services"]["api"].get("container_name"), None);
    assert_eq!(file["services"]["web"]["deploy"], json!({ "resources": { "limits": { "memory": "100M" } } }));
    let labels = &file["services"]["web-2"]["labels"];
    assert_eq!(labels[LABEL_SERVICE], "front");
    assert_eq!(labels[LABEL_INSTANCE], "1");
    assert_eq!(labels[LABEL_SANDBOX], "/tmp/qbench-1/s/docker");
    assert_eq!(done.instances.len(), 5);
    assert_eq!(done.names_of("front"), ["web", "web-2", "web-3"]);
}

#[test]
fn further_replicas_answer_to_the_name_and_are_waited_for() {
    let (file, _) = run(V1, &arm(NetworkPath::Published));
    assert_eq!(file["services"]["web-2"]["networks"], json!({ "default": { "aliases": ["web"] } }));
    let networks = &file["services"]["api-2"]["networks"];
    assert_eq!(networks["back"], json!({ "aliases": ["api"] }));
    assert_eq!(networks["default"], json!({ "aliases": ["other", "api"] }));
    assert_eq!(file["services"]["web"]["depends_on"]["api-2"], json!({ "condition": "service_started" }));
    assert_eq!(file["services"]["api-2"]["depends_on"]["db"], json!({ "condition": "service_healthy" }));
}

#[test]
fn values_stay_text_and_ours_are_escaped() {
    let (file, _) = run(V1, &arm(NetworkPath::Published));
    let env = &file["services"]["api"]["environment"];
    assert_eq!(
        *env,
        json!({
            "COMMIT": "12e4567", "KEPT": "a$$b", "PORT": "3000", "UNSET": null,
            "RELEASE_FILE": "/run/qbench/RELEASE",
        })
    );
    let env = &file["services"]["web"]["environment"];
    assert_eq!(env["API_URL"], "http://api:3000/v1");
    assert_eq!(env["PRICE"], "5$$");
}

#[test]
fn the_host_path_has_ports_by_variable_and_no_networks() {
    let (file, _) = run(V1, &arm(NetworkPath::Host));
    let web = &file["services"]["web-2"];
    assert_eq!(web["network_mode"], "host");
    assert_eq!(web["environment"]["PORT"], "20001");
    assert_eq!(web["environment"]["API_URL"], "http://127.0.0.1:20010/v1");
    for key in ["ports", "networks", "expose"] {
        assert_eq!(file["services"]["api"].get(key), None, "{key}");
    }
    // The workload reaches its database from outside the network.
    assert_eq!(file["services"]["db"]["ports"], json!(["5432:5432/tcp"]));
}

#[test]
fn neighbours_keep_their_settings_but_cannot_collide() {
    let (file, done) = run(V1, &arm(NetworkPath::Published));
    let db = &file["services"]["db"];
    assert_eq!(db["image"], "postgres:16");
    assert_eq!(db["volumes"], json!(["data:/var/lib/postgresql/data:rw"]));
    assert_eq!((db.get("ports"), db.get("container_name")), (None, None));
    assert_eq!(db["labels"], json!({ LABEL_SANDBOX: "/tmp/qbench-1/s/docker" }));
    assert_eq!(done.pulls["db"], "postgres:16");
    assert_eq!(file["networks"]["default"]["labels"][LABEL_SANDBOX], "/tmp/qbench-1/s/docker");
    assert_eq!(file["volumes"], json!({ "data": {} }));
}

#[test]
fn what_is_built_is_named_after_the_project_and_built_once() {
    let (file, done) = run(V1, &arm(NetworkPath::Published));
    assert_eq!(file["services"]["api"]["image"], "qbench-abc/api");
    assert_eq!(file["services"]["api-2"]["image"], "qbench-abc/api");
    assert!(file["services"]["api"].get("build").is_some());
    assert_eq!(file["services"]["api-2"].get("build"), None);
    assert_eq!(file["services"]["web"]["image"], "web:1");
    assert!(done.builds);
    assert!(!done.pulls.contains_key("api") && !done.pulls.contains_key("api-2"));
}

#[test]
fn the_release_is_mounted_read_only_beside_what_is_mounted() {
    let (file, _) = run(V1, &arm(NetworkPath::Published));
    assert_eq!(
        file["services"]["web"]["volumes"],
        json!(["/src/web:/app:ro", {
            "type": "bind", "source": "/tmp/qbench-1/s/docker/release", "target": "/run/qbench", "read_only": true,
        }])
    );
    let mut without = arm(NetworkPath::Published);
    Arc::make_mut(&mut without.workload).release_variable = None;
    let (file, _) = run(V1, &without);
    assert_eq!(file["services"]["web"]["volumes"], json!(["/src/web:/app:ro"]));
}

#[test]
fn v2_spellings_are_understood() {
    let v2 = r#"
name: qbench-abc
services:
  web:
    image: web:1
    labels: ["mine=1"]
    environment: ["A=1e3", "B"]
    networks: { default: null }
    ports:
    - { mode: ingress, host_ip: 127.0.0.1, target: 80, published: "8080", protocol: tcp }
  api:
    image: api:1
    ports: [3000]
networks:
  default: { name: qbench-abc_default }
  theirs: { name: theirs, external: true }
"#;
    let (file, _) = run(v2, &arm(NetworkPath::Published));
    assert_eq!(file["services"]["web"]["ports"], json!(["127.0.0.1:20000:80"]));
    assert_eq!(file["services"]["web"]["labels"]["mine"], "1");
    assert_eq!(file["services"]["web"]["environment"]["A"], "1e3");
    assert_eq!(file["services"]["web"]["environment"]["B"], Value::Null);
    assert_eq!(file.get("name"), None);
    assert_eq!(file["networks"]["default"].get("name"), None);
    assert_eq!(file["networks"]["theirs"], json!({ "name": "theirs", "external": true }));
}

#[test]
fn what_is_missing_is_named() {
    let fails = |config: &str, arm: &Arm| {
        let error = transform(config, arm, "qbench-abc").unwrap_err();
        format!("{error}; {}", error.hint().unwrap_or_default())
    };
    let published = arm(NetworkPath::Published);
    assert!(fails("services: {web: {image: x}}", &published).contains("compose service api"));
    let no_port = "services: {web: {image: x}, api: {image: x, expose: [1]}}";
    assert!(fails(no_port, &published).contains("port for compose service web"));
    let host = "services: {web: {image: x, network_mode: host}, api: {image: x, expose: [1]}}";
    assert!(fails(host, &published).contains("network = \"host\""));
    assert!(fails("services: []", &published).contains("services"));
    assert!(fails("]", &published).contains("cannot be read"));
    assert!(fails("3", &published).contains("not a mapping"));
    let taken =
        "services: {web: {scale: 2, image: x, expose: [1]}, web-2: {image: x}, api: {image: x, expose: [1]}}";
    assert!(fails(taken, &published).contains("web-2"));
    let crowded = "services: {web: {scale: 11, image: x, expose: [1]}, api: {image: x, expose: [1]}}";
    assert!(fails(crowded, &published).contains("20010"));
}
