//! The key `qbench`.

use std::{path::Path, time::Duration};

use super::app_tests::Folder;
use crate::model::{
    supervision::{Additions, Liveness, Rotate},
    units::Bytes,
};

#[test]
fn additions_are_read() {
    let folder = Folder::new();
    let of = |keys: &str, qbench: &str| {
        folder.app(&format!("{{script: 'server.js', {keys} qbench: {qbench}}}")).additions
    };
    let all = of(
        "exec_mode: 'fork', instances: 4,",
        "{listen: ['8080', 80, '127.0.0.1:81', '[::1]:82', 'unix:/run/x.sock'], health: '/health',
          liveness: {path: '/live', interval: 5000, timeout: 200, failures: 2}, reload_parallel: 3, max_processes: 20,
          rotate: {max_size: '50M', keep: 7, gzip: true}}",
    );
    let expected = Additions {
        listen: ["8080", "80", "127.0.0.1:81", "[::1]:82", "unix:/run/x.sock"].map(str::to_owned).to_vec(),
        transparent: false,
        health: Some("/health".to_owned()),
        liveness: Some(Liveness {
            path: "/live".to_owned(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(200),
            failures: 2,
        }),
        reload_parallel: 3,
        hot_spare: false,
        max_processes: Some(20),
        rotate: Rotate { max_size: Bytes(50 << 20), keep: 7, gzip: true, every: None },
    };
    assert_eq!(all, expected);
    let liveness = of("", "{health: '/h', liveness: {}, transparent: true}").liveness.unwrap();
    assert_eq!(
        (liveness.path.as_str(), liveness.interval, liveness.failures),
        ("/h", Duration::from_secs(10), 3)
    );
    assert!(of("instances: 1,", "{hot_spare: true}").hot_spare);
    assert_eq!(of("instances: 2,", "{}").reload_parallel, 1);
    assert_eq!(of("instances: 3,", "null").reload_parallel, 2);
}

#[test]
fn additions_are_strict_and_show_no_value() {
    let folder = Folder::new();
    for (qbench, message) in [
        ("7", "`qbench` of app `x` must be an object"),
        ("{liten: 'hunter2'}", "`qbench` of app `x` has no key `liten`; did you mean `listen`?"),
        (
            "{rotate: {size: 1}}",
            "`qbench.rotate` of app `x` has no key `size`; its keys are `max_size`, `keep`, `gzip` and `every`",
        ),
        ("{listen: 'hunter2'}", "`qbench.listen` of app `x` must be a list of addresses, for example"),
        ("{listen: ['hunter2']}", "`qbench.listen` of app `x` must be a list of addresses, for example"),
        ("{listen: ['0']}", "`qbench.listen` of app `x` must be a list of addresses"),
        ("{listen: [65536]}", "`qbench.listen` of app `x` must be a list of addresses"),
        ("{listen: ['unix:x']}", "`qbench.listen` of app `x` must be a list of addresses"),
        (
            "{listen: ['80', 80]}",
            "`qbench.listen` of app `x` must be a list in which no address stands twice",
        ),
        ("{transparent: 'hunter2'}", "`qbench.transparent` of app `x` must be true or false"),
        ("{health: 'hunter2'}", "`qbench.health` of app `x` must be a path that begins with a slash"),
        ("{health: '/hunter2 x'}", "`qbench.health` of app `x` must be a path that begins with a slash"),
        ("{liveness: {}}", "`qbench.liveness.path` of app `x` must be given: there is no `qbench.health`"),
        (
            "{liveness: {path: '/', interval: 0}}",
            "`qbench.liveness.interval` of app `x` must be a whole number from 1",
        ),
        ("{reload_parallel: 0}", "`qbench.reload_parallel` of app `x` must be a whole number from 1 to 256"),
        ("{max_processes: '9'}", "`qbench.max_processes` of app `x` must be a whole number from 1 to"),
        ("{rotate: {max_size: 'hunter2'}}", "`qbench.rotate.max_size` of app `x` must be a number of bytes"),
        ("{rotate: {keep: 1.5}}", "`qbench.rotate.keep` of app `x` must be a whole number from 0"),
        (
            "{listen: [80], transparent: true}",
            "`qbench` of app `x` has both `listen` and `transparent`; keep",
        ),
        ("{hot_spare: true}", "app `x` is in fork mode, in which `qbench.hot_spare` has no meaning; set"),
        (
            "{listen: [80]}, instances: 2",
            "app `x` is in cluster mode, in which `qbench.listen` has no meaning; set",
        ),
        (
            "{transparent: true}, instances: 1",
            "app `x` is in cluster mode, in which `qbench.transparent` has no",
        ),
    ] {
        let error = folder
            .resolve(None, &format!("{{name: 'x', script: 'server.js', qbench: {qbench}}}"))
            .unwrap_err();
        let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
        assert!(format!("{}{hint}", error.message()).starts_with(message), "{qbench}: {error}");
        assert_eq!(error.file(), Some(Path::new("ecosystem.json")));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
