//! Hash trees of layer images: what a kernel needs to prove each block that it reads of one (dm-verity).

mod tree;

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use layer::{Digest, Digester};
use serde::{Deserialize, Serialize};

use crate::db::Records as _;
use crate::error::{Error, ErrorKind, Result};
use crate::layers::{Layer, LayerId, LayerRecord};
use crate::layout::Layout;
use crate::staging::Staging;
use crate::store::Store;
use crate::sweep::reason;

/// What is known about a layer image's hash tree. The tree is a file beside the image, in the layout of
/// `veritysetup format --hash-block-size 4096` with a superblock; the root hash is here and not there, because whoever
/// can change the image could change the tree with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerVerity {
    /// The root hash; with it and the tree the kernel proves the image.
    pub root_hash: Digest,
    /// What is hashed before every block; made of the layer's id, so that the same layer gives the same tree.
    pub salt: Digest,
    /// Length of the tree's file in bytes.
    pub tree_size: u64,
    /// Digest of the tree's file.
    pub tree_digest: Digest,
}

/// The name of the tree in a staging directory.
const STAGED: &str = "verity";

impl Layer {
    /// Where the hash tree is, if there is one.
    pub fn verity(&self) -> Option<(PathBuf, &LayerVerity)> {
        self.record.verity.as_ref().map(|verity| (tree_of(&self.path), verity))
    }
}

impl Layout {
    /// The file of a layer's hash tree.
    pub(crate) fn layer_tree(&self, id: &LayerId) -> PathBuf {
        tree_of(&self.layer(id))
    }
}

fn tree_of(image: &Path) -> PathBuf {
    image.with_extension("verity")
}

impl Store {
    /// Makes the hash tree of a layer that is in the store, if it has none (any more): a file beside the image, and its
    /// root hash in the layer's record, durably in this order.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for a CIM, which no Linux kernel mounts; `ReadOnly`, `NoSpace`, `Corrupt`, `Io`.
    pub fn seal_layer(&self, id: &LayerId) -> Result<LayerVerity> {
        let missing = || Error::not_found(format!("layer {id} does not exist"));
        let record = self.read()?.layer(id)?.ok_or_else(missing)?;
        if record.cim.is_some() {
            let text = format!("layer {id} is a CIM, and hash trees are for EROFS images");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if let Some(verity) = &record.verity
            && self.tree_is_there(id, verity)
        {
            return Ok(verity.clone());
        }
        let staging = Staging::new(self.root())?;
        // From here on no gc takes the image.
        staging.pin(id)?;
        let verity = self.write_tree(&staging, id, &record)?;
        let staged = self.stage_file(&staging, STAGED, verity.tree_size)?;
        sys::failpoint::hit("tree-synced");
        let _kept = self.not_sweeping();
        let mut write = self.write()?;
        let mut record = write.layer(id)?.ok_or_else(missing)?;
        let place = self.layout().layer_tree(id);
        let doing = || format!("adding the hash tree of layer {id}");
        sys::file::rename(&staged, &place).map_err(|source| Error::sys(doing(), source))?;
        sys::failpoint::hit("tree-renamed");
        sys::file::sync_directory(&self.layout().layers())
            .map_err(|source| Error::sys(doing(), source))?;
        record.verity = Some(verity.clone());
        write.put_layer(id, record)?;
        write.commit()?;
        sys::failpoint::hit("tree-recorded");
        Ok(verity)
    }

    fn tree_is_there(&self, id: &LayerId, verity: &LayerVerity) -> bool {
        let metadata = std::fs::symlink_metadata(self.layout().layer_tree(id));
        metadata.is_ok_and(|found| found.is_file() && found.len() == verity.tree_size)
    }

    fn write_tree(
        &self,
        staging: &Staging,
        id: &LayerId,
        record: &LayerRecord,
    ) -> Result<LayerVerity> {
        let doing = || format!("making the hash tree of layer {id}");
        let io = |source| Error::io(doing(), source);
        let image = File::open(self.layout().layer(id)).map_err(io)?;
        let mut tree = staging.create(STAGED)?;
        let salt = Digest::of(format!("dm-verity {id}").as_bytes());
        let seed = tree::Seed { salt: *salt.as_bytes(), uuid: record.uuid };
        let mut image = BufReader::with_capacity(1 << 20, image);
        let written = tree::write(&mut image, record.image_size, &mut tree, &seed).map_err(io)?;
        let tree_digest = digest_of(&mut tree).map_err(io)?;
        Ok(LayerVerity { root_hash: written.root, salt, tree_size: written.size, tree_digest })
    }

    /// What is wrong with a layer's hash tree, if anything is; it is read if `whole`.
    pub(crate) fn fault_of_tree(
        &self,
        id: &LayerId,
        verity: &LayerVerity,
        whole: bool,
    ) -> Option<String> {
        let path = self.layout().layer_tree(id);
        if !self.tree_is_there(id, verity) {
            let (path, size) = (path.display(), verity.tree_size);
            return Some(format!("its hash tree {path}, {size} bytes long, is not there"));
        }
        if !whole {
            return None;
        }
        match File::open(&path).and_then(|mut file| digest_of(&mut file)) {
            Ok(digest) if digest == verity.tree_digest => None,
            Ok(digest) => {
                let made = verity.tree_digest;
                Some(format!("its hash tree has the digest {digest}, {made} when it was made"))
            }
            Err(error) => Some(reason(&error)),
        }
    }

    /// Forgets a layer's hash tree and makes it anew: what is recorded does not fit what is there.
    pub(crate) fn reseal_layer(&self, id: &LayerId) -> Result<()> {
        let mut write = self.write()?;
        let Some(mut record) = write.layer(id)? else { return Ok(()) };
        record.verity = None;
        write.put_layer(id, record)?;
        write.commit()?;
        self.seal_layer(id).map(drop)
    }
}

fn digest_of(file: &mut File) -> std::io::Result<Digest> {
    use std::io::Seek as _;
    file.rewind()?;
    let mut digester = Digester::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digester.finish()),
            read => digester.update(&buffer[..read]),
        }
    }
}
