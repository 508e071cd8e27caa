//! Configuration: a register with a version, written by compare-and-set.

use serde::{Deserialize, Serialize};

use crate::linear::{Model, Step};

/// What is asked of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigInput {
    /// What is it, and which version?
    Read,
    /// Write it if this version is in force; zero if none is to be.
    Cas {
        /// The version that was read.
        expected: u64,
        /// What is written.
        value: String,
    },
    /// Write it whatever is in force.
    Write {
        /// What is written.
        value: String,
    },
    /// Remove it if this version is in force.
    Remove {
        /// The version that was read.
        expected: u64,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigOutput {
    /// It is this.
    Found {
        /// The version in force; not zero.
        version: u64,
        /// Its value.
        value: String,
    },
    /// There is none.
    Absent,
    /// It was written, and this version is in force.
    Written {
        /// The version in force now.
        version: u64,
    },
    /// It was removed.
    Removed,
    /// Another version is in force; nothing changed.
    Conflict,
}

/// What is known of the version in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// It is this.
    Known(u64),
    /// A write of unknown outcome made one that nobody has read yet; it is later than this.
    After(u64),
}

impl Version {
    /// What a later version is later than, at least.
    fn floor(self) -> u64 {
        match self {
            Self::Known(version) | Self::After(version) => version,
        }
    }

    fn may_be(self, version: u64) -> bool {
        match self {
            Self::Known(known) => known == version,
            Self::After(floor) => version > floor,
        }
    }

    fn may_differ_from(self, version: u64) -> bool {
        match self {
            Self::Known(known) => known != version,
            Self::After(_) => true,
        }
    }
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfigState {
    /// There is none; versions up to this were used.
    Absent(u64),
    /// There is one.
    Present(Version, String),
}

/// Whose versions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// The object's own: a version that was read is in force until this object changes.
    Own,
    /// Those of all objects together, as a document's revision: a change of another object makes a version too, so that
    /// reads may tell a later one, and a conflict is always possible.
    Shared,
}

/// A register with versions that only grow. A write of the value in force may leave the version what it is.
///
/// A conflict told while the version in force was made by a write of unknown outcome is believed, and not remembered: that
/// this version later turns out to be the one that was expected is not found.
#[derive(Clone, Copy, Debug)]
pub struct ConfigModel {
    /// Whose versions are counted.
    pub versions: Versions,
}

use ConfigState::{Absent, Present};

impl ConfigModel {
    /// The states in which a write of `value` can leave the object if it answered so.
    fn write(before: &ConfigState, value: &str, answer: Option<&ConfigOutput>, next: &mut Vec<ConfigState>) {
        let (floor, same) = match before {
            Absent(floor) => (*floor, None),
            Present(version, old) => (version.floor(), (old == value).then_some(*version)),
        };
        match answer {
            None => {
                next.push(Present(Version::After(floor), value.to_owned()));
                next.extend(same.map(|version| Present(version, value.to_owned())));
            }
            Some(ConfigOutput::Written { version }) => {
                if *version > floor || same.is_some_and(|same| same.may_be(*version)) {
                    next.push(Present(Version::Known(*version), value.to_owned()));
                }
            }
            Some(_) => {}
        }
    }
}

impl Model for ConfigModel {
    type State = ConfigState;
    type Input = ConfigInput;
    type Output = ConfigOutput;

    fn initial(&self, _key: &str) -> ConfigState {
        Absent(0)
    }

    fn step(&self, state: &ConfigState, step: Step<'_, ConfigInput, ConfigOutput>, next: &mut Vec<ConfigState>) {
        let shared = self.versions == Versions::Shared;
        // With shared versions others may have written any number of times before.
        let may_be = |version: u64| match state {
            Absent(_) => version == 0,
            Present(known, _) => known.may_be(version) || (shared && version > known.floor()),
        };
        let resolved = |version: u64| match state {
            Absent(floor) => Absent(*floor),
            Present(_, value) => Present(Version::Known(version), value.clone()),
        };
        match (step.input, step.output) {
            (ConfigInput::Read, None) => next.push(state.clone()),
            (ConfigInput::Read, Some(ConfigOutput::Absent)) => {
                next.extend(matches!(state, Absent(_)).then(|| state.clone()));
            }
            (ConfigInput::Read, Some(ConfigOutput::Found { version, value })) => {
                let fits = matches!(state, Present(_, known) if known == value) && may_be(*version);
                next.extend(fits.then(|| resolved(*version)));
            }
            (ConfigInput::Write { value }, answer) => Self::write(state, value, answer, next),
            (ConfigInput::Cas { expected, .. } | ConfigInput::Remove { expected }, Some(ConfigOutput::Conflict)) => {
                let conflicts = shared
                    || match state {
                        Absent(_) => *expected != 0,
                        Present(known, _) => known.may_differ_from(*expected),
                    };
                next.extend(conflicts.then(|| state.clone()));
            }
            (ConfigInput::Cas { expected, value }, answer) if may_be(*expected) => {
                Self::write(&resolved(*expected), value, answer, next);
            }
            (ConfigInput::Remove { expected }, None | Some(ConfigOutput::Removed)) if may_be(*expected) => {
                if let Present(known, _) = state {
                    next.push(Absent(known.floor().max(*expected)));
                }
            }
            (ConfigInput::Read | ConfigInput::Cas { .. } | ConfigInput::Remove { .. }, _) => {}
        }
    }

    fn only_reads(&self, input: &ConfigInput, output: Option<&ConfigOutput>) -> bool {
        matches!((input, output), (ConfigInput::Read, _) | (_, Some(ConfigOutput::Conflict)))
    }
}
