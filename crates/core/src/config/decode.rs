//! From text to a document, and to its canonical form.

use std::collections::HashSet;

use super::{
    Document, Mistake, Mistakes, semantics,
    shape::DOCUMENT,
    structure::{self, Report, Step, mistake},
    tree::{self, Key, Node, Position, TreeMistake, Value},
};

/// Longest canonical JSON that is looked at. Defaults written out make it longer than the text it
/// comes from; sixteen times is more than the shortest text can grow to.
pub(super) const CANONICAL_BYTES_MAX: usize = 16 * tree::TEXT_BYTES_MAX;

/// Reads a document from YAML or JSON.
///
/// # Errors
/// All mistakes at once, each with line, column and path.
pub fn parse(text: &str) -> Result<Document, Mistakes> {
    parse_many(&[("", text)])
}

/// Reads one document from several named texts: their lists are put together in the given order,
/// `cluster` may stand in one of them.
///
/// # Errors
/// All mistakes of all texts at once, each with file, line, column and path.
pub fn parse_many(texts: &[(&str, &str)]) -> Result<Document, Mistakes> {
    let files: Vec<String> = texts.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut unreadable = Vec::new();
    let mut roots = Vec::new();
    for (index, (_, text)) in texts.iter().enumerate() {
        roots.extend(tree::load(text, u16::try_from(index).unwrap_or(u16::MAX), &mut unreadable));
    }
    let all_read = roots.len() == texts.len();
    let Some(root) = merge(roots, &mut unreadable) else {
        return Err(refused(Vec::new(), unreadable, &files, None));
    };
    // A text that could not be read leaves holes that would look like mistakes of the others.
    let (document, mistakes) = check(&root, &files, all_read && unreadable.is_empty());
    match document {
        Some(document) if mistakes.is_empty() && unreadable.is_empty() => Ok(document),
        _ => Err(refused(mistakes, unreadable, &files, Some(&root))),
    }
}

/// Reads a document from [`Document::to_canonical_json`]. Checks all that [`parse`] checks, by what this release
/// knows: for a document that is about to be proposed. What the log holds is read by
/// [`super::rules::decode_committed`].
///
/// # Errors
/// All mistakes at once; without lines, because canonical JSON has none.
pub fn decode_canonical(json: &str) -> Result<Document, Mistakes> {
    let whole = |problem: String| {
        let mistake = Mistake {
            file: None,
            line: 0,
            column: 0,
            path: String::new(),
            problem,
            fix: "send the canonical JSON of a document".to_owned(),
        };
        Mistakes::collect(vec![mistake]).expect("one mistake is not none")
    };
    if json.len() > CANONICAL_BYTES_MAX {
        return Err(whole(format!("{} bytes are more than the {CANONICAL_BYTES_MAX} that are read", json.len())));
    }
    let value = serde_json::from_str(json).map_err(|error| whole(format!("this is not JSON: {error}")))?;
    let root = Node::from_json(value);
    let (document, mistakes) = check(&root, &[], true);
    match document {
        Some(document) if mistakes.is_empty() => Ok(document),
        _ => Err(refused(mistakes, Vec::new(), &[], Some(&root))),
    }
}

impl Document {
    /// The document as one JSON text with every default written out. Equal documents give equal
    /// texts.
    pub fn to_canonical_json(&self) -> String {
        serde_json::to_string(self).expect("a document has only string keys and finite numbers")
    }
}

/// Structure, value, sense.
fn check(root: &Node, files: &[String], complete: bool) -> (Option<Document>, Vec<Mistake>) {
    let mut report = Report::new(root, files);
    let Some(json) = structure::check(&DOCUMENT, root, &mut report) else {
        return (None, report.into_mistakes());
    };
    match serde_json::from_value::<Document>(json) {
        Ok(document) => {
            if complete && !report.is_full() {
                semantics::check(&document, &mut report);
            }
            (Some(document), report.into_mistakes())
        }
        Err(error) => {
            report.nonsense(&[], error.to_string(), String::new());
            (None, report.into_mistakes())
        }
    }
}

/// One tree of several. A text whose root is not a map is kept as it is and refused by the walker.
fn merge(roots: Vec<Node>, mistakes: &mut Vec<TreeMistake>) -> Option<Node> {
    let mut roots = roots.into_iter();
    let mut whole = roots.next()?;
    for root in roots {
        let (Value::Map(into), at) = (&mut whole.value, root.at) else { return Some(whole) };
        let Value::Map(entries) = root.value else { return Some(Node { at, value: root.value }) };
        let known: HashSet<String> = into.iter().map(|(key, _)| key.text.clone()).collect();
        for (key, node) in entries {
            if !known.contains(&key.text) {
                into.push((key, node));
                continue;
            }
            let Some((_, there)) = into.iter_mut().find(|(k, _)| k.text == key.text) else { continue };
            join(key, there, node, mistakes);
        }
    }
    Some(whole)
}

fn join(key: Key, there: &mut Node, node: Node, mistakes: &mut Vec<TreeMistake>) {
    match (&mut there.value, node.value) {
        (Value::List(items), Value::List(more)) => items.extend(more),
        (Value::Integer(a), Value::Integer(b)) if *a == b && key.text == "version" => {}
        _ => mistakes.push(TreeMistake {
            at: key.at,
            path: vec![Step::Key(key.text.clone())],
            problem: format!("`{}` stands in another file too", key.text),
            fix: "keep it in one file; only lists are put together".to_owned(),
        }),
    }
}

fn refused(mut mistakes: Vec<Mistake>, tree: Vec<TreeMistake>, files: &[String], root: Option<&Node>) -> Mistakes {
    let nothing = Node { at: Position::default(), value: Value::Null };
    let root = root.unwrap_or(&nothing);
    mistakes.extend(tree.into_iter().map(|m| mistake(root, files, &m.path, m.at, m.problem, m.fix)));
    Mistakes::collect(mistakes).unwrap_or_else(|| {
        let nothing_given =
            mistake(root, files, &[], Position::default(), "no text was given".to_owned(), String::new());
        Mistakes::collect(vec![nothing_given]).expect("one mistake is not none")
    })
}
