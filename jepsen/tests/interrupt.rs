//! Whoever interrupts the suite finds the machine as it was, and a report of what had been seen.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ballast_testkit::{cluster, lab::Lab, wait};

/// Far longer than it takes to undo all and to judge what was seen, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A suite at work in a folder of its own.
struct Suite {
    child: Child,
    folder: tempfile::TempDir,
}

impl Suite {
    /// Starts it, and returns when it has printed a line that begins with `until`. `None` where there are no namespaces.
    fn start(arguments: &[&str], environment: &[(&str, &Path)], until: &str) -> Option<Self> {
        drop(Lab::or_skip(1)?);
        let folder = tempfile::tempdir().expect("a folder");
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary).expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
        command.args(arguments).env("TMPDIR", &temporary).envs(environment.iter().copied());
        if arguments[0] != "locks" {
            command.arg("--output").arg(folder.path().join("runs"));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start jepsen");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let found = lines.any(|line| line.expect("text").starts_with(until));
        // The rest is read to its end, so that nothing is kept from being written.
        std::thread::spawn(move || lines.for_each(drop));
        assert!(found, "{until:?} was not said");
        Some(Self { child, folder })
    }

    /// Sends a signal and waits for the end. Nothing may be left. Returns the exit code and the report, if there is one.
    fn interrupt(mut self, signal: &str) -> (Option<i32>, Option<String>) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("run kill");
        assert!(sent.success());
        let status = wait::within(PATIENCE, "the suite to end", || Ok(self.child.try_wait()?)).expect("an end");
        assert_eq!(status.signal(), None, "it was killed by a signal instead of ending by itself");
        let ours = |name: &str| name.contains(&format!("ballast-lab-{pid}-"));
        for place in ["/run/netns", "/sys/fs/cgroup", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified"] {
            assert!(!names(Path::new(place)).iter().any(|name| ours(name)), "remains in {place}");
        }
        assert_eq!(names(&self.folder.path().join("tmp")), Vec::<String>::new(), "temporary files");
        // Whatever it started carries the name of its folder on its command line or in its environment.
        let mark = self.folder.path().display().to_string();
        for process in names(Path::new("/proc")).iter().filter(|name| name.parse::<u32>().is_ok()) {
            let read = |file: &str| fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
            let about = [read("cmdline"), read("environ")].concat();
            assert!(!String::from_utf8_lossy(&about).contains(&mark), "process {process} is left");
        }
        let run = names(&self.folder.path().join("runs")).into_iter().next();
        let report = run.map(|run| self.folder.path().join("runs").join(run).join("report.txt"));
        (status.code(), report.and_then(|file| fs::read_to_string(file).ok()))
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

const RUN: [&str; 5] = ["run", "--seconds", "600", "--nodes", "3"];

#[test]
fn in_the_middle_of_faults_all_is_undone_and_what_was_seen_is_judged() {
    let Some(suite) = Suite::start(&RUN, &[], "Faults begin") else { return };
    let (code, report) = suite.interrupt("-INT");
    assert_eq!(code, Some(130));
    let report = report.expect("a report");
    assert!(report.contains("called off after"), "{report}");
    assert!(!report.contains("VIOLATED"), "{report}");
}

#[test]
fn while_the_cluster_comes_up_all_is_undone() {
    let Some(suite) = Suite::start(&RUN, &[], "Seed") else { return };
    assert_eq!(suite.interrupt("-TERM"), (Some(143), None));
}

#[test]
fn locks_are_undone() {
    let Some(suite) = Suite::start(&["locks", "--rounds", "100"], &[], "Cuts begin") else { return };
    assert_eq!(suite.interrupt("-INT").0, Some(130));
}

#[test]
fn a_run_that_the_selftest_started_ends_with_it() {
    let Ok(bin) = cluster::bin_dir() else { panic!("no ballastd") };
    let bins = tempfile::tempdir().expect("a folder");
    // An ordinary daemon will do: nothing is found in it.
    for (name, of) in [("ballastd-planted", "ballastd"), ("ballastd", "ballastd"), ("ballastctl", "ballastctl")] {
        symlink(bin.join(of).canonicalize().expect("a program"), bins.path().join(name)).expect("a link");
    }
    let environment = [("BALLAST_BIN_DIR", bins.path())];
    let hunt = ["selftest", "--bugs", "unsynced-log"];
    let Some(suite) = Suite::start(&hunt, &environment, "Faults begin") else { return };
    // Only the one is told, as by a supervisor; a terminal tells both.
    assert_eq!(suite.interrupt("-TERM").0, Some(143));
}
