//! Writing a long file past the page cache.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(not(target_os = "linux"))]
use other as imp;

/// Writes a file that is long, comes nearly front to back and is not read again soon: whole blocks go past the page
/// cache, from a thread of their own. That spares taking room in the page cache and finding the pages again, and `fsync`
/// has little to wait for.
///
/// Bytes may be written and read anywhere, which costs a wait wherever it is not at the end. Nothing is durable
/// before [`sync`](DirectFile::sync). What the disk says about a block is said by a later call.
pub use imp::DirectFile;
