//! Remembers, beside the database, how far writes were acknowledged.
//!
//! The number is RocksDB's sequence number, which grows with every write of any kind, votes and
//! truncations included. It is written after each sync and never synced itself: a crash of the
//! process keeps it, a loss of power may keep an older one. Older is weaker but never wrong.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

/// The file. Sixteen bytes: the number and its checksum, so that a torn one counts as none.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map(Self)
    }

    /// The last number written; zero if there is none.
    pub(super) fn read(&self) -> u64 {
        let mut bytes = [0; 16];
        if self.0.read_exact_at(&mut bytes, 0).is_err() {
            return 0;
        }
        let (number, check) = bytes.split_at(8);
        let number = u64::from_le_bytes(number.try_into().expect("eight bytes"));
        let check = u64::from_le_bytes(check.try_into().expect("eight bytes"));
        if check == u64::from(crc32c::crc32c(&number.to_le_bytes())) { number } else { 0 }
    }

    pub(super) fn write(&self, number: u64) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&u64::from(crc32c::crc32c(&number.to_le_bytes())).to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}
