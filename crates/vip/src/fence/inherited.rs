//! Which addresses the fence guards that an earlier process left, at whichever level.
//!
//! Asked before it is replaced: an address that it guards and that is on an interface is one of ours, and without the fence
//! this node would answer for it. Reading another process's map takes `CAP_SYS_ADMIN`, which a service may not have.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
};

use aya::{
    maps::{HashMap, Map, MapData, MapInfo},
    programs::loaded_programs,
};

use super::{
    FenceError, nft_lease,
    tc::{Hook, Tc},
};

/// What an earlier process left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// What it guards, as far as that can be read.
    pub addresses: BTreeSet<IpAddr>,
    /// Why that is not all, if it is not: something is guarded and it cannot be told what.
    pub unreadable: Option<String>,
    /// There is a fence.
    pub stands: bool,
}

/// Reads the fence that is there. Changes nothing.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn inherited() -> Result<Inherited, FenceError> {
    let mut found = Inherited::default();
    let mut tc = Tc::open().map_err(FenceError::Links)?;
    let mut programs = BTreeSet::new();
    for link in tc.links().map_err(FenceError::Links)? {
        for hook in Hook::BOTH {
            // One that is gone meanwhile guards nothing.
            programs.extend(tc.attached(link.index, hook).unwrap_or_default());
        }
    }
    found.stands = !programs.is_empty();
    match guarded_by(&programs) {
        Ok(addresses) => found.addresses = addresses,
        Err(why) => found.unreadable = Some(why),
    }
    match nft_lease::guarded() {
        Ok(Some(addresses)) => {
            found.stands = true;
            found.addresses.extend(addresses);
        }
        Ok(None) => {}
        // Whoever may not read tables has made none.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        Err(error) => found.unreadable = Some(error.to_string()),
    }
    Ok(found)
}

/// The keys of the maps that these programs read.
fn guarded_by(programs: &BTreeSet<u32>) -> Result<BTreeSet<IpAddr>, String> {
    let mut left = programs.clone();
    let mut addresses = BTreeSet::new();
    if left.is_empty() {
        return Ok(addresses);
    }
    for program in loaded_programs() {
        let program = program.map_err(|error| super::chain(&error))?;
        if !left.remove(&program.id()) {
            continue;
        }
        let maps = program.map_ids().map_err(|error| super::chain(&error))?.unwrap_or_default();
        for map in maps {
            addresses.extend(keys(map).map_err(|error| super::chain(&error))?);
        }
        if left.is_empty() {
            return Ok(addresses);
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound).to_string())
}

/// The addresses in a map, if it is the one that has them.
fn keys(map: u32) -> Result<Vec<IpAddr>, aya::maps::MapError> {
    if MapInfo::from_id(map)?.name() != b"vips" {
        return Ok(Vec::new());
    }
    let vips = HashMap::<_, [u8; 16], u32>::try_from(Map::HashMap(MapData::from_id(map)?))?;
    vips.keys().map(|key| key.map(|key| Ipv6Addr::from(key).to_canonical())).collect()
}
