//! Platforms: os, architecture, variant; and which of several an image offers is taken.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An operating system and processor, in OCI's (Go's) words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, `windows`, …
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// Of the architecture: `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// From its parts, in canonical spelling: `x86_64` is `amd64`, `aarch64` is `arm64`, and a variant that says
    /// nothing (`amd64/v1`, `arm64/v8`) is none.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let lower = architecture.to_ascii_lowercase();
        let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_ascii_lowercase);
        let (architecture, variant) = match lower.as_str() {
            "x86_64" | "x86-64" => ("amd64", variant),
            "i386" | "i486" | "i586" | "i686" => ("386", None),
            "aarch64" => ("arm64", variant),
            "armhf" => ("arm", Some("v7".to_owned())),
            "armel" => ("arm", Some("v6".to_owned())),
            "powerpc64le" => ("ppc64le", variant),
            other => (other, variant),
        };
        let variant = match (architecture, variant.as_deref()) {
            ("amd64", Some("v1")) | ("arm64", Some("v8" | "8")) => None,
            ("arm", None) => Some("v7".to_owned()),
            ("arm", Some(digit @ ("5" | "6" | "7" | "8"))) => Some(format!("v{digit}")),
            _ => variant,
        };
        Self { os: os.to_ascii_lowercase(), architecture: architecture.to_owned(), variant }
    }

    /// The platform that this program runs on.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// How well an image of platform `offered` serves who asks for `self`: `None` not at all, else the higher
    /// the better. A processor runs what was built for an older variant of it.
    pub(super) fn rank(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let wanted = level(self.variant.as_deref())?;
        let has = level(offered.variant.as_deref())?;
        (has <= wanted).then_some(has + 1)
    }
}

/// `v7` is 7; no variant is the lowest.
fn level(variant: Option<&str>) -> Option<u32> {
    match variant {
        None => Some(0),
        Some(variant) => variant.strip_prefix('v')?.parse().ok().filter(|level| *level < 1000),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let fine = parts.iter().all(|part| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        });
        match parts.as_slice() {
            [os, architecture] if fine => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] if fine => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(Error::invalid(format!(
                "{text:?} is not a platform: os/architecture or os/architecture/variant, such as linux/amd64"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        for (text, canonical) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/aarch64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armel", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), canonical, "{text}");
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn older_variants_serve() {
        let rank = |wanted: &str, offered: &str| {
            wanted.parse::<Platform>().unwrap().rank(&offered.parse().unwrap())
        };
        assert!(rank("linux/arm/v7", "linux/arm/v7") > rank("linux/arm/v7", "linux/arm/v6"));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert!(rank("linux/amd64/v3", "linux/amd64").is_some());
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
    }
}
