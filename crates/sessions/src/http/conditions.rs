//! The conditions of a request: `If-Match` and `If-None-Match` (RFC 9110, section 13.1).
//!
//! An entity tag is a hash of the value, so that whoever wrote a value knows its tag without reading again, when others
//! may have written meanwhile.

use http::{
    HeaderMap,
    header::{HeaderName, IF_MATCH, IF_NONE_MATCH},
};

use super::refused::Refused;

/// What must be so for a request to be carried out.
pub(super) struct Conditions {
    matches: Option<Tags>,
    matches_not: Option<Tags>,
}

/// Entity tags that a condition names.
enum Tags {
    /// `*`: whatever is there.
    Any,
    These(Vec<String>),
}

impl Conditions {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        Ok(Self { matches: tags(headers, &IF_MATCH)?, matches_not: tags(headers, &IF_NONE_MATCH)? })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.matches.is_none() && self.matches_not.is_none()
    }

    /// Whether a session with this tag may be written; `None` stands for one that is not there.
    pub(super) fn let_write(&self, tag: Option<&str>) -> bool {
        let take = |tags: &Tags| tag.is_some_and(|tag| tags.take(tag));
        self.matches.as_ref().is_none_or(take) && !self.matches_not.as_ref().is_some_and(take)
    }

    /// Whether `If-Match` lets a session with this tag be read.
    pub(super) fn let_read(&self, tag: Option<&str>) -> bool {
        self.matches.as_ref().is_none_or(|tags| tag.is_some_and(|tag| tags.take(tag)))
    }

    /// Whether who reads has the session with this tag already.
    pub(super) fn know(&self, tag: &str) -> bool {
        self.matches_not.as_ref().is_some_and(|tags| tags.take(tag))
    }
}

impl Tags {
    fn take(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|known| known == tag),
        }
    }
}

/// The tag of a value.
pub(super) fn tag_of(value: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(value).to_hex()[..32])
}

/// Reads a condition. Tags of ours have no comma in them, so a list is cut at commas.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Refused> {
    let mut these = Vec::new();
    for value in headers.get_all(name) {
        let unreadable = if *name == IF_MATCH { "If-Match" } else { "If-None-Match" };
        let text = value.to_str().map_err(|_| Refused::BadField(unreadable))?;
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if tag == "*" {
                return Ok(Some(Tags::Any));
            }
            let opaque = tag.strip_prefix("W/").unwrap_or(tag);
            // Somebody's may have a comma in it, and then pieces of it are met here.
            if !opaque.starts_with('"') && !opaque.ends_with('"') {
                return Err(Refused::BadField(unreadable));
            }
            // A weak tag is of the same value here, and never equal in If-Match (section 8.8.3.2).
            let tag = if *name == IF_NONE_MATCH { tag.trim_start_matches("W/") } else { tag };
            these.push(tag.to_owned());
        }
    }
    Ok(headers.contains_key(name).then_some(Tags::These(these)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn conditions_are_of_the_value() {
        let one = tag_of(b"one");
        let of = |name: HeaderName, value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            Conditions::of(&HeaderMap::from_iter([(name, value)])).ok().unwrap()
        };
        let none = Conditions::of(&HeaderMap::new()).ok().unwrap();
        assert!(none.is_empty() && none.let_write(None) && none.let_write(Some(&one)) && !none.know(&one));
        for (name, value, absent, present) in [
            (IF_MATCH, "*", false, true),
            (IF_MATCH, &one, false, true),
            (IF_MATCH, &format!("\"x\", {one}"), false, true),
            (IF_MATCH, &format!("W/{one}"), false, false),
            (IF_MATCH, "", false, false),
            (IF_MATCH, "\"x,y\"", false, false),
            (IF_NONE_MATCH, "*", true, false),
            (IF_NONE_MATCH, &format!("W/{one}"), true, false),
            (IF_NONE_MATCH, "\"x\"", true, true),
        ] {
            let conditions = of(name.clone(), value);
            let found = (conditions.let_write(None), conditions.let_write(Some(&one)));
            assert_eq!(found, (absent, present), "{name}: {value}");
        }
        for wrong in ["abc", "W/abc", "\"a\", b"] {
            let headers = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_str(wrong).unwrap())]);
            assert!(Conditions::of(&headers).is_err(), "{wrong}");
        }
        assert!(of(IF_NONE_MATCH, &one).let_read(Some(&one)) && of(IF_NONE_MATCH, &one).know(&one));
        assert!(!of(IF_MATCH, "\"x\"").let_read(Some(&one)) && !of(IF_MATCH, "*").let_read(None));
    }
}
