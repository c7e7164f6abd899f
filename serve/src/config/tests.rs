use super::*;

/// What makes `/x` absolute.
#[cfg(unix)]
const DISK: &str = "";
#[cfg(windows)]
const DISK: &str = "C:";

fn rooted(path: &str) -> PathBuf {
    format!("{DISK}{path}").into()
}

/// The configuration of this file, environment and flags.
fn merged(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, text.replace("\"/", &format!("\"{DISK}/"))).unwrap();
    let value = |value: &str| match value.starts_with('/') {
        true => format!("{DISK}{value}"),
        false => value.to_owned(),
    };
    let variable = |name: &str| {
        let found = environment.iter().find(|(variable, _)| *variable == name);
        Ok(found.map(|(_, text)| value(text)))
    };
    let flags = flags.iter().map(|(key, text)| Flag {
        key,
        name: format!("--{}", key.replace('.', "-")),
        value: value(text),
    });
    Config::merged(Some(&path), flags.collect(), variable).map_err(|error| {
        assert_eq!(error.kind(), crate::ErrorKind::Configuration);
        error.to_string().replace(path.to_str().unwrap(), "c.toml")
    })
}

fn refusal(text: &str) -> String {
    merged(text, &[], &[]).unwrap_err()
}

/// It is that of the Debian package.
#[test]
#[cfg(target_os = "linux")]
fn the_example_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let wanted = Config::example();
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    let present = std::fs::read_to_string(path).unwrap();
    assert_eq!(present, wanted, "run this test with UPDATE_EXAMPLE=1");
}

#[test]
fn the_example_says_what_the_defaults_are() {
    let text = Config::example().replace("\n#", "\n").replace("\n ", "\n# ");
    let example = merged(&text, &[], &[]).unwrap();
    let defaults = merged("", &[], &[]).unwrap();
    for (example, default) in example.sources().zip(defaults.sources()) {
        assert!(matches!(example.source, Source::File(..)), "{}", example.key);
        // Where the default cannot be written down.
        if !["metrics.address", "differ.concurrency"].contains(&example.key) {
            assert_eq!(example.value, default.value, "{}", example.key);
        }
    }
}

#[test]
fn later_sources_win_and_are_remembered() {
    let text = "root = \"/file\"\nrun = \"/file\"\n\n[log]\nlevel = \"debug\"\nformat = \"json\"\n";
    let environment = [("PLYWOOD_ROOT", "/environment"), ("PLYWOOD_LOG_LEVEL", "warn")];
    let config = merged(text, &environment, &[("log.level", "error")]).unwrap();
    assert_eq!(config.root, rooted("/environment"));
    assert_eq!(config.run, rooted("/file"));
    assert_eq!((config.log_level, config.log_format), (LogLevel::Error, LogFormat::Json));
    let source = |key: &str| config.sources().find(|found| found.key == key).unwrap().source;
    assert_eq!(source("root").to_string(), "environment PLYWOOD_ROOT");
    assert_eq!(source("log.level").to_string(), "flag --log-level");
    assert!(matches!(source("log.format"), Source::File(_, 6)));
    assert_eq!(source("snapshotter.mounts"), Source::Default);
}

#[test]
#[cfg(target_os = "linux")]
fn the_socket_follows_the_run_directory() {
    let config = merged("run = \"/file\"\n", &[], &[]).unwrap();
    assert_eq!(config.address, Path::new("/file/plywood.sock"));
}

#[test]
fn every_value_is_taken() {
    let text = "address = \"/a\"\n[snapshotter]\nmounts = \"erofs\"\nuserxattr = true\n\
                scratch_size = \"10 GiB\"\n[metrics]\naddress = \"[::1]:99\"\n[differ]\n\
                concurrency = 3\n[containerd]\naddress = \"/c\"\n";
    let config = merged(text, &[], &[]).unwrap();
    assert_eq!(config.address, rooted("/a"));
    assert_eq!(config.mounts, MountForm::Erofs);
    assert!(config.userxattr);
    assert_eq!(config.scratch_size, Some(10 << 30));
    assert_eq!(config.metrics_address.as_deref(), Some("[::1]:99"));
    assert_eq!(config.differ_concurrency, 3);
    assert_eq!(config.containerd_address, rooted("/c"));
    let none = [("PLYWOOD_METRICS_ADDRESS", ""), ("PLYWOOD_SNAPSHOTTER_SCRATCH_SIZE", "0")];
    let config = merged(text, &none, &[]).unwrap();
    assert_eq!((config.metrics_address, config.scratch_size), (None, None));
}

