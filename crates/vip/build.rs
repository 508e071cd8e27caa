//! Compiles the fence's kernel programs (`bpf/fence.bpf.c`) into an object that the crate embeds.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=bpf/fence.bpf.c");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let object = PathBuf::from(env::var("OUT_DIR").expect("set by cargo")).join("fence.bpf.o");
    let var = |name: &str| env::var(name).expect("set by cargo");
    let target = if var("CARGO_CFG_TARGET_ENDIAN") == "big" { "bpfeb" } else { "bpfel" };
    // Debian keeps asm/types.h, which linux/bpf.h includes, in the folder of the architecture.
    let headers = format!("/usr/include/{}-linux-gnu", var("CARGO_CFG_TARGET_ARCH"));
    // -g: the loader reads the maps from the type information.
    let status = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-target", target, "-I", &headers])
        .args(["-c", "bpf/fence.bpf.c", "-o"])
        .arg(&object)
        .status();
    let remedy = "clang with the bpf target is needed: apt-get install clang linux-libc-dev (or run scripts/setup.sh)";
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile bpf/fence.bpf.c ({status}); {remedy}"),
        Err(error) => panic!("cannot run {clang} to compile bpf/fence.bpf.c: {error}; {remedy}"),
    }
}
