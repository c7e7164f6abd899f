//! `plywood containerd-config`

mod fragment;

use std::path::Path;

use anyhow::Result;

use crate::Session;
use crate::cli::{ContainerdConfigArgs, SettingArgs};
use crate::exit::{Exit, Failure};
use fragment::Fragment;

pub(crate) fn containerd_config(session: &mut Session, args: &ContainerdConfigArgs) -> Result<()> {
    // The daemon's own settings: a file that moves its store moves it here too.
    let settings =
        SettingArgs { config: None, log_level: None, log_format: None, metrics_address: None };
    let config = super::serve::load(session, &settings)?;
    let text = |path: &Path| -> Result<String> {
        let path = std::path::absolute(path)?;
        path.to_str().map(str::to_owned).ok_or_else(|| {
            let message = format!("{} is not UTF-8", path.display());
            Failure::new(Exit::Usage, message)
                .hint("containerd's configuration takes no other paths")
                .into()
        })
    };
    let fragment = Fragment {
        version: args.version,
        name: &args.name,
        address: &text(&config.address)?,
        root: &text(&config.root)?,
        platform: &layer::archive::Platform::host().to_string(),
        differ: !args.no_differ && args.version.has_proxy_differs(),
    };
    if args.differ && !fragment.differ {
        let message = "this version of containerd takes no differ from outside";
        return Err(Failure::new(Exit::NotSupported, message)
            .hint("1.7.5 and later do; without one, Plywood converts what containerd unpacked")
            .into());
    }
    session.output.bytes(fragment.to_string().as_bytes())
}
