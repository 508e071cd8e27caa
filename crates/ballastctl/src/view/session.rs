//! The session store.

use std::collections::BTreeMap;

use ballast_core::config::ByteSize;
use ballast_proto::admin::v1::{self as proto, session_value::Value};
use serde::Serialize;

use super::{Row, View, millis, seconds, time, when};
use crate::{
    key::shown,
    output::{Cell, Paint, Style, Table},
};

/// A key of the session store.
#[derive(Clone, Debug, Serialize)]
pub struct SessionKeyView {
    /// The key; bytes that are no text as `\xNN`.
    pub key: String,
    /// Its keyed hash, as the history names it.
    pub key_hash: String,
    /// `string`, `hash` or `set`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is left of its life; null when it has no end.
    pub ttl_ms: Option<u64>,
    /// When its life ends.
    pub expire_time: Option<String>,
    /// What it is counted as against `memory_max`.
    pub bytes: u64,
    /// Bytes of a string, fields of a hash, members of a set.
    pub length: u64,
}

impl From<&proto::SessionKey> for SessionKeyView {
    fn from(key: &proto::SessionKey) -> Self {
        Self {
            key: shown(&key.key),
            key_hash: key.key_hash.clone(),
            kind: key.r#type.clone(),
            ttl_ms: millis(key.ttl.as_ref()),
            expire_time: time(key.expire_time.as_ref()),
            bytes: key.bytes,
            length: key.length,
        }
    }
}

impl SessionKeyView {
    fn ttl(&self) -> String {
        self.ttl_ms.map(short).unwrap_or_default()
    }

    fn size(&self) -> String {
        let unit = match self.kind.as_str() {
            "hash" => "fields",
            "set" => "members",
            _ => "bytes",
        };
        format!("{} {unit}, {} B of memory", self.length, self.bytes)
    }
}

/// A length of time in its two largest units.
fn short(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

impl Row for SessionKeyView {
    const NONE: &'static str = "no keys";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &["KEY", "TYPE", "TTL", "MEMORY", "LENGTH", "ENDS", "KEY HASH"]
        } else {
            &["KEY", "TYPE", "TTL", "MEMORY", "LENGTH"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let mut cells = vec![
            self.key.clone().into(),
            self.kind.clone().into(),
            Cell::number(self.ttl()),
            Cell::number(self.bytes),
            Cell::number(self.length),
        ];
        if wide {
            cells.extend([when(self.expire_time.as_ref()).into(), self.key_hash.clone().into()]);
        }
        cells
    }
}

/// A key with its value, if that was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct SessionKeyDetail {
    /// What is known of it.
    #[serde(flatten)]
    pub key: SessionKeyView,
    /// What it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<SessionValueView>,
}

/// What a key holds: a string, an object of fields, or an array of members.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum SessionValueView {
    /// A string.
    Text(String),
    /// A hash.
    Fields(BTreeMap<String, String>),
    /// A set.
    Members(Vec<String>),
}

impl SessionKeyDetail {
    /// What the node answered.
    pub fn new(response: &proto::GetSessionKeyResponse) -> Self {
        let key = SessionKeyView::from(&response.key.clone().unwrap_or_default());
        let value = response.value.as_ref().and_then(|value| value.value.as_ref());
        let value = value.map(|value| match value {
            Value::Text(text) => SessionValueView::Text(shown(text)),
            Value::Fields(fields) => SessionValueView::Fields(
                fields.fields.iter().map(|field| (shown(&field.name), shown(&field.value))).collect(),
            ),
            Value::Members(members) => {
                let mut members: Vec<_> = members.members.iter().map(|member| shown(member)).collect();
                members.sort();
                SessionValueView::Members(members)
            }
        });
        Self { key, value }
    }
}

impl View for SessionKeyDetail {
    fn text(&self, _: Style) -> String {
        let key = &self.key;
        let mut text = format!("{}: {}, {}\n  hash {}\n", key.key, key.kind, key.size(), key.key_hash);
        text.push_str(&match &key.expire_time {
            Some(end) => format!("  ends in {}, at {}\n", key.ttl(), seconds(end)),
            None => "  has no end\n".to_owned(),
        });
        match &self.value {
            None => {}
            Some(SessionValueView::Text(value)) => text.push_str(&format!("  value {value}\n")),
            Some(SessionValueView::Fields(fields)) => {
                text.extend(fields.iter().map(|(name, value)| format!("  {name} = {value}\n")));
            }
            Some(SessionValueView::Members(members)) => {
                text.extend(members.iter().map(|member| format!("  {member}\n")));
            }
        }
        text
    }
}

