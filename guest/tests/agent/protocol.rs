//! What is answered, code for code.

use bridge::{
    CreateContainer, Deadline, DeleteContainerState, DumpStacks, ErrorKind, ExecuteProcess,
    ExecuteProcessSettings, GetProperties, GuestRequest, InText, Method, ModifySettings,
    NULL_CONTAINER, Negotiate, ProcessParameters, RequestBase, RequestType, ResizeConsole,
    Resource, ResponseBase, ResultCode, ScsiDevice, ShutdownForced, ShutdownGraceful,
    SignalProcess, StartContainer, StdioPorts, WaitForProcess,
};

use crate::host::{Host, LIMIT, accept, read_all, say};

fn raw(host: &Host, method: Method, body: &str) -> ResultCode {
    let answer = host.client.exchange(method, body.as_bytes(), &Deadline::after(LIMIT)).unwrap();
    serde_json::from_slice::<ResponseBase>(&answer).unwrap().result
}

#[test]
fn privileged_negotiation_comes_first_and_once() {
    let host = Host::start();
    assert_eq!(host.code(&StartContainer::new("c")), ResultCode::NOT_IMPLEMENTED);
    assert_eq!(raw(&host, Method::NEGOTIATE_PROTOCOL, "{"), ResultCode::INVALID_JSON);
    for (minimum_version, maximum_version) in [(5, 9), (1, 3), (0, 0), (9, 1)] {
        let negotiate = Negotiate { minimum_version, maximum_version, ..Default::default() };
        assert_eq!(host.code(&negotiate), ResultCode::UNSUPPORTED_VERSION);
    }
    let answer = host.call(&Negotiate { maximum_version: 9, ..Negotiate::default() }).unwrap();
    assert_eq!(answer.version, 4);
    let capabilities = answer.capabilities;
    assert_eq!(capabilities.runtime_os_type, "Linux");
    assert_eq!(capabilities.supported_schema_versions, [bridge::SchemaVersion::V2_1]);
    assert!(capabilities.guest_defined_capabilities.delete_container_state_supported);
    // Afterwards there is no such message, whatever it says.
    assert_eq!(host.code(&Negotiate::ours()), ResultCode::NOT_IMPLEMENTED);
    assert_eq!(raw(&host, Method::NEGOTIATE_PROTOCOL, "{"), ResultCode::NOT_IMPLEMENTED);
}

#[test]
fn privileged_codes_are_those_of_the_genuine_agent() {
    let host = Host::negotiated();
    let base = |id: &str| RequestBase::new(id);
    // Create for the VM without a schema; Start of anything.
    let create = CreateContainer { base: base(NULL_CONTAINER), ..Default::default() };
    assert_eq!(host.code(&create), ResultCode::INVALID_JSON);
    assert_eq!(host.code(&StartContainer::new("unknown")), ResultCode::OK);
    assert_eq!(raw(&host, Method::START, "[1"), ResultCode::INVALID_JSON);
    // What is not there.
    let scsi = || Resource::ScsiDevice(ScsiDevice::default());
    let modify = ModifySettings { base: base("unknown"), request: GuestRequest::add(scsi()) };
    assert_eq!(host.code(&modify), ResultCode::SYSTEM_NOT_FOUND);
    for code in [
        host.code(&DeleteContainerState::new("unknown")),
        host.code(&ShutdownForced::new("unknown")),
        host.code(&ShutdownGraceful::new("unknown")),
        host.code(&GetProperties { base: base("unknown"), ..Default::default() }),
        host.code(&WaitForProcess { base: base("unknown"), ..Default::default() }),
        host.code(&SignalProcess { base: base("unknown"), ..Default::default() }),
        host.code(&ResizeConsole { base: base("unknown"), ..Default::default() }),
        host.code(&ExecuteProcess { base: base("unknown"), ..Default::default() }),
    ] {
        assert_eq!(code, ResultCode::SYSTEM_NOT_FOUND);
    }
    let wait = WaitForProcess { process_id: 77, ..Default::default() };
    assert_eq!(host.code(&wait), ResultCode::NOT_FOUND);
    assert_eq!(host.code(&GetProperties::default()), ResultCode::FAIL);
    // Types and requests that are not supported.
    assert_eq!(host.code(&ModifySettings::of_vm(GuestRequest::add(scsi()))), ResultCode::FAIL);
    let update = GuestRequest { request_type: RequestType::Update, resource: scsi() };
    assert_eq!(host.code(&ModifySettings::of_vm(update)), ResultCode::FAIL);
    let toaster = r#"{"ContainerId":"00000000-0000-0000-0000-000000000000","Request":{"ResourceType":"Toaster"}}"#;
    assert_eq!(raw(&host, Method::MODIFY_SETTINGS, toaster), ResultCode::FAIL);
    for method in [0xe, 0xf, 0x10, 0xfff] {
        assert_eq!(raw(&host, Method::container(method), "{}"), ResultCode::NOT_IMPLEMENTED);
    }
    let service = Method { category: bridge::CATEGORY_SERVICE, number: 1, version: 1 };
    assert_eq!(raw(&host, service, "{}"), ResultCode::NOT_IMPLEMENTED);
    assert!(host.call(&DumpStacks::default()).unwrap().guest_stacks.contains("thread"));
    // A disk that does not come: an error in time, and nobody else waits.
    assert_eq!(host.client.ended(), None);
}

