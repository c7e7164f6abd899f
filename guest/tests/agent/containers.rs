//! Containers, with the real runtime.

use std::fs;

use bridge::{
    CombinedLayers, ContainerConfig, CreateContainer, DeleteContainerState, ExecuteProcess,
    ExecuteProcessSettings, GetProperties, GuestRequest, InText, Layer, ProcessParameters,
    PropertyQuery, RequestBase, Resource, ResultCode, SchemaVersion, ShutdownForced, SignalOptions,
    SignalProcess, StdioPorts, WaitForProcess,
};
use serde_json::{Value, json};

use crate::host::{Host, LIMIT, read_all, say};

/// A host with a root file system of a static shell.
fn host() -> Host {
    let host = Host::negotiated();
    let bin = host.path("layer/bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["proc", "dev", "sys", "tmp"] {
        fs::create_dir(host.path("layer").join(name)).unwrap();
    }
    fs::copy("/usr/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for name in ["sh", "cat", "echo", "sleep", "stty", "id"] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
    }
    host
}

fn spec(host: &Host, id: &str, script: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": host.text(&format!("{id}/rootfs"))},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/shared", "type": "bind", "source": "sandbox:///shared", "options": ["rw"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
        "windows": {"network": {}},
    })
}

/// Combines the root and makes the container; nothing runs.
fn create(host: &Host, id: &str, spec: Value) -> ResultCode {
    let layers = CombinedLayers {
        container_id: id.to_owned(),
        container_root_path: host.text(&format!("{id}/rootfs")),
        layers: vec![Layer::at(host.text("layer"))],
        scratch_path: host.text(&format!("{id}-scratch")),
    };
    let added = host.modify(GuestRequest::add(Resource::CombinedLayers(layers)));
    assert!(added.is_ok() || host.path(id).exists(), "{added:?}");
    let config = ContainerConfig {
        schema_version: SchemaVersion::V2_1,
        oci_bundle_path: host.text(id),
        oci_specification: Some(spec),
        ..Default::default()
    };
    let request = CreateContainer { base: RequestBase::new(id), container_config: InText(config) };
    host.code(&request)
}

fn execute(
    host: &Host,
    id: &str,
    parameters: ProcessParameters,
    ports: StdioPorts,
) -> bridge::Result<u32> {
    let settings = ExecuteProcessSettings {
        process_parameters: InText(parameters),
        vsock_stdio_relay_settings: ports,
    };
    let request = ExecuteProcess { base: RequestBase::new(id), settings };
    host.call(&request).map(|answer| answer.process_id)
}

fn wait(host: &Host, id: &str, process_id: u32) -> u32 {
    let base = RequestBase::new(id);
    let timeout_in_ms = WaitForProcess::FOREVER;
    host.call(&WaitForProcess { base, process_id, timeout_in_ms }).unwrap().exit_code
}

fn delete(host: &Host, id: &str) -> ResultCode {
    host.code(&DeleteContainerState::new(id))
}

fn remove_root(host: &Host, id: &str) {
    let root = CombinedLayers {
        container_root_path: host.text(&format!("{id}/rootfs")),
        ..Default::default()
    };
    host.modify(GuestRequest::remove(Resource::CombinedLayers(root))).unwrap();
}

