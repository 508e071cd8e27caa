//! Room on the disk of the node's data, and how much of it the access log leaves alone.
//!
//! A node whose disk is full ends: it could not keep what it promises. Its VIPs go to the next node, and with them the traffic
//! that filled the disk. So an access log that shares the disk ends before that, and goes on when there is room again.
//!
//! Not here: the access log's file (`access_log`).

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

/// The most that is left alone. Arbitrary: a snapshot and the log since the one before are smaller for most clusters.
const RESERVE_MAX: u64 = 1 << 30;
/// How often it is looked. A hundred thousand requests a second write some 40 MB in that time.
const LOOK: Duration = Duration::from_secs(1);

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What this process can still write.
    pub free: u64,
    /// What there is, used or not.
    pub all: u64,
}

impl Room {
    /// Of the file system that has `path`.
    ///
    /// # Errors
    /// There is no such path, or its disk does not answer.
    pub fn at(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: an all-zero statvfs is a valid one.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: statvfs(2) reads a path that ends in NUL, and fills the one structure that it is given.
        if unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self { free: bytes(found.f_bavail), all: bytes(found.f_blocks) })
    }

    /// Whether the access log has to leave what is free. Once it does, it goes on only when there is a quarter more, so that
    /// it does not end and begin with each thing that the node writes or removes.
    fn is_short(self, already: bool) -> bool {
        let reserve = RESERVE_MAX.min(self.all / 20);
        self.free < if already { reserve + reserve / 4 } else { reserve }
    }
}

/// The room that a file shares with the node's data, if it does.
type Shared = dyn Fn(&File) -> io::Result<Option<Room>> + Send;

/// Looks whether a file may grow.
pub struct Reserve {
    shared: Box<Shared>,
    every: Duration,
    looked: Option<Instant>,
    /// What was free when there was too little of it.
    short: Option<Room>,
}

impl Reserve {
    /// For files that may be on the same file system as `data_dir`.
    pub fn of(data_dir: &Path) -> Self {
        let data_dir = data_dir.to_owned();
        Self::new(LOOK, move |file| {
            let shares = fs::metadata(&data_dir)?.dev() == file.metadata()?.dev();
            shares.then(|| Room::at(&data_dir)).transpose()
        })
    }

    /// With another look, not more often than this.
    pub fn new(every: Duration, shared: impl Fn(&File) -> io::Result<Option<Room>> + Send + 'static) -> Self {
        Self { shared: Box::new(shared), every, looked: None, short: None }
    }

    /// Whether `file` may grow. Where that cannot be found out, it may.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`]: the node's data need what is left.
    pub fn check(&mut self, file: &File) -> io::Result<()> {
        let now = Instant::now();
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= self.every) {
            self.looked = Some(now);
            let room = (self.shared)(file).ok().flatten();
            self.short = room.filter(|room| room.is_short(self.short.is_some()));
        }
        self.short.map_or(Ok(()), |room| {
            let left = format!("only {} MiB are free on the disk of data_dir; the node needs them", room.free >> 20);
            Err(io::Error::new(io::ErrorKind::StorageFull, left))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_gibibyte_is_left_alone_and_of_a_small_disk_a_twentieth() {
        let check = |all: u64, reserve: u64| {
            let short = |free: u64, already| Room { free, all }.is_short(already);
            assert!(short(reserve - 1, false) && !short(reserve, false), "{all}: not at {reserve}");
            let enough = reserve + reserve / 4;
            assert!(short(enough - 1, true) && !short(enough, true), "{all}: not again at {enough}");
        };
        check(1 << 40, 1024 * MIB);
        check(20 << 30, 1024 * MIB);
        check(2000 * MIB, 100 * MIB);
    }

    #[test]
    fn a_disk_says_how_much_room_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = Room::at(folder.path()).expect("it is there");
        assert!(room.free <= room.all && room.all > 0, "{room:?}");
        Room::at(&folder.path().join("nothing")).expect_err("it is not there");
    }

    #[test]
    fn a_file_on_another_disk_may_grow_whatever_the_data_have() {
        let file = File::open("/proc/self/status").expect("a file");
        let mut reserve = Reserve::of(&std::env::temp_dir());
        reserve.check(&file).expect("it shares nothing");
        assert_eq!(reserve.short, None);
        // Nor is one held up that nothing can be said of.
        Reserve::of(Path::new("/nowhere")).check(&file).expect("nobody knows");
    }
}
