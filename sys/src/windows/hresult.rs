//! HRESULT values: their names, what they mean, and whether waiting helps.

use std::fmt;

/// What a Windows function answers: 0 or a positive number is success, a negative one a failure.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HResult(i32);

/// Whether a failed layer operation is worth another try (hcs-layers.md 1.3 and 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryClass {
    /// The scratch disk is still arriving: the two codes upstream retries.
    DeviceArriving,
    /// Someone else has the file, or the service was too slow: users hit these, upstream never retries them.
    Contended,
    /// Another try would fail alike.
    Never,
}

impl HResult {
    /// Success.
    pub const OK: Self = Self(0);
    /// Win32 0x2: no such file; of a dismount: no such CIM volume.
    pub const FILE_NOT_FOUND: Self = Self::win32(0x2);
    /// Win32 0x3.
    pub const PATH_NOT_FOUND: Self = Self::win32(0x3);
    /// Win32 0x5.
    pub const ACCESS_DENIED: Self = Self::win32(0x5);
    /// Win32 0x15.
    pub const NOT_READY: Self = Self::win32(0x15);
    /// Win32 0x20.
    pub const SHARING_VIOLATION: Self = Self::win32(0x20);
    /// Win32 0x32.
    pub const NOT_SUPPORTED: Self = Self::win32(0x32);
    /// Win32 0x57.
    pub const INVALID_PARAMETER: Self = Self::win32(0x57);
    /// Win32 0x7A.
    pub const INSUFFICIENT_BUFFER: Self = Self::win32(0x7A);
    /// Win32 0x7E: the DLL is missing.
    pub const MODULE_NOT_FOUND: Self = Self::win32(0x7E);
    /// Win32 0x7F: the DLL lacks the entry point.
    pub const PROCEDURE_NOT_FOUND: Self = Self::win32(0x7F);
    /// Win32 0xAA.
    pub const BUSY: Self = Self::win32(0xAA);
    /// Win32 0xB7; of a CIM mount: the volume GUID is in use.
    pub const ALREADY_EXISTS: Self = Self::win32(0xB7);
    /// Win32 0x459: not Unicode that can be passed on.
    pub const NO_UNICODE_TRANSLATION: Self = Self::win32(0x459);
    /// Win32 0x48F.
    pub const DEVICE_NOT_CONNECTED: Self = Self::win32(0x48F);
    /// Win32 0x522.
    pub const PRIVILEGE_NOT_HELD: Self = Self::win32(0x522);
    /// Win32 0x1126: neither a mount point nor a link.
    pub const NOT_A_REPARSE_POINT: Self = Self::win32(0x1126);
    /// Win32 0x5B4.
    pub const TIMEOUT: Self = Self::win32(0x5B4);

    /// `E_FAIL`: a failure without a reason.
    pub const UNSPECIFIED: Self = Self::from_bits(0x8000_4005);

    /// The value a function returned.
    pub const fn from_raw(value: i32) -> Self {
        Self(value)
    }

    /// The value written as it is usually shown, `0x80070015`.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits.cast_signed())
    }

    /// What a Win32 error number becomes: 0 stays 0, an HRESULT stays itself, the rest get facility 7.
    pub const fn win32(number: u32) -> Self {
        if number == 0 || number.cast_signed() < 0 {
            return Self(number.cast_signed());
        }
        Self((0x8007_0000 | (number & 0xFFFF)).cast_signed())
    }

    /// The value as returned.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The value as it is usually shown.
    pub const fn bits(self) -> u32 {
        self.0.cast_unsigned()
    }

    /// Whether the call failed.
    pub const fn is_failure(self) -> bool {
        self.0 < 0
    }

    /// The Win32 error number inside, for facility 7.
    pub const fn win32_number(self) -> Option<u32> {
        if self.bits() & 0xFFFF_0000 == 0x8007_0000 { Some(self.bits() & 0xFFFF) } else { None }
    }

    /// The symbolic name, `ERROR_NOT_READY` or `HCS_E_INVALID_LAYER`; "unknown" for what is not in the table.
    pub fn name(self) -> &'static str {
        self.entry().map_or("unknown", |entry| entry.1)
    }

    /// What the value means for layers, in one sentence without a full stop.
    pub fn sentence(self) -> &'static str {
        self.entry().map_or("Windows gives no further explanation", |entry| entry.2)
    }

    /// Whether waiting and trying again can help.
    pub fn retry_class(self) -> RetryClass {
        match self {
            Self::NOT_READY | Self::DEVICE_NOT_CONNECTED => RetryClass::DeviceArriving,
            Self::SHARING_VIOLATION | Self::ACCESS_DENIED | Self::TIMEOUT => RetryClass::Contended,
            _ => RetryClass::Never,
        }
    }

    fn entry(self) -> Option<&'static (u32, &'static str, &'static str)> {
        // The old vmcompute interface returns the service's codes with the severity bits of an NTSTATUS.
        let bits = match self.bits() {
            old if old & 0xFFFF_0000 == 0xC037_0000 => 0x8037_0000 | (old & 0xFFFF),
            bits => bits,
        };
        TABLE.iter().find(|entry| HResult::win32(entry.0).bits() == bits)
    }
}

