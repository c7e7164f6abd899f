//! `plywood vm make-kit`: what virtual machines boot, from a kernel, its modules and our agent.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use uvm::kit::{GUEST_PROGRAMS, Kit, KitSources};

use crate::Session;
use crate::cli::VmMakeKitArgs;
use crate::exit::{self, Exit, Failure};

/// Our agent's name, and where packages put it.
const GUEST: &str = "plywood-guest";
const GUEST_DIRECTORY: &str = "/usr/lib/plywood";

pub(super) fn make(session: &mut Session, args: &VmMakeKitArgs) -> Result<()> {
    let (kernel, modules) = kernel(args)?;
    let guest = guest(args.guest.as_deref())?;
    let sources =
        KitSources { kernel: &kernel, modules: &modules, guest: &guest, programs: GUEST_PROGRAMS };
    let kit = Kit::build(&args.directory, &sources)?;
    // Without the list of what is built in nobody can tell.
    for lacking in uvm::kit::lacking(&modules).unwrap_or_default() {
        exit::warn(&format!(
            "kernel {} has no {}: {} will not work",
            kit.release(),
            lacking.module,
            lacking.what
        ));
    }
    if session.output.is_json() {
        return session.output.json(&json!({
            "directory": args.directory.display().to_string(),
            "kernel": kit.release(),
        }));
    }
    session.output.line(format!("{}: kernel {}", args.directory.display(), kit.release()))
}

/// The kernel and its modules; both are there.
fn kernel(args: &VmMakeKitArgs) -> Result<(PathBuf, PathBuf)> {
    let (kernel, modules) = match (&args.kernel, &args.modules) {
        (Some(kernel), Some(modules)) => (kernel.clone(), modules.clone()),
        _ => {
            let running = || rustix::system::uname().release().to_string_lossy().into_owned();
            let release = args.kernel_release.clone().unwrap_or_else(running);
            let kernel = Path::new("/boot").join(format!("vmlinuz-{release}"));
            (kernel, Path::new("/lib/modules").join(release))
        }
    };
    for (path, there) in [(&kernel, kernel.is_file()), (&modules, modules.is_dir())] {
        if !there {
            let text = format!("{} is not there", path.display());
            anyhow::bail!(Failure::new(Exit::NotFound, text).hint(
                "install a kernel (linux-image-amd64 on Debian) and name it with --kernel-release, or unpack its \
                 package and name --kernel and --modules"
            ));
        }
    }
    let modules = modules
        .canonicalize()
        .with_context(|| format!("cannot find the path of {}", modules.display()))?;
    Ok((kernel, modules))
}

fn guest(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let here = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let found = here.into_iter().chain([PathBuf::from(GUEST_DIRECTORY)]).map(|dir| dir.join(GUEST));
    found.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Failure::new(Exit::SetUp, format!("there is no {GUEST} here"))
            .hint(format!(
                "Debian's package of plywood has it in {GUEST_DIRECTORY}; from the sources it is made by \
                 RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build --release --package guest --target \
                 x86_64-unknown-linux-gnu"
            ))
            .into()
    })
}
