//! JSON values as YAML, in block form.
//!
//! Text is written plain only where no reader could take it for something else; otherwise as a
//! JSON string, which is YAML too (YAML 1.2.2, section 1.3).

use serde_json::Value;

/// A value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Array(items) if !items.is_empty() => list(items, 0, &mut out),
        Value::Object(entries) if !entries.is_empty() => map(entries, 0, false, &mut out),
        scalar => out.push_str(&format!("{}\n", inline(scalar))),
    }
    out
}

fn map(entries: &serde_json::Map<String, Value>, indent: usize, after_dash: bool, out: &mut String) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 || !after_dash {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&text(key));
        out.push(':');
        match value {
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                list(items, indent, out);
            }
            Value::Object(entries) if !entries.is_empty() => {
                out.push('\n');
                map(entries, indent + 2, false, out);
            }
            scalar => out.push_str(&format!(" {}\n", inline(scalar))),
        }
    }
}

fn list(items: &[Value], indent: usize, out: &mut String) {
    for item in items {
        out.push_str(&" ".repeat(indent));
        match item {
            Value::Object(entries) if !entries.is_empty() => {
                out.push_str("- ");
                map(entries, indent + 2, true, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push_str("-\n");
                list(items, indent + 2, out);
            }
            scalar => out.push_str(&format!("- {}\n", inline(scalar))),
        }
    }
}

/// A value that stands on one line. Empty lists and maps do.
fn inline(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        other => other.to_string(),
    }
}

/// Text, quoted unless it is surely read as text.
fn text(string: &str) -> String {
    let plain_start = string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain =
        string.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@' | '+' | ' '));
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if plain_start && plain && !string.ends_with(' ') && !words.contains(&string.to_ascii_lowercase().as_str()) {
        string.to_owned()
    } else {
        Value::from(string).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_in_block_form() {
        let value = json!({
            "name": "web1", "address": "127.0.0.1:9001", "weight": 100, "labels": {}, "none": null,
            "reports": [{"node": "node-1", "lines": ["a: b", "no", ""]}, [1, 2]], "deep": {"yes": true}
        });
        assert_eq!(
            to_yaml(&value),
            "address: \"127.0.0.1:9001\"\ndeep:\n  \"yes\": true\nlabels: {}\nname: web1\nnone: null\nreports:\n\
             - lines:\n  - \"a: b\"\n  - \"no\"\n  - \"\"\n  node: node-1\n-\n  - 1\n  - 2\nweight: 100\n"
        );
        assert_eq!(to_yaml(&json!([])), "[]\n");
    }
}
