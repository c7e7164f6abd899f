//! The templates of `format/` mounts: the part of Go's `text/template` that containerd's mount manager gives a
//! meaning, which are four functions of numbers.
//!
//! ```text
//! template := { text | "{{" [ "-" space ] call [ space "-" ] "}}" }
//! call     := "source" N | "target" N | "mount" N | "overlay" N N
//! ```

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// A text with calls in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Source(usize),
    Target(usize),
    Mount(usize),
    /// Mount points, separated by colons, from the first to the second, downwards if that is smaller.
    Overlay(usize, usize),
}

/// What a template can refer to: a mount that was performed before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Performed<'a> {
    pub(super) source: &'a str,
    pub(super) target: &'a str,
    pub(super) mount_point: &'a Path,
}

impl Template {
    /// Reads `text`; `None` if it is no template. Calls may refer to mounts below `count` only.
    pub(super) fn parse(text: &str, count: usize) -> Result<Option<Self>> {
        if !text.contains("{{") {
            return Ok(None);
        }
        let invalid = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("the template {text:?} is not valid: {why}"))
        };
        let mut parts = Vec::new();
        let mut rest = text;
        let mut trim_next = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let (call, tail) = after.split_once("}}").ok_or_else(|| invalid("a {{ has no }}"))?;
            // A hyphen takes the white space on its side away, if there is more beside it.
            let trimmed = |call: &str| call.starts_with(char::is_whitespace);
            let (call, trims) = match call.strip_prefix('-') {
                Some(call) if trimmed(call) => (call, true),
                _ => (call, false),
            };
            let mut literal = if trim_next { before.trim_start() } else { before };
            if trims {
                literal = literal.trim_end();
            }
            let (call, trims) = match call.strip_suffix('-') {
                Some(call) if call.ends_with(char::is_whitespace) => (call, true),
                _ => (call, false),
            };
            trim_next = trims;
            if !literal.is_empty() {
                parts.push(Part::Text(literal.to_owned()));
            }
            parts.push(parse_call(call, count).map_err(|why| invalid(&why))?);
            rest = tail;
        }
        let literal = if trim_next { rest.trim_start() } else { rest };
        if !literal.is_empty() {
            parts.push(Part::Text(literal.to_owned()));
        }
        Ok(Some(Self { parts }))
    }

    /// The text with the calls' results, from at least as many mounts as it was read for. With `escape`, mount
    /// points get backslashes before what separates overlay options.
    pub(super) fn fill(&self, performed: &[Performed<'_>], escape: bool) -> Result<String> {
        let missing =
            || Error::new(ErrorKind::Invalid, "a template refers to a mount that is not there");
        let get = |index: usize| performed.get(index).ok_or_else(missing);
        let point = |index: usize| {
            let path = get(index)?.mount_point;
            match escape {
                true => crate::description::escaped(path),
                false => path.to_str().map(str::to_owned).ok_or_else(|| {
                    let path = path.display();
                    Error::new(ErrorKind::Invalid, format!("{path} is not UTF-8"))
                }),
            }
        };
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Source(index) => text.push_str(get(*index)?.source),
                Part::Target(index) => text.push_str(get(*index)?.target),
                Part::Mount(index) => text.push_str(&point(*index)?),
                Part::Overlay(from, to) => {
                    let indices: Vec<usize> = match from <= to {
                        true => (*from..=*to).collect(),
                        false => (*to..=*from).rev().collect(),
                    };
                    let points: Vec<String> =
                        indices.into_iter().map(point).collect::<Result<_>>()?;
                    text.push_str(&points.join(":"));
                }
            }
        }
        Ok(text)
    }
}

fn parse_call(call: &str, count: usize) -> Result<Part, String> {
    let words: Vec<&str> = call.split_whitespace().collect();
    let index = |word: &str| {
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| word.parse::<usize>().ok()).flatten();
        match number {
            Some(number) if number < count => Ok(number),
            Some(_) => Err(format!("there is no mount {word} before this one")),
            None => Err(format!("{word:?} is not the number of a mount")),
        }
    };
    match words[..] {
        ["source", n] => Ok(Part::Source(index(n)?)),
        ["target", n] => Ok(Part::Target(index(n)?)),
        ["mount", n] => Ok(Part::Mount(index(n)?)),
        ["overlay", from, to] => Ok(Part::Overlay(index(from)?, index(to)?)),
        _ => Err(format!("{:?} is none of source N, target N, mount N, overlay N N", call.trim())),
    }
}

/// Mount points as a template's results need them.
pub(super) fn performed<'a>(
    mounts: impl Iterator<Item = (&'a crate::Mount, &'a PathBuf)>,
) -> Vec<Performed<'a>> {
    // Sources and targets came as UTF-8.
    let text = |path: &'a PathBuf| path.to_str().unwrap_or_default();
    let performed = mounts.map(|(mount, point)| Performed {
        source: text(&mount.source),
        target: text(&mount.target),
        mount_point: point,
    });
    performed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<String> {
        let mounts = ["/t/0", "/t/1", "/t:2"].map(Path::new);
        let performed = mounts.map(|mount_point| Performed {
            source: "/source",
            target: "/target",
            mount_point,
        });
        Template::parse(text, 3)?
            .expect("a template")
            .fill(&performed, text.starts_with("lowerdir"))
    }

    #[test]
    fn calls_are_filled_in() {
        assert_eq!(Template::parse("plain } text {", 3).unwrap(), None);
        for (template, filled) in [
            ("{{ mount 0 }}", "/t/0"),
            ("{{mount 1}}/upper", "/t/1/upper"),
            ("{{ source 0 }}{{ target 1 }}", "/source/target"),
            ("lowerdir={{ overlay 0 2 }}", "lowerdir=/t/0:/t/1:/t\\:2"),
            ("lowerdir={{ overlay 2 1 }}", "lowerdir=/t\\:2:/t/1"),
            ("x={{ overlay 1 1 }}", "x=/t/1"),
            ("a  {{- mount 0 -}}  b", "a/t/0b"),
            ("a {{ mount 0 -}} {{- mount 1 }} b", "a /t/0/t/1 b"),
            ("{{\tmount\n0 }}", "/t/0"),
        ] {
            assert_eq!(fill(template).unwrap(), filled, "{template}");
        }
    }

    #[test]
    fn everything_else_is_invalid() {
        for template in [
            "{{",
            "{{}}",
            "{{ }}",
            "{{ mount }}",
            "{{ mount 3 }}",
            "{{ mount -1 }}",
            "{{ mount 0 0 }}",
            "{{ mount 99999999999999999999 }}",
            "{{ overlay 0 }}",
            "{{ overlay 0 3 }}",
            "{{ overlay 3 0 }}",
            "{{ print 0 }}",
            "{{ mount 0",
            "{{/* */}}",
            "{{ \"x\" }}",
            "{{ mount 0 | print }}",
            "{{-mount 0}}",
            "{{ mount {{ mount 0 }} }}",
            "{{ if 1 }}",
            "{{ mount 0x1 }}",
            "{{ mount \u{661} }}",
        ] {
            let error = fill(template).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{template}");
        }
        // The first mount has none before it.
        assert!(Template::parse("{{ mount 0 }}", 0).is_err());
    }
}
