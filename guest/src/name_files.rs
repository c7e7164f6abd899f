//! The files of a container that say who it is and whom it knows: `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`.
//!
//! A container that is its own sandbox gets files of its own in its bundle; one in a sandbox gets the sandbox's. What the
//! specification mounts itself stays. There are no networks yet, so nobody is asked for names.

use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use crate::{Error, Result};

/// Names in the bundle, and where the container has them.
pub(crate) const FILES: [(&str, &str); 3] =
    [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];

/// Adds the mounts of the files to a specification, and writes those that are the container's own.
pub(crate) fn add(spec: &mut Value, bundle: &Path, sandbox: &Path) -> Result<()> {
    let read_only = spec.pointer("/root/readonly") == Some(&Value::Bool(true));
    let root = spec.pointer("/root/path").and_then(Value::as_str).unwrap_or("rootfs");
    let root = bundle.join(root);
    let name = match spec.get("hostname").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => machine_name(),
    };
    let mut mounts = Vec::new();
    for (file, destination) in FILES {
        if is_mounted(spec, destination) || !can_be_mounted_on(&root, destination) {
            continue;
        }
        let shared = sandbox.join(file);
        let source = match sandbox != bundle && shared.is_file() {
            true => shared,
            false => {
                let own = bundle.join(file);
                fs::write(&own, content(file, &name))
                    .map_err(|error| Error::failed(format!("write({})", own.display()), error))?;
                own
            }
        };
        let mut options = vec!["bind"];
        options.extend(read_only.then_some("ro"));
        mounts.push(json!({
            "source": source, "destination": destination, "type": "bind", "options": options,
        }));
    }
    if mounts.is_empty() {
        return Ok(());
    }
    match spec.as_object_mut().map(|spec| spec.entry("mounts").or_insert_with(|| json!([]))) {
        Some(Value::Array(all)) => all.append(&mut mounts),
        Some(null @ Value::Null) => *null = Value::Array(mounts),
        _ => return Err(Error::invalid("the specification's mounts are no list")),
    }
    Ok(())
}

fn machine_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn content(file: &str, name: &str) -> String {
    // A line end in a name would be a line of whoever made it.
    let name: String = name.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
    match file {
        "hostname" => format!("{name}\n"),
        "hosts" => hosts(&name),
        // Without a server, a resolver asks 127.0.0.1 and is refused at once.
        _ => String::new(),
    }
}

/// As the genuine agent writes it.
fn hosts(name: &str) -> String {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    let short = name.split('.').next().filter(|short| *short != name && !short.is_empty());
    match short {
        _ if name.is_empty() => {}
        Some(short) => {
            let _ = writeln!(text, "127.0.0.1 {name} {short}");
        }
        None => {
            let _ = writeln!(text, "127.0.0.1 {name}");
        }
    }
    text.push_str(
        "\n# The following lines are desirable for IPv6 capable hosts\n\
         ::1     ip6-localhost ip6-loopback\n\
         fe00::0 ip6-localnet\n\
         ff00::0 ip6-mcastprefix\n\
         ff02::1 ip6-allnodes\n\
         ff02::2 ip6-allrouters\n",
    );
    text
}

fn is_mounted(spec: &Value, destination: &str) -> bool {
    let components = |path: &str| -> Vec<String> {
        Path::new(path)
            .components()
            .filter(|component| matches!(component, Component::Normal(_)))
            .map(|component| component.as_os_str().to_string_lossy().into_owned())
            .collect()
    };
    let wanted = components(destination);
    let mounts = spec.get("mounts").and_then(Value::as_array);
    mounts.into_iter().flatten().any(|mount| {
        let place = mount.get("destination").and_then(Value::as_str).map(components);
        // Whoever mounts something on /etc has files of their own there.
        place.is_some_and(|place| !place.is_empty() && wanted.starts_with(&place))
    })
}

/// Whether the runtime finds or can make the file to mount on: it cannot in a root that nothing can be written to.
fn can_be_mounted_on(root: &Path, destination: &str) -> bool {
    let file: PathBuf = root.join(destination.trim_start_matches('/'));
    if fs::symlink_metadata(&file).is_ok() {
        return true;
    }
    sys::file::is_writable(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> tempfile::TempDir {
        let bundle = tempfile::tempdir().unwrap();
        fs::create_dir(bundle.path().join("rootfs")).unwrap();
        bundle
    }

    #[test]
    fn a_container_of_its_own_gets_all_three() {
        let bundle = bundle();
        let mut spec = json!({
            "hostname": "box.example", "root": {"path": "rootfs", "readonly": true}, "mounts": null,
        });
        add(&mut spec, bundle.path(), bundle.path()).unwrap();
        let mounts = spec["mounts"].as_array().unwrap();
        assert_eq!(mounts.len(), 3);
        assert_eq!(
            mounts[1],
            json!({
                "source": bundle.path().join("hosts"), "destination": "/etc/hosts", "type": "bind",
                "options": ["bind", "ro"],
            })
        );
        let read = |name: &str| fs::read_to_string(bundle.path().join(name)).unwrap();
        assert_eq!(read("hostname"), "box.example\n");
        assert!(read("hosts").starts_with("127.0.0.1 localhost\n127.0.0.1 box.example box\n"));
        assert_eq!(read("resolv.conf"), "");
    }

    #[test]
    fn what_the_specification_mounts_stays() {
        let bundle = bundle();
        let own = json!([{"destination": "/etc//hosts", "source": "/x"}]);
        let mut spec = json!({"hostname": "a\n10.0.0.1 evil", "mounts": own});
        add(&mut spec, bundle.path(), bundle.path()).unwrap();
        let places: Vec<&str> = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect();
        assert_eq!(places, ["/etc//hosts", "/etc/hostname", "/etc/resolv.conf"]);
        let name = fs::read_to_string(bundle.path().join("hostname")).unwrap();
        assert_eq!(name.lines().count(), 1);
        let mut spec = json!({"mounts": [{"destination": "/etc", "source": "/x"}]});
        add(&mut spec, bundle.path(), bundle.path()).unwrap();
        assert_eq!(spec["mounts"].as_array().unwrap().len(), 1);
        let mut spec = json!({"mounts": 1});
        assert!(add(&mut spec, bundle.path(), bundle.path()).is_err());
    }

    #[test]
    fn a_container_in_a_sandbox_has_the_sandboxs_files() {
        let (bundle, sandbox) = (bundle(), bundle());
        fs::write(sandbox.path().join("hosts"), "127.0.0.1 pod\n").unwrap();
        let mut spec = json!({"hostname": "pod"});
        add(&mut spec, bundle.path(), sandbox.path()).unwrap();
        let sources: Vec<&str> = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["source"].as_str().unwrap())
            .collect();
        let at = |directory: &tempfile::TempDir, name: &str| {
            directory.path().join(name).to_str().unwrap().to_owned()
        };
        assert_eq!(
            sources,
            [at(&bundle, "hostname"), at(&sandbox, "hosts"), at(&bundle, "resolv.conf")]
        );
    }

    #[test]
    fn a_root_that_is_not_there_gets_nothing() {
        let bundle = tempfile::tempdir().unwrap();
        let mut spec = json!({"root": {"path": "nowhere"}});
        add(&mut spec, bundle.path(), bundle.path()).unwrap();
        assert_eq!(spec, json!({"root": {"path": "nowhere"}}));
    }
}
