#!/usr/bin/env python3
"""How good is a model, by what it is told? Makes the table of README.md, section "How good the model is".

    python3 -m venv VENV && VENV/bin/pip install -r tests/python/requirements.txt
    TIDEMILL_BIN=target/release/tidemill VENV/bin/python tests/python/feature_table.py [FOLDER] [--seed N] [--days N] [--only SET,...]

History of the simulator's default world, its features by `tidemill replay` (feature_table.yaml), and one model for each set of
features, fitted as `tidemill train` fits by default: by time, with a gap for the delay of labels, validation (it stops the
learning), and the last fifth for the test. Beside it the features of the project that Tidemill replaces, made in pandas as that
project made them, and in SQL (replaced_features.yaml): they are to be the same numbers, and the times are printed.

FOLDER keeps data and features for the next time; without it they are thrown away. About ten minutes on two free cores.
"""

import argparse
import os
import pathlib
import re
import subprocess
import tempfile
import time

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score, precision_recall_curve

HERE = pathlib.Path(__file__).parent
TEST_SHARE, VALIDATION_SHARE, LABEL_DELAY_SHARE = 0.2, 0.15, 0.1
PRECISION = 0.88
ALERTS_PER_DAY = 200
KINDS = ["account_takeover", "card_testing", "merchant_collusion", "geographic_anomaly", "baseline_noise"]
# Those of `tidemill train`.
PARAMETERS = {
    "objective": "binary", "metric": "average_precision", "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 50,
    "min_sum_hessian_in_leaf": 1.0, "lambda_l2": 5.0, "num_iterations": 500, "early_stopping_round": 50, "seed": 42,
    "deterministic": True, "force_col_wise": True, "num_threads": 2, "verbose": -1,
}
STATELESS = [
    "amount_usd", "amount_log", "amount_bucket", "is_micro_amount", "is_whole_amount", "hour_of_day", "time_of_day", "day_of_week",
    "is_night", "is_weekend", "is_cross_border", "region", "currency_group", "merchant_kind", "is_watched_merchant",
]
VELOCITY = STATELESS + [
    "user_activity_1h", "user_activity_24h", "user_activity_7d", "user_spent_1h", "user_spent_24h", "user_spent_7d",
    "avg_amount_last_7", "amount_to_avg_ratio", "time_since_last_txn",
]
REPLACED = [
    "amount", "amount_log", "transaction_hour", "transaction_day", "is_night", "is_weekend", "merchant_risk",
    "user_activity_24h", "rolling_avg_7", "amount_to_avg_ratio", "time_since_last_txn",
]
# What the replaced project serves in the place of history.
CONSTANTS = {"user_activity_24h": 1000.0, "rolling_avg_7": 1000.0, "time_since_last_txn": 0.0}


def arguments_of_score(sql):
    """The features of the model, from the SQL that scores."""
    call = re.search(r"score\(\s*'fraud',([^)]*)\)", (HERE.parent.parent / "sql" / sql).read_text())
    return re.findall(r"\w+", call[1])


def tidemill(*arguments):
    begin = time.perf_counter()
    subprocess.run([os.environ["TIDEMILL_BIN"], *arguments], check=True)
    return time.perf_counter() - begin


def in_pandas(data, out):
    """As the replaced project makes its features: all users' rows sorted, a rolling window for each group."""
    begin = time.perf_counter()
    rows = pd.read_parquet(data, columns=["transaction_id", "user_id", "amount", "merchant", "timestamp"])
    rows = rows.sort_values(["user_id", "timestamp"])
    hour = rows["timestamp"].dt.hour
    rows["amount_log"] = np.log1p(rows["amount"])
    rows["transaction_hour"] = hour
    rows["transaction_day"] = rows["timestamp"].dt.day
    rows["is_night"] = ((hour >= 22) | (hour < 5)).astype(int)
    rows["is_weekend"] = (rows["timestamp"].dt.day_of_week >= 5).astype(int)
    rows["merchant_risk"] = rows["merchant"].isin(["QuickCash", "GlobalDigital", "FastMoneyX"]).astype(int)
    users = rows.groupby("user_id", group_keys=False)[["timestamp", "amount"]]
    activity = users.apply(lambda user: user.rolling("24h", on="timestamp", closed="left")["amount"].count().fillna(0))
    rows["user_activity_24h"] = activity
    rows["rolling_avg_7"] = users.apply(lambda user: user["amount"].rolling(7, min_periods=1).mean())
    rows["amount_to_avg_ratio"] = (rows["amount"] / rows["rolling_avg_7"]).fillna(1.0)
    rows["time_since_last_txn"] = rows.groupby("user_id")["timestamp"].diff().dt.total_seconds().fillna(0.0)
    rows[["transaction_id", *REPLACED]].to_parquet(out)
    return time.perf_counter() - begin


def side_by_side(data, folder):
    """The replaced project's features in pandas and in SQL; those of the SQL, and what to say of both."""
    sql_seconds = tidemill("replay", HERE / "replaced_features.yaml", "--input", f"transactions={data}", "--output", folder / "replaced")
    pandas_seconds = in_pandas(data, folder / "pandas.parquet")
    ours = pd.read_parquet(folder / "replaced" / "rows.parquet").set_index("transaction_id")[REPLACED].astype(float)
    theirs = pd.read_parquet(folder / "pandas.parquet").set_index("transaction_id").loc[ours.index, REPLACED].astype(float)
    # Sliding sums of pandas keep the rounding errors of what has left.
    close = np.isclose(ours, theirs, rtol=1e-6, atol=1e-6)
    return ours, (
        f"The replaced project's features of {len(ours)} transactions: pandas {pandas_seconds:.1f} s, `tidemill replay` "
        f"{sql_seconds:.1f} s, {pandas_seconds / sql_seconds:.1f} times faster; {close.all(axis=1).mean():.4%} of the rows are the same."
    )


