//! The search of parameters: sets at random, each tried on all folds, several at a time. Which sets there are depends on the seed
//! and their number alone, and the best of those that were tried wins, so the outcome does not depend on threads; only a time
//! budget can make it depend on the machine, and the record says how many were tried.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::booster::BinnedRows;
use super::fit::{Growth, grow, parameters, text_of, weight_of_positives};
use super::imbalance::resampled;
use super::rows::Rows;
use super::split::Fold;
use crate::error::{Error, Result};
use crate::model::manifest::Search;
use crate::pipeline::settings::{Training, TreeParameters};
use crate::runtime::clock;

/// A fold with its rows in bins, which all trials share.
struct BinnedFold {
    learnt: BinnedRows,
    judged: BinnedRows,
    labels: Vec<bool>,
    weight: f64,
}

/// What the search found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) parameters: TreeParameters,
    pub(super) search: Search,
}

/// How a search goes on: trials done, of how many, and the best average precision so far.
pub(super) type OnTrial<'a> = &'a (dyn Fn(usize, usize, f64) + Sync);

/// The best parameters on the folds: those of the settings, or one of so many trials.
pub(super) fn search(
    rows: &Rows,
    names: &[String],
    folds: &[Fold],
    training: &Training,
    num_threads: usize,
    on_trial: OnTrial<'_>,
) -> Result<Found> {
    let deadline = clock::now() + training.time_budget;
    let binned = folds.iter().map(|fold| bin(rows, names, fold, training)).collect::<Result<Vec<_>>>()?;
    let (next, num_trials) = (AtomicUsize::new(0), training.trials + 1);
    let done: Mutex<Vec<(usize, f64)>> = Mutex::default();
    let work = || -> Result<()> {
        loop {
            let trial = next.fetch_add(1, Ordering::Relaxed);
            // The settings' own parameters are tried in any case: they are what the others are held against.
            if trial >= num_trials || (trial > 0 && is_over(deadline)) {
                return Ok(());
            }
            let average_precision = tried(&binned, &trial_parameters(training, trial), training)?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((trial, average_precision));
            let best = done.iter().map(|(_, found)| *found).fold(0.0, f64::max);
            on_trial(done.len(), num_trials, best);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..num_threads.clamp(1, num_trials)).map(|_| scope.spawn(work)).collect();
        let mut outcome = Ok(());
        for thread in threads {
            let ended = thread.join().map_err(|_| Error::internal("a trial of the search died"))?;
            outcome = outcome.and(ended);
        }
        outcome
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(trial, _)| *trial);
    let of_defaults = done.first().map(|(_, found)| *found);
    let best = done.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best });
    let (trial, average_precision) = best.ok_or_else(|| Error::internal("no parameters were tried"))?;
    Ok(Found {
        parameters: trial_parameters(training, trial),
        search: Search {
            trials: done.len() as u64 - 1,
            folds: folds.len() as u64,
            average_precision: Some(average_precision),
            of_defaults,
        },
    })
}

fn is_over(deadline: Instant) -> bool {
    clock::now() >= deadline
}

fn bin(rows: &Rows, names: &[String], fold: &Fold, training: &Training) -> Result<BinnedFold> {
    let learnt = rows.view(fold.learnt.clone());
    let weight = weight_of_positives(&training.imbalance, learnt.labels.len(), learnt.num_positives());
    let judged = rows.view(fold.judged.clone());
    let text = text_of(&parameters(&training.parameters, weight, growth(training), training.seed));
    let made = resampled(&learnt, rows.num_features, &training.imbalance, training.seed);
    let learnt = made.as_ref().map_or(learnt, |made| made.view());
    let learnt = BinnedRows::new(&learnt, names, &text, None)?;
    let judged_binned = BinnedRows::new(&judged, names, &text, Some(&learnt))?;
    Ok(BinnedFold { learnt, judged: judged_binned, labels: judged.labels.to_vec(), weight })
}

pub(super) fn growth(training: &Training) -> Growth {
    Growth { rounds: training.rounds, patience: training.early_stopping }
}

/// Mean average precision over the folds.
fn tried(folds: &[BinnedFold], tree: &TreeParameters, training: &Training) -> Result<f64> {
    let mut sum = 0.0;
    for fold in folds {
        let text = text_of(&parameters(tree, fold.weight, growth(training), training.seed));
        let grown = grow(&fold.learnt, &fold.judged, &fold.labels, &text, growth(training), false, &mut |_, _| {});
        sum += match grown {
            Ok(grown) => grown.average_precision,
            // A set that diverges or learns nothing is a bad set, not the end of the search.
            Err(error) if error.kind() == crate::ErrorKind::Data => 0.0,
            Err(error) => return Err(error),
        };
    }
    Ok(sum / folds.len().max(1) as f64)
}

/// The parameters of a trial: 0 is those of the settings. `max_bin` is the same for all, so that all share the bins.
fn trial_parameters(training: &Training, trial: usize) -> TreeParameters {
    if trial == 0 {
        return training.parameters;
    }
    let mut random =
        Xoshiro256PlusPlus::seed_from_u64(training.seed ^ (trial as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Few digits, so that the record shows what was given.
    let mut scaled = |from: f64, to: f64| {
        let number = (from.ln() + random.random::<f64>() * (to / from).ln()).exp();
        format!("{number:.3}").parse().unwrap_or(number)
    };
    TreeParameters {
        learning_rate: scaled(0.02, 0.12),
        num_leaves: scaled(15.0, 127.0) as u32,
        min_data_in_leaf: scaled(20.0, 400.0) as u32,
        min_sum_hessian_in_leaf: scaled(0.2, 10.0),
        lambda_l2: scaled(0.5, 30.0),
        feature_fraction: scaled(0.5, 1.0),
        bagging_fraction: scaled(0.6, 1.0),
        max_bin: training.parameters.max_bin,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::rows;
    use super::super::tests::training;
    use super::*;

    fn seeded() -> Rows {
        let mut state = 77_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        let row = |row: i64| {
            let (signal, noise) = (next(), next());
            (row * 1_000_000, next() < 0.4 * signal * signal, vec![signal, noise])
        };
        rows(&(0..3000).map(row).collect::<Vec<_>>())
    }

    fn found(training: &Training, num_threads: usize) -> Found {
        let rows = seeded();
        let folds = [Fold { learnt: 0..1000, judged: 1000..2000 }, Fold { learnt: 0..2000, judged: 2000..3000 }];
        search(&rows, &["signal".into(), "noise".into()], &folds, training, num_threads, &|_, _, _| {}).unwrap()
    }

    #[test]
    fn the_outcome_does_not_depend_on_threads_and_is_no_worse_than_the_defaults() {
        let training = Training { trials: 6, rounds: 30, ..training() };
        let alone = found(&training, 1);
        let together = found(&training, 4);
        assert_eq!(alone.parameters, together.parameters);
        assert_eq!(alone.search, together.search);
        assert_eq!((alone.search.trials, alone.search.folds), (6, 2));
        assert!(alone.search.average_precision >= alone.search.of_defaults);
        let other = found(&Training { seed: 43, ..training.clone() }, 2);
        assert_ne!(trial_parameters(&training, 1), trial_parameters(&Training { seed: 43, ..training.clone() }, 1));
        assert_eq!(other.search.trials, 6);
    }

    #[test]
    fn no_trial_begins_after_the_time_budget() {
        let training = Training { trials: 1000, rounds: 5, time_budget: std::time::Duration::ZERO, ..training() };
        let found = found(&training, 2);
        assert_eq!(found.search.trials, 0);
        assert_eq!(found.parameters, training.parameters);
    }
}
