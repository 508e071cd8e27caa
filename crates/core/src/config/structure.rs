//! A tree held against the shape: unknown keys, wrong types, missing keys, bad units, bounds.
//!
//! What is refused is replaced by a placeholder and remembered, so that the checks for sense
//! can run over the rest and stay silent about what was refused already.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::{
    mistake::Mistake,
    shape::{Field, Kind, Shape},
    suggest,
    tree::{MISTAKES_MAX, Node, Position, Value},
};

/// One step into the document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Where mistakes are written down.
pub(super) struct Report<'t> {
    root: &'t Node,
    files: &'t [String],
    mistakes: Vec<Mistake>,
    refused: Vec<Vec<Step>>,
}

impl<'t> Report<'t> {
    pub fn new(root: &'t Node, files: &'t [String]) -> Self {
        Self { root, files, mistakes: Vec::new(), refused: Vec::new() }
    }

    pub fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }

    /// Whether further mistakes are only a waste of time.
    pub fn is_full(&self) -> bool {
        self.mistakes.len() >= MISTAKES_MAX
    }

    /// A mistake in what the value at `path` is.
    fn refuse(&mut self, path: &[Step], at: Position, problem: String, fix: String) {
        // Once full, nothing is checked for sense any more, so nobody asks what was refused.
        if !self.is_full() {
            self.mistakes.push(mistake(self.root, self.files, path, at, problem, fix));
            self.refused.push(path.to_vec());
        }
    }

    /// A mistake in what the value at `path` means. Silent where something was refused already.
    pub fn nonsense(&mut self, path: &[Step], problem: String, fix: String) {
        if self.is_full() || self.touches_refused(path) {
            return;
        }
        let at = position_of(self.root, path);
        self.mistakes.push(mistake(self.root, self.files, path, at, problem, fix));
    }

    /// Whether the value at `path`, a part of it, or what it is part of was refused.
    pub fn touches_refused(&self, path: &[Step]) -> bool {
        self.refused.iter().any(|refused| refused.starts_with(path) || path.starts_with(refused))
    }

    /// Line of the value at `path`, zero if not known.
    pub fn line_of(&self, path: &[Step]) -> u32 {
        position_of(self.root, path).line
    }
}

/// A mistake with its path in words.
pub(super) fn mistake(
    root: &Node,
    files: &[String],
    path: &[Step],
    at: Position,
    problem: String,
    fix: String,
) -> Mistake {
    let file = files.get(usize::from(at.file)).filter(|name| !name.is_empty()).cloned();
    Mistake { file, line: at.line, column: at.column, path: spell(root, path), problem, fix }
}

/// The path with names in the place of positions: `farms[shop].services[site]`.
fn spell(root: &Node, path: &[Step]) -> String {
    let mut out = String::new();
    let mut node = Some(root);
    for (depth, step) in path.iter().enumerate() {
        // What the last key leads to is not needed, and a map may have very many keys.
        let is_last_key = depth + 1 == path.len() && matches!(step, Step::Key(_));
        node = if is_last_key { None } else { node.and_then(|node| node.step(step)) };
        match step {
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(&shorten(key));
            }
            Step::Index(index) => {
                let written = match node.and_then(Node::name) {
                    Some(name) => write!(out, "[{}]", shorten(name)),
                    None => write!(out, "[{index}]"),
                };
                written.expect("writing to a String does not fail");
            }
        }
    }
    out
}

/// Where the value at `path` stands, or the nearest thing around it that exists.
fn position_of(root: &Node, path: &[Step]) -> Position {
    let mut node = root;
    for step in path {
        match node.step(step) {
            Some(next) => node = next,
            None => break,
        }
    }
    node.at
}

/// Text as it is shown in messages: one line, not too long.
pub(super) fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(60).is_some() {
        out.push_str("...");
    }
    out
}

/// Holds `node` against `shape`. `None` when the whole document is of no use.
pub(super) fn check(shape: &Shape, node: &Node, report: &mut Report<'_>) -> Option<Json> {
    Walker { report, path: Vec::new(), placeholders: 0 }.value(shape, node)
}

struct Walker<'r, 't> {
    report: &'r mut Report<'t>,
    path: Vec<Step>,
    placeholders: usize,
}

