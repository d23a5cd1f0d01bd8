//! The pictures of a training: confusion matrix, precision-recall curve, score distribution, threshold curve, calibration, feature
//! importance. Axes begin at zero, or say that they are logarithmic; intervals are drawn where counts are small.

use plotters::chart::{ChartContext, LabelAreaPosition};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::{BLUE, Canvas, Drawing, Drawn, FAINT, GREEN, GRID, INK, ORANGE};
use super::numbers::{count, short, wilson};
use crate::model::evaluation::{AtThreshold, Calibration, CurvePoint, Evaluation};

/// Size of a picture in units.
const SIZE: (u32, u32) = (560, 400);
/// Text of a picture in units: labels and titles.
const LABEL: f64 = 15.5;
const TITLE: f64 = 19.0;

type Plane<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the title and gives the rest of the canvas.
fn below_title<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    title: &str,
) -> Result<Canvas<DB>, DrawingAreaErrorKind<DB::ErrorType>> {
    canvas.area.draw_text(title, &canvas.text(TITLE, &INK), (canvas.px(16.0), canvas.px(12.0)))?;
    let area = canvas.area.margin(canvas.px(42.0), canvas.px(6.0), canvas.px(10.0), canvas.px(18.0));
    Ok(Canvas { area, scale: canvas.scale, drop: canvas.drop })
}

/// Axes from the given ranges with their descriptions.
fn plane<'a, DB: DrawingBackend>(
    canvas: &'a Canvas<DB>,
    x: (std::ops::Range<f64>, &str),
    y: (std::ops::Range<f64>, &str),
) -> Result<Plane<'a, DB>, DrawingAreaErrorKind<DB::ErrorType>> {
    let mut chart = ChartBuilder::on(&canvas.area)
        .set_label_area_size(LabelAreaPosition::Left, canvas.px(58.0))
        .set_label_area_size(LabelAreaPosition::Bottom, canvas.px(46.0))
        .margin_top(canvas.px(18.0))
        .build_cartesian_2d(x.0, y.0)?;
    chart
        .configure_mesh()
        .x_desc(x.1)
        .y_desc(y.1)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .max_light_lines(0)
        .bold_line_style(canvas.line(1.0, &GRID))
        .axis_style(canvas.line(1.0, &FAINT))
        .label_style(canvas.text(LABEL, &INK))
        .axis_desc_style(canvas.text(LABEL, &INK))
        .set_all_tick_mark_size(canvas.px(4.0))
        .draw()?;
    Ok(chart)
}

/// Entries of a legend above the plot, from left to right: text and colour.
fn legend<DB: DrawingBackend>(canvas: &Canvas<DB>, entries: &[(&str, &RGBColor)]) -> Drawn<DB> {
    let mut x = 58.0;
    for (text, color) in entries {
        let line = vec![(canvas.px(x), canvas.px(2.0)), (canvas.px(x + 18.0), canvas.px(2.0))];
        canvas.area.draw(&PathElement::new(line, canvas.line(3.0, color)))?;
        canvas.write(text, LABEL, &INK, HPos::Left, (x + 24.0, 2.0))?;
        // The width of the text in the browser's font is not known: about half its size for each letter.
        x += 44.0 + 0.48 * LABEL * text.len() as f64;
    }
    Ok(())
}

/// Precision over recall, with the point that the threshold chooses.
pub(super) struct PrecisionRecall<'a> {
    pub(super) evaluation: &'a Evaluation,
    pub(super) champion: Option<&'a Evaluation>,
}

impl Drawing for PrecisionRecall<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB> {
        let found = self.evaluation;
        let title = format!(
            "Precision and recall: PR-AUC {:.3} ({:.3} – {:.3})",
            found.pr_auc.value, found.pr_auc.low, found.pr_auc.high
        );
        let canvas = below_title(canvas, &title)?;
        let mut entries = vec![("this model", &BLUE)];
        if self.champion.is_some() {
            entries.push(("champion", &FAINT));
        }
        let at = &found.at_threshold;
        let chosen = format!("chosen: precision {:.2}, recall {:.2}", at.precision, at.recall);
        entries.push((&chosen, &ORANGE));
        legend(&canvas, &entries)?;
        let mut chart = plane(&canvas, (0.0..1.0, "recall"), (0.0..1.02, "precision"))?;
        let chance = found.positives as f64 / found.rows as f64;
        chart.draw_series(DashedLineSeries::new(
            [(0.0, chance), (1.0, chance)],
            canvas.px(5.0),
            canvas.px(4.0),
            canvas.line(1.5, &FAINT),
        ))?;
        let label = canvas.text(LABEL - 1.5, &FAINT).pos(Pos::new(HPos::Left, VPos::Bottom));
        let text = format!("random scores: {}", short(chance));
        chart.draw_series([Text::new(text, (0.015, (chance + 0.015).min(0.95)), label)])?;
        if let Some(champion) = self.champion {
            chart.draw_series(LineSeries::new(curve(&champion.curves.points), canvas.line(2.0, &FAINT)))?;
        }
        chart.draw_series(LineSeries::new(curve(&found.curves.points), canvas.line(2.5, &BLUE)))?;
        chart.draw_series([Circle::new((at.recall, at.precision), canvas.px(6.0), ORANGE.filled())])?;
        Ok(())
    }
}