/// A key was deleted.
#[derive(Clone, Debug, Serialize)]
pub struct SessionDeletedView {
    /// True when nothing was changed.
    pub dry_run: bool,
    /// Index of the log entry; zero when nothing was changed.
    pub log_index: u64,
    /// The key as it was; null when it was not there.
    pub key: Option<SessionKeyView>,
}

impl View for SessionDeletedView {
    fn text(&self, _: Style) -> String {
        let would = if self.dry_run { "would be" } else { "is" };
        match &self.key {
            Some(key) => format!("{} {would} deleted ({}, {})\n", key.key, key.kind, key.size()),
            None => "there is no such key\n".to_owned(),
        }
    }
}

/// Figures of the session store.
#[derive(Clone, Debug, Serialize)]
pub struct SessionStatsView {
    /// The document in force has a session store.
    pub enabled: bool,
    /// What all keys are counted as in memory.
    pub bytes: u64,
    /// The document's bound of it.
    pub memory_max: u64,
    /// What gives way when it is reached.
    pub eviction: String,
    /// Keys whose lives ended.
    pub expired: u64,
    /// Keys that gave way.
    pub evicted: u64,
    /// Changes of keys.
    pub changes: u64,
    /// Each keyspace.
    pub keyspaces: Vec<KeyspaceView>,
}

/// A keyspace.
#[derive(Clone, Debug, Serialize)]
pub struct KeyspaceView {
    /// Its name; its number when it has none.
    pub name: String,
    /// Number of its database.
    pub database: u32,
    /// Keys.
    pub keys: u64,
    /// Keys among them whose lives have an end.
    pub ending: u64,
    /// What they are counted as in memory.
    pub bytes: u64,
}

impl From<&proto::SessionStatsResponse> for SessionStatsView {
    fn from(stats: &proto::SessionStatsResponse) -> Self {
        let keyspace = |keyspace: &proto::Keyspace| KeyspaceView {
            name: keyspace.name.clone(),
            database: keyspace.database,
            keys: keyspace.keys,
            ending: keyspace.ending,
            bytes: keyspace.bytes,
        };
        Self {
            enabled: stats.enabled,
            bytes: stats.bytes,
            memory_max: stats.memory_max,
            eviction: stats.eviction.clone(),
            expired: stats.expired,
            evicted: stats.evicted,
            changes: stats.changes,
            keyspaces: stats.keyspaces.iter().map(keyspace).collect(),
        }
    }
}

impl View for SessionStatsView {
    fn text(&self, style: Style) -> String {
        let Self { bytes, memory_max, eviction, expired, evicted, changes, .. } = self;
        let share = bytes.saturating_mul(100) / (*memory_max).max(1);
        let paint = if share >= 90 { Paint::Bad } else { Paint::Plain };
        let share = style.paint(paint, &format!("{share} %"));
        let mut text = if self.enabled { String::new() } else { "the document has no session store\n".to_owned() };
        text.push_str(&format!("memory   {bytes} B of {}, {share}; {eviction}\n", size(*memory_max)));
        text.push_str(&format!("expired  {expired}\nevicted  {evicted}\nchanges  {changes}\n"));
        if !self.keyspaces.is_empty() {
            let mut table = Table::new(&["KEYSPACE", "DATABASE", "KEYS", "WITH AN END", "MEMORY"]);
            for keyspace in &self.keyspaces {
                table.row(vec![
                    keyspace.name.clone().into(),
                    Cell::number(keyspace.database),
                    Cell::number(keyspace.keys),
                    Cell::number(keyspace.ending),
                    Cell::number(keyspace.bytes),
                ]);
            }
            text.push('\n');
            text.push_str(&table.render(style));
        }
        text
    }
}

fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

/// A keyspace was emptied.
#[derive(Clone, Debug, Serialize)]
pub struct FlushView {
    /// True when nothing was changed.
    pub dry_run: bool,
    /// Which.
    pub keyspace: String,
    /// Keys that were removed, or would be.
    pub keys: u64,
    /// Index of the log entry; zero when nothing was changed.
    pub log_index: u64,
}

impl View for FlushView {
    fn text(&self, _: Style) -> String {
        let Self { keyspace, keys, .. } = self;
        let would = if self.dry_run { "would be" } else { "were" };
        format!("{keys} keys of keyspace {keyspace} {would} removed\n")
    }
}

/// A password's hash.
#[derive(Clone, Debug, Serialize)]
pub struct PasswordHashView {
    /// In PHC form.
    pub password_hash: String,
}

impl View for PasswordHashView {
    fn text(&self, _: Style) -> String {
        format!("{}\n", self.password_hash)
    }
}
