//! What goes into the tar of an image that differs from its parent.

use std::collections::{HashMap, HashSet};

use cimfs::{Case, Change, ChangeKind, Difference, FileId, Image, ImagePath, ReadAt};

use super::export::{Item, Plan, key, reading, tar_path, whiteout_key};
use super::processing::{self, HIVES, base_path, delta_path};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Cancel;

/// Plans the tar from which, on `parent`, an importer makes `image`.
///
/// Of a file with several names, [`cimfs::compare`] names each whose first name is another than before. So if one of
/// the names is not among the changes, the parent has it, and it leads to what the others are to be linked to. The same
/// goes for a name of which nothing else changed, as long as the parent's file stays one file.
pub(super) fn plan<P: ReadAt, R: ReadAt>(
    parent: &Image<P>,
    image: &Image<R>,
    cancel: &Cancel,
) -> Result<Plan> {
    let changes = cimfs::compare(parent, image);
    let changes = changes.map_err(|error| Error::cimfs("cannot compare the images", error))?;
    let (plan, left_out, relinked) = Default::default();
    let mut planned = Planned { image, plan, left_out, relinked };
    let mut gone = HashSet::new();
    for change in &changes {
        cancel.check()?;
        planned.change(change, &mut gone)?;
    }
    planned.hives(parent, &changes)?;
    for top in ["Files", "Hives"] {
        planned.if_there(&top.into())?;
    }
    planned.links(parent, cancel)?;
    Ok(planned.plan)
}

struct Planned<'i, R> {
    image: &'i Image<R>,
    plan: Plan,
    /// Keys of what changed and yet is no item.
    left_out: HashSet<Vec<u8>>,
    /// What has only other names beside this one than before: path, and the file before and after.
    relinked: Vec<(ImagePath, FileId, FileId)>,
}

