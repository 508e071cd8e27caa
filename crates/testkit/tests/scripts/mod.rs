//! What scripts of `deploy/` and `scripts/` do, among programs that stand in for an engine and the like.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{read, root};

/// A checkout with some of our files, and with programs of its own that come first in PATH.
struct Checkout(TempDir);

impl Checkout {
    fn with(files: &[&str]) -> Self {
        let checkout = Self(tempfile::tempdir().expect("a folder"));
        for file in files {
            let here = checkout.path(file);
            fs::create_dir_all(here.parent().expect("a folder")).expect("made");
            symlink(root().canonicalize().expect("the root").join(file), here).expect("linked");
        }
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Puts a program there. A process of its own writes it: one that another test starts would have a file of ours open for
    /// a moment, and the kernel runs no program that is open for writing.
    fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 0755 \"$1\"";
        let status = Command::new("sh").args(["-c", write, "sh"]).arg(path).arg(script).status();
        assert!(status.expect("sh").success(), "{name}");
    }

    /// Runs a command of bash there: whether it went well, and what it said.
    fn run(&self, command: &str) -> (bool, String) {
        let path = env::var_os("PATH").expect("PATH");
        let path = env::join_paths([self.path("bin")].into_iter().chain(env::split_paths(&path))).expect("a PATH");
        let mut shell = Command::new("bash");
        shell.args(["-c", command]).current_dir(self.path("")).env("PATH", path);
        for variable in ["DOCKER", "DOCKER_HOST", "BALLAST_IMAGE"] {
            shell.env_remove(variable);
        }
        said(&mut shell)
    }
}

fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

/// The base that suits a system whose `os-release` says this.
fn base_of(release: &Path) -> String {
    let script = root().join("deploy/base-image.sh");
    let (done, said) = said(Command::new("bash").arg(script).arg("--name").arg(release));
    assert!(done, "{said}");
    said.trim_end().to_owned()
}

#[test]
fn the_base_of_an_image_is_of_the_release_that_its_programs_were_built_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |release: &str, expected: &str| {
        let file = folder.path().join("os-release");
        fs::write(&file, release).expect("written");
        assert_eq!(base_of(&file), expected, "{release}");
    };
    check("ID=debian\nVERSION_CODENAME=bookworm\n", "debian:bookworm-slim");
    check("NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=trixie\nID=debian\n", "debian:trixie-slim");
    check("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n", "ubuntu:noble");
    check("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=wilma\n", "debian:bookworm-slim");
    check("ID=\"fedora\"\nVERSION_ID=42\n", "debian:bookworm-slim");
    check("ID=debian\n", "debian:bookworm-slim");
    assert_eq!(base_of(&folder.path().join("nowhere")), "debian:bookworm-slim");
}

/// An engine that has every image, and on whose images programs run unless there is a file `old`.
const ENGINE: &str = "echo \"$*\" >>asked
case $1 in
run) [ ! -e old ] || { echo \"version 'GLIBC_2.38' not found\" >&2; exit 1; } ;;
image) echo 1000000 ;;
esac";

/// A checkout in which everything is built, and that can make an image of it.
fn built() -> Checkout {
    let checkout = Checkout::with(&["deploy/image.sh", "deploy/base-image.sh", "Cargo.toml"]);
    checkout.program("bin/docker", ENGINE);
    checkout.program("bin/strip", "cp \"$3\" \"$2\"");
    for program in ["ballastd", "ballastctl", "ballast-shop"] {
        checkout.program(&format!("target/release/{program}"), &format!("# {program}"));
    }
    checkout
}

#[test]
fn an_image_whose_programs_do_not_run_is_not_kept_and_says_what_to_do() {
    let checkout = built();
    let base = base_of(Path::new("/etc/os-release"));
    let (done, said) = checkout.run("deploy/image.sh");
    assert!(done && said.contains("ballast:local is 1 MB"), "{said}");
    let asked = checkout.read("asked");
    assert!(asked.contains(&format!("image inspect {base}\n")), "{asked}");
    assert!(asked.contains(&format!(" --build-arg BASE={base} ")), "{asked}");
    assert!(!asked.contains("image rm"), "{asked}");
    fs::write(checkout.path("old"), "").expect("written");
    let (done, said) = checkout.run("deploy/image.sh");
    assert!(!done, "{said}");
    for part in [&*base, "GLIBC_2.38", "docker build -f deploy/Dockerfile --target source -t ballast:local ."] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(checkout.read("asked").ends_with("image rm ballast:local\n"));
}

#[test]
fn an_image_has_whole_programs_of_the_folder_that_was_named() {
    let checkout = built();
    let taken = || checkout.read("target/image/ballastd");
    // What an earlier run left there, interrupted or with another folder, is newer than what was built.
    fs::create_dir_all(checkout.path("target/image")).expect("made");
    fs::write(checkout.path("target/image/ballastd"), "half").expect("written");
    assert!(checkout.run("deploy/image.sh").0);
    assert_eq!(taken(), checkout.read("target/release/ballastd"));
    checkout.program("bin/strip", "echo half >\"$2\"; exit 1");
    assert!(!checkout.run("deploy/image.sh").0);
    assert_eq!(taken(), checkout.read("target/release/ballastd"));
}

