//! From a path or a stream to something that can be looked into: is it an image archive or a bare layer, and
//! must it be copied first to be read in any order?

use std::fs::File;
use std::io::{self, Cursor, Read, Seek as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use erofs::ReadAt as _;

use super::headers::{Entry, Headers};
use super::storage::{self, Location, MAX_ENTRIES, Storage, Stream, TarIndex};
use super::{Format, OpenOptions};
use crate::compression::Compression;
use crate::error::{Error, ErrorKind, Result};

/// How much of a stream is looked at to tell what it is, before and after decompression.
const PEEK: usize = 256 << 10;
const PEEK_INFLATED: u64 = 1 << 20;
/// This many entries that no image archive would have, and no other: the rest need not be looked at.
const FOREIGN_ENTRIES: usize = 256;
/// Copy buffer for spooling.
const COPY: usize = 1 << 20;

/// What an input turned out to be.
#[derive(Debug)]
pub(super) enum Opened {
    Images(Format, Storage),
    Layer(Location),
}

pub(super) fn open_path(path: &Path, shown: &Path, options: &OpenOptions<'_>) -> Result<Opened> {
    let doing = || format!("opening {}", shown.display());
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, doing()).because(error),
        _ => Error::io(doing(), error),
    })?;
    if metadata.is_dir() {
        let format = if storage::is_file(path, "index.json") {
            Format::OciLayout
        } else if storage::is_file(path, "manifest.json") {
            Format::DockerArchive
        } else {
            return Err(Error::invalid(format!(
                "{} is a directory without index.json, so not an OCI image layout",
                shown.display()
            )));
        };
        return Ok(Opened::Images(
            format,
            Storage::Directory { root: path.to_owned(), shown: shown.to_owned() },
        ));
    }
    let file = File::open(path).map_err(|error| Error::io(doing(), error))?;
    if metadata.is_file() {
        open_file(Arc::new(file), options)
    } else {
        open_stream(Box::new(file), options)
    }
}

pub(super) fn open_file(file: Arc<File>, options: &OpenOptions<'_>) -> Result<Opened> {
    let length =
        file.metadata().map_err(|error| Error::io("asking for the archive's size", error))?.len();
    if length == 0 {
        return Err(Error::corrupt("the archive is empty"));
    }
    let whole = Location::Range { file: Arc::clone(&file), offset: 0, size: length };
    let mut first = [0; 4];
    let count =
        file.read_at(&mut first, 0).map_err(|error| Error::io("reading the archive", error))?;
    let compression = Compression::sniff(&first[..count]);
    if compression == Compression::None {
        return Ok(match index(file, length)? {
            Some((format, index)) => Opened::Images(format, Storage::Tar(index)),
            None => Opened::Layer(whole),
        });
    }

    let mut start = Vec::new();
    inflate(compression, Box::new(whole.open()?))?
        .take(PEEK_INFLATED)
        .read_to_end(&mut start)
        .map_err(|error| inflating(compression, error))?;
    if is_bare_layer(&start)? {
        return Ok(Opened::Layer(whole));
    }
    let spooled = spool(inflate(compression, Box::new(whole.open()?))?, options, |error| {
        inflating(compression, error)
    })?;
    let length =
        spooled.metadata().map_err(|error| Error::io("asking for the copy's size", error))?.len();
    Ok(match index(Arc::new(spooled), length)? {
        Some((format, index)) => Opened::Images(format, Storage::Tar(index)),
        None => Opened::Layer(whole),
    })
}

pub(super) fn open_stream(mut stream: Stream, options: &OpenOptions<'_>) -> Result<Opened> {
    let reading = |error| Error::io("reading the archive", error);
    let mut peeked = Vec::new();
    stream.by_ref().take(PEEK as u64).read_to_end(&mut peeked).map_err(reading)?;
    if peeked.is_empty() {
        return Err(Error::corrupt("the archive is empty"));
    }
    let mut start = Vec::new();
    // Damage and the cut after the peeked bytes look alike here; whoever reads on will say which it was.
    let _ = inflate(Compression::sniff(&peeked), Box::new(Cursor::new(peeked.clone())))?
        .take(PEEK_INFLATED)
        .read_to_end(&mut start);
    let whole = Box::new(Cursor::new(peeked).chain(stream));
    if is_bare_layer(&start)? {
        return Ok(Opened::Layer(Location::Stream(Arc::new(Mutex::new(Some(whole))))));
    }
    open_file(Arc::new(spool(whole, options, reading)?), options)
}

/// Copies a stream into a temporary file, so that it can be read in any order.
fn spool(
    mut stream: Stream,
    options: &OpenOptions<'_>,
    reading: impl Fn(io::Error) -> Error,
) -> Result<File> {
    let writing = |error| Error::io("copying the archive, to read it in any order", error);
    let mut file = (options.spool)().map_err(writing)?;
    let mut buffer = vec![0; COPY];
    let mut total = 0_u64;
    loop {
        options.cancel.check()?;
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(reading(error)),
        };
        total += count as u64;
        if options.max_size.is_some_and(|limit| total > limit) {
            let message = format!("the archive has more than the {total} bytes that are allowed");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        file.write_all(&buffer[..count]).map_err(writing)?;
    }
    file.rewind().map_err(writing)?;
    Ok(file)
}

