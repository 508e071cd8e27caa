//! The log keeps what it acknowledged and refuses what is damaged.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
};

use tempfile::TempDir;

use super::*;

fn open(path: &Path) -> Result<Log, OpenError> {
    Log::open(path, LogOptions { write_buffer_bytes: 4 << 20 })
}

fn payload(index: u64) -> Vec<u8> {
    index.to_le_bytes().repeat(16)
}

/// Appends and waits until the entries are durable.
fn append(log: &Log, range: Range<u64>) {
    let (sender, receiver) = mpsc::channel();
    log.append(
        range.map(|index| (index, payload(index))),
        Box::new(move |synced| sender.send(synced).expect("waiting")),
    )
    .expect("append");
    receiver.recv().expect("called back").expect("synced");
}

fn indexes(log: &Log) -> Vec<u64> {
    log.read(0..u64::MAX, usize::MAX).expect("read").into_iter().map(|(index, _)| index).collect()
}

/// The write-ahead log file that recovery would read, with its length without preallocation.
fn wal(path: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(path.join("rocksdb"))
        .expect("list")
        .map(|item| item.expect("item").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
        .collect();
    files.sort();
    files.pop().expect("a write-ahead log")
}

/// Leaves a folder as a killed process leaves it: copies the files while the log is open.
fn crashed_copy(path: &Path) -> TempDir {
    let copy = TempDir::new().expect("temp");
    fs::create_dir(copy.path().join("rocksdb")).expect("mkdir");
    for folder in ["", "rocksdb"] {
        for item in fs::read_dir(path.join(folder)).expect("list") {
            let item = item.expect("item");
            if item.file_type().expect("type").is_file() {
                fs::copy(item.path(), copy.path().join(folder).join(item.file_name())).expect("copy");
            }
        }
    }
    copy
}

#[test]
fn entries_and_slots_survive_a_crash_once_acknowledged() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    append(&log, 1..101);
    let (sender, receiver) = mpsc::channel();
    log.put(Slot::Vote, b"a vote", Some(Box::new(move |synced| sender.send(synced).expect("waiting")))).expect("put");
    receiver.recv().expect("called back").expect("synced");

    let copy = crashed_copy(temp.path());
    let log = open(copy.path()).expect("reopen");
    assert_eq!(indexes(&log), (1..101).collect::<Vec<_>>());
    assert_eq!(log.get(Slot::Vote).expect("get").as_deref(), Some(b"a vote".as_slice()));
    assert_eq!(log.get(Slot::Committed).expect("get"), None);
    assert_eq!(log.last().expect("last").map(|(index, bytes)| (index, bytes.to_vec())), Some((100, payload(100))));
}

#[test]
fn entries_can_be_read_before_they_are_durable_and_reads_are_bounded() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    log.append((1..11).map(|index| (index, payload(index))), Box::new(|_| ())).expect("append");
    assert_eq!(log.read(3..6, usize::MAX).expect("read").len(), 3);
    let two = log.read(3..9, 129).expect("read");
    assert_eq!(two.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(log.read(3..9, 0).expect("read").len(), 1, "never none when there is one");
    assert_eq!(two[0].1.as_ref(), payload(3));
    assert!(log.read(11..20, 100).expect("read").is_empty());
}

#[test]
fn truncation_and_purge_leave_no_hole_and_survive_reopening() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    append(&log, 1..301);
    log.truncate_from(201).expect("truncate");
    append(&log, 201..211);
    log.purge_to(150, b"purged at 150").expect("purge");
    assert_eq!(indexes(&log), (151..211).collect::<Vec<_>>());
    drop(log);

    let log = open(temp.path()).expect("reopen");
    assert_eq!(indexes(&log), (151..211).collect::<Vec<_>>());
    assert_eq!(log.get(Slot::Purged).expect("get").as_deref(), Some(b"purged at 150".as_slice()));
    log.purge_to(500, b"beyond the end").expect("purge");
    assert_eq!(log.last().expect("last"), None);
    append(&log, 501..502);
    assert_eq!(indexes(&log), [501]);
}

