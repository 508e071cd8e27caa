//! Where answers go: columns for people, JSON or YAML for programs, failures to standard error.
//!
//! Not here: what an answer looks like (`view`).

mod table;
mod yaml;

use std::io::{self, Write};

use crate::{args::Format, failure::Failure, view::View};

pub use table::{Cell, Paint, Table};
pub use yaml::to_yaml;

/// How text for people is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// More columns.
    pub wide: bool,
    /// With colours.
    pub color: bool,
}

impl Style {
    /// Text in a colour, when there are colours.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        match paint.code() {
            Some(code) if self.color => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// Standard output and standard error.
pub struct Screen<'a> {
    /// For people or for programs.
    pub format: Format,
    /// How text for people is made on standard output.
    pub style: Style,
    /// Colours on standard error.
    pub error_style: Style,
    /// What was asked for.
    pub out: &'a mut (dyn Write + Send),
    /// What else there is to say.
    pub err: &'a mut (dyn Write + Send),
}

impl Screen<'_> {
    /// Prints an answer.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn show(&mut self, view: &impl View) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table | Format::Wide => view.text(self.style),
            Format::Json => json(serde_json::to_string_pretty(view))? + "\n",
            Format::Yaml => to_yaml(&json(serde_json::to_value(view))?),
        };
        self.print(&text)
    }

    /// Prints one of a stream of answers.
    ///
    /// # Errors
    /// As [`Screen::show`].
    pub fn item(&mut self, view: &impl View) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table | Format::Wide => view.text(self.style),
            Format::Json => json(serde_json::to_string(view))? + "\n",
            Format::Yaml => format!("---\n{}", to_yaml(&json(serde_json::to_value(view))?)),
        };
        self.print(&text)
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// As [`Screen::show`].
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// Says something that is not the answer. That nobody hears it is no reason to fail.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// Warns.
    pub fn warn(&mut self, text: &str) {
        let head = self.error_style.paint(Paint::Warn, "warning:");
        self.note(&format!("{head} {text}"));
    }

    /// Prints a failure: what happened, what is wrong, what to do.
    pub fn fail(&mut self, failure: &Failure) {
        if self.format == Format::Json {
            return self.note(&failure.to_json());
        }
        let style = self.error_style;
        let head = match failure.stable_code() {
            "" => "error:".to_owned(),
            code => format!("error[{code}]:"),
        };
        let mut text = format!("{} {}\n", style.paint(Paint::Bad, &head), failure.message());
        for mistake in failure.mistake_list() {
            text.push_str(&format!("  {}\n", mistake.line(style)));
        }
        if let Some(diff) = failure.conflict() {
            for line in diff.conflict(style).lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
        for (index, remedy) in failure.remedies().iter().enumerate() {
            text.push_str(&format!("{} {remedy}\n", if index == 0 { "try:" } else { "    " }));
        }
        self.note(text.trim_end());
    }
}

fn json<T>(written: serde_json::Result<T>) -> Result<T, Failure> {
    written.map_err(|error| Failure::from(io::Error::other(error)))
}
