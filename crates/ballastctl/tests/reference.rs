//! The reference pages are what the command line says.

use std::{collections::BTreeSet, fs, path::Path};

const WRITE_THEM: &str = "write them: cargo run --release -p ballastctl --example generate_cli_reference";

#[test]
fn reference_pages_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli");
    let pages = ballastctl::reference::pages();
    for (name, text) in &pages {
        let stored = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(&stored == text, "docs/cli/{name} is not what the command line says; {WRITE_THEM}");
    }
    let wanted: BTreeSet<_> = pages.into_iter().map(|(name, _)| name).collect();
    let there: BTreeSet<_> = fs::read_dir(folder)
        .expect("docs/cli")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, wanted, "docs/cli has pages of commands that are gone; {WRITE_THEM}");
}