def parts(seconds):
    """Rows of training, validation and test."""
    first, last = seconds.min(), seconds.max()
    at = (seconds - first) / (last - first)
    validation = 1.0 - TEST_SHARE - VALIDATION_SHARE
    return at < validation - LABEL_DELAY_SHARE, (at >= validation) & (at < 1.0 - TEST_SHARE), at >= 1.0 - TEST_SHARE


def fit(x, names, labels, split):
    train, validation, _ = split
    learnt = lgb.Dataset(x[train], labels[train], feature_name=names)
    judged = lgb.Dataset(x[validation], labels[validation], reference=learnt)
    return lgb.train(PARAMETERS, learnt, valid_sets=[judged])


def judge(score, labels, kinds, days):
    """The columns of the table."""
    precision, recall, thresholds = precision_recall_curve(labels, score)
    good = np.flatnonzero(precision[:-1] >= PRECISION)
    threshold = thresholds[good[np.argmax(recall[good])]] if len(good) else np.inf
    found = score >= threshold
    order = np.lexsort((-score, days))
    rank = np.empty(len(score), int)
    starts = np.r_[0, np.flatnonzero(np.diff(days[order])) + 1]
    rank[order] = np.arange(len(score)) - np.repeat(starts, np.diff(np.r_[starts, len(score)]))
    alerts = rank < ALERTS_PER_DAY
    cells = [
        average_precision_score(labels, score), found[labels == 1].mean(), labels[alerts].mean(), alerts[labels == 1].mean(),
        *(found[kinds == kind].mean() for kind in KINDS),
    ]
    return " | ".join(f"{cell:.3f}" for cell in cells)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", nargs="?", type=pathlib.Path)
    options.add_argument("--seed", default="42")
    options.add_argument("--days", default="120")
    options.add_argument("--only", help="names of sets, separated by commas")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as own:
        table(options.folder or pathlib.Path(own), options)


def table(folder, options):
    folder.mkdir(parents=True, exist_ok=True)
    data, features = folder / "transactions.parquet", folder / "features" / "rows.parquet"
    if not data.exists():
        tidemill("generate", "--parquet", data, "--from", "2026-01-01", "--days", options.days, "--seed", options.seed, "--fields", "device_id,campaign")
    if not features.exists():
        tidemill("replay", HERE / "feature_table.yaml", "--input", f"transactions={data}", "--output", features.parent)
    wanted = options.only.split(",") if options.only else None
    replaced, times = side_by_side(data, folder) if not wanted or "replaced project" in wanted else (None, "")
    rows = pq.read_table(features, columns=["transaction_id", "timestamp", "is_fraud", "campaign"]).to_pandas()
    labels, kinds = rows["is_fraud"].to_numpy(), rows["campaign"].fillna("").to_numpy()
    seconds = rows["timestamp"].astype("datetime64[s]").astype("int64").to_numpy()
    split, days = parts(seconds), seconds // 86_400
    test = split[2]
    noise = (kinds[test] == "baseline_noise").sum() / labels[test].sum()
    print(f"{len(rows)} transactions, {labels.mean():.2%} fraud; learnt from {split[0].sum()}, test {test.sum()} with {labels[test].sum()} frauds")
    print(f"| features | number | PR-AUC | recall at precision {PRECISION} | precision at {ALERTS_PER_DAY} alerts a day | recall there | "
          + " | ".join(kind.replace("_", " ") for kind in KINDS) + " |")
    print("| --- |" + " ---: |" * (5 + len(KINDS)))
    sets = {
        "a row by itself": STATELESS, "replaced project": REPLACED, "simple velocity": VELOCITY,
        "user history": arguments_of_score("fraud_scored.sql"), "and merchants": arguments_of_score("full_scored.sql"),
        "and devices": arguments_of_score("device_scored.sql"),
    }
    for name, names in sets.items():
        if wanted and name not in wanted:
            continue
        begin = time.perf_counter()
        if names is REPLACED:
            values = replaced.loc[rows["transaction_id"]]
            x = values.to_numpy(np.float32)
        else:
            columns = pq.read_table(features, columns=names)
            x = np.column_stack([columns[column].to_numpy().astype(np.float32) for column in names])
        model = fit(x, names, labels, split)
        cells = judge(model.predict(x[test]), labels[test], kinds[test], days[test])
        print(f"| {name} | {len(names)} | {cells} |", flush=True)
        if wanted:
            gain = sorted(zip(model.feature_importance("gain"), names), reverse=True)
            print(model.best_iteration, f"{time.perf_counter() - begin:.0f} s", ", ".join(f"{n} {v / gain[0][0]:.3f}" for v, n in gain))
        if names is REPLACED:
            served = values[test].assign(**CONSTANTS)
            served["amount_to_avg_ratio"] = served["amount"] / served["rolling_avg_7"]
            cells = judge(model.predict(served.to_numpy(np.float32)), labels[test], kinds[test], days[test])
            print(f"| the same model, served constants for history | {len(names)} | {cells} |", flush=True)
    print(f"\n{noise:.1%} of the test's fraud is noise by construction, which no model can find: recall can reach {1 - noise:.3f}.\n{times}")


if __name__ == "__main__":
    main()
