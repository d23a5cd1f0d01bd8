//! The `training` section: which model it makes, and parts of the time that leave rows for each other.

use std::time::Duration;

use super::super::file::{GateFile, ImbalanceFile, PipelineFile, ThresholdFile, TrainingFile};
use super::super::forms::Text;
use super::super::problem::{list, quoted};
use super::super::settings::{Boundary, Gate, Imbalance, Training, TreeParameters};
use super::super::text::TimestampMillis;
use super::{Validator, to_usize};
use crate::types::{EventTime, MissedCost, ThresholdPolicy};

/// Training, validation and test rows all need some of the time.
const SHARES_MAX: f64 = 0.9;

impl Validator<'_> {
    pub(super) fn training(&mut self, training: &TrainingFile, file: &PipelineFile) -> Training {
        let model = self.trained_model(training, file);
        self.training_columns(training);
        let time = |text: Option<Text<TimestampMillis>>| {
            text.map(|text| EventTime::from_micros(text.0.0.saturating_mul(1_000)))
        };
        let boundary = |from, share| time(from).map_or(Boundary::Share(share), Boundary::From);
        let settings = Training {
            model,
            label: training.label.clone(),
            view: training.view.clone(),
            known_later: training.known_later.clone(),
            amount: training.amount.clone(),
            segments: training.segments.clone(),
            kind: training.kind.clone(),
            unfindable_kinds: training.unfindable_kinds.clone(),
            alerts_per_day: training.alerts_per_day,
            from: time(training.from),
            until: time(training.until),
            label_delay: training.label_delay.map(|delay| delay.0),
            validation: boundary(training.validation_from, training.validation_share),
            test: boundary(training.test_from, training.test_share),
            folds: to_usize(training.folds),
            trials: to_usize(training.trials),
            time_budget: self.duration(
                &["training", "time_budget"],
                training.time_budget,
                Duration::ZERO,
                Duration::from_secs(30 * 86_400),
            ),
            seed: training.seed,
            rounds: training.rounds,
            early_stopping: training.early_stopping,
            parameters: parameters(training),
            imbalance: imbalance(training.imbalance),
            threshold: threshold(training.threshold),
            gate: gate(&training.gate),
        };
        self.training_time(&settings);
        settings
    }

    fn trained_model(&mut self, training: &TrainingFile, file: &PipelineFile) -> String {
        let names: Vec<&str> = file.models.0.iter().map(|(name, _)| name.as_str()).collect();
        let known = if names.is_empty() { "there are none: add `models`".to_owned() } else { list(names.clone()) };
        match (&training.model, names.as_slice()) {
            (Some(name), _) if !names.contains(&name.as_str()) => {
                let message = format!("no model has the name {}", quoted(name));
                self.refuse(&["training", "model"], message, format!("models of this file: {known}"));
                name.clone()
            }
            (Some(name), _) => name.clone(),
            (None, [only]) => (*only).to_owned(),
            (None, _) => {
                let message = format!("expected one model to train, found {}", names.len());
                self.refuse_key(
                    &["training"],
                    message,
                    format!("say which with `model`; models of this file: {known}"),
                );
                String::new()
            }
        }
    }

    /// Costs by amount need one, and what the label is cannot be something else as well.
    fn training_columns(&mut self, training: &TrainingFile) {
        if let ThresholdFile::Costs(costs) = training.threshold
            && costs.missed.is_none()
            && training.amount.is_none()
        {
            self.refuse(
                &["training", "threshold"],
                "a missed positive costs its amount, and no column is named for that",
                "add `amount: <column>` to `training`, or a number as `missed`",
            );
        }
        if training.segments.contains(&training.label) || training.amount.as_ref() == Some(&training.label) {
            self.refuse(
                &["training", "label"],
                format!("the label {} is also the amount or a segment", quoted(&training.label)),
                "name another column there",
            );
        }
    }

    fn training_time(&mut self, settings: &Training) {
        if let (Boundary::Share(validation), Boundary::Share(test)) = (settings.validation, settings.test)
            && validation + test > SHARES_MAX
        {
            self.refuse(
                &["training", "validation_share"],
                format!(
                    "validation and test take {} of the time, and leave too little to learn from",
                    validation + test
                ),
                format!("together at most {SHARES_MAX}"),
            );
        }
        let time = |boundary| match boundary {
            Boundary::From(time) => Some(time),
            Boundary::Share(_) => None,
        };
        let order = [
            ("from", settings.from),
            ("validation_from", time(settings.validation)),
            ("test_from", time(settings.test)),
            ("until", settings.until),
        ];
        let given: Vec<(&str, EventTime)> = order.into_iter().filter_map(|(key, time)| Some((key, time?))).collect();
        for pair in given.windows(2) {
            let [(before, start), (key, end)] = pair else { continue };
            if end <= start {
                let message = format!("`{key}` is not after `{before}`");
                self.refuse(&["training", key], message, "in order: from, validation_from, test_from, until");
            }
        }
    }
}

fn gate(gate: &GateFile) -> Gate {
    Gate {
        positives: gate.positives,
        pr_auc_margin: gate.pr_auc_margin,
        recall_margin: gate.recall_margin,
        segment_margin: gate.segment_margin,
        pr_auc_gain: gate.pr_auc_gain,
        pr_auc_least: gate.pr_auc_least,
        recall_least: gate.recall_least,
        is_calibrated: gate.calibration,
        scoring_micros: gate.scoring_micros,
        feature_changes: gate.feature_changes.clone(),
    }
}

fn parameters(training: &TrainingFile) -> TreeParameters {
    let file = &training.parameters;
    TreeParameters {
        learning_rate: file.learning_rate,
        num_leaves: file.num_leaves,
        min_data_in_leaf: file.min_data_in_leaf,
        min_sum_hessian_in_leaf: file.min_sum_hessian_in_leaf,
        lambda_l2: file.lambda_l2,
        feature_fraction: file.feature_fraction,
        bagging_fraction: file.bagging_fraction,
        max_bin: file.max_bin,
    }
}

fn imbalance(imbalance: ImbalanceFile) -> Imbalance {
    match imbalance {
        ImbalanceFile::None => Imbalance::Nothing,
        ImbalanceFile::FullWeight => Imbalance::FullWeight,
        ImbalanceFile::SqrtWeight => Imbalance::SqrtWeight,
        ImbalanceFile::Weight(weight) => Imbalance::Weight(weight),
        ImbalanceFile::Undersampling(ratio) => Imbalance::Undersampling(ratio),
        ImbalanceFile::Smote(ratio) => Imbalance::Smote(ratio),
    }
}

fn threshold(threshold: ThresholdFile) -> ThresholdPolicy {
    match threshold {
        ThresholdFile::FBeta(beta) => ThresholdPolicy::FBeta { beta },
        ThresholdFile::PrecisionFloor(precision) => ThresholdPolicy::PrecisionFloor { precision },
        ThresholdFile::AlertBudget(per_day) => ThresholdPolicy::AlertBudget { per_day },
        ThresholdFile::Costs(costs) => ThresholdPolicy::Costs {
            missed: costs.missed.map_or(MissedCost::Amount, MissedCost::Each),
            review: costs.review,
        },
        ThresholdFile::Fixed(threshold) => ThresholdPolicy::Fixed { threshold },
    }
}
