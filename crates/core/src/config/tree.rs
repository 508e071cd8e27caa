//! Text as a tree that remembers where each part stands.
//!
//! Reads the event stream of the YAML parser (JSON is YAML) with a stack of its own, so that
//! depth, size and alias expansion have bounds before anything is built, and so that every
//! duplicate key is reported and not only the first.
//!
//! Not here: what the document should look like (`shape`).

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::structure::Step;

/// Largest text that is looked at. A document with ten thousand backends has a tenth of it.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// Deepest nesting. The document's own is below 12.
const DEPTH_MAX: usize = 48;
/// Most nodes, those copied by aliases included. A text of the largest size with the shortest
/// sensible lines has half as many.
const NODES_MAX: usize = 1_000_000;
/// Most text that aliases may copy.
const ALIAS_BYTES_MAX: usize = TEXT_BYTES_MAX;
/// Most mistakes that are worth their memory.
pub(super) const MISTAKES_MAX: usize = 2000;

/// Where something stands. A line of zero means that it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub file: u16,
    pub line: u32,
    pub column: u32,
}

/// A part of the document.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    /// A number that is not whole, or too big, as it was written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub at: Position,
    pub text: String,
}

/// Something that cannot be a tree. Paths are steps, because names may follow later in the text.
#[derive(Debug)]
pub(super) struct TreeMistake {
    pub at: Position,
    pub path: Vec<Step>,
    pub problem: String,
    pub fix: String,
}

impl Node {
    /// The value under a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The element that a step leads to.
    pub fn step(&self, step: &Step) -> Option<&Node> {
        match (step, &self.value) {
            (Step::Key(key), _) => self.get(key),
            (Step::Index(index), Value::List(items)) => items.get(*index),
            _ => None,
        }
    }

    /// The text of the `name` of a map.
    pub fn name(&self) -> Option<&str> {
        match self.get("name").map(|node| &node.value) {
            Some(Value::Text(name)) => Some(name),
            _ => None,
        }
    }

    /// A tree without positions. Recursion is bounded by serde_json's own limit of 128.
    pub fn from_json(value: serde_json::Value) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(b),
            serde_json::Value::Number(n) => match n.as_i128() {
                Some(n) => Value::Integer(n),
                None => Value::Number(n.to_string()),
            },
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Self::from_json).collect()),
            serde_json::Value::Object(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(text, value)| (Key { at: Position::default(), text }, Self::from_json(value)))
                    .collect(),
            ),
        };
        Self { at: Position::default(), value }
    }
}

