//! Who a container's process runs as, looked up in the root filesystem's own user database.

use std::io::Read as _;
use std::os::fd::BorrowedFd;

use anyhow::{Context as _, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::exit::{Exit, Failure};

/// A database larger than this is not read: real ones have kilobytes.
pub(super) const LARGEST_DATABASE: u64 = 16 << 20;

/// The ids a process runs with, and its home directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
    pub(super) home: String,
}

impl User {
    /// Resolves `user[:group]`, each a name or a number, as the OCI image specification says: without a group the
    /// user's own group and its supplementary groups, with one only that. An empty text is root.
    pub(super) fn resolve(root: BorrowedFd<'_>, text: &str) -> Result<Self> {
        let passwd = read_database(root, "etc/passwd")?;
        let group = read_database(root, "etc/group")?;
        Self::resolve_in(text, &passwd, &group)
    }

    /// The same, with the texts of the user database.
    pub(super) fn resolve_in(text: &str, passwd: &str, group: &str) -> Result<Self> {
        resolve_in(text, passwd, group)
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn resolve_in(text: &str, passwd: &str, group: &str) -> Result<User> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name wins over a number of the same spelling, as with chown(1).
    let account = accounts(passwd)
        .find(|account| account.name == user)
        .or_else(|| accounts(passwd).find(|account| Some(account.uid) == number(user)));
    let uid = match (&account, number(user)) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(Failure::new(Exit::NotFound, format!("no user `{user}` in the image"))
                .hint("give a number, or a name that is in its /etc/passwd")
                .into());
        }
    };
    let (gid, additional_gids) = match wanted_group {
        Some(wanted) => (find_group(group, wanted)?, Vec::new()),
        None => match &account {
            Some(account) => (account.gid, memberships(group, account.name)),
            None => (0, Vec::new()),
        },
    };
    let home = account.map(|account| account.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(User { uid, gid, additional_gids, home: home.to_owned() })
}

/// `name:password:uid:gid:comment:home:shell`; lines that are not like that are skipped.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or("");
        Some(Account { name, uid, gid, home })
    })
}

/// `name:password:gid:member,member`
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn find_group(group: &str, wanted: &str) -> Result<u32> {
    groups(group)
        .find_map(|(name, gid, _)| (name == wanted).then_some(gid))
        .or_else(|| number(wanted))
        .ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("no group `{wanted}` in the image"))
                .hint("give a number, or a name that is in its /etc/group")
                .into()
        })
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    let mut gids: Vec<u32> = groups(group)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// A decimal number below 2^31, which is what user databases hold.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|&number| i32::try_from(number).is_ok())
}

/// Reads a file of the root filesystem as the container would see it: links are followed, but `/` and `..` of a
/// link end at the root. A file that does not exist is empty.
fn read_database(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => {
            return Err(errno).with_context(|| format!("cannot open /{path} of the image"));
        }
    };
    let stat = rustix::fs::fstat(&file).with_context(|| format!("cannot examine /{path}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        anyhow::bail!(Failure::new(Exit::Corrupt, format!("/{path} of the image is not a file")));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_DATABASE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read /{path} of the image"))?;
    if bytes.len() as u64 > LARGEST_DATABASE {
        anyhow::bail!(Failure::new(Exit::Corrupt, format!("/{path} of the image is too large")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        broken line\n\
        app:x:1000:1001:App:/srv/app:/bin/false\n\
        7:x:70:71::/seven:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nvideo:x:44:app\napp:x:1001:\n";

    fn resolved(text: &str) -> (u32, u32, Vec<u32>, String) {
        let user = resolve_in(text, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.additional_gids, user.home)
    }

    #[test]
    fn users_and_groups() {
        assert_eq!(resolved(""), (0, 0, vec![10], "/root".into()));
        assert_eq!(resolved("app"), (1000, 1001, vec![10, 44], "/srv/app".into()));
        assert_eq!(resolved("1000"), (1000, 1001, vec![10, 44], "/srv/app".into()));
        assert_eq!(resolved("app:video"), (1000, 44, vec![], "/srv/app".into()));
        assert_eq!(resolved("app:5000"), (1000, 5000, vec![], "/srv/app".into()));
        assert_eq!(resolved("app:"), (1000, 1001, vec![10, 44], "/srv/app".into()));
        assert_eq!(resolved("4242"), (4242, 0, vec![], "/".into()));
        assert_eq!(resolved(":video"), (0, 44, vec![], "/root".into()));
        assert_eq!(resolved("7"), (70, 71, vec![], "/seven".into()));
        for missing in ["nobody", "app:nogroup", "-1", "4294967295", "99999999999"] {
            let error = resolve_in(missing, PASSWD, GROUP).unwrap_err();
            assert_eq!(crate::exit::code(&error), Exit::NotFound, "{missing}");
        }
    }

    #[test]
    fn links_do_not_leave_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("data")).unwrap();
        // Outside the root this would be found; inside it is nothing.
        std::fs::write(dir.path().join("passwd"), "evil:x:666:666::/:\n").unwrap();
        symlink("../../../passwd", root.join("etc/passwd")).unwrap();
        let fd = std::fs::File::open(&root).unwrap();
        assert!(User::resolve(fd.as_fd(), "evil").is_err());
        // A link within the root is followed, absolute or not.
        std::fs::write(root.join("data/passwd"), "good:x:5:6::/:\n").unwrap();
        std::fs::remove_file(root.join("etc/passwd")).unwrap();
        symlink("/data/passwd", root.join("etc/passwd")).unwrap();
        assert_eq!(User::resolve(fd.as_fd(), "good").unwrap().uid, 5);
    }

    #[test]
    fn a_pipe_or_an_endless_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("etc/passwd")).unwrap();
        let error = User::resolve(fd.as_fd(), "0").unwrap_err();
        assert_eq!(crate::exit::code(&error), Exit::Corrupt);
        std::fs::remove_dir(dir.path().join("etc/passwd")).unwrap();
        let file = std::fs::File::create(dir.path().join("etc/passwd")).unwrap();
        file.set_len(LARGEST_DATABASE + 1).unwrap();
        let error = User::resolve(fd.as_fd(), "0").unwrap_err();
        assert_eq!(crate::exit::code(&error), Exit::Corrupt);
    }
}
