//! `plywood serve` and `plywood config show`

use anyhow::{Context as _, Result};
use serde_json::json;
use serve::{Config, Flag};

use crate::Session;
use crate::cli::{ConfigShowArgs, ConfigVerb, ServeArgs, SettingArgs};
use crate::exit::{Exit, Failure};
#[cfg(target_os = "linux")]
use crate::host::{Host, require_root};

#[cfg(target_os = "linux")]
pub(crate) fn serve(session: &Session, args: &ServeArgs) -> Result<()> {
    let config = load(session, &args.settings)?;
    require_root("serving")?;
    let host = Host::without_daemon(&config.root, &config.run)?;
    // What killed commands left: their containers, mounts and snapshots. A daemon that has the store open is named.
    drop(host.store()?);
    host.settle()?;
    serve::run(config).context("cannot serve")
}

/// As a service where the service manager has started this process, else in the console.
#[cfg(windows)]
pub(crate) fn serve(session: &Session, args: &ServeArgs) -> Result<()> {
    serve::run(load(session, &args.settings)?).context("cannot serve")
}

pub(crate) fn config(session: &mut Session, verb: &ConfigVerb) -> Result<()> {
    match verb {
        ConfigVerb::Show(args) => show(session, args),
    }
}

fn show(session: &mut Session, args: &ConfigShowArgs) -> Result<()> {
    let config = load(session, &args.settings)?;
    let mut rows = Vec::new();
    for setting in config.sources() {
        if session.output.is_json() {
            session.output.json(&json!({
                "key": setting.key,
                "value": setting.value,
                "source": setting.source.to_string(),
                "reloadable": setting.reloadable,
                "about": setting.about,
            }))?;
        }
        rows.push(vec![setting.key.to_owned(), setting.value, setting.source.to_string()]);
    }
    match session.output.is_json() {
        true => Ok(()),
        false => session.output.table(&["KEY", "VALUE", "SOURCE"], &rows),
    }
}

/// What the daemon does with these flags, the environment and the file.
pub(super) fn load(session: &Session, args: &SettingArgs) -> Result<Config> {
    let mut flags = Vec::new();
    for (key, path) in &session.given {
        let value = path.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("--{key} {} is not UTF-8", path.display()))
        })?;
        flags.push(Flag { key, name: format!("--{key}"), value });
    }
    for (key, name, value) in [
        ("log.level", "--log-level", &args.log_level),
        ("log.format", "--log-format", &args.log_format),
        ("metrics.address", "--metrics-address", &args.metrics_address),
    ] {
        if let Some(value) = value {
            flags.push(Flag { key, name: name.to_owned(), value: value.clone() });
        }
    }
    Ok(Config::load(args.config.as_deref(), flags)?)
}
