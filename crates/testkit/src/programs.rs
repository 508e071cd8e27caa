//! Where the peers' programs are, and what version they say they are.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program by name: `PATH` first, then where Debian puts daemons.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// [`find`], or a line that says what to do.
pub fn find_or_tell(name: &str, package: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        println!("{name} is not installed and is left out; `apt-get install {package}` brings it.");
    }
    found
}

/// First line of what a program prints (to either stream) when asked for its version.
pub fn version(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.iter().flat_map(|t| t.lines()).map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_tell_their_version() {
        let shell = find("sh").expect("every Unix has a shell");
        assert!(find("no-such-program-anywhere").is_none());
        assert_eq!(version(&shell, "/no/such/script").map(|line| line.is_empty()), Some(false));
    }
}
