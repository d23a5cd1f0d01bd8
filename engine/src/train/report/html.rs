//! The HTML file: every number as text, put into the template. All text is escaped by the template engine but the SVG of our own
//! pictures, whose texts are escaped where they are drawn.

use chrono::DateTime;
use minijinja::{AutoEscape, Environment};
use serde_json::{Value, json};

use super::numbers::{count, short, wilson};
use super::{Named, ReportInput};
use crate::error::{Error, Result};
use crate::model::evaluation::{Evaluation, Group, KindOfPositive, Resampling};
use crate::model::gate::{self, GateReport};
use crate::model::manifest::ModelManifest;

const TEMPLATE: &str = include_str!("report.html");

pub(super) fn html(input: &ReportInput<'_>, pictures: &[Named]) -> Result<String> {
    let failed = |error: minijinja::Error| Error::internal("the report cannot be written").with_source(error);
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("report", TEMPLATE).map_err(failed)?;
    let template = environment.get_template("report").map_err(failed)?;
    template.render(context(input, pictures)).map_err(failed)
}

fn context(input: &ReportInput<'_>, pictures: &[Named]) -> Value {
    let (manifest, found) = (input.manifest, input.evaluation);
    json!({
        "model": manifest.model,
        "run": manifest.run,
        "period": period(found.from_micros, found.to_micros),
        "rows": count(found.rows),
        "positives": count(found.positives),
        "share": percent(found.positives as f64 / found.rows as f64),
        "tiles": tiles(found),
        "interval": interval(found),
        "threshold": short(found.at_threshold.threshold),
        "policy": manifest.threshold_policy.to_string(),
        "gate": input.gate.map(verdict),
        "champion": input.champion.map(|(version, champion)| json!({
            "version": version,
            "figures": compared(found, champion),
        })),
        "unfindable": found.unfindable.as_ref().map(|unfindable| json!({
            "kinds": unfindable.kinds.join(", "),
            "share": percent(unfindable.share),
            "positives": count(unfindable.positives),
            "recall_most": percent(unfindable.recall_most),
            "recall": percent(found.at_threshold.recall),
            "recall_of_findable": percent(unfindable.recall_of_findable),
        })),
        "has_budget": found.at_budget.is_some(),
        "kinds": found.kinds.iter().map(kind).collect::<Vec<_>>(),
        "at_precision": found.at_precision.iter().map(|at| json!({
            "precision": percent(at.precision),
            "recall": percent(at.recall),
            "threshold": at.threshold.map_or_else(|| "none has it".to_owned(), short),
        })).collect::<Vec<_>>(),
        "segments": found.segments.iter().map(|segment| json!({
            "column": segment.column,
            "groups": segment.groups.iter().map(group).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "calibration": found.calibration.as_ref().map(|calibration| json!({
            "brier": short(calibration.brier),
            "of_constant": short(calibration.brier_of_constant),
            "ece": short(calibration.ece),
            "mean_score": percent(calibration.mean_score),
        })),
        "pictures": pictures.iter().map(|named| json!({
            "name": named.name.replace('_', " "),
            "description": named.description,
            "svg": named.picture.svg,
        })).collect::<Vec<_>>(),
        "parts": parts(manifest),
        "data": manifest.data.iter().map(|data| json!({
            "source": data.source, "uri": data.uri, "order": data.order,
            "rows": count(data.rows), "rejected": count(data.rejected),
        })).collect::<Vec<_>>(),
        "record": record(manifest),
        "features": manifest.features,
        "notes": manifest.notes,
    })
}

/// The figures at the top: name, value, what it means.
fn tiles(found: &Evaluation) -> Vec<[String; 3]> {
    let at = &found.at_threshold;
    let tile = |name: &str, value: String, meaning: String| [name.to_owned(), value, meaning];
    let area = &found.pr_auc;
    let (low, high) = wilson(at.true_positives, at.true_positives + at.false_positives);
    let mut tiles = vec![
        tile("PR-AUC", format!("{:.3}", area.value), format!("{:.3} – {:.3}", area.low, area.high)),
        tile("Precision", percent(at.precision), format!("{} – {}", percent(low), percent(high))),
        tile("Recall", percent(at.recall), {
            let (low, high) = wilson(at.true_positives, at.true_positives + at.false_negatives);
            format!("{} – {}", percent(low), percent(high))
        }),
        tile("F1", format!("{:.3}", at.f1), "at the threshold".to_owned()),
        tile("Alerts a day", decimal(at.alerts_per_day), format!("{} per 1000 rows", decimal(at.alerts_per_1000))),
    ];
    if let Some(value) = at.value_recall {
        tiles.push(tile("Value recall", percent(value), "of the amounts".to_owned()));
    }
    if let Some(budget) = &found.at_budget {
        let meaning = format!("precision {} at {} a day", percent(budget.precision), count(budget.alerts_per_day));
        tiles.push(tile("Recall at the budget", percent(budget.recall), meaning));
    }
    tiles.push(tile("ROC-AUC", format!("{:.4}", found.roc_auc), "for reference".to_owned()));
    tiles
}

fn interval(found: &Evaluation) -> String {
    let drawn = match found.pr_auc.resampling {
        Resampling::Days => "whole days",
        Resampling::Rows => "rows, positives and others apart (too few days to draw days)",
    };
    format!("{} % of {} bootstrap samples of {drawn}", short(100.0 * found.pr_auc.confidence), found.pr_auc.rounds)
}

fn verdict(gate: &GateReport) -> Value {
    json!({
        "passed": gate.passed,
        "champion": gate.champion,
        "checks": gate.checks.iter().map(|check| json!({
            "name": check.name,
            "ok": check.ok,
            "found": check.found.map_or_else(String::new, short),
            "limit": check.limit.map_or_else(String::new, short),
            "why": check.why,
        })).collect::<Vec<_>>(),
    })
}

/// Figures of both models.
fn compared(candidate: &Evaluation, champion: &Evaluation) -> Vec<Value> {
    gate::figures(candidate, Some(champion))
        .into_iter()
        .filter_map(|figure| {
            let champion = figure.champion?;
            Some(json!({
                "name": figure.name.replace('_', " "),
                "candidate": short(figure.candidate),
                "champion": short(champion),
                "difference": signed(figure.candidate - champion),
            }))
        })
        .collect()
}

fn kind(kind: &KindOfPositive) -> Value {
    let (low, high) = wilson(kind.hits, kind.positives);
    json!({
        "name": kind.kind,
        "positives": count(kind.positives),
        "recall": percent(kind.recall),
        "interval": format!("{} – {}", percent(low), percent(high)),
        "bar": bar(kind.recall),
        "at_budget": kind.recall_at_budget.map(percent),
        "value": kind.value_recall.map(percent),
    })
}

fn group(group: &Group) -> Value {
    json!({
        "name": group.name,
        "rows": count(group.rows),
        "positives": count(group.positives),
        "precision": if group.alerts > 0 { percent(group.precision) } else { "–".to_owned() },
        "recall": if group.positives > 0 { percent(group.recall) } else { "–".to_owned() },
        "bar": bar(group.recall),
        "at_budget": group.recall_at_budget.filter(|_| group.positives > 0).map(percent),
    })
}

fn parts(manifest: &ModelManifest) -> Vec<Value> {
    let parts = &manifest.parts;
    [("training", &parts.train), ("gap", &parts.gap), ("validation", &parts.validation), ("test", &parts.test)]
        .into_iter()
        .map(|(name, part)| {
            let share = part.positives as f64 / part.rows.max(1) as f64;
            json!({
                "name": name, "from": part.from, "until": part.until,
                "rows": count(part.rows), "positives": count(part.positives), "share": percent(share),
            })
        })
        .collect()
}

/// What is needed to make the same model again: name and value.
fn record(manifest: &ModelManifest) -> Vec<[String; 2]> {
    let mut record = vec![
        ["model file, SHA-256".to_owned(), manifest.sha256.clone()],
        ["SQL fingerprint".to_owned(), manifest.sql_fingerprint.clone()],
        ["label".to_owned(), manifest.label.clone()],
        ["seed".to_owned(), manifest.seed.to_string()],
        ["imbalance".to_owned(), manifest.imbalance.clone()],
        ["tidemill".to_owned(), manifest.versions.tidemill.clone()],
        ["LightGBM".to_owned(), manifest.versions.lightgbm.clone()],
        ["search".to_owned(), format!("{} trials on {} folds", manifest.search.trials, manifest.search.folds)],
    ];
    record.extend(manifest.parameters.iter().map(|(name, value)| [name.clone(), plain(value)]));
    record
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A share as the width of a bar, in a form that a style takes.
fn bar(share: f64) -> String {
    format!("{:.0}%", 100.0 * share.clamp(0.0, 1.0))
}

fn decimal(number: f64) -> String {
    if number >= 100.0 { count(number.round() as u64) } else { format!("{number:.1}") }
}

/// A difference with its sign; a minus of its own width.
fn signed(difference: f64) -> String {
    let text = short(difference.abs());
    match difference {
        _ if text == "0" => "0".to_owned(),
        _ if difference < 0.0 => format!("−{text}"),
        _ => format!("+{text}"),
    }
}

fn period(from_micros: i64, to_micros: i64) -> String {
    let time = |micros| {
        DateTime::from_timestamp_micros(micros)
            .map_or_else(|| micros.to_string(), |time| time.format("%Y-%m-%d %H:%M").to_string())
    };
    format!("{} – {} UTC", time(from_micros), time(to_micros))
}
