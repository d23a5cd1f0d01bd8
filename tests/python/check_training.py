"""Holds a model directory of `tidemill train` against Python's LightGBM: the model loads, its features are those of the SQL, and the
scores of the self-test are LightGBM's own, bit for bit. The program is found by TIDEMILL_BIN."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lightgbm
import numpy as np

PIPELINE = """
pipeline: events
sources:
  events:
    connector: files
    path: in
    format: json_lines
    columns: { id: bigint not null, user_id: bigint not null, amount: double, label: int, at: epoch_ms not null }
    event_time: at
    partitioned_by: [user_id]
models: { bad: { uri: model } }
views:
  features: |
    SELECT *, sum(amount) OVER w AS spent, lag(amount) OVER (PARTITION BY user_id ORDER BY at) AS last_amount
    FROM events
    WINDOW w AS (PARTITION BY user_id ORDER BY at RANGE BETWEEN INTERVAL '6 hours' PRECEDING AND CURRENT ROW)
  scored: SELECT *, score('bad', amount, spent, last_amount) AS p FROM features
sinks: { out: { connector: console, select: SELECT * FROM scored } }
http: { listen: "off" }
training: { label: label, trials: 2, folds: 2, rounds: 80, early_stopping: 20, imbalance: sqrt_weight }
"""


def history(path):
    random = np.random.default_rng(7)
    with path.open("w") as file:
        for number in range(8_000):
            user, amount = int(random.integers(40)), float(random.gamma(2.0, 20.0))
            label = int(random.random() < 0.01 + 0.3 * (amount > 90))
            amount = None if random.random() < 0.05 else amount
            row = {"id": number, "user_id": user, "amount": amount, "label": label, "at": 1_767_225_600_000 + number * 400_000}
            file.write(json.dumps(row) + "\n")


def main():
    program = os.environ["TIDEMILL_BIN"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "events.yaml").write_text(PIPELINE)
        history(folder / "history.jsonl")
        command = [program, "train", "events.yaml", "--input", "events=history.jsonl", "--output", "model", "--json"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        if ended.returncode != 0:
            sys.exit(f"training ended with {ended.returncode}:\n{ended.stderr}")
        result = json.loads(ended.stdout.splitlines()[-1])
        booster = lightgbm.Booster(model_file=str(folder / "model" / "model.lgb"))
        manifest = json.loads((folder / "model" / "tidemill.json").read_text())
        test = json.loads((folder / "model" / "self_test.json").read_text())
    problems = []
    if booster.feature_name() != manifest["features"] or manifest["features"] != ["amount", "spent", "last_amount"]:
        problems.append(f"the features are {booster.feature_name()} in the model and {manifest['features']} in the manifest")
    if booster.num_trees() != result["metrics"]["trees"]:
        problems.append(f"{booster.num_trees()} trees in the model, {result['metrics']['trees']} in the record")
    rows = np.array([[float(value) for value in row] for row in test["rows"]])
    ours = np.array([float(score) for score in test["scores"]])
    theirs = booster.predict(rows)
    if not np.array_equal(ours.view(np.uint64), theirs.view(np.uint64)):
        problems.append(f"scores differ by up to {np.max(np.abs(ours - theirs))}")
    if not np.isnan(rows).any():
        problems.append("no row of the self-test has a missing value")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(ours)} scores of {booster.num_trees()} trees are LightGBM's own, bit for bit")


if __name__ == "__main__":
    main()
