//! The path of something deep in a tree, as a chain of names, so that depth costs neither stack nor copies.

use std::fmt;
use std::rc::Rc;

use crate::{ImagePath, Name};

/// Names that a message shows of a path.
const SHOWN_NAMES: usize = 64;

/// A name and what it is in. The root has an empty name and nothing above it.
#[derive(Debug, Clone)]
pub(crate) struct Trail(Rc<Node>);

#[derive(Debug)]
struct Node {
    parent: Option<Rc<Node>>,
    name: Name,
    /// Code units of the whole path with its separators.
    length: usize,
}

impl Trail {
    pub(crate) fn root() -> Self {
        Self(Rc::new(Node { parent: None, name: Name::default(), length: 0 }))
    }

    pub(crate) fn child(&self, name: Name) -> Self {
        let length = self.0.length.saturating_add(1 + name.units().len());
        Self(Rc::new(Node { parent: Some(self.0.clone()), name, length }))
    }

    /// Code units of the whole path with its separators.
    pub(crate) fn length(&self) -> usize {
        self.0.length
    }

    pub(crate) fn path(&self) -> ImagePath {
        self.last(usize::MAX)
    }

    fn last(&self, count: usize) -> ImagePath {
        let mut names = Vec::new();
        let mut node = &self.0;
        while let Some(parent) = &node.parent
            && names.len() < count
        {
            names.push(node.name.clone());
            node = parent;
        }
        names.reverse();
        ImagePath::from_names(names)
    }
}

/// The path, for messages: of a deep one only the last part, after `...`, because a hostile image must not make
/// every message as long as a path can be.
impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.last(SHOWN_NAMES);
        let shown: usize = path.names().iter().map(|name| name.units().len() + 1).sum();
        if shown < self.0.length {
            f.write_str("...")?;
        }
        path.fmt(f)
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
        let deep = (0..1_000_000).fold(Trail::root(), |trail, _| trail.child("d".into()));
        assert_eq!(deep.length(), 2_000_000);
        assert_eq!(deep.to_string(), format!("...{}", "\\d".repeat(SHOWN_NAMES)));
        drop(deep);
        assert_eq!(Trail::root().to_string(), "\\");
        assert_eq!(Trail::root().child("a".into()).child("b".into()).to_string(), "\\a\\b");
    }
}
