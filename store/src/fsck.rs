//! Checking a store, and repairing what can be repaired without guessing.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use layer::Digest;
use serde::{Deserialize, Serialize};

use crate::cim::{CimFile, CimParts, fault_inside};
use crate::db::{Read, Records as _, source};
use crate::error::{Error, ErrorKind, Result};
use crate::images::ImageRecord;
use crate::layers::{LayerId, LayerRecord};
use crate::snapshot::{Kind, Scratch, Snapshot, shown};
use crate::store::Store;
use crate::sweep::{Depth, reason};

/// What to check and whether to repair.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct FsckOptions {
    /// Repair what can be repaired without guessing.
    pub repair: bool,
    /// Read every layer image and compare its checksum.
    pub checksums: bool,
    /// Check the inside of every layer image as well.
    pub deep: bool,
}

impl Default for FsckOptions {
    fn default() -> Self {
        Self { repair: false, checksums: true, deep: false }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Wasted space or a leftover; nothing is lost.
    Warning,
    /// Something is missing or damaged.
    Error,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of fault, a stable word with dashes.
    pub code: Cow<'static, str>,
    /// What it is about: `snapshot KEY`, `layer ID`, `image REF`, or a path.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What the repair did.
    pub repaired: Option<String>,
    /// What a user can do about it.
    pub advice: Option<String>,
}

/// What fsck found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    /// The faults, in the order of the checks.
    pub findings: Vec<Finding>,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Layers looked at.
    pub layers: u64,
    /// Bytes of layer images read.
    pub bytes: u64,
    /// Images looked at.
    pub images: u64,
    /// Blobs looked at.
    pub blobs: u64,
}

impl FsckReport {
    /// Whether nothing is wrong (any more).
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired.is_some())
    }

    fn error(
        &mut self,
        code: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.add(Severity::Error, code, subject.into(), message.into())
    }

    fn warning(
        &mut self,
        code: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.add(Severity::Warning, code, subject.into(), message.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        subject: String,
        message: String,
    ) -> &mut Finding {
        let code = Cow::Borrowed(code);
        let finding = Finding { severity, code, subject, message, repaired: None, advice: None };
        let at = self.findings.len();
        self.findings.push(finding);
        &mut self.findings[at]
    }
}

impl Finding {
    fn repaired(&mut self, what: impl Into<String>) {
        self.repaired = Some(what.into());
    }

    fn advise(&mut self, what: impl Into<String>) {
        self.advice = Some(what.into());
    }
}

/// Everything readable, by what refers to it.
struct Contents {
    snapshots: BTreeMap<Vec<u8>, Snapshot>,
    layers: BTreeMap<LayerId, LayerRecord>,
    images: Vec<ImageRecord>,
    blobs: BTreeSet<Digest>,
}

impl Contents {
    /// What has to be imported again, or is lost, when a layer is damaged.
    fn advice_for(&self, id: &LayerId) -> String {
        let images: Vec<&str> = self
            .images
            .iter()
            .filter(|image| image.layers.contains(id))
            .map(|image| image.reference.as_str())
            .collect();
        if !images.is_empty() {
            return format!("import again: {}", images.join(", "));
        }
        let snapshots: Vec<String> = self
            .snapshots
            .values()
            .filter(|snapshot| snapshot.layers.contains(id))
            .map(Snapshot::name)
            .collect();
        if snapshots.is_empty() {
            "nothing refers to it; gc removes it".to_owned()
        } else {
            format!(
                "its content is lost unless you have it elsewhere; remove what is based on {}",
                snapshots.join(", ")
            )
        }
    }
}

