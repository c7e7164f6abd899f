//! Named points at which a test can kill the process, to see what a power cut or `kill -9` there leaves behind.
//!
//! `PLYWOOD_FAILPOINT=name` aborts at the first [`hit`] of that name, `name:3` at the third. The points exist in
//! builds with debug assertions or the feature `failpoints`; elsewhere [`hit`] is an empty function.

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod imp {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        left: AtomicU64,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED
            .get_or_init(|| {
                let text = std::env::var("PLYWOOD_FAILPOINT").ok()?;
                let (name, count) = match text.rsplit_once(':') {
                    Some((name, count)) => (name.to_owned(), count.parse().ok()?),
                    None => (text, 1),
                };
                Some(Armed { name, left: AtomicU64::new(count) })
            })
            .as_ref()
    }

    pub(super) fn hit(name: &str) {
        if let Some(armed) = armed()
            && armed.name == name
            && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            std::process::abort();
        }
    }
}

#[cfg(not(any(debug_assertions, feature = "failpoints")))]
mod imp {
    #[inline(always)]
    pub(super) fn hit(_: &str) {}
}

/// Passes the point `name`, or dies there if a test asked for that.
#[inline]
pub fn hit(name: &str) {
    imp::hit(name);
}
