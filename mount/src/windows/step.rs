//! A failed step: what was being done to what, and what to try. The cause below says the function, the code, its name
//! and what it means.

use std::fmt;

use sys::windows::{Error as Native, HResult};

use crate::{Error, ErrorKind};

/// `cannot DOING SUBJECT; try …`, with the kind that the code has.
pub(crate) fn failed(doing: &str, subject: impl fmt::Display, error: Native) -> Error {
    let code = error.code();
    let message = match advice(&error) {
        Some(advice) => format!("cannot {doing} {subject}; {advice}"),
        None => format!("cannot {doing} {subject}"),
    };
    Error::caused(kind_of(&error, code), message, error)
}

fn kind_of(error: &Native, code: HResult) -> ErrorKind {
    if error.missing_binding().is_some() {
        return ErrorKind::NotSupported;
    }
    match (code, code.win32_number()) {
        (HResult::FILE_NOT_FOUND | HResult::PATH_NOT_FOUND, _) => ErrorKind::NotFound,
        (HResult::ACCESS_DENIED | HResult::PRIVILEGE_NOT_HELD, _) | (_, Some(0x2E4)) => {
            ErrorKind::NotPermitted
        }
        (HResult::SHARING_VIOLATION | HResult::BUSY | HResult::NOT_READY | HResult::TIMEOUT, _)
        | (HResult::DEVICE_NOT_CONNECTED, _) => ErrorKind::Busy,
        (HResult::ALREADY_EXISTS, _) | (_, Some(0x50)) => ErrorKind::AlreadyExists,
        (HResult::NOT_SUPPORTED, _) => ErrorKind::NotSupported,
        (HResult::INVALID_PARAMETER, _) => ErrorKind::Invalid,
        (_, Some(0x70 | 0x27)) => ErrorKind::NoSpace,
        (_, Some(0x570)) => ErrorKind::Corrupt,
        _ if code.name() == "HCS_E_INVALID_LAYER" || code.name() == "HCS_E_IMAGE_MISMATCH" => {
            ErrorKind::Invalid
        }
        _ => ErrorKind::Io,
    }
}

/// What helps its users, by what they report (hcs-layers.md 7).
fn advice(error: &Native) -> Option<&'static str> {
    if error.missing_binding().is_some() {
        return Some("`plywood doctor` lists what this Windows has");
    }
    Some(match error.code().name() {
        "ERROR_SHARING_VIOLATION" => {
            "exclude the store from virus scanners, see whether another container uses the layer, or reconcile what a \
             dead process left attached"
        }
        "ERROR_ACCESS_DENIED" | "ERROR_PRIVILEGE_NOT_HELD" | "ERROR_ELEVATION_REQUIRED" => {
            "run it elevated: it takes the privileges to back up, restore and manage volumes"
        }
        "ERROR_NOT_READY" | "ERROR_DEVICE_NOT_CONNECTED" => {
            "the host attaches its disks slowly: start less at a time, or allow more tries"
        }
        "ERROR_TIMEOUT" => "start less at a time, or restart the service vmcompute",
        "ERROR_FILE_NOT_FOUND" | "ERROR_PATH_NOT_FOUND" => {
            "see that the layer's folder and those of all its parents exist"
        }
        "HCS_E_INVALID_LAYER" | "HCS_E_IMAGE_MISMATCH" => {
            "see that the parents are all there, topmost first, and that the base is of a build that this host runs"
        }
        "ERROR_INVALID_FUNCTION" => {
            "see which filter drivers are loaded (`fltmc`); some exclude this one"
        }
        "ERROR_DISK_FULL" => "make room on the disk of the store",
        "ERROR_VIRTUAL_DISK_LIMITATION" => {
            "switch compression and encryption off for the store's directory"
        }
        _ => return None,
    })
}

/// Whether a step that undoes says that there is nothing to undo: the disk is detached, the filter is not there.
pub(crate) fn is_gone(error: &Native) -> bool {
    let code = error.code();
    error.missing_binding().is_none()
        && (matches!(
            code,
            HResult::FILE_NOT_FOUND | HResult::PATH_NOT_FOUND | HResult::DEVICE_NOT_CONNECTED
        ) || matches!(code.name(), "ERROR_NOT_FOUND" | "ERROR_FLT_INSTANCE_NOT_FOUND"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;
    use sys::windows::Missing;

    #[test]
    fn an_error_says_step_path_code_name_meaning_and_what_to_try() {
        let native = Native::new("PrepareLayer", r"C:\l\7", HResult::SHARING_VIOLATION);
        let error = failed("prepare the layer", r"C:\l\7", native);
        assert_eq!(error.kind(), ErrorKind::Busy);
        let shown = format!("{error}: {}", error.source().unwrap());
        for part in [
            r"prepare the layer C:\l\7",
            "virus scanners",
            "PrepareLayer",
            "ERROR_SHARING_VIOLATION",
            "0x80070020",
            "another process has the file open",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(!error.to_string().contains("0x80070020"), "that is the cause's to say");
    }

    #[test]
    fn a_code_has_a_kind() {
        let dll = Missing { dll: "cimfs.dll", entry: None, needs_build: 19041 };
        let missing = failed("mount", "x", Native::missing("CimMountImage", dll));
        assert_eq!(missing.kind(), ErrorKind::NotSupported);
        for (code, kind) in [
            (0x8007_0002, ErrorKind::NotFound),
            (0x8007_0003, ErrorKind::NotFound),
            (0x8007_0005, ErrorKind::NotPermitted),
            (0x8007_0522, ErrorKind::NotPermitted),
            (0x8007_02E4, ErrorKind::NotPermitted),
            (0x8007_0015, ErrorKind::Busy),
            (0x8007_05B4, ErrorKind::Busy),
            (0x8007_00AA, ErrorKind::Busy),
            (0x8007_00B7, ErrorKind::AlreadyExists),
            (0x8007_0070, ErrorKind::NoSpace),
            (0x8007_0032, ErrorKind::NotSupported),
            (0x8037_0112, ErrorKind::Invalid),
            (0xC037_0112, ErrorKind::Invalid),
            (0x8007_0570, ErrorKind::Corrupt),
            (0x8000_4005, ErrorKind::Io),
        ] {
            let error = failed("do", "it", Native::new("F", "x", HResult::from_bits(code)));
            assert_eq!(error.kind(), kind, "{code:#x}");
        }
    }
}
