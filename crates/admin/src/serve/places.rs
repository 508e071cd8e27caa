//! How many connections may be open at once, in all and for each of those who connect.
//!
//! A connection costs a descriptor, and a process that has none left serves nobody. Who holds a certificate, even one that
//! was revoked, and who needs none, must not be able to take the places of all others.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// Places for connections of holders `K`.
#[derive(Debug)]
pub struct Places<K> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    all_max: usize,
}

/// There is no place left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// In all.
    #[error("{max} connections are open, which is as many as there may be")]
    All {
        /// Places in all.
        max: usize,
    },
    /// For this holder.
    #[error("{max} connections of the same holder are open, which is as many as it may have")]
    Holder {
        /// Places for one of its kind.
        max: usize,
    },
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// So many in all.
    pub fn new(all_max: usize) -> Self {
        Self { taken: Arc::default(), all_max }
    }

    /// Takes a place for one more connection of `holder`, who may have `max` of them.
    ///
    /// # Errors
    /// [`NoPlace`] when those, or all, are taken.
    pub fn take(&self, holder: K, max: usize) -> Result<Place<K>, NoPlace> {
        let mut taken = self.taken.lock();
        if taken.get(&holder).is_some_and(|count| *count >= max) {
            return Err(NoPlace::Holder { max });
        }
        if taken.values().sum::<usize>() >= self.all_max {
            return Err(NoPlace::All { max: self.all_max });
        }
        *taken.entry(holder.clone()).or_default() += 1;
        drop(taken);
        Ok(Place { holder, taken: Arc::clone(&self.taken) })
    }
}

/// A place, which is free again once this is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    holder: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_more_than_its_own_places_and_all_no_more_than_there_are() {
        let places = Places::new(4);
        let first = places.take("eve", 2).expect("free");
        let _second = places.take("eve", 2).expect("free");
        assert_eq!(places.take("eve", 2).expect_err("her own are taken"), NoPlace::Holder { max: 2 });
        let _others = [places.take("bob", 2).expect("free"), places.take("ann", 2).expect("free")];
        assert_eq!(places.take("ann", 2).expect_err("all are taken"), NoPlace::All { max: 4 });
        drop(first);
        let again = places.take("eve", 2).expect("free again");
        drop(again);
        let _last = places.take("ann", 2).expect("anybody may have it");
    }

    #[test]
    fn who_has_no_connection_is_forgotten() {
        let places = Places::new(4);
        drop(places.take("eve", 1));
        assert!(places.taken.lock().is_empty());
    }
}
