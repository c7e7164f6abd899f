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
            cim: None,
            verity: None,
            blobs: Vec::new(),
            created: Timestamp::now(),
        },
        path: PathBuf::from(format!("/layers/{index}.erofs")),
    };
    let dirs = ScratchDirs { upper: PathBuf::from("/s/1/fs"), work: PathBuf::from("/s/1/work") };
    let snapshot = Snapshot {
        key: b"key".to_vec(),
        id: 1,
        kind: if active { Kind::Active } else { Kind::View },
        parent: None,
        labels: store::Labels::new(),
        created: Timestamp::now(),
        updated: Timestamp::now(),
        layers: Vec::new(),
        deferred: None,
        origin: store::Origin::Local,
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
    let volumes = (0..layers).map(|index| PathBuf::from(format!("/run/plywood/v/{index:016x}")));
    (chain, volumes.collect(), active.then_some(dirs))
}

fn described(layers: usize, active: bool) -> Result<Mount> {
    let (chain, volumes, scratch) = chain(layers, active);
    let mut mounts = describe(&chain, &volumes, scratch.as_ref(), &MountForm::default())?;
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
    assert_eq!((view.r#type.as_str(), view.source.as_path()), ("overlay", Path::new("overlay")));
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
    let error = describe(&chain, &volumes, None, &MountForm::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "an active chain needs its scratch");
}

fn erofs_form(layers: usize, active: bool) -> Vec<(String, String, Vec<String>)> {
    let (chain, _, scratch) = chain(layers, active);
    let mounts = describe_erofs(&chain, scratch.as_ref(), &MountForm::default()).unwrap();
    let parts = |mount: Mount| {
        assert_eq!(mount.target, Path::new(""));
        (mount.r#type, mount.source.to_str().unwrap().to_owned(), mount.options)
    };
    mounts.into_iter().map(parts).collect()
}

#[test]
fn every_row_of_containerds_erofs_table() {
    let row = |r#type: &str, source: &str, options: &[&str]| {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        (r#type.to_owned(), source.to_owned(), options)
    };
    let layer = |index| row("erofs", &format!("/layers/{index}.erofs"), &["ro", "loop"]);
    let fixed = ["redirect_dir=off", "metacopy=off", "index=off", "xino=auto"];
    let overlay =
        |options: &[&str]| row("format/mkdir/overlay", "overlay", &[options, &fixed[..]].concat());
    let upper = ["workdir=/s/1/work", "upperdir=/s/1/fs"];
    assert_eq!(erofs_form(0, true), [row("bind", "/s/1/fs", &["rbind", "rw"])]);
    assert_eq!(erofs_form(0, false), [row("bind", "/s/1/empty", &["rbind", "ro"])]);
    assert_eq!(erofs_form(1, false), [layer(0)]);
    let one = [upper[0], upper[1], "lowerdir={{ mount 0 }}"];
    assert_eq!(erofs_form(1, true), [layer(0), overlay(&one)]);
    let three = [upper[0], upper[1], "lowerdir={{ overlay 0 2 }}"];
    assert_eq!(erofs_form(3, true), [layer(0), layer(1), layer(2), overlay(&three)]);
    assert_eq!(
        erofs_form(2, false),
        [layer(0), layer(1), overlay(&["lowerdir={{ overlay 0 1 }}"])]
    );
}

#[test]
fn a_path_that_looks_like_a_template_is_refused() {
    let (chain, _, _) = chain(1, true);
    let dirs = ScratchDirs { upper: "/s/{{ mount 0 }}/fs".into(), work: "/s/w".into() };
    let error = describe_erofs(&chain, Some(&dirs), &MountForm::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn marks_in_user_attributes_where_asked() {
    let (chain, volumes, scratch) = chain(2, true);
    let form = MountForm { user_xattrs: true };
    let plain = describe(&chain, &volumes, scratch.as_ref(), &form).unwrap();
    assert_eq!(plain[0].options.last().unwrap(), "userxattr");
    let erofs = describe_erofs(&chain, scratch.as_ref(), &form).unwrap();
    assert_eq!(erofs[2].options.last().unwrap(), "userxattr");
}
