//! The document of the overlay filter (hcs-layers.md 1.3 and 2.2).

use serde::Serialize;
use sys::windows::Guid;

use crate::{Error, ErrorKind, Result};

/// What `HcsAttachOverlayFilter` gets: the one layer below the scratch, with its id. Without one it is what
/// `HcsDetachOverlayFilter` gets. Never used on a real HCS host.
///
/// # Errors
/// None that is known: it cannot be written as JSON.
pub fn overlay_document(layer: Option<(&Guid, &str)>) -> Result<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        major: u32,
        minor: u32,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Layer {
        id: String,
        path: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct LayerData {
        schema_version: Version,
        #[serde(skip_serializing_if = "Option::is_none")]
        layers: Option<[Layer; 1]>,
        filter_type: &'static str,
    }
    let layers = layer.map(|(id, path)| [Layer { id: id.to_string(), path: path.to_owned() }]);
    let schema_version = Version { major: 2, minor: 1 };
    let data = LayerData { schema_version, layers, filter_type: "UnionFS" };
    serde_json::to_string(&data).map_err(|error| {
        Error::caused(ErrorKind::Invalid, "cannot write the overlay filter's document", error)
    })
}
