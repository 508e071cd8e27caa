//! Snapshots are whole or refused.

use std::{
    cell::Cell,
    fs,
    io::{Read, Write},
};

use tempfile::TempDir;

use super::*;
use crate::SnapshotError;

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn written(folder: &SnapshotFolder, index: u64, bytes: &[u8]) -> SnapshotFile {
    let mut writer = folder.write(index, b"meta").expect("create");
    writer.write_all(bytes).expect("write");
    folder.finish(writer).expect("finish")
}

fn read(file: &SnapshotFile) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    file.reader().map_err(SnapshotError::into_io)?.read_to_end(&mut out)?;
    Ok(out)
}

#[test]
fn what_was_written_is_read_back() {
    for length in [0, 1, SECTION_BYTES - 1, SECTION_BYTES, 3 * SECTION_BYTES + 17] {
        let temp = TempDir::new().expect("temp");
        let folder = SnapshotFolder::open(temp.path()).expect("open");
        let file = written(&folder, 7, &data(length));
        assert_eq!(file.meta().as_ref(), b"meta");
        assert_eq!(read(&file).expect("read"), data(length), "{length} bytes");
        let again = SnapshotFolder::open(temp.path()).expect("reopen").newest().expect("kept");
        assert_eq!(read(&again).expect("read"), data(length));
    }
}