impl Store {
    /// Checks everything: the database's structure, records and the links between them, layer images, scratch
    /// directories, blobs, images, leftovers. Nothing is changed unless a repair is asked for; a repair drops
    /// nothing that still has a meaning. Other threads may go on using the store.
    ///
    /// # Errors
    /// `ReadOnly` for a repair of a store opened for reading, `Corrupt` if the database itself cannot be read, `Io`.
    pub fn fsck(&self, options: FsckOptions) -> Result<FsckReport> {
        if options.repair && self.is_read_only() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "a store opened for reading cannot be repaired",
            ));
        }
        let mut report = FsckReport::default();
        if !self.check_integrity()? {
            report
                .error(
                    "database-structure",
                    "metadata.redb",
                    "the database's own structure was damaged",
                )
                .repaired("rebuilt by the database");
        }
        let read = self.read()?;
        let contents = read_all(&read, &mut report)?;
        self.check_snapshots(&read, &contents, options, &mut report)?;
        self.check_layers(&read, &contents, options, &mut report)?;
        check_images(&contents, &mut report);
        self.check_disk(&read, options, &mut report)?;
        Ok(report)
    }

    fn check_snapshots(
        &self,
        read: &Read,
        contents: &Contents,
        options: FsckOptions,
        report: &mut FsckReport,
    ) -> Result<()> {
        let mut links = BTreeMap::new();
        let mut keys: BTreeMap<u64, &Snapshot> = BTreeMap::new();
        for snapshot in contents.snapshots.values() {
            let subject = format!("snapshot {}", snapshot.name());
            if let Some(other) = keys.insert(snapshot.id, snapshot) {
                report.error(
                    "number-twice",
                    &subject,
                    format!("it has the number {} of snapshot {}", snapshot.id, other.name()),
                );
            }
            for id in &snapshot.layers {
                if !contents.layers.contains_key(id) {
                    let advice = contents.advice_for(id);
                    report
                        .error(
                            "layer-unrecorded",
                            &subject,
                            format!("its layer {id} has no record"),
                        )
                        .advise(advice);
                }
            }
            match (snapshot.kind, snapshot.layers.first(), snapshot.scratch) {
                (Kind::Committed, None, Some(Scratch::Folder)) => {
                    let folder = self.layout().snapshot(snapshot.id);
                    if !folder.join("Files").is_dir() {
                        let what = format!("its layer folder {} is missing", folder.display());
                        report.error("folder-missing", &subject, what);
                    }
                }
                (Kind::Committed, None, _) => {
                    report.error(
                        "committed-without-layer",
                        &subject,
                        "it is committed and has no layer",
                    );
                }
                (Kind::View, Some(id), _) => {
                    report.error(
                        "layer-unexpected",
                        &subject,
                        format!("it is a view and has the layer {id}"),
                    );
                }
                (Kind::Committed | Kind::View, _, _) if snapshot.deferred.is_some() => {
                    report.error(
                        "layer-unexpected",
                        &subject,
                        format!("it is {} and has a deferred layer", snapshot.kind),
                    );
                }
                (Kind::Active, _, None) => {
                    report.error("scratch-unrecorded", &subject, "it is active and has no scratch");
                }
                _ => {}
            }
            self.check_deferred(snapshot, options, report);
            let Some(parent) = &snapshot.parent else { continue };
            match contents.snapshots.get(parent) {
                None => report
                    .error(
                        "parent-missing",
                        &subject,
                        format!("its parent {} does not exist", shown(parent)),
                    )
                    .advise("remove it, or import the image of its parent again"),
                Some(parent) if parent.kind != Kind::Committed => {
                    report.error(
                        "parent-not-committed",
                        &subject,
                        format!("its parent {} is {}", parent.name(), parent.kind),
                    );
                }
                Some(parent) => {
                    links.insert((parent.id, snapshot.id), snapshot.key.clone());
                }
            }
            if in_circle(contents, snapshot) {
                report.error("parents-in-circle", &subject, "it is among its own parents");
            }
        }
        let recorded: BTreeMap<(u64, u64), Vec<u8>> = read
            .back_links()?
            .into_iter()
            .map(|(parent, child, key)| ((parent, child), key))
            .collect();
        // A link from an unreadable record may be right; it is left alone as long as there is one.
        let readable = !report.findings.iter().any(|finding| finding.code == "record-unreadable");
        if recorded != links && readable {
            let finding = report.error(
                "back-links",
                "metadata.redb",
                "the links from parents to children do not fit the records",
            );
            if options.repair {
                let mut write = self.write()?;
                for (parent, child) in recorded.keys() {
                    write.delete_back_link(*parent, *child)?;
                }
                for ((parent, child), key) in &links {
                    write.put_back_link(*parent, *child, key)?;
                }
                write.commit()?;
                finding.repaired("rebuilt from the records");
            }
        }
        let highest = keys.keys().next_back().copied().unwrap_or(0);
        let sequence = read.sequence()?;
        if sequence < highest {
            let finding = report.error(
                "sequence",
                "metadata.redb",
                format!("the last number given out is recorded as {sequence}, but snapshot {highest} exists"),
            );
            if options.repair {
                let mut write = self.write()?;
                write.put_sequence(highest)?;
                write.commit()?;
                finding.repaired(format!("raised to {highest}"));
            }
        }
        Ok(())
    }

    /// The blob of a deferred layer.
    fn check_deferred(&self, snapshot: &Snapshot, options: FsckOptions, report: &mut FsckReport) {
        let (Kind::Active, Some(deferred)) = (snapshot.kind, &snapshot.deferred) else { return };
        let path = self.layout().deferred(snapshot.id);
        let digest = || -> std::io::Result<Digest> {
            let mut digester = layer::Digester::default();
            let mut file = std::fs::File::open(&path)?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(digester.finish()),
                    length => digester.update(&buffer[..length]),
                }
            }
        };
        let message = match path.metadata() {
            Err(error) => format!("its deferred layer cannot be read: {error}"),
            Ok(file) if file.len() != deferred.size => format!(
                "its deferred layer is {} bytes long, {} when it was stored",
                file.len(),
                deferred.size
            ),
            Ok(_) if !options.checksums => return,
            Ok(file) => {
                report.bytes += file.len();
                match digest() {
                    Ok(digest) if digest == deferred.digest => return,
                    Ok(digest) => format!(
                        "its deferred layer has the digest {digest}, {} when it was stored",
                        deferred.digest
                    ),
                    Err(error) => format!("its deferred layer cannot be read: {error}"),
                }
            }
        };
        report
            .error("deferred-layer", format!("snapshot {}", snapshot.name()), message)
            .advise("it cannot be committed any more; remove it and pull its image again");
    }

    fn check_layers(
        &self,
        read: &Read,
        contents: &Contents,
        options: FsckOptions,
        report: &mut FsckReport,
    ) -> Result<()> {
        self.check_sources(read, contents, options, report)?;
        for (id, record) in &contents.layers {
            let Some((code, message)) = self.fault_of_layer(id, record, options, report) else {
                self.check_tree(id, record, options, report);
                continue;
            };
            // Removed by another thread meanwhile.
            if self.layer(id)?.is_none() {
                continue;
            }
            let mut advice = contents.advice_for(id);
            let path = self.layout().layer(id);
            if options.repair && code != "layer-unreadable" && path.exists() {
                // Out of the way of a new import, but not gone: it may be all that is left of the content.
                for path in self.layout().layer_files(id, record) {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let aside = self.layout().root().join(format!("corrupt-{name}"));
                    match sys::file::rename(&path, &aside) {
                        Err(error) if error.io_kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => {
                            return Err(Error::sys(format!("setting layer {id} aside"), error));
                        }
                        Ok(()) => advice = format!("set aside as {}; {advice}", aside.display()),
                    }
                }
            }
            report.error(code, format!("layer {id}"), message).advise(advice);
        }
        Ok(())
    }

    /// The hash tree of a layer whose image is sound, of which it can be made again.
    fn check_tree(
        &self,
        id: &LayerId,
        record: &LayerRecord,
        options: FsckOptions,
        report: &mut FsckReport,
    ) {
        let Some(verity) = &record.verity else { return };
        let Some(message) = self.fault_of_tree(id, verity, options.checksums) else { return };
        let finding = report.error("layer-verity", format!("layer {id}"), message);
        // Only an image that was read is worth a new root hash.
        if !(options.repair && options.checksums) {
            finding.advise("`plywood fsck --repair` makes it again");
            return;
        }
        match self.reseal_layer(id) {
            Ok(()) => finding.repaired("made again"),
            Err(error) => finding.advise(format!("it cannot be made again: {}", reason(&error))),
        }
    }

    /// The table that leads from blobs to layers against the layers' own records.
    fn check_sources(
        &self,
        read: &Read,
        contents: &Contents,
        options: FsckOptions,
        report: &mut FsckReport,
    ) -> Result<()> {
        if report.findings.iter().any(|finding| finding.code == "record-unreadable") {
            return Ok(());
        }
        let recorded: BTreeMap<Vec<u8>, Vec<u8>> = read.sources()?.into_iter().collect();
        let of_layer = |(id, record): (&LayerId, &LayerRecord)| {
            let id = id.as_str().as_bytes();
            record.blobs.iter().map(|blob| (source(blob), id.to_vec())).collect::<Vec<_>>()
        };
        let expected: BTreeMap<Vec<u8>, Vec<u8>> =
            contents.layers.iter().flat_map(of_layer).collect();
        if recorded == expected {
            return Ok(());
        }
        let finding = report.error(
            "sources",
            "metadata.redb",
            "the links from blobs to layers do not fit the layers' records",
        );
        if options.repair {
            let mut write = self.write()?;
            for (blob, id) in &recorded {
                write.delete_source(blob, id)?;
            }
            for (id, record) in &contents.layers {
                write.put_sources(id, record)?;
            }
            write.commit()?;
            finding.repaired("rebuilt from the records");
        }
        Ok(())
    }

    fn fault_of_layer(
        &self,
        id: &LayerId,
        record: &LayerRecord,
        options: FsckOptions,
        report: &mut FsckReport,
    ) -> Option<(&'static str, String)> {
        if let Some(parts) = &record.cim {
            return self.fault_of_cim(id, record, parts, options, report);
        }
        let path = self.layout().layer(id);
        let unreadable = |error: &dyn std::error::Error| ("layer-unreadable", reason(error));
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Some(("layer-missing", format!("its image {} is missing", path.display())));
            }
            Err(error) => return Some(unreadable(&error)),
        };
        let length = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => return Some(unreadable(&error)),
        };
        if length != record.image_size {
            return Some((
                "layer-length",
                format!("its image is {length} bytes long, {} when it was made", record.image_size),
            ));
        }
        if options.checksums {
            report.bytes += length;
            match layer::image_checksum(&file) {
                Ok(checksum) if checksum == record.checksum => {}
                Ok(checksum) => {
                    return Some((
                        "layer-checksum",
                        format!(
                            "its image has the checksum {checksum}, {} when it was made",
                            record.checksum
                        ),
                    ));
                }
                // Not even a superblock that tells the header's length.
                Err(error) if error.kind() == layer::ErrorKind::Corrupt => {
                    return Some(("layer-checksum", reason(&error)));
                }
                Err(error) => return Some(unreadable(&error)),
            }
        }
        if options.deep {
            return deep(file);
        }
        None
    }

    fn fault_of_cim(
        &self,
        id: &LayerId,
        record: &LayerRecord,
        parts: &CimParts,
        options: FsckOptions,
        report: &mut FsckReport,
    ) -> Option<(&'static str, String)> {
        let directory = self.layout().cim_layers();
        for CimFile { name, length } in &parts.files {
            match directory.join(name).metadata() {
                Ok(file) if file.len() == *length => {}
                Ok(file) => {
                    let message = format!(
                        "its {name} is {} bytes long, {length} when it was made",
                        file.len()
                    );
                    return Some(("layer-length", message));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Some(("layer-missing", format!("its {name} is missing")));
                }
                Err(error) => return Some(("layer-unreadable", reason(&error))),
            }
        }
        if options.checksums {
            report.bytes += record.image_size;
            match parts.checksum(&directory) {
                Ok(checksum) if checksum == record.checksum => {}
                Ok(checksum) => {
                    let made = record.checksum;
                    let message =
                        format!("its files have the checksum {checksum}, {made} when it was made");
                    return Some(("layer-checksum", message));
                }
                Err(error) => return Some(("layer-unreadable", reason(&error))),
            }
        }
        let inside = if options.deep { fault_inside(&directory, id) } else { None };
        inside.map(|message| ("layer-inside", message))
    }

    fn check_disk(&self, read: &Read, options: FsckOptions, report: &mut FsckReport) -> Result<()> {
        // With unreadable records, what they refer to would look like leftovers.
        if report.findings.iter().any(|finding| finding.code == "record-unreadable") {
            return Ok(());
        }
        let found = {
            let _alone = self.exclusively();
            // What other threads did since the records were read is no leftover.
            self.leftovers(&self.read()?, true, Depth::Inside)?
        };
        let swept = if options.repair { self.cleanup()? } else { crate::Swept::default() };
        // Opening made these again, but what they held is lost.
        for directory in &self.swept().restored {
            report
                .error(
                    "scratch-missing",
                    self.scratch_owner(read, directory)?,
                    format!("{} or a part of it was missing", directory.display()),
                )
                .repaired("made again, empty, when the store was opened");
        }
        for snapshot in &found.incomplete {
            let directory = self.layout().snapshot(snapshot.id);
            let finding = report.error(
                "scratch-missing",
                format!("snapshot {}", snapshot.name()),
                format!("{} or a part of it is missing", directory.display()),
            );
            if swept.restored.contains(&directory) {
                finding.repaired("made again, empty");
            }
        }
        for path in found.paths() {
            let finding = report.warning(
                "leftover",
                path.display().to_string(),
                "left behind by an operation that was cut short",
            );
            if swept.removed.contains(path) {
                finding.repaired("removed");
            } else if let Some((_, why)) = swept.kept.iter().find(|(kept, _)| kept == path) {
                finding.advise(format!("it could not be removed: {why}"));
            }
        }
        Ok(())
    }
    /// Whose scratch a directory is, as the subject of a finding.
    fn scratch_owner(&self, read: &Read, directory: &Path) -> Result<String> {
        let snapshots = read.snapshots()?;
        let owner = snapshots.iter().find(|s| self.layout().snapshot(s.id) == directory);
        Ok(owner.map_or_else(
            || directory.display().to_string(),
            |snapshot| format!("snapshot {}", snapshot.name()),
        ))
    }
}

