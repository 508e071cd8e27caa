//! What arrives is whole, or says that it is not.
//!
//! A client sends bytes and has them sent back. It may get them, or learn that it did not: by an error's status, a reset, a body
//! that ends before its announced length. It must not be told that all went well and hold something else.

use serde::{Deserialize, Serialize};

use crate::time::Span;
use crate::verdict::{Judgement, Promise};

/// A body that came back with the status of success, whole as far as HTTP tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// By which the access log knows it.
    pub id: String,
    /// Bytes sent.
    pub sent: usize,
    /// Bytes that came back.
    pub received: usize,
    /// The first byte that differs, if one does.
    pub differs_at: Option<usize>,
    /// When it was sent and when all was there.
    pub span: Span,
}

impl Transfer {
    /// Compares what came back with what was sent.
    pub fn compare(id: String, sent: &[u8], received: &[u8], span: Span) -> Self {
        let differs_at = sent.iter().zip(received).position(|(a, b)| a != b);
        Self { id, sent: sent.len(), received: received.len(), differs_at, span }
    }
}

/// Judges them. `failed` says how many were known not to have arrived.
pub fn judge(transfers: &[Transfer], failed: usize) -> Judgement {
    let bytes = transfers.iter().map(|transfer| transfer.received).sum();
    let judgement = Judgement::new(Promise::Whole).looked_at("transfers", transfers.len());
    let mut judgement = judgement.count("bytes", bytes).count("known to have failed", failed);
    for Transfer { id, sent, received, differs_at, span } in transfers {
        if let Some(at) = differs_at {
            judgement.violated(format!("{span}: {id} came back with another byte {at} of {sent}"));
        } else if received != sent {
            judgement.violated(format!("{span}: {id} came back with {received} bytes of {sent}, as if that were all"));
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::RunTime;
    use crate::verdict::Ruling;

    fn ruled(sent: &[u8], received: &[u8]) -> Ruling {
        let span = Span::new(RunTime::from_millis(0), RunTime::from_millis(1));
        judge(&[Transfer::compare(String::from("1"), sent, received, span)], 3).ruling
    }

    #[test]
    fn what_is_whole_is_well_and_what_is_not_is_found() {
        assert_eq!(ruled(b"abc", b"abc"), Ruling::Held);
        assert_eq!(ruled(b"abc", b"ab"), Ruling::Violated);
        assert_eq!(ruled(b"abc", b"abcd"), Ruling::Violated);
        assert_eq!(ruled(b"abc", b"axc"), Ruling::Violated);
        assert_eq!(ruled(b"abc", b""), Ruling::Violated);
    }

    #[test]
    fn with_failures_only_nothing_is_shown() {
        assert_eq!(judge(&[], 7).ruling, Ruling::Undecided);
    }
}
