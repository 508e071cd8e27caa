//! Remembers, beside the database, how far writes were acknowledged.
//!
//! The number is RocksDB's sequence number, which grows with every write of any kind, votes and
//! truncations included. It is written after each sync and never synced itself: a crash of the
//! process keeps it, a loss of power may keep an older one. Older is weaker but never wrong.
//!
//! Writing it also finds out whether the sync was one. ext4 confirms the sync of a transaction that it has dropped because
//! its journal was aborted, and takes writes to bytes that are there until it has said in the kernel's log that it is
//! read-only from now on. A change of a file's length needs the journal, and is refused from the first moment.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// The number and its checksum, so that a torn one counts as none.
const BYTES: usize = 16;

/// The file is so long at most. Longer by a byte each time costs less than longer and shorter in turns.
const LENGTH_MAX: u64 = 4096;

/// The file.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    length: AtomicU64,
}

impl Mark {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let length = AtomicU64::new(file.metadata()?.len());
        Ok(Self { file, length })
    }

    /// The last number written; zero if there is none.
    pub(super) fn read(&self) -> u64 {
        let mut bytes = [0; BYTES];
        if self.file.read_exact_at(&mut bytes, 0).is_err() {
            return 0;
        }
        let (number, check) = bytes.split_at(8);
        let number = u64::from_le_bytes(number.try_into().expect("eight bytes"));
        let check = u64::from_le_bytes(check.try_into().expect("eight bytes"));
        if check == u64::from(crc32c::crc32c(&number.to_le_bytes())) { number } else { 0 }
    }

    pub(super) fn write(&self, number: u64) -> io::Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&u64::from(crc32c::crc32c(&number.to_le_bytes())).to_le_bytes());
        self.file.write_all_at(&bytes, 0)?;
        let before = self.length.load(Ordering::Relaxed).max(BYTES as u64);
        let length = if before < LENGTH_MAX { before + 1 } else { BYTES as u64 };
        self.file.set_len(length)?;
        self.length.store(length, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_changes_the_length_and_the_number_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mark");
        let mut lengths = vec![0];
        for number in 0..LENGTH_MAX {
            // Opened again now and then, as by another process.
            let mark = Mark::open(&path).expect("opens");
            for number in [number, number + 1] {
                mark.write(number).expect("writes");
                assert_eq!(mark.read(), number);
                lengths.push(mark.file.metadata().expect("there").len());
            }
        }
        assert!(lengths.windows(2).all(|two| two[0] != two[1] && two[1] <= LENGTH_MAX));
    }
}
