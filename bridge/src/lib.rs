//! The bridge between a host and the agent in its utility VM, version 4 of the protocol: what hcsshim's hosts and
//! guests speak, byte for byte.
//!
//! ```text
//!  host                                   guest
//!  Client::call ──▶ frame: 16-byte header, JSON ──▶ serve ──▶ Handler::handle, each request on its own thread
//!       ▲  └ deadline and cancel            size limit  │
//!       └──────────── answers, notifications ◀──────────┘ Notifier
//! ```
//!
//! * Both ends read what strangers wrote. A size is checked before anything is allocated, unknown fields are ignored,
//!   unknown messages are answered with [`ResultCode::NOT_IMPLEMENTED`], and nothing panics.
//! * Every call has a [`Deadline`]. A call that was given up is forgotten; the answer that comes late is dropped.
//! * When the connection ends, every waiting call fails at once.
//!
//! The crate knows no transport: it is given a [`Connection`], and opens nothing itself.

mod client;
mod connection;
mod deadline;
mod error;
mod frame;
mod message;
mod port;
mod result;
mod server;

pub use client::{Client, NotificationHandler};
pub use connection::Connection;
pub use deadline::{Cancel, Deadline};
pub use error::{Error, ErrorKind, Result};
pub use frame::{
    CATEGORY_CONTAINER, CATEGORY_SERVICE, HEADER_SIZE, Header, Kind, MAX_TO_GUEST, MAX_TO_HOST,
    Method, read_message, write_message,
};
pub use message::{
    Answer, Capabilities, CombinedLayers, ContainerConfig, ContainerNotification, CreateContainer,
    CreateContainerResponse, DeleteContainerState, DumpStacks, DumpStacksResponse, ErrorRecord,
    ExecuteProcess, ExecuteProcessResponse, ExecuteProcessSettings, GetProperties,
    GetPropertiesResponse, GuestCapabilities, GuestRequest, InText, Layer, MappedDirectory,
    MappedVirtualDisk, ModifySettings, NULL_ACTIVITY, NULL_CONTAINER, Negotiate, NegotiateResponse,
    PmemDevice, PmemMapping, ProcessDetails, ProcessParameters, Properties, PropertyQuery, Request,
    RequestBase, RequestType, ResizeConsole, Resource, ResponseBase, SchemaVersion, ScsiDevice,
    ShutdownForced, ShutdownGraceful, SignalOptions, SignalProcess, StartContainer, StdioPorts,
    VerityInfo, WaitForProcess, WaitForProcessResponse,
};
pub use port::{
    BRIDGE_PORT, ENTROPY_BYTES, ENTROPY_PORT, FIRST_STDIO_PORT, HOST_CID, LOG_PORT, PLAN9_PORT,
    PROTOCOL_VERSION, service_id,
};
pub use result::ResultCode;
pub use server::{Handler, Incoming, Notifier, ServeLimits, Server, answer, decode};
