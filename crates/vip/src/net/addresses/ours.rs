//! The file that says which addresses on this machine's interfaces Ballast has put there.
//!
//! An address is written here, and synced, before the kernel is asked to add it, so that after a
//! crash at any moment everything of ours can be found and taken away, and nothing else. It is one of
//! three witnesses (see `known`), and the only one on kernels that mark no addresses. Addresses
//! do not survive a reboot, and somebody may configure one statically before Ballast starts again,
//! so the file names the boot under which it was written and counts for nothing under another.
//!
//! The daemon writes it, and root does (`ballastd leave`), so it belongs to whoever has the folder.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, fchown},
    path::{Path, PathBuf},
};

use super::VipAddress;

const FORMAT: &str = "ballast-vip-addresses 1";

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum OursError {
    /// The disk said no.
    #[error("{doing} {path}")]
    Disk {
        /// What we were doing.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not what this version writes.
    #[error(
        "{path} line {line} is not understood; look at `ip address` for VIPs left on the interfaces, remove them, and delete the file"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// Addresses of ours, in memory and on disk.
#[derive(Debug)]
pub struct OursFile {
    path: PathBuf,
    boot: String,
    addresses: BTreeSet<VipAddress>,
    /// Of these, what may not be on disk: it was adopted since, or the disk failed when it was to be taken out.
    unwritten: BTreeSet<VipAddress>,
}

impl OursFile {
    /// Reads the file; a missing one is empty, one of another boot too.
    ///
    /// # Errors
    /// [`OursError`]: nothing was changed.
    pub fn open(path: &Path, boot: &str) -> Result<Self, OursError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(OursError::Disk { doing: "read", path: path.to_owned(), source }),
        };
        let addresses = parse(&text, boot).map_err(|line| OursError::Format { path: path.to_owned(), line })?;
        Ok(Self { path: path.to_owned(), boot: boot.to_owned(), addresses, unwritten: BTreeSet::new() })
    }

    /// What is ours.
    pub fn addresses(&self) -> &BTreeSet<VipAddress> {
        &self.addresses
    }

    /// Whether an address is ours on the disk, too.
    pub fn is_written(&self, address: &VipAddress) -> bool {
        self.addresses.contains(address) && !self.unwritten.contains(address)
    }

    /// Adds what was found on an interface and is ours, in memory: it is ours whatever the disk says. The next
    /// [`OursFile::set`] writes it down.
    pub fn adopt(&mut self, found: BTreeSet<VipAddress>) {
        let fresh: BTreeSet<_> = found.difference(&self.addresses).cloned().collect();
        self.unwritten.extend(fresh.iter().cloned());
        self.addresses.extend(fresh);
    }

    /// Replaces the whole, on disk first.
    ///
    /// # Errors
    /// [`OursError::Disk`]: memory is as before, the disk has the old or the new.
    pub fn set(&mut self, addresses: BTreeSet<VipAddress>) -> Result<(), OursError> {
        if !self.unwritten.is_empty() || addresses != self.addresses {
            if let Err(source) = self.write(&addresses) {
                self.unwritten.extend(self.addresses.difference(&addresses).cloned());
                return Err(OursError::Disk { doing: "write", path: self.path.clone(), source });
            }
            self.addresses = addresses;
            self.unwritten.clear();
        }
        Ok(())
    }

    fn write(&self, addresses: &BTreeSet<VipAddress>) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = match File::create(&fresh) {
            // Another user began to write.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::remove_file(&fresh)?;
                File::create(&fresh)?
            }
            // Where there is no folder, there is no record, which names nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound && addresses.is_empty() => return Ok(()),
            created => created?,
        };
        self.give_to_owner(&file)?;
        file.write_all(render(addresses, &self.boot).as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        // The rename is on disk only when the folder is.
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn give_to_owner(&self, file: &File) -> io::Result<()> {
        let Some(folder) = self.path.parent() else { return Ok(()) };
        let owner = fs::metadata(folder)?;
        if file.metadata()?.uid() != owner.uid() {
            // Only root can. Whoever cannot has what it wrote, and nobody else may want it.
            let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
        }
        Ok(())
    }
}

fn render(addresses: &BTreeSet<VipAddress>, boot: &str) -> String {
    let mut text = format!("{FORMAT} {boot}\n");
    for VipAddress { interface, address, prefix } in addresses {
        text.push_str(&format!("{interface} {address}/{prefix}\n"));
    }
    text
}

