//! A host that says anything.

use std::collections::BTreeSet;
use std::time::Instant;

use bridge::{
    ExecuteProcess, ExecuteProcessSettings, InText, Method, ProcessParameters, RequestBase,
    ResponseBase, WaitForProcess,
};
use serde_json::{Value, json};

use crate::host::{Host, LIMIT};

/// One valid message of every method and resource, harmless in itself: nothing it names is there.
fn messages() -> Vec<(Method, Value)> {
    let vm = bridge::NULL_CONTAINER;
    let modify = |resource: &str, settings: Value| {
        let request =
            json!({"RequestType": "Remove", "ResourceType": resource, "Settings": settings});
        (Method::MODIFY_SETTINGS, json!({"ContainerId": vm, "ActivityId": vm, "Request": request}))
    };
    let text = |value: Value| value.to_string();
    vec![
        (
            Method::NEGOTIATE_PROTOCOL,
            json!({"ContainerId": vm, "MinimumVersion": 4, "MaximumVersion": 4}),
        ),
        (
            Method::CREATE,
            json!({"ContainerId": "none", "ContainerConfig": text(json!({"SchemaVersion": {"Major": 2, "Minor": 1}, "OciBundlePath": "relative", "OciSpecification": {}}))}),
        ),
        (Method::START, json!({"ContainerId": "none"})),
        (Method::SHUTDOWN_GRACEFUL, json!({"ContainerId": "none"})),
        (Method::SHUTDOWN_FORCED, json!({"ContainerId": "none"})),
        (
            Method::EXECUTE_PROCESS,
            json!({"ContainerId": "none", "Settings": {"ProcessParameters": text(json!({"CommandArgs": ["none"]})), "VsockStdioRelaySettings": {"StdOut": 1}}}),
        ),
        (
            Method::WAIT_FOR_PROCESS,
            json!({"ContainerId": "none", "ProcessId": 1, "TimeoutInMs": 1}),
        ),
        (
            Method::SIGNAL_PROCESS,
            json!({"ContainerId": vm, "ProcessId": 1, "Options": {"Signal": 9}}),
        ),
        (
            Method::RESIZE_CONSOLE,
            json!({"ContainerId": vm, "ProcessId": 1, "Height": 1, "Width": 1}),
        ),
        (
            Method::GET_PROPERTIES,
            json!({"ContainerId": "none", "Query": text(json!({"PropertyTypes": ["Statistics"]}))}),
        ),
        (Method::DUMP_STACKS, json!({"ContainerId": vm})),
        (Method::DELETE_CONTAINER_STATE, json!({"ContainerId": "none"})),
        modify(
            "MappedVirtualDisk",
            json!({"MountPath": "/none", "Lun": 1, "Controller": 1, "VerityInfo": {"RootDigest": "ab"}}),
        ),
        modify(
            "VPMemDevice",
            json!({"MountPath": "/none", "DeviceNumber": 1, "MappingInfo": {"DeviceOffsetInBytes": 1}}),
        ),
        modify("MappedDirectory", json!({"MountPath": "/none", "Port": 1, "ShareName": "1"})),
        modify(
            "CombinedLayers",
            json!({"ContainerRootPath": "/none", "Layers": [{"Path": "/none"}], "ScratchPath": "/none"}),
        ),
        modify("SCSIDevice", json!({"Controller": 1, "Lun": 1})),
    ]
}

/// Every place of a value, with `put` in it once.
fn variations(value: &Value, put: &Value) -> Vec<Value> {
    let mut all = vec![put.clone()];
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                for varied in variations(field, put) {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), varied);
                    all.push(Value::Object(fields));
                }
                let mut fields = fields.clone();
                fields.remove(name);
                all.push(Value::Object(fields));
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                for varied in variations(item, put) {
                    let mut items = items.clone();
                    items[place] = varied;
                    all.push(Value::Array(items));
                }
            }
        }
        Value::String(text) => {
            if let Ok(inner @ Value::Object(_)) = serde_json::from_str(text) {
                all.extend(variations(&inner, put).iter().map(|varied| json!(varied.to_string())));
            }
        }
        _ => {}
    }
    all
}

#[test]
fn privileged_no_message_ends_the_agent() {
    let host = Host::negotiated();
    let nasty = [
        Value::Null,
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("../../\u{0}é,trans=none"),
        json!("x".repeat(100_000)),
        json!([]),
        json!({}),
        serde_json::from_str(&format!("{}{}", "[".repeat(100), "]".repeat(100))).unwrap(),
    ];
    let mut asked = 0;
    for (method, message) in messages() {
        let bodies: BTreeSet<String> = nasty
            .iter()
            .flat_map(|put| variations(&message, put))
            .map(|body| body.to_string())
            .collect();
        for body in bodies {
            let deadline = bridge::Deadline::after(LIMIT);
            let answer = host.client.exchange(method, body.as_bytes(), &deadline).unwrap();
            serde_json::from_slice::<ResponseBase>(&answer).unwrap();
            asked += 1;
        }
        for body in ["", "{", "\u{feff}{}", "nul", "\"\\ud800\""] {
            let deadline = bridge::Deadline::after(LIMIT);
            host.client.exchange(method, body.as_bytes(), &deadline).unwrap();
        }
    }
    assert!(asked > 500, "{asked}");
    assert_eq!(host.client.ended(), None);
    assert_eq!(host.mounts_below(host.directory.path()), 0);
}

#[test]
fn privileged_orphans_are_reaped_and_others_keep_their_exit_code() {
    let host = Host::negotiated();
    let parameters = ProcessParameters {
        command_args: [
            "sh",
            "-c",
            "for n in 1 2 3 4 5 6 7 8; do (exec sleep 0.$n &) ; done; exit 5",
        ]
        .map(str::to_owned)
        .into(),
        environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        ..Default::default()
    };
    for _ in 0..3 {
        let settings = ExecuteProcessSettings {
            process_parameters: InText(parameters.clone()),
            ..Default::default()
        };
        let request = ExecuteProcess { base: RequestBase::default(), settings };
        let process_id = host.call(&request).unwrap().process_id;
        let timeout_in_ms = WaitForProcess::FOREVER;
        let wait = WaitForProcess { process_id, timeout_in_ms, ..Default::default() };
        assert_eq!(host.call(&wait).unwrap().exit_code, 5);
    }
    let until = Instant::now() + LIMIT;
    while host.children() > 0 {
        assert!(Instant::now() < until, "orphans stay");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
