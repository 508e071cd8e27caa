//! Who a request says it is of: the `Basic` scheme (RFC 7617).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, header};

use super::refused::Refused;

/// A name and a password.
#[derive(PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: Bytes,
}

/// Without the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Reads them; `None` if there are none.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Credentials>, Refused> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let only = values.next().is_none();
    let words = value.to_str().ok().filter(|_| only).and_then(|text| text.split_once(' '));
    if words.is_some_and(|(scheme, _)| !scheme.eq_ignore_ascii_case("basic")) {
        // Of another scheme: whoever it is, it is told which one is known (RFC 9110, section 11.6.1).
        return Err(Refused::Stranger);
    }
    let decoded = words.and_then(|(_, coded)| STANDARD.decode(coded.trim()).ok());
    decoded.and_then(parse).map(Some).ok_or(Refused::BadField("Authorization"))
}

fn parse(mut decoded: Vec<u8>) -> Option<Credentials> {
    // The first colon ends the name, which has none (section 2).
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let password = Bytes::from(decoded.split_off(colon + 1));
    decoded.pop();
    Some(Credentials { user: String::from_utf8(decoded).ok()?, password })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(values: &[&str], expected: Option<Option<(&str, &str)>>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let expected = expected.map(|some| {
            some.map(|(user, password)| Credentials { user: user.to_owned(), password: password.to_owned().into() })
        });
        assert_eq!(of(&headers).ok(), expected, "{values:?}");
    }

    #[test]
    fn no_password_is_shown() {
        let shown = format!("{:?}", parse(b"anna:sesame".to_vec()));
        assert!(shown.contains("anna") && !shown.contains("sesame"), "{shown}");
    }

    #[test]
    fn names_end_at_the_first_colon_and_what_cannot_be_read_is_refused() {
        check(&[], Some(None));
        check(&["Basic c2hvcDpzZWNyZXQ="], Some(Some(("shop", "secret"))));
        check(&["basic c2hvcDphOmI="], Some(Some(("shop", "a:b"))));
        check(&["BASIC c2hvcDo="], Some(Some(("shop", ""))));
        check(&["Basic c2hvcDpzZWNyZXQ=", "Basic c2hvcDpzZWNyZXQ="], None);
        for wrong in
            ["Basic", "Basic ", "Basic c2hvcA==", "Basic c2hvcDpzZWNyZXQ", "Basic !", "Bearer c2hvcDpzZWNyZXQ="]
        {
            check(&[wrong], None);
        }
        check(&["Basic /zpzZWNyZXQ="], None);
    }
}
