//! How far a challenger decides as its champion does, as numbers that a worker adds up row by row and hands on epoch by epoch.
//! It knows no metric and allocates nothing.

/// Upper bounds of the classes of absolute differences between two scores. Greater ones are in a class behind the last.
pub const DIFFERENCE_BOUNDS: [f64; 10] = [0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// What two models said of the same rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Rows on which both decide yes.
    pub both: u64,
    /// Rows on which both decide no.
    pub neither: u64,
    /// Rows on which the champion alone decides yes.
    pub champion_only: u64,
    /// Rows on which the challenger alone decides yes.
    pub challenger_only: u64,
    /// Rows by [`DIFFERENCE_BOUNDS`].
    pub differences: [u64; DIFFERENCE_BOUNDS.len() + 1],
}

impl Agreement {
    /// Rows that both scored.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.both + self.neither + self.champion_only + self.challenger_only
    }

    /// Adds rows: their scores by champion and challenger, each held against its own threshold.
    pub fn add(&mut self, champion: (&[f64], f64), challenger: (&[f64], f64)) {
        let ((champions, champion_threshold), (challengers, challenger_threshold)) = (champion, challenger);
        let mut decisions = [0_u64; 4];
        for (one, other) in champions.iter().zip(challengers) {
            let decided = usize::from(*one >= champion_threshold) << 1 | usize::from(*other >= challenger_threshold);
            decisions[decided] += 1;
            let difference = (one - other).abs();
            self.differences[DIFFERENCE_BOUNDS.iter().take_while(|bound| difference > **bound).count()] += 1;
        }
        self.neither += decisions[0];
        self.challenger_only += decisions[1];
        self.champion_only += decisions[2];
        self.both += decisions[3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_decides_by_its_own_threshold() {
        let mut agreement = Agreement::default();
        agreement.add((&[0.9, 0.9, 0.1, 0.1], 0.5), (&[0.8, 0.6, 0.8, 0.1], 0.7));
        let Agreement { both, neither, champion_only, challenger_only, .. } = agreement;
        assert_eq!((both, neither, champion_only, challenger_only), (1, 1, 1, 1));
        assert_eq!(agreement.rows(), 4);
    }

    #[test]
    fn differences_are_in_the_first_class_that_holds_them() {
        let mut agreement = Agreement::default();
        agreement.add((&[0.5, 0.5, 0.5, 1.0], 0.5), (&[0.5, 0.5009, 0.8, -7.0], 0.5));
        assert_eq!(agreement.differences, [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
    }
}
