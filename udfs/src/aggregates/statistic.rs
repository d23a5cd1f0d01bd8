//! What is computed, and the totals that it is computed from. The arithmetic itself is in `exact`.

use std::fmt::Debug;

use datafusion_common::{DataFusionError, Result};

use crate::exact::{BadBytes, ExactMoments, ExactSum};

/// A number computed from totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Statistic {
    Sum,
    Mean,
    /// Divided by the count less `ddof`.
    Variance {
        ddof: u64,
    },
    /// The square root of the rounded variance.
    Deviation {
        ddof: u64,
    },
}

/// Exact totals of some values.
pub(super) trait Totals: Debug + Clone + Default + Send + Sync + 'static {
    fn add(&mut self, value: f64);
    fn remove(&mut self, value: f64);
    fn merge(&mut self, other: &Self);
    /// None if there are too few values, and if these totals do not tell it.
    fn result(&self, statistic: Statistic) -> Option<f64>;
    fn heap_bytes(&self) -> usize;
    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Result<Self, BadBytes>;

    /// The same as [`Totals::from_bytes`], as an error of DataFusion's.
    fn from_state(bytes: &[u8]) -> Result<Self> {
        Self::from_bytes(bytes).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

/// A sum, and how many values it is of: none make null, not zero.
#[derive(Debug, Clone, Default)]
pub(super) struct CountedSum {
    count: u64,
    sum: ExactSum,
}

impl Totals for CountedSum {
    #[inline]
    fn add(&mut self, value: f64) {
        self.count = self.count.wrapping_add(1);
        self.sum.add(value);
    }

    #[inline]
    fn remove(&mut self, value: f64) {
        self.count = self.count.wrapping_sub(1);
        self.sum.remove(value);
    }

    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum.merge(&other.sum);
    }

    fn result(&self, statistic: Statistic) -> Option<f64> {
        match statistic {
            _ if self.count == 0 => None,
            Statistic::Sum => Some(self.sum.value()),
            Statistic::Mean => Some(self.sum.mean(self.count)),
            Statistic::Variance { .. } | Statistic::Deviation { .. } => None,
        }
    }

    #[inline]
    fn heap_bytes(&self) -> usize {
        self.sum.heap_bytes()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.count.to_le_bytes().to_vec();
        bytes.extend(self.sum.to_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BadBytes> {
        let (count, sum) = bytes.split_first_chunk().ok_or(BadBytes::TooShort)?;
        Ok(Self { count: u64::from_le_bytes(*count), sum: ExactSum::from_bytes(sum)? })
    }
}

impl Totals for ExactMoments {
    #[inline]
    fn add(&mut self, value: f64) {
        Self::add(self, value);
    }

    #[inline]
    fn remove(&mut self, value: f64) {
        Self::remove(self, value);
    }

    fn merge(&mut self, other: &Self) {
        Self::merge(self, other);
    }

    fn result(&self, statistic: Statistic) -> Option<f64> {
        match statistic {
            Statistic::Sum => (self.count() > 0).then(|| self.sum()),
            Statistic::Mean => (self.count() > 0).then(|| self.mean()),
            Statistic::Variance { ddof } => self.var(ddof),
            Statistic::Deviation { ddof } => self.var(ddof).map(f64::sqrt),
        }
    }

    #[inline]
    fn heap_bytes(&self) -> usize {
        Self::heap_bytes(self)
    }

    fn to_bytes(&self) -> Vec<u8> {
        Self::to_bytes(self)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, BadBytes> {
        Self::from_bytes(bytes)
    }
}
