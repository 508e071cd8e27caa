//! What clients did and what came of it.
//!
//! An [`Operation`] is an interval: it began when the client sent it, it ended when the client knew the answer or gave up,
//! and if it took effect it did so in between. One of unknown outcome may take effect at any time after it began, long after
//! the client gave up, unless whoever judges knows until when.
//!
//! Clients record through a [`ClientLog`] each, which none but they lock, so that recording does not order what it records.
//! Instants are given by the caller: one `CLOCK_MONOTONIC` for all clients, counted from the start of the run.
//!
//! Not here: what operations mean (`models`), how histories are judged (`linear`).

use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use crate::time::RunTime;

/// Who did it: one client, which does one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Client(u32);

impl Client {
    /// The client of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// What the client learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<O> {
    /// It took effect between invocation and completion, and this was the answer.
    Ok(O),
    /// It certainly never took effect: refused, or never sent.
    Fail,
    /// It may have taken effect at any time since its invocation, may do so later, or never.
    Unknown,
}

/// One thing that a client did to one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation<I, O> {
    /// Who did it.
    pub client: Client,
    /// When it was sent, or a little earlier.
    pub invoked: RunTime,
    /// When the outcome was known, or a little later; for an unknown outcome when the client gave up.
    pub completed: RunTime,
    /// The object it was done to. Objects are judged apart.
    pub key: String,
    /// What was asked.
    pub input: I,
    /// What came of it.
    pub outcome: Outcome<O>,
    /// The error, for people; empty if there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// All operations of a run, in the order of their invocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<I, O>(Vec<Operation<I, O>>);

/// Why a history could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file failed.
    #[error("cannot read or write the history")]
    Io(#[from] io::Error),
    /// A line is no operation of the kind that is expected.
    #[error("line {line} of the history is not an operation")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An operation ends before it begins: its client's clock is not monotonic.
    #[error("operation {index} ends before it begins")]
    Backwards {
        /// Place in the history, counted from zero.
        index: usize,
    },
    /// A client did two things at once, so that its log cannot be right.
    #[error("{client} began operation {index} before its previous one ended")]
    Overlap {
        /// The client.
        client: Client,
        /// Place of the second operation in the history, counted from zero.
        index: usize,
    },
}

impl<I, O> History<I, O> {
    /// Puts operations in order.
    pub fn new(mut operations: Vec<Operation<I, O>>) -> Self {
        operations.sort_by_key(|operation| (operation.invoked, operation.completed, operation.client));
        Self(operations)
    }

    /// The operations in the order of their invocations.
    pub fn operations(&self) -> &[Operation<I, O>] {
        &self.0
    }

    /// The objects that were asked for.
    pub fn keys(&self) -> Vec<String> {
        let keys: std::collections::BTreeSet<&str> = self.0.iter().map(|operation| operation.key.as_str()).collect();
        keys.into_iter().map(str::to_owned).collect()
    }

    /// Checks that clients did one thing at a time and that time ran forward, without which no verdict means anything.
    ///
    /// # Errors
    /// [`HistoryError::Backwards`] and [`HistoryError::Overlap`]: the recorder is wrong, not the cluster.
    pub fn validate(&self) -> Result<(), HistoryError> {
        let mut free_at = std::collections::BTreeMap::new();
        for (index, operation) in self.0.iter().enumerate() {
            if operation.completed < operation.invoked {
                return Err(HistoryError::Backwards { index });
            }
            let before = free_at.insert(operation.client, operation.completed).unwrap_or_default();
            if operation.invoked < before {
                return Err(HistoryError::Overlap { client: operation.client, index });
            }
        }
        Ok(())
    }
}

impl<I: Serialize, O: Serialize> History<I, O> {
    /// Writes one line of JSON an operation.
    ///
    /// # Errors
    /// [`HistoryError::Io`] of `out`.
    pub fn write(&self, mut out: impl Write) -> Result<(), HistoryError> {
        for operation in &self.0 {
            serde_json::to_writer(&mut out, operation).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }
}

impl<I: DeserializeOwned, O: DeserializeOwned> History<I, O> {
    /// Reads what [`History::write`] wrote. Empty lines are skipped.
    ///
    /// # Errors
    /// [`HistoryError::Io`] of `input`, [`HistoryError::Line`] for what is no operation.
    pub fn read(input: impl BufRead) -> Result<Self, HistoryError> {
        let mut operations = Vec::new();
        for (index, line) in input.lines().enumerate() {
            let line = line?;
            if !line.trim().is_empty() {
                let parsed = serde_json::from_str(&line);
                operations.push(parsed.map_err(|source| HistoryError::Line { line: index + 1, source })?);
            }
        }
        Ok(Self::new(operations))
    }
}

type Sheet<I, O> = Arc<Mutex<Vec<Operation<I, O>>>>;

/// Gathers what all clients do.
#[derive(Debug)]
pub struct Recorder<I, O> {
    sheets: Mutex<Vec<Sheet<I, O>>>,
}

impl<I, O> Default for Recorder<I, O> {
    fn default() -> Self {
        Self { sheets: Mutex::default() }
    }
}

impl<I, O> Recorder<I, O> {
    /// A recorder without clients.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sheet for one more client, which numbers them in the order of these calls.
    pub fn client(&self) -> ClientLog<I, O> {
        let mut sheets = lock(&self.sheets);
        let sheet = Sheet::default();
        sheets.push(sheet.clone());
        let number = u32::try_from(sheets.len() - 1).expect("nobody starts four billion clients");
        ClientLog { client: Client(number), sheet }
    }

