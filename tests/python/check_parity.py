"""Parity across the boundary: scores of a live run over a real broker are, bit for bit, those that Python's LightGBM gives on the
features that `tidemill replay` writes of the run's archive; and the reasons are its `pred_contrib`.

A model is trained in Python on simulated history, with the features of sql/fraud_features.sql. Then transactions go through the
broker, `tidemill run` scores them and archives what it read and what it answered, and `replay` computes the features again.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import lightgbm
import numpy
import pandas

ROOT = pathlib.Path(__file__).parent.parent.parent
WORLD = ["--users", "600", "--seed", "11"]
SOURCE = """
  transactions:
    {connector}
    partitioned_by: [user_id]
    event_time: timestamp
    columns:
      transaction_id: string not null
      user_id: bigint not null
      amount: double not null
      currency: string not null
      merchant: string
      timestamp: timestamp not null
      location: string
      is_fraud: int not null
"""
MODEL = "models: {{ fraud: {{ uri: {folder}/model.txt, threshold: 0.2 }} }}\n"
VIEWS = "views:\n  features: {root}/sql/fraud_features.sql\n"
SCORED = "  scored: {root}/sql/fraud_scored.sql\n"
SINK = "  {name}: {{ connector: parquet, path: {folder}/{name}, positions: true, select: \"{select}\" }}\n"


def tidemill(*arguments):
    done = subprocess.run([os.environ["TIDEMILL_BIN"], *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tidemill {arguments[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def pipeline(folder, name, connector, views, sinks, model=""):
    text = f"pipeline: {name}\nsources:{SOURCE}{model}{views}sinks:\n"
    text += "".join(SINK.replace("{name}", sink).replace("{select}", select) for sink, select in sinks.items())
    text += "checkpoint: {{ path: {folder}/checkpoint, interval: 300ms }}\ndelivery: exactly_once\nhttp: {{ listen: \"off\" }}\n"
    path = folder / f"{name}.yaml"
    path.write_text(text.format(folder=folder, root=ROOT, connector=connector))
    return path


def replay_features(folder, history, output):
    """The features of stored rows, as `tidemill replay` writes them."""
    connector = "connector: files\n    path: unused.parquet\n    format: parquet"
    file = pipeline(folder, "features", connector, VIEWS, {"rows": "SELECT * FROM features"})
    tidemill("replay", file, "--input", f"transactions={history}", "--output", output)
    rows = pandas.read_parquet(output / "rows.parquet")
    if not rows["transaction_id"].is_unique:
        sys.exit("a transaction is there twice")
    return rows.set_index("transaction_id")


def names_of_features():
    """The arguments of the call of score, in their order."""
    call = re.search(r"score\(\s*'fraud',([^)]*)\)", (ROOT / "sql/fraud_scored.sql").read_text())
    return [name.strip() for name in call.group(1).split(",")]


def train(folder, names):
    tidemill("generate", "--parquet", folder / "history.parquet", *WORLD, "--from", "2026-01-01", "--days", "25")
    rows = replay_features(folder, folder / "history.parquet", folder / "of_history")
    parameters = {"objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "lambda_l2": 5.0, "seed": 3,
                  "deterministic": True, "num_threads": 1, "verbosity": -1}
    data = lightgbm.Dataset(rows[names].astype(float), rows["is_fraud"])
    booster = lightgbm.train(parameters, data, num_boost_round=200)
    booster.save_model(folder / "model.txt")
    # What is served is the file.
    return lightgbm.Booster(model_file=folder / "model.txt")


def serve(folder, broker):
    """A run over the broker; the rows that it archived with their scores, and its alerts with all their reasons."""
    topic = f"parity-{os.getpid()}"
    tidemill("generate", "--topic", topic, "--brokers", broker, *WORLD, "--from", "2026-01-26", "--days", "3")
    connector = f"connector: kafka\n    bootstrap_servers: \"{broker}\"\n    topic: {topic}\n    until: now"
    sinks = {
        "archive": "SELECT * FROM transactions",
        "answers": "SELECT transaction_id, fraud_probability FROM scored",
        "alerts": "SELECT transaction_id, explain_score('fraud', 36) AS reasons FROM scored WHERE fraud_probability >= threshold('fraud')",
    }
    tidemill("run", pipeline(folder, "live", connector, VIEWS + SCORED, sinks, MODEL))
    return [pandas.read_parquet(folder / name).set_index("transaction_id") for name in ("answers", "alerts")]


@contextlib.contextmanager
def a_broker():
    """The address of the tests' real broker, or of a new one that lives as long as it is needed."""
    if "TIDEMILL_TEST_KAFKA" in os.environ:
        yield os.environ["TIDEMILL_TEST_KAFKA"]
        return
    with tempfile.TemporaryDirectory() as folder:
        kafka = [ROOT / "tests/kafka.sh"]
        place = ["--dir", pathlib.Path(folder) / "kafka"]
        try:
            started = subprocess.run([*kafka, "start", *place], check=True, capture_output=True, text=True)
            yield re.search("^KAFKA_BOOTSTRAP_SERVERS=(.*)$", started.stdout, re.MULTILINE).group(1)
        finally:
            subprocess.run([*kafka, "stop", "--purge", *place], check=True)


