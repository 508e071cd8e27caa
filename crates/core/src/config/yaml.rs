//! A document as YAML that a person would write: defaults left out, one line for a small map.
//!
//! An own writer and not a general one, because it has to know the defaults, and because what it
//! writes is data only: no anchors, tags or block scalars.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::{
    Document,
    shape::{DOCUMENT, Kind, Shape},
};

/// Writes a document so that [`super::parse`] gives the same document back.
pub fn to_yaml(document: &Document) -> String {
    let json = serde_json::to_value(document).expect("a document has only string keys and finite numbers");
    let json = without_defaults(&DOCUMENT, &json);
    let mut out = String::new();
    if let Json::Object(entries) = &json {
        // The order of the types, which is the order of reading, and not that of the alphabet.
        for (key, value) in in_order(&DOCUMENT, entries) {
            write_entry(&mut out, 0, key, value, field_shape(&DOCUMENT, key));
        }
    }
    out
}

/// The value with everything left out that parsing puts back.
pub(super) fn without_defaults(shape: &Shape, value: &Json) -> Json {
    match (&shape.kind, value) {
        (Kind::Record(fields), Json::Object(entries)) => fields
            .iter()
            .filter_map(|field| {
                let value = entries.get(&field.name)?;
                let absent =
                    if field.required { false } else { field.default.as_ref().unwrap_or(&Json::Null) == value };
                (!absent).then(|| (field.name.clone(), without_defaults(&field.shape, value)))
            })
            .collect(),
        (Kind::Variants(variants), Json::Object(entries)) => entries
            .iter()
            .map(|(key, value)| match variants.iter().find(|variant| variant.name == *key) {
                Some(variant) => (key.clone(), without_defaults(&variant.shape, value)),
                None => (key.clone(), value.clone()),
            })
            .collect(),
        (Kind::List { item, .. }, Json::Array(items)) => {
            items.iter().map(|value| without_defaults(item, value)).collect()
        }
        _ => value.clone(),
    }
}

/// A value on one line.
pub(super) fn flow(value: &Json, shape: Option<&Shape>) -> String {
    match value {
        Json::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Json::Object(entries) => {
            let ordered = match shape {
                Some(shape) => in_order(shape, entries),
                None => entries.iter().map(|(key, value)| (key.as_str(), value)).collect(),
            };
            let inner: Vec<String> = ordered
                .into_iter()
                .map(|(key, value)| {
                    format!("{}: {}", scalar(key), flow(value, shape.and_then(|s| field_shape(s, key))))
                })
                .collect();
            format!("{{ {} }}", inner.join(", "))
        }
        Json::Array(items) => {
            let inner: Vec<String> = items.iter().map(|item| flow(item, shape.and_then(item_shape))).collect();
            format!("[{}]", inner.join(", "))
        }
        Json::String(text) => scalar(text),
        other => other.to_string(),
    }
}

fn in_order<'j>(shape: &Shape, entries: &'j serde_json::Map<String, Json>) -> Vec<(&'j str, &'j Json)> {
    let rank = |key: &str| match &shape.kind {
        Kind::Record(fields) => fields.iter().position(|field| field.name == key),
        _ => None,
    };
    let mut ordered: Vec<(&str, &Json)> = entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
    ordered.sort_by_key(|(key, _)| rank(key).unwrap_or(usize::MAX));
    ordered
}

fn field_shape<'s>(shape: &'s Shape, key: &str) -> Option<&'s Shape> {
    match &shape.kind {
        Kind::Record(fields) => fields.iter().find(|field| field.name == key).map(|field| &field.shape),
        Kind::Variants(variants) => variants.iter().find(|variant| variant.name == key).map(|variant| &variant.shape),
        Kind::Dictionary(item) => Some(item),
        _ => None,
    }
}

fn item_shape(shape: &Shape) -> Option<&Shape> {
    match &shape.kind {
        Kind::List { item, .. } => Some(item),
        _ => None,
    }
}

/// Longest line that a map or list is put on.
const LINE_CHARS: usize = 100;

fn write_entry(out: &mut String, indent: usize, key: &str, value: &Json, shape: Option<&Shape>) {
    let head = format!("{:indent$}{}:", "", scalar(key));
    let line = flow(value, shape);
    let nested = matches!(value, Json::Array(items) if items.iter().any(|item| item.is_object()));
    if !nested && (head.len() + 1 + line.len() <= LINE_CHARS || !(value.is_object() || value.is_array())) {
        writeln!(out, "{head} {line}").expect("writing to a String does not fail");
        return;
    }
    writeln!(out, "{head}").expect("writing to a String does not fail");
    write_block(out, indent + 2, value, shape);
}

fn write_block(out: &mut String, indent: usize, value: &Json, shape: Option<&Shape>) {
    match value {
        Json::Object(entries) => {
            let ordered = shape.map_or_else(Vec::new, |shape| in_order(shape, entries));
            for (key, value) in ordered {
                write_entry(out, indent, key, value, shape.and_then(|s| field_shape(s, key)));
            }
        }
        Json::Array(items) => {
            for item in items {
                let shape = shape.and_then(item_shape);
                let line = flow(item, shape);
                if indent + 2 + line.len() <= LINE_CHARS || !item.is_object() {
                    writeln!(out, "{:indent$}- {line}", "").expect("writing to a String does not fail");
                    continue;
                }
                let mut block = String::new();
                write_block(&mut block, indent + 2, item, shape);
                // The dash takes the place of the first line's indentation.
                let rest = block.trim_start_matches(' ');
                write!(out, "{:indent$}- {rest}", "").expect("writing to a String does not fail");
            }
        }
        other => writeln!(out, "{:indent$}{}", "", flow(other, shape)).expect("writing to a String does not fail"),
    }
}

/// A text without quotes where it cannot be taken for anything else, in quotes otherwise.
fn scalar(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    let unit = text.ends_with(|c: char| c.is_ascii_alphabetic())
        && text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).bytes().all(|b| b.is_ascii_digit())
        && text.bytes().next().is_some_and(|b| matches!(b, b'1'..=b'9'))
        && !text.contains(['e', 'E']);
    let address = text.contains('.') && text.parse::<std::net::Ipv4Addr>().is_ok();
    if (begins && !reserved(text) || unit || address) && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') => {
                write!(out, "\\u{:04X}", u32::from(c)).expect("writing to a String does not fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Words that YAML takes for something else, in any case.
fn reserved(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    matches!(lower.as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n")
}
