//! A Linux host: kernel, runtimes, programs.

use std::path::Path;

use sys::{Features, Probe};

use super::{Check, State, cim, vm};
use crate::Session;
use crate::cli::DoctorArgs;
use crate::host::Host;
use crate::verb::run::try_all;

pub(super) fn checks(session: &Session, args: &DoctorArgs) -> Vec<Check> {
    let mut checks = vec![user()];
    match Features::probe(&directory(&session.host)) {
        Ok(features) => checks.extend(kernel(&features)),
        Err(error) => checks.push(Check {
            name: "kernel".to_owned(),
            state: State::Unknown,
            evidence: format!("{:#}", anyhow::Error::from(error)),
            consequence: "nothing about mounting could be found out".to_owned(),
        }),
    }
    checks.extend(cim::checks(&directory(&session.host)));
    checks.extend(runtimes(&session.host));
    checks.push(mkfs());
    checks.extend(vm::checks(args, &session.host));
    checks
}

/// Where probes put their files: on the file system that layers will be on, if there is one already.
fn directory(host: &Host) -> std::path::PathBuf {
    let mut directory = host.root();
    while !directory.is_dir() {
        match directory.parent() {
            Some(parent) => directory = parent,
            None => break,
        }
    }
    directory.to_owned()
}

fn user() -> Check {
    let root = rustix::process::geteuid().is_root();
    Check {
        name: "user".to_owned(),
        state: if root { State::Ok } else { State::Missing },
        evidence: if root { "root" } else { "not root" }.to_owned(),
        consequence: match root {
            true => String::new(),
            false => {
                "mount (but of CIMs) and run take root; erofs and image work without".to_owned()
            }
        },
    }
}

fn kernel(features: &Features) -> Vec<Check> {
    let mut checks = vec![Check {
        name: "kernel".to_owned(),
        state: State::Ok,
        evidence: features.kernel.to_string(),
        consequence: String::new(),
    }];
    let mut probe = |probe: &Probe, without: State, with: &str, instead: &str| {
        let (state, consequence) = match probe.works {
            Some(true) => (State::Ok, with),
            Some(false) => (without, instead),
            None => (State::Unknown, ""),
        };
        checks.push(Check {
            name: probe.name.to_owned(),
            state,
            evidence: probe.evidence.clone(),
            consequence: consequence.to_owned(),
        });
    };
    let newer = "a kernel with it is needed (Debian 12's has it as a module: modprobe ";
    probe(&features.erofs, State::Missing, "", &format!("{newer}erofs)"));
    probe(
        &features.erofs_by_file,
        State::Note,
        "layer images are mounted as files, without loop devices",
        "loop devices are used (Linux 6.12 mounts files directly)",
    );
    probe(
        &features.erofs_direct_io,
        State::Note,
        "layer images are not cached a second time",
        "layer images are cached a second time while they are read",
    );
    let loops = match features.erofs_by_file.works {
        Some(true) => State::Note,
        _ => State::Missing,
    };
    probe(&features.loop_device, loops, "", "--scratch-size does not work");
    probe(&features.overlay, State::Missing, "", &format!("{newer}overlay)"));
    probe(
        &features.overlay_lower_appending,
        State::Note,
        "an image may have up to 500 layers, and paths may hold any character",
        "the layers of an image must fit one page of options (Linux 6.5 has no such limit)",
    );
    probe(&features.overlay_descriptors, State::Note, "", "nothing: names are used instead");
    probe(
        &features.overlay_upper,
        State::Note,
        "",
        "containers cannot write to a plain directory here: use --scratch-size, or another --root",
    );
    probe(&features.user_namespaces, State::Note, "", "nothing: they are not used yet");
    checks.push(Check {
        name: "cgroups".to_owned(),
        state: State::Ok,
        evidence: format!("{}: {}", features.cgroups, features.cgroup_evidence),
        consequence: String::new(),
    });
    checks
}

fn runtimes(host: &Host) -> Vec<Check> {
    let trials: Vec<_> = try_all(host.run()).collect();
    let used = trials.iter().find(|trial| trial.fault.is_none()).map(|trial| trial.name);
    let mut checks: Vec<Check> = trials
        .iter()
        .map(|trial| Check {
            name: trial.name.to_owned(),
            state: if trial.fault.is_none() { State::Ok } else { State::Note },
            evidence: match (&trial.program, &trial.fault) {
                (Some(program), None) => format!("{} works here", program.display()),
                (Some(program), Some(fault)) => format!("{}: {fault}", program.display()),
                (None, _) => "not installed".to_owned(),
            },
            consequence: match used {
                Some(used) if used == trial.name => "runs containers".to_owned(),
                _ => String::new(),
            },
        })
        .collect();
    if used.is_none() {
        checks.push(Check {
            name: "runtime".to_owned(),
            state: State::Missing,
            evidence: "none of the OCI runtimes works".to_owned(),
            consequence: "install one: apt-get install runc".to_owned(),
        });
    }
    checks
}

fn mkfs() -> Check {
    let places = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
    let found = places.iter().map(|place| Path::new(place).join("mkfs.ext4")).find(|p| p.exists());
    Check {
        name: "mkfs.ext4".to_owned(),
        state: if found.is_some() { State::Ok } else { State::Note },
        evidence: match &found {
            Some(path) => path.display().to_string(),
            None => "not installed".to_owned(),
        },
        consequence: match found {
            Some(_) => "makes the scratch of --scratch-size".to_owned(),
            None => "--scratch-size does not work; apt-get install e2fsprogs".to_owned(),
        },
    }
}
