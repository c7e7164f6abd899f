//! How a layer blob is compressed: by media type, by content, and the way back to the tar.

use std::fmt;
use std::io::{self, Write};

use crate::error::{Error, ErrorKind, Result};

/// Compression of a layer blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// The blob is the tar.
    None,
    /// gzip (RFC 1952), one or more members.
    Gzip,
    /// Zstandard (RFC 8878), one or more frames.
    Zstd,
}

impl Compression {
    /// From the media type of a layer descriptor, OCI's or Docker's. Foreign (non-distributable) layers are
    /// layers like others; what is no layer's media type is [`ErrorKind::Unsupported`].
    pub fn from_media_type(media_type: &str) -> Result<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Ok(Self::None),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Self::Zstd),
            other => Err(Error::new(
                ErrorKind::Unsupported,
                format!("media type {other:?} is not a layer that Plywood can read"),
            )),
        }
    }

    /// From the first bytes of a blob (four are enough). What has no known mark is taken for a plain tar.
    pub fn sniff(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first (RFC 8878, 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// What a layer's blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerFormat {
    /// A tar of changes, compressed or not.
    Tar(Compression),
    /// A layer image as it is, compressed with Zstandard or not.
    Erofs(Compression),
}

impl LayerFormat {
    /// From the media type of a layer descriptor.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for everything else.
    pub fn from_media_type(media_type: &str) -> Result<Self> {
        // containerd's name is `application/vnd.erofs.layer.v1`; it takes every version for this one.
        match media_type.strip_prefix("application/vnd.erofs.layer") {
            None => Compression::from_media_type(media_type).map(Self::Tar),
            Some(rest) => match rest.split_once('+') {
                None => Ok(Self::Erofs(Compression::None)),
                Some((_, "zstd")) => Ok(Self::Erofs(Compression::Zstd)),
                Some((_, suffix)) => Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "an EROFS layer with the suffix {suffix:?} is not one that Plywood can read"
                    ),
                )),
            },
        }
    }
}

/// Compresses what is written to it. The same bytes give the same bytes, however they are cut into writes.
#[derive(Debug)]
pub struct Compressor<W: Write> {
    stream: Stream<W>,
    /// What deflate makes of its input depends on how that is cut, so it gets pieces of one length.
    piece: Vec<u8>,
}

/// Length of a piece.
const PIECE: usize = 128 << 10;

enum Stream<W: Write> {
    Plain(W),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> fmt::Debug for Stream<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<W: Write> Compressor<W> {
    /// Over an output.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where Zstandard cannot be set up.
    pub fn new(output: W, compression: Compression) -> Result<Self> {
        let stream = match compression {
            Compression::None => Stream::Plain(output),
            // No time, no name, no system in the header.
            Compression::Gzip => {
                let level = flate2::Compression::default();
                Stream::Gzip(Box::new(flate2::write::GzEncoder::new(output, level)))
            }
            Compression::Zstd => {
                let failed = |error| Error::io("cannot set up zstd", error);
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                let mut encoder =
                    zstd::stream::write::Encoder::new(output, level).map_err(failed)?;
                encoder.include_checksum(true).map_err(failed)?;
                Stream::Zstd(Box::new(encoder))
            }
        };
        Ok(Self { stream, piece: Vec::with_capacity(PIECE) })
    }

    /// Writes the end and returns the output.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
    pub fn finish(mut self) -> Result<W> {
        let last = self.pass_on();
        let finished = last.and_then(|()| match self.stream {
            Stream::Plain(output) => Ok(output),
            Stream::Gzip(encoder) => encoder.finish(),
            Stream::Zstd(encoder) => encoder.finish(),
        });
        finished.map_err(|error| Error::io("cannot write the compressed layer", error))
    }

    fn pass_on(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(output) => output.write_all(&self.piece)?,
            Stream::Gzip(encoder) => encoder.write_all(&self.piece)?,
            Stream::Zstd(encoder) => encoder.write_all(&self.piece)?,
        }
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.pass_on()?;
        }
        let length = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    /// Does nothing: a flush in the middle would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_and_marks() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(Compression::from_media_type(layer).unwrap(), Compression::None);
        let gzip = format!("{layer}+gzip");
        assert_eq!(Compression::from_media_type(&gzip).unwrap(), Compression::Gzip);
        let error = Compression::from_media_type(&format!("{layer}+encrypted")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);

        let erofs = "application/vnd.erofs.layer.v1";
        let format = |media_type: &str| LayerFormat::from_media_type(media_type);
        assert_eq!(format(erofs).unwrap(), LayerFormat::Erofs(Compression::None));
        let zstd = format!("{erofs}+zstd");
        assert_eq!(format(&zstd).unwrap(), LayerFormat::Erofs(Compression::Zstd));
        assert_eq!(format(&gzip).unwrap(), LayerFormat::Tar(Compression::Gzip));
        for other in [format!("{erofs}+gzip"), format!("{zstd}+encrypted"), "text/plain".into()] {
            assert_eq!(format(&other).unwrap_err().kind(), ErrorKind::Unsupported, "{other}");
        }

        assert_eq!(Compression::sniff(b"\x1f\x8b\x08"), Compression::Gzip);
        assert_eq!(Compression::sniff(b"\x28\xb5\x2f\xfd"), Compression::Zstd);
        assert_eq!(Compression::sniff(b"\x51\x2a\x4d\x18"), Compression::Zstd);
        assert_eq!(Compression::sniff(b"etc/"), Compression::None);
        assert_eq!(Compression::sniff(b""), Compression::None);
    }
    #[test]
    fn what_is_compressed_is_inflated_and_always_the_same() {
        let text = b"what goes in comes out ".repeat(20_000);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let compressed = |piece: usize| {
                let mut compressor = Compressor::new(Vec::new(), compression).unwrap();
                for piece in text.chunks(piece) {
                    compressor.write_all(piece).unwrap();
                    compressor.flush().unwrap();
                }
                compressor.finish().unwrap()
            };
            let bytes = compressed(100_000);
            assert!(compressed(7) == bytes, "{compression}");
            assert_eq!(Compression::sniff(&bytes), compression);
            let mut inflated = Vec::new();
            let mut inflater =
                crate::pipeline::Inflater::new(bytes.as_slice(), compression).unwrap();
            io::Read::read_to_end(&mut inflater, &mut inflated).unwrap();
            assert!(inflated == text, "{compression}");
        }
    }
}
