//! Writing secrets to disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::PkiError;

/// Writes a file that only its owner can read, and replaces an old one in one step: after a crash
/// there is either the old file or the new one, whole and durable.
///
/// # Errors
/// [`PkiError::File`] with the path and the cause.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    replace(path, bytes).map_err(|source| PkiError::File { action: "write", path: path.to_owned(), source })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", uuid::Uuid::new_v4().simple()));
    let scratch = folder.join(name);
    let written = fill(&scratch, bytes).and_then(|()| fs::rename(&scratch, path));
    if written.is_err() {
        // The first error is the one to tell; a scratch file that stays behind harms nobody.
        let _ = fs::remove_file(&scratch);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn fill(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
