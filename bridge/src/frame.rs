//! Frames: a 16-byte little-endian header and the message's JSON.
//!
//! ```text
//!  u32 type                     u32 size (with header)   u64 id
//!  kind:4 category:8 method:12 version:8
//! ```

use std::fmt;
use std::io::{ErrorKind as IoKind, Read, Write};

use crate::{Error, ErrorKind, Result};

/// Bytes of a header.
pub const HEADER_SIZE: usize = 16;
/// The largest message a host accepts, header and all; hcsshim's hosts end the connection above it.
pub const MAX_TO_HOST: u32 = 64 << 10;
/// The largest message our guest accepts, header and all. The protocol has no limit in this direction; an OCI
/// specification with thousands of mounts is well below.
pub const MAX_TO_GUEST: u32 = 8 << 20;
/// The category of messages about containers and the VM itself; all but one that are in use.
pub const CATEGORY_CONTAINER: u8 = 1;
/// The category of messages about services (ModifyServiceSettings); nobody answers them.
pub const CATEGORY_SERVICE: u8 = 2;

/// The version of every message type.
const MESSAGE_VERSION: u8 = 1;
/// Larger messages are read in steps, so that a header cannot make us allocate what never comes.
const STEP: u64 = 64 << 10;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Asks for something; answered with the same id.
    Request,
    /// Answers a request.
    Response,
    /// Tells something nobody asked for.
    Notification,
}

