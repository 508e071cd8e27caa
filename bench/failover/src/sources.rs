//! The sources of what is measured, as one word that differs when they do.
//!
//! Repetitions that take hours are collected over several runs, and commits come in between. Figures of two builds in one row
//! would be those of neither; but most commits touch documents or tests, and the programs stay what they were. So
//! repetitions belong together when the same sources were compiled: those in the folder now, committed or not.
//!
//! Not here: whether programs were made anew from them, which `make bench-failover` sees to; versions of other programs
//! (`ballast_testkit::machine`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// What is compiled into `ballastd`, `ballastctl` and this program, and what decides how.
const MEASURED: [&str; 4] = ["crates", "bench/failover", "Cargo.toml", "Cargo.lock"];
/// Begins the tests in a file beside what they test. Nothing comes after them: `clippy::items_after_test_module`.
const TESTS: &str = "\n#[cfg(test)]\nmod tests {";

/// Digest of the sources in the checkout that this program comes from.
///
/// # Errors
/// When they are not there any more.
pub fn digest() -> Result<String> {
    digest_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
}

fn digest_of(checkout: &Path) -> Result<String> {
    let mut files = Vec::new();
    for place in MEASURED {
        collect(checkout, Path::new(place), &mut files)?;
    }
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in &files {
        let content = fs::read(checkout.join(file)).with_context(|| format!("read {}", file.display()))?;
        // Lengths keep what one file ends with from being what the next one begins with.
        for part in [&*file.to_string_lossy(), compiled(&String::from_utf8_lossy(&content))] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// Files at or below a place, named as seen from the checkout.
fn collect(checkout: &Path, place: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !is_compiled(place) {
        return Ok(());
    }
    let there = checkout.join(place);
    let told = || format!("look for sources in {}", there.display());
    if !there.is_dir() {
        files.push(place.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&there).with_context(told)? {
        collect(checkout, &place.join(entry.with_context(told)?.file_name()), files)?;
    }
    Ok(())
}

/// Whether a file or folder may have a part in the programs; documents, tests, examples and what editors leave have none.
fn is_compiled(place: &Path) -> bool {
    let name = place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    !["tests", "tests.rs", "examples", "benches"].contains(&name.as_str())
        && !name.ends_with(".md")
        && !name.ends_with('~')
        && !name.starts_with('.')
}

/// A file without its tests.
fn compiled(text: &str) -> &str {
    text.find(TESTS).map_or(text, |at| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_tests_are_not_measured() {
        for place in ["crates/core/src/lib.rs", "crates/core/build.rs", "crates/vip/bpf/fence.bpf.c", "Cargo.lock"] {
            assert!(is_compiled(Path::new(place)), "{place}");
        }
        let others = [
            "crates/vip/tests",
            "crates/core/src/lease/tests",
            "crates/core/src/foo/tests.rs",
            "crates/core/examples",
            "crates/core/README.md",
            "crates/core/src/.lib.rs.swp",
            "crates/core/src/lib.rs~",
        ];
        for place in others {
            assert!(!is_compiled(Path::new(place)), "{place}");
        }
    }

    #[test]
    fn tests_in_a_file_are_left_out() {
        assert_eq!(compiled("fn one() {}\n\n#[cfg(test)]\nmod tests {\n    fn two() {}\n}\n"), "fn one() {}\n");
        let without = "fn one() {}\n\n#[cfg(test)]\nmod tests;\n";
        assert_eq!(compiled(without), without);
    }

    #[test]
    fn a_digest_changes_with_what_is_compiled_only() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let digest = || digest_of(folder.path()).unwrap();
        for name in ["crates/core/src/lib.rs", "bench/failover/src/main.rs", "Cargo.toml", "Cargo.lock"] {
            write(name, name);
        }
        let first = digest();
        assert_eq!(first.len(), 16);
        write("docs/operations.md", "documents");
        write("crates/core/tests/it.rs", "tests");
        write("crates/core/src/lib.rs", "crates/core/src/lib.rs\n#[cfg(test)]\nmod tests {}\n");
        write("bench/src/main.rs", "another program");
        assert_eq!(digest(), first);
        for (name, text) in [("Cargo.lock", "newer"), ("crates/core/src/new.rs", ""), ("crates/a/lib.rs", "a")] {
            let before = digest();
            write(name, text);
            assert_ne!(digest(), before, "{name}");
        }
        fs::remove_file(folder.path().join("Cargo.toml")).unwrap();
        assert!(digest_of(folder.path()).is_err());
    }

    #[test]
    fn this_checkout_has_a_digest() {
        assert_eq!(digest().unwrap(), digest().unwrap());
    }
}
