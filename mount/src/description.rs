//! Mounts as data, in containerd's form: describing is separate from performing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use store::Chain;

use crate::overlay::{MAX_LAYERS, OPTIONS};
use crate::{Error, ErrorKind, Result, ScratchDirs};

/// One mount in containerd's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `bind` or `overlay`.
    pub r#type: String,
    /// What is mounted; `overlay` for overlays.
    pub source: PathBuf,
    /// Sub-path inside the root file system; always empty here.
    pub target: PathBuf,
    /// fstab style, one per element.
    pub options: Vec<String>,
}

/// The mounts of `chain` over `volumes`, the mount points of its layers in the same order (top first), and
/// `scratch`, the directories that [`crate::Registry::hold_scratch`] gives for an active snapshot. They are what
/// containerd's overlayfs snapshotter would answer, so that any containerd can perform them with `mount(2)`.
///
/// # Errors
/// `TooManyLayers` if the options would not fit the page that `mount(2)` reads, even after containerd has taken
/// the common directory out of the lower layers' names. `Invalid` if a path is not UTF-8, or if the numbers of
/// volumes and layers differ.
pub fn describe(
    chain: &Chain,
    volumes: &[PathBuf],
    scratch: Option<&ScratchDirs>,
) -> Result<Vec<Mount>> {
    if volumes.len() != chain.layers.len() || scratch.is_some() != chain.scratch.is_some() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} volumes do not fit {} layers", volumes.len(), chain.layers.len()),
        ));
    }
    let bind = |source: &Path, access: &str| Mount {
        r#type: "bind".to_owned(),
        source: source.to_owned(),
        target: PathBuf::new(),
        options: vec!["rbind".to_owned(), access.to_owned()],
    };
    let mount = match (scratch, volumes) {
        (Some(scratch), []) => bind(&scratch.upper, "rw"),
        (None, [single]) => bind(single, "ro"),
        (None, []) => match &chain.empty {
            Some(empty) => bind(empty, "ro"),
            None => return Err(Error::new(ErrorKind::Invalid, "there is nothing to mount")),
        },
        (scratch, volumes) => overlay(scratch, volumes)?,
    };
    Ok(vec![mount])
}

fn overlay(scratch: Option<&ScratchDirs>, volumes: &[PathBuf]) -> Result<Mount> {
    let mut options = Vec::new();
    if let Some(scratch) = scratch {
        options.push(format!("workdir={}", escaped(&scratch.work)?));
        options.push(format!("upperdir={}", escaped(&scratch.upper)?));
    }
    let lowers: Vec<String> = volumes.iter().map(|path| escaped(path)).collect::<Result<_, _>>()?;
    options.push(format!("lowerdir={}", lowers.join(":")));
    options.extend(OPTIONS.iter().map(|(key, value)| format!("{key}={value}")));
    let length = options.iter().map(|option| option.len() + 1).sum::<usize>();
    // containerd enters the layers' common directory and names them from there.
    let spared = common_directory(volumes).map_or(0, |common| (common + 1) * volumes.len());
    if volumes.len() > MAX_LAYERS || length - spared >= sys::OPTIONS_PAGE {
        return Err(Error::new(
            ErrorKind::TooManyLayers,
            format!(
                "{} layers need more mount options than the {} bytes that mount(2) takes; merge some of them \
                 into one image first",
                volumes.len(),
                sys::OPTIONS_PAGE
            ),
        ));
    }
    Ok(Mount {
        r#type: "overlay".to_owned(),
        source: PathBuf::from("overlay"),
        target: PathBuf::new(),
        options,
    })
}

/// Length of the directory that all `paths` lie in, if it is the same one.
fn common_directory(paths: &[PathBuf]) -> Option<usize> {
    let first = paths.first()?.parent()?;
    let same = paths.iter().all(|path| path.parent() == Some(first));
    same.then_some(first.as_os_str().len())
}

