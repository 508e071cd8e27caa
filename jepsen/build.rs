//! Compiles the disk that can fail (`preload/disk.c`) into a library that the program embeds.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=preload/disk.c");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let library = PathBuf::from(env::var("OUT_DIR").expect("set by cargo")).join("disk.so");
    let status = Command::new(&clang)
        .args(["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "preload/disk.c", "-o"])
        .arg(&library)
        .status();
    let remedy =
        "clang and the C library's headers are needed: apt-get install clang libc6-dev (or run scripts/setup.sh)";
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile preload/disk.c ({status}); {remedy}"),
        Err(error) => panic!("cannot run {clang} to compile preload/disk.c: {error}; {remedy}"),
    }
}
