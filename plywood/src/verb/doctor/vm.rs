//! What virtual machines need. Nothing here is missing for those who do not want them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bridge::Deadline;
use uvm::Vm as _;
use uvm::kit::Kit;
use uvm::qemu::{Accelerator, Config, Programs, Qemu, has_channels};

use super::{Check, State};
use crate::cli::DoctorArgs;
use crate::host::Host;

/// A guest that has not come up by then has hung.
const PROBE: Duration = Duration::from_secs(60);

pub(super) fn checks(args: &DoctorArgs, host: &Host) -> Vec<Check> {
    let programs = Programs::default();
    let kit = Kit::find(args.kit.as_deref());
    let mut checks = vec![
        program(
            "qemu",
            &programs.qemu,
            "runs virtual machines",
            "--isolation vm does not work; apt-get install qemu-system-x86",
        ),
        program(
            "vsock",
            &programs.vsock,
            "connects virtual machines with this host",
            "--isolation vm does not work; cargo install --locked --version 0.3.0 vhost-device-vsock",
        ),
        shares(&programs.qemu),
        Check {
            name: "vm kit".to_owned(),
            state: if kit.is_ok() { State::Ok } else { State::Note },
            evidence: match &kit {
                Ok(kit) => format!("{}, Linux {}", kit.kernel().display(), kit.release()),
                Err(error) => crate::exit::chain(&anyhow::Error::from(error.clone())),
            },
            consequence: match kit {
                Ok(_) => "virtual machines boot from it".to_owned(),
                Err(_) => "--isolation vm does not work".to_owned(),
            },
        },
        kvm(),
    ];
    if args.probe_kvm {
        checks.push(match kit {
            Ok(kit) => probe(kit, host),
            Err(_) => Check {
                name: "kvm probe".to_owned(),
                state: State::Unknown,
                evidence: "there is no guest to boot".to_owned(),
                consequence: String::new(),
            },
        });
    }
    checks
}

fn program(name: &str, program: &Path, with: &str, without: &str) -> Check {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let (state, evidence) = match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            (State::Ok, text.lines().next().unwrap_or_default().to_owned())
        }
        Ok(output) => (State::Note, format!("{} fails ({})", program.display(), output.status)),
        Err(error) => (State::Note, format!("{} cannot be run: {error}", program.display())),
    };
    let consequence = if state == State::Ok { with } else { without };
    Check { name: name.to_owned(), state, evidence, consequence: consequence.to_owned() }
}

/// By which device guests mount what is bound into containers.
fn shares(qemu: &Path) -> Check {
    let channels = has_channels(qemu);
    Check {
        name: "vm shares".to_owned(),
        state: if channels { State::Ok } else { State::Note },
        evidence: match channels {
            true => "QEMU has vhost-user-test-device-pci",
            false => "QEMU has no vhost-user-test-device-pci, which comes with 10.2",
        }
        .to_owned(),
        consequence: match channels {
            true => "virtual machines mount shares by virtio-9p devices of ours, the ninth and those after it over vsock",
            false => "virtual machines mount shares over vsock, which is slower",
        }
        .to_owned(),
    }
}

/// The device is not opened: that it can be opened says nothing about kernels surviving in it.
fn kvm() -> Check {
    let there = Path::new("/dev/kvm").exists();
    Check {
        name: "kvm".to_owned(),
        state: if there { State::Unknown } else { State::Note },
        evidence: if there { "/dev/kvm is there" } else { "there is no /dev/kvm" }.to_owned(),
        consequence: match there {
            true => {
                "not used: virtual machines are emulated; `plywood doctor --probe-kvm` says whether --accel kvm works"
            }
            false => "virtual machines are emulated, which is slow",
        }
        .to_owned(),
    }
}

/// Boots our guest with KVM and lets it power off again.
fn probe(kit: Kit, host: &Host) -> Check {
    let run = host.run().join("vm").join(format!(".probe-{}", std::process::id()));
    let mut config = Config::new(kit, &run);
    config.accelerator = Accelerator::Kvm;
    config.boot_time = PROBE;
    let began = Instant::now();
    let booted = Qemu::boot(config, &Deadline::after(PROBE), &mut |_| {});
    let took = began.elapsed().as_secs_f32();
    let ended = booted.and_then(|vm| vm.close(Duration::from_secs(5)));
    // Nothing of a probe is to be kept; what cannot be removed is swept with the run directory.
    let _ = std::fs::remove_dir_all(&run);
    let (state, evidence, consequence) = match ended {
        Ok(()) => {
            (State::Ok, format!("our guest was ready after {took:.1} s"), "--accel kvm works")
        }
        Err(error) => (
            State::Note,
            crate::exit::chain(&anyhow::Error::from(error)),
            "--accel kvm does not work here; leave it out",
        ),
    };
    Check { name: "kvm probe".to_owned(), state, evidence, consequence: consequence.to_owned() }
}