fn inflate(compression: Compression, stream: Stream) -> Result<Stream> {
    Ok(match compression {
        Compression::None => stream,
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
        Compression::Zstd => Box::new(
            zstd::Decoder::new(stream).map_err(|error| Error::io("preparing zstd", error))?,
        ),
    })
}

/// An error that no system call returned is one of the compressed data.
fn inflating(compression: Compression, error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return Error::io("reading the archive", error);
    }
    Error::corrupt(format!("the archive's {compression} data is damaged or cut short"))
        .because(error)
}

/// Indexes a tar by its headers; `None` if it is a bare layer.
fn index(file: Arc<File>, length: u64) -> Result<Option<(Format, TarIndex)>> {
    let source = Arc::clone(&file);
    let read_at = move |buf: &mut [u8], offset| source.read_at(buf, offset);
    let mut headers = Headers::new(&read_at, length);
    let mut index = TarIndex::new(file);
    let mut foreign = 0;
    let mut known = false;
    let end = loop {
        match headers.next() {
            Ok(None) => break Ok(headers.marked()),
            Err(error) => break Err(error),
            Ok(Some(entry)) => {
                match owner(&entry) {
                    Owner::Nobody => continue,
                    Owner::ImageArchive => known = true,
                    Owner::Layer => foreign += 1,
                }
                if !known && foreign >= FOREIGN_ENTRIES {
                    return Ok(None);
                }
                index.insert(&entry);
                if index.len() > MAX_ENTRIES {
                    let message = format!("the archive has more than {MAX_ENTRIES} entries");
                    break Err(Error::new(ErrorKind::TooLarge, message));
                }
            }
        }
    };
    let format = format(&index)?;
    match (format, end) {
        // Some tools leave the end mark out.
        (Some(format), Ok(_)) => Ok(Some((format, index))),
        (None, Ok(true)) => Ok(None),
        // A cut or damaged layer is for the layer's reader to report.
        (None, _) if foreign > 0 => Ok(None),
        (None, Ok(false)) => Err(Error::corrupt("the archive is cut short: it has no end mark")),
        (_, Err(error)) => Err(error),
    }
}

/// What the members say about the archive. A layer may well hold an `index.json` or `manifest.json` of its own.
fn format(index: &TarIndex) -> Result<Option<Format>> {
    if index.find(b"index.json").is_some()
        && (index.find(b"oci-layout").is_some() || index.has_directory(b"blobs"))
    {
        return Ok(Some(Format::OciLayout));
    }
    if let Some(manifest) = index.find(b"manifest.json") {
        let mut first = [0; 64];
        let count = manifest
            .open()?
            .read(&mut first)
            .map_err(|error| Error::io("reading manifest.json", error))?;
        // docker's is a list of images; a web application's manifest is an object.
        if first[..count].trim_ascii_start().starts_with(b"[") {
            return Ok(Some(Format::DockerArchive));
        }
    }
    let repositories = index.find(b"repositories").is_some();
    if repositories && index.has_suffix(b"/layer.tar") {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the archive was saved by a Docker older than 1.10 and has no manifest.json; load and save it \
             again with a newer one",
        ));
    }
    Ok(None)
}

/// Whether the start of a tar shows that it is a layer. If that is left open, the whole must be looked at.
fn is_bare_layer(start: &[u8]) -> Result<bool> {
    let read_at = |buf: &mut [u8], offset: u64| {
        let rest = usize::try_from(offset).ok().and_then(|offset| start.get(offset..));
        let rest = rest.unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    };
    let mut headers = Headers::new(&read_at, u64::MAX);
    loop {
        match headers.next() {
            Ok(Some(entry)) => match owner(&entry) {
                Owner::Nobody => {}
                Owner::ImageArchive => return Ok(false),
                Owner::Layer => return Ok(true),
            },
            // An empty layer, or more header than was looked at.
            Ok(None) | Err(_) => return Ok(false),
        }
    }
}

/// Who would have an entry of this name at this place.
enum Owner {
    Nobody,
    ImageArchive,
    Layer,
}

fn owner(entry: &Entry) -> Owner {
    let mut parts =
        entry.name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let Some(first) = parts.next() else {
        return Owner::Nobody;
    };
    let second = parts.next();
    let known = match (first, second) {
        (b"oci-layout" | b"index.json" | b"manifest.json" | b"repositories", None) => true,
        (b"blobs" | b"ingest", _) => true,
        (_, Some(b"layer.tar" | b"json" | b"VERSION")) => true,
        (first, _) => {
            let name = first.strip_prefix(b"sha256:").unwrap_or(first);
            let digits = name.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let suffixes: [&[u8]; 6] =
                [b".json", b".tar", b".tar.gz", b".tgz", b".tar.zst", b".tar.gzip"];
            digits == 64 || suffixes.iter().any(|suffix| name.ends_with(suffix))
        }
    };
    if known { Owner::ImageArchive } else { Owner::Layer }
}
