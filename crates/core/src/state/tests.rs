//! The state machine against scripts, a naive model, and itself.

mod documents;
mod properties;
mod scenario;
mod scripts;

pub(crate) use scenario::{Scenario, author};
