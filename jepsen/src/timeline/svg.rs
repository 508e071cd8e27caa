//! The few shapes that the picture needs, as text that is well formed whatever is written in it.

use std::fmt::Write;

/// Where a text lies relative to its place.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// Shapes in the order in which they are painted: what lies in the background goes apart.
#[derive(Default)]
pub(super) struct Svg {
    background: String,
    shapes: String,
}

type Pair = (f64, f64);

impl Svg {
    /// A bar with a text that browsers show over it.
    pub(super) fn bar(&mut self, (x, y): Pair, (width, height): Pair, colour: &str, tip: &str) {
        let tip = escape(tip);
        let _ = writeln!(
            self.shapes,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}" fill-opacity="0.85"><title>{tip}</title></rect>"#
        );
    }

    pub(super) fn frame(&mut self, (x, y): Pair, (width, height): Pair) {
        let _ = writeln!(
            self.background,
            r##"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="none" stroke="#cccccc"/>"##
        );
    }

    /// A thin straight line in the background.
    pub(super) fn rule(&mut self, (x1, y1): Pair, (x2, y2): Pair, colour: &str) {
        let _ = writeln!(
            self.background,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#
        );
    }

    pub(super) fn line(&mut self, points: &[Pair], colour: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.shapes,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.3"/>"#,
            points.join(" ")
        );
    }

    pub(super) fn text(&mut self, x: f64, y: f64, size: u8, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = writeln!(
            self.shapes,
            r##"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}" fill="#222222">{text}</text>"##
        );
    }

    pub(super) fn finish(self, width: f64, height: f64, title: &str) -> String {
        let (background, shapes, title) = (self.background, self.shapes, escape(title));
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="sans-serif" role="img">
<title>{title}</title>
<rect width="100%" height="100%" fill="#ffffff"/>
{background}{shapes}</svg>
"##
        )
    }
}

/// Text that means nothing but itself in XML; what XML cannot hold becomes a question mark.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            control if control.is_control() => escaped.push('?'),
            plain => escaped.push(plain),
        }
    }
    escaped
}
