//! The table of settings: key, meaning, how a value is read and written.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Config;

/// The least severe lines that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed and needs somebody.
    Error,
    /// What is odd, and calls that failed for reasons of ours.
    Warn,
    /// What starts and ends.
    Info,
    /// Every call.
    Debug,
    /// Everything.
    Trace,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The form of the mounts that the snapshotter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountForm {
    /// `bind` and `overlay` over volumes that the daemon has mounted; any containerd can perform them.
    Plain,
    /// `erofs` and `format/mkdir/overlay` over the layer files; containerd 2.2 and later, and VM runtimes.
    Erofs,
}

/// One key of the configuration.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) about: &'static str,
    pub(super) reloadable: bool,
    /// The value in the example, where the default cannot be written down.
    example: Option<&'static str>,
    /// The error is what would be right: "expected …".
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) get: fn(&Config) -> String,
}

impl Setting {
    /// Its variable of the environment.
    pub(super) fn variable(&self) -> String {
        format!("PLYWOOD_{}", self.key.replace('.', "_").to_uppercase())
    }
}

pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "root",
        about: "Directory of the store: layers, snapshots and their metadata. A local file system.",
        reloadable: false,
        example: None,
        set: |config, value| path(value).map(|path| config.root = path),
        get: |config| quoted(&config.root.to_string_lossy()),
    },
    Setting {
        key: "run",
        about: "Directory of mounted volumes and of their journal. Emptied by a reboot (tmpfs).",
        reloadable: false,
        example: None,
        set: |config, value| path(value).map(|path| config.run = path),
        get: |config| quoted(&config.run.to_string_lossy()),
    },
    Setting {
        key: "address",
        about: "Socket that containerd and the command line call. By default plywood.sock in the run directory.",
        reloadable: false,
        example: None,
        set: |config, value| path(value).map(|path| config.address = path),
        get: |config| quoted(&config.address.to_string_lossy()),
    },
    Setting {
        key: "log.level",
        about: "Least severe lines of the log: error, warn, info, debug (every call) or trace.",
        reloadable: true,
        example: None,
        set: |config, value| word(value, LEVELS).map(|level| config.log_level = level),
        get: |config| quoted(named(config.log_level, LEVELS)),
    },
    Setting {
        key: "log.format",
        about: "Form of the log on standard error: text, or json (one object a line).",
        reloadable: false,
        example: None,
        set: |config, value| word(value, FORMATS).map(|format| config.log_format = format),
        get: |config| quoted(named(config.log_format, FORMATS)),
    },
    Setting {
        key: "metrics.address",
        about: "Where Prometheus metrics are served at /metrics: host:port, or the absolute path of a socket. \
            Empty: nowhere.",
        reloadable: false,
        example: Some("\"127.0.0.1:9577\""),
        set: |config, value| {
            config.metrics_address = Some(value.to_owned()).filter(|value| !value.is_empty());
            let is_address = |address: &str| {
                let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                address.starts_with('/') || matches!(port, Some(Ok(_)))
            };
            let wrong = !config.metrics_address.as_deref().is_none_or(is_address);
            if wrong { Err("expected host:port or an absolute path".to_owned()) } else { Ok(()) }
        },
        get: |config| quoted(config.metrics_address.as_deref().unwrap_or_default()),
    },
    Setting {
        key: "snapshotter.mounts",
        about: "Form of the mounts that containerd gets: plain (bind and overlay over volumes that the daemon holds; \
            any containerd), or erofs (erofs and format/mkdir/overlay; containerd 2.2 and later, VM runtimes).",
        reloadable: true,
        example: None,
        set: |config, value| word(value, FORMS).map(|form| config.mounts = form),
        get: |config| quoted(named(config.mounts, FORMS)),
    },
    Setting {
        key: "snapshotter.userxattr",
        about: "Whether overlays keep their marks in user. attributes, for containerd inside a user namespace.",
        reloadable: true,
        example: None,
        set: |config, value| word(value, SWITCH).map(|on| config.userxattr = on),
        get: |config| config.userxattr.to_string(),
    },
    Setting {
        key: "snapshotter.scratch_size",
        about: "Size of the disk image that a container writes to, where no label names one, such as \"10GiB\" or a \
            number of bytes. 0: a directory without limit.",
        reloadable: true,
        example: None,
        set: |config, value| {
            let size = size(value)?;
            if (1..store::SCRATCH_MINIMUM).contains(&size) {
                return Err(format!("expected 0 or at least {} bytes", store::SCRATCH_MINIMUM));
            }
            config.scratch_size = Some(size).filter(|size| *size != 0);
            Ok(())
        },
        get: |config| config.scratch_size.unwrap_or(0).to_string(),
    },
    Setting {
        key: "differ.concurrency",
        about: "Most layers that are converted or compared at a time; the others wait. By default one per processor.",
        reloadable: false,
        example: Some("4"),
        set: |config, value| match value.parse() {
            Ok(number) if (1..=1024).contains(&number) => {
                config.differ_concurrency = number;
                Ok(())
            }
            _ => Err("expected a number from 1 to 1024".to_owned()),
        },
        get: |config| config.differ_concurrency.to_string(),
    },
    #[cfg(windows)]
    Setting {
        key: "windows.layers",
        about: "How layers are kept: windows (folders, which containerd's own differ fills), or cimfs.",
        reloadable: false,
        example: None,
        set: |config, value| {
            let forms = [store::HostForm::Folders, store::HostForm::Cims];
            let form = forms.into_iter().find(|form| form.name() == value);
            config.windows_layers = form.ok_or_else(|| "expected windows or cimfs".to_owned())?;
            Ok(())
        },
        get: |config| quoted(config.windows_layers.name()),
    },
    Setting {
        key: "containerd.address",
        about: "containerd's socket: the differ reads layers from its content store. Used when first needed.",
        reloadable: true,
        example: None,
        set: |config, value| path(value).map(|path| config.containerd_address = path),
        get: |config| quoted(&config.containerd_address.to_string_lossy()),
    },
];

