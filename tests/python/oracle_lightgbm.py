"""Python's LightGBM as the oracle of the scorer.

Trains seeded models of many shapes, predicts rows with missing and extreme values, and writes for each model a folder with
model.txt, rows.f64, scores.f64 and, of the first rows, contributions.f64 (little-endian doubles, row by row). The Rust tests compare
every bit of the scores, and the contributions within 1e-9:

    pip install lightgbm==4.7.0
    python3 tests/python/oracle_lightgbm.py OUT          # or without OUT: a temporary folder
    TIDEMILL_LIGHTGBM_ORACLE=OUT cargo test --workspace --features lightgbm --lib scorer -- --ignored

--check runs the second command as well. --golden FOLDER writes the small models that the repository keeps in udfs/testdata.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import lightgbm
import numpy

ROWS = 100_000
EXPLAINED_ROWS = 300
ZERO = float(numpy.float32(1e-35))
EXTREMES = [0.0, -0.0, 1e-36, -1e-36, 1e-35, -1e-35, ZERO, -ZERO, numpy.nextafter(ZERO, 1), -numpy.nextafter(ZERO, 1),
            5e-324, -5e-324, 2.2e-308, numpy.inf, -numpy.inf, 1e300, -1e300, 1e-34, 0.5, -0.5, -0.999, -1.0, 31.9, 32.0,
            1e10, 2147483647.0, 2147483648.0, 4294967296.0, -3.0, 1e18]

BASE = dict(verbosity=-1, num_threads=1, deterministic=True, seed=11, learning_rate=0.1)

# name: (parameters, trees, features, categorical features, share of missing values, share of zeros)
MODELS = {
    "binary_31": (dict(objective="binary", num_leaves=31), 200, 10, 0, 0.05, 0.2),
    "binary_no_missing": (dict(objective="binary", num_leaves=31), 50, 10, 0, 0.0, 0.1),
    "sigmoid": (dict(objective="binary", num_leaves=15, sigmoid=0.73), 40, 6, 0, 0.1, 0.1),
    "zero_as_missing": (dict(objective="binary", num_leaves=31, zero_as_missing=True), 60, 8, 0, 0.1, 0.3),
    "no_missing_handling": (dict(objective="binary", num_leaves=31, use_missing=False), 60, 8, 0, 0.1, 0.3),
    "depth_5": (dict(objective="binary", num_leaves=32, max_depth=5), 100, 10, 0, 0.05, 0.2),
    "leaves_255": (dict(objective="binary", num_leaves=255, min_data_in_leaf=5), 30, 10, 0, 0.05, 0.2),
    "leaves_700": (dict(objective="regression", num_leaves=700, min_data_in_leaf=3), 12, 10, 2, 0.05, 0.2),
    "categorical": (dict(objective="binary", num_leaves=31, min_data_per_group=5, cat_smooth=1), 80, 8, 3, 0.1, 0.1),
    "categorical_one_hot": (dict(objective="binary", num_leaves=15, max_cat_to_onehot=100), 30, 4, 4, 0.1, 0.1),
    "three_classes": (dict(objective="multiclass", num_class=3, num_leaves=31), 40, 8, 1, 0.05, 0.1),
    "three_classes_ova": (dict(objective="multiclassova", num_class=3, num_leaves=15), 20, 8, 0, 0.05, 0.1),
    "regression": (dict(objective="regression", num_leaves=31), 100, 10, 0, 0.05, 0.2),
    "regression_l1": (dict(objective="regression_l1", num_leaves=31), 30, 10, 0, 0.05, 0.2),
    "quantile": (dict(objective="quantile", alpha=0.9, num_leaves=31), 30, 10, 0, 0.05, 0.2),
    "dart": (dict(objective="binary", boosting="dart", num_leaves=31), 40, 10, 0, 0.05, 0.2),
    "one_feature": (dict(objective="binary", num_leaves=31), 50, 1, 0, 0.1, 0.1),
    "fifty_features": (dict(objective="binary", num_leaves=31), 60, 50, 3, 0.1, 0.2),
    "stumps": (dict(objective="binary", num_leaves=2), 100, 5, 1, 0.1, 0.2),
    "one_leaf": (dict(objective="binary", num_leaves=31, min_data_in_leaf=10**6), 3, 4, 0, 0.1, 0.2),
    "many_bins": (dict(objective="regression", num_leaves=127, max_bin=4000, min_data_in_bin=1), 40, 3, 0, 0.05, 0.1),
}


def features(random, num_rows, num_features, num_categorical, missing, zeros):
    """Columns of several scales; the first ones are category numbers."""
    rows = numpy.empty((num_rows, num_features))
    for at in range(num_features):
        if at < num_categorical:
            rows[:, at] = numpy.floor(random.exponential(12.0, num_rows))
        elif at % 3 == 0:
            rows[:, at] = numpy.exp(random.normal(3.0, 1.2, num_rows))
        elif at % 3 == 1:
            rows[:, at] = random.normal(0.0, 1.0, num_rows)
        else:
            rows[:, at] = numpy.floor(random.exponential(6.0, num_rows))
        rows[random.random(num_rows) < zeros, at] = 0.0
        rows[random.random(num_rows) < missing, at] = numpy.nan
    return rows


def labels(random, rows, num_categorical, objective):
    known = numpy.nan_to_num(rows, nan=-1.0)
    signal = random.normal(0.0, 1.0, len(rows))
    for at in range(rows.shape[1]):
        column = known[:, at]
        signal += (numpy.sin(column * 1.7) if at < num_categorical else numpy.tanh(column / 8.0)) / (1 + at / 3)
    if objective == "binary":
        return (signal > 1.0).astype(float)
    if objective.startswith("multiclass"):
        return numpy.clip(numpy.floor(signal + 1.0), 0, 2)
    return signal * 10.0


def train(name, num_rows):
    parameters, trees, num_features, num_categorical, missing, zeros = MODELS[name]
    random = numpy.random.default_rng(sum(name.encode()))
    rows = features(random, num_rows, num_features, num_categorical, missing, zeros)
    target = labels(random, rows, num_categorical, parameters["objective"])
    names = [f"f{at}" for at in range(num_features)]
    data = lightgbm.Dataset(rows, target, feature_name=names, categorical_feature=list(range(num_categorical)),
                            params=BASE | parameters)
    booster = lightgbm.train(BASE | parameters, data, num_boost_round=trees)
    return booster, random


def with_extremes(random, rows, booster):
    """Puts extreme values, and the model's own thresholds and their neighbours, into a part of the rows."""
    thresholds = [float(word) for line in booster.model_to_string().split("\n") if line.startswith("threshold=")
                  for word in line.removeprefix("threshold=").split()] or [0.0]
    thresholds = numpy.array(thresholds)
    pool = numpy.concatenate([thresholds, numpy.nextafter(thresholds, numpy.inf), numpy.nextafter(thresholds, -numpy.inf),
                              numpy.resize(EXTREMES, len(thresholds) + len(EXTREMES))])
    chosen = random.random(rows.shape) < numpy.where(numpy.arange(len(rows)) % 4 == 0, 0.3, 0.0)[:, None]
    rows[chosen] = random.choice(pool, chosen.sum())
    return rows


