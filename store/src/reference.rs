//! Names of images.

use crate::error::{Error, Result};

/// Longest name of an image, in bytes.
pub const REFERENCE_LIMIT: usize = 4096;

/// The form in which the store knows a name: as given, and with `:latest` if it has neither a tag nor a digest, so
/// that `debian` and `debian:latest` are one image. Nothing else is added: no registry, no `library/`. A bare
/// `sha256:<hex>` names an image by its manifest's digest.
///
/// # Errors
/// `Invalid` for a name that is empty, too long, or holds spaces or control characters.
pub fn canonical_reference(name: &str) -> Result<String> {
    if name.is_empty() {
        return Err(Error::invalid("an image needs a reference"));
    }
    if name.len() > REFERENCE_LIMIT {
        return Err(Error::invalid(format!(
            "an image's name of {} bytes is over the limit of {REFERENCE_LIMIT}",
            name.len()
        )));
    }
    if name.chars().any(|char| char.is_whitespace() || char.is_control()) {
        return Err(Error::invalid(format!(
            "{name:?} cannot name an image: it holds spaces or control characters"
        )));
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    // A colon before the last slash is a registry's port.
    if last.contains([':', '@']) { Ok(name.to_owned()) } else { Ok(format!("{name}:latest")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (name, canonical) in [
            ("debian", "debian:latest"),
            ("debian:latest", "debian:latest"),
            ("debian:12", "debian:12"),
            ("host:5000/debian", "host:5000/debian:latest"),
            ("host:5000/debian:12", "host:5000/debian:12"),
            ("debian@sha256:00", "debian@sha256:00"),
            ("sha256:00", "sha256:00"),
        ] {
            assert_eq!(canonical_reference(name).unwrap(), canonical);
        }
        for name in ["", "a b", "a\n", &"x".repeat(5000)] {
            assert!(canonical_reference(name).is_err(), "{name:?}");
        }
    }
}
