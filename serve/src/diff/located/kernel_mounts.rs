//! Mounts that Linux' kernel performs.

use std::path::{Path, PathBuf};

use store::{Kind, Layer, LayerId, Snapshot};
use tonic::Status;

use super::{Located, Places, foreign};
use crate::api::types::Mount;
use crate::status;

impl Places<'_> {
    /// What the last of some mounts shows, which those below it are for.
    pub(super) fn kernel_mounts(&self, top: &Mount, below: &[Mount]) -> Result<Located, Status> {
        match top.r#type.as_str() {
            "bind" if below.is_empty() => self.directory(Path::new(&top.source)),
            "overlay" if below.is_empty() => self.overlay(&top.options, &[]),
            "erofs" if below.is_empty() => {
                Ok(Located::Layers(vec![self.file(Path::new(&top.source))?]))
            }
            "format/mkdir/overlay" => {
                let erofs = below.iter().map(|mount| match mount.r#type.as_str() {
                    "erofs" => self.file(Path::new(&mount.source)),
                    other => Err(foreign(format!("a mount of the type {other:?}"))),
                });
                let files = erofs.collect::<Result<Vec<_>, _>>()?;
                self.overlay(&top.options, &files)
            }
            other => Err(foreign(format!(
                "{} mounts, the last one of the type {other:?}",
                below.len() + 1
            ))),
        }
    }

    fn overlay(&self, options: &[String], files: &[Layer]) -> Result<Located, Status> {
        let option = |name: &str| {
            options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
        };
        if let Some(upper) = option("upperdir") {
            let [upper] =
                unescaped(upper).try_into().map_err(|_| foreign("two upper directories"))?;
            return match self.directory(&upper)? {
                // Its layers are known by the snapshot.
                active @ Located::Active(_) => Ok(active),
                Located::Layers(_) => Err(foreign(format!("upperdir={}", upper.display()))),
            };
        }
        if !files.is_empty() {
            return Ok(Located::Layers(files.to_vec()));
        }
        let lowers = option("lowerdir").ok_or_else(|| foreign("an overlay without lowerdir"))?;
        let mut layers = Vec::new();
        for path in unescaped(lowers) {
            match self.directory(&path)? {
                Located::Layers(found) => layers.extend(found),
                Located::Active(_) => return Err(foreign(format!("lowerdir={}", path.display()))),
            }
        }
        Ok(Located::Layers(layers))
    }

    /// What a directory of ours shows.
    fn directory(&self, path: &Path) -> Result<Located, Status> {
        if let Some(number) = self.upper_of(path) {
            return match self.store.active_by_number(number) {
                Ok(snapshot) => Ok(Located::Active(Box::new(snapshot))),
                Err(error) if error.kind() == store::ErrorKind::NotFound => {
                    self.empty(path, number)
                }
                Err(error) => Err(status::of_store(&error)),
            };
        }
        let volume =
            self.service.registry().volume_at(path).map_err(|error| status::of_mount(&error))?;
        let volume = volume.ok_or_else(|| foreign(path.display()))?;
        if !volume.scratch {
            return match path == volume.mountpoint {
                true => Ok(Located::Layers(vec![self.layer(&volume.layer)?])),
                false => Err(foreign(path.display())),
            };
        }
        // `<root>/snapshots/<number>/scratch.img`
        let number = volume.image.parent().and_then(|directory| self.number(directory));
        let number = number.ok_or_else(|| foreign(path.display()))?;
        match self.store.active_by_number(number) {
            Ok(snapshot) => Ok(Located::Active(Box::new(snapshot))),
            Err(error) => Err(status::of_store(&error)),
        }
    }

    /// The directory of a view without parent: nothing is in it.
    fn empty(&self, path: &Path, number: u64) -> Result<Located, Status> {
        let views = self.store.list(&["kind==view"]).map_err(|error| status::of_store(&error))?;
        let is_it = |view: &&Snapshot| view.id == number && view.kind == Kind::View;
        match views.iter().find(is_it) {
            Some(_) => Ok(Located::Layers(Vec::new())),
            None => {
                Err(Status::not_found(format!("no snapshot has the directory {}", path.display())))
            }
        }
    }

    /// `<root>/snapshots/<number>/fs`
    fn upper_of(&self, path: &Path) -> Option<u64> {
        match path.file_name()?.to_str()? {
            "fs" => self.number(path.parent()?),
            _ => None,
        }
    }

    /// `<root>/layers/<name>`
    fn file(&self, path: &Path) -> Result<Layer, Status> {
        let layers = self.store.layers().map_err(|error| status::of_store(&error))?;
        layers.into_iter().find(|layer| layer.path == path).ok_or_else(|| foreign(path.display()))
    }

    fn layer(&self, id: &str) -> Result<Layer, Status> {
        let id: LayerId = id.parse().map_err(|error| status::of_store(&error))?;
        let layer = self.store.layer(&id).map_err(|error| status::of_store(&error))?;
        layer.ok_or_else(|| Status::not_found(format!("layer {id} is not in the store")))
    }
}

/// The paths in an option of overlayfs: separated by colons, which a backslash makes part of a path.
fn unescaped(value: &str) -> Vec<PathBuf> {
    let mut paths = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => paths.push(String::new()),
            '\\' => paths.last_mut().into_iter().for_each(|path| path.extend(characters.next())),
            other => paths.last_mut().into_iter().for_each(|path| path.push(other)),
        }
    }
    paths.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_overlays_are_read_as_overlayfs_reads_them() {
        let paths = |value: &str| -> Vec<String> {
            unescaped(value).into_iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(paths("/a:/b"), ["/a", "/b"]);
        assert_eq!(paths(r"/a\:b\,c\\d:/e"), [r"/a:b,c\d", "/e"]);
        assert_eq!(paths(r"/a\"), ["/a"]);
    }
}
