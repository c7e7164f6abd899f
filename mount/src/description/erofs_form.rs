//! The form for containerd 2.2 and newer, and for runtimes that give image files to a virtual machine: the layer
//! images themselves, and an overlay whose layers a mount manager fills in.

use std::path::{Path, PathBuf};

use store::Chain;

use super::{Mount, MountForm, bind, check_scratch, overlay_options};
use crate::overlay::{check_count, distinct};
use crate::{Error, ErrorKind, Result, ScratchDirs};

/// What begins a template in the options of a `format/` mount.
pub(crate) const TEMPLATE: &str = "{{";

/// The mounts of `chain` as containerd's EROFS snapshotter gives them: one `erofs` mount of each layer's file, top
/// first, then `format/mkdir/overlay` over them; a single one where it needs no overlay. No volume is used, so
/// none has to be held. `scratch` is what [`crate::Registry::hold_scratch`] gives, also for a scratch image, which
/// Plywood mounts itself: containerd would make one only below its own root directory.
///
/// # Errors
/// `TooManyLayers` beyond what an overlay takes; `Invalid` if a path is not UTF-8 or would be read as a template.
pub fn describe_erofs(
    chain: &Chain,
    scratch: Option<&ScratchDirs>,
    form: &MountForm,
) -> Result<Vec<Mount>> {
    check_scratch(chain, scratch)?;
    check_count(chain.layers.len())?;
    let files: Vec<PathBuf> = chain.layers.iter().map(|layer| layer.path.clone()).collect();
    let layer = |source: PathBuf| Mount {
        r#type: "erofs".to_owned(),
        source,
        target: PathBuf::new(),
        options: vec!["ro".to_owned(), "loop".to_owned()],
    };
    let mut mounts: Vec<Mount> = distinct(&files).into_iter().map(layer).collect();
    let lowerdir = match (scratch, mounts.len()) {
        (Some(scratch), 0) => return Ok(vec![bind(&scratch.upper, "rw")]),
        (None, 0) => {
            let nothing = || Error::new(ErrorKind::Invalid, "there is nothing to mount");
            return Ok(vec![bind(chain.empty.as_ref().ok_or_else(nothing)?, "ro")]);
        }
        (None, 1) => return Ok(mounts),
        (Some(_), 1) => "{{ mount 0 }}".to_owned(),
        (_, layers) => format!("{{{{ overlay 0 {} }}}}", layers - 1),
    };
    for path in scratch.iter().flat_map(|scratch| [&scratch.upper, &scratch.work]) {
        check_no_template(path)?;
    }
    mounts.push(Mount {
        r#type: "format/mkdir/overlay".to_owned(),
        source: PathBuf::from("overlay"),
        target: PathBuf::new(),
        options: overlay_options(scratch, &lowerdir, form)?,
    });
    Ok(mounts)
}

fn check_no_template(path: &Path) -> Result<()> {
    if !path.to_string_lossy().contains(TEMPLATE) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "{} contains {TEMPLATE}, which a mount manager would read as a template; move the store or use the \
             plain form of mounts",
            path.display()
        ),
    ))
}
