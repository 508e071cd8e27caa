//! Texts that nobody should send: refused, in time, without a panic.

use proptest::prelude::*;

use super::super::*;

#[test]
fn too_big_too_deep_too_many() {
    let problem = |text: &str| parse(text).expect_err("hostile").iter().next().expect("one").problem.clone();
    assert!(problem(&"#".repeat((4 << 20) + 1)).contains("more than the 4194304 that are read"));
    assert!(
        problem(&format!("a: {}", "[".repeat(200))).contains("nested deeper"),
        "{}",
        problem(&format!("a: {}", "[".repeat(200)))
    );
    let deep: String = (0..200).map(|depth| format!("{:depth$}a:\n", "")).collect();
    assert!(problem(&deep).contains("nested deeper"));
    let mut bomb = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("b{level}: &a{level} [{aliases}]\n"));
    }
    assert!(problem(&bomb).contains("too much") || problem(&bomb).contains("more than"), "{}", problem(&bomb));
    let fat = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(10_000));
    assert!(problem(&fat).contains("too much"));
    assert!(problem("a: &a [*a]\n").contains("inside of what it stands for"));
}

#[test]
fn many_mistakes_are_counted_and_not_all_kept() {
    let text: String = (0..300_000).map(|n| format!("k{n}: 1\n")).collect();
    let mistakes = parse(&text).expect_err("nothing is known");
    assert_eq!(mistakes.iter().count(), 200);
    assert!(mistakes.omitted() >= 1000);
    let text = "a: 1\n".repeat(300_000);
    assert!(parse(&text).expect_err("the same again and again").omitted() >= 1000);
}

#[test]
fn json_escapes_are_understood() {
    let text = |body: &str| {
        format!(
            r#"{{"version":1,"farms":[{{"name":"f","listeners":[{{"name":"l","address":"0.0.0.0","port":80}}],"fallback":{{"body":"{body}"}}}}]}}"#
        )
    };
    for body in [r"\ud83d\ude00 \u00e9 \/ \n \\ud83d \b\f", r"\u0041\u0042", r"\\\ud83d\ude00", "\u{1f600}"] {
        let ours = parse(&text(body)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let theirs: Document = serde_json::from_str(&text(body)).expect("JSON");
        assert_eq!(ours, theirs);
    }
    assert!(parse(&text(r"\ud83d")).is_err(), "half of a pair");
    assert!(parse(&text(r"\ude00\ud83d")).is_err(), "the wrong way round");
}

#[test]
fn anchors_are_fine_in_moderation() {
    let text = super::SHOP
        .replace("health: { http", "health: &health { http")
        .replace("backends: [{ name: api1", "health: *health\n        backends: [{ name: api1");
    // The alias stands before the anchor there, which is not YAML.
    assert!(parse(&text).is_err());
    let text = super::SHOP
        .replace("weight: 100 }", "weight: &w 100 }")
        .replacen("&w 100 }", "*w }", 2)
        .replacen("*w }", "&w 100 }", 1);
    assert_eq!(parse(&text).expect("an alias after its anchor"), parse(super::SHOP).expect("right"));
}

/// A place in a text, and what is done to it.
fn mutation() -> impl Strategy<Value = (prop::sample::Index, usize, String)> {
    let junk = prop_oneof![
        Just(String::new()),
        "[ \\-:,{}\\[\\]\"'#&*!|>%@`\n\t]{1,4}",
        "[a-z0-9_.:/]{1,8}",
        "\\PC{1,3}",
        Just("\n  - ".to_owned()),
        Just("99999999999999999999999".to_owned()),
        Just("null".to_owned()),
    ];
    (any::<prop::sample::Index>(), 0..12_usize, junk)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_does_not_panic(text in "\\PC{0,200}|[ \\-:,{}\\[\\]\"'#&*!|>%@`a-c0-9\n\t\r]{0,200}") {
        let _ = parse(&text);
        let _ = decode_canonical(&text);
    }

    #[test]
    fn damaged_documents_are_refused_or_right(which in 0..7_usize, damage in prop::collection::vec(mutation(), 1..4)) {
        let examples = super::examples();
        let mut text = examples[which % examples.len()].1.clone();
        for (at, cut, junk) in damage {
            let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
            if places.is_empty() {
                continue;
            }
            let first = at.index(places.len());
            let end = places.get(first + cut).copied().unwrap_or(text.len());
            text.replace_range(places[first]..end, &junk);
        }
        match parse(&text) {
            Ok(document) => {
                prop_assert_eq!(decode_canonical(&document.to_canonical_json()), Ok(document.clone()));
                let yaml = to_yaml(&document);
                prop_assert_eq!(parse(&yaml), Ok(document), "{}", yaml);
            }
            Err(mistakes) => {
                for mistake in &mistakes {
                    prop_assert!(mistake.line > 0, "no place: {}", mistake);
                    prop_assert!(!mistake.problem.is_empty());
                }
            }
        }
    }
}
