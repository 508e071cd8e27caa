use super::*;

fn span(from: u64, until: u64) -> Span {
    Span::new(RunTime::from_millis(from), RunTime::from_millis(until))
}

pub(super) fn run() -> Timeline {
    let fault = |kind: &str, from, until| Fault {
        kind: kind.to_owned(),
        detail: String::from("node 1"),
        span: span(from, until),
    };
    let owned = |from, until, node: &str| (span(from, until), node.to_owned());
    let latency = |second: u64| Latency {
        at: RunTime::from_millis(second * 1000 + 500),
        median_ms: 0.8 + (second % 5) as f64 / 10.0,
        p99_ms: if second % 20 == 10 { 300.0 } else { 4.0 + (second % 3) as f64 },
        max_ms: if second % 20 == 10 { 900.0 } else { 12.0 },
    };
    Timeline {
        title: String::from("halves & <kills>"),
        seed: 4711,
        end: RunTime::from_millis(60_000),
        faults: vec![fault("kill", 10_000, 12_000), fault("halves", 30_000, 45_000), fault("kill", 50_000, 51_000)],
        owners: BTreeMap::from([
            (String::from("10.0.0.5"), vec![owned(0, 10_000, "node 1"), owned(10_180, 60_000, "node 2")]),
            (String::from("10.0.0.6"), vec![owned(0, 31_000, "node 3"), owned(30_500, 60_000, "node 1")]),
        ]),
        leaders: vec![owned(0, 10_000, "node 1"), owned(10_600, 60_000, "node 3")],
        successes: (0..60).map(|second| 900 + second % 7 * 10 - if second % 20 == 10 { 500 } else { 0 }).collect(),
        errors: (0..60).map(|second| if second % 20 == 10 { 35 } else { 0 }).collect(),
        latencies: (0..60).map(latency).collect(),
    }
}

/// Tags are closed in order, and text holds nothing that would be taken for a tag.
#[track_caller]
fn well_formed(svg: &str) {
    let mut open = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a tag that ends");
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name)),
            (false, false) => open.push(name),
            (false, true) => {}
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert_eq!(open, Vec::<&str>::new());
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "a number that is none");
}

#[test]
fn it_shows_everything() {
    let svg = draw(&run());
    well_formed(&svg);
    for text in [
        "halves &amp; &lt;kills&gt; (seed 4711)",
        "owner of 10.0.0.5",
        "leader",
        "latency",
        "100 ms",
        "60 s",
        "35 errors",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    assert_eq!(svg.matches("TWO OWNERS: node 3 and node 1, 30.500000 s .. 31.000000 s").count(), 1);
}

#[test]
fn the_same_run_is_the_same_picture() {
    assert_eq!(draw(&run()), draw(&run()));
}

#[test]
fn little_is_drawn_too() {
    well_formed(&draw(&Timeline::default()));
    let zero = Latency { at: RunTime::START, median_ms: 0.0, p99_ms: 0.0, max_ms: 0.0 };
    well_formed(&draw(&Timeline { latencies: vec![zero], errors: vec![0], successes: vec![0], ..run() }));
    well_formed(&draw(&Timeline { title: String::from("\u{1}\"]]>&\u{ffff}"), ..Timeline::default() }));
    let beyond =
        Fault { kind: String::from("k"), detail: String::new(), span: Span::new(RunTime::START, RunTime::NEVER) };
    well_formed(&draw(&Timeline { faults: vec![beyond], ..run() }));
}
