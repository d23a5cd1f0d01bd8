"""Our evaluation of scores against scikit-learn and NumPy: random rows with many equal scores, every figure to 1e-12.

Each case is a folder with columns as little-endian numbers and what is asked; a Rust test (`evaluation::tests::python`) writes
answer.json beside them.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy
from sklearn import calibration, metrics

DAY = 86_400_000_000
TOLERANCE = 1e-12


def case(random, num_rows, share, num_days, decimals):
    """Rows whose scores are rounded, so that many are equal, and whose times are too."""
    labels = random.random(num_rows) < share
    labels[:2] = [True, False]

    def scores(power):
        return numpy.round(1 / (1 + numpy.exp(-random.normal(numpy.where(labels, power, -2.5), 1.0))), decimals)

    columns = {
        "scores.f64": scores(0.5).astype("<f8"),
        "champion.f64": scores(0.3).astype("<f8"),
        "labels.u8": labels.astype("u1"),
        "times.i64": (random.integers(-DAY // 3600, num_days * DAY // 3600, num_rows) // 1000 * 3_600_000).astype("<i8"),
        "amounts.f64": numpy.where(random.random(num_rows) < 0.1, numpy.nan, random.lognormal(3, 1, num_rows)).astype("<f8"),
        "groups.i64": random.integers(0, 6, num_rows).astype("<i8"),
    }
    asked = {"threshold": float(random.choice(columns["scores.f64"])), "alerts_per_day": int(random.integers(1, 12)),
             "beta": float(random.choice([0.5, 1.0, 2.0])), "floor": float(random.choice([0.3, 0.6, 0.88])),
             "cost_alert": 2.0, "cost_missed": 1.0, "cost_missed_amount_share": 0.25}
    return columns, asked


def top_of_each_day(scores, times, per_day):
    taken = numpy.zeros(len(scores), dtype=bool)
    for day in numpy.unique(times // DAY):
        rows = numpy.flatnonzero(times // DAY == day)
        order = rows[numpy.lexsort((rows, times[rows], -scores[rows]))]
        taken[order[:per_day]] = True
    return taken


class Comparison:
    def __init__(self, name):
        self.name, self.compared, self.wrong = name, 0, []

    def same(self, figure, ours, theirs):
        self.compared += 1
        if ours is None or theirs is None:
            agrees = ours is None and theirs is None
        else:
            agrees = abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs))
        if not agrees:
            self.wrong.append(f"{self.name}: {figure}: ours {ours!r}, theirs {theirs!r}")

    def same_alerts(self, figure, scores, ours, theirs):
        """Our thresholds stand between two scores, theirs on one."""
        self.same(figure, *(None if threshold is None else int((scores >= threshold).sum()) for threshold in (ours, theirs)))


def compare_figures(it, ours, columns, asked):
    y, s, t, amounts = (columns[name] for name in ("labels.u8", "scores.f64", "times.i64", "amounts.f64"))
    alert = s >= asked["threshold"]
    days = max(t.max() - t.min(), DAY // 24) / DAY
    worth = numpy.nan_to_num(amounts, nan=0.0)

    def value_recall(taken, of=slice(None)):
        return float((worth * y * taken)[of].sum() / (worth * y)[of].sum())

    it.same("pr_auc", ours["pr_auc"]["value"], metrics.average_precision_score(y, s))
    it.same("roc_auc", ours["roc_auc"], metrics.roc_auc_score(y, s))
    at = ours["at_threshold"]
    counts = metrics.confusion_matrix(y, alert, labels=[0, 1]).ravel()
    for name, count in zip(["true_negatives", "false_positives", "false_negatives", "true_positives"], counts):
        it.same(name, at[name], int(count))
    it.same("precision", at["precision"], metrics.precision_score(y, alert, zero_division=0))
    it.same("recall", at["recall"], metrics.recall_score(y, alert, zero_division=0))
    it.same("f1", at["f1"], metrics.f1_score(y, alert, zero_division=0))
    it.same("alerts_per_1000", at["alerts_per_1000"], 1000 * alert.mean())
    it.same("alerts_per_day", at["alerts_per_day"], alert.sum() / days)
    it.same("value_recall", at["value_recall"], value_recall(alert))

    precision, recall, thresholds = metrics.precision_recall_curve(y, s)
    for point in ours["at_precision"]:
        it.same(f"recall at {point['precision']}", point["recall"], recall[precision >= point["precision"]].max())
    curve = {threshold: at for at, threshold in enumerate(thresholds)}
    for point in ours["curves"]["points"]:
        at = curve[point["threshold"]]
        it.same("curve precision", point["precision"], precision[at])
        it.same("curve recall", point["recall"], recall[at])

    taken = top_of_each_day(s, t, asked["alerts_per_day"])
    budget = ours["at_budget"]
    it.same("alerts at budget", budget["alerts"], int(taken.sum()))
    it.same("precision at budget", budget["precision"], metrics.precision_score(y, taken))
    it.same("recall at budget", budget["recall"], metrics.recall_score(y, taken))
    it.same("value recall at budget", budget["value_recall"], value_recall(taken))

    theirs = ours["calibration"]
    it.same("brier", theirs["brier"], metrics.brier_score_loss(y, s))
    it.same("brier of a constant", theirs["brier_of_constant"], metrics.brier_score_loss(y, numpy.full(len(y), y.mean())))
    found, said = calibration.calibration_curve(y, s, n_bins=10)
    it.same("bins", len(theirs["bins"]), len(found))
    for bin, found, said in zip(theirs["bins"], found, said):
        it.same("bin share", bin["share_of_positives"], found)
        it.same("bin score", bin["mean_score"], said)
    it.same("ece", theirs["ece"], sum(b["rows"] * abs(b["mean_score"] - b["share_of_positives"]) for b in theirs["bins"]) / len(y))
    it.same("rows in bins", sum(bin["rows"] for bin in theirs["bins"]), len(y))
    compare_groups(it, ours, columns, alert, taken, value_recall)


def compare_groups(it, ours, columns, alert, taken, value_recall):
    y, groups = columns["labels.u8"], columns["groups.i64"]
    by_name = {f"g{group}": numpy.flatnonzero(groups == group) for group in numpy.unique(groups)}
    [segment] = ours["segments"]
    it.same("groups", len(segment["groups"]), len(by_name))
    for group in segment["groups"]:
        rows = by_name[group["name"]]
        it.same("group rows", group["rows"], len(rows))
        it.same("group precision", group["precision"], metrics.precision_score(y[rows], alert[rows], zero_division=0))
        it.same("group recall", group["recall"], metrics.recall_score(y[rows], alert[rows], zero_division=0))
        it.same("group recall at budget", group["recall_at_budget"], metrics.recall_score(y[rows], taken[rows], zero_division=0))
    it.same("kinds", len(ours["kinds"]), sum(y[rows].any() for rows in by_name.values()))
    for kind in ours["kinds"]:
        rows = by_name[kind["kind"]]
        it.same("kind positives", kind["positives"], int(y[rows].sum()))
        it.same("kind recall", kind["recall"], metrics.recall_score(y[rows], alert[rows], zero_division=0))
        if kind["value_recall"] is not None:
            it.same("kind value recall", kind["value_recall"], value_recall(alert, rows))


def compare_policies(it, ours, columns, asked):
    y, s, t = columns["labels.u8"], columns["scores.f64"], columns["times.i64"]
    worth = numpy.nan_to_num(columns["amounts.f64"], nan=0.0)
    precision, recall, thresholds = metrics.precision_recall_curve(y, s)
    squared = asked["beta"] ** 2
    weighed = (1 + squared) * precision * recall / numpy.maximum(squared * precision + recall, 1e-300)
    it.same("best F-beta", metrics.fbeta_score(y, s >= ours["f_beta"], beta=asked["beta"]), weighed.max())
    fine = precision[:-1] >= asked["floor"]
    best = recall[:-1][fine].max(initial=0)
    wanted = thresholds[fine & (recall[:-1] == best)].max() if best > 0 else None
    it.same_alerts("precision floor", s, ours["precision_floor"], wanted)
    most = max(1, int(asked["alerts_per_day"] * max(t.max() - t.min(), DAY // 24) / DAY))
    alerts = len(s) - numpy.searchsorted(numpy.sort(s), thresholds)
    it.same_alerts("alert budget", s, ours["alert_budget"], min(thresholds[alerts <= most], default=None))

    def cost(threshold):
        alert = s >= threshold
        return asked["cost_alert"] * alert.sum() + missing[~alert].sum()

    missing = y * (asked["cost_missed"] + asked["cost_missed_amount_share"] * worth)
    # At most 300 of the possible thresholds, and none at all; ours must not cost more than any of them.
    tried = thresholds[:: max(1, len(thresholds) // 300)]
    cheapest = min([cost(threshold) for threshold in [*tried, numpy.inf, ours["least_cost"]]])
    it.same("least cost", cost(ours["least_cost"]), cheapest)


def compare(folder, columns, asked):
    it = Comparison(folder.name)
    answer = json.loads((folder / "answer.json").read_text())
    compare_figures(it, answer["evaluation"], columns, asked)
    compare_policies(it, answer, columns, asked)
    paired = answer["paired"]
    champion = metrics.average_precision_score(columns["labels.u8"], columns["champion.f64"])
    it.same("champion", paired["champion"], champion)
    it.same("difference", paired["difference"]["value"], answer["evaluation"]["pr_auc"]["value"] - champion)
    for estimate in (paired["difference"], answer["evaluation"]["pr_auc"]):
        if not estimate["low"] <= estimate["value"] <= estimate["high"]:
            it.wrong.append(f"{folder.name}: the interval {estimate} does not hold its value")
    return it


def main():
    random = numpy.random.default_rng(20261123)
    shapes = [(50, 0.5, 2, 1), (400, 0.2, 5, 2), (3000, 0.05, 12, 2), (3000, 0.05, 12, 8), (20_000, 0.014, 20, 3)] * 4
    with tempfile.TemporaryDirectory(prefix="evaluation-") as out:
        cases = {}
        for number, shape in enumerate(shapes):
            folder = pathlib.Path(out) / f"case-{number}"
            folder.mkdir()
            cases[folder] = columns, asked = case(random, *shape)
            for name, column in columns.items():
                column.tofile(folder / name)
            (folder / "asked.json").write_text(json.dumps(asked))
        command = os.environ.get("TIDEMILL_EVALUATION_TEST", "cargo test --workspace --features lightgbm --locked --lib")
        test = [*command.split(), "evaluation::tests::python", "--", "--ignored"]
        if subprocess.call(test, env=os.environ | {"TIDEMILL_EVALUATION_CASES": out}):
            return 1
        comparisons = [compare(folder, *what) for folder, what in cases.items()]
    wrong = [line for it in comparisons for line in it.wrong]
    print("\n".join(wrong[:40]))
    print(f"{sum(it.compared for it in comparisons)} figures of {len(comparisons)} cases compared, {len(wrong)} differ")
    return 1 if wrong else 0


sys.exit(main())
