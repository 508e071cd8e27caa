//! Bindings.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{Row, View, seconds, time, when};
use crate::output::{Cell, Style};

/// A client key and its backend.
#[derive(Clone, Debug, Serialize)]
pub struct BindingView {
    /// `farm/service`.
    pub service: String,
    /// The key's hash; keys themselves are not kept.
    pub key_hash: String,
    /// The backend's own name.
    pub backend: String,
    /// Its id.
    pub backend_id: u32,
    /// It never expires.
    pub pinned: bool,
    /// Log index of the entry that made it; zero when not kept.
    pub created_index: u64,
    /// When it was made, when that is kept.
    pub create_time: Option<String>,
    /// When it was renewed.
    pub renew_time: Option<String>,
    /// When it ends unless it is renewed.
    pub expire_time: Option<String>,
    /// Why it moved the last time; empty when it never did.
    pub rehome_cause: String,
}

impl From<&proto::Binding> for BindingView {
    fn from(binding: &proto::Binding) -> Self {
        Self {
            service: binding.service.clone(),
            key_hash: binding.key_hash.clone(),
            backend: binding.backend.clone(),
            backend_id: binding.backend_id,
            pinned: binding.pinned,
            created_index: binding.created_index,
            create_time: time(binding.create_time.as_ref()),
            renew_time: time(binding.renew_time.as_ref()),
            expire_time: time(binding.expire_time.as_ref()),
            rehome_cause: binding.rehome_cause.clone(),
        }
    }
}

impl Row for BindingView {
    const NONE: &'static str = "no bindings";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &["SERVICE", "KEY HASH", "BACKEND", "PINNED", "RENEWED", "ENDS", "MOVED BECAUSE", "MADE AT", "INDEX"]
        } else {
            &["SERVICE", "KEY HASH", "BACKEND", "PINNED", "ENDS", "MOVED BECAUSE"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let pinned = if self.pinned { "yes" } else { "" };
        let mut cells: Vec<Cell> =
            vec![self.service.clone().into(), self.key_hash.clone().into(), self.backend.clone().into(), pinned.into()];
        if wide {
            cells.push(when(self.renew_time.as_ref()).into());
        }
        cells.extend([when(self.expire_time.as_ref()).into(), self.rehome_cause.clone().into()]);
        if wide {
            cells.extend([when(self.create_time.as_ref()).into(), Cell::number(self.created_index)]);
        }
        cells
    }
}

impl View for BindingView {
    fn text(&self, _: Style) -> String {
        let pinned = if self.pinned { ", pinned" } else { "" };
        let mut text = format!("{} {} -> {}{pinned}\n", self.service, self.key_hash, self.backend);
        let lines = [("made", &self.create_time), ("renewed", &self.renew_time), ("ends", &self.expire_time)];
        for (name, time) in lines.into_iter().filter_map(|(name, time)| time.as_ref().map(|time| (name, time))) {
            text.push_str(&format!("  {name} {}\n", seconds(time)));
        }
        if !self.rehome_cause.is_empty() {
            text.push_str(&format!("  moved because of {}\n", self.rehome_cause));
        }
        text
    }
}
