//! The reference page of the configuration, from the types' own documentation.

use std::fmt::Write as _;

use super::{
    shape::{DOCUMENT, Field, Kind, Shape},
    yaml::flow,
};

/// The reference page as Markdown: every type once, every field with type, default and meaning.
pub fn markdown() -> String {
    let mut page = Page { text: String::new(), waiting: Vec::new(), done: Vec::new() };
    page.text.push_str(HEAD);
    page.section("The document", &DOCUMENT);
    let mut next = 0;
    while next < page.waiting.len() {
        let shape = page.waiting[next].clone();
        page.section(&shape.name.clone().unwrap_or_default(), &shape);
        next += 1;
    }
    page.text
}

const HEAD: &str = "# Configuration reference

This page is generated from the types; `make docs` writes it again. The JSON Schema beside it,
`ballast.schema.json`, is for editors: put

```yaml
# yaml-language-server: $schema=docs/reference/ballast.schema.json
```

at the top of a file. One document is the whole desired state of a cluster, as YAML or JSON.
Unknown and repeated keys are refused, and all mistakes are reported at once.

- *length of time*: a whole number and `ms`, `s`, `m`, `h` or `d`: `500ms`, `5s`, `30m`, `8h`, `7d`.
- *size*: a whole number and `B`, `KiB`, `MiB` or `GiB`: `512B`, `64KiB`, `16MiB`.
- *name*: 1 to 63 of `a-z`, `0-9`, dot, dash and underscore, beginning with a letter or a digit.
- A field with the default `required` must be given; `-` means that it is absent unless given.
";

struct Page {
    text: String,
    waiting: Vec<Shape>,
    done: Vec<String>,
}

impl Page {
    fn section(&mut self, title: &str, shape: &Shape) {
        write!(self.text, "\n## {title}\n\n{}\n\n", paragraph(&shape.description)).expect(INFALLIBLE);
        match &shape.kind {
            Kind::Record(fields) => {
                self.text.push_str("| field | type | default | meaning |\n|---|---|---|---|\n");
                for field in fields {
                    self.field(field);
                }
            }
            Kind::Variants(variants) => {
                self.text.push_str("Exactly one of:\n\n| key | type | meaning |\n|---|---|---|\n");
                for variant in variants {
                    let kind = self.kind(&variant.shape);
                    writeln!(self.text, "| `{}` | {kind} | {} |", variant.name, cell(&variant.description))
                        .expect(INFALLIBLE);
                }
            }
            Kind::Words(words) => {
                self.text.push_str("| value | meaning |\n|---|---|\n");
                for word in words {
                    writeln!(self.text, "| `{}` | {} |", word.text, cell(&word.description)).expect(INFALLIBLE);
                }
            }
            _ => {
                let kind = self.kind(&Shape { name: None, ..shape.clone() });
                writeln!(self.text, "{kind}").expect(INFALLIBLE);
            }
        }
    }

    fn field(&mut self, field: &Field) {
        let kind = self.kind(&field.shape);
        let default = match (&field.default, field.required) {
            (_, true) => "required".to_owned(),
            (None | Some(serde_json::Value::Null), _) => "-".to_owned(),
            (Some(serde_json::Value::Object(entries)), _) if entries.is_empty() => "`{}`".to_owned(),
            (Some(serde_json::Value::Object(_)), _) => "its fields' defaults".to_owned(),
            (Some(value), _) => format!("`{}`", flow(value, Some(&field.shape)).replace('|', "\\|")),
        };
        let meaning = cell(&field.description);
        writeln!(self.text, "| `{}` | {kind} | {default} | {meaning} |", field.name).expect(INFALLIBLE);
    }

    /// A type in words; one with a section of its own is linked and put in the queue.
    fn kind(&mut self, shape: &Shape) -> String {
        if let (Some(name), Kind::Record(_) | Kind::Variants(_) | Kind::Words(_)) = (&shape.name, &shape.kind) {
            if !self.done.contains(name) {
                self.done.push(name.clone());
                self.waiting.push(shape.clone());
            }
            return format!("[{name}](#{})", name.to_lowercase());
        }
        match &shape.kind {
            Kind::Text(format) => format.name().to_owned(),
            Kind::Integer { min, max } if *max >= u64::from(u32::MAX) => format!("number, at least {min}"),
            Kind::Integer { min, max } if min == max => format!("{min}"),
            Kind::Integer { min, max } => format!("number, {min} to {max}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::List { item, .. } => format!("list of {}", self.kind(item)),
            Kind::Dictionary(item) => format!("map of {}", self.kind(item)),
            Kind::Record(_) | Kind::Variants(_) => "map".to_owned(),
            Kind::Words(words) => words.iter().map(|w| format!("`{}`", w.text)).collect::<Vec<_>>().join(", "),
        }
    }
}

const INFALLIBLE: &str = "writing to a String does not fail";

fn paragraph(text: &str) -> String {
    text.trim().to_owned()
}

fn cell(text: &str) -> String {
    text.trim().replace('\n', " ").replace('|', "\\|")
}
