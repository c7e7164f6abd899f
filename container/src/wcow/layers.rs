//! What a Windows container's root file system is made of.

use mount::windows::WindowsPath;

use crate::error::{Error, ErrorKind, Result};
use crate::rootfs::{Rootfs, RootfsMount, check_sources};

/// The layers of a Windows container; topmost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WcowLayers {
    /// Folders of the classic filter.
    Wcifs {
        /// The scratch folder.
        scratch: WindowsPath,
        /// The read-only layers' folders.
        parents: Vec<WindowsPath>,
    },
    /// Forked CIMs: the topmost one shows them all.
    ForkedCim {
        /// The scratch folder.
        scratch: WindowsPath,
        /// The read-only layers' folders, each with its CIM.
        parents: Vec<(WindowsPath, WindowsPath)>,
    },
    /// Block CIMs, which this version cannot mount.
    BlockCim,
}

impl WcowLayers {
    /// The layers of a Windows container, from the one source that there is: a mount, or layer folders with the
    /// scratch last.
    ///
    /// # Errors
    ///
    /// Those of [`check_sources`] and [`Rootfs::parse`]; [`Invalid`](ErrorKind::Invalid) for the layers of a Linux
    /// container, without parents, and for paths that cannot be layers'.
    pub fn of(rootfs: &[RootfsMount], layer_folders: &[String]) -> Result<Self> {
        check_sources(rootfs, layer_folders)?;
        if let Some((scratch, parents)) = layer_folders.split_last() {
            return Self::wcifs(scratch, parents);
        }
        match Rootfs::parse(&rootfs[0])? {
            Rootfs::WindowsLayer { scratch, parents } => Self::wcifs(&scratch, &parents),
            Rootfs::CimFs { scratch, parents } => {
                // hcsshim takes the first without looking whether there is one.
                if parents.is_empty() {
                    return Err(Error::invalid("a container on CIMs has at least one parent"));
                }
                let both = |(folder, cim): &(String, String)| Ok((path(folder)?, path(cim)?));
                let parents = parents.iter().map(both).collect::<Result<_>>()?;
                Ok(Self::ForkedCim { scratch: path(&scratch)?, parents })
            }
            Rootfs::BlockCim { .. } => Ok(Self::BlockCim),
            Rootfs::Lcow(_) => Err(Error::invalid(format!(
                "a mount of type {} is for Linux containers, and this is a Windows container",
                rootfs[0].kind
            ))),
        }
    }

    fn wcifs(scratch: &str, parents: &[String]) -> Result<Self> {
        if parents.is_empty() {
            return Err(Error::invalid("a container has at least one read-only layer"));
        }
        let parents = parents.iter().map(|parent| path(parent)).collect::<Result<_>>()?;
        Ok(Self::Wcifs { scratch: path(scratch)?, parents })
    }

    /// The scratch folder.
    ///
    /// # Errors
    ///
    /// [`NotSupported`](ErrorKind::NotSupported) for block CIMs.
    pub fn scratch(&self) -> Result<&WindowsPath> {
        match self {
            Self::Wcifs { scratch, .. } | Self::ForkedCim { scratch, .. } => Ok(scratch),
            Self::BlockCim => Err(block_cim()),
        }
    }
}

pub(super) fn block_cim() -> Error {
    Error::new(
        ErrorKind::NotSupported,
        "block CIMs cannot be mounted: their format is not public, and they take build 27766 or a CimWriter DLL",
    )
}

pub(super) fn path(text: &str) -> Result<WindowsPath> {
    WindowsPath::parse(text).map_err(|error| Error::mount("cannot use a layer", error))
}
