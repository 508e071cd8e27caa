//! A few seeds hold, and a seed is always the same run.

use std::process::Command;

fn sim(arguments: &[&str]) -> (bool, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the program starts");
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    (done.status.success(), format!("{output}{}", String::from_utf8_lossy(&done.stderr)))
}

#[test]
fn a_few_seeds_hold() {
    let (held, output) = sim(&["run", "--seeds", "12", "--from", "100"]);
    assert!(held, "{output}");
}

#[test]
fn a_seed_is_always_the_same_run() {
    for seed in ["4", "5", "6"] {
        let runs = [(); 2].map(|()| sim(&["replay", "--trace", seed]));
        let [(_, first), (_, second)] = &runs;
        let differ = first.lines().zip(second.lines()).find(|(first, second)| first != second);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!(first, second, "seed {seed}");
        assert!(first.contains(" digest "), "{first}");
    }
}
