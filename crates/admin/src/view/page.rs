//! Lists page by page, newest first.

use crate::error::{self, ApiError};

/// Place of an item in a list: a log index or revision, and a number within it. Places fall along
/// the list, so a page goes on below the last place of the one before, whatever was added above.
pub type Place = (u64, u32);

/// One page of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    size: usize,
    below: Option<Place>,
}

impl Page {
    /// Reads what the caller asked for.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a token that no page answered.
    pub fn parse(size: u32, token: &str, default: usize, max: usize) -> Result<Self, ApiError> {
        let size = match size {
            0 => default,
            size => (size as usize).min(max),
        };
        let below = match token {
            "" => None,
            token => Some(place(token).ok_or_else(|| {
                error::invalid("page_token", "no page answered it", "use next_page_token of the page before")
            })?),
        };
        Ok(Self { size, below })
    }

    /// Takes the page out of the whole list, and the token of the next one.
    pub fn cut<T, U>(
        &self,
        items: impl IntoIterator<Item = T>,
        place: impl Fn(&T) -> Place,
        make: impl Fn(T) -> U,
    ) -> (Vec<U>, String) {
        let mut rest = items.into_iter().filter(|item| self.below.is_none_or(|below| place(item) < below));
        let mut page = Vec::new();
        let mut last = None;
        for item in rest.by_ref().take(self.size) {
            last = Some(place(&item));
            page.push(make(item));
        }
        let token = match (last, rest.next()) {
            (Some((index, number)), Some(_)) => format!("{index}.{number}"),
            _ => String::new(),
        };
        (page, token)
    }
}

fn place(token: &str) -> Option<Place> {
    let (index, number) = token.split_once('.')?;
    Some((index.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_the_list_once() {
        let items: Vec<Place> = (0..25).rev().map(|n| (n / 3, (n % 3) as u32)).collect();
        let mut token = String::new();
        let mut seen = Vec::new();
        loop {
            let page = Page::parse(4, &token, 50, 500).expect("a page");
            let (mut some, next) = page.cut(items.iter().copied(), |place| *place, |place| place);
            assert!(some.len() <= 4);
            seen.append(&mut some);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, items);
        assert!(Page::parse(1, "nonsense", 50, 500).is_err());
        let all =
            Page::parse(0, "", 50, 500).expect("a page").cut(items.iter().copied(), |place| *place, |place| place);
        assert_eq!((all.0.len(), all.1.as_str()), (25, ""));
    }
}
