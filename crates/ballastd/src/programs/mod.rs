//! Programs of the operator that this node runs: one after each change of hands, one to check itself.
//!
//! Both are named in `ballastd.toml` and not in the document: whoever may change the document must not be able to
//! make nodes run programs. Neither can delay anything: the lease thread hands a change of hands over and goes on,
//! and what a check says is read where fitness is judged.
//!
//! Not here: what a failed check does to VIPs (`ballast_core::lease`); notices to other machines ([`crate::webhooks`]).

mod check;
mod command;
mod hook;
mod settings;

use std::collections::BTreeMap;

use parking_lot::Mutex;

pub use check::{VipCheck, keep_checking};
pub use hook::{Described, keep_telling};
pub use settings::{CheckSettings, HookSettings};

/// How often a program was run, by result.
#[derive(Debug, Default)]
pub struct Runs(Mutex<BTreeMap<&'static str, u64>>);

impl Runs {
    fn count(&self, result: &'static str) {
        *self.0.lock().entry(result).or_default() += 1;
    }

    /// All that was counted.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().iter().map(|(result, count)| (*result, *count)).collect()
    }
}