const LEVELS: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const FORMS: &[(&str, MountForm)] = &[("plain", MountForm::Plain), ("erofs", MountForm::Erofs)];
const SWITCH: &[(&str, bool)] = &[("true", true), ("false", false)];

fn word<T: Copy>(value: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        match words.split_last() {
            Some((last, others)) => format!("expected {} or {last}", others.join(", ")),
            None => "expected nothing".to_owned(),
        }
    })
}

fn named<T: PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, meaning)| *meaning == value).map_or("", |(word, _)| word)
}

fn path(value: &str) -> Result<PathBuf, String> {
    match Path::new(value).is_absolute() && !value.contains('\0') {
        true => Ok(value.into()),
        false => Err("expected an absolute path".to_owned()),
    }
}

fn size(value: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((value.strip_suffix(name)?.trim_end(), *unit)))
        .unwrap_or((value, 1));
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "expected bytes, or a number with KiB, MiB, GiB or TiB".to_owned())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

pub(super) fn example(defaults: &Config) -> String {
    let mut text = String::from(
        "# Plywood's configuration. Every key is here with its default; a key that is left out has it.\n\
         # Each has a variable of the environment, which wins over this file: log.level is PLYWOOD_LOG_LEVEL.\n\
         # Keys marked [reload] are taken in by SIGHUP (systemctl reload plywood); others by a restart.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (table, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if table != section {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n[{table}]\n");
            section = table;
        }
        text.push('\n');
        let mark = if setting.reloadable { " [reload]" } else { "" };
        for line in wrapped(&format!("{}{mark}", setting.about)) {
            let _ = writeln!(text, "# {line}");
        }
        let value = setting.example.map_or_else(|| (setting.get)(defaults), str::to_owned);
        let _ = writeln!(text, "#{name} = {value}");
    }
    text
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].len() + word.len() > 110 {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}