#[test]
fn a_purge_takes_no_file_away_before_its_record_is_durable() {
    let temp = TempDir::new().expect("temp");
    let tables = |path: &Path| {
        let items = fs::read_dir(path.join("rocksdb")).expect("list").map(|item| item.expect("item").path());
        items.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).count()
    };
    let log = open(temp.path()).expect("open");
    let bytes = |index: u64| index.to_le_bytes().repeat(1024);
    for part in 0..4 {
        log.append((part * 100 + 1..part * 100 + 101).map(|index| (index, bytes(index))), Box::new(|_| ()))
            .expect("append");
        let (from, to) = ((part * 100 + 1).to_be_bytes(), (part * 100 + 100).to_be_bytes());
        // A table file of its own, below the first level, where files can be taken away.
        log.db.flush_cf(log.entries()).expect("flush");
        log.db.compact_range_cf(log.entries(), Some(from), Some(to));
    }
    append(&log, 401..402);
    let before = tables(temp.path());
    log.purge_to(250, b"purged at 250").expect("purge");

    let crashed = open(crashed_copy(temp.path()).path()).expect("reopen");
    match crashed.get(Slot::Purged).expect("get") {
        None => assert_eq!(indexes(&crashed), (1..402).collect::<Vec<_>>()),
        Some(purged) => {
            assert_eq!(purged.as_ref(), b"purged at 250");
            assert_eq!(indexes(&crashed), (251..402).collect::<Vec<_>>());
        }
    }
    // What the first purge left, the second takes, as the first is on disk.
    append(&log, 402..403);
    log.purge_to(260, b"purged at 260").expect("purge");
    assert!(tables(temp.path()) < before, "{before} table files stay");
    assert_eq!(indexes(&log), (261..403).collect::<Vec<_>>());
}

#[test]
fn many_appends_share_few_syncs_and_callbacks_keep_their_order() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    let (sender, receiver) = mpsc::channel();
    for index in 1..2001 {
        let sender = sender.clone();
        log.append([(index, payload(index))], Box::new(move |synced| sender.send((index, synced)).expect("waiting")))
            .expect("append");
    }
    drop(sender);
    let order: Vec<u64> = receiver.iter().map(|(index, synced)| synced.map(|()| index).expect("synced")).collect();
    assert_eq!(order, (1..2001).collect::<Vec<_>>());
    let stats = log.sync_stats();
    assert_eq!(stats.writes, 2000);
    assert!(stats.syncs < 1000, "{stats:?}");
}

#[test]
fn a_torn_record_that_was_never_acknowledged_is_dropped() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    append(&log, 1..11);
    let before = fs::metadata(wal(temp.path())).expect("meta").len();
    let acknowledged = fs::read(temp.path().join("acknowledged")).expect("read");
    append(&log, 11..12);
    let after = fs::metadata(wal(temp.path())).expect("meta").len();

    for length in [before + 1, before + 6, (before + after) / 2, after - 1] {
        let copy = crashed_copy(temp.path());
        // As if the power had failed while record 11 was on its way to the disk.
        fs::write(copy.path().join("acknowledged"), &acknowledged).expect("write");
        fs::OpenOptions::new().write(true).open(wal(copy.path())).and_then(|file| file.set_len(length)).expect("cut");
        let log = open(copy.path()).expect("a torn tail is no reason to refuse");
        assert_eq!(indexes(&log), (1..11).collect::<Vec<_>>(), "cut at {length} of {after}");
        append(&log, 11..13);
    }
}

#[test]
fn a_record_that_was_acknowledged_must_not_be_missing() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    append(&log, 1..11);
    let copy = crashed_copy(temp.path());
    let file = wal(copy.path());
    let length = fs::metadata(&file).expect("meta").len();
    fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(length - 1)).expect("cut");
    let error = open(copy.path()).expect_err("acknowledged writes are gone");
    assert!(matches!(error, OpenError::Lost { .. }), "{error}");
    assert!(error.to_string().contains("join it again"), "{error}");
}

#[test]
fn a_flipped_bit_anywhere_in_the_write_ahead_log_is_refused() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    for index in 1..31 {
        append(&log, index..index + 1);
    }
    let length = fs::metadata(wal(temp.path())).expect("meta").len();
    for part in 0..24 {
        let at = usize::try_from(length * part / 24).expect("small");
        let copy = crashed_copy(temp.path());
        let file = wal(copy.path());
        let mut bytes = fs::read(&file).expect("read");
        bytes[at] ^= 1 << (part % 8);
        fs::write(&file, bytes).expect("write");
        let error = open(copy.path()).map(|log| indexes(&log)).expect_err("damaged");
        assert!(matches!(error, OpenError::Damaged { .. } | OpenError::Lost { .. }), "byte {at}: {error}");
        assert!(error.to_string().contains("ballastctl node remove"), "{error}");
    }
}

