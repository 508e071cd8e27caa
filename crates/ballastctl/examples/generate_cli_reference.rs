//! Writes `docs/cli` from the command line itself.

use std::{fs, path::Path};

fn main() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli");
    fs::create_dir_all(&folder)?;
    for (name, text) in ballastctl::reference::pages() {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