impl fmt::Display for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:08X})", self.name(), self.bits())
    }
}

impl fmt::Debug for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Win32 numbers as winerror.h has them (facility 7 is added), full values for other facilities.
const TABLE: &[(u32, &str, &str)] = &[
    (0x0, "S_OK", "the call succeeded"),
    (
        0x1,
        "ERROR_INVALID_FUNCTION",
        "the file system or its filters refuse this; a filter conflict does this to PrepareLayer",
    ),
    (0x2, "ERROR_FILE_NOT_FOUND", "there is no such file or volume"),
    (0x3, "ERROR_PATH_NOT_FOUND", "a directory of the path does not exist"),
    (
        0x5,
        "ERROR_ACCESS_DENIED",
        "access is denied: administrator rights are missing, or something holds the file",
    ),
    (0x6, "ERROR_INVALID_HANDLE", "the handle is closed or of another kind"),
    (0x15, "ERROR_NOT_READY", "the scratch disk has not arrived yet"),
    (0x1F, "ERROR_GEN_FAILURE", "a device of the host is not working"),
    (
        0x20,
        "ERROR_SHARING_VIOLATION",
        "another process has the file open: a virus scanner, another start, or a disk left attached",
    ),
    (0x21, "ERROR_LOCK_VIOLATION", "another process has locked a part of the file"),
    (0x26, "ERROR_HANDLE_EOF", "more was written than the declared size"),
    (0x32, "ERROR_NOT_SUPPORTED", "this Windows or this file system cannot do it"),
    (0x37, "ERROR_DEV_NOT_EXIST", "the device is gone"),
    (0x50, "ERROR_FILE_EXISTS", "the file exists"),
    (0x57, "ERROR_INVALID_PARAMETER", "an argument is not accepted"),
    (0x70, "ERROR_DISK_FULL", "the disk is full"),
    (0x7A, "ERROR_INSUFFICIENT_BUFFER", "the answer is longer than the buffer"),
    (0x7B, "ERROR_INVALID_NAME", "the name is not a valid path"),
    (0x7E, "ERROR_MOD_NOT_FOUND", "the DLL does not exist on this Windows"),
    (0x7F, "ERROR_PROC_NOT_FOUND", "the DLL of this Windows lacks the function"),
    (0x91, "ERROR_DIR_NOT_EMPTY", "the directory is not empty"),
    (0xAA, "ERROR_BUSY", "the object is in use"),
    (0xB7, "ERROR_ALREADY_EXISTS", "the name or the volume GUID is in use"),
    (0xEA, "ERROR_MORE_DATA", "the answer is longer than the buffer"),
    (0x10B, "ERROR_DIRECTORY", "the path is not a directory"),
    (0x2E4, "ERROR_ELEVATION_REQUIRED", "the process must run elevated"),
    (0x3F1, "ERROR_BADDB", "the registry file is damaged"),
    (0x3F9, "ERROR_NOT_REGISTRY_FILE", "the file is not a registry hive"),
    (
        0x424,
        "ERROR_SERVICE_DOES_NOT_EXIST",
        "the service is not installed; the Containers feature may be off",
    ),
    (0x426, "ERROR_SERVICE_NOT_ACTIVE", "the service is not running"),
    (
        0x459,
        "ERROR_NO_UNICODE_TRANSLATION",
        "the text cannot be passed on: it holds a NUL or half a surrogate pair",
    ),
    (0x48F, "ERROR_DEVICE_NOT_CONNECTED", "the scratch disk is not connected yet"),
    (0x490, "ERROR_NOT_FOUND", "there is no such element"),
    (0x521, "ERROR_NO_SUCH_PRIVILEGE", "this Windows has no privilege of this name"),
    (0x522, "ERROR_PRIVILEGE_NOT_HELD", "the process lacks a privilege"),
    (0x570, "ERROR_FILE_CORRUPT", "the file is damaged"),
    (0x5B4, "ERROR_TIMEOUT", "the host compute service did not answer in time"),
    (0x1126, "ERROR_NOT_A_REPARSE_POINT", "the file is no mount point and no link"),
    (0x801F_0015, "ERROR_FLT_INSTANCE_NOT_FOUND", "the filter is not attached to this volume"),
    (
        0x8037_0100,
        "HCS_E_TERMINATED_DURING_START",
        "the virtual machine or container ended while it started",
    ),
    (0x8037_0101, "HCS_E_IMAGE_MISMATCH", "the image's Windows does not match the host's"),
    (0x8037_0102, "HCS_E_HYPERV_NOT_INSTALLED", "Hyper-V is not installed or not running"),
    (0x8037_0105, "HCS_E_INVALID_STATE", "the compute system's state does not allow this"),
    (0x8037_0106, "HCS_E_UNEXPECTED_EXIT", "the compute system ended unexpectedly"),
    (0x8037_0107, "HCS_E_TERMINATED", "the compute system was terminated"),
    (0x8037_0108, "HCS_E_CONNECT_FAILED", "the guest cannot be reached"),
    (0x8037_0109, "HCS_E_CONNECTION_TIMEOUT", "the guest did not connect in time"),
    (0x8037_010A, "HCS_E_CONNECTION_CLOSED", "the guest closed the connection"),
    (0x8037_010B, "HCS_E_UNKNOWN_MESSAGE", "the guest does not know the message"),
    (0x8037_010C, "HCS_E_UNSUPPORTED_PROTOCOL_VERSION", "the guest speaks another version"),
    (0x8037_010D, "HCS_E_INVALID_JSON", "the document is not what the service expects"),
    (0x8037_010E, "HCS_E_SYSTEM_NOT_FOUND", "there is no such compute system"),
    (0x8037_010F, "HCS_E_SYSTEM_ALREADY_EXISTS", "a compute system of this name exists"),
    (0x8037_0110, "HCS_E_SYSTEM_ALREADY_STOPPED", "the compute system has stopped already"),
    (0x8037_0111, "HCS_E_PROTOCOL_ERROR", "the guest broke the protocol"),
    (
        0x8037_0112,
        "HCS_E_INVALID_LAYER",
        "the layer is not valid: a wrong parent, a wrong order, or a base of another build",
    ),
    (0x8037_0113, "HCS_E_WINDOWS_INSIDER_REQUIRED", "the image needs an Insider build"),
    (0x8037_0114, "HCS_E_SERVICE_NOT_AVAILABLE", "the host compute service does not answer"),
    (0x8037_0115, "HCS_E_OPERATION_NOT_STARTED", "the operation was not started"),
    (0x8037_0116, "HCS_E_OPERATION_ALREADY_STARTED", "the operation was started already"),
    (0x8037_0117, "HCS_E_OPERATION_PENDING", "the operation has not ended"),
    (0x8037_0118, "HCS_E_OPERATION_TIMEOUT", "the operation did not end in time"),
    (
        0x8037_0119,
        "HCS_E_OPERATION_SYSTEM_CALLBACK_ALREADY_SET",
        "the compute system has a callback already",
    ),
    (
        0x8037_011A,
        "HCS_E_OPERATION_RESULT_ALLOCATION_FAILED",
        "no memory for the operation's result",
    ),
    (0x8037_011B, "HCS_E_ACCESS_DENIED", "the user is no Hyper-V administrator"),
    (0x8037_011C, "HCS_E_GUEST_CRITICAL_ERROR", "the guest failed critically"),
    (0x8037_011D, "HCS_E_PROCESS_INFO_NOT_AVAILABLE", "nothing is known of the process"),
    (0x8037_011E, "HCS_E_SERVICE_DISCONNECT", "the connection to the host compute service broke"),
    (0x8037_011F, "HCS_E_PROCESS_ALREADY_STOPPED", "the process has stopped already"),
    (
        0x8037_0120,
        "HCS_E_SYSTEM_NOT_CONFIGURED_FOR_OPERATION",
        "the compute system is not set up for this",
    ),
    (0x8037_0121, "HCS_E_OPERATION_ALREADY_CANCELLED", "the operation was cancelled already"),
    (0x8000_4001, "E_NOTIMPL", "the function is not implemented"),
    (0x8000_4005, "E_FAIL", "the call failed without a reason"),
    (0x8000_FFFF, "E_UNEXPECTED", "an internal error of Windows"),
    (
        0xC000_C001,
        "STATUS_FILE_SYSTEM_VIRTUALIZATION_METADATA_CORRUPT",
        "the image's metadata are refused by the driver",
    ),
    (0xC03A_0001, "ERROR_VHD_DRIVE_FOOTER_MISSING", "the file is no virtual disk"),
    (
        0xC03A_000D,
        "ERROR_VHD_PARENT_VHD_NOT_FOUND",
        "the parent of the differencing disk is missing",
    ),
    (
        0xC03A_0014,
        "ERROR_VIRTDISK_PROVIDER_NOT_FOUND",
        "this Windows has no support for the disk's format",
    ),
    (
        0xC03A_0016,
        "ERROR_VHD_PARENT_VHD_ACCESS_DENIED",
        "the parent of the differencing disk cannot be opened",
    ),
    (
        0xC03A_001A,
        "ERROR_VIRTUAL_DISK_LIMITATION",
        "the disk is compressed, encrypted or sparse on the host and cannot be attached",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    // Values from winerror.h.
    #[test]
    fn a_win32_number_becomes_facility_seven_and_back() {
        assert_eq!(HResult::win32(0x15).bits(), 0x8007_0015);
        assert_eq!(HResult::win32(0x15).win32_number(), Some(0x15));
        assert_eq!(HResult::win32(0), HResult::OK);
        assert_eq!(HResult::win32(0xC03A_001A).bits(), 0xC03A_001A);
        assert_eq!(HResult::win32(0xC03A_001A).win32_number(), None);
        assert!(HResult::from_bits(0x8007_0005).is_failure());
        assert!(!HResult::from_raw(1).is_failure());
    }

    #[test]
    fn values_have_names_sentences_and_a_place_in_the_retry_table() {
        let cases = [
            (0x8007_0015, "ERROR_NOT_READY", RetryClass::DeviceArriving),
            (0x8007_048F, "ERROR_DEVICE_NOT_CONNECTED", RetryClass::DeviceArriving),
            (0x8007_0020, "ERROR_SHARING_VIOLATION", RetryClass::Contended),
            (0x8007_0005, "ERROR_ACCESS_DENIED", RetryClass::Contended),
            (0x8007_05B4, "ERROR_TIMEOUT", RetryClass::Contended),
            (0x8037_0112, "HCS_E_INVALID_LAYER", RetryClass::Never),
            (0xC037_0112, "HCS_E_INVALID_LAYER", RetryClass::Never),
            (0x8007_1126, "ERROR_NOT_A_REPARSE_POINT", RetryClass::Never),
            (0x8765_4321, "unknown", RetryClass::Never),
        ];
        for (bits, name, class) in cases {
            let value = HResult::from_bits(bits);
            assert_eq!(value.name(), name);
            assert_eq!(value.retry_class(), class, "{name}");
            assert!(!value.sentence().ends_with('.'), "{name}");
        }
        assert_eq!(HResult::NOT_READY.to_string(), "ERROR_NOT_READY (0x80070015)");
    }

    #[test]
    fn no_value_is_listed_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for (value, name, _) in TABLE {
            assert!(seen.insert(HResult::win32(*value)), "{name}");
        }
    }
}
