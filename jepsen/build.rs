//! Compiles the libraries that stand before daemons (`preload/`), which the program embeds.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=preload");
    println!("cargo::rerun-if-env-changed=CLANG");
    for name in ["disk", "clock"] {
        compile(&format!("preload/{name}.c"), &format!("{name}.so"));
    }
}

fn compile(source: &str, library: &str) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let library = PathBuf::from(env::var("OUT_DIR").expect("set by cargo")).join(library);
    let status =
        Command::new(&clang).args(["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", source, "-o"]).arg(&library).status();
    let remedy =
        "clang and the C library's headers are needed: apt-get install clang libc6-dev (or run scripts/setup.sh)";
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile {source} ({status}); {remedy}"),
        Err(error) => panic!("cannot run {clang} to compile {source}: {error}; {remedy}"),
    }
}