/// Recall and precision, from the highest threshold. The curve begins where the first threshold is, not at an imagined point.
fn curve(points: &[CurvePoint]) -> impl Iterator<Item = (f64, f64)> + '_ {
    points.iter().map(|point| (point.recall, point.precision))
}

/// Precision, recall and F1 over the threshold.
pub(super) struct ThresholdCurve<'a> {
    pub(super) evaluation: &'a Evaluation,
}

impl Drawing for ThresholdCurve<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB> {
        let found = self.evaluation;
        let threshold = found.at_threshold.threshold;
        let canvas = below_title(canvas, &format!("What each threshold gives; chosen: {}", short(threshold)))?;
        legend(&canvas, &[("precision", &BLUE), ("recall", &ORANGE), ("F1", &GREEN), ("threshold", &FAINT)])?;
        let histogram = &found.curves.histogram;
        let (from, to) = (histogram.from, histogram.to);
        let mut chart = plane(&canvas, (from..to, "threshold"), (0.0..1.02, "share"))?;
        if (from..=to).contains(&threshold) {
            let line = [(threshold, 0.0), (threshold, 1.02)];
            chart.draw_series(DashedLineSeries::new(line, canvas.px(5.0), canvas.px(4.0), canvas.line(2.0, &FAINT)))?;
        }
        let figures: [(Figure, &RGBColor); 3] =
            [(|point| point.precision, &BLUE), (|point| point.recall, &ORANGE), (f1, &GREEN)];
        for (figure, color) in figures {
            let points = found.curves.points.iter().map(|point| (point.threshold, figure(point)));
            chart.draw_series(LineSeries::new(points, canvas.line(2.5, color)))?;
        }
        Ok(())
    }
}

type Figure = fn(&CurvePoint) -> f64;

fn f1(point: &CurvePoint) -> f64 {
    let sum = point.precision + point.recall;
    if sum > 0.0 { 2.0 * point.precision * point.recall / sum } else { 0.0 }
}

/// How many rows of each label have which score, on a logarithmic scale: positives would not be seen on another.
pub(super) struct ScoreDistribution<'a> {
    pub(super) evaluation: &'a Evaluation,
}

impl Drawing for ScoreDistribution<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB> {
        let found = self.evaluation;
        let histogram = &found.curves.histogram;
        let canvas = below_title(canvas, "Scores by label (logarithmic count)")?;
        legend(&canvas, &[("negative", &BLUE), ("positive", &ORANGE), ("threshold", &FAINT)])?;
        let most = histogram.positives.iter().chain(&histogram.negatives).max().copied().unwrap_or(1).max(2) as f64;
        // Log 10 by hand: the decade ticks of the axis are then ours.
        let top = most.log10().ceil().max(1.0);
        let mut chart = ChartBuilder::on(&canvas.area)
            .set_label_area_size(LabelAreaPosition::Left, canvas.px(66.0))
            .set_label_area_size(LabelAreaPosition::Bottom, canvas.px(46.0))
            .margin_top(canvas.px(18.0))
            .build_cartesian_2d(histogram.from..histogram.to, -0.3..top)?;
        chart
            .configure_mesh()
            .x_desc("score")
            .y_desc("rows")
            .x_labels(6)
            .y_labels(top as usize + 1)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| decade(*value))
            .max_light_lines(0)
            .bold_line_style(canvas.line(1.0, &GRID))
            .axis_style(canvas.line(1.0, &FAINT))
            .label_style(canvas.text(LABEL, &INK))
            .axis_desc_style(canvas.text(LABEL, &INK))
            .set_all_tick_mark_size(canvas.px(4.0))
            .draw()?;
        let width = (histogram.to - histogram.from) / histogram.positives.len() as f64;
        for (counts, color) in [(&histogram.negatives, &BLUE), (&histogram.positives, &ORANGE)] {
            let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, count)| {
                let left = histogram.from + at as f64 * width;
                Rectangle::new([(left, -0.3), (left + width, (*count as f64).log10())], color.mix(0.55).filled())
            });
            chart.draw_series(bars)?;
        }
        let threshold = found.at_threshold.threshold;
        if (histogram.from..=histogram.to).contains(&threshold) {
            let line = [(threshold, -0.3), (threshold, top)];
            chart.draw_series(DashedLineSeries::new(line, canvas.px(5.0), canvas.px(4.0), canvas.line(2.0, &FAINT)))?;
        }
        Ok(())
    }
}

/// The count at a whole power of ten; nothing between.
fn decade(exponent: f64) -> String {
    if exponent < -0.01 || (exponent - exponent.round()).abs() > 0.01 {
        return String::new();
    }
    count(10_f64.powf(exponent).round() as u64)
}

/// The share of positives over the mean score of each bin, with the interval that the bin's count allows.
pub(super) struct Reliability<'a> {
    pub(super) calibration: &'a Calibration,
}

