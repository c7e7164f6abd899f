//! `cargo xtask demo cim`: layers of Windows made, looked at, compared, mounted and written again on Linux, with every
//! claim checked from outside Plywood where that is possible.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::session::{Session, heading, rate};
use super::traces::{Traces, entries, unmount_below};
use crate::oci_layout::digest_of;
use crate::packages::{self, Purpose};
use crate::windows::{self, REFERENCE, WindowsImage};
use crate::{program, workspace};

/// What is read through the mounts, in the tar's spelling.
const LIBRARY: &str = "Files/Windows/System32/gdi32.dll";

/// A file with streams.
const SETUP: &str = "Files/Users/Public/Downloads/setup.exe";

const NAMES: [&str; 3] = ["base.cim", "first.cim", "second.cim"];

pub(super) fn demo(plywood: Option<&Path>) -> Result<()> {
    packages::set_up(Purpose::Demo)?;
    packages::require_root("demo cim", "the demo mounts images, which takes root")?;
    heading("a Windows-like image, from Debian's Wine packages");
    let image = windows::build(&workspace::target().join("windows"))?;
    let program = super::program_under_test(plywood)?;
    let directory = workspace::target().join("demo-cim");
    unmount_below(&directory)?;
    if directory.exists() {
        std::fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    let cims = directory.join("cims");
    std::fs::create_dir_all(&cims).with_context(|| format!("cannot create {}", cims.display()))?;
    let before = Traces::below(&directory)?;
    let mut demo = Demo { session: Session::new(program, &directory), image, directory, cims };
    println!("$ cd {}", demo.cims.display());
    demo.import()?;
    demo.look()?;
    demo.registry()?;
    demo.mount()?;
    demo.export()?;
    demo.store()?;
    demo.destroy()?;

    heading("nothing is left");
    let after = Traces::below(&demo.directory)?;
    demo.session.claim(after == before, "mounts and loop devices are as before")?;
    demo.session.finish();
    Ok(())
}

struct Demo {
    session: Session,
    image: WindowsImage,
    directory: PathBuf,
    cims: PathBuf,
}

impl Demo {
    fn cim(&self, name: &str) -> Result<String> {
        Ok(self.cims.join(name).to_str().context("the demo's path is not UTF-8")?.to_owned())
    }

    /// Three tars become three images, each a fork of the one before it.
    fn import(&mut self) -> Result<()> {
        heading("import: a layer becomes a CIM, and a child layer a fork");
        let mut parent: Option<String> = None;
        for (tar, name) in self.image.tars.clone().iter().zip(NAMES) {
            let output = self.cim(name)?;
            let tar_name = tar.to_str().context("the image's path is not UTF-8")?;
            let mut words = vec!["cim", "import"];
            if let Some(parent) = &parent {
                words.extend(["--parent", parent.as_str()]);
            }
            words.extend([tar_name, output.as_str()]);
            let (_, took) = self.session.plywood(&words)?;
            let bytes = std::fs::metadata(tar)?.len();
            self.session.stage(&format!("import of {name}"), took, rate(bytes, took));
            parent = Some(output);
        }
        for name in NAMES {
            let path = self.cim(name)?;
            let (_, took) = self.session.plywood(&["cim", "check", &path])?;
            self.session.stage(&format!("check of {name}"), took, "");
        }
        self.session.claim(true, "all three images are sound")?;
        let usage = self.session.json(&["cim", "usage", &self.cim("second.cim")?])?;
        let bytes = |name: &str| usage[0][name].as_u64().unwrap_or(u64::MAX);
        self.session.claim(
            bytes("own") < bytes("total") / 100,
            &format!(
                "the second fork has {} KB of its own and shares {} MB",
                bytes("own") / 1000,
                bytes("parents") / 1_000_000
            ),
        )
    }

    /// What the images say of themselves.
    fn look(&mut self) -> Result<()> {
        heading("look: names, metadata, streams, differences");
        let base = self.cim("base.cim")?;
        self.session.plywood(&["cim", "ls", &base, "/Files"])?;
        self.session.plywood(&["cim", "stat", &base, &format!("/{LIBRARY}")])?;
        let text = |words: &[&str]| -> Result<String> {
            let output = self.session.command(words).output()?;
            anyhow::ensure!(output.status.success(), "`plywood {}` failed", words.join(" "));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let listing = text(&["cim", "ls", "-R", &base, "/"])?;
        let zone = text(&["cim", "cat", &base, &format!("/{SETUP}:Zone.Identifier")])?;
        let other_case = text(&["cim", "stat", &base, "/files/WINDOWS/system32/GDI32.dll"])?;
        let stat = text(&["cim", "stat", "--links", &base, &format!("/{LIBRARY}")])?;
        let first = self.cim("first.cim")?;
        let (diff, took) = {
            let start = Instant::now();
            (text(&["cim", "diff", &base, &first])?, start.elapsed())
        };
        let names = names_of_tar(&self.image.tars[0])?;
        let listed: BTreeSet<&str> =
            listing.lines().filter_map(|line| line.rsplit('/').next()).collect();
        let missing = names.iter().filter(|name| !listed.contains(name.as_str())).count();
        self.session.claim(
            names.len() > 10_000 && missing == 0,
            &format!("all {} names of the tar are in the image, as tar(1) reads them", names.len()),
        )?;
        self.session.claim(zone.contains("ZoneId=3"), "alternate streams are there")?;
        self.session.claim(!other_case.is_empty(), "names are found in any case")?;
        self.session.claim(
            stat.contains("S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"),
            "the library is TrustedInstaller's",
        )?;
        self.session.claim(
            stat.contains("WinSxS") && stat.contains("UtilityVM"),
            "hard links into the side-by-side store and the utility VM are there",
        )?;
        self.session.stage("difference of base and first", took, "");
        for (mark, path) in [
            ('+', "Plywood/agent.exe"),
            ('-', "System32/DriverStore"),
            ('-', "Downloads/setup.exe"),
            ('+', "Plywood/cmd.exe"),
        ] {
            let holds = diff.lines().any(|line| {
                line.starts_with(mark) && line.replace('\\', "/").trim_end().ends_with(path)
            });
            self.session.claim(holds, &format!("the difference has {mark} {path}"))?;
        }
        Ok(())
    }

    /// The merged registry, read by hivex.
    fn registry(&mut self) -> Result<()> {
        heading("registry: changes merged without Windows, read by hivex");
        let hive = |demo: &Self, image: &str, name: &str| -> Result<PathBuf> {
            let words = ["cim", "cat", &demo.cim(image)?, &format!("/Hives/{name}_BASE")];
            let output = demo.session.command(&words).output()?;
            anyhow::ensure!(output.status.success(), "`plywood {}` failed", words.join(" "));
            let path = demo.directory.join(format!("{image}.{name}"));
            std::fs::write(&path, output.stdout)?;
            Ok(path)
        };
        let get = |hive: &Path, key: &str, value: &str| -> Result<String> {
            let mut command = Command::new("hivexget");
            Ok(program::output(command.arg(hive).args([key, value]))?.trim().to_owned())
        };
        let system = hive(self, "second.cim", "SYSTEM")?;
        let agent = r"\ControlSet001\Services\PlywoodAgent";
        let mode = get(&system, &format!(r"{agent}\Parameters"), "Mode")?;
        let path = get(&system, agent, "ImagePath")?;
        self.session.claim(
            mode == "second" && path == r"C:\Plywood\agent.exe",
            "the service that the first layer adds and the second changes is in SYSTEM",
        )?;
        let services = |hive: &Path| -> Result<String> {
            let mut command = Command::new("hivexml");
            program::output(command.arg(hive))
        };
        let (before, after) = (services(&hive(self, "base.cim", "SYSTEM")?)?, services(&system)?);
        let count = |text: &str| text.matches("ImagePath").count();
        self.session.claim(
            count(&before) == count(&after) && before.contains("CurrentUser"),
            "one service is gone and one is new",
        )?;
        self.session
            .claim(!after.contains("CurrentUser"), "a value that a layer deletes is gone")?;
        let software = hive(self, "second.cim", "SOFTWARE")?;
        let version = get(&software, r"\Microsoft\Windows NT\CurrentVersion", "UBR")?;
        self.session.claim(version.contains("2900"), "SOFTWARE has the new revision")?;
        let class = services(&software)?;
        self.session.claim(
            class.contains("Plywood.Class.0006") && !class.contains("Plywood.Class.0007"),
            "a class that the second layer deletes is gone, its neighbour is not",
        )
    }

    /// Both ways of mounting, compared with each other and with the tar.
    fn mount(&mut self) -> Result<()> {
        heading("mount: by the kernel, and by FUSE");
        let second = self.cim("second.cim")?;
        let target = self.directory.join("mounted");
        std::fs::create_dir_all(&target)?;
        let directory = target.to_str().context("the demo's path is not UTF-8")?.to_owned();
        let original = self.directory.join("gdi32.dll");
        let mut extract = Command::new("tar");
        extract
            .args(["--warning=no-unknown-keyword", "--to-stdout", "-xf"])
            .arg(&self.image.tars[0])
            .arg(LIBRARY);
        let output = extract.output().context("cannot start tar")?;
        std::fs::write(&original, output.stdout)?;
        let (original, _) = digest_of(&original)?;
        let mut seen = Vec::new();
        for driver in ["erofs", "fuse"] {
            let words = ["mount", "--driver", driver, &second, &directory];
            let (_, took) = self.session.plywood(&words)?;
            self.session.stage(&format!("mount by {driver}"), took, "");
            let library = target.join(LIBRARY);
            let (digest, _) = digest_of(&library)?;
            self.session.claim(digest == original, "the library is that of Debian's package")?;
            let version = version_of(&library)?;
            self.session.claim(
                version.contains("Wine core dll") && version.contains("gdi32.dll"),
                "icoutils reads its version resource",
            )?;
            self.session.claim(
                !target.join(SETUP).exists()
                    && !target.join("Files/Plywood/cmd.exe").exists()
                    && target.join("Files/Plywood/current/settings.json").is_file()
                    && target.join("Files/Plywood/wwwroot/static/08").is_file(),
                "what the layers delete and replace is deleted and replaced",
            )?;
            let start = Instant::now();
            let mut tar = Command::new("find");
            tar.arg(&target).args(["-printf", "%P %y %s %l\n"]);
            let mut listing: Vec<String> =
                program::output(&mut tar)?.lines().map(str::to_owned).collect();
            self.session.stage(
                &format!("find by {driver}"),
                start.elapsed(),
                format!("{} names", listing.len()),
            );
            // Of directories the length means nothing.
            for line in &mut listing {
                if let Some((name, _)) = line.split_once(" d ") {
                    *line = format!("{name} d");
                }
            }
            listing.sort();
            seen.push(listing);
            self.session.plywood(&["umount", &directory])?;
        }
        self.session.claim(
            seen[0] == seen[1] && seen[0].len() > 10_000,
            &format!("both show the same {} names, kinds, lengths and targets", seen[0].len()),
        )
    }

    /// Tars of the images, and images of those tars.
    fn export(&mut self) -> Result<()> {
        heading("export: tars again, and the same images of them");
        let (base, first) = (self.cim("base.cim")?, self.cim("first.cim")?);
        let again = self.directory.join("again");
        std::fs::create_dir_all(&again)?;
        let at = |name: &str| -> Result<String> {
            Ok(again.join(name).to_str().context("the demo's path is not UTF-8")?.to_owned())
        };
        let (base_tar, first_tar) = (at("base.tar")?, at("first.tar")?);
        let (base_again, first_again) = (at("base.cim")?, at("first.cim")?);
        let (_, took) = self.session.plywood(&["cim", "export", &base, &base_tar])?;
        let bytes = std::fs::metadata(&base_tar)?.len();
        self.session.stage("export of base.cim", took, rate(bytes, took));
        self.session.plywood(&["cim", "export", "--parent", &base, &first, &first_tar])?;
        let small = std::fs::metadata(&first_tar)?.len();
        self.session.claim(small < bytes / 50, "the difference is a small tar")?;
        self.session.plywood(&["cim", "import", &base_tar, &base_again])?;
        let import = ["cim", "import", "--parent", &base_again, &first_tar, &first_again];
        self.session.plywood(&import)?;
        for (one, other) in [(&base, &base_again), (&first, &first_again)] {
            let diff = self.session.json(&["cim", "diff", one, other])?;
            self.session.claim(diff.is_empty(), "tar to CIM to tar to CIM gives an equal image")?;
        }
        std::fs::remove_dir_all(&again).context("cannot remove the second images")
    }

    /// The whole image through the store.
    fn store(&mut self) -> Result<()> {
        heading("the store: an image for windows/amd64 on Linux");
        let archive = self.image.archive.clone();
        let archive = archive.to_str().context("the image's path is not UTF-8")?;
        let import = ["image", "import", "--platform", "windows/amd64", archive];
        let (_, took) = self.session.plywood(&import)?;
        self.session.stage("image import", took, "three layers, zstd");
        let (list, _) = self.session.plywood(&["image", "list"])?;
        self.session.claim(list.contains("windows/amd64"), "the image is listed")?;
        let target = self.directory.join("mounted");
        let directory = target.to_str().context("the demo's path is not UTF-8")?.to_owned();
        let (_, took) = self.session.plywood(&["mount", REFERENCE, &directory])?;
        self.session.stage("mount of the image", took, "the top layer is the whole tree");
        self.session.claim(
            target.join(LIBRARY).is_file()
                && target.join("Files/Plywood/current/settings.json").is_file(),
            "one file system shows what all three layers hold",
        )?;
        self.session.plywood(&["umount", &directory])?;
        self.session.plywood(&["fsck"])?;
        self.session.plywood(&["image", "remove", REFERENCE])?;
        self.session.plywood(&["gc"])?;
        let left = entries(&self.session.root.join("cim-layers"))?;
        self.session.claim(left == 0, "gc leaves no file of a CIM behind")
    }

    /// Forks first, then their parents.
    fn destroy(&mut self) -> Result<()> {
        heading("destroy");
        let base = self.cim("base.cim")?;
        let refused = self.session.command(&["cim", "destroy", &base]).output()?;
        self.session.claim(!refused.status.success(), "an image with forks is not destroyed")?;
        for name in NAMES.iter().rev() {
            self.session.plywood(&["cim", "destroy", &self.cim(name)?])?;
        }
        self.session.claim(entries(&self.cims)? == 0, "no region file is left")
    }
}

/// The names of files and directories in a layer's tar, base names only, as GNU tar sees them.
fn names_of_tar(tar: &Path) -> Result<BTreeSet<String>> {
    let mut list = Command::new("tar");
    list.args(["--warning=no-unknown-keyword", "--quoting-style=literal", "-tf"]).arg(tar);
    let names = program::output(&mut list)?;
    let last = |line: &str| line.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
    // Names with a colon are alternate streams.
    Ok(names.lines().filter_map(last).filter(|name| !name.contains(':')).collect())
}

/// The text of a program's version resource, by icoutils.
fn version_of(program: &Path) -> Result<String> {
    let mut command = Command::new("wrestool");
    command.args(["--extract", "--raw", "--type=version"]).arg(program);
    let output = command.output().context("cannot start wrestool")?;
    anyhow::ensure!(output.status.success(), "wrestool ended with {}", output.status);
    let units = output.stdout.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    Ok(char::decode_utf16(units).map(|unit| unit.unwrap_or('?')).collect())
}
