//! Compiles every `.proto` below `proto/` without `protoc`, and writes the module tree that
//! `lib.rs` includes, so that a new package needs no edit here.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");

    let mut files = Vec::new();
    find(root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let set = compiler.file_descriptor_set();
    // Reflection does without comments; leaving them out keeps the binary small.
    compiler.include_source_info(false);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut messages = tonic_prost_build::Config::new();
    messages.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure()
        .out_dir(&out)
        .include_file("modules.rs")
        .btree_map(".")
        // Entries pass from stream to log to stream without being copied.
        .bytes(".ballast.cluster.v1")
        .compile_fds_with_config(set, messages)?;
    Ok(())
}

/// Collects the `.proto` files below `folder`.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
