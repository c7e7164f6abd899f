//! Images for tests.

#![allow(dead_code, reason = "every test uses a part")]

use cimfs::{
    Eas, FileFlags, FileTime, Guid, Image, ImagePath, ImageWriter, MemoryFile, MemorySet, Metadata,
    Name, ReadAt, Result, StreamReader, WritableSet, WriterOptions,
};

pub(crate) fn guid(text: &str) -> Guid {
    Guid::for_content(text.as_bytes())
}

pub(crate) fn path(text: &str) -> ImagePath {
    text.into()
}

/// A security descriptor of an owner and a DACL, as the bytes of one; nobody interprets it.
pub(crate) fn security() -> Vec<u8> {
    let mut descriptor = vec![1, 0, 0x04, 0x80, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    descriptor.extend_from_slice(&[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0]);
    descriptor
}

pub(crate) fn eas() -> Vec<u8> {
    b"\x10\0\0\0\0\x03\x02\0ABC\0xy\0\0\0\0\0\0\0\x01\0\0N\0".to_vec()
}

/// A mount point's reparse buffer.
pub(crate) fn junction() -> Vec<u8> {
    let mut buffer = vec![3, 0, 0, 0xA0, 12, 0, 0, 0];
    buffer.extend_from_slice(&[0, 0, 2, 0, 4, 0, 0, 0, b'x', 0, 0, 0]);
    buffer
}

pub(crate) fn metadata(seconds: i64) -> Metadata {
    let time = |offset| FileTime::from_unix(seconds + offset, 123_456_700).unwrap();
    Metadata {
        flags: FileFlags::ARCHIVE,
        creation_time: time(0),
        last_write_time: time(1),
        change_time: time(2),
        last_access_time: time(3),
        ..Metadata::default()
    }
}

/// Something of everything that the writer can store.
pub(crate) fn fill<S: WritableSet>(writer: &mut ImageWriter<S>) -> Result<()> {
    let plain = metadata(1_000_000_000);
    writer.add_directory(&path("Files"), &plain)?;
    writer.add_directory(&path("Files/empty"), &plain)?;
    writer.add_directory(
        &path("Files/Windows"),
        &Metadata { security: security(), ..plain.clone() },
    )?;
    writer.add_file(&path("Files/none"), &plain, b"")?;
    writer.add_file(&path("Files/small"), &plain, b"small")?;
    writer.add_file(&path("Files/Same as small"), &plain, b"small")?;
    let large: Vec<u8> = (0..9000_u32).flat_map(|i| i.to_le_bytes()).collect();
    let hidden = FileFlags::READ_ONLY | FileFlags::HIDDEN | FileFlags::SYSTEM;
    let odd = Metadata { flags: hidden, eas: eas(), security: security(), ..plain.clone() };
    writer.add_file(&path("Files/Windows/large.dll"), &odd, &large)?;
    writer.add_file(&path("Files/Windows/again.dll"), &plain, &large)?;
    writer.add_link(&path("Files/link"), &path("files/WINDOWS/Large.DLL"))?;
    writer.add_file(&path("Files/Ünïcödé 語 😀"), &plain, b"text")?;
    let sparse = Metadata { flags: FileFlags::SPARSE, ..plain.clone() };
    writer.add_sparse_file(&path("Files/sparse"), &sparse, 1 << 20)?;
    let reparse = Metadata { reparse: junction(), ..plain.clone() };
    writer.add_directory(&path("Files/junction"), &reparse)?;
    for (file, stream, bytes) in [
        ("Files/small", "Zone.Identifier", &b"[ZoneTransfer]"[..]),
        ("Files/small", "empty", b""),
        ("Files/small", "large", &large[..5000]),
        ("Files/Windows", "of a directory", b"yes"),
    ] {
        writer.begin_stream(&path(file), &Name::from(stream), bytes.len() as u64)?;
        writer.write_data(bytes)?;
        writer.end()?;
    }
    Ok(())
}

/// An image of [`fill`].
pub(crate) fn sample(options: WriterOptions) -> MemorySet {
    let set = MemorySet::new();
    let mut writer = ImageWriter::create(set.clone(), "a.cim", guid("a"), options).unwrap();
    fill(&mut writer).unwrap();
    writer.commit().unwrap();
    set
}

pub(crate) fn open(set: &MemorySet, name: &str) -> Image<MemoryFile> {
    Image::open(set, name).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The units of a name as JSON text.
fn json(name: &Name) -> String {
    let mut text = String::from("\"");
    for unit in name.units() {
        match char::from_u32(u32::from(*unit)) {
            Some(char) if char.is_ascii_graphic() && char != '"' && char != '\\' => text.push(char),
            _ => text.push_str(&format!("\\u{unit:04x}")),
        }
    }
    text + "\""
}

fn path_json(path: &ImagePath) -> String {
    let names: Vec<_> = path.names().iter().map(json).collect();
    format!("[{}]", names.join(","))
}

/// FNV-1a over 64 bits: short, and easy to write a second time in another language.
pub(crate) fn fingerprint<R: ReadAt>(reader: &StreamReader<'_, R>) -> Result<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut buf = vec![0; 64 << 10];
    let mut position = 0;
    loop {
        let read = reader.read_at(&mut buf, position)?;
        if read == 0 {
            return Ok(hash);
        }
        position += read as u64;
        for byte in &buf[..read] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Everything that the crate's reader says of an image, one JSON object a line; what the oracle prints too.
pub(crate) fn describe<R: ReadAt>(image: &Image<R>) -> Result<String> {
    let mut out = String::new();
    for entry in image.walk() {
        let entry = entry?;
        let file = entry.file;
        let entry_path = entry.path();
        let times = [
            file.creation_time(),
            file.last_write_time(),
            file.change_time(),
            file.last_access_time(),
        ];
        let times: Vec<_> = times.iter().map(|time| time.0.to_string()).collect();
        let blob =
            |bytes: Option<Vec<u8>>| bytes.map_or("null".into(), |b| format!("\"{}\"", hex(&b)));
        let data = |stream| -> Result<String> {
            let reader = image.open_stream(&stream)?;
            Ok(format!("[{},\"{:016x}\"]", reader.length(), fingerprint(&reader)?))
        };
        let own = if file.is_dir() { "\"directory\"".into() } else { data(file.data())? };
        let mut streams = Vec::new();
        for stream in image.alternate_streams(&file)? {
            let stream = stream?;
            streams.push(format!("[{},{}]", json(&stream.name), data(stream.stream)?));
        }
        let buffer = image.ea_buffer(&file)?;
        let mut eas = Vec::new();
        for ea in Eas::new(&buffer) {
            let ea = ea?;
            eas.push(format!("[{},\"{}\",\"{}\"]", ea.flags, hex(ea.name), hex(ea.value)));
        }
        out.push_str(&format!(
            "{{\"path\":{},\"id\":{},\"attributes\":{},\"times\":[{}],\"data\":{own},\"security\":{},\
             \"reparse\":{},\"eas\":[{}],\"streams\":[{}]}}\n",
            path_json(&entry_path),
            file.id,
            file.attributes(),
            times.join(","),
            blob(image.security_descriptor(&file)?),
            blob(image.reparse_buffer(&file)?),
            eas.join(","),
            streams.join(","),
        ));
    }
    Ok(out)
}