def check_scores(features, answers, booster):
    if len(answers) < 2000 or not features.index.sort_values().equals(answers.index.sort_values()):
        sys.exit(f"expected the same transactions live and in replay, found {len(answers)} live, {len(features)} in replay")
    expected = booster.predict(features.to_numpy(), num_threads=1)
    found = answers.loc[features.index, "fraud_probability"].to_numpy()
    different = int((expected.view(numpy.int64) != found.view(numpy.int64)).sum())
    if different:
        sys.exit(f"{different} of {len(found)} scores differ, by up to {abs(expected - found).max():e}")
    if len(numpy.unique(found)) < len(found) / 20:
        sys.exit("the scores are nearly all the same: their equality shows little")
    print(f"{len(found)} scores are equal, bit for bit")


def check_reasons(features, alerts, booster):
    if len(alerts) < 10:
        sys.exit(f"{len(alerts)} alerts show little")
    rows = features.loc[alerts.index]
    contributions = booster.predict(rows.to_numpy(), pred_contrib=True, num_threads=1)[:, :-1]
    worst = 0.0
    for text, values, expected in zip(alerts["reasons"], rows.to_numpy(), contributions):
        reasons = json.loads(text)
        sizes = [abs(reason["contribution"]) for reason in reasons]
        if sizes != sorted(sizes, reverse=True):
            sys.exit(f"reasons are not in the order of their size: {text}")
        found = {reason["feature"]: reason for reason in reasons}
        for name, value, contribution in zip(features.columns, values, expected):
            reason = found.pop(name, {"value": None if numpy.isnan(value) else value, "contribution": 0.0})
            worst = max(worst, abs(reason["contribution"] - contribution))
            if reason["value"] != (None if numpy.isnan(value) else value):
                sys.exit(f"{name}: expected the value {value}, found {reason['value']}")
        if found:
            sys.exit(f"reasons name what is no feature: {found}")
    if worst > 1e-9:
        sys.exit(f"a contribution differs by {worst:e}")
    print(f"the reasons of {len(alerts)} alerts are LightGBM's, within {worst:.1e}")


def main():
    names = names_of_features()
    with tempfile.TemporaryDirectory() as folder, a_broker() as broker:
        folder = pathlib.Path(folder)
        booster = train(folder, names)
        answers, alerts = serve(folder, broker)
        features = replay_features(folder, folder / "archive", folder / "of_archive")[names].astype(float)
        check_scores(features, answers, booster)
        check_reasons(features, alerts, booster)
    return 0


if __name__ == "__main__":
    sys.exit(main())
