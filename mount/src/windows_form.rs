//! Mounts of Windows hosts, as containerd's `windows` and `cimfs` snapshotters describe them (containerd.md 11 and 12).

use std::path::{Path, PathBuf};

use store::{HostForm, Kind, WindowsChain};

use crate::{Error, ErrorKind, Mount, Result};

/// Folders of the layers below, topmost first.
const PARENT_LAYERS: &str = "parentLayerPaths=";
/// Their CIMs, in the same order and as many.
const PARENT_CIMS: &str = "parentCimPaths=";
/// The CIM of the snapshot itself.
const CIM: &str = "cimpath=";

/// The one mount of a snapshot on a Windows host: `windows-layer`, which containerd performs, or `CimFS`, which only the
/// shim of a container does. Written from the reference, **never run on a real HCS host**.
///
/// # Errors
/// `Invalid` if a path is not Unicode, or if a layer below is not of the host's form.
pub fn describe_windows(chain: &WindowsChain) -> Result<Vec<Mount>> {
    let access = if chain.snapshot.kind == Kind::View { "ro" } else { "rw" };
    let mut options = vec![access.to_owned()];
    if let Some(cim) = &chain.cim {
        options.push(format!("{CIM}{}", text(cim)?));
    }
    if !chain.parents.is_empty() {
        options.push(list(PARENT_LAYERS, chain.parents.iter().map(|parent| &parent.folder))?);
    }
    let cims: Vec<&PathBuf> =
        chain.parents.iter().filter_map(|parent| parent.cim.as_ref()).collect();
    let expected = match chain.form {
        HostForm::Folders => 0,
        HostForm::Cims => chain.parents.len(),
    };
    if cims.len() != expected {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "of the {} layers below snapshot {}, {} are CIMs; the host keeps layers in the form {:?}",
                chain.parents.len(),
                chain.snapshot.name(),
                cims.len(),
                chain.form.name()
            ),
        ));
    }
    if !cims.is_empty() {
        options.push(list(PARENT_CIMS, cims)?);
    }
    let kind = match chain.form {
        HostForm::Folders => "windows-layer",
        HostForm::Cims => "CimFS",
    };
    Ok(vec![Mount {
        r#type: kind.to_owned(),
        source: chain.folder.clone(),
        target: PathBuf::new(),
        options,
    }])
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let what = format!("{} is no Unicode text, which mounts are", path.display());
        Error::new(ErrorKind::Invalid, what)
    })
}

fn list<'p>(option: &str, paths: impl IntoIterator<Item = &'p PathBuf>) -> Result<String> {
    let paths = paths.into_iter().map(|path| text(path)).collect::<Result<Vec<_>>>()?;
    Ok(format!("{option}{}", serde_json::json!(paths)))
}

#[cfg(test)]
mod tests {
    use store::{Labels, Origin, ParentLayer, Scratch, Snapshot, Timestamp, Usage};

    use super::*;

    fn chain(form: HostForm, kind: Kind, parents: usize) -> WindowsChain {
        let parent = |number: usize| ParentLayer {
            folder: PathBuf::from(format!(r"C:\root\snapshots\{number}")),
            cim: (form == HostForm::Cims)
                .then(|| PathBuf::from(format!(r"C:\root\cim-layers\{number}.cim"))),
        };
        let snapshot = Snapshot {
            key: b"key".to_vec(),
            id: 7,
            kind,
            parent: None,
            labels: Labels::new(),
            created: Timestamp::now(),
            updated: Timestamp::now(),
            layers: Vec::new(),
            deferred: None,
            origin: Origin::Containerd,
            scratch: Some(Scratch::Disk { size: None, vm: false }),
            imported: false,
            usage: Usage::default(),
        };
        let own = form == HostForm::Cims && kind == Kind::Active;
        WindowsChain {
            form,
            snapshot,
            folder: PathBuf::from(r"C:\root\snapshots\7"),
            parents: (1..=parents).rev().map(parent).collect(),
            cim: own.then(|| PathBuf::from(r"C:\root\cim-layers\7.cim")),
        }
    }

    /// The table of containerd.md 11, line by line.
    #[test]
    fn every_row_of_containerds_table_for_windows() {
        let layers = r#"parentLayerPaths=["C:\\root\\snapshots\\2","C:\\root\\snapshots\\1"]"#;
        let cims =
            r#"parentCimPaths=["C:\\root\\cim-layers\\2.cim","C:\\root\\cim-layers\\1.cim"]"#;
        let own = r"cimpath=C:\root\cim-layers\7.cim";
        let rows: [(HostForm, Kind, usize, &str, &[&str]); 7] = [
            (HostForm::Folders, Kind::Active, 0, "windows-layer", &["rw"]),
            (HostForm::Folders, Kind::Active, 2, "windows-layer", &["rw", layers]),
            (HostForm::Folders, Kind::View, 0, "windows-layer", &["ro"]),
            (HostForm::Folders, Kind::View, 2, "windows-layer", &["ro", layers]),
            (HostForm::Cims, Kind::Active, 0, "CimFS", &["rw", own]),
            (HostForm::Cims, Kind::Active, 2, "CimFS", &["rw", own, layers, cims]),
            (HostForm::Cims, Kind::View, 2, "CimFS", &["ro", layers, cims]),
        ];
        for (form, kind, parents, wanted, options) in rows {
            let mounts = describe_windows(&chain(form, kind, parents)).unwrap();
            let [mount] = mounts.as_slice() else { panic!("{mounts:?}") };
            assert_eq!(mount.r#type, wanted, "{form:?} {kind:?} {parents}");
            assert_eq!(mount.options, options, "{form:?} {kind:?} {parents}");
            assert_eq!(mount.source, PathBuf::from(r"C:\root\snapshots\7"));
            assert_eq!(mount.target, PathBuf::new());
        }
    }

    #[test]
    fn layers_of_another_form_are_refused() {
        let mut mixed = chain(HostForm::Folders, Kind::View, 2);
        mixed.parents[1].cim = Some(PathBuf::from("1.cim"));
        assert_eq!(describe_windows(&mixed).unwrap_err().kind(), ErrorKind::Invalid);
        let mut missing = chain(HostForm::Cims, Kind::View, 2);
        missing.parents[0].cim = None;
        assert_eq!(describe_windows(&missing).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
