//! Rows by what they are used for: train | gap | validation | test, by event time, and the folds of a search inside the training
//! rows. Pure: from event times and settings to ranges of rows. Refuses parts that a model cannot learn from or be judged on.

use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};

use super::rows::Rows;
use crate::error::{Error, Result};
use crate::model::manifest::{Part, Parts};
use crate::pipeline::settings::{Boundary, Training};

/// Time until labels are known, where nobody says how long that is.
const LABEL_DELAY: Duration = Duration::from_secs(7 * 86_400);
/// The gap is at most this share of the history, unless it is said how long labels take.
const GAP_SHARE: f64 = 0.1;

/// Ranges of rows that stand in the order of event time, and the times where they begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) train: Range<usize>,
    pub(super) gap: Range<usize>,
    pub(super) validation: Range<usize>,
    pub(super) test: Range<usize>,
    /// First time of each part, and the first behind the last.
    times: [i64; 5],
    /// Time between the rows that a fold learns from and those that it is judged on.
    pub(super) fold_gap: i64,
}

/// A time as people read it.
pub(super) fn shown(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Split {
    /// Splits rows; `times` are in order.
    pub(super) fn new(times: &[i64], training: &Training) -> Result<Split> {
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return Err(Error::data("there are no rows to train on"));
        };
        let (begin, end) = (*first, last.saturating_add(1));
        let length = (end - begin) as f64;
        let before_end = |share: f64| end - (share * length) as i64;
        let test = match training.test {
            Boundary::Share(share) => before_end(share),
            Boundary::From(time) => time.as_micros(),
        };
        let validation = match training.validation {
            Boundary::Share(share) => test - (share * length) as i64,
            Boundary::From(time) => time.as_micros(),
        };
        let delay = match training.label_delay {
            Some(delay) => micros(delay),
            None => micros(LABEL_DELAY).min((GAP_SHARE * length) as i64),
        };
        let gap = validation.saturating_sub(delay);
        let starts = [begin, gap, validation, test, end];
        if let Some(at) = starts.windows(2).position(|pair| pair[1] < pair[0] || (pair[1] == pair[0] && delay > 0)) {
            return Err(empty(PARTS[at], &starts));
        }
        let at = |time: i64| times.partition_point(|row| *row < time);
        let [_, gap_at, validation_at, test_at, _] = starts.map(at);
        let split = Split {
            train: 0..gap_at,
            gap: gap_at..validation_at,
            validation: validation_at..test_at,
            test: test_at..times.len(),
            times: starts,
            fold_gap: delay.min((GAP_SHARE * (gap - begin) as f64) as i64),
        };
        Ok(split)
    }

    /// Refuses parts without rows of both labels.
    pub(super) fn check(&self, rows: &Rows) -> Result<()> {
        for (part, at, name) in [(&self.train, 0, PARTS[0]), (&self.validation, 2, PARTS[2]), (&self.test, 3, PARTS[3])]
        {
            let positives = rows.view(part.clone()).num_positives();
            if part.is_empty() {
                return Err(empty(name, &self.times));
            }
            if positives == 0 || positives == part.len() {
                let found = if positives == 0 { "none of them is positive" } else { "all of them are positive" };
                return Err(Error::data(format!(
                    "the {name} rows, {} from {} until {}, hold one of the two labels only: {found}; give more history, move the \
                     parts (`training.validation_from`, `training.test_from`), or check that the labels have arrived",
                    part.len(),
                    shown(self.times[at]),
                    shown(self.times[at + 1]),
                )));
            }
        }
        Ok(())
    }

    /// What stands in the model's manifest.
    pub(super) fn parts(&self, rows: &Rows) -> Parts {
        let part = |range: &Range<usize>, at: usize| Part {
            rows: range.len() as u64,
            positives: rows.view(range.clone()).num_positives() as u64,
            from: shown(self.times[at]),
            until: shown(self.times[at + 1]),
        };
        Parts {
            train: part(&self.train, 0),
            gap: part(&self.gap, 1),
            validation: part(&self.validation, 2),
            test: part(&self.test, 3),
        }
    }

    /// Folds inside the training rows, in the order of time: each learns from the rows before those that it is judged on.
    pub(super) fn folds(&self, rows: &Rows, num_folds: usize) -> Result<Vec<Fold>> {
        let num_rows = self.train.len();
        if num_rows < num_folds + 1 {
            return Err(Error::data(format!(
                "{num_rows} training rows are too few for {num_folds} folds; give more history, or lower `training.folds`, or try no \
                 parameters: `training.trials: 0`"
            )));
        }
        let mut folds = Vec::with_capacity(num_folds);
        for number in 1..=num_folds {
            let begin = num_rows * number / (num_folds + 1);
            let judged = begin..num_rows * (number + 1) / (num_folds + 1);
            let until = rows.times[begin].saturating_sub(self.fold_gap);
            let learnt = 0..rows.times[..begin].partition_point(|time| *time < until);
            for (range, what) in [(&learnt, "learn from"), (&judged, "be judged on")] {
                let positives = rows.view(range.clone()).num_positives();
                if positives == 0 || positives == range.len() {
                    return Err(Error::data(format!(
                        "fold {number} of {num_folds} has {} rows to {what}, {positives} of them positive; expected some of both; give \
                         more history, or lower `training.folds`, or try no parameters: `training.trials: 0`",
                        range.len()
                    )));
                }
            }
            folds.push(Fold { learnt, judged });
        }
        Ok(folds)
    }
}

