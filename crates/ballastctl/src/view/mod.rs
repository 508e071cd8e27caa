//! Answers in the form in which they are printed.
//!
//! One type for each answer. Its serde form is the contract with scripts (`-o json`: snake_case, times
//! in RFC 3339, names of enums as single words), its [`View::text`] is for people and may change.
//!
//! Not here: how an answer was got (`commands`), where it goes (`output`).

mod backend;
mod binding;
mod check;
mod cluster;
mod config;
mod diff;
mod explain;
mod failover;
mod history;
mod session;
#[cfg(test)]
mod tests;
mod user;
mod vip;

use std::time::Duration;

use ballast_proto::admin::v1 as proto;
use prost_types::Timestamp;
use serde::Serialize;

pub use backend::{BackendDetail, BackendView};
pub use binding::BindingView;
pub use check::{CheckStatus, CheckView, TroubleView};
pub use cluster::{
    CookieKeyView, NodeChangeView, NodeView, SnapshotView, StatusView, TokenView, TransferView, VipBrief,
};
pub use config::{ApplyView, ConfigView, MistakeView, OperatorStateView, PendingView, UnheldView, ValidateView};
pub use diff::{ChangeKind, ChangeLine, DiffView};
pub use explain::ExplainView;
pub use failover::{OutageView, PlansView, TrialView};
pub use history::{EventView, RevisionChange, RevisionDetail, RevisionView, TransitionView};
pub use session::{
    FlushView, PasswordHashView, SessionDeletedView, SessionKeyDetail, SessionKeyView, SessionStatsView,
};
pub use user::{IssuedView, RevokedView, UserView};
pub use vip::VipView;

use crate::output::{Cell, Style, Table};

/// Something that can be printed.
pub trait View: Serialize {
    /// For people: whole lines.
    fn text(&self, style: Style) -> String;
}

/// Something that a table has one line of.
pub trait Row: Serialize {
    /// What to say when there is none.
    const NONE: &'static str;

    /// Heads of the columns.
    fn heads(wide: bool) -> &'static [&'static str];

    /// One cell for each head.
    fn cells(&self, wide: bool) -> Vec<Cell>;
}

/// Several of a kind; an array in JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct List<T>(pub Vec<T>);

impl<T: Row> View for List<T> {
    fn text(&self, style: Style) -> String {
        if self.0.is_empty() {
            return format!("{}\n", T::NONE);
        }
        let mut table = Table::new(T::heads(style.wide));
        for row in &self.0 {
            table.row(row.cells(style.wide));
        }
        table.render(style)
    }
}

impl<T, P> FromIterator<P> for List<T>
where
    T: From<P>,
{
    fn from_iter<I: IntoIterator<Item = P>>(iter: I) -> Self {
        Self(iter.into_iter().map(T::from).collect())
    }
}

/// Who changed something, when and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChangeView {
    /// Index of the log entry.
    pub log_index: u64,
    /// Log time.
    pub time: Option<String>,
    /// Who.
    pub author: String,
    /// Why.
    pub message: String,
}

impl From<&proto::Change> for ChangeView {
    fn from(change: &proto::Change) -> Self {
        Self {
            log_index: change.log_index,
            time: time(change.log_time.as_ref()),
            author: change.author.clone(),
            message: change.message.clone(),
        }
    }
}

impl ChangeView {
    /// In words: `alice at 2026-01-02T03:04:05Z: why`.
    pub fn words(&self) -> String {
        let mut words = if self.author.is_empty() { "nobody named".to_owned() } else { self.author.clone() };
        if let Some(time) = &self.time {
            words.push_str(&format!(" at {}", seconds(time)));
        }
        if !self.message.is_empty() {
            words.push_str(&format!(": {}", self.message));
        }
        words
    }
}

pub(crate) fn change(change: Option<&proto::Change>) -> ChangeView {
    change.map(ChangeView::from).unwrap_or_default()
}

/// A time in RFC 3339.
pub(crate) fn time(time: Option<&Timestamp>) -> Option<String> {
    time.map(ToString::to_string)
}

/// A time without the part below seconds, for columns.
pub(crate) fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

/// As [`seconds`], empty when there is none.
pub(crate) fn when(time: Option<&String>) -> String {
    time.map(|time| seconds(time)).unwrap_or_default()
}

/// Whole milliseconds of a length of time; zero for negative ones.
pub(crate) fn millis(span: Option<&prost_types::Duration>) -> Option<u64> {
    span.map(|span| Duration::try_from(*span).unwrap_or_default()).and_then(|span| u64::try_from(span.as_millis()).ok())
}

/// An enum of the API as one word of lower case; an unknown number is said as it is.
macro_rules! word {
    ($enum:ty, $prefix:literal, $value:expr) => {
        match <$enum>::try_from($value) {
            Ok(known) => known.as_str_name().trim_start_matches($prefix).to_ascii_lowercase(),
            Err(_) => format!("unknown_{}", $value),
        }
    };
}
pub(crate) use word;
