//! What a `CimFS` mount says.

use std::path::PathBuf;

use super::WindowsPath;
use crate::{Error, ErrorKind, Mount, Result};

/// The type of mount that snapshots on CIMs have.
pub const CIM_LAYER: &str = "CimFS";
const PARENT_LAYERS: &str = "parentLayerPaths=";
const PARENT_CIMS: &str = "parentCimPaths=";
const CIM: &str = "cimpath=";

/// A container's layers as forked CIMs: the topmost has everything of those below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CimLayer {
    /// The folder with the writable `sandbox.vhdx`.
    pub(super) scratch: WindowsPath,
    /// The topmost CIM.
    pub(super) cim: PathBuf,
    /// Nothing is to be written: the CIM's volume will do.
    pub(super) read_only: bool,
}

impl CimLayer {
    /// Reads a mount of type `CimFS` as containerd's snapshotter describes snapshots of containers (containerd.md 11).
    ///
    /// # Errors
    /// `Invalid`: another type, an option that is not known or given twice, no parents or not as many folders as CIMs; a
    /// snapshot that a layer is being unpacked into, which has a CIM of its own.
    pub(super) fn parse(mount: &Mount) -> Result<Self> {
        if mount.r#type != CIM_LAYER {
            return Err(invalid(format!("`{}` is no {CIM_LAYER} mount", mount.r#type)));
        }
        if !mount.target.as_os_str().is_empty() {
            return Err(invalid(format!("a {CIM_LAYER} mount is the root, and not below it")));
        }
        let scratch = WindowsPath::from_os(mount.source.as_os_str())?;
        let (mut access, mut folders, mut cims) = (None, None, None);
        for option in &mount.options {
            let twice = if let "ro" | "rw" = option.as_str() {
                access.replace(option == "ro").is_some()
            } else if let Some(json) = option.strip_prefix(PARENT_LAYERS) {
                folders.replace(list(PARENT_LAYERS, json)?).is_some()
            } else if let Some(json) = option.strip_prefix(PARENT_CIMS) {
                cims.replace(list(PARENT_CIMS, json)?).is_some()
            } else if option.starts_with(CIM) {
                return Err(invalid(format!(
                    "{scratch} is a snapshot that a layer is unpacked into; a container is on one of its own"
                )));
            } else {
                return Err(invalid(format!(
                    "a {CIM_LAYER} mount has no option `{}`",
                    option.escape_debug()
                )));
            };
            if twice {
                let name = option.split('=').next().unwrap_or_default();
                return Err(invalid(format!(
                    "the {CIM_LAYER} mount of {scratch} has the option {name} twice, or both ro and rw"
                )));
            }
        }
        let cims = cims.unwrap_or_default();
        let folders = folders.map_or(cims.len(), |folders| folders.len());
        if folders != cims.len() {
            return Err(invalid(format!(
                "the {CIM_LAYER} mount of {scratch} names {folders} folders and {} CIMs of parents",
                cims.len()
            )));
        }
        let Some(cim) = cims.into_iter().next() else {
            return Err(invalid(format!("the {CIM_LAYER} mount of {scratch} has no parents")));
        };
        WindowsPath::parse(&cim)?;
        Ok(Self { scratch, cim: cim.into(), read_only: access.unwrap_or_default() })
    }
}

fn list(option: &str, json: &str) -> Result<Vec<String>> {
    serde_json::from_str(json).map_err(|error| {
        let message = format!("{option} must be a JSON array of paths, topmost first");
        Error::caused(ErrorKind::Invalid, message, error)
    })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(options: &[&str]) -> Mount {
        Mount {
            r#type: CIM_LAYER.to_owned(),
            source: r"C:\root\snapshots\3".into(),
            target: Default::default(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    const CIMS: &str = r#"parentCimPaths=["C:\\c\\2.cim","C:\\c\\1.cim"]"#;
    const FOLDERS: &str = r#"parentLayerPaths=["C:\\s\\2","C:\\s\\1"]"#;

    #[test]
    fn the_topmost_cim_counts() {
        let layer = CimLayer::parse(&mount(&["rw", FOLDERS, CIMS])).unwrap();
        assert_eq!(layer.cim, PathBuf::from(r"C:\c\2.cim"));
        assert!(!layer.read_only);
        assert!(CimLayer::parse(&mount(&["ro", CIMS])).unwrap().read_only);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let below = |mut mount: Mount| {
            mount.target = "sub".into();
            mount
        };
        for (given, reason) in [
            (mount(&[]), "no parents"),
            (mount(&["parentCimPaths=[]"]), "no parents"),
            (mount(&["parentCimPaths=x"]), "JSON array"),
            (mount(&[CIMS, CIMS]), "twice"),
            (mount(&["ro", "rw", CIMS]), "twice"),
            (mount(&[CIMS, r#"parentLayerPaths=["C:\\s\\1"]"#]), "1 folders and 2 CIMs"),
            (mount(&[CIMS, "mergedCIMPath=x"]), "no option"),
            (mount(&["rw", r"cimpath=C:\c\3.cim"]), "unpacked into"),
            (mount(&[r#"parentCimPaths=["c\\1.cim"]"#]), "relative"),
            (below(mount(&[CIMS])), "not below"),
        ] {
            let error = CimLayer::parse(&given).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{given:?}");
            assert!(error.to_string().contains(reason), "{given:?}: {error}");
        }
    }
}
