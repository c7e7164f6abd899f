//! The path of something deep in a tree, as a chain of names, so that depth costs neither stack nor copies.

use std::fmt;
use std::rc::Rc;

/// Longest path that Linux takes.
pub(crate) const PATH_MAX: usize = 4096;

/// A name and what it is in. The root has an empty name and nothing above it.
#[derive(Debug, Clone)]
pub(crate) struct Trail(Rc<Node>);

#[derive(Debug)]
struct Node {
    parent: Option<Rc<Node>>,
    name: Box<[u8]>,
    /// Length of the whole path.
    length: usize,
}

impl Trail {
    pub(crate) fn root() -> Self {
        Self(Rc::new(Node { parent: None, name: Box::default(), length: 0 }))
    }

    pub(crate) fn child(&self, name: &[u8]) -> Self {
        let length = self.0.length.saturating_add(1 + name.len());
        Self(Rc::new(Node { parent: Some(self.0.clone()), name: name.into(), length }))
    }

    /// Whether the path is longer than the system allows.
    pub(crate) fn is_too_long(&self) -> bool {
        self.0.length > PATH_MAX
    }

    /// `/`, or the names with a slash before each. Of a path longer than the system allows only the last
    /// part, after `...`: a hostile image must not make every message as long as itself.
    pub(crate) fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut length: usize = 0;
        let mut node = Some(&self.0);
        while let Some(current) = node {
            length += current.name.len() + 1;
            if length > PATH_MAX + 1 {
                names.push(&b"..."[..]);
                break;
            }
            names.push(&*current.name);
            node = current.parent.as_ref();
        }
        names.reverse();
        match names.len() {
            1 => b"/".to_vec(),
            _ => names.join(&b'/'),
        }
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().escape_ascii().fmt(f)
    }
}

impl Drop for Node {
    /// Unlinks the chain step by step: the derived drop would recurse once for every level.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(node) = next {
            next = Rc::into_inner(node).and_then(|mut node| node.parent.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_million_names_needs_no_stack() {
        let deep = (0..1_000_000).fold(Trail::root(), |trail, _| trail.child(b"d"));
        let path = deep.path();
        assert!(path.starts_with(b".../d/d") && path.len() <= PATH_MAX + 3, "{}", path.len());
        assert!(deep.is_too_long());
        drop(deep);
        assert_eq!(Trail::root().to_string(), "/");
        assert_eq!(Trail::root().child(b"a").child(b"\n").to_string(), "/a/\\n");
    }
}
