//! The host's own apt sources. Mirrors are read from here, so that no script names one and a host behind a
//! private mirror works as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One mirror and suite of the host's sources that carries binary packages of component `main`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    /// The mirror, as written.
    pub(crate) uri: String,
    /// The suite, such as `bookworm-updates`.
    pub(crate) suite: String,
    /// The keyring named for it, if it is a path.
    pub(crate) signed_by: Option<String>,
}

impl Source {
    /// The one-line form, for `suite` on this mirror. `kind` is `deb` or `deb-src`.
    pub(crate) fn line(&self, kind: &str, suite: &str) -> String {
        match &self.signed_by {
            Some(keyring) => format!("{kind} [signed-by={keyring}] {} {suite} main", self.uri),
            None => format!("{kind} {} {suite} main", self.uri),
        }
    }
}

/// All of the host's sources.
pub(crate) fn of_host() -> Result<Vec<Source>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(directory) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(directory.filter_map(Result::ok).map(|entry| entry.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let extension = file.extension().and_then(|extension| extension.to_str());
        let read = |file: &Path| {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        };
        match extension {
            Some("list") => sources.extend(one_line(&read(file)?)),
            Some("sources") => sources.extend(deb822(&read(file)?)),
            _ => {}
        }
    }
    Ok(sources)
}

/// The sources of a Debian suite with its updates and security fixes, as mmdebstrap and apt take them.
pub(crate) fn of_suite(sources: &[Source], suite: &str) -> Result<Vec<String>> {
    let family = [suite.to_owned(), format!("{suite}-updates"), format!("{suite}-security")];
    let lines: Vec<String> = family
        .iter()
        .filter_map(|name| sources.iter().find(|source| source.suite == *name))
        .map(|source| source.line("deb", &source.suite))
        .collect();
    if !sources.iter().any(|source| source.suite == suite) {
        bail!(
            "the apt sources of this host have no `{suite}`; the demo and the benchmarks want Debian 12"
        );
    }
    Ok(lines)
}

/// The old format: `deb [option=value …] uri suite component…`.
fn one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t']))
        else {
            continue;
        };
        let rest = rest.trim();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        if !words.any(|component| component == "main") || !usable(uri) {
            continue;
        }
        let signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        sources.push(Source { uri: uri.to_owned(), suite: suite.to_owned(), signed_by });
    }
    sources
}

/// The new format: stanzas of fields, continuation lines indented, comment lines dropped.
fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut last = String::new();
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with([' ', '\t']) {
                if let Some(value) = fields.get_mut(&last) {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                last = name.trim().to_ascii_lowercase();
                fields.insert(last.clone(), value.trim().to_owned());
            }
        }
        let words = |name: &str| {
            fields.get(name).map(String::as_str).unwrap_or_default().split_whitespace()
        };
        let disabled = words("enabled").any(|value| value.eq_ignore_ascii_case("no"));
        let wanted = words("types").any(|kind| kind == "deb")
            && words("components").any(|component| component == "main");
        if disabled || !wanted {
            continue;
        }
        // A key may also be given inline, which the one-line form cannot say.
        let signed_by = fields.get("signed-by").filter(|value| value.starts_with('/')).cloned();
        for uri in words("uris").filter(|uri| usable(uri)) {
            for suite in words("suites") {
                sources.push(Source {
                    uri: uri.to_owned(),
                    suite: suite.to_owned(),
                    signed_by: signed_by.clone(),
                });
            }
        }
    }
    sources
}

fn usable(uri: &str) -> bool {
    ["http://", "https://", "file:", "mirror+"].iter().any(|scheme| uri.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, signed_by: Option<&str>) -> Source {
        Source {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            signed_by: signed_by.map(str::to_owned),
        }
    }

    #[test]
    fn deb822_stanzas_give_every_suite_of_every_mirror() {
        let text = "# a comment: not a field\nTypes: deb deb-src\nURIs: http://a.example/debian\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main\n\
                    Signed-By: /usr/share/keyrings/k.gpg\n\n\
                    Types: deb\nURIs: http://b.example/d\nSuites: x\nComponents: main\nEnabled: no\n\n\
                    Types: deb\nURIs: http://c.example/d\nSuites: y\nComponents: contrib\n";
        let key = Some("/usr/share/keyrings/k.gpg");
        assert_eq!(
            deb822(text),
            [
                source("http://a.example/debian", "bookworm", key),
                source("http://a.example/debian", "bookworm-updates", key),
            ]
        );
    }

    #[test]
    fn one_line_sources_keep_the_keyring_and_skip_the_rest() {
        let text = "# deb http://no.example x main\ndeb http://a.example/debian bookworm main contrib\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://b.example/d bookworm-security main # end\n\
                    deb-src http://a.example/debian bookworm main\ndeb cdrom:[x]/ bookworm main\n";
        assert_eq!(
            one_line(text),
            [
                source("http://a.example/debian", "bookworm", None),
                source("http://b.example/d", "bookworm-security", Some("/k.gpg")),
            ]
        );
    }

    #[test]
    fn a_suite_comes_with_its_updates_and_a_missing_one_is_an_error() {
        let sources = [
            source("http://s.example", "bookworm-security", None),
            source("http://a.example", "bookworm", None),
        ];
        assert_eq!(
            of_suite(&sources, "bookworm").unwrap(),
            ["deb http://a.example bookworm main", "deb http://s.example bookworm-security main"]
        );
        assert!(of_suite(&sources, "trixie").is_err());
    }
}
