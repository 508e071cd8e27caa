//! The configuration as its users meet it: texts in, documents or mistakes out.

mod hostile;
mod mistakes;

use std::{fs, path::PathBuf};

use super::*;

pub(super) const SHOP: &str = include_str!("../../../../../examples/shop.yaml");

pub(crate) fn examples() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut examples: Vec<(String, String)> = fs::read_dir(folder)
        .expect("the repository has examples")
        .map(|entry| entry.expect("a folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("an example can be read")))
        .collect();
    examples.sort();
    examples
}

fn document(text: &str) -> Document {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn examples_parse_and_survive_both_forms() {
    let examples = examples();
    assert!(examples.len() >= 6, "examples are missing");
    for (name, text) in examples {
        let document = parse_many(&[(&name, &text)]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(decode_canonical(&document.to_canonical_json()).as_ref(), Ok(&document), "{name}");
        assert_eq!(parse(&document.to_canonical_json()).as_ref(), Ok(&document), "JSON is YAML: {name}");
        let yaml = to_yaml(&document);
        assert_eq!(parse(&yaml).as_ref(), Ok(&document), "{name}:\n{yaml}");
        assert_eq!(to_yaml(&parse(&yaml).expect("checked above")), yaml, "{name} is written the same again");
    }
}

#[test]
fn yaml_is_written_as_a_person_would() {
    let text =
        to_yaml(&document(&examples().iter().find(|(name, _)| name.ends_with("minimal.yaml")).expect("exists").1));
    let expected = "\
version: 1
farms:
  - name: shop
    listeners:
      - { name: web, address: 0.0.0.0, port: 8080 }
    services:
      - name: site
        backends:
          - { name: web1, address: \"127.0.0.1:9001\" }
          - { name: web2, address: \"127.0.0.1:9002\" }
";
    assert_eq!(text, expected);
}

#[test]
fn files_are_put_together() {
    let vips = "version: 1\nvips: [{ name: public, addresses: [127.0.100.1] }]\n";
    let farm = |name: &str, port: u16| {
        format!(
            "version: 1\nfarms:\n  - name: {name}\n    listeners: [{{ name: web, vip: public, port: {port} }}]\n    fallback: {{}}\n"
        )
    };
    let whole =
        parse_many(&[("vips.yaml", vips), ("a.yaml", &farm("a", 80)), ("b.yaml", &farm("b", 81))]).expect("fits");
    assert_eq!(whole.farms.iter().map(|farm| farm.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);

    let clash = parse_many(&[("vips.yaml", vips), ("a.yaml", &farm("a", 80)), ("b.yaml", &farm("b", 80))]);
    let clash = clash.expect_err("one port twice").to_string();
    assert!(clash.contains("b.yaml:4:") && clash.contains("is taken by listener `web` of farm `a`"), "{clash}");

    let twice = parse_many(&[("a.yaml", "version: 1\ncluster: {}\n"), ("b.yaml", "cluster: { voters: 5 }\n")]);
    let twice = twice.expect_err("cluster twice").to_string();
    assert!(twice.contains("b.yaml:1:1: cluster: `cluster` stands in another file too"), "{twice}");
}

#[test]
fn differences_are_named() {
    let old = document(SHOP);
    assert_eq!(diff(&old, &old), []);
    let text = SHOP
        .replace(
            "{ name: web1, address: \"127.0.0.1:9001\", weight: 100 }",
            "{ name: web3, address: \"127.0.0.1:9004\" }",
        )
        .replace("address: \"127.0.0.1:9002\", weight: 100", "address: \"127.0.0.1:9002\", weight: 50")
        .replace("rise: 2, fall: 3", "rise: 5")
        .replace(
            "table: { key: { learned_cookie: SHOPID }, idle_timeout: 30m, absolute_timeout: 8h, entries_max: 1000000 }",
            "cookie: { ttl: 1h }",
        )
        .replace("    limits: { connections_max: 20000, connections_per_source_max: 200 }\n", "");
    let changes: Vec<String> = diff(&old, &document(&text)).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [
            "~ farms[shop].services[site].persistence: { table: { key: { learned_cookie: SHOPID }, absolute_timeout: 8h } } -> { cookie: { ttl: 1h } }",
            "~ farms[shop].services[site].health.rise: 2 -> 5",
            "+ farms[shop].services[site].backends[web3]: { address: \"127.0.0.1:9004\" }",
            "~ farms[shop].services[site].backends[web2].weight: 100 -> 50",
            "- farms[shop].services[site].backends[web1]: { address: \"127.0.0.1:9001\" }",
            "~ farms[shop].limits.connections_per_source_max: 200 -> 0",
        ]
    );
}

#[test]
fn the_order_of_services_is_a_difference_and_that_of_backends_is_not() {
    let old = document(SHOP);
    let mut new = old.clone();
    new.farms[0].services[1].backends.reverse();
    assert_eq!(diff(&old, &new), []);
    new.farms[0].services.reverse();
    let changes: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["~ farms[shop].services (order): api, site -> site, api"]);
}

#[test]
fn the_reference_is_what_the_types_say() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let tracked = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let schema = serde_json::to_string_pretty(&schema::json_schema()).expect("a schema is JSON") + "\n";
    let hint =
        "is out of date; run `cargo run --release -p ballast-core --example generate_reference` and commit the result";
    assert!(tracked("configuration.md") == reference::markdown(), "docs/reference/configuration.md {hint}");
    assert!(tracked("ballast.schema.json") == schema, "docs/reference/ballast.schema.json {hint}");
}

#[test]
fn a_document_without_sessions_is_what_it_was_and_one_with_them_differs_by_names() {
    let without = document("version: 1");
    assert_eq!(without.to_canonical_json(), decode_canonical(r#"{"version":1}"#).expect("right").to_canonical_json());
    assert!(!without.to_canonical_json().contains("sessions"));
    let with = |sessions: &str| document(&format!("version: 1\nsessions: {{ {sessions} }}\n"));
    let shown = |old: &Document, new: &Document| diff(old, new).iter().map(ToString::to_string).collect::<Vec<_>>();
    let some = with("users: [{ name: shop }, { name: blog }]");
    assert_eq!(shown(&without, &some), ["+ sessions: { users: [{ name: shop }, { name: blog }] }"]);
    assert_eq!(shown(&some, &without), ["- sessions: { users: [{ name: shop }, { name: blog }] }"]);
    let other = with("memory_max: 2GiB, users: [{ name: blog }, { name: shop, read_only: true }]");
    assert_eq!(
        shown(&some, &other),
        ["~ sessions.memory_max: 1GiB -> 2GiB", "~ sessions.users[shop].read_only: false -> true"]
    );
}

#[test]
fn policies_of_eviction_have_one_name() {
    for policy in [SessionEviction::Noeviction, SessionEviction::VolatileLru, SessionEviction::VolatileTtl] {
        assert_eq!(serde_json::to_value(policy).expect("a word"), policy.as_str());
    }
}
