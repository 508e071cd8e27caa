//! What is wrong with a document, in words an operator can act on.

use std::fmt;

use serde::Serialize;

/// One mistake in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file, when the document was made of named texts.
    pub file: Option<String>,
    /// Line, counted from 1. Zero when the place is not known (canonical JSON has no lines).
    pub line: u32,
    /// Column in characters, counted from 1. Zero when the place is not known.
    pub column: u32,
    /// Where in the document: `farms[shop].services[site].backends[web1].address`.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub fix: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if self.file.is_some() || self.line > 0 {
            f.write_str(" ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// All mistakes of a document, in the order of the text. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistakes {
    list: Vec<Mistake>,
    omitted: usize,
}

impl Mistakes {
    /// Most mistakes that are kept; more are only counted. A reader stops long before.
    const MAX: usize = 200;

    /// Sorts by place and drops repetitions. `None` when there is nothing wrong.
    pub(super) fn collect(mut list: Vec<Mistake>) -> Option<Self> {
        if list.is_empty() {
            return None;
        }
        list.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        list.dedup();
        let omitted = list.len().saturating_sub(Self::MAX);
        list.truncate(Self::MAX);
        Some(Self { list, omitted })
    }

    /// The mistakes, in the order of the text.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.list.iter()
    }

    /// How many more there were than [`Mistakes::iter`] shows.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.list.len() + self.omitted {
            1 => f.write_str("1 mistake in the configuration")?,
            n => write!(f, "{n} mistakes in the configuration")?,
        }
        for mistake in &self.list {
            write!(f, "\n  {mistake}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n  and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
