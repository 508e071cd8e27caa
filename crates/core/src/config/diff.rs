//! What changes from one document to another, by names and not by positions.
//!
//! Lists of named things are compared by name, so a backend that moved down a line is not a
//! change, unless the order means something (the first matching service wins).

use std::fmt;

use serde::Serialize;
use serde_json::Value as Json;

use super::{
    Document,
    shape::{DOCUMENT, Kind, Shape},
    yaml::{flow, without_defaults},
};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Change {
    /// Something new.
    Added {
        /// Where: `farms[shop].services[site].backends[web3]`.
        path: String,
        /// What, on one line, defaults left out.
        new: String,
    },
    /// Something gone.
    Removed {
        /// Where.
        path: String,
        /// What it was.
        old: String,
    },
    /// Another value.
    Changed {
        /// Where.
        path: String,
        /// What it was.
        old: String,
        /// What it is.
        new: String,
    },
}

impl Change {
    /// Where the difference is.
    pub fn path(&self) -> &str {
        match self {
            Self::Added { path, .. } | Self::Removed { path, .. } | Self::Changed { path, .. } => path,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { path, new } => write!(f, "+ {path}: {new}"),
            Self::Removed { path, old } => write!(f, "- {path}: {old}"),
            Self::Changed { path, old, new } => write!(f, "~ {path}: {old} -> {new}"),
        }
    }
}

/// All differences, in the order of the new document; what is gone follows what it stood beside.
pub fn diff(old: &Document, new: &Document) -> Vec<Change> {
    let json = |document| serde_json::to_value(document).expect("a document has only string keys and finite numbers");
    let mut differ = Differ { changes: Vec::new() };
    differ.value(&DOCUMENT, "", &json(old), &json(new));
    differ.changes
}

struct Differ {
    changes: Vec<Change>,
}

impl Differ {
    fn value(&mut self, shape: &Shape, path: &str, old: &Json, new: &Json) {
        if old == new {
            return;
        }
        match (&shape.kind, old, new) {
            (_, Json::Null, _) => self.added(shape, path, new),
            (_, _, Json::Null) => self.removed(shape, path, old),
            (Kind::Record(fields), Json::Object(a), Json::Object(b)) => {
                for field in fields {
                    let side =
                        |entries: &serde_json::Map<String, Json>| entries.get(&field.name).cloned().unwrap_or_default();
                    self.value(&field.shape, &join(path, &field.name), &side(a), &side(b));
                }
            }
            (Kind::Variants(variants), Json::Object(a), Json::Object(b)) => {
                let same = variants.iter().find(|v| a.contains_key(&v.name) && b.contains_key(&v.name));
                match same {
                    Some(v) => self.value(&v.shape, &join(path, &v.name), &a[&v.name], &b[&v.name]),
                    None => self.changed(shape, path, old, new),
                }
            }
            (Kind::Dictionary(item), Json::Object(a), Json::Object(b)) => {
                let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                for key in keys {
                    let side = |entries: &serde_json::Map<String, Json>| entries.get(key).cloned().unwrap_or_default();
                    self.value(item, &join(path, key), &side(a), &side(b));
                }
            }
            (Kind::List { item, .. }, Json::Array(a), Json::Array(b)) if is_named(item) => self.named(item, path, a, b),
            _ => self.changed(shape, path, old, new),
        }
    }

    fn named(&mut self, item: &Shape, path: &str, old: &[Json], new: &[Json]) {
        let index = |list: &[Json]| -> std::collections::HashMap<String, usize> {
            list.iter().enumerate().map(|(index, value)| (name(value).to_owned(), index)).collect()
        };
        let (before, after) = (index(old), index(new));
        for value in new {
            let path = format!("{path}[{}]", name(value));
            match before.get(name(value)) {
                Some(index) => self.value(item, &path, &old[*index], value),
                None => self.added(item, &path, value),
            }
        }
        for value in old.iter().filter(|value| !after.contains_key(name(value))) {
            self.removed(item, &format!("{path}[{}]", name(value)), value);
        }
        let order_counts = path.ends_with(".services");
        let kept = |list: &[Json], other: &std::collections::HashMap<String, usize>| -> Vec<String> {
            list.iter().map(name).filter(|name| other.contains_key(*name)).map(str::to_owned).collect()
        };
        let (a, b) = (kept(old, &after), kept(new, &before));
        if order_counts && a != b {
            self.changes.push(Change::Changed {
                path: format!("{path} (order)"),
                old: a.join(", "),
                new: b.join(", "),
            });
        }
    }

    fn added(&mut self, shape: &Shape, path: &str, value: &Json) {
        let new = line(shape, value);
        self.changes.push(Change::Added { path: path.to_owned(), new });
    }

    fn removed(&mut self, shape: &Shape, path: &str, value: &Json) {
        let old = line(shape, value);
        self.changes.push(Change::Removed { path: path.to_owned(), old });
    }

    fn changed(&mut self, shape: &Shape, path: &str, old: &Json, new: &Json) {
        let (old, new) = (line(shape, old), line(shape, new));
        self.changes.push(Change::Changed { path: path.to_owned(), old, new });
    }
}

fn is_named(shape: &Shape) -> bool {
    matches!(&shape.kind, Kind::Record(fields) if fields.iter().any(|field| field.name == "name"))
}

fn name(value: &Json) -> &str {
    value.get("name").and_then(Json::as_str).unwrap_or_default()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A value on one line without defaults; the name is in the path already.
fn line(shape: &Shape, value: &Json) -> String {
    let mut value = without_defaults(shape, value);
    if is_named(shape)
        && let Json::Object(entries) = &mut value
    {
        entries.remove("name");
    }
    flow(&value, Some(shape))
}