impl Drawing for Reliability<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB> {
        let found = self.calibration;
        let title = format!("Calibration: Brier {}, expected error {}", short(found.brier), short(found.ece));
        let canvas = below_title(canvas, &title)?;
        legend(&canvas, &[("bins with 95 % interval", &BLUE), ("perfect", &FAINT)])?;
        let mut chart = plane(&canvas, (0.0..1.0, "mean score"), (0.0..1.02, "share of positives"))?;
        let diagonal = [(0.0, 0.0), (1.0, 1.0)];
        chart.draw_series(DashedLineSeries::new(diagonal, canvas.px(5.0), canvas.px(4.0), canvas.line(1.5, &FAINT)))?;
        for bin in &found.bins {
            let (low, high) = wilson(bin.positives, bin.rows);
            let whisker = vec![(bin.mean_score, low), (bin.mean_score, high)];
            chart.draw_series([PathElement::new(whisker, canvas.line(2.0, &BLUE))])?;
            let place = (bin.mean_score, bin.share_of_positives);
            chart.draw_series([Circle::new(place, canvas.px(5.0), BLUE.filled())])?;
        }
        Ok(())
    }
}

/// The four counts at the threshold; the shade is the share within the row.
pub(super) struct ConfusionMatrix<'a> {
    pub(super) at: &'a AtThreshold,
}

impl Drawing for ConfusionMatrix<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB> {
        let at = self.at;
        let canvas_below = below_title(canvas, &format!("Confusion matrix at threshold {}", short(at.threshold)))?;
        let canvas = &canvas_below;
        let rows = [
            ("positive", [(at.true_positives, true), (at.false_negatives, false)]),
            ("negative", [(at.false_positives, false), (at.true_negatives, true)]),
        ];
        let (left, top, width, height) = (90.0, 34.0, 218.0, 150.0);
        for (column, name) in ["alert", "no alert"].iter().enumerate() {
            canvas.write(name, LABEL, &INK, HPos::Center, (left + width * (column as f64 + 0.5), top - 16.0))?;
        }
        for (line, (name, cells)) in rows.iter().enumerate() {
            let y = top + height * line as f64;
            canvas.write(name, LABEL, &INK, HPos::Right, (left - 12.0, y + height / 2.0))?;
            let sum = (cells[0].0 + cells[1].0).max(1);
            for (column, (number, is_right)) in cells.iter().enumerate() {
                let x = left + width * column as f64;
                let share = *number as f64 / sum as f64;
                let color = if *is_right { &BLUE } else { &ORANGE };
                let corners = [(canvas.px(x), canvas.px(y)), (canvas.px(x + width - 6.0), canvas.px(y + height - 6.0))];
                canvas.area.draw(&Rectangle::new(corners, color.mix(0.08 + 0.27 * share).filled()))?;
                let middle = x + width / 2.0 - 3.0;
                canvas.write(&count(*number), 28.0, &INK, HPos::Center, (middle, y + height / 2.0 - 16.0))?;
                let text = format!("{} of {name}s", percent(share));
                canvas.write(&text, LABEL, &INK, HPos::Center, (middle, y + height / 2.0 + 16.0))?;
            }
        }
        Ok(())
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The share that each feature has in the gain of all splits.
pub(super) struct Importance<'a> {
    /// Feature and gain, highest first.
    pub(super) features: &'a [(&'a str, f64)],
    /// The gain of all features, shown or not.
    pub(super) total: f64,
}

/// Features that are shown.
pub(super) const FEATURES_MOST: usize = 25;

impl Drawing for Importance<'_> {
    fn size(&self) -> (u32, u32) {
        (SIZE.0, 60 + 22 * self.features.len().clamp(4, FEATURES_MOST) as u32)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Drawn<DB> {
        let title = "Feature importance (share of the gain of all splits)";
        let canvas = below_title(canvas, title)?;
        let most = self.features.first().map_or(0.0, |(_, gain)| gain / self.total).max(f64::MIN_POSITIVE);
        let (left, width) = (226.0, 250.0);
        for (line, (name, gain)) in self.features.iter().take(FEATURES_MOST).enumerate() {
            let share = gain / self.total;
            let y = 4.0 + 22.0 * line as f64;
            canvas.write(&cut(name), LABEL, &INK, HPos::Right, (left - 8.0, y + 8.0))?;
            let end = left + width * share / most;
            let corners = [(canvas.px(left), canvas.px(y)), (canvas.px(end), canvas.px(y + 16.0))];
            canvas.area.draw(&Rectangle::new(corners, BLUE.filled()))?;
            canvas.write(&percent(share), LABEL, &INK, HPos::Left, (end + 6.0, y + 8.0))?;
        }
        Ok(())
    }
}

/// A name that fits beside its bar. Names differ in their ends as often as in their beginnings: the middle is left out.
fn cut(name: &str) -> String {
    const CHARS: usize = 27;
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= CHARS {
        return name.to_owned();
    }
    let side = (CHARS - 1) / 2;
    chars[..side].iter().chain(&['…']).chain(&chars[chars.len() - side..]).collect()
}