/// Rows of a fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fold {
    pub(super) learnt: Range<usize>,
    pub(super) judged: Range<usize>,
}

const PARTS: [&str; 4] = ["training", "gap", "validation", "test"];

fn empty(part: &str, times: &[i64; 5]) -> Error {
    let [begin, gap, validation, test, end] = times.map(shown);
    Error::data(format!(
        "the history leaves no {part} rows: it goes from {begin} until {end}; training rows end at {gap}, validation rows begin at \
         {validation}, test rows at {test}; give more history, a shorter `training.label_delay`, or other parts (`training.validation_from`, \
         `training.test_from`)"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::rows;
    use super::super::tests::training;
    use super::*;
    use crate::types::EventTime;

    const DAY: i64 = 86_400_000_000;

    /// A row an hour, every tenth positive.
    fn hours(num_days: i64) -> Rows {
        let row = |hour: i64| (hour * DAY / 24, hour % 10 == 0, vec![0.0]);
        rows(&(0..num_days * 24).map(row).collect::<Vec<_>>())
    }

    #[test]
    fn forty_days_leave_four_for_the_labels_and_eight_for_the_test() {
        let rows = hours(40);
        let split = Split::new(&rows.times, &training()).unwrap();
        split.check(&rows).unwrap();
        let days = |range: &Range<usize>| (range.len() as f64 / 24.0).round() as i64;
        let found = [&split.train, &split.gap, &split.validation, &split.test].map(days);
        assert_eq!(found, [22, 4, 6, 8]);
        assert_eq!(split.train.end, split.gap.start);
        assert_eq!(split.test.end, rows.num_rows());
        let parts = split.parts(&rows);
        assert_eq!(parts.train.from, "1970-01-01T00:00:00Z");
        assert_eq!(parts.gap.until, parts.validation.from);
    }

    #[test]
    fn a_year_has_a_gap_of_seven_days() {
        let times: Vec<i64> = (0..365).map(|day| day * DAY).collect();
        let split = Split::new(&times, &training()).unwrap();
        assert_eq!(split.gap.len(), 7);
    }

    #[test]
    fn parts_begin_where_it_is_said() {
        let rows = hours(40);
        let mut training = training();
        training.validation = Boundary::From(EventTime::from_micros(20 * DAY));
        training.test = Boundary::From(EventTime::from_micros(30 * DAY));
        training.label_delay = Some(Duration::from_secs(2 * 86_400));
        let split = Split::new(&rows.times, &training).unwrap();
        assert_eq!((split.train.len(), split.gap.len()), (18 * 24, 2 * 24));
        assert_eq!((split.validation.len(), split.test.len()), (240, 240));
        training.label_delay = Some(Duration::ZERO);
        assert_eq!(Split::new(&rows.times, &training).unwrap().gap.len(), 0);
    }

    #[test]
    fn a_part_without_rows_says_what_the_history_covers() {
        let mut training = training();
        training.test = Boundary::From(EventTime::from_micros(400 * DAY));
        let error = Split::new(&hours(40).times, &training).unwrap_err().to_string();
        assert!(error.contains("no test rows") && error.contains("1970-02-09T23:00"), "{error}");
        let mut training = self::training();
        training.label_delay = Some(Duration::from_secs(100 * 86_400));
        let error = Split::new(&hours(40).times, &training).unwrap_err().to_string();
        assert!(error.contains("no training rows") && error.contains("label_delay"), "{error}");
        assert!(Split::new(&[], &training).is_err());
    }

    #[test]
    fn a_part_with_one_label_is_refused() {
        let mut all = hours(40);
        let split = Split::new(&all.times, &training()).unwrap();
        all.labels[split.validation.clone()].fill(false);
        let error = split.check(&all).unwrap_err().to_string();
        assert!(error.contains("validation rows") && error.contains("none of them is positive"), "{error}");
        all.labels.fill(true);
        let error = split.check(&all).unwrap_err().to_string();
        assert!(error.contains("training rows") && error.contains("all of them are positive"), "{error}");
    }

    #[test]
    fn folds_learn_from_what_was_before_and_leave_a_gap() {
        let rows = hours(40);
        let split = Split::new(&rows.times, &training()).unwrap();
        let folds = split.folds(&rows, 3).unwrap();
        assert_eq!(folds.len(), 3);
        for fold in &folds {
            let gap = rows.times[fold.judged.start] - rows.times[fold.learnt.end - 1];
            assert!(gap > split.fold_gap, "{fold:?}");
            assert_eq!(fold.learnt.start, 0);
        }
        assert!(folds.windows(2).all(|pair| pair[0].judged.end == pair[1].judged.start));
        assert_eq!(folds[2].judged.end, split.train.end);
        let error = split.folds(&rows, 5000).unwrap_err().to_string();
        assert!(error.contains("too few for 5000 folds"), "{error}");
        let error = split.folds(&rows, 400).unwrap_err().to_string();
        assert!(error.contains("fold 1 of 400"), "{error}");
    }
}