/// The addresses, or the number of the line that is not understood.
fn parse(text: &str, boot: &str) -> Result<BTreeSet<VipAddress>, usize> {
    let mut lines = text.lines();
    let Some(head) = lines.next() else { return Ok(BTreeSet::new()) };
    let written_under = head.strip_prefix(FORMAT).and_then(|rest| rest.strip_prefix(' ')).ok_or(1_usize)?;
    let addresses = lines.enumerate().map(|(at, line)| parse_line(line).ok_or(at + 2));
    let addresses = addresses.collect::<Result<BTreeSet<_>, _>>()?;
    Ok(if written_under == boot { addresses } else { BTreeSet::new() })
}

fn parse_line(line: &str) -> Option<VipAddress> {
    // A name of an interface may contain anything but a slash and white space.
    let (interface, address) = line.split_once(' ')?;
    let (address, prefix) = address.split_once('/')?;
    Some(VipAddress { interface: interface.to_owned(), address: address.parse().ok()?, prefix: prefix.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn some() -> BTreeSet<VipAddress> {
        let on = |address: &str| VipAddress::host("eth0.5", address.parse().expect("an address"));
        [on("10.0.0.5"), on("2001:db8::5")].into()
    }

    #[test]
    fn what_is_written_is_read_back_under_the_same_boot_only() {
        let text = render(&some(), "b1");
        assert_eq!(text, "ballast-vip-addresses 1 b1\neth0.5 10.0.0.5/32\neth0.5 2001:db8::5/128\n");
        assert_eq!(parse(&text, "b1"), Ok(some()));
        assert_eq!(parse(&text, "b2"), Ok(BTreeSet::new()));
        assert_eq!(parse("", "b1"), Ok(BTreeSet::new()));
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        assert_eq!(parse("something else\n", "b1"), Err(1));
        for line in ["eth0", "eth0 10.0.0.5", "eth0 10.0.0.500/32", "eth0 10.0.0.5/x"] {
            assert_eq!(parse(&format!("{FORMAT} b1\neth0 10.0.0.4/32\n{line}\n"), "b1"), Err(3), "{line}");
        }
    }

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("vip-addresses");
        let mut ours = OursFile::open(&path, "b1").expect("nothing there yet");
        ours.set(some()).expect("writable");
        assert_eq!(OursFile::open(&path, "b1").expect("readable").addresses(), &some());
        ours.set(BTreeSet::new()).expect("writable");
        assert!(OursFile::open(&path, "b1").expect("readable").addresses().is_empty());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn nothing_needs_no_folder_and_something_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut ours = OursFile::open(&folder.path().join("gone/vip-addresses"), "b1").expect("nothing there");
        ours.set(some()).expect_err("it would not be on record");
        ours.adopt(some());
        ours.set(BTreeSet::new()).expect("nothing to be written");
    }

    #[test]
    fn what_root_writes_is_for_whoever_has_the_folder() {
        const OWNER: u32 = 54_321;
        let folder = tempfile::tempdir().expect("a folder");
        if chown(folder.path(), Some(OWNER), Some(OWNER)).is_err() {
            println!("skipped: only root can give a folder away");
            return;
        }
        let (path, fresh) = (folder.path().join("vip-addresses"), folder.path().join("vip-addresses.new"));
        OursFile::open(&path, "b1").expect("nothing there yet").set(some()).expect("writable");
        let written = fs::metadata(&path).expect("it is there");
        assert_eq!((written.uid(), written.gid()), (OWNER, OWNER));

        // Root ended while it wrote another one.
        fs::write(&fresh, "half").expect("written");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).expect("restricted");
        let as_owner = || {
            // SAFETY: takes numbers only, and concerns the calling thread alone, as the C library's own function does not.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, u32::MAX, OWNER, u32::MAX) }, 0);
            if let Err(error) = fs::read_dir(folder.path()) {
                println!("skipped: the way to the folder is for root alone: {error}");
                return;
            }
            let mut ours = OursFile::open(&path, "b1").expect("readable");
            assert_eq!(ours.addresses(), &some());
            ours.set(BTreeSet::new()).expect("writable");
            assert!(OursFile::open(&path, "b1").expect("readable").addresses().is_empty());
        };
        std::thread::scope(|scope| scope.spawn(as_owner).join()).expect("no panic");
    }
}