/// What a message is about: the low 28 bits of its type. Unknown values are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method {
    /// [`CATEGORY_CONTAINER`] for everything in use.
    pub category: u8,
    /// The number within the category, 12 bits.
    pub number: u16,
    /// Version of the message, 1.
    pub version: u8,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Method {
            $($(#[$doc])* pub const $name: Self = Self::container($number);)*

            /// The method's name, if it is a known one.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    /// Makes a container; as a notification: a container ended.
    CREATE = 0x1, "Create";
    /// Starts a container; nothing happens until its first process.
    START = 0x2, "Start";
    /// Asks a container, or the VM, to end.
    SHUTDOWN_GRACEFUL = 0x3, "ShutdownGraceful";
    /// Ends a container.
    SHUTDOWN_FORCED = 0x4, "ShutdownForced";
    /// Runs a process.
    EXECUTE_PROCESS = 0x5, "ExecuteProcess";
    /// Waits for a process.
    WAIT_FOR_PROCESS = 0x6, "WaitForProcess";
    /// Signals a process.
    SIGNAL_PROCESS = 0x7, "SignalProcess";
    /// Resizes a process's terminal.
    RESIZE_CONSOLE = 0x8, "ResizeConsole";
    /// Asks what a container does.
    GET_PROPERTIES = 0x9, "GetProperties";
    /// Adds, removes or changes a resource.
    MODIFY_SETTINGS = 0xa, "ModifySettings";
    /// The first message: agrees on the version.
    NEGOTIATE_PROTOCOL = 0xb, "NegotiateProtocol";
    /// Asks what the agent's threads do.
    DUMP_STACKS = 0xc, "DumpStacks";
    /// Forgets a container that ended.
    DELETE_CONTAINER_STATE = 0xd, "DeleteContainerState";
    /// Changes a container's limits.
    UPDATE_CONTAINER = 0xe, "UpdateContainer";
    /// Told by guests that follow the life of containers.
    LIFECYCLE_NOTIFICATION = 0xf, "LifecycleNotification";
}

impl Method {
    /// A method about containers.
    pub const fn container(number: u16) -> Self {
        Self { category: CATEGORY_CONTAINER, number, version: MESSAGE_VERSION }
    }

    fn bits(self) -> u32 {
        u32::from(self.category) << 20
            | (u32::from(self.number) & 0xfff) << 8
            | u32::from(self.version)
    }

    fn of_bits(bits: u32) -> Self {
        let [version, middle, high, _] = bits.to_le_bytes();
        Self {
            category: ((bits >> 20) & 0xff) as u8,
            number: u16::from(high & 0xf) << 8 | u16::from(middle),
            version,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "method 0x{:07x}", self.bits()),
        }
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// What it is about.
    pub method: Method,
    /// Bytes of the message with this header.
    pub size: u32,
    /// Ties an answer to its request; 0 in notifications.
    pub id: u64,
}

impl Header {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let kind: u32 = match self.kind {
            Kind::Request => 1,
            Kind::Response => 2,
            Kind::Notification => 3,
        };
        let mut bytes = [0; HEADER_SIZE];
        bytes[..4].copy_from_slice(&(kind << 28 | self.method.bits()).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// The header that bytes from the wire are.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] for a kind of message that does not exist or a size smaller than the header,
    /// [`ErrorKind::TooLarge`] for a size above `max`.
    pub fn decode(bytes: &[u8; HEADER_SIZE], max: u32) -> Result<Self> {
        let [t0, t1, t2, t3, s0, s1, s2, s3, id @ ..] = *bytes;
        let message_type = u32::from_le_bytes([t0, t1, t2, t3]);
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        let kind = match message_type >> 28 {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Notification,
            _ => {
                let message = format!("a message of the unknown type 0x{message_type:08x}");
                return Err(Error::new(ErrorKind::Malformed, message));
            }
        };
        if (size as usize) < HEADER_SIZE {
            let message = format!("a message of {size} bytes, less than its header");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        if size > max {
            let message = format!("a message of {size} bytes, more than the {max} allowed");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        Ok(Self { kind, method: Method::of_bits(message_type), size, id: u64::from_le_bytes(id) })
    }
}

/// Reads one message; `None` at the connection's end between two messages.
///
/// # Errors
/// As [`Header::decode`]; [`ErrorKind::Closed`] for an end within a message; [`ErrorKind::Io`].
pub fn read_message(reader: &mut dyn Read, max: u32) -> Result<Option<(Header, Vec<u8>)>> {
    let mut bytes = [0; HEADER_SIZE];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(cut_short()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == IoKind::Interrupted => {}
            Err(error) => return Err(read_failed(error)),
        }
    }
    let header = Header::decode(&bytes, max)?;
    let length = u64::from(header.size) - HEADER_SIZE as u64;
    let mut body = Vec::new();
    let mut limited = reader.take(length);
    while (body.len() as u64) < length {
        let before = body.len();
        let step = (length - before as u64).min(STEP);
        (&mut limited).take(step).read_to_end(&mut body).map_err(read_failed)?;
        if body.len() == before {
            return Err(cut_short());
        }
    }
    Ok(Some((header, body)))
}

fn cut_short() -> Error {
    Error::new(ErrorKind::Closed, "the connection ended within a message")
}

fn read_failed(error: std::io::Error) -> Error {
    Error::caused(kind_of(&error), "reading from the bridge", error)
}

/// Writes one message in one piece.
///
/// # Errors
/// [`ErrorKind::TooLarge`] if it would exceed `max`, and nothing is written; [`ErrorKind::Closed`], [`ErrorKind::Io`].
pub fn write_message(
    writer: &mut dyn Write,
    kind: Kind,
    method: Method,
    id: u64,
    body: &[u8],
    max: u32,
) -> Result<()> {
    let message = frame(kind, method, id, body, max)?;
    write_frame(writer, &message)
}

pub(crate) fn frame(kind: Kind, method: Method, id: u64, body: &[u8], max: u32) -> Result<Vec<u8>> {
    let size = u32::try_from(body.len() + HEADER_SIZE).ok().filter(|size| *size <= max);
    let Some(size) = size else {
        let message = format!(
            "{method}: a message of {} bytes, more than the {max} allowed",
            body.len() + HEADER_SIZE
        );
        return Err(Error::new(ErrorKind::TooLarge, message));
    };
    let mut message = Header { kind, method, size, id }.encode().to_vec();
    message.extend_from_slice(body);
    Ok(message)
}

pub(crate) fn write_frame(writer: &mut dyn Write, message: &[u8]) -> Result<()> {
    writer
        .write_all(message)
        .and_then(|()| writer.flush())
        .map_err(|error| Error::caused(kind_of(&error), "writing to the bridge", error))
}

fn kind_of(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        IoKind::BrokenPipe
        | IoKind::ConnectionReset
        | IoKind::ConnectionAborted
        | IoKind::NotConnected
        | IoKind::UnexpectedEof
        | IoKind::WriteZero => ErrorKind::Closed,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_sixteen_bytes_as_on_the_wire() {
        let header = Header {
            kind: Kind::Request,
            method: Method::CREATE,
            size: 0x1234,
            id: 0x0102_0304_0506_0708,
        };
        let bytes = header.encode();
        assert_eq!(
            bytes,
            [1, 1, 0x10, 0x10, 0x34, 0x12, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1],
            "0x10100101, size, id, little-endian"
        );
        assert_eq!(Header::decode(&bytes, MAX_TO_HOST).unwrap(), header);
    }

    #[test]
    fn types_are_those_of_the_protocol() {
        let type_of = |kind, method| {
            let bytes = Header { kind, method, size: 16, id: 0 }.encode();
            u32::from_le_bytes(bytes[..4].try_into().unwrap())
        };
        assert_eq!(type_of(Kind::Request, Method::NEGOTIATE_PROTOCOL), 0x1010_0b01);
        assert_eq!(type_of(Kind::Response, Method::MODIFY_SETTINGS), 0x2010_0a01);
        assert_eq!(type_of(Kind::Notification, Method::CREATE), 0x3010_0101);
        assert_eq!(type_of(Kind::Request, Method::LIFECYCLE_NOTIFICATION), 0x1010_0f01);
        let service = Method { category: CATEGORY_SERVICE, number: 1, version: 1 };
        assert_eq!(type_of(Kind::Request, service), 0x1020_0101);
    }

    #[test]
    fn sizes_and_kinds_are_checked() {
        let with = |message_type: u32, size: u32| {
            let mut bytes = [0; HEADER_SIZE];
            bytes[..4].copy_from_slice(&message_type.to_le_bytes());
            bytes[4..8].copy_from_slice(&size.to_le_bytes());
            Header::decode(&bytes, MAX_TO_HOST).map_err(|error| error.kind())
        };
        assert_eq!(with(0x1010_0101, 15), Err(ErrorKind::Malformed));
        assert_eq!(with(0x1010_0101, MAX_TO_HOST + 1), Err(ErrorKind::TooLarge));
        assert_eq!(with(0x4010_0101, 16), Err(ErrorKind::Malformed));
        assert_eq!(with(0, 16), Err(ErrorKind::Malformed));
        assert!(with(0x1fff_ffff, 16).is_ok(), "an unknown method is for the receiver to answer");
    }

    #[test]
    fn an_end_within_a_message_is_an_error_and_allocates_nothing_promised() {
        let header =
            Header { kind: Kind::Request, method: Method::START, size: MAX_TO_GUEST, id: 1 };
        let mut bytes = header.encode().to_vec();
        assert_eq!(
            read_message(&mut bytes.as_slice(), MAX_TO_GUEST).unwrap_err().kind(),
            ErrorKind::Closed
        );
        bytes.truncate(7);
        assert_eq!(
            read_message(&mut bytes.as_slice(), MAX_TO_GUEST).unwrap_err().kind(),
            ErrorKind::Closed
        );
        assert!(read_message(&mut [].as_slice(), MAX_TO_GUEST).unwrap().is_none());
    }

    #[test]
    fn a_message_too_large_is_not_written() {
        let mut out = Vec::new();
        let body = vec![b' '; MAX_TO_HOST as usize - HEADER_SIZE + 1];
        let error = write_message(&mut out, Kind::Response, Method::START, 1, &body, MAX_TO_HOST)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(out.is_empty());
        write_message(&mut out, Kind::Response, Method::START, 1, &body[1..], MAX_TO_HOST).unwrap();
        assert_eq!(out.len(), MAX_TO_HOST as usize);
    }
}
