//! A set: members without values.
//!
//! Small sets of whole numbers are sorted lists, as they are in Redis, whose replies show it.

use std::borrow::Cow;

use super::{
    digest,
    hash::iter_from_cursor,
    number,
    shelf::{Placed, Seed, Shelves, position},
};

/// Redis' `set-max-intset-entries`.
const NUMBERS_MAX: usize = 512;

/// What a member is counted as beside its bytes.
const MEMBER_OVERHEAD: u64 = 32;

/// The members of one key.
#[derive(Clone)]
pub(super) struct Set {
    members: Members,
    /// Sum over the members of their digests.
    digest: u64,
    bytes: u64,
}

#[derive(Clone)]
enum Members {
    /// In ascending order.
    Numbers(Vec<i64>),
    Spread(Box<Shelves<Member>>),
}

#[derive(Clone)]
struct Member {
    hash: u64,
    name: Box<[u8]>,
}

impl Placed for Member {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.name
    }
}

impl Default for Set {
    fn default() -> Self {
        Self { members: Members::Numbers(Vec::new()), digest: 0, bytes: 0 }
    }
}

impl Set {
    pub(super) fn len(&self) -> usize {
        match &self.members {
            Members::Numbers(list) => list.len(),
            Members::Spread(shelves) => shelves.len(),
        }
    }

    pub(super) fn is_numbers(&self) -> bool {
        matches!(self.members, Members::Numbers(_))
    }

    /// What it is counted as in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn contains(&self, seed: Seed, name: &[u8]) -> bool {
        match &self.members {
            Members::Numbers(list) => number::parse(name).is_some_and(|n| list.binary_search(&n).is_ok()),
            Members::Spread(shelves) => shelves.get(seed.hash(name), name).is_some(),
        }
    }

    /// Adds a member; whether it is new.
    pub(super) fn add(&mut self, seed: Seed, name: &[u8]) -> bool {
        let number = number::parse(name);
        if number.is_none() {
            self.spread(seed);
        }
        let new = match (&mut self.members, number) {
            (Members::Numbers(list), Some(number)) => match list.binary_search(&number) {
                Ok(_) => false,
                Err(at) => {
                    list.insert(at, number);
                    true
                }
            },
            (Members::Numbers(_), None) => false,
            (Members::Spread(shelves), _) => {
                let hash = seed.hash(name);
                shelves.get(hash, name).is_none() && shelves.put(Member { hash, name: name.into() }).is_none()
            }
        };
        if new {
            self.digest = self.digest.wrapping_add(digest::pair(name, b""));
            self.bytes += name.len() as u64 + MEMBER_OVERHEAD;
        }
        if self.is_numbers() && self.len() > NUMBERS_MAX {
            self.spread(seed);
        }
        new
    }

    /// Takes a member out; whether it was there.
    pub(super) fn remove(&mut self, seed: Seed, name: &[u8]) -> bool {
        let was_there = match &mut self.members {
            Members::Numbers(list) => {
                let at = number::parse(name).and_then(|number| list.binary_search(&number).ok());
                at.map(|at| list.remove(at)).is_some()
            }
            Members::Spread(shelves) => shelves.remove(seed.hash(name), name).is_some(),
        };
        if was_there {
            self.digest = self.digest.wrapping_sub(digest::pair(name, b""));
            self.bytes -= name.len() as u64 + MEMBER_OVERHEAD;
        }
        was_there
    }

    /// All members.
    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + '_> {
        match &self.members {
            Members::Numbers(list) => Box::new(list.iter().map(|number| number.to_string().into_bytes().into())),
            Members::Spread(shelves) => Box::new(shelves.iter().map(|member| Cow::Borrowed(&*member.name))),
        }
    }

    /// Members from a cursor on, each with its position. Those of a set of numbers are at one position, and come whole.
    pub(super) fn iter_from_cursor(&self, cursor: u64) -> Box<dyn Iterator<Item = (u64, Cow<'_, [u8]>)> + '_> {
        match &self.members {
            Members::Numbers(_) => Box::new(self.iter().map(|member| (0, member))),
            Members::Spread(shelves) => Box::new(
                iter_from_cursor(shelves, cursor).map(|member| (position(member.hash), Cow::Borrowed(&*member.name))),
            ),
        }
    }

    fn spread(&mut self, seed: Seed) {
        let Members::Numbers(list) = &mut self.members else { return };
        let mut shelves = Shelves::default();
        for number in std::mem::take(list) {
            let name: Box<[u8]> = number.to_string().into_bytes().into();
            shelves.put(Member { hash: seed.hash(&name), name });
        }
        self.members = Members::Spread(Box::new(shelves));
    }

    /// Makes a set of the same members that is known not to be a list of numbers, as a snapshot tells.
    pub(super) fn into_spread(mut self, seed: Seed) -> Self {
        self.spread(seed);
        self
    }
}