impl Walker<'_, '_> {
    /// The value as JSON, or `None` after it was refused.
    fn value(&mut self, shape: &Shape, node: &Node) -> Option<Json> {
        match (&shape.kind, &node.value) {
            (_, Value::Null) if shape.nullable => Some(Json::Null),
            (Kind::Flag, Value::Bool(value)) => Some((*value).into()),
            (Kind::Integer { min, max }, Value::Integer(value)) => self.integer(node, *value, *min, *max),
            (Kind::Text(format), Value::Text(text)) => {
                if format.accepts(text) {
                    return Some(text.clone().into());
                }
                self.refuse(node, format!("\"{}\" does not fit", shorten(text)), format!("write {}", format.describe()))
            }
            (Kind::Words(words), Value::Text(text)) => {
                if words.iter().any(|word| word.text == *text) {
                    return Some(text.clone().into());
                }
                let words = || words.iter().map(|word| word.text.as_str());
                self.refuse(node, format!("\"{}\" is not known here", shorten(text)), suggestion(text, words()))
            }
            (Kind::List { item, items_min }, Value::List(items)) => self.list(node, item, *items_min, items),
            (Kind::Record(fields), Value::Map(_)) => self.record(fields, node),
            (Kind::Variants(_), Value::Map(_)) => self.variant(shape, node),
            (Kind::Dictionary(item), Value::Map(entries)) => {
                let mut out = Map::new();
                for (key, value) in entries {
                    if let Some(value) = self.inside(Step::Key(key.text.clone()), |walker| walker.value(item, value)) {
                        out.insert(key.text.clone(), value);
                    }
                }
                Some(out.into())
            }
            _ => self.wrong_type(shape, node),
        }
    }

    fn inside<T>(&mut self, step: Step, f: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let out = f(self);
        self.path.pop();
        out
    }

    fn refuse(&mut self, node: &Node, problem: String, fix: String) -> Option<Json> {
        self.report.refuse(&self.path, node.at, problem, fix);
        None
    }

    fn placeholder(&mut self, shape: &Shape) -> Json {
        self.placeholders += 1;
        shape.placeholder(self.placeholders)
    }

    fn integer(&mut self, node: &Node, value: i128, min: u64, max: u64) -> Option<Json> {
        if let Ok(value) = u64::try_from(value)
            && (min..=max).contains(&value)
        {
            return Some(value.into());
        }
        let fix = if min == max { format!("write {min}") } else { format!("write a whole number from {min} to {max}") };
        self.refuse(node, format!("{value} is out of range"), fix)
    }

