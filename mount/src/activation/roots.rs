//! The directories below which activations may make files.

use std::path::{Component, Path, PathBuf};

use sys::directory::Directory;

use crate::{Error, ErrorKind, Result};

/// Directories, each as it was given and without symbolic links.
#[derive(Debug)]
pub(super) struct Roots(Vec<PathBuf>);

impl Roots {
    pub(super) fn new<'a>(roots: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut all = Vec::new();
        for root in roots {
            all.push(root.to_owned());
            all.extend(root.canonicalize().ok().filter(|real| real != root));
        }
        Self(all)
    }

    /// Opens the directory of `path`, which must lie below a root by its components, and gives its last name. No
    /// symbolic link below the root is followed: what is mounted there can be anybody's file system.
    pub(super) fn parent_of(&self, path: &Path) -> Result<(Directory, Vec<u8>)> {
        let outside = || {
            Error::new(
                ErrorKind::NotSupported,
                format!(
                    "{} is not below a directory in which activations may make files",
                    path.display()
                ),
            )
        };
        let inside = |root: &PathBuf| path.strip_prefix(root).ok().map(|rest| (root.clone(), rest));
        let (root, rest) = self.0.iter().find_map(inside).ok_or_else(outside)?;
        let mut names = Vec::new();
        for component in rest.components() {
            match component {
                Component::Normal(name) => names.push(name.as_encoded_bytes().to_vec()),
                _ => return Err(outside()),
            }
        }
        let Some(last) = names.pop() else { return Err(outside()) };
        let failed = |error| Error::sys(format!("cannot reach {}", path.display()), error);
        let mut directory = Directory::open(&root).map_err(failed)?;
        for name in names {
            directory = directory.open_directory(&name).map_err(failed)?;
        }
        Ok((directory, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_below_a_root_and_without_links() {
        let bench = tempfile::tempdir().unwrap();
        let root = bench.path().join("root");
        for name in ["root/in/side", "root-other/in"] {
            std::fs::create_dir_all(bench.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("/etc", root.join("in/link")).unwrap();
        let roots = Roots::new([root.as_path()]);
        let (directory, name) = roots.parent_of(&root.join("in/side/new")).unwrap();
        assert_eq!(name, b"new");
        directory.make_directory(&name).unwrap();
        assert!(root.join("in/side/new").is_dir());
        for (path, kind) in [
            ("root", ErrorKind::NotSupported),
            // A prefix of the text, not of the path.
            ("root-other/in/new", ErrorKind::NotSupported),
            ("root/in/../../root-other/new", ErrorKind::NotSupported),
            ("root/missing/new", ErrorKind::NotFound),
        ] {
            let error = roots.parent_of(&bench.path().join(path)).unwrap_err();
            assert_eq!(error.kind(), kind, "{path}");
        }
        assert!(roots.parent_of(&root.join("in/link/new")).is_err());
        assert!(roots.parent_of(Path::new("relative/new")).is_err());
        assert!(Roots::new([]).parent_of(&root.join("new")).is_err());
    }
}
