//! What files get of which a layer does not say who may use them.

use super::security::SecurityDescriptor;

/// The security descriptor of files for which a tar has none. A directory that a layer below has keeps what it has
/// there in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AbsentSecurity {
    /// What BuildKit writes for every file: administrators and the system may do everything, users read and execute.
    #[default]
    AsBuildKit,
    /// None of the file's own, so that everyone may do everything: what hcsshim's importer does.
    Unrestricted,
}

const DIRECTORY: &str = "O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;FA;;;BA)(A;OICIIO;GA;;;CO)\
    (A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)(A;CI;DC;;;BU)";
const FILE: &str = "O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)";

/// Empty: the image's writer stores a NULL DACL.
pub(super) fn security(absent: AbsentSecurity, is_directory: bool) -> Vec<u8> {
    let text = match (absent, is_directory) {
        (AbsentSecurity::Unrestricted, _) => return Vec::new(),
        (AbsentSecurity::AsBuildKit, true) => DIRECTORY,
        (AbsentSecurity::AsBuildKit, false) => FILE,
    };
    let descriptor = SecurityDescriptor::from_sddl(text).expect("the text is ours");
    descriptor.write().expect("a short list fits")
}
