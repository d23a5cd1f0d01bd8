//! The counts of what has no exact value: NaN and the infinities. They are counted so that they leave with their rows.

/// How many NaN and infinities are held. The counts wrap, so that removing undoes adding in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Specials {
    pub(super) nan: u64,
    pub(super) positive: u64,
    pub(super) negative: u64,
}

impl Specials {
    /// The counts of one value. Finite values count nothing.
    pub(super) fn of(value: f64) -> Self {
        Self {
            nan: u64::from(value.is_nan()),
            positive: u64::from(value == f64::INFINITY),
            negative: u64::from(value == f64::NEG_INFINITY),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Adds the counts, or takes them away.
    pub(super) fn count(&mut self, other: Self, remove: bool) {
        let apply = if remove { u64::wrapping_sub } else { u64::wrapping_add };
        self.nan = apply(self.nan, other.nan);
        self.positive = apply(self.positive, other.positive);
        self.negative = apply(self.negative, other.negative);
    }

    /// What they make of a sum or a mean, whatever is held besides.
    pub(super) fn value(self) -> Option<f64> {
        match (self.nan, self.positive, self.negative) {
            (0, 0, 0) => None,
            (0, _, 0) => Some(f64::INFINITY),
            (0, 0, _) => Some(f64::NEG_INFINITY),
            _ => Some(f64::NAN),
        }
    }
}