#[test]
fn a_flipped_bit_in_a_table_file_is_refused() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    append(&log, 1..501);
    drop(log);
    // Recovery writes what it found to a table file.
    drop(open(temp.path()).expect("reopen"));
    let table = fs::read_dir(temp.path().join("rocksdb"))
        .expect("list")
        .map(|item| item.expect("item").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
        .expect("a table file");
    let mut bytes = fs::read(&table).expect("read");
    let at = bytes.len() / 3;
    bytes[at] ^= 16;
    fs::write(&table, bytes).expect("write");
    let error = open(temp.path()).expect_err("damaged");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_name_of_a_file_that_is_not_there_is_damage() {
    let temp = TempDir::new().expect("temp");
    drop(open(temp.path()).expect("open"));
    let current = temp.path().join("rocksdb/CURRENT");
    let mut bytes = fs::read(&current).expect("read");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&current, bytes).expect("write");
    let error = open(temp.path()).expect_err("damaged");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("ballastctl node remove"), "{error}");
}

#[test]
fn a_write_that_damage_prevents_says_that_the_node_must_join_again() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    append(&log, 1..2001);
    drop(log);
    // Recovery writes what it found to a table file; then most of it is purged, where nobody reads any more.
    let log = open(temp.path()).expect("reopen");
    log.purge_to(1990, b"purged").expect("purge");
    append(&log, 2001..2002);
    drop(log);
    let table = fs::read_dir(temp.path().join("rocksdb"))
        .expect("list")
        .map(|item| item.expect("item").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
        .expect("a table file");
    let mut bytes = fs::read(&table).expect("read");
    let at = bytes.len() / 3;
    bytes[at] ^= 16;
    fs::write(&table, bytes).expect("write");
    let log = open(temp.path()).expect("nothing that is read is damaged");
    // What RocksDB does by itself sooner or later.
    log.db.compact_range_cf(&log.entries(), None::<&[u8]>, None::<&[u8]>);
    let write = || log.append([(2002, payload(2002))], Box::new(|_| {}));
    let error = write().or_else(|_| write()).expect_err("damaged");
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("ballastctl node remove"), "{error}");
}

#[test]
fn a_second_process_is_told_that_the_log_is_in_use() {
    let temp = TempDir::new().expect("temp");
    let _log = open(temp.path()).expect("open");
    let error = open(temp.path()).expect_err("in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

#[test]
fn a_folder_that_cannot_be_used_is_not_in_use_whatever_its_name() {
    let temp = TempDir::new().expect("temp");
    let folder = temp.path().join("blockstore");
    drop(open(&folder).expect("open"));
    // A folder where a file of the database was.
    let current = folder.join("rocksdb/CURRENT");
    fs::remove_file(&current).expect("remove");
    fs::create_dir(&current).expect("mkdir");
    let error = open(&folder).expect_err("it cannot be read");
    assert!(error.to_string().contains("blockstore") && !matches!(error, OpenError::InUse { .. }), "{error}");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let temp = TempDir::new().expect("temp");
    let log = open(temp.path()).expect("open");
    let mut value = Vec::new();
    record::encode(b"from the future", &mut value);
    value[0] = 200;
    log.db.put_cf(log.slots(), Slot::Identity.key(), &value).expect("put");
    drop(log);
    let error = open(temp.path()).expect_err("newer");
    assert!(matches!(error, OpenError::Version { found: 200, known: 1, .. }), "{error}");
}

mod against_a_model {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(u64),
        Truncate(u64),
        Purge(u64),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (1u64..40).prop_map(Step::Append),
            2 => (0u64..60).prop_map(Step::Truncate),
            2 => (0u64..60).prop_map(Step::Purge),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_history_reads_back_as_the_model_does(steps in prop::collection::vec(step(), 1..25)) {
            let temp = TempDir::new().expect("temp");
            let mut log = open(temp.path()).expect("open");
            let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            let mut next = 1;
            for step in steps {
                match step {
                    Step::Append(count) => {
                        append(&log, next..next + count);
                        model.extend((next..next + count).map(|index| (index, payload(index))));
                        next += count;
                    }
                    Step::Truncate(back) => {
                        let from = next.saturating_sub(back).max(model.keys().next().copied().unwrap_or(next));
                        log.truncate_from(from).expect("truncate");
                        model.split_off(&from);
                        next = from;
                    }
                    Step::Purge(ahead) => {
                        let to = (model.keys().next().copied().unwrap_or(next) + ahead).min(next - 1);
                        log.purge_to(to, b"").expect("purge");
                        model = model.split_off(&(to + 1));
                    }
                    Step::Reopen => {
                        drop(log);
                        log = open(temp.path()).expect("reopen");
                    }
                }
                let read: BTreeMap<u64, Vec<u8>> =
                    log.read(0..u64::MAX, usize::MAX).expect("read").into_iter().map(|(index, bytes)| (index, bytes.to_vec())).collect();
                prop_assert_eq!(&read, &model);
            }
        }
    }
}
