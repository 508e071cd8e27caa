//! Snapshot files: the replicated state at a log index, whole or not at all.
//!
//! A file is written under another name, synced, renamed, and its folder synced, so a name that
//! says "snapshot" always means a complete one. Each section carries its length and a CRC-32C, the
//! last one a BLAKE3 hash of everything before it: the first find a flipped bit where it is, the
//! last finds sections that were lost, doubled or swapped.
//!
//! ```text
//! "BALLSNAP"  version u32     kind u8  length u32  crc32c u32  bytes      ...      end section
//! ```
//!
//! All numbers are little-endian. The checksum covers kind, length and bytes. The first section
//! is the caller's description (`meta`), then come data sections of up to 1 MiB, then the end.
//!
//! Not here: what is inside (`ballast-core`), sending files to another node (`ballast-raft`).

mod folder;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use folder::{Incoming, SnapshotFolder};
pub use read::{SnapshotFile, SnapshotReader};
pub use write::SnapshotWriter;

/// Version of the file format.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"BALLSNAP";
const PREAMBLE: usize = MAGIC.len() + 4;
const SECTION_HEADER: usize = 1 + 4 + 4;
/// Large enough that checksums and system calls cost nothing beside the bytes.
const SECTION_BYTES: usize = 1 << 20;
/// No honest section is longer: the description is small, data is cut at [`SECTION_BYTES`].
const SECTION_BYTES_MAX: usize = 16 << 20;

const KIND_META: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_END: u8 = 3;

fn section_header(kind: u8, bytes: &[u8]) -> [u8; SECTION_HEADER] {
    let length = u32::try_from(bytes.len()).expect("sections are cut far below 4 GiB").to_le_bytes();
    let mut header = [0; SECTION_HEADER];
    header[0] = kind;
    header[1..5].copy_from_slice(&length);
    let crc = section_crc(&header[..5], bytes);
    header[5..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn section_crc(kind_and_length: &[u8], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(kind_and_length), bytes)
}