def write(out, name):
    booster, random = train(name, 20_000)
    _, _, num_features, num_categorical, missing, zeros = MODELS[name]
    rows = with_extremes(random, features(random, ROWS, num_features, num_categorical, missing, zeros), booster)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.txt").write_text(booster.model_to_string())
    rows.astype("<f8").tofile(folder / "rows.f64")
    booster.predict(rows, num_threads=1).astype("<f8").tofile(folder / "scores.f64")
    contributions = booster.predict(rows[:EXPLAINED_ROWS], num_threads=1, pred_contrib=True)
    contributions.astype("<f8").tofile(folder / "contributions.f64")
    print(f"{name}: {ROWS} rows, {booster.num_trees()} trees", flush=True)


def golden(out):
    """A few small models with a few rows each, as text: features = scores."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ["binary_31", "zero_as_missing", "categorical", "three_classes", "regression", "one_leaf"]:
        parameters, _, num_features, num_categorical, missing, zeros = MODELS[name]
        MODELS[name] = (parameters | dict(num_leaves=5), 4 if name != "one_leaf" else 1, min(num_features, 4),
                        num_categorical, missing, zeros)
        booster, random = train(name, 2_000)
        _, _, num_features, num_categorical, missing, zeros = MODELS[name]
        rows = with_extremes(random, features(random, 40, num_features, num_categorical, missing, zeros), booster)
        scores = booster.predict(rows, num_threads=1).reshape(len(rows), -1)
        text = booster.model_to_string()
        (out / f"{name}.txt").write_text(text[: text.index("\nparameters:")] + "\n")
        lines = [" ".join(map(repr, map(float, row))) + " = " + " ".join(map(repr, map(float, score)))
                 for row, score in zip(rows, scores)]
        (out / f"{name}.rows").write_text("\n".join(lines) + "\n")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", nargs="?", type=pathlib.Path)
    arguments.add_argument("--golden", type=pathlib.Path)
    arguments.add_argument("--check", action="store_true")
    chosen = arguments.parse_args()
    if chosen.golden:
        return golden(chosen.golden)
    out = chosen.out or pathlib.Path(tempfile.mkdtemp(prefix="lightgbm-oracle-"))
    for name in MODELS:
        write(out, name)
    if chosen.check:
        command = ["cargo", "test", "--workspace", "--features", "lightgbm", "--locked", "--lib", "scorer", "--", "--ignored"]
        return subprocess.call(command, env=os.environ | {"TIDEMILL_LIGHTGBM_ORACLE": str(out.resolve())})
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
