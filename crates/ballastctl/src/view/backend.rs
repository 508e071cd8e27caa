//! Backends.

use ballast_proto::admin::v1 as proto;
use serde::Serialize;

use super::{ChangeView, Row, View, seconds, time, when, word};
use crate::output::{Cell, Paint, Style, Table};

/// A backend, what is wanted of it and how it is.
#[derive(Clone, Debug, Serialize)]
pub struct BackendView {
    /// Its farm.
    pub farm: String,
    /// Its service.
    pub service: String,
    /// Its own name.
    pub name: String,
    /// Stable id.
    pub id: u32,
    /// `address:port`.
    pub address: String,
    /// `ready`, `drain` or `maintenance`.
    pub admin: String,
    /// `up`, `down` or `unknown`.
    pub verdict: String,
    /// Since when the checks say so.
    pub verdict_time: Option<String>,
    /// In force.
    pub weight: u32,
    /// Of the document.
    pub document_weight: u32,
    /// Of an operator, when there is one.
    pub weight_override: Option<u32>,
    /// Used only when no other is left.
    pub backup: bool,
    /// Takes clients that are not bound to it.
    pub takes_new: bool,
    /// Bindings to it.
    pub bindings: u64,
    /// Connections one node may have open to it; zero means no limit.
    pub connections_max: u32,
    /// What each node's checks say.
    pub reports: Vec<ReportView>,
    /// Who last changed what is wanted of it.
    pub change: Option<ChangeView>,
    /// Changes with each change of it.
    pub etag: String,
}

/// What one node's checks say of a backend.
#[derive(Clone, Debug, Serialize)]
pub struct ReportView {
    /// The node.
    pub node: String,
    /// What it found.
    pub verdict: String,
    /// The last check in words.
    pub detail: String,
    /// When.
    pub time: Option<String>,
}

impl From<&proto::Backend> for BackendView {
    fn from(backend: &proto::Backend) -> Self {
        Self {
            farm: backend.farm.clone(),
            service: backend.service.clone(),
            name: backend.backend.clone(),
            id: backend.id,
            address: backend.address.clone(),
            admin: word!(proto::BackendAdmin, "BACKEND_ADMIN_", backend.admin),
            verdict: word!(proto::Verdict, "VERDICT_", backend.verdict),
            verdict_time: time(backend.verdict_time.as_ref()),
            weight: backend.weight,
            document_weight: backend.document_weight,
            weight_override: backend.weight_override,
            backup: backend.backup,
            takes_new: backend.takes_new,
            bindings: backend.bindings,
            connections_max: backend.connections_max,
            reports: backend.reports.iter().map(ReportView::from).collect(),
            change: backend.change.as_ref().map(ChangeView::from),
            etag: backend.etag.clone(),
        }
    }
}

impl From<&proto::HealthReport> for ReportView {
    fn from(report: &proto::HealthReport) -> Self {
        Self {
            node: report.node_name.clone(),
            verdict: word!(proto::Verdict, "VERDICT_", report.verdict),
            detail: report.detail.clone(),
            time: time(report.log_time.as_ref()),
        }
    }
}

fn verdict(word: &str) -> Cell {
    let paint = match word {
        "up" => Paint::Good,
        "down" => Paint::Bad,
        _ => Paint::Plain,
    };
    Cell::painted(paint, word)
}

fn admin(word: &str) -> Cell {
    Cell::painted(if word == "ready" { Paint::Plain } else { Paint::Warn }, word)
}

impl BackendView {
    /// `farm/service/backend`.
    pub fn full_name(&self) -> String {
        format!("{}/{}/{}", self.farm, self.service, self.name)
    }

    /// The weight; marked when it is not the document's.
    fn weight_cell(&self) -> Cell {
        match self.weight_override {
            Some(_) => Cell::number(format!("{}*", self.weight)),
            None => Cell::number(self.weight),
        }
    }
}

impl Row for BackendView {
    const NONE: &'static str = "no backends";

    fn heads(wide: bool) -> &'static [&'static str] {
        if wide {
            &[
                "BACKEND",
                "ID",
                "ADDRESS",
                "ADMIN",
                "HEALTH",
                "SINCE",
                "WEIGHT",
                "BINDINGS",
                "BACKUP",
                "NEW",
                "CHANGED BY",
            ]
        } else {
            &["BACKEND", "ADDRESS", "ADMIN", "HEALTH", "WEIGHT", "BINDINGS", "BACKUP"]
        }
    }

    fn cells(&self, wide: bool) -> Vec<Cell> {
        let yes = |yes: bool| Cell::from(if yes { "yes" } else { "" });
        let mut cells: Vec<Cell> = vec![self.full_name().into()];
        if wide {
            cells.push(Cell::number(self.id));
        }
        cells.extend([self.address.clone().into(), admin(&self.admin), verdict(&self.verdict)]);
        if wide {
            cells.push(when(self.verdict_time.as_ref()).into());
        }
        cells.extend([self.weight_cell(), Cell::number(self.bindings), yes(self.backup)]);
        if wide {
            cells.extend([yes(self.takes_new), self.change.as_ref().map(ChangeView::words).unwrap_or_default().into()]);
        }
        cells
    }
}

/// One backend at length.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct BackendDetail(pub BackendView);

impl View for BackendDetail {
    fn text(&self, style: Style) -> String {
        let backend = &self.0;
        let mut lines = vec![
            ("backend", backend.full_name()),
            ("address", backend.address.clone()),
            ("admin", backend.admin.clone()),
            ("health", backend.verdict.clone()),
            ("weight", backend.weight.to_string()),
            ("bindings", backend.bindings.to_string()),
        ];
        if let Some(since) = &backend.verdict_time {
            lines[3].1.push_str(&format!(" since {}", seconds(since)));
        }
        if backend.weight_override.is_some() {
            lines[4].1.push_str(&format!(" (the document says {})", backend.document_weight));
        }
        if backend.backup {
            lines[0].1.push_str(" (backup)");
        }
        if !backend.takes_new {
            lines[5].1.push_str(", takes no new clients");
        }
        if let Some(change) = &backend.change {
            lines.push(("changed by", change.words()));
        }
        let mut text: String = lines.into_iter().map(|(name, value)| format!("{name:<10}  {value}\n")).collect();
        if !backend.reports.is_empty() {
            let mut table = Table::new(&["NODE", "FINDS", "LAST CHECK", "TIME"]);
            for report in &backend.reports {
                let cells = [report.node.clone().into(), verdict(&report.verdict), report.detail.clone().into()];
                table.row(cells.into_iter().chain([when(report.time.as_ref()).into()]).collect());
            }
            text.push('\n');
            text.push_str(&table.render(style));
        }
        text
    }
}
