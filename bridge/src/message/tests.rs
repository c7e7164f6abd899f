//! Golden texts of messages: what hcsshim's host writes and its guest answers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const BASE: &str = r#""ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"00000000-0000-0000-0000-000000000000""#;

/// The message is written as `text` (`BASE` stands for the common fields), and read back the same.
#[track_caller]
fn golden<T>(message: &T, text: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = text.replace("BASE", BASE);
    assert_eq!(serde_json::to_string(message).unwrap(), text);
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), message);
}

fn modify(request: GuestRequest) -> ModifySettings {
    ModifySettings::of_vm(request)
}

#[test]
fn negotiation() {
    golden(&Negotiate::ours(), r#"{BASE,"MinimumVersion":4,"MaximumVersion":4}"#);
    let response = NegotiateResponse {
        version: 4,
        capabilities: Capabilities {
            supported_schema_versions: vec![SchemaVersion::V2_1],
            runtime_os_type: "Linux".to_owned(),
            guest_defined_capabilities: GuestCapabilities {
                namespace_add_request_supported: true,
                signal_process_supported: true,
                dump_stacks_supported: true,
                delete_container_state_supported: true,
            },
            ..Capabilities::default()
        },
        ..NegotiateResponse::default()
    };
    golden(
        &response,
        r#"{"Result":0,"Version":4,"Capabilities":{"SupportedSchemaVersions":[{"Major":2,"Minor":1}],"RuntimeOsType":"Linux","GuestDefinedCapabilities":{"NamespaceAddRequestSupported":true,"SignalProcessSupported":true,"DumpStacksSupported":true,"DeleteContainerStateSupported":true}}}"#,
    );
}

#[test]
fn documents_travel_as_text_in_text() {
    let create = CreateContainer {
        base: RequestBase { container_id: "c1".to_owned(), activity_id: "a".to_owned() },
        container_config: InText(ContainerConfig {
            schema_version: SchemaVersion::V2_1,
            oci_bundle_path: "/run/gcs/c/c1".to_owned(),
            oci_specification: Some(json!({"ociVersion": "1.0.2", "x-unknown": [1, 2.5]})),
            scratch_dir_path: "/s".to_owned(),
            ..ContainerConfig::default()
        }),
    };
    golden(
        &create,
        r#"{"ContainerId":"c1","ActivityId":"a","ContainerConfig":"{\"SchemaVersion\":{\"Major\":2,\"Minor\":1},\"OciBundlePath\":\"/run/gcs/c/c1\",\"OciSpecification\":{\"ociVersion\":\"1.0.2\",\"x-unknown\":[1,2.5]},\"ScratchDirPath\":\"/s\"}"}"#,
    );
    golden(
        &GetProperties {
            base: RequestBase::default(),
            query: InText(PropertyQuery { property_types: vec!["ProcessList".to_owned()] }),
        },
        r#"{BASE,"Query":"{\"PropertyTypes\":[\"ProcessList\"]}"}"#,
    );
    golden(
        &GetPropertiesResponse {
            properties: InText(Properties {
                process_list: vec![ProcessDetails { process_id: 7 }],
                metrics: None,
            }),
            ..GetPropertiesResponse::default()
        },
        r#"{"Result":0,"Properties":"{\"ProcessList\":[{\"ProcessId\":7}]}"}"#,
    );
    let empty = format!("{{{BASE},\"Query\":\"\"}}");
    assert_eq!(
        serde_json::from_str::<GetProperties>(&empty).unwrap().query.0.property_types.len(),
        0
    );
}

#[test]
fn processes() {
    let parameters = ProcessParameters {
        command_args: vec!["sh".to_owned(), "-c".to_owned(), "exit 7".to_owned()],
        working_directory: "/".to_owned(),
        environment: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        emulate_console: true,
        create_std_out_pipe: true,
        create_in_utility_vm: true,
        ..ProcessParameters::default()
    };
    golden(
        &ExecuteProcess {
            base: RequestBase::default(),
            settings: ExecuteProcessSettings {
                process_parameters: InText(parameters),
                vsock_stdio_relay_settings: StdioPorts {
                    std_out: 0x4000_0001,
                    ..StdioPorts::default()
                },
            },
        },
        r#"{BASE,"Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\",\"-c\",\"exit 7\"],\"WorkingDirectory\":\"/\",\"Environment\":{\"PATH\":\"/bin\"},\"EmulateConsole\":true,\"CreateStdOutPipe\":true,\"CreateInUtilityVM\":true}","VsockStdioRelaySettings":{"StdOut":1073741825}}}"#,
    );
    golden(
        &WaitForProcess {
            process_id: 9,
            timeout_in_ms: WaitForProcess::FOREVER,
            ..Default::default()
        },
        r#"{BASE,"ProcessId":9,"TimeoutInMs":4294967295}"#,
    );
    golden(
        &SignalProcess {
            process_id: 9,
            options: Some(SignalOptions { signal: 15 }),
            ..Default::default()
        },
        r#"{BASE,"ProcessId":9,"Options":{"Signal":15}}"#,
    );
    golden(&SignalProcess::default(), r#"{BASE,"ProcessId":0}"#);
    golden(
        &ResizeConsole { process_id: 9, height: 24, width: 80, ..Default::default() },
        r#"{BASE,"ProcessId":9,"Height":24,"Width":80}"#,
    );
    golden(&ShutdownGraceful::default(), "{BASE}");
    golden(
        &ExecuteProcessResponse { process_id: 3, ..Default::default() },
        r#"{"Result":0,"ProcessId":3}"#,
    );
    golden(
        &WaitForProcessResponse { exit_code: 137, ..Default::default() },
        r#"{"Result":0,"ExitCode":137}"#,
    );
}

#[test]
fn resources() {
    golden(
        &modify(GuestRequest::add(Resource::MappedVirtualDisk(MappedVirtualDisk {
            mount_path: "/run/mounts/scsi/m0".to_owned(),
            lun: 2,
            controller: 1,
            partition: 3,
            read_only: true,
            encrypted: true,
            options: vec!["ro".to_owned()],
            block_dev: true,
            verity_info: None,
            ensure_filesystem: true,
            filesystem: "ext4".to_owned(),
        }))),
        r#"{BASE,"Request":{"RequestType":"Add","ResourceType":"MappedVirtualDisk","Settings":{"MountPath":"/run/mounts/scsi/m0","Lun":2,"Controller":1,"Partition":3,"ReadOnly":true,"Encrypted":true,"Options":["ro"],"BlockDev":true,"EnsureFilesystem":true,"Filesystem":"ext4"}}}"#,
    );
    golden(
        &modify(GuestRequest::remove(Resource::MappedVirtualDisk(MappedVirtualDisk::default()))),
        r#"{BASE,"Request":{"RequestType":"Remove","ResourceType":"MappedVirtualDisk","Settings":{}}}"#,
    );
    golden(
        &modify(GuestRequest::remove(Resource::ScsiDevice(ScsiDevice { controller: 0, lun: 63 }))),
        r#"{BASE,"Request":{"RequestType":"Remove","ResourceType":"SCSIDevice","Settings":{"Lun":63}}}"#,
    );
    golden(
        &modify(GuestRequest::add(Resource::VPMemDevice(PmemDevice {
            device_number: 1,
            mount_path: "/run/layers/p1-4096-8192".to_owned(),
            mapping_info: Some(PmemMapping {
                device_offset_in_bytes: 4096,
                device_size_in_bytes: 8192,
            }),
            verity_info: Some(VerityInfo {
                ext4_size_in_bytes: 4096,
                version: 1,
                algorithm: "sha256".to_owned(),
                root_digest: "ab".to_owned(),
                block_size: 4096,
                hash_device: Some(ScsiDevice { controller: 1, lun: 2 }),
                ..VerityInfo::default()
            }),
        }))),
        r#"{BASE,"Request":{"RequestType":"Add","ResourceType":"VPMemDevice","Settings":{"DeviceNumber":1,"MountPath":"/run/layers/p1-4096-8192","MappingInfo":{"DeviceOffsetInBytes":4096,"DeviceSizeInBytes":8192},"VerityInfo":{"Ext4SizeInBytes":4096,"Version":1,"Algorithm":"sha256","RootDigest":"ab","BlockSize":4096,"HashDevice":{"Controller":1,"Lun":2}}}}}"#,
    );
    golden(
        &modify(GuestRequest::add(Resource::MappedDirectory(MappedDirectory {
            mount_path: "/m".to_owned(),
            port: 564,
            share_name: "3".to_owned(),
            read_only: true,
        }))),
        r#"{BASE,"Request":{"RequestType":"Add","ResourceType":"MappedDirectory","Settings":{"MountPath":"/m","Port":564,"ShareName":"3","ReadOnly":true}}}"#,
    );
    golden(
        &modify(GuestRequest::add(Resource::CombinedLayers(CombinedLayers {
            container_id: "c".to_owned(),
            container_root_path: "/run/gcs/c/c/rootfs".to_owned(),
            layers: vec![Layer::at("/run/layers/p0"), Layer::at("/run/mounts/scsi/m1")],
            scratch_path: "/run/mounts/scsi/m0/scratch/c".to_owned(),
        }))),
        r#"{BASE,"Request":{"RequestType":"Add","ResourceType":"CombinedLayers","Settings":{"ContainerID":"c","ContainerRootPath":"/run/gcs/c/c/rootfs","Layers":[{"Path":"/run/layers/p0"},{"Path":"/run/mounts/scsi/m1"}],"ScratchPath":"/run/mounts/scsi/m0/scratch/c"}}}"#,
    );
    golden(
        &modify(GuestRequest {
            request_type: RequestType::PreAdd,
            resource: Resource::Other {
                resource_type: "Network".to_owned(),
                settings: json!({"NamespaceID": "n"}),
            },
        }),
        r#"{BASE,"Request":{"RequestType":"PreAdd","ResourceType":"Network","Settings":{"NamespaceID":"n"}}}"#,
    );
}

#[test]
fn requests_of_strangers() {
    let read = |text: &str| serde_json::from_str::<GuestRequest>(text);
    let request =
        read(r#"{"ResourceType":"SCSIDevice","Settings":{"Lun":1,"Future":{"a":[]}},"X":1}"#);
    let expected = GuestRequest::add(Resource::ScsiDevice(ScsiDevice { controller: 0, lun: 1 }));
    assert_eq!(request.unwrap(), expected, "no request type is Add; unknown fields are ignored");
    assert!(read(r#"{"ResourceType":"SCSIDevice","Settings":{"Lun":256}}"#).is_err());
    assert!(read(r#"{"ResourceType":"SCSIDevice"}"#).is_err(), "a known type needs its settings");
    let unknown = read(r#"{"ResourceType":"Toaster","RequestType":"Toast"}"#).unwrap();
    assert_eq!(unknown.resource.name(), "Toaster");
    assert_eq!(unknown.request_type, RequestType::Other("Toast".to_owned()));
    // Some depth is refused by the parser before the stack is at an end.
    let deep =
        format!(r#"{{"ResourceType":"N","Settings":{}1{}}}"#, "[".repeat(9999), "]".repeat(9999));
    assert!(read(&deep).is_err());
}

#[test]
fn a_request_that_names_nobody_is_not_about_the_vm() {
    let request: ShutdownGraceful = serde_json::from_str("{}").unwrap();
    assert!(!request.base.is_vm());
    assert!(ShutdownGraceful::default().base.is_vm());
}

#[test]
fn notifications_and_refusals() {
    golden(
        &ContainerNotification {
            base: RequestBase::new("c1"),
            notification_type: "UnexpectedExit".to_owned(),
            operation: "None".to_owned(),
            ..ContainerNotification::default()
        },
        r#"{"ContainerId":"c1","ActivityId":"00000000-0000-0000-0000-000000000000","Type":"UnexpectedExit","Operation":"None","Result":0}"#,
    );
    let refusal = r#"{"Result":-2147467259,"ActivityId":"a","ErrorMessage":"no","ErrorRecords":[{"Result":-2147467259,"Message":"no","StackTrace":"\nmain.f\n","ModuleName":"gcs","FileName":"bridge.go","Line":12}]}"#;
    let base: ResponseBase = serde_json::from_str(refusal).unwrap();
    assert_eq!(base.result, crate::ResultCode::FAIL);
    assert_eq!(base.error_records[0].line, 12);
    assert_eq!(serde_json::to_string(&base).unwrap(), refusal);
    assert_eq!(serde_json::from_str::<ResponseBase>("{}").unwrap(), ResponseBase::default());
}

proptest! {
    #[test]
    fn disks_survive_the_wire(mount_path in ".*", lun in any::<u8>(), controller in any::<u8>(),
        partition in any::<u64>(), read_only in any::<bool>(), options in prop::collection::vec(".*", 0..4)) {
        let disk = MappedVirtualDisk { mount_path, lun, controller, partition, read_only, options, ..Default::default() };
        let message = modify(GuestRequest::add(Resource::MappedVirtualDisk(disk)));
        let text = serde_json::to_vec(&message).unwrap();
        prop_assert_eq!(serde_json::from_slice::<ModifySettings>(&text).unwrap(), message);
    }

    #[test]
    fn text_in_text_survives_any_text(name in ".*", value in ".*") {
        let spec = json!({ name: value });
        let config = InText(ContainerConfig { oci_specification: Some(spec), ..Default::default() });
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<InText<ContainerConfig>>(&text).unwrap(), config);
    }
}
