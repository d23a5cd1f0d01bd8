//! The share of rejected records among the last N, and the error at which a pipeline stops. Counts only: no clock, and no
//! record's content.

use std::collections::VecDeque;

use super::reason::{Reason, Rejected};
use crate::error::{Error, Result};
use crate::pipeline::settings::Source;

/// The last N records of one source.
///
/// The limit is reached when rejected records make up that share of a whole window, so a bad record at the start of a
/// stream is not yet a rate.
#[derive(Debug)]
pub struct RejectionRate {
    source_name: String,
    max_rate: f64,
    window: usize,
    /// Oldest first. Records before the first one count as accepted.
    outcomes: VecDeque<Outcome>,
    num_records: usize,
    num_rejected: usize,
}

/// A run of accepted records, or one that was rejected.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Accepted(usize),
    Rejected(Reason),
}

impl RejectionRate {
    /// The rate of `source`; `None` when it sets no limit.
    #[must_use]
    pub fn new(source: &Source) -> Option<RejectionRate> {
        Some(RejectionRate {
            source_name: source.name.clone(),
            max_rate: source.max_rejection_rate?,
            window: source.rejection_window.max(1),
            outcomes: VecDeque::new(),
            num_records: 0,
            num_rejected: 0,
        })
    }

    /// Takes the outcomes of a block into account: its accepted rows, and its rejected records in their order. An error as soon as the limit is reached after any of its records.
    pub fn observe(&mut self, num_rows: usize, rejected: &[Rejected]) -> Result<()> {
        let mut num_accepted = 0;
        for (num_rejected, rejected) in rejected.iter().enumerate() {
            // Stale records stand among them uncounted, so this may be too much.
            let before = (rejected.record - num_rejected).min(num_rows);
            self.push(Outcome::Accepted(before.saturating_sub(num_accepted)));
            num_accepted = before;
            self.push(Outcome::Rejected(rejected.reason));
            self.check()?;
        }
        self.push(Outcome::Accepted(num_rows - num_accepted));
        Ok(())
    }

    fn push(&mut self, outcome: Outcome) {
        match (outcome, self.outcomes.back_mut()) {
            (Outcome::Accepted(0), _) => return,
            (Outcome::Accepted(more), Some(Outcome::Accepted(run))) => *run += more,
            _ => self.outcomes.push_back(outcome),
        }
        match outcome {
            Outcome::Accepted(run) => self.num_records += run,
            Outcome::Rejected(_) => {
                self.num_records += 1;
                self.num_rejected += 1;
            }
        }
        while self.num_records > self.window {
            let excess = self.num_records - self.window;
            match self.outcomes.front_mut() {
                Some(Outcome::Accepted(run)) if *run > excess => {
                    *run -= excess;
                    self.num_records -= excess;
                }
                Some(Outcome::Accepted(run)) => {
                    self.num_records -= *run;
                    self.outcomes.pop_front();
                }
                Some(Outcome::Rejected(_)) => {
                    self.num_records -= 1;
                    self.num_rejected -= 1;
                    self.outcomes.pop_front();
                }
                None => return,
            }
        }
    }

    fn check(&self) -> Result<()> {
        if (self.num_rejected as f64) < self.max_rate * self.window as f64 {
            return Ok(());
        }
        let mut counts = [0_usize; Reason::ALL.len()];
        for outcome in &self.outcomes {
            if let Outcome::Rejected(reason) = outcome {
                counts[*reason as usize] += 1;
            }
        }
        let mut reasons: Vec<_> = Reason::ALL.iter().map(|reason| (counts[*reason as usize], reason)).collect();
        reasons.retain(|(count, _)| *count > 0);
        reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let reasons: Vec<_> = reasons.iter().map(|(count, reason)| format!("{reason} {count}")).collect();
        Err(Error::data(format!(
            "source {}: {} of the last {} records were rejected, {:.2} %, which reaches max_rejection_rate of {:.2} % ({}); \
             look at the dead letters, mend the producer, the columns or the checks, or raise max_rejection_rate",
            self.source_name,
            self.num_rejected,
            self.window,
            100.0 * self.num_rejected as f64 / self.window as f64,
            100.0 * self.max_rate,
            reasons.join(", "),
        )))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::tests::source_of;

    fn rate(max_rate: f64, window: usize) -> RejectionRate {
        let mut source = source_of(Vec::new());
        source.max_rejection_rate = Some(max_rate);
        source.rejection_window = window;
        RejectionRate::new(&source).unwrap()
    }

    /// A block in which the records named by `true` are rejected.
    fn block(outcomes: &[bool]) -> (usize, Vec<Rejected>) {
        let rejected = outcomes.iter().enumerate().filter(|(_, is_rejected)| **is_rejected);
        let rejected: Vec<_> =
            rejected.map(|(record, _)| Rejected { record, reason: Reason::NotJson, detail: None }).collect();
        (outcomes.len() - rejected.len(), rejected)
    }

    fn observe(rate: &mut RejectionRate, outcomes: &[bool]) -> Result<()> {
        let (num_rows, rejected) = block(outcomes);
        rate.observe(num_rows, &rejected)
    }

    #[test]
    fn without_a_limit_there_is_no_rate() {
        assert!(RejectionRate::new(&source_of(Vec::new())).is_none());
    }

    #[test]
    fn the_limit_is_reached_by_the_record_that_reaches_it() {
        let mut rate = rate(0.5, 4);
        observe(&mut rate, &[true, false, false, false]).unwrap();
        observe(&mut rate, &[true, false, false, false, true, false]).unwrap();
        let error = observe(&mut rate, &[true]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Data);
        assert_eq!(
            error.message(),
            "source transactions: 2 of the last 4 records were rejected, 50.00 %, which reaches max_rejection_rate of \
             50.00 % (not_json 2); look at the dead letters, mend the producer, the columns or the checks, or raise \
             max_rejection_rate"
        );
    }

    #[test]
    fn a_limit_of_zero_stops_at_the_first_rejected_record_and_not_before() {
        let mut rate = rate(0.0, 4);
        observe(&mut rate, &[false; 9]).unwrap();
        observe(&mut rate, &[false, true]).unwrap_err();
    }

    proptest! {
        #[test]
        fn it_is_the_share_of_the_last_records_however_they_are_cut(
            outcomes in prop::collection::vec(prop::bool::weighted(0.2), 0..200),
            window in 1_usize..20,
            cut in 1_usize..30,
        ) {
            let naive = (1..=outcomes.len()).any(|end| {
                let last = &outcomes[end.saturating_sub(window)..end];
                let num_rejected = last.iter().filter(|is_rejected| **is_rejected).count();
                outcomes[end - 1] && num_rejected as f64 >= 0.5 * window as f64
            });
            let mut rate = rate(0.5, window);
            let stops = outcomes.chunks(cut).any(|chunk| observe(&mut rate, chunk).is_err());
            prop_assert_eq!(stops, naive);
        }
    }
}
