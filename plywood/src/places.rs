//! Where the store, the run directory and the daemon's socket are: as flags say, or the environment, or the daemon's
//! configuration, or by default.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ArgMatches;
use clap::parser::ValueSource;
use serve::{Config, DEFAULT_FILE, Source};

use crate::cli::{Global, Verb};

/// The directories and the socket, and who named them.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) address: Option<PathBuf>,
    /// Those that flags name: for the daemon, to which the configuration's file counts more than a default.
    pub(crate) flagged: Vec<(&'static str, PathBuf)>,
    unnamed: Vec<&'static str>,
}

impl Places {
    pub(crate) fn new(matches: &ArgMatches, global: &Global) -> Self {
        let mut places = Self {
            root: global.root.clone(),
            run: global.run.clone(),
            address: global.address.clone(),
            flagged: Vec::new(),
            unnamed: Vec::new(),
        };
        for (name, path) in [
            ("root", Some(&global.root)),
            ("run", Some(&global.run)),
            ("address", global.address.as_ref()),
        ] {
            match (matches.value_source(name), path) {
                (Some(ValueSource::CommandLine), Some(path)) => {
                    places.flagged.push((name, path.clone()));
                }
                (Some(ValueSource::EnvVariable), _) => {}
                _ => places.unnamed.push(name),
            }
        }
        places
    }

    /// Fills in what the daemon's configuration says of what nobody named, so that a command works with the daemon's
    /// store.
    pub(crate) fn configured(self, verb: &Verb) -> Result<Self> {
        // These use no store, or read the configuration themselves.
        let apart = matches!(
            verb,
            Verb::Erofs(_)
                | Verb::Version(_)
                | Verb::Wclayer(_)
                | Verb::Serve(_)
                | Verb::Config(_)
                | Verb::ContainerdConfig(_)
        );
        if apart || self.unnamed.is_empty() || !Path::new(DEFAULT_FILE).exists() {
            return Ok(self);
        }
        Ok(self.filled(&Config::load(None, Vec::new())?))
    }

    fn filled(mut self, config: &Config) -> Self {
        for setting in config.sources() {
            let unnamed = self.unnamed.contains(&setting.key);
            if !unnamed || !matches!(setting.source, Source::File(..)) {
                continue;
            }
            match setting.key {
                "root" => self.root.clone_from(&config.root),
                "run" => self.run.clone_from(&config.run),
                _ => self.address = Some(config.address.clone()),
            }
        }
        self
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::cli::{self, Cli};

    #[test]
    fn a_file_counts_for_what_nobody_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "root = \"/of/file\"\naddress = \"/of/file.sock\"\n").unwrap();
        let config = Config::load(Some(&file), Vec::new()).unwrap();
        let places = |line: &[&str]| {
            let matches = cli::command().get_matches_from(line);
            Places::new(&matches, &Cli::from_arg_matches(&matches).unwrap().global)
        };
        // The environment of a test may name them too.
        let ours = std::env::var_os("PLYWOOD_ROOT").is_none();
        assert!(ours && std::env::var_os("PLYWOOD_ADDRESS").is_none());

        let filled = places(&["plywood", "gc"]).filled(&config);
        assert_eq!(filled.root, Path::new("/of/file"));
        assert_eq!(filled.address.as_deref(), Some(Path::new("/of/file.sock")));
        assert!(filled.flagged.is_empty());

        let line = ["plywood", "gc", "--root", "/of/flag", "--address", "/of/flag.sock"];
        let filled = places(&line).filled(&config);
        assert_eq!(filled.root, Path::new("/of/flag"));
        assert_eq!(filled.address.as_deref(), Some(Path::new("/of/flag.sock")));
        assert_eq!(filled.flagged.len(), 2);
    }
}
