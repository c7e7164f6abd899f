use super::*;
use crate::windows::base64;

const BUILDKIT_DIRECTORY: &str = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgCoAAcAAAAAAxgA/wEfAAECAAAAAAAFIAAAACACAAAAAxQA/wEfAAEBAAAAAAAFEgAAAAAAGAD/AR8AAQIAAAAAAAUgAAAAIAIAAAALFAAAAAAQAQEAAAAAAAMAAAAAAAMYAKkAEgABAgAAAAAABSAAAAAhAgAAAAIYAAQAAAABAgAAAAAABSAAAAAhAgAAAAIYAAIAAAABAgAAAAAABSAAAAAhAgAA";
const BUILDKIT_FILE: &str = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAAAAAFIAAAACACAAAAABQA/wEfAAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA==";

#[test]
fn texts_and_bytes_agree() {
    for (sddl, bytes) in [
        ("O:BUG:BU", "AQAAgBQAAAAkAAAAAAAAAAAAAAABAgAAAAAABSAAAAAhAgAAAQIAAAAAAAUgAAAAIQIAAA=="),
        ("O:BAG:BA", "AQAAgBQAAAAkAAAAAAAAAAAAAAABAgAAAAAABSAAAAAgAgAAAQIAAAAAAAUgAAAAIAIAAA=="),
        ("O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)", BUILDKIT_FILE),
        (
            "O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;FA;;;BA)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)(A;CI;DC;;;BU)",
            BUILDKIT_DIRECTORY,
        ),
        ("D:NO_ACCESS_CONTROL", "AQAEgAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let bytes = base64::decode(bytes.as_bytes()).unwrap();
        let descriptor = SecurityDescriptor::from_sddl(sddl).unwrap();
        assert_eq!(descriptor.write().unwrap(), bytes, "{sddl}");
        assert_eq!(SecurityDescriptor::read(&bytes).unwrap(), descriptor);
        assert_eq!(descriptor.to_sddl().unwrap(), sddl);
    }
    let short = SecurityDescriptor::from_sddl("O:BAG:SYD:(A;;FA;;;BA)").unwrap();
    let hex = "0100048014000000240000000000000030000000010200000000000520000000200200000101000000000005120000000200200001000000000018\
        00ff011f0001020000000000052000000020020000";
    let text: String = short.write().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, hex);
}

#[test]
fn the_example_of_the_specification() {
    let sddl = "O:BAG:BAD:P(A;CIOI;GRGX;;;BU)(A;CIOI;GA;;;BA)(A;CIOI;GA;;;SY)(A;CIOI;GA;;;CO)\
        S:P(AU;FA;GR;;;WD)";
    let descriptor = SecurityDescriptor::from_sddl(sddl).unwrap();
    let bytes = descriptor.write().unwrap();
    assert_eq!(u16_at(&bytes, 2), Some(0xB014));
    assert_eq!(SecurityDescriptor::read(&bytes).unwrap(), descriptor);
    let text = "O:BAG:BAD:P(A;OICI;GXGR;;;BU)(A;OICI;GA;;;BA)(A;OICI;GA;;;SY)(A;OICI;GA;;;CO)\
        S:P(AU;FA;GR;;;WD)";
    assert_eq!(descriptor.to_sddl().unwrap(), text);
    assert_eq!(SecurityDescriptor::from_sddl(text).unwrap(), descriptor);
}

#[test]
fn every_kind_of_entry_comes_back() {
    for sddl in [
        "D:",
        "D:PARAI",
        "S:AI(ML;;NW;;;LW)",
        "O:S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464D:(D;ID;KA;;;WD)",
        "D:(OA;;CCDC;00112233-4455-6677-8899-aabbccddeeff;;BA)",
        "D:(OA;;CR;;00112233-4455-6677-8899-aabbccddeeff;BA)(OD;;0x7;;;SY)",
        "D:(A;OICINPIOIDCR;CCDCLCSWRPWPDTLOCRSDRCWDWO;;;BA)S:(AU;SAFA;GA;;;WD)",
        "S:(TL;;0x1;;;S-1-19-512-4096)(SP;;;;;S-1-17-1)",
    ] {
        let descriptor = SecurityDescriptor::from_sddl(sddl).unwrap();
        let bytes = descriptor.write().unwrap();
        assert_eq!(SecurityDescriptor::read(&bytes).unwrap(), descriptor, "{sddl}");
        let again = SecurityDescriptor::from_sddl(&descriptor.to_sddl().unwrap()).unwrap();
        assert_eq!(again, descriptor, "{sddl}");
    }
    let octal =
        SecurityDescriptor::from_sddl("D:(A;;0777;;;BA)(A;;511;;;BA)(A;;0x1FF;;;BA)").unwrap();
    let masks = octal.dacl.unwrap().aces.into_iter().map(|ace| match ace.body {
        AceBody::Rights { mask, .. } => mask,
        AceBody::Other(_) => 0,
    });
    assert!(masks.eq([511; 3]));
}

#[test]
fn what_is_no_sddl_is_refused() {
    for bad in [
        "garbage",
        "O:",
        "O:XX",
        "O:BAO:BA",
        "D:(A;;FA;;;BA",
        "D:(A;;FA;;BA)",
        "D:(Q;;FA;;;BA)",
        "D:(A;OIX;FA;;;BA)",
        "D:(A;;0xg;;;BA)",
        "D:(A;;0x+1;;;BA)",
        "D:(A;;FA;x;;BA)",
        "D:Q",
        "D:NO_ACCESS_CONTROL(A;;FA;;;BA)",
        "X:BA",
        "é:BA",
        "Oé:BA",
        "O:é:",
        "D:(A;;é;;;BA)",
        "D:(A;;FA;;;BA)x",
        ":",
        "O",
    ] {
        assert_eq!(
            SecurityDescriptor::from_sddl(bad).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{bad}"
        );
    }
    let conditional = SecurityDescriptor::from_sddl("D:(XA;;FX;;;WD;(@User.x))");
    assert_eq!(conditional.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn damaged_bytes_are_refused_or_read_the_same_again() {
    let sddl =
        "O:BAG:SYD:(OA;;CR;00112233-4455-6677-8899-aabbccddeeff;;BA)(A;;FA;;;SY)S:(ML;;NW;;;LW)";
    let bytes = SecurityDescriptor::from_sddl(sddl).unwrap().write().unwrap();
    for cut in 0..bytes.len() {
        assert!(SecurityDescriptor::read(&bytes[..cut]).is_err(), "{cut}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            if let Ok(read) = SecurityDescriptor::read(&other) {
                let _ = read.to_sddl();
                assert_eq!(SecurityDescriptor::read(&read.write().unwrap()).unwrap(), read);
            }
        }
    }
}