#[test]
fn privileged_a_container_lives_from_create_to_delete() {
    let mut host = host();
    let script =
        "read word; echo \"$word in $$\"; echo x >/shared/file; echo bad >/dev/stderr; exit 7";
    assert_eq!(create(&host, "c1", spec(&host, "c1", script)), ResultCode::OK);
    assert_eq!(create(&host, "c1", spec(&host, "c1", script)), ResultCode::SYSTEM_ALREADY_EXISTS);
    // Nobody else gets its bundle.
    let config = ContainerConfig {
        schema_version: SchemaVersion::V2_1,
        oci_bundle_path: host.text("c1"),
        oci_specification: Some(spec(&host, "c1", script)),
        ..Default::default()
    };
    let base = RequestBase::new("other");
    let request = CreateContainer { base, container_config: InText(config) };
    assert_eq!(host.code(&request), ResultCode::FAIL);
    let ((std_in, to), (std_out, from), (std_err, complaints)) =
        (host.port(), host.port(), host.port());
    let parameters = ProcessParameters {
        create_std_in_pipe: true,
        create_std_out_pipe: true,
        create_std_err_pipe: true,
        ..Default::default()
    };
    let pid = execute(&host, "c1", parameters, StdioPorts { std_in, std_out, std_err }).unwrap();
    // While it runs it cannot be forgotten.
    assert_eq!(delete(&host, "c1"), ResultCode::FAIL);
    say(&to, "word\n");
    assert_eq!(read_all(&from), "word in 1\n");
    assert_eq!(read_all(&complaints), "bad\n");
    assert_eq!(wait(&host, "c1", pid), 7);
    let told = host.notifications.recv_timeout(LIMIT).unwrap();
    assert_eq!(told.base.container_id, "c1");
    assert_eq!(
        (told.notification_type.as_str(), told.operation.as_str()),
        ("UnexpectedExit", "None")
    );
    assert_eq!(fs::read_to_string(host.path("c1/sandboxMounts/shared/file")).unwrap(), "x\n");
    // Its root is still there: an error, and nothing is deleted.
    assert_eq!(delete(&host, "c1"), ResultCode::FAIL);
    assert!(
        host.path("c1/config.json").exists() && host.path("c1/sandboxMounts/shared/file").exists()
    );
    remove_root(&host, "c1");
    assert_eq!(delete(&host, "c1"), ResultCode::OK);
    assert!(!host.path("c1").exists());
    assert_eq!(delete(&host, "c1"), ResultCode::SYSTEM_NOT_FOUND);
    assert_eq!(host.mounts_below(host.directory.path()), 0);
}

