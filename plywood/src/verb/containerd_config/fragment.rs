//! What containerd has to be told, in the words of each version of it.
//!
//! Facts: a differ can come from outside since 1.7.5; `exports` and `capabilities` are read since 1.7; the capability
//! `rebase` is looked at since 2.2, `remap-ids` since 1.7: without it the client changes the owners of an image, file by file,
//! before a container in a user namespace starts. Configuration versions: 2 in 1.6 and 1.7, 3 from 2.0, 4 from 2.3, which reads 3 as
//! well. A differ that is named and not loaded keeps containerd from starting, in both lists.

use std::fmt;

use crate::cli::ContainerdVersion;

/// A fragment of containerd's configuration.
#[derive(Debug)]
pub(super) struct Fragment<'a> {
    pub(super) version: ContainerdVersion,
    /// What containerd calls the snapshotter.
    pub(super) name: &'a str,
    pub(super) address: &'a str,
    pub(super) root: &'a str,
    /// `os/architecture` of this host.
    pub(super) platform: &'a str,
    pub(super) differ: bool,
}

impl ContainerdVersion {
    /// Whether it takes differs from outside. Of 1.7, the versions before 1.7.5 do not; nothing distributes them.
    pub(crate) fn has_proxy_differs(self) -> bool {
        match (self.major, self.minor) {
            (1, Some(7)) => self.patch.is_none_or(|patch| patch >= 5),
            (1, _) => false,
            _ => true,
        }
    }

    /// Whether snapshotters have exports, which 1.6 does not read.
    fn has_exports(self) -> bool {
        self.major > 1 || self.minor != Some(6)
    }

    /// Whether it may put layers together in parallel: 2.2, or a 2.x that was not named.
    fn has_rebase(self) -> bool {
        self.major > 1 && self.minor.is_none_or(|minor| minor >= 2)
    }

    /// The version of its configuration file.
    fn configuration(self) -> u32 {
        match (self.major, self.minor) {
            (1, _) => 2,
            (_, Some(minor)) if minor >= 3 => 4,
            _ => 3,
        }
    }

    fn shown(self) -> String {
        match (self.minor, self.patch) {
            (Some(minor), Some(patch)) => format!("{}.{minor}.{patch}", self.major),
            (Some(minor), None) => format!("{}.{minor}", self.major),
            (None, _) => format!("{}.x", self.major),
        }
    }
}

impl fmt::Display for Fragment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, name, .. } = self;
        writeln!(f, "# Plywood for containerd {}.", version.shown())?;
        writeln!(
            f,
            "# Merge it into /etc/containerd/config.toml: a key or table may stand there only once."
        )?;
        writeln!(
            f,
            "# Then restart containerd (containers keep running), and look: ctr plugins ls"
        )?;
        writeln!(f)?;
        if version.configuration() == 3 && version.minor.is_none() {
            writeln!(
                f,
                "# Read by every 2.x; a file of version 4, which 2.3 brought, takes the tables below too."
            )?;
        }
        writeln!(f, "version = {}", version.configuration())?;
        self.snapshotter(f)?;
        if self.differ {
            self.differ(f)?;
        } else {
            self.without_differ(f)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "# Nothing uses it until it is asked for: ctr run --snapshotter {name}, nerdctl --snapshotter {name},"
        )?;
        writeln!(f, "# or snapshotter = {} in the configuration of CRI.", quoted(name))
    }
}

