//! A Windows host: build, DLLs and their entry points, privileges, filters. **Never run on a real HCS host.**

use store::HostForm;
use sys::windows::{HResult, Host, LibraryFacts, Privilege};

use super::{Check, State};

/// What the DLLs are for. `offreg.dll` is for nothing: Plywood merges registry hives itself.
const LIBRARIES: [(&str, &str); 5] = [
    ("vmcompute.dll", "layers of the Windows filter"),
    ("computestorage.dll", "scratch disks and filters"),
    ("virtdisk.dll", "scratch disks"),
    ("cimfs.dll", "layers as CIMs; layer folders work without"),
    ("computecore.dll", "virtual machines"),
];
/// Of these, the ones that every layer takes.
const NEEDED: [&str; 3] = ["vmcompute.dll", "computestorage.dll", "virtdisk.dll"];

/// The filters that show a container its layers, and what for.
const FILTERS: [(&str, &str); 2] = [("wcifs", "layers as folders"), ("unionfs", "layers as CIMs")];

/// Privileges that layers take.
const PRIVILEGES: [(&str, &str); 3] = [
    (Privilege::BACKUP, "reading layers"),
    (Privilege::RESTORE, "writing layers"),
    (Privilege::MANAGE_VOLUME, "expanding scratch disks"),
];

#[cfg(windows)]
pub(super) fn checks(_session: &crate::Session, _args: &crate::cli::DoctorArgs) -> Vec<Check> {
    of(&sys::windows::System::new())
}

/// Everything that can be asked of a host.
pub(super) fn of(host: &dyn Host) -> Vec<Check> {
    let mut checks = vec![user(host)];
    checks.extend(build(host));
    checks.extend(host.libraries().iter().map(library));
    checks.extend(privileges(host));
    checks.extend(filters(host));
    checks
}

fn check(name: &str, state: State, evidence: impl Into<String>, then: impl Into<String>) -> Check {
    Check { name: name.to_owned(), state, evidence: evidence.into(), consequence: then.into() }
}

fn unknown(name: &str, error: &sys::windows::Error) -> Check {
    check(name, State::Unknown, error.to_string(), "")
}

fn user(host: &dyn Host) -> Check {
    match host.is_elevated() {
        Ok(true) => check("user", State::Ok, "elevated", ""),
        Ok(false) => check(
            "user",
            State::Missing,
            "not elevated",
            "layers take an administrator; start an elevated prompt",
        ),
        Err(error) => unknown("user", &error),
    }
}

fn build(host: &dyn Host) -> Vec<Check> {
    let version = match host.version() {
        Ok(version) => version,
        Err(error) => return vec![unknown("windows", &error)],
    };
    let mut checks = vec![check("windows", State::Ok, version.to_string(), "")];
    for form in [HostForm::Folders, HostForm::Cims] {
        let name = format!("snapshots-{form}");
        checks.push(match form.check_build(version.build, version.revision) {
            Ok(()) => check(&name, State::Ok, "this build has it", ""),
            Err(error) => check(&name, State::Note, error.to_string(), "layer folders are used"),
        });
    }
    checks
}

fn library(facts: &LibraryFacts) -> Check {
    let used = LIBRARIES.iter().find(|(dll, _)| *dll == facts.dll).map_or("", |(_, used)| used);
    if facts.missing.is_empty() {
        return check(facts.dll, State::Ok, "all functions are there", used);
    }
    let missing: Vec<String> = facts.missing.iter().map(ToString::to_string).collect();
    let state = if NEEDED.contains(&facts.dll) { State::Missing } else { State::Note };
    let then = match used {
        "" => String::new(),
        used => format!("needed for {used}; Install-WindowsFeature Containers, Hyper-V"),
    };
    check(facts.dll, state, missing.join("; "), then)
}

fn privileges(host: &dyn Host) -> Vec<Check> {
    let held = match host.privileges() {
        Ok(held) => held,
        Err(error) => return vec![unknown("privileges", &error)],
    };
    let one = |(name, used): &(&str, &str)| match held.iter().find(|it| it.name == *name) {
        Some(held) if held.enabled => check(name, State::Ok, "in force", ""),
        Some(_) => check(name, State::Ok, "held; taken when it is needed", ""),
        None => check(name, State::Missing, "not held", format!("needed for {used}")),
    };
    PRIVILEGES.iter().map(one).collect()
}

fn filters(host: &dyn Host) -> Vec<Check> {
    let loaded = match host.filters() {
        Ok(loaded) => loaded,
        Err(error) if error.code() == HResult::ACCESS_DENIED => {
            return vec![check(
                "filters",
                State::Unknown,
                error.to_string(),
                "take an administrator",
            )];
        }
        Err(error) => return vec![unknown("filters", &error)],
    };
    let is_loaded = |name: &str| loaded.iter().any(|it| it.eq_ignore_ascii_case(name));
    let one = |(name, used): &(&str, &str)| match is_loaded(name) {
        true => check(name, State::Ok, "loaded", ""),
        // Windows loads them when the first container wants them.
        false => check(name, State::Note, "not loaded", format!("is loaded for {used}")),
    };
    FILTERS.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use sys::windows::recording::{Facts, Recorder};

    use super::*;

    fn state(checks: &[Check], name: &str) -> Option<State> {
        checks.iter().find(|check| check.name == name).map(|check| check.state)
    }

    #[test]
    fn a_host_with_everything_is_ok_and_one_with_nothing_says_what_to_do() {
        let host = Recorder::new();
        let good = of(&host);
        let others: Vec<&str> =
            good.iter().filter(|it| it.state != State::Ok).map(|it| it.name.as_str()).collect();
        assert_eq!(others, [""; 0]);
        for name in
            ["user", "windows", "snapshots-windows", "snapshots-cimfs", "wcifs", "cimfs.dll"]
        {
            assert!(state(&good, name).is_some(), "{name} is missing");
        }

        let mut facts = Facts { elevated: false, ..Facts::default() };
        facts.version.build = 17763;
        facts.privileges.clear();
        facts.filters.clear();
        host.set_facts(facts);
        let poor = of(&host);
        for (name, wanted) in [
            ("user", State::Missing),
            ("windows", State::Ok),
            ("snapshots-windows", State::Ok),
            ("snapshots-cimfs", State::Note),
            (Privilege::BACKUP, State::Missing),
            (Privilege::RESTORE, State::Missing),
            (Privilege::MANAGE_VOLUME, State::Missing),
            ("wcifs", State::Note),
            ("unionfs", State::Note),
        ] {
            assert_eq!(state(&poor, name), Some(wanted), "{name}");
        }
        let cims = poor.iter().find(|check| check.name == "snapshots-cimfs").unwrap();
        assert!(cims.evidence.contains("20348.2031"), "{}", cims.evidence);
    }

    #[test]
    fn what_is_missing_says_which_build_has_it() {
        let missing = sys::windows::Missing {
            dll: "cimfs.dll",
            entry: Some("CimMountImage"),
            needs_build: 19041,
        };
        let cims = library(&LibraryFacts { dll: "cimfs.dll", missing: vec![missing.clone()] });
        assert_eq!(cims.state, State::Note);
        assert!(cims.evidence.contains("CimMountImage") && cims.evidence.contains("19041"));
        let needed = LibraryFacts { dll: "vmcompute.dll", missing: vec![missing] };
        assert_eq!(library(&needed).state, State::Missing);
        assert_eq!(
            library(&LibraryFacts { dll: "virtdisk.dll", missing: vec![] }).state,
            State::Ok
        );
    }
}
