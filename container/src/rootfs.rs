//! What a client says the root filesystem is made of: mounts in containerd's form, or the layer folders of a spec.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::image_file::{check_layer, check_scratch};

/// A root filesystem's mount as a client of containerd's task service hands it over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// What kind of mount it is.
    pub kind: String,
    /// Where it comes from.
    pub source: String,
    /// Where below the root filesystem it goes; must be empty.
    pub target: String,
    /// `key=value` options.
    pub options: Vec<String>,
}

/// The layers of a Linux container in a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LcowLayers {
    /// The read-only layers, topmost first.
    pub layers: Vec<LcowLayer>,
    /// The disk image that the container writes to. A symbolic link says that the sandbox's is shared.
    pub scratch: PathBuf,
}

/// A read-only layer on a disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LcowLayer {
    /// The disk image.
    pub path: PathBuf,
    /// The partition that holds the layer; 0 is the whole disk.
    pub partition: u64,
    /// What proves each block that the guest reads of it.
    pub verity: Option<HashTree>,
}

impl LcowLayer {
    /// A layer that is the whole of a disk image.
    pub fn whole(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), partition: 0, verity: None }
    }
}

/// A dm-verity hash tree (format 1, SHA-256, blocks of 4096 bytes) in a file of its own, with its superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTree {
    /// The tree's file.
    pub path: PathBuf,
    /// Bytes of the layer that it proves.
    pub data_size: u64,
    /// The root hash in hexadecimal digits.
    pub root_hash: String,
    /// The salt in hexadecimal digits.
    pub salt: String,
}

/// A block CIM: a CIM inside one file or on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockCim {
    /// The file or device that holds it.
    pub block_path: String,
    /// Its name within.
    pub name: String,
}

/// What a block CIM lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockCimKind {
    /// A file.
    File,
    /// A block device.
    Device,
}

/// What a root filesystem is made of. Paths of Windows stay texts: they need not be paths of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Disk images for a Linux container in a virtual machine (`lcow-layer`, `lcow-partitioned-layer`).
    Lcow(LcowLayers),
    /// Folders of the Windows filter (`windows-layer`).
    WindowsLayer {
        /// The scratch folder.
        scratch: String,
        /// The parents' folders, topmost first.
        parents: Vec<String>,
    },
    /// Forked CIMs (`CimFS`).
    CimFs {
        /// The scratch folder.
        scratch: String,
        /// The parents' folders and CIMs, topmost first.
        parents: Vec<(String, String)>,
    },
    /// Block CIMs (`BlockCIM`).
    BlockCim {
        /// The scratch folder.
        scratch: String,
        /// What they lie on.
        kind: BlockCimKind,
        /// The parents, topmost first.
        parents: Vec<BlockCim>,
        /// The one that shows them as one; there always is one where there are several parents.
        merged: Option<BlockCim>,
    },
}

/// Where a Linux layer's image is found in its folder: hcsshim's name first, ours where that does not exist.
const LAYER_NAMES: [&str; 2] = ["layer.vhd", "layer.erofs"];
const SCRATCH_NAMES: [&str; 2] = ["sandbox.vhdx", "scratch.ext4"];

/// Checks that there is one source of layers: one mount, or at least two folders (the scratch's is last).
///
/// # Errors
///
/// [`FailedPrecondition`](crate::ErrorKind::FailedPrecondition).
pub fn check_sources(rootfs: &[RootfsMount], layer_folders: &[String]) -> Result<()> {
    let refuse = |what: &str| Err(Error::precondition(what));
    match (rootfs, layer_folders) {
        ([], []) => refuse("neither a root filesystem's mount nor layer folders are given"),
        ([_, ..], [_, ..]) => {
            refuse("both a root filesystem's mount and layer folders are given; there can be one")
        }
        ([], [_]) => refuse(
            "only one layer folder is given; there are at least two: layers, and the scratch last",
        ),
        ([_, _, ..], _) => refuse("a root filesystem is one mount, but several are given"),
        ([mount], _) if !mount.target.is_empty() => refuse(
            "the root filesystem's mount has a target, which is where no mount of layers can go",
        ),
        _ => Ok(()),
    }
}