#[test]
fn only_the_newest_is_kept_and_an_older_one_never_replaces_it() {
    let temp = TempDir::new().expect("temp");
    let folder = SnapshotFolder::open(temp.path()).expect("open");
    let first = written(&folder, 5, b"five");
    written(&folder, 9, b"nine");
    assert_eq!(read(&first).expect("an open file stays readable"), b"five");
    let newest = written(&folder, 6, b"six");
    assert_eq!(read(&newest).expect("read"), b"nine");
    let names: Vec<_> = fs::read_dir(temp.path()).expect("list").map(|item| item.expect("item").file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_writer_that_is_dropped_or_killed_leaves_no_snapshot() {
    let temp = TempDir::new().expect("temp");
    let folder = SnapshotFolder::open(temp.path()).expect("open");
    let mut writer = folder.write(3, b"").expect("create");
    writer.write_all(b"half").expect("write");
    drop(writer);
    fs::write(temp.path().join("written-0.unfinished"), b"left by a crash").expect("write");
    let folder = SnapshotFolder::open(temp.path()).expect("reopen");
    assert!(folder.newest().is_none());
    assert_eq!(fs::read_dir(temp.path()).expect("list").count(), 0);
}

#[test]
fn any_flipped_bit_and_any_cut_is_found() {
    let temp = TempDir::new().expect("temp");
    let folder = SnapshotFolder::open(temp.path()).expect("open");
    let file = written(&folder, 1, &data(2000));
    let path = file.path().to_owned();
    let good = fs::read(&path).expect("read");
    for at in (0..good.len()).step_by(7).chain(good.len() - 40..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).expect("write");
        let outcome = SnapshotFile::open(&path).and_then(|file| file.verify());
        assert!(outcome.is_err(), "bit flipped at {at} was not found");
        fs::write(&path, &good[..at]).expect("write");
        let outcome = SnapshotFile::open(&path).and_then(|file| file.verify());
        assert!(matches!(outcome, Err(SnapshotError::Damaged { .. })), "cut at {at} was not found");
    }
    fs::write(&path, [good.as_slice(), b"more"].concat()).expect("write");
    assert!(SnapshotFile::open(&path).and_then(|file| file.verify()).is_err());
}

#[test]
fn reading_damaged_data_fails_before_its_end_is_told() {
    let temp = TempDir::new().expect("temp");
    let folder = SnapshotFolder::open(temp.path()).expect("open");
    let file = written(&folder, 1, &data(3 * SECTION_BYTES));
    let mut bytes = fs::read(file.path()).expect("read");
    let at = bytes.len() - 100;
    bytes[at] ^= 4;
    fs::write(file.path(), bytes).expect("write");
    let error = read(&SnapshotFile::open(file.path()).expect("its beginning is fine")).expect_err("damaged");
    assert!(error.to_string().contains("is damaged"), "{error}");
    assert!(error.to_string().contains("join it again"), "{error}");
}

#[test]
fn a_rotten_file_is_known_where_it_is_kept_until_one_at_the_same_index_replaces_it() {
    let temp = TempDir::new().expect("temp");
    let folder = SnapshotFolder::open(temp.path()).expect("open");
    let file = written(&folder, 3, &data(2000));
    file.verify().expect("as written");
    let mut bytes = fs::read(file.path()).expect("read");
    bytes[1000] ^= 4;
    fs::write(file.path(), bytes).expect("write");
    assert!(!file.is_rotten(), "nobody has looked");
    file.verify().expect_err("damaged");
    assert!(folder.newest().is_some_and(|newest| newest.is_rotten()));
    written(&folder, 3, &data(2000));
    let newest = folder.newest().expect("kept");
    newest.verify().expect("as written");
    assert!(!newest.is_rotten() && file.is_rotten());
    assert_eq!(read(&newest).expect("read"), data(2000));
}

#[test]
fn a_file_that_nobody_wants_verified_any_more_is_read_no_further_and_not_rotten() {
    let temp = TempDir::new().expect("temp");
    let folder = SnapshotFolder::open(temp.path()).expect("open");
    let file = written(&folder, 3, &data(3 * SECTION_BYTES));
    let left = Cell::new(0_u32);
    let verify = |sections| {
        left.set(sections);
        // The description, three sections of data, the end.
        file.verify_while(|| left.replace(left.get().saturating_sub(1)) > 0)
    };
    assert!(!verify(4).expect("as written"));
    assert!(verify(5).expect("as written"));
    let mut bytes = fs::read(file.path()).expect("read");
    *bytes.last_mut().expect("not empty") ^= 4;
    fs::write(file.path(), bytes).expect("write");
    assert!(!verify(4).expect("nobody looked at its end") && !file.is_rotten());
    verify(5).expect_err("damaged");
    assert!(file.is_rotten());
}

#[test]
fn another_format_is_refused_by_name() {
    let temp = TempDir::new().expect("temp");
    let folder = SnapshotFolder::open(temp.path()).expect("open");
    let file = written(&folder, 1, b"x");
    let mut bytes = fs::read(file.path()).expect("read");
    bytes[MAGIC.len()] = 9;
    fs::write(file.path(), bytes).expect("write");
    let error = SnapshotFolder::open(temp.path()).expect_err("newer format");
    assert!(matches!(error, SnapshotError::Version { found: 9, known: FORMAT, .. }), "{error}");
}

#[test]
fn a_received_file_is_checked_before_it_is_adopted() {
    let (here, there) = (TempDir::new().expect("temp"), TempDir::new().expect("temp"));
    let sender = written(&SnapshotFolder::open(here.path()).expect("open"), 12, &data(5000));
    let folder = SnapshotFolder::open(there.path()).expect("open");

    let mut cut = folder.receive().expect("create");
    cut.write(&sender.read_at(0, 100).expect("read")).expect("write");
    assert!(matches!(cut.verify(), Err(SnapshotError::Damaged { .. })));
    drop(cut);

    let mut whole = folder.receive().expect("create");
    let mut offset = 0;
    while offset < sender.size() {
        let chunk = sender.read_at(offset, 999).expect("read");
        offset += chunk.len() as u64;
        whole.write(&chunk).expect("write");
    }
    whole.verify().expect("whole");
    let adopted = folder.adopt(whole, 12).expect("adopt");
    assert_eq!(read(&adopted).expect("read"), data(5000));
    assert_eq!(fs::read_dir(there.path()).expect("list").count(), 1);
}
