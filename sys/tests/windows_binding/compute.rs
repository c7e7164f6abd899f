use std::path::Path;
use std::time::Duration;

use sys::windows::{ComputeApi, ComputeSystem, System};

use crate::recording::Recording;

/// Replaces the numbers of operations, which count up over all tests of the process.
fn without_numbers(lines: Vec<String>) -> Vec<String> {
    let plain = |line: String| match line.find("operation 0x") {
        Some(at) => format!("{}operation{}", &line[..at], &line[at + "operation 0x101".len()..]),
        None => line,
    };
    lines.into_iter().map(plain).collect()
}

fn name(system: &ComputeSystem) -> String {
    format!("system 0x{:x}", system.value())
}

const WAITED: [&str; 2] =
    ["HcsWaitForOperationResult operation 240000", "HcsCloseOperation operation"];

/// What every call with an operation looks like.
fn with_operation(call: String) -> Vec<String> {
    let mut lines = vec!["HcsCreateOperation".to_owned(), call];
    lines.extend(WAITED.map(str::to_owned));
    lines
}

#[test]
fn wine_computecore_gets_documents_and_every_operation_is_waited_for_and_closed() {
    let log = Recording::of("computecore.dll");
    let system = System::new();
    let made = system.create_compute_system("vm-é", r#"{"Owner":"p"}"#).unwrap();
    let made_name = name(&made);
    assert_eq!(
        without_numbers(log.lines()),
        with_operation(
            r#"HcsCreateComputeSystem "vm-<00e9>" "{"Owner":"p"}" operation NULL"#.to_owned()
        )
    );
    system.start_compute_system(&made).unwrap();
    assert_eq!(
        without_numbers(log.lines()),
        with_operation(format!("HcsStartComputeSystem {made_name} operation NULL"))
    );
    let answer = system.modify_compute_system(&made, r#"{"RequestType":"Add"}"#).unwrap();
    assert_eq!(answer, r#"{"Answer":"ü"}"#);
    assert_eq!(
        without_numbers(log.lines()),
        with_operation(format!(
            r#"HcsModifyComputeSystem {made_name} operation "{{"RequestType":"Add"}}" NULL"#
        ))
    );
    system.compute_system_properties(&made, "{}").unwrap();
    assert_eq!(
        without_numbers(log.lines()),
        with_operation(format!(r#"HcsGetComputeSystemProperties {made_name} operation "{{}}""#))
    );
    system.shut_down_compute_system(&made, "").unwrap();
    assert_eq!(
        without_numbers(log.lines()),
        with_operation(format!("HcsShutDownComputeSystem {made_name} operation NULL"))
    );
    system.terminate_compute_system(&made, "{}").unwrap();
    assert_eq!(
        without_numbers(log.lines()),
        with_operation(format!(r#"HcsTerminateComputeSystem {made_name} operation "{{}}""#))
    );
    system.enumerate_compute_systems("").unwrap();
    assert_eq!(
        without_numbers(log.lines()),
        with_operation("HcsEnumerateComputeSystems NULL operation".to_owned())
    );
    drop(made);
    assert_eq!(log.lines(), [format!("HcsCloseComputeSystem {made_name}")]);
}

#[test]
fn wine_computecore_opens_asks_for_the_service_and_lets_machines_read() {
    let log = Recording::of("computecore.dll");
    let system = System::new();
    let opened = system.open_compute_system("vm").unwrap();
    let opened_name = name(&opened);
    drop(opened);
    assert_eq!(system.service_properties("").unwrap(), r#"{"Properties":[]}"#);
    system.grant_vm_group_access(Path::new(r"C:\a.vhdx")).unwrap();
    assert_eq!(
        log.lines(),
        [
            r#"HcsOpenComputeSystem "vm" 0x10000000"#.to_owned(),
            format!("HcsCloseComputeSystem {opened_name}"),
            "HcsGetServiceProperties NULL".to_owned(),
            r#"HcsGrantVmGroupAccess "C:\a.vhdx""#.to_owned(),
        ]
    );
}

#[test]
fn wine_a_failed_operation_says_what_the_service_said_and_leaves_nothing_open() {
    let log = Recording::of("computecore.dll");
    let system = System::new().with_operation_timeout(Duration::from_secs(5));
    log.fail("HcsWaitForOperationResult", 0x8037_010D);
    let error = system.create_compute_system("vm", "{}").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"HcsCreateComputeSystem(vm): HCS_E_INVALID_JSON (0x8037010D): the document is not what the service expects; {"Error":-2143878899}"#
    );
    let lines = without_numbers(log.lines());
    assert_eq!(lines[2], "HcsWaitForOperationResult operation 5000");
    assert_eq!(lines[3], "HcsCloseOperation operation");
    assert!(lines[4].starts_with("HcsCloseComputeSystem system"), "{lines:?}");
    assert_eq!(lines.len(), 5);
}

#[test]
fn wine_an_operation_that_does_not_start_is_closed_and_not_waited_for() {
    let log = Recording::of("computecore.dll");
    let opened = System::new().open_compute_system("vm").unwrap();
    log.lines();
    log.fail("HcsModifyComputeSystem", 0x8037_0105);
    let error = System::new().modify_compute_system(&opened, "{}").unwrap_err();
    assert_eq!(error.code().name(), "HCS_E_INVALID_STATE");
    let lines = without_numbers(log.lines());
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((&*lines[0], &*lines[2]), ("HcsCreateOperation", "HcsCloseOperation operation"));
}
