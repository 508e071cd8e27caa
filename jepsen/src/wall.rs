//! Wall clocks that are wrong.
//!
//! The kernel has one wall clock for all; so daemons run with `preload/clock.c` before their `clock_gettime`, which adds what a
//! file beside their configuration says.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use ballast_testkit::kernel;

const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clock.so"));

/// How a wall clock is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// By so many milliseconds.
    pub ahead_ms: i64,
    /// And from now on by so many parts in a million of the time that passes.
    pub fast_ppm: i64,
}

/// Writes the library to a folder, and returns its path for `LD_PRELOAD`.
///
/// # Errors
/// When it cannot be written.
pub fn install(folder: &Path) -> Result<String> {
    let file = folder.join("clock.so");
    fs::write(&file, LIBRARY).with_context(|| format!("write {}", file.display()))?;
    Ok(file.display().to_string())
}

/// Sets the wall clock of the node in a folder. The default is right.
///
/// # Errors
/// When its daemon has never run.
pub fn set(node: &Path, wrong: Wrong) -> Result<()> {
    let since = i64::try_from(kernel::now_nanos())?;
    let words = [wrong.ahead_ms.saturating_mul(1_000_000), wrong.fast_ppm, since];
    let bytes: Vec<u8> = words.into_iter().flat_map(i64::to_ne_bytes).collect();
    let file = node.join("clock");
    let mut clock = OpenOptions::new().write(true).open(&file).with_context(|| format!("open {}", file.display()))?;
    Ok(clock.write_all(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What a process sees of the clocks of the node in `folder`: by how many seconds the wall clock is ahead, how long a wait of
    /// 50 ms until an instant of the wall clock takes, and by how much the monotonic clock differs from this process's.
    fn seen(folder: &Path) -> (f64, f64, f64) {
        // Its own line names no configuration, so the parent's clock is the kernel's.
        let script = "import time, threading, ctypes
began = time.monotonic()
wall = time.time()
libc = ctypes.CDLL(None)
class Time(ctypes.Structure):
    _fields_ = [('s', ctypes.c_long), ('n', ctypes.c_long)]
mutex, condition = (ctypes.c_long * 8)(), (ctypes.c_long * 8)()
until = wall + 0.05
libc.pthread_mutex_lock(mutex)
libc.pthread_cond_timedwait(condition, mutex, ctypes.byref(Time(int(until), int(until % 1 * 1e9))))
print(wall, time.monotonic() - began, began)";
        let mut command = Command::new("python3");
        command.args(["-c", script, "--config"]).arg(folder.join("ballastd.toml"));
        command.env("LD_PRELOAD", install(folder).expect("install"));
        let before = (kernel::wall_nanos() as f64 / 1e9, kernel::now_nanos() as f64 / 1e9);
        let output = command.output().expect("run python3");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<f64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        (numbers[0] - before.0, numbers[1], numbers[2] - before.1)
    }

    #[test]
    fn the_wall_clock_is_wrong_as_it_is_told_and_no_other_clock_is() {
        let node = tempfile::tempdir().expect("a folder");
        for hours in [0, 1, -1] {
            if hours != 0 {
                set(node.path(), Wrong { ahead_ms: hours * 3_600_000, fast_ppm: 0 }).expect("set");
            }
            let (ahead, waited, other) = seen(node.path());
            assert!((0.0..20.0).contains(&(ahead - hours as f64 * 3600.0)), "{ahead} s ahead");
            assert!((0.049..20.0).contains(&waited), "waited {waited} s");
            assert!((0.0..20.0).contains(&other), "{other} s");
        }
    }
}