#[test]
fn privileged_more_processes_join_a_container_and_are_signalled() {
    let mut host = host();
    assert_eq!(create(&host, "c2", spec(&host, "c2", "exec sleep 1000")), ResultCode::OK);
    let first = execute(&host, "c2", ProcessParameters::default(), StdioPorts::default()).unwrap();
    let (std_out, from) = host.port();
    let parameters = ProcessParameters {
        command_args: ["sh", "-c", "echo $GREETING; exit 9"].map(str::to_owned).into(),
        environment: [("PATH", "/bin"), ("GREETING", "hello")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        create_std_out_pipe: true,
        ..Default::default()
    };
    let ports = StdioPorts { std_out, ..Default::default() };
    let second = execute(&host, "c2", parameters, ports).unwrap();
    assert_eq!(read_all(&from), "hello\n");
    assert_eq!(wait(&host, "c2", second), 9);

    // A terminal, as OCI's object.
    let (std_out, from) = host.port();
    let process = json!({"terminal": true, "args": ["/bin/sh", "-c", "stty size; exit 5"], "cwd": "/", "user": {}, "consoleSize": {"height": 11, "width": 22}});
    let parameters = ProcessParameters {
        oci_process: Some(process),
        create_std_out_pipe: true,
        emulate_console: true,
        ..Default::default()
    };
    let ports = StdioPorts { std_out, ..Default::default() };
    let third = execute(&host, "c2", parameters, ports).unwrap();
    assert_eq!(wait(&host, "c2", third), 5);
    assert!(read_all(&from).ends_with("\r\n"));

    let query = InText(PropertyQuery {
        property_types: vec!["ProcessList".to_owned(), "Statistics".to_owned()],
    });
    let properties =
        host.call(&GetProperties { base: RequestBase::new("c2"), query }).unwrap().properties.0;
    assert_eq!(properties.process_list.iter().map(|p| p.process_id).collect::<Vec<_>>(), [first]);
    assert!(properties.metrics.unwrap()["memory"]["usage"]["usage"].is_u64());

    let signal = |signal| SignalProcess {
        base: RequestBase::new("c2"),
        process_id: first,
        options: Some(SignalOptions { signal }),
    };
    assert_eq!(host.code(&signal(99)), ResultCode::FAIL);
    host.call(&ShutdownForced::new("c2")).unwrap();
    assert_eq!(wait(&host, "c2", first), 137);
    let told = host.notifications.recv_timeout(LIMIT).unwrap();
    assert_eq!(told.notification_type, "ForcedExit");
    assert_eq!(host.code(&ShutdownForced::new("c2")), ResultCode::NOT_FOUND);
    let again = execute(&host, "c2", ProcessParameters::default(), StdioPorts::default());
    assert_eq!(again.unwrap_err().result(), Some(ResultCode::FAIL), "it has ended");
    remove_root(&host, "c2");
    assert_eq!(delete(&host, "c2"), ResultCode::OK);
}

#[test]
fn privileged_a_container_that_cannot_start_says_why_and_can_be_deleted() {
    let host = host();
    let mut bad = spec(&host, "c3", "true");
    bad["process"]["args"] = json!(["/no/such/program"]);
    assert_eq!(create(&host, "c3", bad), ResultCode::OK);
    let error =
        execute(&host, "c3", ProcessParameters::default(), StdioPorts::default()).unwrap_err();
    assert_eq!(error.result(), Some(ResultCode::FAIL));
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    remove_root(&host, "c3");
    assert_eq!(delete(&host, "c3"), ResultCode::OK);
    assert!(!host.path("c3").exists());

    for (id, spec) in [
        ("../c", spec(&host, "c4", "true")),
        ("", spec(&host, "c4", "true")),
        ("c4", json!([])),
        ("c4", {
            let mut spec = spec(&host, "c4", "true");
            spec["mounts"][0]["source"] = json!("sandbox://../../etc");
            spec
        }),
    ] {
        let config = ContainerConfig {
            schema_version: SchemaVersion::V2_1,
            oci_bundle_path: host.text("c4"),
            oci_specification: Some(spec),
            ..Default::default()
        };
        let base = RequestBase::new(id);
        let request = CreateContainer { base, container_config: InText(config) };
        assert_eq!(host.code(&request), ResultCode::FAIL, "{id:?}");
        assert_eq!(host.mounts_below(host.directory.path()), 0);
    }
    let old = ContainerConfig {
        schema_version: SchemaVersion { major: 2, minor: 0 },
        ..ContainerConfig::default()
    };
    let request = CreateContainer { base: RequestBase::new("c5"), container_config: InText(old) };
    assert_eq!(host.code(&request), ResultCode::INVALID_JSON);
}

/// Runs a container to its end and returns what it said.
fn run(host: &mut Host, id: &str, spec: Value) -> String {
    assert_eq!(create(host, id, spec), ResultCode::OK);
    let (std_out, from) = host.port();
    let parameters = ProcessParameters { create_std_out_pipe: true, ..Default::default() };
    let ports = StdioPorts { std_out, ..Default::default() };
    let process = execute(host, id, parameters, ports).unwrap();
    let said = read_all(&from);
    wait(host, id, process);
    said
}

#[test]
fn privileged_a_container_knows_its_name_and_its_hosts() {
    let mut host = host();
    let script = "cat /proc/sys/kernel/hostname /etc/hostname /etc/hosts /etc/resolv.conf; \
        echo 10.0.0.9 friend >> /etc/hosts";
    let mut pod = spec(&host, "pod", script);
    pod["hostname"] = json!("box.example");
    let said = run(&mut host, "pod", pod);
    let begin = "box.example\nbox.example\n127.0.0.1 localhost\n127.0.0.1 box.example box\n";
    assert!(said.starts_with(begin) && said.ends_with("ff02::2 ip6-allrouters\n"), "{said}");
    // Another one in its sandbox has the same files, and one that brings its own has those.
    let mut member = spec(&host, "member", "cat /etc/hosts /etc/resolv.conf");
    member["annotations"] = json!({"io.kubernetes.cri.sandbox-id": "pod"});
    fs::write(host.path("servers"), "nameserver 10.0.0.1\n").unwrap();
    let servers = json!({
        "destination": "/etc/resolv.conf", "source": host.text("servers"), "type": "bind",
        "options": ["bind"],
    });
    member["mounts"].as_array_mut().unwrap().push(servers);
    let said = run(&mut host, "member", member);
    assert!(said.ends_with("10.0.0.9 friend\nnameserver 10.0.0.1\n"), "{said}");
    for id in ["member", "pod"] {
        remove_root(&host, id);
        assert_eq!(delete(&host, id), ResultCode::OK);
        assert!(!host.path(id).exists(), "nothing of its bundle is left");
    }
    assert!(host.path("servers").exists());
}
