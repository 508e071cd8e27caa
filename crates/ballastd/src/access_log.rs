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

use crate::room::Reserve;

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

/// The access log that is named. A file that is on the disk of `data_dir` leaves room there.
///
/// # Errors
/// The file cannot be opened.
pub fn open(target: &str, data_dir: &Path, reopen: Reopen) -> Result<AccessLog> {
    Ok(match target {
        "" => AccessLog::Off,
        "-" => AccessLog::To(Box::new(io::stdout())),
        path => {
            let path = PathBuf::from(path);
            let file = append_to(&path).with_context(|| {
                format!("cannot write the access log {}; correct log.access in ballastd.toml", path.display())
            })?;
            let is_torn = is_torn(&path).unwrap_or(false);
            let reserve = Reserve::of(data_dir);
            AccessLog::To(Box::new(LogFile { path, file, reopen, reserve, is_amid: false, is_torn }))
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
    reserve: Reserve,
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
            self.reserve.check(&self.file)?;
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
    use std::{sync::atomic::AtomicU64, time::Duration};

    use super::*;
    use crate::room::Room;

    /// A folder on no disk that a test writes to.
    const ELSEWHERE: &str = "/proc";

    fn opened(path: &Path, reopen: &Reopen) -> Box<dyn Write + Send> {
        let target = path.to_str().expect("UTF-8");
        match open(target, Path::new(ELSEWHERE), reopen.clone()).expect("a file") {
            AccessLog::To(log) => log,
            AccessLog::Off => panic!("it is a file"),
        }
    }

    #[test]
    fn a_renamed_file_gets_the_lines_that_are_begun_and_a_new_one_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let reopen = Reopen::default();
        let mut log = opened(&path, &reopen);
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
        let mut log = opened(&path, &reopen);
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
        let mut log = opened(&path, &reopen);
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
    fn what_the_data_of_the_node_need_is_not_taken_and_a_new_file_is_begun_all_the_same() {
        const RESERVE: u64 = 1 << 30;
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let (reopen, free) = (Reopen::default(), Arc::new(AtomicU64::new(RESERVE)));
        let room = {
            let free = Arc::clone(&free);
            move |_: &File| Ok(Some(Room { free: free.load(Ordering::Relaxed), all: 100 * RESERVE }))
        };
        let reserve = Reserve::new(Duration::ZERO, room);
        let file = append_to(&path).expect("a file");
        let mut log =
            LogFile { path: path.clone(), file, reopen: reopen.clone(), reserve, is_amid: false, is_torn: false };
        let mut write = |block: &[u8]| log.write_all(block).and(log.flush()).map_err(|error| error.kind());
        assert_eq!(write(b"one\n"), Ok(()));
        free.store(RESERVE - 1, Ordering::Relaxed);
        assert_eq!(write(b"two\n"), Err(io::ErrorKind::StorageFull));
        fs::rename(&path, &old).expect("renamed");
        reopen.ask();
        assert_eq!(write(b"three\n"), Err(io::ErrorKind::StorageFull));
        free.store(2 * RESERVE, Ordering::Relaxed);
        assert_eq!(write(b"four\n"), Ok(()));
        assert_eq!(fs::read_to_string(&old).expect("there"), "one\n");
        assert_eq!(fs::read_to_string(&path).expect("there"), "four\n");
    }

    #[test]
    fn nothing_is_lost_where_no_new_file_can_be_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let reopen = Reopen::default();
        let mut log = opened(&path, &reopen);
        fs::rename(&path, &old).expect("renamed");
        fs::create_dir(&path).expect("something else is in the way");
        reopen.ask();
        log.write_all(b"one\n").expect("written");
        log.flush().expect("flushed");
        assert_eq!(fs::read_to_string(&old).expect("there"), "one\n");
    }
}