/// The first of what is wrong inside an image whose bytes are as they were made.
fn deep(file: std::fs::File) -> Option<(&'static str, String)> {
    let image = match erofs::Image::open(file) {
        Ok(image) => image,
        Err(error) => return Some(("layer-inside", reason(&error))),
    };
    let report = erofs::check(&image);
    if report.is_sound() {
        return None;
    }
    let worst = report.findings.iter().find(|finding| finding.severity() == erofs::Severity::Error);
    let worst = worst.map_or_else(String::new, |finding| format!(", first: {finding}"));
    Some(("layer-inside", format!("{} errors inside its image{worst}", report.errors())))
}

fn read_all(read: &Read, report: &mut FsckReport) -> Result<Contents> {
    let mut contents = Contents {
        snapshots: BTreeMap::new(),
        layers: BTreeMap::new(),
        images: Vec::new(),
        blobs: BTreeSet::new(),
    };
    let unreadable = |report: &mut FsckReport, what: &str, key: &[u8], error: &Error| {
        report.error("record-unreadable", format!("{what} {}", shown(key)), reason(error));
    };
    for (key, snapshot) in read.snapshots_one_by_one()? {
        report.snapshots += 1;
        match snapshot {
            Ok(snapshot) => drop(contents.snapshots.insert(key, snapshot)),
            Err(error) => unreadable(report, "snapshot", &key, &error),
        }
    }
    for (key, layer) in read.layers_one_by_one()? {
        report.layers += 1;
        match layer {
            Ok((id, record)) => drop(contents.layers.insert(id, record)),
            Err(error) => unreadable(report, "layer", &key, &error),
        }
    }
    for (key, image) in read.images_one_by_one()? {
        report.images += 1;
        match image {
            Ok(image) => contents.images.push(image),
            Err(error) => unreadable(report, "image", &key, &error),
        }
    }
    for (digest, bytes) in read.blobs()? {
        report.blobs += 1;
        if Digest::of(&bytes) == digest {
            contents.blobs.insert(digest);
            continue;
        }
        let images: Vec<&str> = contents
            .images
            .iter()
            .filter(|image| image.manifest == digest || image.config == digest)
            .map(|image| image.reference.as_str())
            .collect();
        report
            .error(
                "blob-digest",
                format!("blob {digest}"),
                format!("its digest is {}", Digest::of(&bytes)),
            )
            .advise(format!("import again: {}", images.join(", ")));
    }
    Ok(contents)
}

