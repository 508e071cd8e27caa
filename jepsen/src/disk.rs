//! Disks that are slow, full, that fail, and that lose what was not synced when the power goes.
//!
//! Daemons run with `preload/disk.c` before their `fsync` and `write`. It does what a file beside their configuration says, and notes how
//! much of each file a sync has made safe. When a node loses its power, whatever lies behind that is cut off, in the middle
//! of a record as likely as not.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use crate::plan::Random;

const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/disk.so"));
/// A kernel writes back by itself what is older (`vm.dirty_expire_centisecs`).
const WRITTEN_BACK_AFTER: Duration = Duration::from_secs(30);
/// Device, inode, birth and size.
const RECORD_BYTES: usize = 32;

/// What a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It works.
    Work,
    /// Syncs come late.
    Late(Duration),
    /// Syncs fail with EIO.
    Fail,
    /// Nothing more can be written: ENOSPC.
    Full,
}

/// Writes the library to a folder, and returns its path for `LD_PRELOAD`.
///
/// # Errors
/// When it cannot be written.
pub fn install(folder: &Path) -> Result<String> {
    let file = folder.join("disk.so");
    fs::write(&file, LIBRARY).with_context(|| format!("write {}", file.display()))?;
    Ok(file.display().to_string())
}

/// Tells the disk of the node in a folder what to do from now on.
///
/// # Errors
/// When its daemon has never run.
pub fn set(node: &Path, mode: Mode) -> Result<()> {
    let (word, millis) = match mode {
        Mode::Work => (0u32, 0),
        Mode::Late(by) => (1, u32::try_from(by.as_millis()).unwrap_or(u32::MAX)),
        Mode::Fail => (2, 0),
        Mode::Full => (3, 0),
    };
    let mut bytes = word.to_ne_bytes().to_vec();
    bytes.extend(millis.to_ne_bytes());
    let file = node.join("disk");
    let mut disk = OpenOptions::new().write(true).open(&file).with_context(|| format!("open {}", file.display()))?;
    Ok(disk.write_all(&bytes)?)
}

/// Takes from the data of a node, whose daemon is dead, what no sync has made safe. Returns how many bytes that was.
///
/// # Errors
/// When a file cannot be read or cut.
pub fn lose_unsynced(node: &Path, random: &mut Random) -> Result<u64> {
    let synced = match fs::read(node.join("synced")) {
        Ok(bytes) => safe(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => HashMap::new(),
        Err(error) => return Err(error).context("read what was synced"),
    };
    let mut lost = 0;
    // A node that was removed has none.
    let mut folders: Vec<PathBuf> = Some(node.join("data")).into_iter().filter(|data| data.exists()).collect();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        // A seed is to cut the same again, in whatever order the file system tells them.
        entries.sort();
        for path in entries {
            let about = fs::symlink_metadata(&path)?;
            if about.is_dir() {
                folders.push(path);
                continue;
            }
            let old = about.modified()?.elapsed().is_ok_and(|age| age > WRITTEN_BACK_AFTER);
            let kept = synced.get(&Identity::of(&about)).copied().unwrap_or(0);
            if !about.is_file() || old || about.len() <= kept {
                continue;
            }
            let end = kept + random.below(about.len() - kept + 1);
            OpenOptions::new().write(true).open(&path).and_then(|file: File| file.set_len(end))?;
            lost += about.len() - end;
        }
    }
    Ok(lost)
}

/// Which file it is. An inode comes back with another one, which was born later.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    /// Since 1970; 0 where the file system does not say.
    born_nanos: u64,
}

impl Identity {
    fn of(about: &Metadata) -> Self {
        let born = about.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let born_nanos = born.map_or(0, |since| since.as_nanos() as u64);
        Self { device: about.dev(), inode: about.ino(), born_nanos }
    }
}

