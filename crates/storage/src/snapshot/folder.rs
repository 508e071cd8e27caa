//! The folder that holds the newest snapshot and nothing else for long.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{SnapshotFile, SnapshotWriter, write::remove};
use crate::SnapshotError;

const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = ".unfinished";

/// Keeps the newest snapshot.
#[derive(Debug)]
pub struct SnapshotFolder {
    path: PathBuf,
    newest: Mutex<Option<(u64, SnapshotFile)>>,
    counter: AtomicU64,
}

impl SnapshotFolder {
    /// Opens the folder, making it if needed, removes what was left unfinished, and finds the
    /// newest snapshot. Its contents are checked when they are read.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |doing| move |source| SnapshotError::Io { doing, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed("create"))?;
        let mut found = Vec::new();
        for item in fs::read_dir(path).map_err(failed("list"))? {
            let name = item.map_err(failed("list"))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(UNFINISHED) {
                remove(&path.join(name));
            } else if let Some(index) = name.strip_suffix(SUFFIX).and_then(|index| index.parse::<u64>().ok()) {
                found.push((index, path.join(name)));
            }
        }
        found.sort();
        let newest = match found.pop() {
            Some((index, file)) => Some((index, SnapshotFile::open(&file)?)),
            None => None,
        };
        for (_, older) in found {
            remove(&older);
        }
        Ok(Self { path: path.to_owned(), newest: Mutex::new(newest), counter: AtomicU64::new(0) })
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Option<SnapshotFile> {
        self.newest.lock().as_ref().map(|(_, file)| file.clone())
    }

    /// Begins to write a snapshot of the state at `index`, described by `meta`.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn write(&self, index: u64, meta: &[u8]) -> Result<SnapshotWriter, SnapshotError> {
        SnapshotWriter::create(self.unfinished("written"), index, meta)
    }

    /// Makes what was written the newest snapshot, durably, unless a newer one came meanwhile.
    /// Returns the newest.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn finish(&self, writer: SnapshotWriter) -> Result<SnapshotFile, SnapshotError> {
        let (path, index) = writer.seal()?;
        self.publish(&path, index)
    }

    /// Begins to receive a snapshot file from elsewhere.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn receive(&self) -> Result<Incoming, SnapshotError> {
        let path = self.unfinished("received");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|source| SnapshotError::Io { doing: "create", path: path.clone(), source })?;
        Ok(Incoming { path, file: Some(file), kept: false })
    }

    /// Makes a received and verified file the newest snapshot, durably, unless a newer one came
    /// meanwhile. Returns the newest.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn adopt(&self, mut incoming: Incoming, index: u64) -> Result<SnapshotFile, SnapshotError> {
        incoming.kept = true;
        self.publish(&incoming.path, index)
    }

    fn publish(&self, from: &Path, index: u64) -> Result<SnapshotFile, SnapshotError> {
        let mut newest = self.newest.lock();
        if let Some((kept, file)) = newest.as_ref()
            && *kept > index
        {
            remove(from);
            return Ok(file.clone());
        }
        let to = self.path.join(format!("{index:020}{SUFFIX}"));
        let failed = |doing| {
            let path = to.clone();
            move |source| SnapshotError::Io { doing, path, source }
        };
        fs::rename(from, &to).map_err(failed("rename to"))?;
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))?;
        let file = SnapshotFile::open(&to)?;
        if let Some((_, older)) = newest.replace((index, file.clone()))
            && older.path() != to
        {
            remove(older.path());
        }
        Ok(file)
    }

    fn unfinished(&self, how: &str) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{how}-{number}{UNFINISHED}"))
    }
}

/// A snapshot file on its way in. Removed when dropped before it was adopted.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    file: Option<File>,
    kept: bool,
}

impl Incoming {
    /// Appends bytes of the file.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let Some(file) = self.file.as_mut() else {
            let source = io::Error::other("bytes after the end");
            return Err(SnapshotError::Io { doing: "write", path: self.path.clone(), source });
        };
        file.write_all(bytes).map_err(|source| SnapshotError::Io { doing: "write", path: self.path.clone(), source })
    }

    /// Ends and syncs the file and checks every byte of it.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn verify(&mut self) -> Result<SnapshotFile, SnapshotError> {
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(|source| SnapshotError::Io { doing: "sync", path: self.path.clone(), source })?;
        }
        let file = SnapshotFile::open(&self.path)?;
        file.verify()?;
        Ok(file)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.path);
        }
    }
}
