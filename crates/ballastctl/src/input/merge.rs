//! Puts texts together line by line, so that comments and order survive.
//!
//! Knows only the plainest form: a mapping at column 1 whose lists are written with dashes below
//! their key. Anything else is `None`, and the caller has another way; the caller also checks that
//! the result means what the parts mean together.

/// Where a line of the merged text comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Which text.
    pub file: usize,
    /// Line in it, from 1.
    pub line: u32,
    /// Columns by which the line was moved to the right.
    pub shift: i64,
}

/// The texts as one.
pub struct Merged {
    pub text: String,
    pub origin: Vec<Option<Origin>>,
}

/// Columns before the dash of each list item.
const INDENT: usize = 2;
/// Keys of the document, in the order in which they are written.
const KEYS: [&str; 4] = ["version", "cluster", "vips", "farms"];

struct Line<'a> {
    text: &'a str,
    origin: Origin,
}

/// A key at column 1, the comments above it, and what is below it.
struct Section<'a> {
    comments: Vec<Line<'a>>,
    head: Line<'a>,
    body: Vec<Line<'a>>,
}

/// Merges, or does not know how.
pub fn by_lines(texts: &[&str]) -> Option<Merged> {
    let mut sections: [Vec<Section<'_>>; 4] = Default::default();
    for (file, text) in texts.iter().enumerate() {
        split(file, text, &mut sections)?;
    }
    let mut merged = Merged { text: String::new(), origin: Vec::new() };
    let [versions, clusters, vips, farms] = sections;
    let version = versions.into_iter().next()?;
    merged.put(version.comments.iter().chain([&version.head]).chain(&version.body), 0)?;
    for section in &clusters {
        merged.put(section.comments.iter().chain([&section.head]).chain(&section.body), 0)?;
    }
    for (key, sections) in [("vips:", vips), ("farms:", farms)] {
        merged.list(key, &sections)?;
    }
    Some(merged)
}

/// Splits a text at its keys.
fn split<'a>(file: usize, text: &'a str, sections: &mut [Vec<Section<'a>>; 4]) -> Option<()> {
    let mut comments = Vec::new();
    let mut last: Option<usize> = None;
    for (index, text) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = Line { text, origin: Origin { file, line: u32::try_from(index + 1).ok()?, shift: 0 } };
        let nothing = text.trim().is_empty() || text.trim_start().starts_with('#');
        if text == "---" && last.is_none() {
            continue;
        }
        // A comment at column 1 belongs to what follows, one further in to where it stands.
        if nothing && (last.is_none() || text.starts_with('#')) {
            comments.push(line);
        } else if nothing || text.starts_with([' ', '-']) {
            let section = sections[last?].last_mut()?;
            section.body.append(&mut comments);
            section.body.push(line);
        } else {
            let key = KEYS.iter().position(|key| text.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))?;
            let list = key >= 2;
            let value = text.split_once(':')?.1.trim_start();
            if list && !value.is_empty() && !value.starts_with('#') {
                return None;
            }
            sections[key].push(Section { comments: std::mem::take(&mut comments), head: line, body: Vec::new() });
            last = Some(key);
        }
    }
    let last = last?;
    sections[last].last_mut()?.body.append(&mut comments);
    Some(())
}

impl Merged {
    fn list(&mut self, key: &str, sections: &[Section<'_>]) -> Option<()> {
        // The comment above the first key stays above it.
        if let Some(first) = sections.first() {
            self.put(first.comments.iter(), 0)?;
            self.push(key, None);
        }
        for (index, section) in sections.iter().enumerate() {
            let indent = indent_of(section)?;
            let shift = i64::try_from(INDENT).ok()? - i64::try_from(indent).ok()?;
            if index > 0 {
                self.put(section.comments.iter(), i64::try_from(INDENT).ok()?)?;
            }
            self.put(section.body.iter(), shift)?;
        }
        Some(())
    }

    fn put<'a>(&mut self, lines: impl Iterator<Item = &'a Line<'a>>, shift: i64) -> Option<()> {
        for Line { text, origin } in lines {
            let moved = if text.trim().is_empty() {
                String::new()
            } else if shift >= 0 {
                format!("{}{text}", " ".repeat(usize::try_from(shift).ok()?))
            } else {
                let cut = usize::try_from(-shift).ok()?;
                let lead = text.len() - text.trim_start_matches(' ').len();
                // Only a comment may stand further left than its list.
                if lead < cut && !text.trim_start().starts_with('#') {
                    return None;
                }
                text[cut.min(lead)..].to_owned()
            };
            self.push(&moved, Some(Origin { shift, ..*origin }));
        }
        Some(())
    }

    fn push(&mut self, line: &str, origin: Option<Origin>) {
        self.text.push_str(line);
        self.text.push('\n');
        self.origin.push(origin);
    }
}

/// Columns before the first dash of a list.
fn indent_of(section: &Section<'_>) -> Option<usize> {
    let first = section.body.iter().map(|line| line.text).find(|text| {
        let text = text.trim_start();
        !text.is_empty() && !text.starts_with('#')
    })?;
    let indent = first.len() - first.trim_start_matches(' ').len();
    first[indent..].starts_with('-').then_some(indent)
}
