use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Verb};

fn options(arguments: &[&str]) -> RunArgs {
    let line = ["plywood", "run"].iter().chain(arguments).copied();
    match Cli::try_parse_from(line).unwrap().verb {
        Verb::Run(options) => *options,
        other => panic!("parsed as {other:?}"),
    }
}

fn image(config: Value) -> ImageConfig {
    serde_json::from_value(json!({ "os": "linux", "config": config })).unwrap()
}

fn args(config: Value, arguments: &[&str]) -> Vec<String> {
    Execute::new(&image(config), &options(arguments)).unwrap().args
}

#[test]
fn commands() {
    let both = || json!({ "Entrypoint": ["/e", "1"], "Cmd": ["c"] });
    assert_eq!(args(both(), &["x"]), ["/e", "1", "c"]);
    assert_eq!(args(both(), &["x", "--", "d", "-v"]), ["/e", "1", "d", "-v"]);
    assert_eq!(args(both(), &["--entrypoint", "/f", "x"]), ["/f"]);
    assert_eq!(args(both(), &["--entrypoint", "/f", "x", "--", "d"]), ["/f", "d"]);
    assert_eq!(args(both(), &["--entrypoint", "", "x", "--", "d"]), ["d"]);
    assert_eq!(args(json!({ "Cmd": ["c"] }), &["x"]), ["c"]);
    assert_eq!(args(json!({ "Cmd": null, "Entrypoint": ["e"] }), &["x"]), ["e"]);
    for (config, arguments) in [
        (json!({}), &["x"][..]),
        (json!({ "Cmd": [""] }), &["x"]),
        (both(), &["--entrypoint", "", "x"]),
    ] {
        let error = Execute::new(&image(config), &options(arguments)).unwrap_err();
        assert_eq!(crate::exit::code(&error), Exit::Usage);
    }
    let nothing: ImageConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(Execute::new(&nothing, &options(&["x", "--", "a"])).unwrap().args, ["a"]);
}

#[test]
fn environments() {
    let config = json!({ "Env": ["A=1", "B=2=3", "A=4", "=bad", "C"], "Cmd": ["c"] });
    let execute =
        Execute::new(&image(config), &options(&["-e", "B=9", "--env", "E=", "x"])).unwrap();
    let pairs: Vec<(&str, &str)> =
        execute.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("A", "4"), ("B", "9"), ("PATH", DEFAULT_PATH), ("E", "")]);
    let error =
        Execute::new(&image(json!({ "Cmd": ["c"] })), &options(&["-e", "=x", "x"])).unwrap_err();
    assert_eq!(crate::exit::code(&error), Exit::Usage);
}

#[test]
fn users_workdirs_and_signals() {
    let config = || {
        image(json!({ "Cmd": ["c"], "User": "app", "WorkingDir": "/w", "StopSignal": "SIGINT" }))
    };
    let execute = Execute::new(&config(), &options(&["x"])).unwrap();
    assert_eq!((&*execute.user, &*execute.workdir, &*execute.stop_signal), ("app", "/w", "SIGINT"));
    let execute = Execute::new(&config(), &options(&["-u", "5:6", "-w", "/v", "x"])).unwrap();
    assert_eq!((&*execute.user, &*execute.workdir), ("5:6", "/v"));
    assert!(Execute::new(&config(), &options(&["-w", "v", "x"])).is_err());
    let plain = Execute::new(&image(json!({ "Cmd": ["c"], "WorkingDir": "" })), &options(&["x"]));
    assert_eq!(plain.unwrap().workdir, "/");
}

fn configured(arguments: &[&str], uid: u32) -> Value {
    let options = options(arguments);
    let execute = Execute::new(&image(json!({ "Cmd": ["c"] })), &options).unwrap();
    let user = User { uid, gid: 7, additional_gids: vec![8, 9], home: "/home/app".to_owned() };
    let place = Place {
        name: "box",
        cgroup: "plywood-0-box",
        rootfs: Path::new("/run/plywood/c/box/rootfs"),
        most_open_files: 20_000,
        unified_cgroups: false,
    };
    runtime_config(&execute, &user, &options, place).unwrap()
}

#[test]
fn a_whole_configuration() {
    insta::assert_json_snapshot!(configured(
        &[
            "-e",
            "A=b",
            "--mount",
            "type=bind,source=/,target=/host,ro",
            "--mount",
            "type=tmpfs,target=/t,size=1M",
            "x"
        ],
        0
    ));
}

#[test]
fn options_reach_the_configuration() {
    let config =
        configured(&["--read-only", "--tty", "--hostname", "h", "--network", "host", "x"], 1000);
    assert_eq!(config["root"]["readonly"], true);
    assert_eq!(config["process"]["terminal"], true);
    assert_eq!(config["hostname"], "h");
    assert_eq!(config["process"]["user"]["uid"], 1000);
    assert_eq!(config["process"]["capabilities"]["effective"], json!([]));
    assert_eq!(config["process"]["capabilities"]["bounding"], json!(CAPABILITIES));
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(!namespaces.iter().any(|namespace| namespace["type"] == "network"));
}

#[test]
fn a_mount_needs_its_source() {
    let options = options(&["--mount", "source=/nowhere/at/all,target=/x", "x", "--", "c"]);
    let error = check_sources(&options.mounts).unwrap_err();
    assert_eq!(crate::exit::code(&error), Exit::NotFound);
}
