//! Result codes: Windows' HRESULTs, as the genuine agent uses them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A signed 32-bit HRESULT. Zero is success; unknown values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResultCode(pub i32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal, $says:literal;)*) => {
        impl ResultCode {
            $($(#[$doc])* pub const $name: Self = Self($value as u32 as i32);)*

            /// The name Windows' headers give the code, if it is one the protocol uses.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }

            /// What the code says, for people; for a code without a name, nothing.
            pub fn meaning(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($says),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Success.
    OK = 0, "S_OK", "success";
    /// The message is not supported, or not now.
    NOT_IMPLEMENTED = 0x8000_4001_u32, "E_NOTIMPL", "not implemented";
    /// It failed; the message says why.
    FAIL = 0x8000_4005_u32, "E_FAIL", "failed";
    /// No process with that id.
    NOT_FOUND = 0x8007_0490_u32, "ERROR_NOT_FOUND", "no such process";
    /// The agent serves as many requests as it can.
    NO_RESOURCES = 0x8007_05aa_u32, "ERROR_NO_SYSTEM_RESOURCES", "too many requests at once";
    /// The operation took longer than it was allowed.
    TIMEOUT = 0xc037_0109_u32, "HCS_E_CONNECTION_TIMEOUT", "timed out";
    /// A message type nobody knows.
    UNKNOWN_MESSAGE = 0xc037_010b_u32, "HCS_E_UNKNOWN_MESSAGE", "unknown message";
    /// No common version of the protocol.
    UNSUPPORTED_VERSION = 0xc037_010c_u32, "HCS_E_UNSUPPORTED_PROTOCOL_VERSION", "no common version of the protocol";
    /// The JSON of a message cannot be understood.
    INVALID_JSON = 0xc037_010d_u32, "HCS_E_INVALID_JSON", "the message's JSON is not understood";
    /// No container with that id.
    SYSTEM_NOT_FOUND = 0xc037_010e_u32, "HCS_E_SYSTEM_NOT_FOUND", "no such container";
    /// A container with that id exists.
    SYSTEM_ALREADY_EXISTS = 0xc037_010f_u32, "HCS_E_SYSTEM_ALREADY_EXISTS", "the container exists already";
}

impl ResultCode {
    /// Whether it says success: HRESULTs fail when they are negative.
    pub fn is_ok(self) -> bool {
        self.0 >= 0
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (0x{:08x})", self.0),
            None => write!(f, "0x{:08x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ResultCode;

    #[test]
    fn codes_are_negative_numbers_with_names() {
        assert_eq!(ResultCode::FAIL.0, -2_147_467_259);
        assert_eq!(ResultCode::SYSTEM_NOT_FOUND.0, -1_070_137_074);
        assert_eq!(ResultCode::INVALID_JSON.to_string(), "HCS_E_INVALID_JSON (0xc037010d)");
        assert_eq!(ResultCode(-5).to_string(), "0xfffffffb");
        assert!(ResultCode::OK.is_ok() && !ResultCode::FAIL.is_ok());
        assert_eq!(serde_json::to_string(&ResultCode::NOT_IMPLEMENTED).unwrap(), "-2147467263");
    }
}
