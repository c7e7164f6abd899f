//! The messages. Field names and order are hcsshim's; what is zero or empty is left out where hcsshim leaves it out.

mod nested;
mod process;
mod resource;
mod response;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Method;

pub use nested::InText;
pub use process::{
    ExecuteProcess, ExecuteProcessSettings, ProcessParameters, ResizeConsole, SignalOptions,
    SignalProcess, StdioPorts, WaitForProcess,
};
pub use resource::{
    CombinedLayers, GuestRequest, Layer, MappedDirectory, MappedVirtualDisk, PmemDevice,
    PmemMapping, RequestType, Resource, ScsiDevice, VerityInfo,
};
pub use response::{
    Answer, Capabilities, ContainerNotification, CreateContainerResponse, DumpStacksResponse,
    ErrorRecord, ExecuteProcessResponse, GetPropertiesResponse, GuestCapabilities,
    NegotiateResponse, ProcessDetails, Properties, ResponseBase, WaitForProcessResponse,
};

/// The container id that means the VM itself.
pub const NULL_CONTAINER: &str = "00000000-0000-0000-0000-000000000000";
/// The activity id of requests that belong to no traced activity.
pub const NULL_ACTIVITY: &str = "00000000-0000-0000-0000-000000000000";

/// Whether a field is left out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A request: which method carries it and what answers it.
pub trait Request: Serialize + DeserializeOwned {
    /// The method.
    const METHOD: Method;
    /// The answer.
    type Response: Answer;
}

macro_rules! requests {
    ($($request:ty => $method:ident, $response:ty;)*) => {
        $(impl Request for $request {
            const METHOD: Method = Method::$method;
            type Response = $response;
        })*
    };
}

requests! {
    Negotiate => NEGOTIATE_PROTOCOL, NegotiateResponse;
    CreateContainer => CREATE, CreateContainerResponse;
    StartContainer => START, ResponseBase;
    ShutdownGraceful => SHUTDOWN_GRACEFUL, ResponseBase;
    ShutdownForced => SHUTDOWN_FORCED, ResponseBase;
    ExecuteProcess => EXECUTE_PROCESS, ExecuteProcessResponse;
    WaitForProcess => WAIT_FOR_PROCESS, WaitForProcessResponse;
    SignalProcess => SIGNAL_PROCESS, ResponseBase;
    ResizeConsole => RESIZE_CONSOLE, ResponseBase;
    GetProperties => GET_PROPERTIES, GetPropertiesResponse;
    ModifySettings => MODIFY_SETTINGS, ResponseBase;
    DumpStacks => DUMP_STACKS, DumpStacksResponse;
    DeleteContainerState => DELETE_CONTAINER_STATE, ResponseBase;
}

/// What every request begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestBase {
    /// The container it is about; [`NULL_CONTAINER`] for the VM. What does not say it is about no container, and not
    /// about the VM.
    #[serde(default)]
    pub container_id: String,
    /// The activity it belongs to; comes back in the answer.
    #[serde(default)]
    pub activity_id: String,
}

impl Default for RequestBase {
    fn default() -> Self {
        Self::new(NULL_CONTAINER)
    }
}

impl RequestBase {
    /// About `container_id`, of no activity.
    pub fn new(container_id: impl Into<String>) -> Self {
        Self { container_id: container_id.into(), activity_id: NULL_ACTIVITY.to_owned() }
    }

    /// Whether it is about the VM itself.
    pub fn is_vm(&self) -> bool {
        self.container_id == NULL_CONTAINER
    }
}

macro_rules! bare_requests {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name {
                /// What it is about.
                #[serde(flatten)]
                pub base: RequestBase,
            }

            impl $name {
                /// About `container_id`.
                pub fn new(container_id: impl Into<String>) -> Self {
                    Self { base: RequestBase::new(container_id) }
                }
            }
        )*
    };
}

bare_requests! {
    /// Starts a container: accepted and without effect, because a container starts with its first process.
    StartContainer;
    /// Asks a container's first process to end (TERM); of the VM, to power off, which is not answered.
    ShutdownGraceful;
    /// Ends a container's processes (KILL).
    ShutdownForced;
    /// Asks what the agent's threads do.
    DumpStacks;
    /// Forgets a container that ended and removes what it left.
    DeleteContainerState;
}

/// The first message: agrees on the protocol's version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Negotiate {
    /// About the VM.
    #[serde(flatten)]
    pub base: RequestBase,
    /// The lowest version the host speaks.
    #[serde(default)]
    pub minimum_version: u32,
    /// The highest version the host speaks.
    #[serde(default)]
    pub maximum_version: u32,
}

impl Negotiate {
    /// For [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION) alone.
    pub fn ours() -> Self {
        let version = crate::PROTOCOL_VERSION;
        Self { minimum_version: version, maximum_version: version, ..Self::default() }
    }
}

/// Makes a container. Its processes come later.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateContainer {
    /// The new container's id.
    #[serde(flatten)]
    pub base: RequestBase,
    /// What it is to be.
    pub container_config: InText<ContainerConfig>,
}

/// What a container is to be, or for [`NULL_CONTAINER`] the VM's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `Container` in the settings of a VM; unused otherwise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_type: String,
    /// The schema of this document: 2.1 or later.
    pub schema_version: SchemaVersion,
    /// Where in the guest the bundle lies.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub oci_bundle_path: String,
    /// The OCI runtime specification; kept as it came, for runtimes know more fields than we do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci_specification: Option<Value>,
    /// The container's scratch directory in the guest.
    pub scratch_dir_path: String,
}

/// A version of the settings' schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SchemaVersion {
    /// Before the point.
    #[serde(skip_serializing_if = "is_default")]
    pub major: u32,
    /// After the point.
    #[serde(skip_serializing_if = "is_default")]
    pub minor: u32,
}

impl SchemaVersion {
    /// Version 2.1: what guests of this protocol need.
    pub const V2_1: Self = Self { major: 2, minor: 1 };
}

/// Asks what a container does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetProperties {
    /// The container.
    #[serde(flatten)]
    pub base: RequestBase,
    /// What is wanted; an empty text asks for nothing.
    #[serde(default, deserialize_with = "nested::or_empty")]
    pub query: InText<PropertyQuery>,
}

/// Which properties are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PropertyQuery {
    /// `ProcessList`, `Statistics`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub property_types: Vec<String>,
}

/// Adds, removes or changes a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ModifySettings {
    /// The VM, or the container whose limits change.
    #[serde(flatten)]
    pub base: RequestBase,
    /// What is to change.
    pub request: GuestRequest,
}

impl ModifySettings {
    /// A change of the VM's resources.
    pub fn of_vm(request: GuestRequest) -> Self {
        Self { base: RequestBase::default(), request }
    }
}

#[cfg(test)]
mod tests;
