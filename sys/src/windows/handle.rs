//! Handles of the DLL families: opaque, of one kind each, closed on drop.

use std::fmt;
use std::sync::Arc;

type Close = Box<dyn FnOnce(usize) + Send + Sync>;

/// A raw handle with the function that closes it.
struct Handle {
    value: usize,
    close: Option<Close>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(close) = self.close.take() {
            close(self.value);
        }
    }
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub struct $name(Arc<Handle>);

        impl $name {
            /// Wraps `value`, which `close` is called with once, on drop.
            pub fn new(value: usize, close: impl FnOnce(usize) + Send + Sync + 'static) -> Self {
                Self(Arc::new(Handle { value, close: Some(Box::new(close)) }))
            }

            /// The raw handle.
            pub fn value(&self) -> usize {
                self.0.value
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(0x{:x})"), self.0.value)
            }
        }
    )*};
}

handles! {
    /// An open virtual disk of `virtdisk.dll`. A disk attached without a permanent lifetime detaches when its
    /// last handle closes.
    Disk;
    /// An open registry hive of `offreg.dll`.
    Hive;
    /// An open compute system of `computecore.dll`.
    ComputeSystem;
    /// A composite image that is being written.
    CimImage;
    /// The stream of a composite image that is being written; keeps its image open.
    CimStream;
}

impl CimImage {
    /// Keeps the image open for what must close before it.
    pub fn held(&self) -> impl Send + Sync + 'static {
        Arc::clone(&self.0)
    }
}
