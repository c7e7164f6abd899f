//! JSON text inside JSON strings.

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that travels as the text of its JSON, in a string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InText<T>(pub T);

impl<T: Serialize> Serialize for InText<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serde_json::to_string(&self.0).map_err(S::Error::custom)?)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for InText<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(D::Error::custom)
    }
}

/// As [`InText`], and an empty string is the default value.
pub(super) fn or_empty<'de, T, D>(deserializer: D) -> Result<InText<T>, D::Error>
where
    T: DeserializeOwned + Default,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    match text.is_empty() {
        true => Ok(InText(T::default())),
        false => serde_json::from_str(&text).map(InText).map_err(D::Error::custom),
    }
}
