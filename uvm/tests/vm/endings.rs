//! How machines end, in order and otherwise.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sys::process::Process;
use uvm::qemu::{BootPhase, Qemu, Transport};
use uvm::{Cancel, Deadline, ErrorKind, Vm as _};

use crate::bench::{boot, config, disk, erofs, layer, soon};

fn failing(change: impl FnOnce(&mut uvm::qemu::Config)) -> uvm::Error {
    let run = tempfile::tempdir().unwrap();
    let mut config = config(run.path());
    change(&mut config);
    let error = Qemu::boot(config, &Deadline::never(), &mut |_| {}).unwrap_err();
    // What was started has ended: nobody holds the directory.
    let again =
        std::fs::File::open(run.path().join("owner.lock")).map(|lock| lock.try_lock().is_ok());
    assert!(again.unwrap_or(true));
    error
}

#[test]
fn vm_that_cannot_start_says_why() {
    let error = failing(|config| config.programs.qemu = "no-such-qemu".into());
    assert_eq!(error.kind(), ErrorKind::ToolMissing, "{error:?}");
    assert!(error.to_string().contains("qemu-system-x86"), "{error}");
    let error = failing(|config| config.programs.vsock = "no-such-vsock".into());
    assert_eq!(error.kind(), ErrorKind::ToolMissing, "{error:?}");
    assert!(error.to_string().contains("cargo install"), "{error}");
    let error = failing(|config| config.memory = 1 << 50);
    assert_eq!(error.kind(), ErrorKind::Dead, "{error:?}");
    assert!(error.to_string().contains("qemu-system-x86_64:"), "QEMU's own words: {error}");
    for change in [
        (|config: &mut uvm::qemu::Config| config.memory = 1) as fn(&mut _),
        |config| config.processors = 0,
        |config| config.scsi_controllers = 5,
        |config| config.run = PathBuf::from("/tmp/a,b"),
        |config| config.run = PathBuf::from(format!("/tmp/{}", "x".repeat(100))),
    ] {
        assert_eq!(failing(change).kind(), ErrorKind::Invalid);
    }
}

#[test]
fn vm_without_an_agent_is_given_up_with_its_console() {
    let error = failing(|config| {
        let words = ["rdinit=/nothing", "earlyprintk=ttyS0,115200", "loglevel=7", "panic=100"];
        config.kernel_arguments = words.map(str::to_owned).to_vec();
        config.boot_time = Duration::from_secs(8);
    });
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error:?}");
    assert!(error.to_string().contains("console ends with"), "{error}");
}

#[test]
fn vm_boot_can_be_cancelled() {
    let run = tempfile::tempdir().unwrap();
    let cancel = Cancel::new();
    let deadline = Deadline::never().with_cancel(cancel.clone());
    let mut phases = Vec::new();
    let start = Instant::now();
    let error = Qemu::boot(config(run.path()), &deadline, &mut |phase| {
        phases.push(phase);
        if phase == BootPhase::Kernel {
            cancel.cancel();
        }
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
    assert_eq!(phases, [BootPhase::Starting, BootPhase::Kernel]);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn vm_whose_guest_dies_fails_every_call_and_a_closed_one_has_ended() {
    let own = boot(|_| {});
    let second = Qemu::boot(config(own.vm.run_directory()), &soon(), &mut |_| {}).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Busy, "one directory, one machine: {second:?}");
    let directory = tempfile::tempdir().unwrap();
    let image = erofs(directory.path(), "a");
    let guard = own.machine.attach_scsi(&disk(&image), Some(&layer()), &soon()).unwrap();
    assert_eq!(own.vm.wait(Duration::ZERO), None);
    // The kernel's own way to panic; the answer to this call never comes.
    let vm = own.vm.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                own.shell("echo c > /proc/sysrq-trigger")
            }))
        });
        let exit = vm.wait(Duration::from_secs(30)).expect("a guest that panics ends");
        assert!(!exit.orderly, "{exit:?}");
    });
    let error = own
        .machine
        .attach_scsi(&disk(directory.path().join("a.erofs")), None, &soon())
        .map(|guard| guard.slot());
    assert!(error.is_ok(), "it is shared, and nobody looked");
    let error = own.machine.attach_scsi(&disk("/dev/null/x"), None, &soon()).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::NoAvailableLocation);
    std::fs::write(directory.path().join("b"), [0; 4096]).unwrap();
    let error =
        own.machine.attach_scsi(&disk(directory.path().join("b")), None, &soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Dead, "{error:?}");
    guard.release().unwrap();
    own.vm.close(Duration::from_secs(5)).unwrap();

    // Over a serial port there are disks, and neither streams nor shares.
    let run = tempfile::tempdir().unwrap();
    let mut serial = config(run.path());
    serial.transport = Transport::Serial;
    serial.programs.vsock = "no-such-vsock".into();
    let vm = std::sync::Arc::new(Qemu::boot(serial, &Deadline::never(), &mut |_| {}).unwrap());
    assert!(!vm.capabilities().shares);
    assert_eq!(vm.open_port().unwrap_err().kind(), ErrorKind::Unsupported);
    let (machine, _) = uvm::Machine::open(vm.clone(), run.path()).unwrap();
    machine.attach_scsi(&disk(&image), Some(&layer()), &soon()).unwrap().release().unwrap();
    vm.close(Duration::from_secs(20)).unwrap();
    let exit = vm.wait(Duration::from_secs(5)).unwrap();
    assert!(exit.orderly && exit.reason.contains("guest-shutdown"), "{exit:?}");
}

