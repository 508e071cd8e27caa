//! Rounds in alternating order: A B C, then C B A.
//!
//! A shared machine drifts; whoever is measured second in each round must not pay for it each time.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets SIGINT and SIGTERM end a run between two measurements, so that all that was started is ended.
pub fn end_on_signals() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler: extern "C" fn(libc::c_int) = note;
        // SAFETY: the handler stores to an atomic and does nothing else.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether the run was told to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Measures each subject once a round. The result holds the rounds of each subject, in the
/// subjects' order.
///
/// # Errors
/// The first error of `measure`; rounds are only worth something when all subjects were in them.
pub fn interleave<S, T>(subjects: &[S], rounds: u32, mut measure: impl FnMut(&S) -> Result<T>) -> Result<Vec<Vec<T>>> {
    let mut measured: Vec<Vec<T>> = subjects.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            if interrupted() {
                bail!("interrupted");
            }
            measured[subject].push(measure(&subjects[subject])?);
        }
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_alternates_and_results_stay_with_their_subject() {
        let mut order = String::new();
        let measured = interleave(&['a', 'b', 'c'], 3, |subject| {
            order.push(*subject);
            Ok(order.len())
        })
        .unwrap();
        assert_eq!(order, "abccbaabc");
        assert_eq!(measured, vec![vec![1, 6, 7], vec![2, 5, 8], vec![3, 4, 9]]);
    }

    #[test]
    fn one_failure_ends_it() {
        let result = interleave(&[1, 2], 5, |subject| if *subject == 2 { bail!("no") } else { Ok(()) });
        assert!(result.is_err());
    }
}