/// The layers of a Linux container, from the one source that there is.
///
/// # Errors
///
/// As [`check_sources`] and [`Rootfs::parse`]; [`Invalid`](crate::ErrorKind::Invalid) for the layers of a Windows
/// container.
pub fn lcow_layers(rootfs: &[RootfsMount], layer_folders: &[String]) -> Result<LcowLayers> {
    check_sources(rootfs, layer_folders)?;
    if let Some((scratch, parents)) = layer_folders.split_last() {
        return LcowLayers::from_folders(parents, scratch);
    }
    match Rootfs::parse(&rootfs[0])? {
        Rootfs::Lcow(layers) => Ok(layers),
        _ => Err(Error::invalid(format!(
            "a mount of type {} is for Windows containers, and this is a Linux container",
            rootfs[0].kind
        ))),
    }
}

impl LcowLayers {
    /// Looks at every image, before anything is attached: layers must hold a file system that a layer can have, and be
    /// whole; the scratch must be writable and large enough, and is blank or ext4. Gives the layers with the
    /// scratch's symbolic links resolved: a scratch that is shared with the sandbox is a link to it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`NotFound`](crate::ErrorKind::NotFound),
    /// [`Invalid`](crate::ErrorKind::Invalid), [`Io`](crate::ErrorKind::Io).
    pub fn checked(&self, encrypted: bool) -> Result<Self> {
        for layer in &self.layers {
            check_layer(layer)?;
        }
        Ok(Self { layers: self.layers.clone(), scratch: check_scratch(&self.scratch, encrypted)? })
    }

    fn from_folders(parents: &[String], scratch: &str) -> Result<Self> {
        let in_folder = |folder: &str, names: [&str; 2]| {
            if folder.is_empty() {
                return Err(Error::invalid("a layer folder's path is empty"));
            }
            let folder = Path::new(folder);
            let found = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
            Ok(found.unwrap_or_else(|| folder.join(names[0])))
        };
        let layers = parents
            .iter()
            .map(|parent| Ok(LcowLayer::whole(in_folder(parent, LAYER_NAMES)?)))
            .collect::<Result<_>>()?;
        Ok(Self { layers, scratch: in_folder(scratch, SCRATCH_NAMES)? })
    }
}

impl Rootfs {
    /// Reads a root filesystem's mount. Nothing is looked up but which of two names a layer's file has.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid).
    pub fn parse(mount: &RootfsMount) -> Result<Self> {
        let options = Options::parse(mount)?;
        match mount.kind.as_str() {
            "windows-layer" => Ok(Self::WindowsLayer {
                scratch: options.source()?,
                parents: options.list("parentLayerPaths")?,
            }),
            "CimFS" => {
                let layers = options.list("parentLayerPaths")?;
                let cims = options.list("parentCimPaths")?;
                if layers.len() != cims.len() {
                    return Err(options.wrong(format!(
                        "parentLayerPaths names {} layers and parentCimPaths {}",
                        layers.len(),
                        cims.len()
                    )));
                }
                let parents = layers.into_iter().zip(cims).collect();
                Ok(Self::CimFs { scratch: options.source()?, parents })
            }
            "BlockCIM" => options.block_cim(),
            "lcow-layer" => {
                let parents = options.list("parentLayerPaths")?;
                Ok(Self::Lcow(LcowLayers::from_folders(&parents, &options.source()?)?))
            }
            "lcow-partitioned-layer" => options.partitioned().map(Self::Lcow),
            other => Err(Error::invalid(format!(
                "a root filesystem cannot be a mount of type `{}`",
                other.escape_debug()
            ))),
        }
    }
}

/// The options of one mount, each at most once.
struct Options<'a> {
    mount: &'a RootfsMount,
    values: HashMap<&'a str, &'a str>,
}