#[test]
fn errors_name_file_line_and_key() {
    assert_eq!(refusal("root = \"/x\"\nrooot = 1\n"), "c.toml:2: key rooot is unknown");
    assert_eq!(refusal("\n[log]\nlevl = 1\n"), "c.toml:3: key log.levl is unknown");
    assert_eq!(refusal("log = \"x\"\n"), "c.toml:1: key log is a table");
    assert_eq!(refusal("[strange]\nx = 1\n"), "c.toml:1: key strange is unknown");
    assert_eq!(refusal("[[log]]\nlevel = \"info\"\n"), "c.toml:1: key log is a table");
    assert_eq!(
        refusal("[log]\nlevel = \"loud\"\n"),
        "c.toml:2: log.level: expected error, warn, info, debug or trace, not \"loud\""
    );
    assert_eq!(refusal("root = [\"/x\"]\n"), "c.toml:1: key root cannot be of type array");
    assert_eq!(
        refusal("[snapshotter]\nuserxattr = 1.5\n"),
        "c.toml:2: key snapshotter.userxattr cannot be of type float"
    );
    assert_eq!(
        refusal("root = \"relative\""),
        "c.toml:1: root: expected an absolute path, not \"relative\""
    );
    let broken = refusal("root = \"/x\"\n[log\n");
    assert!(broken.starts_with("c.toml:2: ") && broken.ends_with("in \"[log\""), "{broken}");
    let twice = refusal("root = \"/x\"\nroot = \"/y\"\n");
    assert!(twice.starts_with("c.toml:2: ") && twice.contains("root"), "{twice}");
    for (key, value) in [
        ("scratch_size", "\"10GB\""),
        ("scratch_size", "5"),
        ("scratch_size", "-1"),
        ("scratch_size", "\"99999999999TiB\""),
        ("mounts", "\"Plain\""),
    ] {
        let refused = refusal(&format!("[snapshotter]\n{key} = {value}\n"));
        assert!(
            refused.starts_with(&format!("c.toml:2: snapshotter.{key}: expected")),
            "{refused}"
        );
    }
    for value in ["nonsense", ":x", "host:99999", "x/y"] {
        let refused = refusal(&format!("[metrics]\naddress = \"{value}\"\n"));
        assert!(refused.contains("expected host:port"), "{refused}");
    }
    for value in ["0", "\"many\"", "2000"] {
        assert!(refusal(&format!("[differ]\nconcurrency = {value}\n")).contains("from 1 to 1024"));
    }
    let refused = merged("", &[("PLYWOOD_LOG_FORMAT", "xml")], &[]).unwrap_err();
    assert_eq!(
        refused,
        "environment PLYWOOD_LOG_FORMAT: log.format: expected text or json, not \"xml\""
    );
    let refused = merged("", &[], &[("run", "x")]).unwrap_err();
    assert_eq!(refused, "flag --run: run: expected an absolute path, not \"x\"");
    let missing = Config::load(Some(Path::new("/no/such/file")), Vec::new()).unwrap_err();
    assert!(missing.to_string().contains("/no/such/file"));
}

#[test]
fn a_reload_keeps_what_takes_a_restart() {
    let old = merged("root = \"/old\"\n[log]\nlevel = \"warn\"", &[], &[]).unwrap();
    let new =
        merged("root = \"/new\"\n[log]\nlevel = \"debug\"\nformat = \"json\"", &[], &[]).unwrap();
    assert_eq!(old.needs_restart(&new), ["root", "log.format"]);
    let taken = old.taking_in(new);
    assert_eq!((taken.root.clone(), taken.log_level), (rooted("/old"), LogLevel::Debug));
    assert_eq!(taken.log_format, LogFormat::Text);
}

#[test]
fn all_that_is_said_to_be_reloadable_is() {
    let text = Config::example().replace("\n#", "\n").replace("\n ", "\n# ");
    let changed = text
        .replace("\"info\"", "\"trace\"")
        .replace("mounts = \"plain\"", "mounts = \"erofs\"")
        .replace("userxattr = false", "userxattr = true")
        .replace("scratch_size = 0", "scratch_size = \"1GiB\"")
        .replace(places::CONTAINERD, rooted("/elsewhere").to_str().unwrap());
    let (old, new) = (merged(&text, &[], &[]).unwrap(), merged(&changed, &[], &[]).unwrap());
    let taken = old.taking_in(new.clone());
    let values = taken.sources().zip(old.sources()).zip(new.sources());
    for ((taken, old), new) in values.filter(|(_, new)| new.reloadable) {
        assert_ne!(old.value, new.value, "{}: this test changes all of them", new.key);
        assert_eq!(taken.value, new.value, "{}", new.key);
    }
}
