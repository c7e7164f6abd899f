use super::*;
use crate::ErrorKind;

fn mount(kind: &str, source: &str, options: &[&str]) -> RootfsMount {
    RootfsMount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

fn folders(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("/layers/{number}")).collect()
}

#[test]
fn there_is_one_source_of_layers() {
    let one = mount("lcow-layer", "/s", &[r#"parentLayerPaths=["/a"]"#]);
    let targeted = RootfsMount { target: "/sub".into(), ..one.clone() };
    for (rootfs, folders, fits) in [
        (vec![], folders(0), false),
        (vec![], folders(1), false),
        (vec![], folders(2), true),
        (vec![], folders(300), true),
        (vec![one.clone()], folders(0), true),
        (vec![one.clone()], folders(1), false),
        (vec![one.clone()], folders(2), false),
        (vec![one.clone(), one.clone()], folders(0), false),
        (vec![targeted], folders(0), false),
    ] {
        match check_sources(&rootfs, &folders) {
            Ok(()) => assert!(fits, "{rootfs:?} {folders:?}"),
            Err(error) => {
                assert!(!fits, "{rootfs:?} {folders:?}");
                assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
                assert_eq!(
                    lcow_layers(&rootfs, &folders).unwrap_err().kind(),
                    ErrorKind::FailedPrecondition
                );
            }
        }
    }
}

#[test]
fn folders_are_topmost_first_and_the_scratch_last() {
    let layers = lcow_layers(&[], &["/top".into(), "/base".into(), "/scratch".into()]).unwrap();
    let paths: Vec<_> = layers.layers.iter().map(|layer| layer.path.as_path()).collect();
    assert_eq!(paths, [Path::new("/top/layer.vhd"), Path::new("/base/layer.vhd")]);
    assert_eq!(layers.scratch, Path::new("/scratch/sandbox.vhdx"));
    let by_mount = mount("lcow-layer", "/scratch", &[r#"parentLayerPaths=["/top","/base"]"#]);
    assert_eq!(lcow_layers(&[by_mount], &[]).unwrap(), layers);
    assert!(lcow_layers(&[], &["".into(), "/scratch".into()]).is_err());
}

#[test]
fn our_names_stand_in_for_the_usual_ones() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("layer.erofs"), "").unwrap();
    std::fs::write(dir.path().join("scratch.ext4"), "").unwrap();
    let folder = dir.path().to_str().unwrap().to_owned();
    let found = lcow_layers(&[], &[folder.clone(), folder.clone()]).unwrap();
    assert_eq!(found.layers[0].path, dir.path().join("layer.erofs"));
    assert_eq!(found.scratch, dir.path().join("scratch.ext4"));
    std::fs::write(dir.path().join("layer.vhd"), "").unwrap();
    let found = lcow_layers(&[], &[folder.clone(), folder]).unwrap();
    assert_eq!(found.layers[0].path, dir.path().join("layer.vhd"));
}

#[test]
fn partitioned_layers() {
    let parents = r#"parent-partitioned-layers=[{"Path":"/d","Partition":2},{"Path":"/d","Partition":1},{"Path":"/e"}]"#;
    let layers = lcow_layers(&[mount("lcow-partitioned-layer", "", &["scratch=/s", parents])], &[]);
    let layer = |path: &str, partition| LcowLayer { partition, ..LcowLayer::whole(path) };
    assert_eq!(
        layers.unwrap(),
        LcowLayers {
            layers: vec![layer("/d", 2), layer("/d", 1), layer("/e", 0)],
            scratch: "/s".into()
        }
    );
    for bad in [
        vec!["scratch=/s"],
        vec![parents],
        vec!["scratch=", parents],
        vec!["scratch=/s", parents, "ro"],
        vec!["scratch=/s", "scratch=/t", parents],
        vec!["scratch=/s", "parent-partitioned-layers=[]"],
        vec!["scratch=/s", r#"parent-partitioned-layers=[{"Path":""}]"#],
        vec!["scratch=/s", r#"parent-partitioned-layers=[{"Partition":1}]"#],
        vec!["scratch=/s", r#"parent-partitioned-layers=[{"Path":"/d","Partition":-1}]"#],
        vec!["scratch=/s", "parent-partitioned-layers={"],
    ] {
        let error = Rootfs::parse(&mount("lcow-partitioned-layer", "", &bad)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
    }
}

#[test]
fn windows_layers() {
    let parents = r#"parentLayerPaths=["C:\\top","C:\\base"]"#;
    assert_eq!(
        Rootfs::parse(&mount("windows-layer", r"C:\s", &["ro", parents])).unwrap(),
        Rootfs::WindowsLayer {
            scratch: r"C:\s".into(),
            parents: vec![r"C:\top".into(), r"C:\base".into()]
        }
    );
    let cims = r#"parentCimPaths=["C:\\c\\1.cim","C:\\c\\0.cim"]"#;
    assert_eq!(
        Rootfs::parse(&mount("CimFS", r"C:\s", &[parents, cims])).unwrap(),
        Rootfs::CimFs {
            scratch: r"C:\s".into(),
            parents: vec![
                (r"C:\top".into(), r"C:\c\1.cim".into()),
                (r"C:\base".into(), r"C:\c\0.cim".into())
            ],
        }
    );
    let error = lcow_layers(&[mount("CimFS", r"C:\s", &[parents, cims])], &[]).unwrap_err();
    assert!(error.to_string().contains("Windows"), "{error}");
    for (kind, source, options) in [
        ("windows-layer", "", vec![parents]),
        ("windows-layer", "C:", vec![]),
        ("windows-layer", "C:", vec!["parentLayerPaths=nonsense"]),
        ("windows-layer", "C:", vec!["parentLayerPaths=[]"]),
        ("CimFS", "C:", vec![parents]),
        ("CimFS", "C:", vec![cims]),
        ("CimFS", "C:", vec![parents, r#"parentCimPaths=["x"]"#]),
        ("bind", "/", vec![parents]),
        ("", "", vec![]),
    ] {
        let error = Rootfs::parse(&mount(kind, source, &options)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{kind} {options:?}");
    }
}

#[test]
fn block_cims() {
    let one = r#"parentCimPaths=["C:\\b\\0.bcim\\0.cim"]"#;
    let two = r#"parentCimPaths=["C:\\b\\1.bcim\\1.cim","C:/b/0.bcim/0.cim"]"#;
    let merged = r"mergedCIMPath=C:\b\m.bcim\m.cim";
    let cim = |block_path: &str, name: &str| BlockCim {
        block_path: block_path.into(),
        name: name.into(),
    };
    assert_eq!(
        Rootfs::parse(&mount("BlockCIM", "C:", &[one, "blockCIMType=device"])).unwrap(),
        Rootfs::BlockCim {
            scratch: "C:".into(),
            kind: BlockCimKind::Device,
            parents: vec![cim(r"C:\b\0.bcim", "0.cim")],
            merged: None,
        }
    );
    assert_eq!(
        Rootfs::parse(&mount("BlockCIM", "C:", &[two, "blockCIMType=file", merged])).unwrap(),
        Rootfs::BlockCim {
            scratch: "C:".into(),
            kind: BlockCimKind::File,
            parents: vec![cim(r"C:\b\1.bcim", "1.cim"), cim("C:/b/0.bcim", "0.cim")],
            merged: Some(cim(r"C:\b\m.bcim", "m.cim")),
        }
    );
    for bad in [
        vec![one],
        vec![one, "blockCIMType="],
        vec![one, "blockCIMType=FILE"],
        vec![two, "blockCIMType=file"],
        vec!["blockCIMType=file", "parentCimPaths=[]"],
        vec!["blockCIMType=file", r#"parentCimPaths=["0.cim"]"#],
        vec![two, "blockCIMType=file", "mergedCIMPath="],
    ] {
        let error = Rootfs::parse(&mount("BlockCIM", "C:", &bad)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
    }
}