/// The last synced size of each file.
fn safe(records: &[u8]) -> HashMap<Identity, u64> {
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    let size = |record: &[u8]| {
        let [device, inode, born_nanos, size] = [0, 8, 16, 24].map(|at| word(&record[at..at + 8]));
        (Identity { device, inode, born_nanos }, size)
    };
    records.chunks_exact(RECORD_BYTES).map(size).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs a shell with the library, as the daemon of the node in `folder`.
    fn shell(folder: &Path, script: &str) -> std::process::Output {
        let library = install(folder).expect("install");
        let config = folder.join("ballastd.toml");
        // dd syncs as it is told; the shell's own arguments carry the name of the configuration.
        let words = ["-c", script, "sh", "--config"];
        Command::new("sh")
            .args(words)
            .arg(config)
            .current_dir(folder)
            .env("LD_PRELOAD", library)
            .output()
            .expect("run sh")
    }

    #[test]
    fn what_was_not_synced_is_lost_and_what_was_is_kept() {
        let node = tempfile::tempdir().expect("a folder");
        fs::create_dir(node.path().join("data")).expect("a folder");
        // dd is a child with a command line of its own, so it is given the configuration where it ignores it.
        let script = "exec python3 - --config \"$2\" <<'E'
import os
log = os.open('data/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(log, b'a' * 1000)
os.fdatasync(log)
os.write(log, b'b' * 1000)
new = os.open('data/new', os.O_WRONLY | os.O_CREAT)
os.write(new, b'c' * 1000)
E";
        let output = shell(node.path(), script);
        assert!(output.status.success(), "{output:?}");
        let mut lost = 0;
        let mut random = Random(7);
        for _ in 0..50 {
            lost += lose_unsynced(node.path(), &mut random).expect("lose");
        }
        assert!(lost > 0);
        let log = fs::read(node.path().join("data/log")).expect("read");
        assert!(log.len() >= 1000 && log[..1000].iter().all(|byte| *byte == b'a'), "{}", log.len());
        assert!(log.len() < 2000 || fs::read(node.path().join("data/new")).expect("read").len() < 1000);
    }

    #[test]
    fn what_was_synced_of_a_file_keeps_nothing_of_a_later_one_with_its_inode() {
        let node = tempfile::tempdir().expect("a folder");
        fs::create_dir(node.path().join("data")).expect("a folder");
        let file = node.path().join("data/snapshot");
        fs::write(&file, [b'a'; 1000]).expect("write");
        let now = Identity::of(&fs::metadata(&file).expect("about it"));
        let mut random = Random(7);
        let mut lost = |born_nanos: u64| {
            let record = [now.device, now.inode, born_nanos, 1000].map(u64::to_ne_bytes).concat();
            fs::write(node.path().join("synced"), record).expect("write");
            let mut lose = || {
                fs::write(&file, [b'a'; 1000]).expect("write");
                lose_unsynced(node.path(), &mut random).expect("lose")
            };
            (0..50).map(|_| lose()).sum::<u64>()
        };
        assert_eq!(lost(now.born_nanos), 0);
        assert!(lost(now.born_nanos.wrapping_sub(1)) > 0);
    }

    #[test]
    fn a_disk_is_full_when_it_is_told_to_be() {
        let node = tempfile::tempdir().expect("a folder");
        let script = "exec python3 - --config \"$2\" <<'E'
import os, errno
file = os.open('file', os.O_WRONLY | os.O_CREAT)
assert os.write(file, b'a') == 1
os.fsync(file)
open('disk', 'r+b').write(b'\\x03\\0\\0\\0\\0\\0\\0\\0')
for full in [lambda: os.write(file, b'a'), lambda: os.pwrite(file, b'a', 0), lambda: os.writev(file, [b'a'])]:
    try:
        full()
    except OSError as error:
        assert error.errno == errno.ENOSPC
    else:
        raise SystemExit('it worked')
print('a pipe is no file')
E";
        let output = shell(node.path(), script);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"a pipe is no file\n");
    }

    #[test]
    fn a_disk_fails_when_it_is_told_to() {
        let node = tempfile::tempdir().expect("a folder");
        let script = "exec python3 - --config \"$2\" <<'E'
import os, errno
file = os.open('file', os.O_WRONLY | os.O_CREAT)
os.fsync(file)
open('disk', 'r+b').write(b'\\x02\\0\\0\\0\\0\\0\\0\\0')
try:
    os.fsync(file)
except OSError as error:
    assert error.errno == errno.EIO
else:
    raise SystemExit('it worked')
E";
        let output = shell(node.path(), script);
        assert!(output.status.success(), "{output:?}");
    }
}
