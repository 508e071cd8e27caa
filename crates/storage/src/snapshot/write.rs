//! Writes a snapshot file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{FORMAT, KIND_DATA, KIND_END, KIND_META, MAGIC, SECTION_BYTES, section_header};
use crate::SnapshotError;

/// A snapshot in the making. Bytes written to it become the data; it is no snapshot until
/// [`super::SnapshotFolder::finish`] took it. Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct SnapshotWriter {
    index: u64,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    section: Vec<u8>,
    finished: bool,
}

impl SnapshotWriter {
    pub(super) fn create(path: PathBuf, index: u64, meta: &[u8]) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Io { doing: "create", path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).map_err(failed)?;
        let mut writer = Self {
            index,
            path: path.clone(),
            file,
            hasher: blake3::Hasher::new(),
            section: Vec::with_capacity(SECTION_BYTES),
            finished: false,
        };
        writer
            .put(MAGIC)
            .and_then(|()| writer.put(&FORMAT.to_le_bytes()))
            .and_then(|()| writer.put_section(KIND_META, meta))
            .map_err(|source| SnapshotError::Io { doing: "write", path, source })?;
        Ok(writer)
    }

    /// Ends and syncs the file; gives its path and index. The caller renames it.
    pub(super) fn seal(mut self) -> Result<(PathBuf, u64), SnapshotError> {
        self.flush_section()
            .and_then(|()| {
                let hash = *self.hasher.finalize().as_bytes();
                self.put_section(KIND_END, &hash)
            })
            .and_then(|()| self.file.sync_all())
            .map_err(|source| SnapshotError::Io { doing: "write", path: self.path.clone(), source })?;
        self.finished = true;
        Ok((std::mem::take(&mut self.path), self.index))
    }

    fn flush_section(&mut self) -> io::Result<()> {
        if self.section.is_empty() {
            return Ok(());
        }
        let section = std::mem::take(&mut self.section);
        self.put_section(KIND_DATA, &section)?;
        self.section = section;
        self.section.clear();
        Ok(())
    }

    fn put_section(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        self.put(&section_header(kind, bytes))?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(SECTION_BYTES - self.section.len());
        self.section.extend_from_slice(&bytes[..taken]);
        if self.section.len() == SECTION_BYTES {
            self.flush_section()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            remove(&self.path);
        }
    }
}

/// Removes a file that nobody needs; what stays is removed at the next start.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file that is not needed any more");
    }
}