impl<R: ReadAt> Planned<'_, R> {
    fn change(&mut self, change: &Change, gone: &mut HashSet<ImagePath>) -> Result<()> {
        let path = &change.path;
        if path == &ImagePath::ROOT {
            return Ok(());
        }
        match (change.kind, change.after) {
            (ChangeKind::Removed, _) => {
                let above = parent_of(path);
                // Gone with the directory, or with what has taken its place.
                let kept = !gone.contains(&above)
                    && self.image.resolve(&above, Case::Exact).map_err(reading)?.is_dir();
                gone.insert(path.clone());
                if kept {
                    self.above(path)?;
                    self.plan.items.insert(whiteout_key(path)?, Item::Whiteout);
                }
                Ok(())
            }
            (_, Some(id)) => {
                let renamed = |it: &Difference| matches!(it, Difference::Name(_));
                let was_file = |it: &Difference| matches!(it, Difference::Directory(_));
                let is_renamed = change.differences.iter().any(renamed);
                if is_renamed && change.is_dir && !change.differences.iter().any(was_file) {
                    let what = "a directory's name changed in the case of letters only, which no layer can say";
                    return Err(
                        Error::new(ErrorKind::Unsupported, what).path(path.to_string().as_bytes())
                    );
                }
                self.above(path)?;
                self.plan.items.insert(key(path)?, Item::File(id));
                if let ([Difference::HardLink(_)], Some(before)) =
                    (change.differences.as_slice(), change.before)
                {
                    self.relinked.push((path.clone(), before, id));
                }
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }

    /// Adds the directories above a path.
    fn above(&mut self, path: &ImagePath) -> Result<()> {
        let mut above = parent_of(path);
        while above != ImagePath::ROOT {
            let key = key(&above)?;
            if self.plan.items.contains_key(&key) {
                return Ok(());
            }
            let directory = self.image.resolve(&above, Case::Exact).map_err(reading)?;
            self.plan.items.insert(key, Item::File(directory.id));
            above = parent_of(&above);
        }
        Ok(())
    }

    /// Adds a path that need not have changed, if it exists, however its letters are spelled.
    fn if_there(&mut self, path: &ImagePath) -> Result<bool> {
        let mut here = self.image.file(self.image.root()).map_err(reading)?;
        let mut spelled = Vec::new();
        for name in path.names() {
            if !here.is_dir() {
                return Ok(false);
            }
            let Some(entry) = self.image.lookup(&here, name, Case::Ignored).map_err(reading)?
            else {
                return Ok(false);
            };
            here = self.image.file(entry.id).map_err(reading)?;
            spelled.push(entry.name);
        }
        let path = ImagePath::from_names(spelled);
        self.above(&path)?;
        self.plan.items.insert(key(&path)?, Item::File(here.id));
        Ok(true)
    }

    /// Leaves out new bases of hives where there are changes that an importer merges to the same. That is so between
    /// a layer and the one below; of several layers at once the changes are those of the last.
    fn hives<P: ReadAt>(&mut self, parent: &Image<P>, changes: &[Change]) -> Result<()> {
        for (_, hive) in HIVES {
            let base = base_path(hive).to_string().to_ascii_uppercase();
            let is_base = |change: &&Change| change.path.to_string().to_ascii_uppercase() == base;
            let Some(change) = changes.iter().find(is_base) else { continue };
            if change.kind == ChangeKind::Removed || !self.if_there(&delta_path(hive))? {
                continue;
            }
            if processing::is_merged(parent, self.image, hive)? {
                let key = key(&change.path)?;
                self.plan.items.remove(&key);
                self.left_out.insert(key);
            }
        }
        Ok(())
    }

    /// Finds files with several names, and which of these names the parent has for the same file.
    fn links<P: ReadAt>(&mut self, parent: &Image<P>, cancel: &Cancel) -> Result<()> {
        let mut names: HashMap<FileId, u32> = HashMap::new();
        for entry in self.image.walk() {
            cancel.check()?;
            let entry = entry.map_err(reading)?;
            if !entry.file.is_dir() {
                *names.entry(entry.file.id).or_default() += 1;
            }
        }
        names.retain(|_, count| *count > 1);
        for entry in self.image.walk().filter(|_| !names.is_empty()) {
            let entry = entry.map_err(reading)?;
            let (id, path) = (entry.file.id, entry.path());
            if !names.contains_key(&id) || self.plan.anchors.contains_key(&id) {
                continue;
            }
            let key = key(&path)?;
            if !self.plan.items.contains_key(&key) && !self.left_out.contains(&key) {
                self.plan.anchors.insert(id, tar_path(&key));
            }
        }
        let mut stays = self.staying(parent)?;
        for (path, before, after) in std::mem::take(&mut self.relinked) {
            let anchored = self.plan.anchors.contains_key(&after);
            let stays_here = match stays.get(&before) {
                Some(other) => *other == after,
                None if anchored => false,
                None => stays.insert(before, after).is_none(),
            };
            let key = key(&path)?;
            if stays_here && self.plan.items.remove(&key).is_some() {
                self.plan.anchors.entry(after).or_insert_with(|| tar_path(&key));
            }
        }
        self.plan.linked = names;
        Ok(())
    }

    /// A file of the parent stays one file of the image. Which one, if it has a name that did not change.
    fn staying<P: ReadAt>(&self, parent: &Image<P>) -> Result<HashMap<FileId, FileId>> {
        let mut stays = HashMap::new();
        let wanted: HashSet<_> = self.relinked.iter().map(|(_, before, _)| *before).collect();
        for entry in parent.walk().filter(|_| !wanted.is_empty()) {
            let entry = entry.map_err(reading)?;
            if !wanted.contains(&entry.file.id) {
                continue;
            }
            let path = entry.path();
            let key = key(&path)?;
            if !self.plan.items.contains_key(&key)
                && !self.left_out.contains(&key)
                && let Ok(file) = self.image.resolve(&path, Case::Exact)
            {
                stays.insert(entry.file.id, file.id);
            }
        }
        Ok(stays)
    }
}

fn parent_of(path: &ImagePath) -> ImagePath {
    let (_, above) = path.names().split_last().expect("the root is not changed");
    ImagePath::from_names(above.to_vec())
}
