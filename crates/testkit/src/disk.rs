//! Small disks for one test: to be filled, and to be made read-only while a node writes to them.
//!
//! They are mounted where only the test and the processes it starts see them, and are gone with the
//! last of these, whatever becomes of the test. That takes root; without, the test is skipped and
//! says so.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail, ensure};

/// Runs `test` on a thread of its own whose mounts nobody else sees. Processes that it starts see
/// them as well. Where that is not allowed, says so and returns `Ok` without running it.
///
/// # Errors
/// What `test` returns.
///
/// # Panics
/// When `test` does.
pub fn with_own_mounts(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| {
        let body = scope.spawn(|| {
            if let Err(error) = leave_mounts() {
                println!("skipped: a disk of its own takes root and CAP_SYS_ADMIN: {error}");
                return Ok(());
            }
            test()
        });
        body.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn leave_mounts() -> io::Result<()> {
    // SAFETY: unshare(2) takes no pointers and concerns the calling thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the strings end in NUL and live through the call; source, type and data may be null for these flags.
    let made_private = unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    };
    if made_private != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A mounted disk. Unmounted when dropped, also while files on it are open.
pub struct Disk {
    path: PathBuf,
    image: Option<PathBuf>,
}

impl Disk {
    /// Mounts so many MiB of memory on a folder, making it if need be. Call it within [`with_own_mounts`].
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn of_memory(path: &Path, mebibytes: u32) -> Result<Self> {
        fs::create_dir_all(path)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(path))?;
        Ok(Self { path: path.to_owned(), image: None })
    }

    /// Mounts an ext4 file system that goes read-only at the first error, as system disks do. `None`, with
    /// the reason printed, where there are no loop devices or no `mkfs.ext4`.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn of_file(path: &Path, mebibytes: u64) -> Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let image = path.with_extension("img");
        File::create(&image)?.set_len(mebibytes << 20)?;
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(&image))
            .and_then(|()| run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(&image).arg(path)));
        match made {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), image: Some(image) })),
            Err(error) => {
                println!("skipped: no disk that can be made to fail: {error:#}");
                Ok(None)
            }
        }
    }

    /// Takes all space that is left with a file, until that is removed by [`Disk::make_room`].
    ///
    /// # Errors
    /// When something else than the space stops it.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler())?;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0xaa; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    /// Lets the kernel find an error in the file system, upon which it makes it read-only, open files included.
    ///
    /// # Errors
    /// When this is no disk of a file, or the kernel does not know how.
    pub fn fail(&self) -> Result<()> {
        ensure!(self.image.is_some(), "only a disk of a file can fail");
        let mounts = fs::read_to_string("/proc/thread-self/mounts")?;
        let device = mounts
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, rest)| rest.split(' ').next() == self.path.to_str())
            .and_then(|(device, _)| device.strip_prefix("/dev/"))
            .with_context(|| format!("{} is not mounted", self.path.display()))?;
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "a test wants it read-only")?;
        Ok(())
    }

    /// Repairs the file system and mounts it again. No process may use it.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn repair(&self) -> Result<()> {
        let image = self.image.as_ref().context("only a disk of a file can be repaired")?;
        run(Command::new("umount").arg(&self.path))?;
        // 1 means that something was corrected, which is what was wanted.
        let status = Command::new("fsck.ext4").args(["-p"]).arg(image).output()?;
        ensure!(status.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&status.stdout));
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(image).arg(&self.path))
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
