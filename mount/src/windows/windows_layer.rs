//! What a `windows-layer` mount says.

use crate::{Error, ErrorKind, Mount, Result};

use super::WindowsPath;

/// The type of mount that the Windows filter's layers have.
pub const WINDOWS_LAYER: &str = "windows-layer";
const PARENTS: &str = "parentLayerPaths=";

/// A container's layers as folders of the Windows filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowsLayer {
    /// The folder with the writable `sandbox.vhdx`.
    pub scratch: WindowsPath,
    /// The folders of the read-only layers, topmost first; at least one.
    pub parents: Vec<WindowsPath>,
    /// Nothing is to be written.
    pub read_only: bool,
}

impl WindowsLayer {
    /// Reads a mount of type `windows-layer`: the source is the scratch folder, `parentLayerPaths=` a JSON array of
    /// folders, `ro` and `rw` may stand beside it.
    ///
    /// # Errors
    /// `Invalid`: another type (which is named), an option that is not known or given twice, something else than a
    /// JSON array of paths, no parents, a folder that is named twice, paths as [`WindowsPath::parse`] refuses them.
    pub fn parse(mount: &Mount) -> Result<Self> {
        if mount.r#type != WINDOWS_LAYER {
            return Err(invalid(format!(
                "a mount of type `{}` cannot be mounted on Windows: only {WINDOWS_LAYER} can",
                mount.r#type.escape_debug()
            )));
        }
        if !mount.target.as_os_str().is_empty() {
            return Err(invalid(format!(
                "a {WINDOWS_LAYER} mount cannot go to `{}` below the root file system: it is the root",
                mount.target.display()
            )));
        }
        let scratch = WindowsPath::from_os(mount.source.as_os_str())?;
        let mut parents = None;
        let mut access = None;
        for option in &mount.options {
            let twice = match option.as_str() {
                "ro" | "rw" => access.replace(option == "ro").is_some(),
                _ => match option.strip_prefix(PARENTS) {
                    Some(json) => parents.replace(paths(json)?).is_some(),
                    None => {
                        return Err(invalid(format!(
                            "a {WINDOWS_LAYER} mount has no option `{}`; those it has are {PARENTS}…, ro and rw",
                            option.escape_debug()
                        )));
                    }
                },
            };
            if twice {
                let name = option.split('=').next().unwrap_or_default();
                return Err(invalid(format!(
                    "the {WINDOWS_LAYER} mount of {scratch} has the option {name} twice, or both ro and rw"
                )));
            }
        }
        let layer = Self {
            scratch,
            parents: parents.unwrap_or_default(),
            read_only: access.unwrap_or_default(),
        };
        layer.check()?;
        Ok(layer)
    }

    /// Checks that the folders can be the layers of one container, without looking at them.
    ///
    /// # Errors
    /// `Invalid` without parents and for a folder that is named twice.
    pub fn check(&self) -> Result<()> {
        let Self { scratch, parents, .. } = self;
        if parents.is_empty() {
            return Err(invalid(format!(
                "the layer {scratch} has no parents, so there is nothing that the filter could show below it; \
                 the files of a base layer are in its folder `Files`"
            )));
        }
        let mut keys: Vec<String> = parents.iter().map(WindowsPath::key).collect();
        if keys.contains(&scratch.key()) {
            return Err(invalid(format!("the layer {scratch} is named among its own parents")));
        }
        keys.sort();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!(
                "among the parents of {scratch}, {} is named twice",
                twice[0]
            )));
        }
        Ok(())
    }
}

/// A JSON array of paths.
fn paths(json: &str) -> Result<Vec<WindowsPath>> {
    let list: Vec<String> = serde_json::from_str(json).map_err(|error| {
        let message = format!("{PARENTS} must be a JSON array of folders, topmost first");
        Error::caused(ErrorKind::Invalid, message, error)
    })?;
    list.iter().map(|path| WindowsPath::parse(path)).collect()
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: kind.to_owned(),
            source: source.into(),
            target: Default::default(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn a_layer_is_read_top_first() {
        let options = ["rw", r#"parentLayerPaths=["C:\\layers\\2","C:\\layers\\1"]"#];
        let layer = WindowsLayer::parse(&mount("windows-layer", r"C:\layers\3", &options)).unwrap();
        assert_eq!(layer.scratch.to_string(), r"C:\layers\3");
        let parents: Vec<String> = layer.parents.iter().map(WindowsPath::to_string).collect();
        assert_eq!(parents, [r"C:\layers\2", r"C:\layers\1"]);
        assert!(!layer.read_only);
        let options = [r#"parentLayerPaths=["C:/layers/1/"]"#, "ro"];
        assert!(WindowsLayer::parse(&mount("windows-layer", "C:/s", &options)).unwrap().read_only);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        const ONE: &str = r#"parentLayerPaths=["C:\\1"]"#;
        let mut targeted = mount("windows-layer", r"C:\s", &[ONE]);
        targeted.target = "sub".into();
        for (given, reason) in [
            (mount("bind", r"C:\s", &[ONE]), "type `bind`"),
            (mount("", r"C:\s", &[ONE]), "type ``"),
            (mount("CimFS", r"C:\s", &[ONE]), "type `CimFS`"),
            (mount("Windows-Layer", r"C:\s", &[ONE]), "type `Windows-Layer`"),
            (targeted, "below the root"),
            (mount("windows-layer", "", &[ONE]), "empty"),
            (mount("windows-layer", r"layers\1", &[ONE]), "relative"),
            (mount("windows-layer", r"C:s", &[ONE]), "current on that drive"),
            (mount("windows-layer", r"C:\s", &[]), "no parents"),
            (mount("windows-layer", r"C:\s", &["parentLayerPaths=[]"]), "no parents"),
            (mount("windows-layer", r"C:\s", &["parentLayerPaths="]), "JSON array"),
            (mount("windows-layer", r"C:\s", &[r"parentLayerPaths=C:\1"]), "JSON array"),
            (mount("windows-layer", r"C:\s", &[r#"parentLayerPaths="C:\\1""#]), "JSON array"),
            (mount("windows-layer", r"C:\s", &[r#"parentLayerPaths={"0":"C:\\1"}"#]), "JSON array"),
            (mount("windows-layer", r"C:\s", &["parentLayerPaths=null"]), "JSON array"),
            (mount("windows-layer", r"C:\s", &["parentLayerPaths=[1]"]), "JSON array"),
            (
                mount("windows-layer", r"C:\s", &[r#"parentLayerPaths=["C:\\\ud800"]"#]),
                "JSON array",
            ),
            (mount("windows-layer", r"C:\s", &[r#"parentLayerPaths=[""]"#]), "empty"),
            (mount("windows-layer", r"C:\s", &[ONE, ONE]), "twice"),
            (mount("windows-layer", r"C:\s", &[ONE, "ro", "rw"]), "twice"),
            (mount("windows-layer", r"C:\s", &[ONE, "RO"]), "no option `RO`"),
            (mount("windows-layer", r"C:\s", &[r#"parentLayerPaths=["C:\\1","c:/1/"]"#]), "twice"),
            (mount("windows-layer", r"C:\S", &[r#"parentLayerPaths=["C:\\s"]"#]), "own parents"),
        ] {
            let error = WindowsLayer::parse(&given).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{given:?}");
            assert!(error.to_string().contains(reason), "{given:?}: {error}");
        }
    }
}
