//! The registry of the image: five full hives that hivex fills, and the deltas of the child layers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::regf::{self, Key, layered};

/// Names under `Files/Windows/System32/config`.
pub(super) const NAMES: [&str; 5] = ["SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT"];

/// The full hive of a name, made by hivexsh in `directory`. `services` become keys of SYSTEM.
pub(super) fn full(name: &str, services: &[String], directory: &Path) -> Result<Vec<u8>> {
    let path = directory.join(format!("{name}.hive"));
    let seed = regf::write(&Key::new("ROOT", 0), false);
    std::fs::write(&path, seed).with_context(|| format!("cannot write {}", path.display()))?;
    let mut hivexsh = Command::new("hivexsh");
    hivexsh.arg("-w").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = hivexsh.spawn().context("cannot start hivexsh")?;
    let mut input = child.stdin.take().context("hivexsh has no standard input")?;
    input.write_all(script(name, services).as_bytes()).context("cannot speak to hivexsh")?;
    drop(input);
    let status = child.wait().context("cannot wait for hivexsh")?;
    ensure!(status.success(), "hivexsh ended with {status}");
    let hive = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(hive)
}

/// hivexsh's commands.
#[derive(Default)]
struct Script(String);

impl Script {
    /// A key, its parent there, with its values in hivexsh's words.
    fn key(&mut self, parent: &str, name: &str, values: &[(&str, String)]) {
        // Writing to a String cannot fail.
        _ = writeln!(self.0, "cd \\{parent}\nadd {name}\ncd {name}\nsetval {}", values.len());
        for (name, value) in values {
            _ = writeln!(self.0, "{name}\n{value}");
        }
    }
}

fn text(value: &str) -> String {
    format!("string:{value}")
}

fn number(value: u32) -> String {
    format!("dword:{value:#x}")
}

fn script(name: &str, services: &[String]) -> String {
    let mut script = Script::default();
    match name {
        "SYSTEM" => {
            let current = [("Current", number(1)), ("Default", number(1))];
            script.key("", "Select", &current);
            script.key("", "ControlSet001", &[]);
            script.key("ControlSet001", "Control", &[("CurrentUser", text("USERNAME"))]);
            script.key("ControlSet001\\Control", "ComputerName", &[]);
            let computer = [("ComputerName", text("PLYWOOD"))];
            script.key("ControlSet001\\Control\\ComputerName", "ComputerName", &computer);
            script.key("ControlSet001\\Control", "Session Manager", &[]);
            let path = [
                ("Path", text("%SystemRoot%\\system32;%SystemRoot%")),
                ("NUMBER_OF_PROCESSORS", text("2")),
            ];
            script.key("ControlSet001\\Control\\Session Manager", "Environment", &path);
            script.key("ControlSet001", "Services", &[]);
            for (start, service) in (0..).zip(services) {
                let values = [
                    ("ImagePath", text(&format!("\\SystemRoot\\System32\\drivers\\{service}.sys"))),
                    ("DisplayName", text(service)),
                    ("Start", number(start % 5)),
                    ("Type", number(1)),
                ];
                script.key("ControlSet001\\Services", service, &values);
            }
        }
        "SOFTWARE" => {
            script.key("", "Microsoft", &[]);
            script.key("Microsoft", "Windows NT", &[]);
            let version = [
                ("ProductName", text("Plywood Test Server")),
                ("CurrentBuild", text("20348")),
                ("UBR", number(2849)),
                ("DigitalProductId", format!("hex:3:{}", hex(900))),
            ];
            script.key("Microsoft\\Windows NT", "CurrentVersion", &version);
            script.key("Microsoft", "Windows", &[]);
            script.key("Microsoft\\Windows", "CurrentVersion", &[]);
            script.key("", "Classes", &[]);
            for number in 0..400 {
                let class = format!("Plywood.Class.{number:04}");
                script.key("Classes", &class, &[("FriendlyTypeName", text(&class))]);
            }
        }
        "SAM" => {
            script.key("", "SAM", &[("C", format!("hex:3:{}", hex(160)))]);
            script.key("SAM", "Domains", &[]);
            script.key("SAM\\Domains", "Account", &[("F", format!("hex:3:{}", hex(240)))]);
        }
        "SECURITY" => {
            script.key("", "Policy", &[]);
            script.key("Policy", "PolRevision", &[("Revision", number(1))]);
        }
        _ => {
            script.key("", "Control Panel", &[]);
            script.key("Control Panel", "Desktop", &[("WheelScrollLines", text("3"))]);
            script.key("", "Software", &[]);
        }
    }
    script.0.push_str("commit\nquit\n");
    script.0
}

fn hex(length: usize) -> String {
    let bytes: Vec<String> = (0..length).map(|at| format!("{:02x}", at * 7 % 256)).collect();
    bytes.join(",")
}

/// The differencing hives of the first child layer, under the names that Microsoft writes.
pub(super) fn first_deltas(service: &str) -> Vec<(&'static str, Vec<u8>)> {
    let promoted = |name: &str| Key::new(name, layered::PROMOTED);
    let system = root().with(
        promoted("ControlSet001")
            .with(
                promoted("Services")
                    .with(Key::new(&service.to_ascii_uppercase(), layered::TOMBSTONE))
                    .with(
                        Key::new("PlywoodAgent", layered::MERGE)
                            .number("Start", 2)
                            .text("ImagePath", "C:\\Plywood\\agent.exe")
                            .with(Key::new("Parameters", layered::MERGE).text("Mode", "first")),
                    ),
            )
            .with(promoted("Control").without("CurrentUser")),
    );
    let software = root().with(
        promoted("Microsoft")
            .with(promoted("Windows NT").with(promoted("CurrentVersion").number("UBR", 2900))),
    );
    let default = root().with(promoted("Control Panel").with(
        Key::new("Desktop", layered::SUPERSEDE_TREE).text("WallPaper", "C:\\Plywood\\paper.png"),
    ));
    vec![
        ("DefaultUser_Delta", regf::write(&default, true)),
        ("Software_Delta", regf::write(&software, true)),
        ("System_Delta", regf::write(&system, true)),
    ]
}

/// Those of the second child layer: all five, as Windows writes them.
pub(super) fn second_deltas() -> Vec<(&'static str, Vec<u8>)> {
    let promoted = |name: &str| Key::new(name, layered::PROMOTED);
    let system = root().with(
        promoted("ControlSet001")
            .with(promoted("Services").with(
                promoted("PlywoodAgent").with(promoted("Parameters").text("Mode", "second")),
            )),
    );
    let classes =
        root().with(promoted("Classes").with(Key::new("PLYWOOD.CLASS.0007", layered::TOMBSTONE)));
    let empty = || regf::write(&root(), true);
    vec![
        ("DefaultUser_Delta", empty()),
        ("Sam_Delta", empty()),
        ("Security_Delta", empty()),
        ("Software_Delta", regf::write(&classes, true)),
        ("System_Delta", regf::write(&system, true)),
    ]
}

fn root() -> Key {
    Key::new("ROOT", layered::MERGE)
}
