//! Reads a snapshot file and checks every byte of it.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{FORMAT, KIND_DATA, KIND_END, KIND_META, MAGIC, PREAMBLE, SECTION_BYTES_MAX, SECTION_HEADER, section_crc};
use crate::SnapshotError;

/// An open snapshot file. Stays readable after a newer one replaced it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    meta: Bytes,
    rotten: Arc<AtomicBool>,
}

impl SnapshotFile {
    /// Opens a file and reads its description.
    pub(super) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Io { doing: "open", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let (path, rotten) = (path.to_owned(), Arc::default());
        let mut opened = Self { path, file: Arc::new(file), size, meta: Bytes::new(), rotten };
        let mut sections = Sections::begin(&opened)?;
        let (kind, bytes) = sections.next()?;
        if kind != KIND_META {
            return Err(opened.damaged("it does not begin with its description"));
        }
        opened.meta = bytes.to_vec().into();
        Ok(opened)
    }

    /// The description that its writer gave it.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it is (or was, if a newer one replaced it).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads raw bytes of the file, for sending it elsewhere.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, SnapshotError> {
        let length = usize::try_from(self.size.saturating_sub(offset)).map_or(length, |left| left.min(length));
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(|source| self.io("read", source))?;
        Ok(bytes)
    }

    /// The data, checked as it is read. The end of the data is told only after the hash of the
    /// whole file was found right: who reads until then has read what was written.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn reader(&self) -> Result<SnapshotReader, SnapshotError> {
        let mut sections = Sections::begin(self)?;
        sections.next()?;
        Ok(SnapshotReader { sections, at: 0, filled: 0, ended: false })
    }

    /// Reads and checks the whole file.
    ///
    /// # Errors
    /// [`SnapshotError`]. Then it [is rotten](Self::is_rotten).
    pub fn verify(&self) -> Result<(), SnapshotError> {
        self.verify_while(|| true).map(drop)
    }

    /// The same, as long as it is `wanted`, which is asked before each section. Returns whether it came to the end.
    ///
    /// # Errors
    /// [`SnapshotError`]. Then it [is rotten](Self::is_rotten).
    pub fn verify_while(&self, wanted: impl Fn() -> bool) -> Result<bool, SnapshotError> {
        let walk = || {
            let mut sections = Sections::begin(self)?;
            while wanted() {
                if sections.next()?.0 == KIND_END {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        walk().inspect_err(|_| self.rotten.store(true, Ordering::Release))
    }

    /// Whether [`SnapshotFile::verify`] failed, on this one or a clone: it is, or was, not what was written, or could not be
    /// read. False says nothing of what was not verified.
    pub fn is_rotten(&self) -> bool {
        self.rotten.load(Ordering::Acquire)
    }

    fn damaged(&self, detail: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), detail: detail.into() }
    }

    fn io(&self, doing: &'static str, source: io::Error) -> SnapshotError {
        SnapshotError::Io { doing, path: self.path.clone(), source }
    }
}

/// The data of a snapshot as a stream. Errors are [`SnapshotError`]s inside [`io::Error`]s.
#[derive(Debug)]
pub struct SnapshotReader {
    sections: Sections,
    at: usize,
    filled: usize,
    ended: bool,
}

impl Read for SnapshotReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.filled {
            if self.ended {
                return Ok(0);
            }
            let (kind, length) =
                self.sections.next().map(|(kind, bytes)| (kind, bytes.len())).map_err(SnapshotError::into_io)?;
            (self.at, self.filled, self.ended) = if kind == KIND_END { (0, 0, true) } else { (0, length, false) };
        }
        let taken = out.len().min(self.filled - self.at);
        out[..taken].copy_from_slice(&self.sections.buffer[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

/// Walks through the sections of a file.
#[derive(Debug)]
struct Sections {
    snapshot: SnapshotFile,
    offset: u64,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Sections {
    fn begin(snapshot: &SnapshotFile) -> Result<Self, SnapshotError> {
        let mut sections =
            Self { snapshot: snapshot.clone(), offset: 0, hasher: blake3::Hasher::new(), buffer: Vec::new() };
        let mut preamble = [0; PREAMBLE];
        sections.read(&mut preamble)?;
        let (magic, version) = preamble.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(snapshot.damaged("it does not begin like a snapshot"));
        }
        let found = u32::from_le_bytes(version.try_into().expect("four bytes"));
        if found != FORMAT {
            return Err(SnapshotError::Version { path: snapshot.path.clone(), found, known: FORMAT });
        }
        sections.hasher.update(&preamble);
        Ok(sections)
    }

    /// The next section, checked; its bytes stay in the buffer.
    fn next(&mut self) -> Result<(u8, &[u8]), SnapshotError> {
        let start = self.offset;
        let mut header = [0; SECTION_HEADER];
        self.read(&mut header)?;
        let length = u32::from_le_bytes(header[1..5].try_into().expect("four bytes")) as usize;
        let crc = u32::from_le_bytes(header[5..].try_into().expect("four bytes"));
        if length > SECTION_BYTES_MAX {
            return Err(self.damaged(start, "claims an impossible length"));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(length, 0);
        self.read(&mut buffer)?;
        self.buffer = buffer;
        if crc != section_crc(&header[..5], &self.buffer) {
            return Err(self.damaged(start, "has a wrong checksum"));
        }
        match header[0] {
            KIND_END => {
                if self.buffer != self.hasher.finalize().as_bytes() {
                    return Err(self.damaged(start, "says another hash than the file has"));
                }
                if self.offset != self.snapshot.size {
                    return Err(self.damaged(start, "is the last, but the file goes on"));
                }
            }
            KIND_META | KIND_DATA => {
                self.hasher.update(&header);
                self.hasher.update(&self.buffer);
            }
            _ => return Err(self.damaged(start, "has an unknown kind")),
        }
        Ok((header[0], &self.buffer))
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), SnapshotError> {
        self.snapshot.file.read_exact_at(out, self.offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.snapshot.damaged(format!("it ends in the section at byte {}", self.offset))
            }
            _ => self.snapshot.io("read", source),
        })?;
        self.offset += out.len() as u64;
        Ok(())
    }

    fn damaged(&self, start: u64, what: &str) -> SnapshotError {
        self.snapshot.damaged(format!("the section at byte {start} {what}"))
    }
}
