//! The scorer: a LightGBM ensemble, evaluated with LightGBM's own bits, many times faster.
//!
//! A [`Model`] is read from LightGBM's text format, is immutable, and is shared between threads. What the scorer does not
//! understand in a model file it refuses by name: linear trees, random forests, other objectives, custom parsers. It never
//! guesses, and no file makes it panic, loop or allocate more than in proportion to the file.

mod block;
mod condition;
mod error;
mod kernel;
mod number;
mod objective;
mod program;
mod shap;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod walk;

use block::{BlockColumns, BlockScratch, ROWS, SumBlock};
use condition::Conditions;
use program::Program;
use text::ModelText;
use walk::SumRow;

pub use error::ModelError;
pub use kernel::Kernel;
pub use objective::Objective;
pub use shap::{ExplainScratch, Explainer};

/// Up to this many rows are walked; more are bit-sliced, at nearly the same price for each number of rows up to a block.
const WALK_ROWS_MAX: usize = 8;

/// One feature's values. A row whose bit in `validity` is 0 has none.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    pub values: &'a [f64],
    pub validity: Option<Validity<'a>>,
}

/// Bits as Arrow keeps them: least significant first, from a bit offset on.
#[derive(Debug, Clone, Copy)]
pub struct Validity<'a> {
    pub bits: &'a [u8],
    pub offset: usize,
}

impl Column<'_> {
    #[inline(always)]
    fn value(&self, row: usize) -> f64 {
        let valid = self.validity.is_none_or(|validity| {
            let bit = validity.offset + row;
            validity.bits[bit / 8] >> (bit % 8) & 1 == 1
        });
        if valid { self.values[row] } else { f64::NAN }
    }
}

impl<'a> From<&'a [f64]> for Column<'a> {
    fn from(values: &'a [f64]) -> Self {
        Self { values, validity: None }
    }
}

/// What a call works in. Keep one per thread and use it for every call and every model.
#[derive(Debug, Default)]
pub struct Scratch {
    block: BlockScratch,
    ranks: Vec<u32>,
}

/// A LightGBM model, ready to score.
#[derive(Debug)]
pub struct Model {
    feature_names: Vec<String>,
    objective: Objective,
    num_classes: usize,
    num_trees: usize,
    conditions: Conditions,
    program: Program,
    explainer: Result<Explainer, ModelError>,
}

impl Model {
    /// Reads LightGBM's text format (`save_model`, versions v3 and v4).
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        // Positions of nodes and leaves are 32-bit; each takes more than a byte of text.
        if i32::try_from(text.len()).is_err() {
            return Err(ModelError::unsupported("size", format!("{} bytes", text.len()), "files below 2 GiB"));
        }
        let ModelText { feature_names, objective, trees, num_classes } = ModelText::parse(text)?;
        let conditions = Conditions::collect(&trees);
        let program = Program::compile(&trees, num_classes, &conditions);
        let explainer = Explainer::new(&trees, feature_names.len(), num_classes);
        Ok(Self { feature_names, objective, num_classes, num_trees: trees.len(), conditions, program, explainer })
    }

    /// What explains the scores, or why nothing can.
    pub fn explainer(&self) -> Result<&Explainer, &ModelError> {
        self.explainer.as_ref()
    }

    /// The features, in the order in which columns are given.
    pub fn feature_names(&self) -> &[String] {
        &self.feature_names
    }

    pub fn objective(&self) -> Objective {
        self.objective
    }

    /// How many scores a row gets: 1, or the number of classes.
    pub fn num_outputs(&self) -> usize {
        self.num_classes
    }

    pub fn num_trees(&self) -> usize {
        self.num_trees
    }

    /// Scores all rows of `columns`, one column per feature in the model's order, into `scores`: rows x outputs, row by row.
    /// A row without a value, and NaN, are missing values as LightGBM treats them.
    ///
    /// # Panics
    /// If the number of columns is not that of the features, or the columns or `scores` have other lengths than they should.
    pub fn score(&self, columns: &[Column<'_>], scores: &mut [f64], scratch: &mut Scratch) {
        self.score_with(Kernel::detect(), columns, scores, scratch);
    }

    /// As [`Model::score`], with a given kernel.
    pub(crate) fn score_with(&self, kernel: Kernel, columns: &[Column<'_>], scores: &mut [f64], scratch: &mut Scratch) {
        let num_rows = scores.len() / self.num_classes;
        assert_eq!(columns.len(), self.feature_names.len(), "one column per feature");
        assert_eq!(scores.len() % self.num_classes, 0, "as many scores per row as the model has outputs");
        assert!(columns.iter().all(|column| column.values.len() == num_rows), "as many rows in each column as scores");
        if num_rows <= WALK_ROWS_MAX {
            self.walk(kernel, columns, scores, scratch);
            return;
        }
        scratch.block.prepare(&self.program, &self.conditions);
        for (block, scores) in scores.chunks_mut(ROWS * self.num_classes).enumerate() {
            let rows = scores.len() / self.num_classes;
            let view = BlockOf { columns, first: block * ROWS, rows };
            kernel.run(SumBlock {
                program: &self.program,
                conditions: &self.conditions,
                columns: &view,
                rows,
                scratch: &mut scratch.block,
            });
            self.finish_block(&scratch.block.sums, scores);
        }
    }

    fn finish_block(&self, sums: &[[f64; ROWS]], scores: &mut [f64]) {
        if let ([sums, ..], 1) = (sums, self.num_classes) {
            scores.copy_from_slice(&sums[..scores.len()]);
            self.objective.transform(scores);
            return;
        }
        for (row, scores) in scores.chunks_exact_mut(self.num_classes).enumerate() {
            for (score, sums) in scores.iter_mut().zip(sums) {
                *score = sums[row];
            }
            self.objective.transform(scores);
        }
    }

    fn walk(&self, kernel: Kernel, columns: &[Column<'_>], scores: &mut [f64], scratch: &mut Scratch) {
        // At least one: leaves look at the first.
        scratch.ranks.resize(self.conditions.num_ranks.max(scratch.ranks.len()).max(1), 0);
        for (row, scores) in scores.chunks_exact_mut(self.num_classes).enumerate() {
            kernel.run(SumRow {
                program: &self.program,
                conditions: &self.conditions,
                value: |feature: usize| columns[feature].value(row),
                ranks: &mut scratch.ranks,
                sums: scores,
            });
            self.objective.transform(scores);
        }
    }
}

/// A block of rows of whole columns.
struct BlockOf<'a> {
    columns: &'a [Column<'a>],
    first: usize,
    rows: usize,
}

impl BlockColumns for BlockOf<'_> {
    #[inline(always)]
    fn load(&self, feature: usize, values: &mut [f64; ROWS]) {
        let column = &self.columns[feature];
        let values = &mut values[..self.rows];
        values.copy_from_slice(&column.values[self.first..][..self.rows]);
        if let Some(validity) = column.validity {
            for (row, value) in values.iter_mut().enumerate() {
                let bit = validity.offset + self.first + row;
                let valid = validity.bits[bit / 8] >> (bit % 8) & 1 == 1;
                *value = if valid { *value } else { f64::NAN };
            }
        }
    }
}
