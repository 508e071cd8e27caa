//! Writes the configuration reference and its JSON Schema from the types.
//!
//! `cargo run --release -p ballast-core --example generate_reference`. A test of the crate fails
//! when the tracked files are not what this writes.

use std::{fs, io, path::Path};

use ballast_core::config::{reference, schema};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("configuration.md"), reference::markdown())?;
    let mut schema = serde_json::to_string_pretty(&schema::json_schema())?;
    schema.push('\n');
    fs::write(folder.join("ballast.schema.json"), schema)
}
