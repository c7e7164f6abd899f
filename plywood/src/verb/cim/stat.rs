//! `stat`: everything about a path.

use std::collections::HashMap;
use std::fs::File;

use anyhow::{Context as _, Result};
use cimfs::{Case, Eas, FileId, FileTime, FileView, Image, ImagePath, Stream};
use layer::windows::SecurityDescriptor;
use serde::Serialize;
use serde_json::json;

use super::open;
use super::path::{JsonImagePath, shown, shown_name};
use super::reparse::Target;
use super::show::cannot_read;
use crate::Session;
use crate::cli::CimStatArgs;
use crate::escape;
use crate::output::{self, hex};

/// Win32's names of file attributes, with the letters that `attrib` and listings have for them.
const ATTRIBUTES: [(u32, &str, char); 7] = [
    (0x10, "directory", 'd'),
    (0x01, "read-only", 'r'),
    (0x02, "hidden", 'h'),
    (0x04, "system", 's'),
    (0x20, "archive", 'a'),
    (0x200, "sparse", 'p'),
    (0x400, "reparse-point", 'l'),
];

/// What every listing says of a file in JSON.
#[derive(Serialize)]
pub(super) struct Basics {
    r#type: &'static str,
    id: u32,
    attributes: Vec<&'static str>,
    attributes_value: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    created: Option<String>,
    written: Option<String>,
    changed: Option<String>,
    accessed: Option<String>,
}

impl Basics {
    pub(super) fn of(file: &FileView) -> Self {
        Self {
            r#type: type_name(file),
            id: file.id.0,
            attributes: names(file.attributes()),
            attributes_value: file.attributes(),
            size: (!file.is_dir()).then(|| file.size()),
            created: time(file.creation_time()),
            written: time(file.last_write_time()),
            changed: time(file.change_time()),
            accessed: time(file.last_access_time()),
        }
    }
}

fn type_name(file: &FileView) -> &'static str {
    if file.is_dir() { "directory" } else { "file" }
}

fn names(attributes: u32) -> Vec<&'static str> {
    let set = ATTRIBUTES.iter().filter(|(bit, ..)| attributes & bit != 0);
    set.map(|(_, name, _)| *name).collect()
}

/// `d-h--l`, one place for each attribute.
pub(super) fn letters(attributes: u32) -> String {
    let letter = |(bit, _, letter): &(u32, &str, char)| match attributes & bit {
        0 => '-',
        _ => *letter,
    };
    ATTRIBUTES.iter().map(letter).collect()
}

/// A time, if it is known.
pub(super) fn time(time: FileTime) -> Option<String> {
    let (seconds, nanoseconds) = time.to_unix();
    let known = time != FileTime(0);
    known.then(|| output::time(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)))
}

pub(crate) fn stat(session: &mut Session, args: &CimStatArgs) -> Result<()> {
    let image = open(&args.file)?;
    let mut files = Vec::new();
    for path in &args.paths {
        let path: ImagePath = path.as_str().into();
        let file = image.resolve(&path, Case::Ignored).context("cannot look up")?;
        files.push((path, file));
    }
    let names = match args.links {
        true => {
            let wanted = files.iter().map(|(_, file)| (file.id, Vec::new()));
            Some(all_names(&image, wanted.collect())?)
        }
        false => None,
    };
    for (path, file) in files {
        let links = names.as_ref().and_then(|names| names.get(&file.id)).map(Vec::as_slice);
        stat_one(session, &image, &path, &file, links).with_context(|| cannot_read(&path))?;
    }
    Ok(())
}

/// All paths that lead to some files.
fn all_names(
    image: &Image<File>,
    mut wanted: HashMap<FileId, Vec<ImagePath>>,
) -> Result<HashMap<FileId, Vec<ImagePath>>> {
    for entry in image.walk() {
        let entry = entry.context("cannot search for names")?;
        if let Some(paths) = wanted.get_mut(&entry.file.id) {
            paths.push(entry.path());
        }
    }
    Ok(wanted)
}