/// Run in a process of its own by the test below, which kills it.
#[test]
#[ignore = "a part of another test, which starts it"]
fn part_of_the_killed_owner() {
    let run = PathBuf::from(std::env::var_os("UVM_TEST_DIRECTORY").unwrap());
    let vm =
        std::sync::Arc::new(Qemu::boot(config(&run), &Deadline::never(), &mut |_| {}).unwrap());
    let (machine, _) = uvm::Machine::open(vm.clone(), &run).unwrap();
    let image = erofs(&run, "a");
    let _guard = machine.attach_scsi(&disk(&image), Some(&layer()), &soon()).unwrap();
    std::fs::write(run.join("ready"), vm.pid().to_string()).unwrap();
    std::thread::park();
}

#[test]
fn vm_ends_with_its_owner_and_the_next_one_starts_in_its_place() {
    let run = tempfile::tempdir().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "endings::part_of_the_killed_owner"])
        .env("UVM_TEST_DIRECTORY", run.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(100);
    let ready = run.path().join("ready");
    while !ready.exists() {
        assert!(owner.try_wait().unwrap().is_none(), "the owner has failed");
        assert!(Instant::now() < until, "the owner has no machine");
        std::thread::sleep(Duration::from_millis(50));
    }
    let list = std::fs::read_to_string(run.path().join("processes")).unwrap();
    let processes: Vec<Process> = list.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(processes.len(), 2);
    assert!(processes.iter().all(|process| process.is_alive().unwrap()));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while processes.iter().any(|process| process.is_alive().unwrap()) {
        assert!(Instant::now() < until, "the machine has outlived its owner");
        std::thread::sleep(Duration::from_millis(20));
    }
    let journal = std::fs::read_to_string(run.path().join("devices.journal")).unwrap();
    assert!(journal.contains("intend"), "{journal}");
    // The devices died with the machine: the next one begins with nothing.
    let vm = Qemu::boot(config(run.path()), &Deadline::never(), &mut |_| {}).unwrap();
    let vm = std::sync::Arc::new(vm);
    let (machine, errors) = uvm::Machine::open(vm.clone(), run.path()).unwrap();
    assert!(errors.is_empty() && machine.inventory() == uvm::Inventory::default());
    // A machine that cannot be reached any more is none.
    let list = std::fs::read_to_string(run.path().join("processes")).unwrap();
    let vsock: Process = list.lines().nth(1).unwrap().parse().unwrap();
    vsock.kill().unwrap();
    let exit = vm.wait(Duration::from_secs(10)).expect("it ends without its vsock device");
    assert!(!exit.orderly && exit.reason.contains("vsock device"), "{exit:?}");
}