/// Reads one text. What is wrong goes to `mistakes`; `None` when there is no tree at all.
pub(super) fn load(text: &str, file: u16, mistakes: &mut Vec<TreeMistake>) -> Option<Node> {
    let start = Position { file, line: 1, column: 1 };
    if text.len() > TEXT_BYTES_MAX {
        mistakes.push(TreeMistake {
            at: start,
            path: Vec::new(),
            problem: format!("the text has {} bytes, more than the {} that are read", text.len(), TEXT_BYTES_MAX),
            fix: "split farms over several clusters, or take generated comments out".to_owned(),
        });
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(mistake) = control_character(text, file) {
        mistakes.push(mistake);
        return None;
    }
    Loader { file, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, alias_bytes: 0, root: None, mistakes }
        .run(&join_surrogates(text))
}

/// JSON writes characters beyond the basic plane as two escapes (RFC 8259, section 7), which YAML
/// does not know. Many tools write JSON so; here the two become YAML's one.
fn join_surrogates(text: &str) -> Cow<'_, str> {
    if !text.trim_start().starts_with('{') || !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let unit = |from: usize| -> Option<u16> {
            let digits = escape.get(from..from + 6)?.strip_prefix("\\u")?;
            digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
        };
        let joined = match (unit(0), unit(6)) {
            (Some(high), Some(low)) => {
                char::decode_utf16([high, low]).next().and_then(Result::ok).filter(|c| *c > '\u{ffff}')
            }
            _ => None,
        };
        let taken = match joined {
            Some(c) => {
                let escaped = format!("\\U{:08X}", u32::from(c));
                out.push_str(&escaped);
                12
            }
            // The backslash and what it escapes, so that the second of two does not count as a first.
            None => {
                let taken = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&escape[..taken]);
                taken
            }
        };
        rest = &escape[taken..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// YAML allows no control characters but tab and line ends (YAML 1.2.2, section 5.1); the parser
/// would take a NUL for the end of the text.
fn control_character(text: &str, file: u16) -> Option<TreeMistake> {
    let bad = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let (offset, c) = text.char_indices().find(|(_, c)| bad(*c))?;
    let before = &text[..offset];
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    Some(TreeMistake {
        at: Position { file, line: clamp(line), column: clamp(column) },
        path: Vec::new(),
        problem: format!("the text contains the control character U+{:04X}", u32::from(c)),
        fix: "configuration is plain UTF-8 text; inside a quoted string write it as an escape".to_owned(),
    })
}

fn clamp(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A map or list that is not finished yet.
enum Frame {
    List { at: Position, anchor: usize, items: Vec<Node> },
    Map { at: Position, anchor: usize, entries: Vec<(Key, Node)>, key: Option<Key>, seen: HashMap<String, u32> },
}

/// A finished part that aliases can copy, and what a copy costs.
struct Anchored {
    node: Node,
    nodes: usize,
    bytes: usize,
    depth: usize,
}

/// A reason to stop reading.
struct Stop;

struct Loader<'m> {
    file: u16,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    alias_bytes: usize,
    root: Option<Node>,
    mistakes: &'m mut Vec<TreeMistake>,
}

impl Loader<'_> {
    fn run(mut self, text: &str) -> Option<Node> {
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    let at = self.position(error.marker());
                    // The scanner reads ahead of the parser, so its own bound may be met before ours.
                    let _ = if error.info().contains("recursion limit") {
                        self.too_deep(at)
                    } else {
                        self.stop(
                            at,
                            format!("this is not YAML: {}", error.info()),
                            "check indentation, quotes and brackets here and just above",
                        )
                    };
                    return None;
                }
            };
            let at = self.position(&span.start);
            let step = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        self.stop(at, "a second YAML document begins here".to_owned(), "put one document in each file")
                    } else {
                        Ok(())
                    }
                }
                Event::Scalar(text, style, anchor, tag) => match tag {
                    Some(tag) => self.tag(at, &tag.to_string()),
                    None => self.scalar(at, text.into_owned(), style, anchor),
                },
                Event::SequenceStart(_, Some(tag)) | Event::MappingStart(_, Some(tag)) => {
                    self.tag(at, &tag.to_string())
                }
                Event::SequenceStart(anchor, None) => self.open(Frame::List { at, anchor, items: Vec::new() }, at),
                Event::MappingStart(anchor, None) => {
                    self.open(Frame::Map { at, anchor, entries: Vec::new(), key: None, seen: HashMap::new() }, at)
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(),
                Event::Alias(id) => self.alias(at, id),
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            };
            if step.is_err() {
                return None;
            }
        }
        match self.root.take() {
            Some(Node { value: Value::Null, at }) => self.empty(at),
            Some(node) => Some(node),
            None => self.empty(Position { file: self.file, line: 1, column: 1 }),
        }
    }

    fn empty(&mut self, at: Position) -> Option<Node> {
        let _ = self.stop(at, "there is no document in this text".to_owned(), "begin with `version: 1`");
        None
    }

    fn position(&self, mark: &Marker) -> Position {
        Position { file: self.file, line: clamp(mark.line()), column: clamp(mark.col() + 1) }
    }

    fn stop(&mut self, at: Position, problem: String, fix: &str) -> Result<(), Stop> {
        let path = self.path();
        self.mistakes.push(TreeMistake { at, path, problem, fix: fix.to_owned() });
        Err(Stop)
    }

    fn tag(&mut self, at: Position, tag: &str) -> Result<(), Stop> {
        self.stop(at, format!("the tag {tag} means nothing here"), "leave tags out; quote a value to make it text")
    }

    /// The steps to where the loader is.
    fn path(&self) -> Vec<Step> {
        self.stack
            .iter()
            .filter_map(|frame| match frame {
                Frame::List { items, .. } => Some(Step::Index(items.len())),
                Frame::Map { key, .. } => key.as_ref().map(|key| Step::Key(key.text.clone())),
            })
            .collect()
    }

    fn scalar(&mut self, at: Position, text: String, style: ScalarStyle, anchor: usize) -> Result<(), Stop> {
        if let Some(Frame::Map { key: key @ None, .. }) = self.stack.last_mut() {
            *key = Some(Key { at, text });
            return self.count(at, 1);
        }
        let value = if style == ScalarStyle::Plain { plain(text) } else { Value::Text(text) };
        self.put(Node { at, value }, anchor)
    }

    fn open(&mut self, frame: Frame, at: Position) -> Result<(), Stop> {
        if let Some(Frame::Map { key: None, .. }) = self.stack.last() {
            return self.stop(
                at,
                "a key is a list or a map".to_owned(),
                "a key is plain text; quote a value that begins with { or [",
            );
        }
        if self.stack.len() >= DEPTH_MAX {
            return self.too_deep(at);
        }
        self.stack.push(frame);
        Ok(())
    }

    fn too_deep(&mut self, at: Position) -> Result<(), Stop> {
        self.stop(at, format!("nested deeper than {DEPTH_MAX} levels"), "no part of the document nests so deep")
    }

    fn close(&mut self) -> Result<(), Stop> {
        match self.stack.pop() {
            Some(Frame::List { at, anchor, items }) => self.put(Node { at, value: Value::List(items) }, anchor),
            Some(Frame::Map { at, anchor, entries, .. }) => self.put(Node { at, value: Value::Map(entries) }, anchor),
            None => Ok(()),
        }
    }

    fn alias(&mut self, at: Position, id: usize) -> Result<(), Stop> {
        let Some(Anchored { node, nodes, bytes, depth }) = self.anchors.get(&id) else {
            return self.stop(at, "an alias inside of what it stands for".to_owned(), "write the part out");
        };
        if let Some(Frame::Map { key: None, .. }) = self.stack.last() {
            return self.stop(at, "an alias as a key".to_owned(), "write the key out");
        }
        let (node_count, bytes, depth) = (*nodes, *bytes, *depth);
        if self.stack.len() + depth > DEPTH_MAX {
            return self.stop(at, format!("aliases nest deeper than {DEPTH_MAX} levels"), "write the parts out");
        }
        self.alias_bytes = self.alias_bytes.saturating_add(bytes);
        if self.alias_bytes > ALIAS_BYTES_MAX || self.nodes.saturating_add(node_count) > NODES_MAX {
            return self.stop(at, "aliases expand to too much".to_owned(), "write the parts out, or use fewer aliases");
        }
        let node = node.clone();
        self.nodes += node_count;
        self.put(node, 0)
    }

    fn count(&mut self, at: Position, nodes: usize) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return self.stop(at, format!("more than {NODES_MAX} values"), "split farms over several clusters");
        }
        Ok(())
    }

    /// Adds a finished part to the unfinished one around it.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        self.count(node.at, 1)?;
        if anchor > 0 {
            let (nodes, bytes, depth) = cost(&node);
            self.alias_bytes = self.alias_bytes.saturating_add(bytes);
            if self.alias_bytes > ALIAS_BYTES_MAX {
                return self.stop(
                    node.at,
                    "anchors hold too much".to_owned(),
                    "write the parts out, or use fewer anchors",
                );
            }
            self.count(node.at, nodes)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, bytes, depth });
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, key, seen, .. }) => {
                let Some(key) = key.take() else { return Ok(()) };
                match seen.get(&key.text) {
                    None => {
                        seen.insert(key.text.clone(), key.at.line);
                        entries.push((key, node));
                    }
                    Some(first) => {
                        let problem = format!("`{}` is given twice; it stands already at line {first}", key.text);
                        let mut path = self.path();
                        path.push(Step::Key(key.text));
                        if self.mistakes.len() < MISTAKES_MAX {
                            let fix = "keep one of them".to_owned();
                            self.mistakes.push(TreeMistake { at: key.at, path, problem, fix });
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Nodes, bytes of text and depth of a part.
fn cost(node: &Node) -> (usize, usize, usize) {
    match &node.value {
        Value::Null | Value::Bool(_) | Value::Integer(_) => (1, 0, 0),
        Value::Number(text) | Value::Text(text) => (1, text.len(), 0),
        Value::List(items) => {
            items.iter().map(cost).fold((1, 0, 1), |(n, b, d), (n2, b2, d2)| (n + n2, b + b2, d.max(d2 + 1)))
        }
        Value::Map(entries) => entries
            .iter()
            .map(|(key, node)| (key, cost(node)))
            .fold((1, 0, 1), |(n, b, d), (key, (n2, b2, d2))| (n + n2 + 1, b + b2 + key.text.len(), d.max(d2 + 1))),
    }
}

/// A scalar without quotes means what YAML's core schema says (YAML 1.2.2, section 10.3.2).
fn plain(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_or(Value::Number(text), Value::Integer);
    }
    if let Some(hex) = text.strip_prefix("0x")
        && let Ok(n) = u64::from_str_radix(hex, 16)
    {
        return Value::Integer(n.into());
    }
    if let Some(octal) = text.strip_prefix("0o")
        && let Ok(n) = u64::from_str_radix(octal, 8)
    {
        return Value::Integer(n.into());
    }
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok();
    if numeric || matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Value::Number(text);
    }
    Value::Text(text)
}