/// As hcsshim writes them; the names are compared as Go's JSON does it, in any case.
#[derive(Deserialize)]
struct PartitionedLayer {
    #[serde(rename = "Path", alias = "path")]
    path: String,
    #[serde(rename = "Partition", alias = "partition", default)]
    partition: u64,
}

impl<'a> Options<'a> {
    fn parse(mount: &'a RootfsMount) -> Result<Self> {
        let mut values = HashMap::new();
        for option in &mount.options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            if values.insert(key, value).is_some() {
                return Err(Error::invalid(format!(
                    "the option {} of the {} mount is given twice",
                    key.escape_debug(),
                    mount.kind.escape_debug()
                )));
            }
        }
        Ok(Self { mount, values })
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid(format!("in the {} mount of the root filesystem, {what}", self.mount.kind))
    }

    fn source(&self) -> Result<String> {
        match self.mount.source.as_str() {
            "" => Err(self.wrong("the source, which is the scratch folder, is missing")),
            source => Ok(source.to_owned()),
        }
    }

    fn required(&self, key: &str) -> Result<&'a str> {
        match self.values.get(key) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(self.wrong(format!("the option {key}= is missing"))),
        }
    }

    /// A JSON array of at least one path.
    fn list(&self, key: &str) -> Result<Vec<String>> {
        let list: Vec<String> = serde_json::from_str(self.required(key)?)
            .map_err(|error| self.wrong(format!("{key} is no JSON array of texts: {error}")))?;
        match list.iter().any(String::is_empty) || list.is_empty() {
            true => Err(self.wrong(format!("{key} is empty or names an empty path"))),
            false => Ok(list),
        }
    }

    fn block_cim(&self) -> Result<Rootfs> {
        let kind = match self.required("blockCIMType")? {
            "file" => BlockCimKind::File,
            "device" => BlockCimKind::Device,
            other => {
                return Err(self.wrong(format!(
                    "blockCIMType is `{}`, and can be file or device",
                    other.escape_debug()
                )));
            }
        };
        let split = |path: &str| match path.trim_end_matches(['\\', '/']).rsplit_once(['\\', '/']) {
            Some((block_path, name)) if !block_path.is_empty() && !name.is_empty() => {
                Ok(BlockCim { block_path: block_path.to_owned(), name: name.to_owned() })
            }
            _ => Err(self.wrong(format!(
                "`{}` does not say both where the CIM lies and its name",
                path.escape_debug()
            ))),
        };
        let parents: Vec<BlockCim> =
            self.list("parentCimPaths")?.iter().map(|path| split(path)).collect::<Result<_>>()?;
        let merged = match self.values.get("mergedCIMPath") {
            Some(path) => Some(split(path)?),
            None if parents.len() > 1 => {
                return Err(self.wrong("mergedCIMPath= is missing, and there are several parents"));
            }
            None => None,
        };
        Ok(Rootfs::BlockCim { scratch: self.source()?, kind, parents, merged })
    }

    fn partitioned(&self) -> Result<LcowLayers> {
        const SCRATCH: &str = "scratch";
        const PARENTS: &str = "parent-partitioned-layers";
        if let Some(unknown) = self.values.keys().find(|key| ![SCRATCH, PARENTS].contains(key)) {
            return Err(self.wrong(format!("the option {} is unknown", unknown.escape_debug())));
        }
        let parents: Vec<PartitionedLayer> = serde_json::from_str(self.required(PARENTS)?)
            .map_err(|error| {
                self.wrong(format!("{PARENTS} is no JSON array of layers: {error}"))
            })?;
        if parents.is_empty() || parents.iter().any(|parent| parent.path.is_empty()) {
            return Err(self.wrong(format!("{PARENTS} is empty or names an empty path")));
        }
        let layers = parents
            .into_iter()
            .map(|parent| LcowLayer {
                partition: parent.partition,
                ..LcowLayer::whole(parent.path)
            })
            .collect();
        Ok(LcowLayers { layers, scratch: self.required(SCRATCH)?.into() })
    }
}

#[cfg(test)]
mod tests;
