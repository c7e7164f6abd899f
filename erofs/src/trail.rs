//! The path of something deep in a tree, as a chain of names, so that depth costs neither stack nor copies.

use std::fmt;
use std::rc::Rc;

/// A name and what it is in. The root has an empty name and nothing above it.
#[derive(Debug, Clone)]
pub(crate) struct Trail(Rc<Node>);

#[derive(Debug)]
struct Node {
    parent: Option<Rc<Node>>,
    name: Box<[u8]>,
}

impl Trail {
    pub(crate) fn root() -> Self {
        Self(Rc::new(Node { parent: None, name: Box::default() }))
    }

    pub(crate) fn child(&self, name: &[u8]) -> Self {
        Self(Rc::new(Node { parent: Some(self.0.clone()), name: name.into() }))
    }

    /// `/`, or the names with a slash before each.
    pub(crate) fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut node = Some(&self.0);
        while let Some(current) = node {
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
        assert_eq!(deep.path().len(), 2_000_000);
        drop(deep);
        assert_eq!(Trail::root().to_string(), "/");
        assert_eq!(Trail::root().child(b"a").child(b"\n").to_string(), "/a/\\n");
    }
}