#[test]
fn privileged_a_process_beside_containers_has_streams_and_an_exit_code() {
    let mut host = Host::negotiated();
    let ((input, to), (output, from), (error, complaints)) =
        (host.port(), host.port(), host.port());
    let parameters = ProcessParameters {
        command_args: ["sh", "-c", "cat; echo done >/dev/stdout; echo bad >&2; exit 7"]
            .map(str::to_owned)
            .into(),
        environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        create_std_in_pipe: true,
        create_std_out_pipe: true,
        create_std_err_pipe: true,
        ..Default::default()
    };
    let settings = ExecuteProcessSettings {
        process_parameters: InText(parameters),
        vsock_stdio_relay_settings: StdioPorts { std_in: input, std_out: output, std_err: error },
    };
    let request = ExecuteProcess { base: RequestBase::default(), settings };
    let process_id = host.call(&request).unwrap().process_id;
    say(&to, "hello ");
    assert_eq!(read_all(&from), "hello done\n");
    assert_eq!(read_all(&complaints), "bad\n");
    let wait = |timeout_in_ms| WaitForProcess { process_id, timeout_in_ms, ..Default::default() };
    assert_eq!(host.call(&wait(WaitForProcess::FOREVER)).unwrap().exit_code, 7);
    assert_eq!(host.call(&wait(0)).unwrap().exit_code, 7, "as often as one asks");
    let signal = SignalProcess { process_id, ..Default::default() };
    assert_eq!(host.code(&signal), ResultCode::NOT_FOUND);
}

#[test]
fn privileged_a_terminal_has_a_size_and_a_wait_an_end() {
    let mut host = Host::negotiated();
    let (output, from) = host.port();
    let parameters = ProcessParameters {
        command_args: [
            "sh",
            "-c",
            "stty size; trap 'stty size; exit 3' WINCH; while :; do sleep 0.05; done",
        ]
        .map(str::to_owned)
        .into(),
        environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        emulate_console: true,
        create_std_out_pipe: true,
        console_size: vec![24, 80],
        ..Default::default()
    };
    let settings = ExecuteProcessSettings {
        process_parameters: InText(parameters),
        vsock_stdio_relay_settings: StdioPorts { std_out: output, ..Default::default() },
    };
    let request = ExecuteProcess { base: RequestBase::default(), settings };
    let process_id = host.call(&request).unwrap().process_id;
    let wait = WaitForProcess { process_id, timeout_in_ms: 10, ..Default::default() };
    assert_eq!(host.code(&wait), ResultCode::TIMEOUT);
    let mut stream = accept(&from);
    let mut text = [0; 64];
    let length = std::io::Read::read(&mut stream, &mut text).unwrap();
    assert_eq!(&text[..length], b"24 80\r\n");
    let until = std::time::Instant::now() + LIMIT;
    // The shell sets its trap after it has told its size.
    loop {
        let resize = ResizeConsole { process_id, height: 50, width: 132, ..Default::default() };
        host.call(&resize).unwrap();
        let wait = WaitForProcess { process_id, timeout_in_ms: 200, ..Default::default() };
        match host.call(&wait) {
            Ok(answer) => break assert_eq!(answer.exit_code, 3),
            Err(error) => assert_eq!(error.result(), Some(ResultCode::TIMEOUT)),
        }
        assert!(std::time::Instant::now() < until);
        // The same size again would be no news.
        let resize = ResizeConsole { process_id, height: 51, width: 132, ..Default::default() };
        let _ = host.call(&resize);
    }
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stream, &mut rest).unwrap();
    assert!(rest.contains(" 132"), "{rest:?}");
}

#[test]
fn privileged_a_process_that_cannot_start_is_an_error() {
    let host = Host::negotiated();
    for parameters in [
        ProcessParameters::default(),
        ProcessParameters { command_line: "/no/such/program".to_owned(), ..Default::default() },
        ProcessParameters { command_line: "no-such-program".to_owned(), ..Default::default() },
        ProcessParameters {
            command_line: "true".to_owned(),
            working_directory: "/no/such".to_owned(),
            ..Default::default()
        },
        // Nobody listens there.
        ProcessParameters {
            command_line: "true".to_owned(),
            create_std_out_pipe: true,
            ..Default::default()
        },
    ] {
        let settings =
            ExecuteProcessSettings { process_parameters: InText(parameters), ..Default::default() };
        let request = ExecuteProcess { base: RequestBase::default(), settings };
        assert_eq!(host.code(&request), ResultCode::FAIL);
    }
}

#[test]
fn privileged_a_shutdown_is_not_answered_and_ends_the_machine() {
    let host = Host::negotiated();
    let error = host.call(&ShutdownGraceful::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
