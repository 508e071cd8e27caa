//! The state machine against scripts, a naive model, and itself.

mod documents;
mod properties;
mod scenario;
mod scripts;
mod sessions;

pub(crate) use scenario::{Scenario, author};