impl Fragment<'_> {
    fn snapshotter(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(f, "[proxy_plugins.{}]", self.name)?;
        writeln!(f, "  type = \"snapshot\"")?;
        writeln!(f, "  address = {}", quoted(self.address))?;
        let mut capabilities = Vec::new();
        if self.version.has_exports() {
            writeln!(
                f,
                "  # remap-ids: owners for user namespaces are mapped by mounts, which takes Linux 5.19. Without it,"
            )?;
            writeln!(f, "  # containerd copies every file of the image and changes its owner.")?;
            capabilities.push("remap-ids");
        }
        if self.version.has_rebase() && self.differ {
            writeln!(
                f,
                "  # rebase: layers may come in any order and at once; containerd 2.2 and later do that when it pulls,"
            )?;
            writeln!(f, "  # if max_concurrent_unpacks of its transfer service is more than 1.")?;
            capabilities.push("rebase");
        }
        if !capabilities.is_empty() {
            let list: Vec<String> = capabilities.iter().map(|name| quoted(name)).collect();
            writeln!(f, "  capabilities = [{}]", list.join(", "))?;
        }
        if self.version.has_exports() {
            writeln!(f, "  [proxy_plugins.{}.exports]", self.name)?;
            writeln!(f, "    # The file system that CRI reports as the one of images.")?;
            writeln!(f, "    root = {}", quoted(self.root))?;
        }
        Ok(())
    }

    fn differ(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differ = format!("{}-diff", self.name);
        writeln!(f)?;
        writeln!(f, "[proxy_plugins.{differ}]")?;
        writeln!(f, "  type = \"diff\"")?;
        writeln!(f, "  address = {}", quoted(self.address))?;
        writeln!(f)?;
        writeln!(
            f,
            "# Plywood declines what is not on its own snapshots, and containerd asks the next in the list. All names"
        )?;
        writeln!(
            f,
            "# must be of differs that are there, or containerd does not start. While `plywood serve` is away, the"
        )?;
        writeln!(
            f,
            "# first of the list fails for other snapshotters as well: let systemd hold the socket (plywood.socket)."
        )?;
        writeln!(f, "[plugins.\"io.containerd.service.v1.diff-service\"]")?;
        writeln!(f, "  default = [{}, \"walking\"]", quoted(&differ))?;
        writeln!(f)?;
        writeln!(
            f,
            "# Which differ the transfer service unpacks with (ctr images pull, ctr images import --local=false, and CRI"
        )?;
        writeln!(f, "# in 2.x). The list replaces containerd's own, so it names overlayfs too.")?;
        for (snapshotter, differ) in [("overlayfs", "walking"), (self.name, differ.as_str())] {
            self.unpack(f, snapshotter, differ)?;
        }
        Ok(())
    }

    fn without_differ(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(
            f,
            "# Without a differ of Plywood's, containerd unpacks a layer into the snapshot, and the commit turns that into an"
        )?;
        writeln!(f, "# image.")?;
        if self.version.major == 1 && self.version.minor == Some(6) {
            writeln!(
                f,
                "# 1.6 takes no differ from outside; `plywood containerd-config --version 1.7` has one."
            )?;
            return Ok(());
        }
        writeln!(f)?;
        writeln!(
            f,
            "# Which snapshotters the transfer service unpacks for (ctr images pull, and CRI in 2.x). The list replaces"
        )?;
        writeln!(f, "# containerd's own, so it names overlayfs too.")?;
        for snapshotter in ["overlayfs", self.name] {
            self.unpack(f, snapshotter, "walking")?;
        }
        Ok(())
    }

    fn unpack(&self, f: &mut fmt::Formatter<'_>, snapshotter: &str, differ: &str) -> fmt::Result {
        writeln!(f, "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]")?;
        writeln!(f, "  platform = {}", quoted(self.platform))?;
        writeln!(f, "  snapshotter = {}", quoted(snapshotter))?;
        writeln!(f, "  differ = {}", quoted(differ))
    }
}

/// As a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => {
                quoted.push_str(&format!("\\U{:08X}", u32::from(character)));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(version: &str, differ: bool) -> String {
        let version: ContainerdVersion = version.parse().unwrap();
        let fragment = Fragment {
            version,
            name: "plywood",
            address: "/run/plywood/plywood.sock",
            root: "/var/lib/plywood",
            platform: "linux/amd64",
            differ: differ && version.has_proxy_differs(),
        };
        fragment.to_string()
    }

    #[test]
    fn a_fragment_for_each_version() {
        for version in ["1.6", "1.7", "2.0", "2.x", "2.3"] {
            insta::assert_snapshot!(format!("containerd {version}"), fragment(version, true));
        }
        insta::assert_snapshot!("containerd 2.x without differ", fragment("2.x", false));
    }

    #[test]
    fn only_differs_that_are_there_are_named() {
        for version in ["1.6.20", "1.7.4"] {
            assert!(!fragment(version, true).contains("diff-service"), "{version}");
        }
        for (version, configuration) in
            [("1.6", 2), ("1.7.24", 2), ("2.0.1", 3), ("2.2.7", 3), ("2.3.0", 4), ("2", 3)]
        {
            let text = fragment(version, true);
            assert!(text.contains(&format!("\nversion = {configuration}\n")), "{version}");
        }
    }

    #[test]
    fn strings_of_toml() {
        for (text, string) in
            [("a", "\"a\""), ("a\"b\\c", r#""a\"b\\c""#), ("a\nb", r#""a\U0000000Ab""#)]
        {
            assert_eq!(quoted(text), string);
        }
    }
}
