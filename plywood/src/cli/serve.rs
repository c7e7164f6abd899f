//! `serve`, `config` and `containerd-config`

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};

/// `serve`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Holds the store open and answers on one socket: containerd's snapshots and diff services, mounts for tools and \
shims, health, and the other commands of this program, which work the same with and without it. Everything can be set \
in /etc/plywood/config.toml, by PLYWOOD_… in the environment, and here; the later wins.

TERM and INT stop it, HUP reads the configuration again. What is mounted stays mounted, whether it is stopped or \
killed; the next one takes it over. A second one on the same store is refused.

Examples:
  plywood serve
  plywood serve --log-level debug
  plywood --root /srv/plywood --address /run/other.sock serve --config ./config.toml
  plywood containerd-config --version 2.x     what containerd needs to know of it")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
}

/// The settings that have flags.
#[derive(Debug, Args)]
pub(crate) struct SettingArgs {
    /// Read this file instead of /etc/plywood/config.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The least severe lines to log: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// How the log looks: text or json.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Serve Prometheus metrics there: host:port, or the absolute path of a socket.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_address: Option<String>,
}

/// `config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print every setting with its value, and where that came from.
    Show(ConfigShowArgs),
}

/// `config show`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Takes the flags of `plywood serve`, and fails where that would: with 2 for a file, variable or flag that cannot be \
used. With --format json, one object for each setting.

Examples:
  plywood config show
  plywood config show --config ./config.toml
  plywood --format json config show | jq 'select(.source != \"default\")'")]
pub(crate) struct ConfigShowArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
}

/// `containerd-config`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Prints a fragment of /etc/containerd/config.toml; its comments say how to put it there. The store and the socket in it \
are those of --root and --address, as the daemon has them.

Examples:
  plywood containerd-config --version 1.6
  plywood containerd-config --version 2.x --name wood
  plywood containerd-config --version \"$(containerd --version | cut -d' ' -f3)\"")]
pub(crate) struct ContainerdConfigArgs {
    /// The version of containerd: 1.6, 1.7, 2.x, or an exact one such as 1.7.24.
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: ContainerdVersion,
    /// What containerd is to call the snapshotter; its differ is NAME-diff.
    #[arg(long, default_value = "plywood", value_name = "NAME", value_parser = plugin_name)]
    pub(crate) name: String,
    /// Insist on the differ: fail if this version of containerd cannot have one from outside.
    #[arg(long, conflicts_with = "no_differ")]
    pub(crate) differ: bool,
    /// Leave the differ out: containerd unpacks layers itself, and Plywood converts what it unpacked.
    #[arg(long)]
    pub(crate) no_differ: bool,
}

/// A version of containerd; a part that is left out, or `x`, is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContainerdVersion {
    pub(crate) major: u32,
    pub(crate) minor: Option<u32>,
    pub(crate) patch: Option<u32>,
}

impl FromStr for ContainerdVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected 1.6, 1.7, 2.x, or an exact version such as 1.7.24".to_owned();
        // As `containerd --version` says it: v2.1.4, 1.7.24~ds1, 2.2.0-rc.1.
        let numbers = text.strip_prefix('v').unwrap_or(text);
        let end = numbers.find(['~', '-', '+']).unwrap_or(numbers.len());
        let mut parts = numbers[..end].split('.');
        let mut part = || match parts.next() {
            None | Some("x") => Ok(None),
            Some(number) => number.parse::<u32>().map(Some).map_err(|_| wrong()),
        };
        let (major, minor, patch) = (part()?.ok_or_else(wrong)?, part()?, part()?);
        match (major, minor) {
            _ if parts.next().is_some() => Err(wrong()),
            (1, Some(6 | 7)) | (2, _) => Ok(Self { major, minor, patch }),
            (1, None) => Err("1.6 or 1.7?".to_owned()),
            (0, _) | (1, Some(0..6)) => Err("containerd before 1.6 is not supported".to_owned()),
            _ => {
                Err("this version of containerd is not known; there are 1.6, 1.7 and 2.x"
                    .to_owned())
            }
        }
    }
}

/// A name that needs no quotes anywhere in containerd's configuration and tools.
fn plugin_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match text {
        "overlayfs" | "native" | "btrfs" | "zfs" | "devmapper" | "blockfile" | "erofs" => {
            Err("containerd has a snapshotter of that name itself".to_owned())
        }
        _ if !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) => Ok(text.to_owned()),
        _ => Err("expected up to 64 letters, digits, - and _".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let of = |text: &str| {
            text.parse().map(|ContainerdVersion { major, minor, patch }| (major, minor, patch))
        };
        for (text, version) in [
            ("1.6", (1, Some(6), None)),
            ("1.6.20", (1, Some(6), Some(20))),
            ("1.7.24~ds1", (1, Some(7), Some(24))),
            ("v2.1.4", (2, Some(1), Some(4))),
            ("2.2.0-rc.1", (2, Some(2), Some(0))),
            ("2", (2, None, None)),
            ("2.x", (2, None, None)),
        ] {
            assert_eq!(of(text), Ok(version), "{text}");
        }
        for text in ["", "x", "1", "1.x", "1.5", "0.9", "3", "2.1.4.5", "2..1", "two", "-1.6"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        assert!(plugin_name("plywood").is_ok() && plugin_name("a_b-3").is_ok());
        for text in ["", "a b", "a.b", "overlayfs", "a\"b", &"x".repeat(65)] {
            assert!(plugin_name(text).is_err(), "{text}");
        }
    }
}