    fn list(&mut self, node: &Node, shape: &Shape, items_min: u64, items: &[Node]) -> Option<Json> {
        if (items.len() as u64) < items_min {
            return self.refuse(node, "the list is empty".to_owned(), "give at least one".to_owned());
        }
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if self.report.is_full() {
                return None;
            }
            let value = self.inside(Step::Index(index), |walker| walker.value(shape, item));
            out.push(value.unwrap_or_else(|| self.placeholder(shape)));
        }
        Some(out.into())
    }

    fn record(&mut self, fields: &[Field], node: &Node) -> Option<Json> {
        let Value::Map(entries) = &node.value else { return None };
        let missing: Vec<&str> =
            fields.iter().map(|field| field.name.as_str()).filter(|name| node.get(name).is_none()).collect();
        let mut meant: Vec<String> = Vec::new();
        for (key, _) in entries {
            if fields.iter().any(|field| field.name == key.text) {
                continue;
            }
            let near = if self.report.is_full() { None } else { suggest::nearest(&key.text, missing.iter().copied()) };
            let fix = match near {
                _ if key.text == "<<" => "merge keys are not understood; write the keys out".to_owned(),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", join(fields.iter().map(|field| field.name.as_str()))),
            };
            meant.extend(near.map(str::to_owned));
            let problem = format!("unknown key `{}`", shorten(&key.text));
            self.inside(Step::Key(key.text.clone()), |walker| walker.report.refuse(&walker.path, key.at, problem, fix));
        }
        let mut out = Map::new();
        for field in fields {
            let value = match node.get(&field.name) {
                Some(value) => self.inside(Step::Key(field.name.clone()), |walker| walker.value(&field.shape, value)),
                None => {
                    let misspelt = meant.contains(&field.name);
                    if misspelt {
                        let mut path = self.path.clone();
                        path.push(Step::Key(field.name.clone()));
                        self.report.refused.push(path);
                    } else if field.required {
                        let problem = format!("`{}` is missing", field.name);
                        let fix = format!("add it: {}", lowercase_first(&field.description));
                        self.inside(Step::Key(field.name.clone()), |walker| {
                            walker.report.refuse(&walker.path, node.at, problem, fix)
                        });
                    }
                    None
                }
            };
            match value {
                Some(value) => {
                    out.insert(field.name.clone(), value);
                }
                None if field.required => {
                    let value = self.placeholder(&field.shape);
                    out.insert(field.name.clone(), value);
                }
                None => {}
            }
        }
        Some(out.into())
    }

    fn variant(&mut self, shape: &Shape, node: &Node) -> Option<Json> {
        let (Kind::Variants(variants), Value::Map(entries)) = (&shape.kind, &node.value) else { return None };
        let names = || variants.iter().map(|variant| variant.name.as_str());
        let [(key, value)] = entries.as_slice() else {
            return self.refuse(
                node,
                format!("{} keys where one is wanted", entries.len()),
                format!("give one of {}", join(names())),
            );
        };
        let Some(variant) = variants.iter().find(|variant| variant.name == key.text) else {
            self.path.push(Step::Key(key.text.clone()));
            self.report.refuse(
                &self.path,
                key.at,
                format!("unknown key `{}`", shorten(&key.text)),
                suggestion(&key.text, names()),
            );
            self.path.pop();
            self.report.refused.push(self.path.clone());
            return None;
        };
        let value = self.inside(Step::Key(key.text.clone()), |walker| walker.value(&variant.shape, value));
        let value = value.unwrap_or_else(|| self.placeholder(&variant.shape));
        Some([(variant.name.clone(), value)].into_iter().collect::<Map<_, _>>().into())
    }

    fn wrong_type(&mut self, shape: &Shape, node: &Node) -> Option<Json> {
        let found = match &node.value {
            Value::Null => "nothing is given".to_owned(),
            Value::Bool(value) => format!("{value} is given"),
            Value::Integer(value) => format!("the number {value} is given"),
            Value::Number(text) => format!("the number {} is given", shorten(text)),
            Value::Text(text) => format!("the text \"{}\" is given", shorten(text)),
            Value::List(_) => "a list is given".to_owned(),
            Value::Map(_) => "a map is given".to_owned(),
        };
        let fix = match (&shape.kind, &node.value) {
            (Kind::Flag, _) => "write true or false".to_owned(),
            (Kind::Integer { min, max }, _) => format!("write a whole number from {min} to {max}, without quotes"),
            (Kind::Text(format), Value::Integer(_) | Value::Bool(_) | Value::Number(_))
                if !matches!(format, super::shape::Format::Span | super::shape::Format::ByteSize) =>
            {
                format!("write {}; put it in quotes", format.describe())
            }
            (Kind::Text(format), _) => format!("write {}", format.describe()),
            (Kind::Words(words), _) => format!("write one of {}", join(words.iter().map(|word| word.text.as_str()))),
            (Kind::List { .. }, Value::Null) => "write [] or leave the key out".to_owned(),
            (Kind::List { .. }, _) => "write a list: [a, b], or one `- ` line for each".to_owned(),
            (Kind::Record(fields), _) => {
                format!("write a map with {}", join(fields.iter().map(|field| field.name.as_str())))
            }
            (Kind::Variants(variants), Value::Text(text)) if variants.iter().any(|variant| variant.name == *text) => {
                let names = join(variants.iter().map(|variant| variant.name.as_str()));
                format!("write {{ {text}: ... }}, a map with one of {names}")
            }
            (Kind::Variants(variants), _) => {
                format!("write a map with one of {}", join(variants.iter().map(|variant| variant.name.as_str())))
            }
            (Kind::Dictionary(_), _) => "write a map: {key: value}".to_owned(),
        };
        self.refuse(node, found, fix)
    }
}

fn suggestion<'w>(word: &str, known: impl Iterator<Item = &'w str> + Clone) -> String {
    match suggest::nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of {}", join(known)),
    }
}

fn join<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

fn lowercase_first(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut chars = line.trim_end_matches('.').chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