fn stat_one(
    session: &mut Session,
    image: &Image<File>,
    path: &ImagePath,
    file: &FileView,
    links: Option<&[ImagePath]>,
) -> Result<()> {
    let security = image.security_descriptor(file)?;
    let sddl = security.as_deref().and_then(|bytes| SecurityDescriptor::read(bytes).ok());
    let sddl = sddl.and_then(|descriptor| descriptor.to_sddl().ok());
    let reparse = image.reparse_buffer(file)?;
    let target = reparse.as_deref().and_then(Target::of);
    let eas = image.ea_buffer(file)?;
    let eas: Vec<_> = Eas::new(&eas).collect::<cimfs::Result<_>>()?;
    let streams: Vec<_> = image.alternate_streams(file)?.collect::<cimfs::Result<_>>()?;
    if session.output.is_json() {
        let mut value = serde_json::to_value(Basics::of(file))?;
        let path = serde_json::to_value(JsonImagePath::new(path))?;
        if let (Some(value), Some(path)) = (value.as_object_mut(), path.as_object()) {
            value.extend(path.clone());
        }
        value["position"] = json!(format!("{:?}", file.position));
        value["parent"] = json!(file.parent().map(|parent| parent.0));
        value["sddl"] = json!(sddl);
        value["security_hex"] = json!(security.as_deref().map(hex));
        if let Some(buffer) = &reparse {
            value["reparse"] = json!({
                "tag": format!("{:#010x}", file.reparse_tag()),
                "target": target.as_ref().map(|target| &target.text),
                "relative": target.as_ref().map(|target| target.relative),
                "hex": hex(buffer),
            });
        }
        let json_ea = |ea: &cimfs::Ea<'_>| json!({ "name": escape::name(ea.name), "needed": ea.flags & 0x80 != 0, "value_hex": hex(ea.value) });
        value["eas"] = eas.iter().map(json_ea).collect();
        let mut listed = Vec::new();
        for stream in &streams {
            let data = pieces(image, &stream.stream)?;
            let name = shown_name(&stream.name);
            listed.push(json!({ "name": name, "size": stream.stream.length(), "data": data }));
        }
        value["streams"] = json!(listed);
        if !file.is_dir() {
            value["data"] = json!(pieces(image, &file.data())?);
        }
        if let Some(links) = links {
            value["links"] = links.iter().map(|path| json!(JsonImagePath::new(path))).collect();
        }
        return session.output.json(&value);
    }
    let unknown = || "-".to_owned();
    let attributes = names(file.attributes());
    let mut lines = vec![
        ("path", shown(path)),
        ("type", type_name(file).to_owned()),
        ("id", file.id.to_string()),
        ("position", format!("{:?}", file.position)),
        ("parent", file.parent().map_or_else(unknown, |parent| parent.to_string())),
        ("attributes", format!("{:#06x} {}", file.attributes(), attributes.join(","))),
        ("created", time(file.creation_time()).unwrap_or_else(unknown)),
        ("written", time(file.last_write_time()).unwrap_or_else(unknown)),
        ("changed", time(file.change_time()).unwrap_or_else(unknown)),
        ("accessed", time(file.last_access_time()).unwrap_or_else(unknown)),
        ("security", sddl.or(security.as_deref().map(hex)).unwrap_or_else(unknown)),
    ];
    if let Some(buffer) = &reparse {
        let target = target.map(|target| escape::message(&target.text));
        let tag = file.reparse_tag();
        lines.push(("reparse", format!("{tag:#010x} {}", target.unwrap_or_else(|| hex(buffer)))));
    }
    for ea in &eas {
        let needed = if ea.flags & 0x80 != 0 { " (needed)" } else { "" };
        lines.push(("ea", format!("{}={}{needed}", escape::name(ea.name), escape::name(ea.value))));
    }
    if !file.is_dir() {
        lines.push(("size", file.size().to_string()));
        lines.extend(pieces(image, &file.data())?.into_iter().map(|piece| ("data", piece)));
    }
    for stream in &streams {
        let data = pieces(image, &stream.stream)?.join(", ");
        let about = format!("{} size {} {data}", shown_name(&stream.name), stream.stream.length());
        lines.push(("stream", about.trim_end().to_owned()));
    }
    for link in links.unwrap_or_default() {
        lines.push(("link", shown(link)));
    }
    for (name, value) in lines {
        session.output.line(format!("{name:<10} {value}").trim_end())?;
    }
    Ok(())
}

/// Where the bytes of a stream are, `offset+length@region:byte`.
fn pieces(image: &Image<File>, stream: &Stream) -> Result<Vec<String>> {
    let segments = image.segments(stream)?;
    let text = |segment: &cimfs::Segment| {
        let place = segment.source.map_or_else(|| "zeros".to_owned(), |at| format!("{at:?}"));
        format!("{}+{}@{place}", segment.offset, segment.length)
    };
    Ok(segments.iter().map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_names_and_letters() {
        assert_eq!(names(0x413), ["directory", "read-only", "hidden", "reparse-point"]);
        assert_eq!(letters(0x413), "drh---l");
        assert_eq!((letters(0x80), names(0x80).len()), ("-------".to_owned(), 0));
        assert_eq!(time(FileTime(0)), None);
        let unix = FileTime::from_unix(0, 0).unwrap();
        assert_eq!(time(unix).unwrap(), "1970-01-01T00:00:00Z");
    }
}
