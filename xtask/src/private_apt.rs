//! An apt of our own: what is fetched with it changes neither the host's sources nor its lists nor what is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{apt_sources, program};

/// One suite of the host's mirror, for the architectures asked for.
pub(crate) struct PrivateApt {
    directory: PathBuf,
    architectures: Vec<String>,
}

impl PrivateApt {
    /// With fresh lists. `kind` is `deb` or `deb-src`; no architectures are the host's.
    pub(crate) fn new(
        directory: &Path,
        kind: &str,
        suite: &str,
        architectures: &[&str],
    ) -> Result<Self> {
        for part in ["lists/partial", "archives/partial", "files"] {
            std::fs::create_dir_all(directory.join(part))
                .with_context(|| format!("cannot create {}", directory.join(part).display()))?;
        }
        let sources = apt_sources::of_host()?;
        let mirror = sources
            .iter()
            .find(|source| source.suite == "bookworm")
            .context("the apt sources of this host have no `bookworm`")?;
        let list = directory.join("sources.list");
        std::fs::write(&list, format!("{}\n", mirror.line(kind, suite)))
            .with_context(|| format!("cannot write {}", list.display()))?;
        let architectures = architectures.iter().map(|&name| name.to_owned()).collect();
        let apt = Self { directory: directory.to_owned(), architectures };
        program::run(&mut apt.command(&["update"]))?;
        Ok(apt)
    }

    /// `apt-get` in [`Self::files`].
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        let at =
            |option: &str, path: &str| format!("{option}={}", self.directory.join(path).display());
        command
            .args(["-q", "-o", "Dir::Etc::SourceParts=/dev/null", "-o"])
            .arg(at("Dir::Etc::SourceList", "sources.list"))
            .args(["-o", &at("Dir::State::Lists", "lists")])
            .args(["-o", &at("Dir::Cache", "")])
            // The sandbox user cannot write below a home directory that is closed to others.
            .args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"])
            .current_dir(self.files());
        for name in &self.architectures {
            command.args(["-o", &format!("APT::Architectures::={name}")]);
        }
        command.args(arguments);
        command
    }

    /// Where `source` and `download` put things.
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    /// Downloads binary packages and returns their files.
    pub(crate) fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = self.command(&["download"]);
        program::run(command.args(packages))?;
        let mut files = Vec::new();
        for entry in
            std::fs::read_dir(self.files()).context("cannot list what apt-get downloaded")?
        {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.push(path);
            }
        }
        files.sort();
        ensure!(files.len() == packages.len(), "apt-get downloaded {} packages", files.len());
        Ok(files)
    }
}