/// A path as overlayfs reads it in an option string: separators are escaped with a backslash.
fn escaped(path: &Path) -> Result<String> {
    let Some(text) = path.to_str() else {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} is not UTF-8, which containerd's mounts have to be", path.display()),
        ));
    };
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{Kind, Layer, LayerId, LayerRecord, ScratchPaths, Snapshot, Timestamp};

    fn chain(layers: usize, active: bool) -> (Chain, Vec<PathBuf>, Option<ScratchDirs>) {
        let layer = |index: usize| Layer {
            id: LayerId::of_diff(&layer::Digest::of(&index.to_le_bytes())),
            record: LayerRecord {
                diff_id: None,
                image_size: 0,
                checksum: layer::Checksum::from_bytes([0; 32]),
                uuid: [0; 16],
                tar_size: 0,
                entries: 0,
                hides_lower: false,
                created: Timestamp::now(),
            },
            path: PathBuf::from(format!("/layers/{index}.erofs")),
        };
        let dirs =
            ScratchDirs { upper: PathBuf::from("/s/1/fs"), work: PathBuf::from("/s/1/work") };
        let snapshot = Snapshot {
            key: b"key".to_vec(),
            id: 1,
            kind: if active { Kind::Active } else { Kind::View },
            parent: None,
            labels: store::Labels::new(),
            created: Timestamp::now(),
            updated: Timestamp::now(),
            layer: None,
            scratch: None,
            imported: false,
            usage: store::Usage::default(),
        };
        let paths = ScratchPaths::Directory { upper: dirs.upper.clone(), work: dirs.work.clone() };
        let chain = Chain {
            snapshot,
            scratch: active.then_some(paths),
            empty: (!active && layers == 0).then(|| PathBuf::from("/s/1/empty")),
            layers: (0..layers).map(layer).collect(),
        };
        let volumes =
            (0..layers).map(|index| PathBuf::from(format!("/run/plywood/v/{index:016x}")));
        (chain, volumes.collect(), active.then_some(dirs))
    }

    fn described(layers: usize, active: bool) -> Result<Mount> {
        let (chain, volumes, scratch) = chain(layers, active);
        let mut mounts = describe(&chain, &volumes, scratch.as_ref())?;
        assert_eq!(mounts.len(), 1);
        Ok(mounts.remove(0))
    }

    #[test]
    fn every_row_of_containerds_overlayfs_table() {
        let bind = |source: &str, access: &str| {
            ("bind".to_owned(), PathBuf::from(source), vec!["rbind".to_owned(), access.to_owned()])
        };
        let parts = |mount: Mount| (mount.r#type, mount.source, mount.options);
        assert_eq!(parts(described(0, true).unwrap()), bind("/s/1/fs", "rw"));
        assert_eq!(parts(described(0, false).unwrap()), bind("/s/1/empty", "ro"));
        let single = bind("/run/plywood/v/0000000000000000", "ro");
        assert_eq!(parts(described(1, false).unwrap()), single);
        let lowers = "lowerdir=/run/plywood/v/0000000000000000:/run/plywood/v/0000000000000001";
        let fixed = ["redirect_dir=off", "metacopy=off", "index=off", "xino=auto"];
        let view = described(2, false).unwrap();
        assert_eq!(
            (view.r#type.as_str(), view.source.as_path()),
            ("overlay", Path::new("overlay"))
        );
        assert_eq!(view.options[0], lowers);
        assert_eq!(view.options[1..], fixed);
        let active = described(2, true).unwrap();
        assert_eq!(active.options[..3], ["workdir=/s/1/work", "upperdir=/s/1/fs", lowers]);
        assert_eq!(active.options[3..], fixed);
        assert_eq!(described(1, true).unwrap().r#type, "overlay");
    }

    #[test]
    fn options_never_exceed_what_mount_reads() {
        assert!(described(200, true).is_ok());
        let error = described(300, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooManyLayers);
        assert!(error.to_string().contains("merge"), "{error}");
    }

    #[test]
    fn separators_in_paths_are_escaped() {
        assert_eq!(escaped(Path::new("/a:b,c\\d e")).unwrap(), "/a\\:b\\,c\\\\d e");
        let (chain, volumes, _) = chain(2, true);
        let error = describe(&chain, &volumes, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "an active chain needs its scratch");
    }
}
