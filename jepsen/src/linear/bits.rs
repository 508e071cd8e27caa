//! A set of small numbers.

use smallvec::SmallVec;

/// Without trailing zero words, so that equal sets are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bits(SmallVec<[u64; 2]>);

impl Bits {
    pub(super) fn insert(&mut self, number: u32) {
        let (word, bit) = place(number);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    pub(super) fn remove(&mut self, number: u32) {
        let (word, bit) = place(number);
        if let Some(bits) = self.0.get_mut(word) {
            *bits &= !bit;
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let (word, bit) = place(number);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    pub(super) fn insert_all(&mut self, others: &Self) {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        self.0.iter_mut().zip(&others.0).for_each(|(mine, more)| *mine |= more);
    }

    pub(super) fn is_subset(&self, of: &Self) -> bool {
        self.0.len() <= of.0.len() && self.0.iter().zip(&of.0).all(|(a, b)| a & !b == 0)
    }
}

fn place(number: u32) -> (usize, u64) {
    (number as usize / 64, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(numbers: &[u32]) -> Bits {
        let mut bits = Bits::default();
        numbers.iter().for_each(|number| bits.insert(*number));
        bits
    }

    #[test]
    fn equal_sets_are_equal() {
        let mut shrunk = bits(&[3, 700]);
        shrunk.remove(700);
        shrunk.remove(9000);
        assert_eq!(shrunk, bits(&[3]));
    }

    #[test]
    fn subsets() {
        assert!(bits(&[]).is_subset(&bits(&[])));
        assert!(bits(&[3]).is_subset(&bits(&[3, 700])));
        assert!(!bits(&[3, 700]).is_subset(&bits(&[3])));
        assert!(!bits(&[4]).is_subset(&bits(&[3, 700])));
        let mut both = bits(&[3]);
        both.insert_all(&bits(&[700]));
        assert_eq!(both, bits(&[3, 700]));
        assert!(bits(&[3, 700]).contains(700) && !bits(&[3, 700]).contains(701));
    }
}