/// A function of a script, from its name to its end.
fn function(script: &str, name: &str) -> String {
    let text = read(script);
    let head = format!("{name}() {{");
    let found = text.lines().skip_while(|line| !line.starts_with(&head));
    let mut lines = Vec::new();
    for line in found {
        lines.push(line);
        if line == "}" || (lines.len() == 1 && line.ends_with('}')) {
            return lines.join("\n");
        }
    }
    panic!("{script} has no {name}");
}

/// `chroot` is everywhere, and beside what administrators run.
#[test]
fn what_is_not_in_the_path_of_ordinary_users_is_not_missing() {
    let checkout = Checkout::with(&[]);
    let need = function("scripts/setup.sh", "need");
    let missing = format!("{need}\nmissing=() PATH=/nonexistent\nneed chroot coreutils\nneed no-such-program nothing");
    let (done, said) = checkout.run(&format!("{missing}\necho \"${{missing[*]}}\""));
    assert!(done && said == "nothing\n", "{said}");
}

/// Where PATH has a program.
fn found(program: &str) -> PathBuf {
    let path = env::var_os("PATH").expect("PATH");
    let mut places = env::split_paths(&path).map(|folder| folder.join(program));
    places.find(|place| place.is_file()).unwrap_or_else(|| panic!("there is no {program}"))
}

#[test]
fn rocksdb_is_in_one_folder_whether_or_not_a_compiler_was_there_before() {
    // Which folder it is made in, and which cargo is told of.
    let folders = |there: bool| {
        let checkout = Checkout::with(&["Makefile", "Cargo.lock"]);
        let compiler = if there { "bin/c++" } else { "package/c++" };
        checkout.program(compiler, "echo 12");
        checkout.program("scripts/setup.sh", "[ -e bin/c++ ] || mv package/c++ bin/c++");
        checkout.program("scripts/rocksdb.sh", "echo \"$1\" >>folders");
        checkout.program("bin/cargo", "echo \"$ROCKSDB_LIB_DIR\" >>folders");
        for program in ["mv", "sed", "uname"] {
            symlink(found(program), checkout.path("bin").join(program)).expect("linked");
        }
        // Without the compiler of this machine, and without what a make around this test passes on.
        let mut make = Command::new(found("make"));
        make.arg("build").current_dir(checkout.path("")).env_clear().env("PATH", checkout.path("bin"));
        let (done, said) = said(make.env("BALLAST_CACHE", "/cache"));
        assert!(done, "{said}");
        checkout.read("folders").lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let known = folders(true);
    assert!(known[0].starts_with("/cache/rocksdb-") && known[0].ends_with("-12"), "{known:?}");
    assert_eq!(known, [known[0].clone(), known[0].clone()]);
    assert_eq!(folders(false), known);
}

#[test]
fn a_purge_empties_what_it_may_not_remove() {
    let checkout = Checkout::with(&[]);
    let folders = ["/var/lib/ballast", "/var/log/ballast", "/etc/ballast"];
    let mut script = read("deploy/debian/postrm");
    for folder in folders {
        let here = checkout.path(&folder[1..]);
        fs::create_dir_all(here.join("log/.hidden")).expect("made");
        fs::write(here.join("node.json"), "").expect("written");
        script = script.replace(folder, here.to_str().expect("UTF-8"));
    }
    // Folders of this machine are not purged by a test.
    let elsewhere = |word: &&str| word.starts_with('/') && !Path::new(word).starts_with(checkout.path(""));
    assert_eq!(script.split([' ', '"', '\n']).find(elsewhere), None);
    checkout.program("bin/mountpoint", "case $2 in */var/lib/ballast) ;; *) exit 1 ;; esac");
    fs::write(checkout.path("postrm"), script).expect("written");
    let (done, said) = checkout.run("sh postrm purge");
    assert!(done && said.is_empty(), "{said}");
    let [data, others @ ..] = folders.map(|folder| checkout.path(&folder[1..]));
    assert_eq!(fs::read_dir(data).expect("it is there").count(), 0);
    assert!(others.iter().all(|folder| !folder.exists()));
}

#[test]
fn what_others_put_into_iptables_meanwhile_outlives_the_engine() {
    let checkout = Checkout::with(&[]);
    let ours = "*nat
:PREROUTING ACCEPT [12:720]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE
-A DOCKER -i br-1 -j RETURN
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:guests - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -i br-0123456789ab ! -o br-0123456789ab -j ACCEPT
-A FORWARD -i eth1 -j guests
-A FORWARD -i br-lan -j guests
-A DOCKER-USER -j RETURN
-A guests -p tcp --dport 22 -m comment --comment \"not DOCKER\" -j DROP
COMMIT";
    checkout.program("bin/iptables-save", &format!("cat <<'END'\n{ours}\nEND"));
    checkout.program("bin/iptables-restore", "cat >restored");
    let remove = function("deploy/compose-lib.sh", "remove_chains");
    let (done, said) = checkout.run(&format!("{remove}\nremove_chains"));
    assert!(done, "{said}");
    let kept = "*nat
:PREROUTING ACCEPT [12:720]
-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:guests - [0:0]
-A FORWARD -i eth1 -j guests
-A FORWARD -i br-lan -j guests
-A guests -p tcp --dport 22 -m comment --comment \"not DOCKER\" -j DROP
COMMIT
";
    assert_eq!(checkout.read("restored"), kept);
}
