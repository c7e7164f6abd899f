//! What the package installs, and where.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};

use crate::{program, workspace};

/// One file of the package.
#[derive(Debug)]
pub(crate) struct Installed {
    from: PathBuf,
    /// Below the root, without a leading slash.
    pub(crate) to: String,
    mode: u32,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    AsItIs,
    /// As Debian wants man pages and change logs; `.gz` is already part of the name.
    Gzip,
    /// A program without its debug information.
    Stripped,
}

/// The program and its agent in virtual machines, units, completions, manual pages, documents and configuration.
pub(crate) fn files(guest: PathBuf) -> Result<Vec<Installed>> {
    let (root, target) = (workspace::root(), workspace::target());
    let plain = |from: PathBuf, to: &str| Installed {
        from,
        to: to.to_owned(),
        mode: 0o644,
        form: Form::AsItIs,
    };
    let completions = target.join("docs/completions");
    let packaging = root.join("packaging");
    let mut files = vec![
        Installed {
            from: target.join("release/plywood"),
            to: "usr/bin/plywood".to_owned(),
            mode: 0o755,
            form: Form::Stripped,
        },
        Installed {
            from: guest,
            to: "usr/lib/plywood/plywood-guest".to_owned(),
            mode: 0o755,
            form: Form::Stripped,
        },
        plain(root.join("serve/config.toml"), "etc/plywood/config.toml"),
        plain(packaging.join("systemd/plywood.service"), "lib/systemd/system/plywood.service"),
        plain(packaging.join("systemd/plywood.socket"), "lib/systemd/system/plywood.socket"),
        plain(completions.join("plywood.bash"), "usr/share/bash-completion/completions/plywood"),
        plain(completions.join("_plywood"), "usr/share/zsh/vendor-completions/_plywood"),
        plain(completions.join("plywood.fish"), "usr/share/fish/vendor_completions.d/plywood.fish"),
        plain(packaging.join("debian/copyright"), "usr/share/doc/plywood/copyright"),
    ];
    for page in ["containerd", "nerdctl", "kubernetes", "migration"] {
        let name = format!("{page}.md");
        files.push(plain(root.join("docs").join(&name), &format!("usr/share/doc/plywood/{name}")));
    }
    let manual = target.join("docs/man");
    for name in names(&manual)? {
        files.push(Installed {
            from: manual.join(&name),
            to: format!("usr/share/man/man1/{name}.gz"),
            mode: 0o644,
            form: Form::Gzip,
        });
    }
    Ok(files)
}

/// Names in a directory, in order.
fn names(directory: &Path) -> Result<Vec<String>> {
    let doing = || format!("cannot list {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(doing)? {
        let name = entry.with_context(doing)?.file_name();
        names.push(name.into_string().ok().with_context(doing)?);
    }
    names.sort();
    ensure!(!names.is_empty(), "{} is empty", directory.display());
    Ok(names)
}

/// The directory that becomes the package.
#[derive(Debug)]
pub(crate) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// Begins with an empty directory.
    pub(crate) fn fresh(root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)
                .with_context(|| format!("cannot remove {}", root.display()))?;
        }
        let stage = Self { root: root.to_owned() };
        stage.directory("DEBIAN")?;
        Ok(stage)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts one file in its place.
    pub(crate) fn install(&self, file: &Installed) -> Result<()> {
        let doing = || format!("cannot package {}", file.from.display());
        match file.form {
            Form::AsItIs => {
                let bytes = fs::read(&file.from).with_context(doing)?;
                self.write(&file.to, &bytes, file.mode)
            }
            Form::Gzip => {
                let bytes = fs::read(&file.from).with_context(doing)?;
                self.write_gzip(&file.to, &bytes)
            }
            Form::Stripped => {
                let to = self.root.join(&file.to);
                self.directory(parent(&file.to))?;
                let mut strip = Command::new("strip");
                strip.args(["--strip-unneeded", "-o"]).arg(&to).arg(&file.from);
                program::run(&mut strip)?;
                set_mode(&to, file.mode)
            }
        }
    }

    /// Debian's change log: one entry, which points to ours.
    pub(crate) fn changelog(&self, epoch: &str) -> Result<()> {
        let mut date = Command::new("date");
        date.env("LC_ALL", "C").args(["-u", "-R", "-d"]).arg(format!("@{epoch}"));
        let text = format!(
            "plywood ({}) unstable; urgency=medium\n\n  \
             * Packaged from the sources of this version.\n\n -- {}  {}\n",
            env!("CARGO_PKG_VERSION"),
            super::control::MAINTAINER,
            program::output(&mut date)?.trim()
        );
        self.write_gzip("usr/share/doc/plywood/changelog.gz", text.as_bytes())
    }

    /// Writes a file of the package.
    pub(crate) fn write(&self, to: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.directory(parent(to))?;
        let path = self.root.join(to);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        set_mode(&path, mode)
    }

    fn write_gzip(&self, to: &str, bytes: &[u8]) -> Result<()> {
        // Neither name nor time in the header: same text, same bytes.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        let packed = gzip.write_all(bytes).and_then(|()| gzip.finish());
        self.write(to, &packed.with_context(|| format!("cannot compress {to}"))?, 0o644)
    }

    /// Makes a directory and those above it, passable for all whatever our umask is.
    fn directory(&self, directory: &str) -> Result<()> {
        let mut path = self.root.clone();
        for part in Path::new(directory) {
            path.push(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            set_mode(&path, 0o755)?;
        }
        set_mode(&self.root, 0o755)
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}
