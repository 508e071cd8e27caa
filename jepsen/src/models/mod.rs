//! What the objects of a cluster do when nothing is wrong: the sequential specifications that histories are held against.

mod config;
mod life;
mod pair;
mod session;

#[cfg(test)]
mod tests;

pub use self::config::{ConfigInput, ConfigModel, ConfigOutput, ConfigState, Version, Versions};
pub use self::life::{ClockSlack, End};
pub use self::pair::{PairInput, PairModel, PairOutput, PairState};
pub use self::session::{SessionInput, SessionModel, SessionOutput, SessionState, unread_alike};