fn check_images(contents: &Contents, report: &mut FsckReport) {
    for image in &contents.images {
        let subject = format!("image {}", image.reference);
        let again = "import it again";
        for digest in [&image.manifest, &image.config] {
            let damaged = |finding: &Finding| {
                finding.code == "blob-digest" && finding.subject == format!("blob {digest}")
            };
            if !contents.blobs.contains(digest) && !report.findings.iter().any(damaged) {
                report
                    .error("blob-missing", &subject, format!("its blob {digest} is missing"))
                    .advise(again);
            }
        }
        let mut below: Option<&[u8]> = None;
        let mut layers = Vec::new();
        for name in &image.chain {
            match contents.snapshots.get(name.as_bytes()) {
                None => report
                    .error(
                        "image-snapshot-missing",
                        &subject,
                        format!("its snapshot {name} is missing"),
                    )
                    .advise(again),
                Some(snapshot) => {
                    if snapshot.kind != Kind::Committed || snapshot.parent.as_deref() != below {
                        report
                            .error(
                                "image-chain",
                                &subject,
                                format!("its snapshot {name} is not on the one before it"),
                            )
                            .advise(again);
                    }
                    layers.extend(snapshot.layers.clone());
                }
            }
            below = Some(name.as_bytes());
        }
        if layers.len() == image.chain.len() && layers != image.layers {
            report
                .error("image-layers", &subject, "its layers are not those of its snapshots")
                .advise(again);
        }
    }
}

/// Whether following the parents comes back to where it started.
fn in_circle(contents: &Contents, start: &Snapshot) -> bool {
    let mut next = start.parent.as_ref();
    for _ in 0..contents.snapshots.len() {
        match next {
            None => return false,
            Some(key) if *key == start.key => return true,
            Some(key) => {
                next = contents.snapshots.get(key).and_then(|snapshot| snapshot.parent.as_ref())
            }
        }
    }
    false
}
