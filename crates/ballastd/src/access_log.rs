//! Where access log lines go, by `log.access` of `ballastd.toml`, and how a file is changed for a new one.
//!
//! Log rotation renames the file and sends SIGHUP: what is written from then on is in a new file of the old name. Until
//! that can be opened the old one takes everything, so that no line is lost.
//!
//! Not here: lines, and the thread that writes them (`ballast_proxy`).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
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
            AccessLog::To(Box::new(LogFile { path, file, reopen, is_amid: false }))
        }
    })
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

struct LogFile {
    path: PathBuf,
    file: File,
    reopen: Reopen,
    /// Some of what is to be in one file was written.
    is_amid: bool,
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_amid && self.reopen.take() {
            match append_to(&self.path) {
                Ok(file) => {
                    self.file = file;
                    tracing::info!(path = %self.path.display(), "the access log was opened anew");
                }
                Err(error) => tracing::error!(
                    path = %self.path.display(), %error,
                    "the access log cannot be opened anew; lines go on into the old file; mend that and send SIGHUP again"
                ),
            }
        }
        self.is_amid = true;
        self.file.write(bytes)
    }

    /// The end of what is to be in one file: the writer calls it after whole lines.
    fn flush(&mut self) -> io::Result<()> {
        self.is_amid = false;
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
