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
/// cache, from a thread of their own. Taking room in the page cache, copying into it and finding the pages again costs
/// the processor more than all that is hashed on the way, and `fsync` then waits for what could have been written
/// before.
///
/// Bytes may be written and read anywhere, which costs a wait wherever it is not at the end. Nothing is durable
/// before [`sync`](DirectFile::sync). What the disk says about a block is said by a later call.
pub use imp::DirectFile;
