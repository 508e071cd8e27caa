//! Columns: as wide as their widest cell, two spaces apart, nothing around them.

use super::Style;

/// What a colour says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paint {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be, or added.
    Good,
    /// Wants a look, or changed.
    Warn,
    /// Wrong, or removed.
    Bad,
    /// Beside the point.
    Faint,
    /// A head.
    Strong,
}

impl Paint {
    /// The SGR parameter, when there is one.
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
            Self::Strong => Some("1"),
        }
    }
}

/// One value.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    paint: Paint,
    right: bool,
}

impl Cell {
    /// Text in a colour.
    pub fn painted(paint: Paint, text: impl Into<String>) -> Self {
        Self { text: text.into(), paint, right: false }
    }

    /// A number: aligned to the right.
    pub fn number(number: impl ToString) -> Self {
        Self { text: number.to_string(), paint: Paint::Plain, right: true }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::painted(Paint::Plain, text)
    }
}

/// Rows under heads.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| Cell::painted(Paint::Strong, *head)).collect()] }
    }

    /// Adds a row; one cell for each head.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.rows[0].len());
        self.rows.push(cells);
    }

    /// The text, one line a row. An empty cell is a dash, so that columns can be counted.
    pub fn render(&self, style: Style) -> String {
        let columns = self.rows[0].len();
        let shown = |cell: &Cell| if cell.text.is_empty() { "-".to_owned() } else { cell.text.replace('\n', " ") };
        let width = |column: usize| self.rows.iter().map(|row| shown(&row[column]).chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        let right: Vec<_> = (0..columns).map(|column| self.rows.iter().any(|row| row[column].right)).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let shown = shown(cell);
                let pad = " ".repeat(widths[column] - shown.chars().count());
                let painted = style.paint(cell.paint, &shown);
                let last = column + 1 == columns;
                match (right[column], last) {
                    (true, _) => text.push_str(&format!("{pad}{painted}")),
                    (false, true) => text.push_str(&painted),
                    (false, false) => text.push_str(&format!("{painted}{pad}")),
                }
                text.push_str(if last { "\n" } else { "  " });
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "COUNT", "WHY"]);
        table.row(vec!["a".into(), Cell::number(5), "x".into()]);
        table.row(vec!["bärbel".into(), Cell::number(12345678), Cell::default()]);
        assert_eq!(table.render(Style::default()), "NAME       COUNT  WHY\na              5  x\nbärbel  12345678  -\n");
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec![Cell::painted(Paint::Bad, "down"), "x".into()]);
        let text = table.render(Style { color: true, wide: false });
        assert_eq!(text, "\x1b[1mA\x1b[0m     \x1b[1mB\x1b[0m\n\x1b[31mdown\x1b[0m  x\n");
    }
}
