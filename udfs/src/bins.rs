//! Counting doubles into bins: what drift is measured on, as rows are served. A few nanoseconds a value, nothing allocated. Where
//! the edges lie, and what the counts mean, is the engine's affair.

use crate::scorer::Column;

/// Edges at most.
pub const EDGES_MAX: usize = 31;
/// Bins at most, without that of missing values.
pub const BINS_MAX: usize = EDGES_MAX + 1;
/// The place of missing values in [`Counts`].
pub const MISSING: usize = BINS_MAX;
/// Edges that four comparisons tell apart.
const FEW_EDGES: usize = 15;
/// Counters of one column that take turns, so that equal values in a row do not wait for each other.
const LANES: usize = 4;

/// Rows by bin; missing values at [`MISSING`].
pub type Counts = [u64; BINS_MAX + 1];

/// Bins of one column: the first holds what is below the first edge, each other what is at or above the edge before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Binner {
    /// Those beyond the number of edges are NaN, which nothing is at or above.
    edges: [f64; EDGES_MAX],
    num_edges: usize,
}

impl Binner {
    /// `None` when the edges are too many, or not numbers in ascending order.
    #[must_use]
    pub fn new(edges: &[f64]) -> Option<Binner> {
        let is_ascending = edges.windows(2).all(|pair| pair[0] < pair[1]);
        if edges.len() > EDGES_MAX || !is_ascending || edges.iter().any(|edge| edge.is_nan()) {
            return None;
        }
        let mut padded = [f64::NAN; EDGES_MAX];
        padded[..edges.len()].copy_from_slice(edges);
        Some(Binner { edges: padded, num_edges: edges.len() })
    }

    /// The place of a value in [`Counts`].
    #[must_use]
    pub fn bin(&self, value: f64) -> usize {
        if self.num_edges <= FEW_EDGES { self.slot::<8>(value) } else { self.slot::<16>(value) }
    }

    /// `STEP`: half the number of bins that are told apart.
    #[inline(always)]
    fn slot<const STEP: usize>(&self, value: f64) -> usize {
        let (mut bin, mut step) = (0, STEP);
        while step > 0 {
            // Below the sum of all steps, so within the edges.
            bin += usize::from(value >= self.edges[bin + step - 1]) * step;
            step /= 2;
        }
        if value.is_nan() { MISSING } else { bin }
    }

    /// Adds a column's rows to `counts`; nulls are missing values, as they are for a model.
    pub fn count(&self, column: &Column<'_>, counts: &mut Counts) {
        if self.num_edges <= FEW_EDGES {
            self.count_with::<8>(column, counts);
        } else {
            self.count_with::<16>(column, counts);
        }
    }

    fn count_with<const STEP: usize>(&self, column: &Column<'_>, counts: &mut Counts) {
        let mut lanes = [[0_u64; BINS_MAX + 1]; LANES];
        match &column.validity {
            None => {
                let mut quads = column.values.chunks_exact(LANES);
                for quad in &mut quads {
                    for (lane, value) in lanes.iter_mut().zip(quad) {
                        lane[self.slot::<STEP>(*value)] += 1;
                    }
                }
                for value in quads.remainder() {
                    lanes[0][self.slot::<STEP>(*value)] += 1;
                }
            }
            Some(validity) => {
                for (row, value) in column.values.iter().enumerate() {
                    let bit = validity.offset + row;
                    let is_valid = validity.bits[bit / 8] >> (bit % 8) & 1 == 1;
                    let slot = if is_valid { self.slot::<STEP>(*value) } else { MISSING };
                    lanes[row % LANES][slot] += 1;
                }
            }
        }
        for lane in &lanes {
            for (count, more) in counts.iter_mut().zip(lane) {
                *count += more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scorer::Validity;

    /// By looking at every edge.
    fn naive(edges: &[f64], value: f64) -> usize {
        if value.is_nan() { MISSING } else { edges.iter().filter(|edge| value >= **edge).count() }
    }

    #[test]
    fn a_value_stands_behind_every_edge_that_it_reaches() {
        for num_edges in 0..=EDGES_MAX {
            let edges: Vec<f64> = (0..num_edges).map(|edge| edge as f64 * 1.5 - 7.0).collect();
            let binner = Binner::new(&edges).unwrap();
            let mut values: Vec<f64> = (-80..400).map(|value| f64::from(value) * 0.125).collect();
            values.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0]);
            for value in values {
                assert_eq!(binner.bin(value), naive(&edges, value), "{value} among {edges:?}");
            }
        }
    }

    #[test]
    fn every_row_is_counted_once_and_nulls_are_missing() {
        let values: Vec<f64> = (0..103).map(f64::from).collect();
        // Every third row is null; the column begins at bit 5.
        let mut bits = vec![0_u8; 14];
        for row in (0..103).filter(|row| row % 3 != 0) {
            bits[(row + 5) / 8] |= 1 << ((row + 5) % 8);
        }
        let binner = Binner::new(&[10.0, 50.0]).unwrap();
        let mut counts = [0; BINS_MAX + 1];
        binner.count(&Column { values: &values, validity: None }, &mut counts);
        assert_eq!((counts[0], counts[1], counts[2], counts[MISSING]), (10, 40, 53, 0));
        binner.count(&Column { values: &values, validity: Some(Validity { bits: &bits, offset: 5 }) }, &mut counts);
        assert_eq!((counts.iter().sum::<u64>(), counts[MISSING]), (206, 35));
    }

    #[test]
    fn edges_that_are_no_edges_are_refused() {
        assert_eq!(Binner::new(&[1.0, 1.0]), None);
        assert_eq!(Binner::new(&[2.0, 1.0]), None);
        assert_eq!(Binner::new(&[f64::NAN]), None);
        assert_eq!(Binner::new(&[0.0; 0]).map(|binner| binner.bin(3.0)), Some(0));
        let many: Vec<f64> = (0..=EDGES_MAX).map(|edge| edge as f64).collect();
        assert_eq!(Binner::new(&many), None);
    }
}
