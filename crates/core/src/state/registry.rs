//! Which number each named thing has. Numbers are given once and never to anything else.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    config::Document,
    ids::{BackendId, FarmId, ServiceId, VipId},
    persistence::BACKEND_MAX,
};

#[cfg(test)]
thread_local! {
    /// Times that all backends were gone through for the name of one.
    pub(super) static SEARCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Numbers by full name: `farm`, `farm/service`, `farm/service/backend`, `vip`. A name that is
/// configured away keeps its number, so that bindings and operator state are there when it returns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registry {
    farms: BTreeMap<String, FarmId>,
    services: BTreeMap<String, ServiceId>,
    backends: BTreeMap<String, BackendId>,
    vips: BTreeMap<String, VipId>,
}

/// The numbers of a document's things, in its own order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) vips: Vec<VipId>,
    pub(crate) farms: Vec<FarmNumbers>,
}

/// The numbers of one farm.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FarmNumbers {
    pub(crate) id: FarmId,
    pub(crate) services: Vec<(ServiceId, Vec<BackendId>)>,
}

impl Registry {
    /// Numbers everything that `document` names.
    ///
    /// # Errors
    /// In words, when names collide or numbers have run out. The registry may have grown all the
    /// same, so call it on a copy.
    pub(crate) fn assign(&mut self, document: &Document) -> Result<Numbers, String> {
        let mut seen = BTreeSet::new();
        let mut numbers = Numbers::default();
        for vip in &document.vips {
            let id = number(&mut self.vips, vip.name.clone(), VipId::new)?;
            once(&mut seen, "vip", &vip.name)?;
            numbers.vips.push(id);
        }
        for farm in &document.farms {
            once(&mut seen, "farm", &farm.name)?;
            let id = number(&mut self.farms, farm.name.clone(), FarmId::new)?;
            let mut services = Vec::new();
            for service in &farm.services {
                let path = format!("{}/{}", farm.name, service.name);
                once(&mut seen, "service", &path)?;
                let id = number(&mut self.services, path.clone(), ServiceId::new)?;
                let mut backends = Vec::new();
                for backend in &service.backends {
                    let path = format!("{path}/{}", backend.name);
                    once(&mut seen, "backend", &path)?;
                    backends.push(number(&mut self.backends, path, BackendId::new)?);
                }
                services.push((id, backends));
            }
            numbers.farms.push(FarmNumbers { id, services });
        }
        Ok(numbers)
    }

    /// The full name of a backend, also of one that was configured away. Slow: for explanations.
    pub(crate) fn backend_name(&self, id: BackendId) -> Option<&str> {
        #[cfg(test)]
        SEARCHES.set(SEARCHES.get() + 1);
        self.backends.iter().find(|(_, has)| **has == id).map(|(name, _)| name.as_str())
    }

    /// All backends by full name, also those that were configured away.
    pub(crate) fn backends(&self) -> impl Iterator<Item = (BackendId, &str)> {
        self.backends.iter().map(|(name, id)| (*id, name.as_str()))
    }

    /// The highest number that a backend has.
    pub(crate) fn newest_backend(&self) -> BackendId {
        BackendId::new(u32::try_from(self.backends.len()).unwrap_or(u32::MAX))
    }

    pub(crate) fn backend(&self, name: &str) -> Option<BackendId> {
        self.backends.get(name).copied()
    }

    pub(crate) fn service(&self, name: &str) -> Option<ServiceId> {
        self.services.get(name).copied()
    }

    pub(crate) fn farm(&self, name: &str) -> Option<FarmId> {
        self.farms.get(name).copied()
    }

    pub(crate) fn vip(&self, name: &str) -> Option<VipId> {
        self.vips.get(name).copied()
    }

    /// All VIPs by name, also those that were configured away.
    pub(crate) fn vips(&self) -> impl Iterator<Item = (VipId, &str)> {
        self.vips.iter().map(|(name, id)| (*id, name.as_str()))
    }
}

fn once(seen: &mut BTreeSet<(&'static str, String)>, what: &'static str, path: &str) -> Result<(), String> {
    let levels = match what {
        "service" => 1,
        "backend" => 2,
        _ => 0,
    };
    if path.matches('/').count() != levels {
        return Err(format!("{what} {path:?}: names must not contain '/'"));
    }
    if !seen.insert((what, path.to_owned())) {
        return Err(format!("{what} {path:?} is there twice"));
    }
    Ok(())
}

fn number<I: Copy>(numbers: &mut BTreeMap<String, I>, name: String, new: fn(u32) -> I) -> Result<I, String> {
    if let Some(id) = numbers.get(&name) {
        return Ok(*id);
    }
    let next = u32::try_from(numbers.len() + 1).ok().filter(|next| *next <= BACKEND_MAX);
    let id = new(next.ok_or_else(|| "all numbers have been given out".to_owned())?);
    numbers.insert(name, id);
    Ok(id)
}
