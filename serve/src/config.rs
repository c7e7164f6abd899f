//! The daemon's configuration: defaults, then the file, then the environment, then flags; every value remembers where
//! it came from.

mod file;
#[cfg(target_os = "linux")]
#[path = "config/linux_places.rs"]
mod places;
#[cfg(windows)]
#[path = "config/windows_places.rs"]
mod places;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use settings::{LogFormat, LogLevel, MountForm};

use self::settings::{SETTINGS, Setting};
use crate::error::{Error, Result};

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_FILE: &str = places::FILE;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A line, counted from one, of the file.
    File(PathBuf, usize),
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The setting's key, as in the file: `log.level`.
    pub key: &'static str,
    /// How the flag is called: `--log-level`.
    pub name: String,
    /// Its value, as the file's string would be.
    pub value: String,
}

/// One setting with its value, for people.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The key, as in the file: `log.level`.
    pub key: &'static str,
    /// The value as it is written in the file.
    pub value: String,
    /// Where it came from.
    pub source: Source,
    /// What it means.
    pub about: &'static str,
    /// Whether SIGHUP takes in a changed value; others need a restart.
    pub reloadable: bool,
}

/// What the daemon does and where.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The store's directory.
    pub root: PathBuf,
    /// The directory of volumes and of the journal.
    pub run: PathBuf,
    /// The socket.
    pub address: PathBuf,
    /// The least severe lines that are logged.
    pub log_level: LogLevel,
    /// How they look.
    pub log_format: LogFormat,
    /// Where metrics are served: `host:port`, or the absolute path of a socket; `None`: nowhere.
    pub metrics_address: Option<String>,
    /// The form of the mounts that are answered.
    pub mounts: MountForm,
    /// Whether overlays keep their marks in `user.` attributes, for mounting in a user namespace.
    pub userxattr: bool,
    /// Size in bytes of the scratch of a container that names none; `None`: a directory, without limit.
    pub scratch_size: Option<u64>,
    /// Most layers that are converted or compared at a time.
    pub differ_concurrency: usize,
    /// containerd's socket, for the content of layers.
    pub containerd_address: PathBuf,
    /// How layers are kept.
    #[cfg(windows)]
    pub windows_layers: store::HostForm,
    file: Option<PathBuf>,
    flags: Vec<Flag>,
    sources: BTreeMap<&'static str, Source>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: places::ROOT.into(),
            run: places::RUN.into(),
            address: places::address(Path::new(places::RUN)),
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            metrics_address: None,
            mounts: MountForm::Plain,
            userxattr: false,
            scratch_size: None,
            differ_concurrency: std::thread::available_parallelism().map_or(2, usize::from),
            containerd_address: places::CONTAINERD.into(),
            #[cfg(windows)]
            windows_layers: store::HostForm::Folders,
            file: None,
            flags: Vec::new(),
            sources: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the configuration: `file` if it is named, [`DEFAULT_FILE`] if that exists; then the environment's
    /// `PLYWOOD_…`; then `flags`.
    ///
    /// # Errors
    /// `Configuration`, naming file, line and key, variable, or flag.
    pub fn load(file: Option<&Path>, flags: Vec<Flag>) -> Result<Self> {
        let environment = |name: &str| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(Error::configuration(format!("environment {name}: not text")))
            }
        };
        Self::merged(file, flags, environment)
    }

    fn merged(
        file: Option<&Path>,
        flags: Vec<Flag>,
        environment: impl Fn(&str) -> Result<Option<String>>,
    ) -> Result<Self> {
        let mut config = Self { file: file.map(Path::to_owned), ..Self::default() };
        let (path, must_exist) = match file {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_FILE), false),
        };
        if let Some(text) = file::read(path, must_exist)? {
            for entry in file::entries(path, &text)? {
                let source = Source::File(path.to_owned(), entry.line);
                config.set(entry.setting, &entry.value, source)?;
            }
        }
        for setting in SETTINGS {
            let name = setting.variable();
            if let Some(value) = environment(&name)? {
                config.set(setting, &value, Source::Environment(name))?;
            }
        }
        for flag in &flags {
            let setting = settings::find(flag.key)
                .ok_or_else(|| Error::configuration(format!("there is no setting {}", flag.key)))?;
            config.set(setting, &flag.value, Source::Flag(flag.name.clone()))?;
        }
        config.flags = flags;
        if !config.sources.contains_key("address") {
            config.address = places::address(&config.run);
        }
        Ok(config)
    }

    /// Reads the configuration again from the same places.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<Self> {
        Self::load(self.file.as_deref(), self.flags.clone())
    }

    /// Keys whose values differ in `new` but take a restart.
    pub(crate) fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changed = |setting: &&Setting| (setting.get)(self) != (setting.get)(new);
        let fixed = SETTINGS.iter().filter(|setting| !setting.reloadable);
        fixed.filter(changed).map(|setting| setting.key).collect()
    }

    /// This configuration with the reloadable values of `new`.
    pub(crate) fn taking_in(&self, new: Self) -> Self {
        let mut config = self.clone();
        config.log_level = new.log_level;
        config.mounts = new.mounts;
        config.userxattr = new.userxattr;
        config.scratch_size = new.scratch_size;
        config.containerd_address = new.containerd_address;
        config.sources = new.sources;
        config
    }

    fn set(&mut self, setting: &'static Setting, value: &str, source: Source) -> Result<()> {
        (setting.set)(self, value).map_err(|reason| {
            Error::configuration(format!("{source}: {}: {reason}, not {value:?}", setting.key))
        })?;
        self.sources.insert(setting.key, source);
        Ok(())
    }

    /// Every setting with its value and where that came from, in the file's order.
    pub fn sources(&self) -> impl Iterator<Item = Configured> + '_ {
        SETTINGS.iter().map(|setting| Configured {
            key: setting.key,
            value: (setting.get)(self),
            source: self.sources.get(setting.key).cloned().unwrap_or(Source::Default),
            about: setting.about,
            reloadable: setting.reloadable,
        })
    }

    /// A configuration file with every key, its meaning and its default, all commented out.
    pub fn example() -> String {
        settings::example(&Self::default())
    }
}

#[cfg(test)]
mod tests;