    /// Takes what has been recorded so far; what is under way goes into the next history.
    pub fn take(&self) -> History<I, O> {
        let sheets = lock(&self.sheets);
        History::new(sheets.iter().flat_map(|sheet| std::mem::take(&mut *lock(sheet))).collect())
    }

    /// How many operations have been recorded and not taken.
    pub fn recorded(&self) -> usize {
        lock(&self.sheets).iter().map(|sheet| lock(sheet).len()).sum()
    }
}

/// The sheet of one client.
#[derive(Debug)]
pub struct ClientLog<I, O> {
    client: Client,
    sheet: Sheet<I, O>,
}

impl<I, O> ClientLog<I, O> {
    /// Whose sheet it is.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Begins an operation. Read the clock first, then call this, then send.
    pub fn invoke(&mut self, now: RunTime, key: impl Into<String>, input: I) -> Pending<'_, I, O> {
        Pending { log: self, invoked: now, what: Some((key.into(), input)) }
    }
}

/// An operation under way. Dropped without an outcome (its task was cancelled, say) it is recorded as unknown.
#[derive(Debug)]
pub struct Pending<'log, I, O> {
    log: &'log mut ClientLog<I, O>,
    invoked: RunTime,
    what: Option<(String, I)>,
}

impl<I, O> Pending<'_, I, O> {
    /// It was answered. Read the clock after the answer has been read.
    pub fn ok(mut self, now: RunTime, output: O) {
        self.record(now, Outcome::Ok(output), String::new());
    }

    /// It certainly did not and will not take effect.
    pub fn fail(mut self, now: RunTime, note: impl Into<String>) {
        self.record(now, Outcome::Fail, note.into());
    }

    /// It may or may not have taken effect: a timeout, a broken connection.
    pub fn unknown(mut self, now: RunTime, note: impl Into<String>) {
        self.record(now, Outcome::Unknown, note.into());
    }

    fn record(&mut self, now: RunTime, outcome: Outcome<O>, note: String) {
        let Some((key, input)) = self.what.take() else { return };
        let (client, invoked) = (self.log.client, self.invoked);
        lock(&self.log.sheet).push(Operation { client, invoked, completed: now, key, input, outcome, note });
    }
}

impl<I, O> Drop for Pending<'_, I, O> {
    fn drop(&mut self) {
        self.record(self.invoked, Outcome::Unknown, String::from("abandoned"));
    }
}

/// A sheet holds whole operations at any time, so that a panic elsewhere leaves it right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> RunTime {
        RunTime::from_millis(millis)
    }

    fn recorded() -> History<String, u32> {
        let recorder = Recorder::new();
        let (mut first, mut second) = (recorder.client(), recorder.client());
        second.invoke(at(5), "k", String::from("get")).ok(at(7), 3);
        first.invoke(at(1), "k", String::from("set 3")).unknown(at(9), "timed out");
        drop(first.invoke(at(10), "k", String::from("set 4")));
        second.invoke(at(11), "k", String::from("set 5")).fail(at(12), "refused");
        assert_eq!(recorder.recorded(), 4);
        recorder.take()
    }

    #[test]
    fn operations_come_in_the_order_of_their_invocations() {
        let history = recorded();
        let invoked: Vec<_> = history.operations().iter().map(|operation| operation.invoked).collect();
        assert_eq!(invoked, [at(1), at(5), at(10), at(11)]);
        history.validate().unwrap();
    }

    #[test]
    fn what_is_dropped_is_unknown() {
        assert_eq!(recorded().operations()[2].outcome, Outcome::Unknown);
    }

    #[test]
    fn what_is_written_is_read() {
        let (history, mut file) = (recorded(), Vec::new());
        history.write(&mut file).unwrap();
        assert_eq!(file.iter().filter(|byte| **byte == b'\n').count(), 4);
        assert_eq!(History::read(&*file).unwrap(), history);
    }

    #[test]
    fn a_torn_line_is_named() {
        let mut file = Vec::new();
        recorded().write(&mut file).unwrap();
        let torn = History::<String, u32>::read(&file[..file.len() - 5]).unwrap_err();
        assert!(matches!(torn, HistoryError::Line { line: 4, .. }), "{torn}");
    }

    #[test]
    fn a_client_does_one_thing_at_a_time() {
        let mut operations = recorded().0;
        operations[2].invoked = at(8);
        let overlap = History::new(operations.clone()).validate().unwrap_err();
        assert!(matches!(overlap, HistoryError::Overlap { index: 2, .. }), "{overlap}");
        operations[0].completed = at(0);
        let backwards = History::new(operations).validate().unwrap_err();
        assert!(matches!(backwards, HistoryError::Backwards { index: 0 }), "{backwards}");
    }
}
