//! Where access log lines go, by `log.access` of `ballastd.toml`, and how a file is changed for a new one.
//!
//! Log rotation renames the file and sends SIGHUP: what is written from then on is in a new file of the old name. Until
//! that can be opened the old one takes everything, so that no line is lost.
//!
//! A disk that is full takes part of a line, at most. Whatever is written after that begins on a line of its own, so that
//! whoever reads the file loses that one and no other.
//!
//! Not here: lines, and the thread that writes them (`ballast_proxy`).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use ballast_proxy::AccessLog;

/// Has the access log opened anew. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Reopen(Arc<AtomicBool>);

impl Reopen {
    /// From the next line on; a node without requests keeps the old file open until one comes.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// The access log that is named.
///
/// # Errors
/// The file cannot be opened.
pub fn open(target: &str, reopen: Reopen) -> Result<AccessLog> {
    Ok(match target {
        "" => AccessLog::Off,
        "-" => AccessLog::To(Box::new(io::stdout())),
        path => {
            let path = PathBuf::from(path);
            let file = append_to(&path).with_context(|| {
                format!("cannot write the access log {}; correct log.access in ballastd.toml", path.display())
            })?;
            let is_torn = is_torn(&path).unwrap_or(false);
            AccessLog::To(Box::new(LogFile { path, file, reopen, is_amid: false, is_torn }))
        }
    })
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether a file ends amid a line, as one on a disk that was full. A pipe never does.
///
/// # Errors
/// It is empty, or cannot be read.
fn is_torn(path: &Path) -> io::Result<bool> {
    if !fs::metadata(path)?.is_file() {
        return Ok(false);
    }
    let (mut file, mut last) = (File::open(path)?, [0]);
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

struct LogFile {
    path: PathBuf,
    file: File,
    reopen: Reopen,
    /// Some of what is to be in one file was written.
    is_amid: bool,
    /// The file ends amid a line.
    is_torn: bool,
}

impl LogFile {
    fn open_anew(&mut self) {
        match append_to(&self.path) {
            Ok(file) => {
                self.file = file;
                self.is_torn = is_torn(&self.path).unwrap_or(false);
                tracing::info!(path = %self.path.display(), "the access log was opened anew");
            }
            Err(error) => tracing::error!(
                path = %self.path.display(), %error,
                "the access log cannot be opened anew; lines go on into the old file; mend that and send SIGHUP again"
            ),
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_amid {
            if self.reopen.take() {
                self.open_anew();
            }
            if self.is_torn {
                self.file.write_all(b"\n")?;
                self.is_torn = false;
            }
        }
        self.is_amid = true;
        let written = self.file.write(bytes)?;
        self.is_torn = !bytes[..written].ends_with(b"\n");
        Ok(written)
    }

    /// The end of what is to be in one file: the writer calls it after whole lines, or what could be written of them.
    fn flush(&mut self) -> io::Result<()> {
        self.is_amid = false;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_file_gets_the_lines_that_are_begun_and_a_new_one_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let reopen = Reopen::default();
        let target = path.to_str().expect("UTF-8");
        let AccessLog::To(mut log) = open(target, reopen.clone()).expect("a file") else { panic!("it is a file") };
        log.write_all(b"one, ").expect("written");
        fs::rename(&path, &old).expect("renamed");
        reopen.ask();
        log.write_all(b"still one\n").expect("written");
        log.flush().expect("flushed");
        log.write_all(b"two\n").expect("written");
        log.flush().expect("flushed");
        assert_eq!(fs::read_to_string(&old).expect("there"), "one, still one\n");
        assert_eq!(fs::read_to_string(&path).expect("there"), "two\n");
    }

    #[test]
    fn a_file_that_takes_nothing_is_changed_for_a_new_one_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let reopen = Reopen::default();
        std::os::unix::fs::symlink("/dev/full", &path).expect("made");
        let target = path.to_str().expect("UTF-8");
        let AccessLog::To(mut log) = open(target, reopen.clone()).expect("a file") else { panic!("it is a file") };
        let refused = log.write(b"one\n").expect_err("the disk is full");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        log.flush().expect("flushed");
        fs::rename(&path, &old).expect("renamed");
        reopen.ask();
        log.write_all(b"two\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("there"), "two\n");
    }

    #[test]
    fn a_line_of_which_the_disk_took_a_part_is_not_continued() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        fs::write(&path, "cut").expect("written");
        let reopen = Reopen::default();
        let target = path.to_str().expect("UTF-8");
        let AccessLog::To(mut log) = open(target, reopen.clone()).expect("a file") else { panic!("it is a file") };
        for block in ["one\n", "cut", "two\n", "three\n", "cut"] {
            log.write_all(block.as_bytes()).expect("written");
            log.flush().expect("flushed");
        }
        // Nobody renamed it.
        reopen.ask();
        log.write_all(b"four\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("there"), "cut\none\ncut\ntwo\nthree\ncut\nfour\n");
    }

    #[test]
    fn nothing_is_lost_where_no_new_file_can_be_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let reopen = Reopen::default();
        let target = path.to_str().expect("UTF-8");
        let AccessLog::To(mut log) = open(target, reopen.clone()).expect("a file") else { panic!("it is a file") };
        fs::rename(&path, &old).expect("renamed");
        fs::create_dir(&path).expect("something else is in the way");
        reopen.ask();
        log.write_all(b"one\n").expect("written");
        log.flush().expect("flushed");
        assert_eq!(fs::read_to_string(&old).expect("there"), "one\n");
    }
}
