"""The DAGs with the program that was built and generated history: a model that is promoted, one that is refused, and drift that starts a
training in a live Airflow, with a folder as the registry; and what a training leaves in a real MLflow server (TIDEMILL_TEST_MLFLOW, as
tests/with-servers.sh gives it)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import unittest
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

import harness
from live import LiveAirflow

PROGRAM = os.environ["TIDEMILL_TEST_BIN"]
ROOT = harness.HERE.parents[1]
# Enough that a model can be judged (hundreds of frauds, tens of them in the test rows), and small enough for a slow machine.
USERS, DAYS = 600, 60


class History:
    """What the tests of a class share: a pipeline and its history."""

    @classmethod
    def registry(cls) -> dict[str, str]:
        """The variables that name the registry."""
        raise NotImplementedError

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="tidemill-airflow-real-"))
        (cls.folder / "history").mkdir()
        cls.now = datetime.now(timezone.utc).replace(microsecond=0)
        cls.pipeline = cls.folder / "pipelines/fraud.yaml"
        cls.pipeline.parent.mkdir()
        (cls.folder / "sql").symlink_to(ROOT / "sql")
        text = (ROOT / "pipelines/fraud.yaml").read_text()
        # As shipped, but with a search that a slow machine ends, and windows of drift for a day of few users.
        for section, more in (("training", "  trials: 1\n  folds: 2\n  rounds: 60\n"), ("drift", "  min_rows: 1000\n")):
            assert text.count(f"\n{section}:\n") == 1, section
            text = text.replace(f"\n{section}:\n", f"\n{section}:\n{more}")
        cls.pipeline.write_text(text)
        cls.variables = {
            "TIDEMILL_BIN": PROGRAM,
            "TIDEMILL_PIPELINE": str(cls.pipeline),
            "TIDEMILL_HISTORY": str(cls.folder / "history"),
            **cls.registry(),
            "TIDEMILL_MODEL": "models:/fraud@champion",
            "TIDEMILL_WORK": str(cls.folder / "work"),
            "TIDEMILL_CHECKPOINT": str(cls.folder / "checkpoints"),
        }
        cls.tidemill("generate", "--users", str(USERS), "--days", str(DAYS), "--from", cls.day(-DAYS), "--parquet", str(cls.folder / "history/1.parquet"))

    @classmethod
    def day(cls, days: int) -> str:
        return (cls.now + timedelta(days=days)).strftime("%Y-%m-%d")

    @classmethod
    def tidemill(cls, *arguments: str) -> str:
        done = subprocess.run([PROGRAM, *arguments], env={**os.environ, **cls.variables}, capture_output=True, text=True, cwd=cls.folder)
        assert done.returncode == 0, f"tidemill {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def registered(self) -> dict[str, list[str]]:
        """Versions of the model with their aliases."""
        listed = json.loads(self.tidemill("model", "list", "fraud", "--json").splitlines()[-1])
        return {version["version"]: version["aliases"] for version in listed["versions"]}

    def run_training(self, conf=None, **variables: str) -> harness.Run:
        with harness.environment(**{**self.variables, **variables}):
            return harness.run(harness.load()["fraud_training"], conf)


class InFolder(History, unittest.TestCase):
    """Its tests are one story, in the order of their names."""

    @classmethod
    def registry(cls) -> dict[str, str]:
        return {"TIDEMILL_REGISTRY": str(cls.folder / "registry")}

    def test_1_the_first_model_is_trained_from_history_and_serves(self) -> None:
        run = self.run_training()
        self.assertEqual(set(run.states.values()), {"success"}, run)
        self.assertEqual(self.registered(), {"1": ["champion"]})
        slug = run.run_id.replace(":", "-").replace("+", "-")
        self.assertTrue((self.folder / "work/fraud_training" / slug / "features/features.parquet").stat().st_size > 0)
        self.assertEqual(run.answers["train"]["run"], slug)

    def test_2_a_model_that_cannot_be_judged_is_registered_and_does_not_serve(self) -> None:
        # The last days hold too few frauds.
        run = self.run_training({"days": 8})
        skipped = {task for task, state in run.states.items() if state == "skipped"}
        self.assertEqual((run.state, skipped), ("success", {"gate", "promotion_wanted", "promote"}), run)
        self.assertEqual(self.registered(), {"1": ["champion"], "2": []})

    def test_3_a_registry_that_does_not_answer_fails_the_validation(self) -> None:
        run = self.run_training(TIDEMILL_REGISTRY="http://127.0.0.1:9")
        self.assertEqual((run.state, run.states["validate_registry"], run.states["train"]), ("failed", "failed", "upstream_failed"))
        self.assertEqual(len(list((self.folder / "work/fraud_training").iterdir())), 1, "the files of the run before stay")

    def test_4_without_drift_nothing_happens(self) -> None:
        self.tidemill("generate", "--users", str(USERS), "--days", "5", "--from", self.day(0), "--parquet", str(self.folder / "history/2.parquet"))
        with harness.environment(**self.variables):
            run = harness.run(harness.load()["fraud_drift"])
        self.assertEqual((run.state, run.states["drift"]), ("success", "skipped"), run)
        self.assertFalse(run.answers["drift"]["drift"])
        self.assertIn(run.answers["drift"]["models"][0]["state"], ("steady", "watch"), "windows were judged")

    def test_5_drift_starts_a_training_in_a_live_airflow(self) -> None:
        (self.folder / "history/2.parquet").unlink()
        self.tidemill(
            *("generate", "--users", str(USERS), "--days", "5", "--from", self.day(0), "--drift-from", self.day(0)),
            *("--parquet", str(self.folder / "history/2.parquet")),
        )
        with harness.environment(), LiveAirflow(self.variables, self.folder) as airflow:
            airflow.start("fraud_drift")
            drift = airflow.ended("fraud_drift", "manual", 300)
            self.assertEqual(drift["state"], "success", airflow.states("fraud_drift", drift["dag_run_id"]))
            training = airflow.ended("fraud_training", "asset_triggered", 600)
            states = airflow.states("fraud_training", training["dag_run_id"])
            event = airflow.ask("GET", "/api/v2/assets/events?order_by=-timestamp")["asset_events"][0]
        self.assertEqual((event["source_dag_id"], event["extra"]["drift"]), ("fraud_drift", True))
        # Whether it may serve is the gate's affair; that it was trained, judged and cleaned up is ours.
        for task in ("train", "clean_up"):
            self.assertEqual(states[task], "success", states)
        self.assertIn(states["gate"], ("success", "skipped"))
        self.assertEqual(states["promote"], states["gate"])
        self.assertIn("3", self.registered())


class InMlflow(History, unittest.TestCase):
    @classmethod
    def registry(cls) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": os.environ["TIDEMILL_TEST_MLFLOW"]}

    def ask(self, what: str, **query: str) -> dict:
        address = f"{self.variables['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{what}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return json.load(answer)

    def test_trainings_are_tracked_and_registered_and_the_champion_is_served(self) -> None:
        first = self.run_training()
        self.assertEqual(set(first.states.values()), {"success"}, first)
        self.assertEqual(self.registered(), {"1": ["champion"]})
        version = self.ask("registered-models/alias", name="fraud", alias="champion")["model_version"]
        tags = {tag["key"]: tag["value"] for tag in version["tags"]}
        self.assertEqual((version["version"], tags["tidemill.run"]), ("1", first.answers["train"]["run"]))
        tracked = self.ask("runs/get", run_id=version["run_id"])["run"]
        self.assertEqual(tracked["info"]["status"], "FINISHED")
        metrics = {metric["key"]: metric["value"] for metric in tracked["data"]["metrics"]}
        self.assertEqual(metrics["pr_auc"], first.answers["train"]["metrics"]["pr_auc"])
        second = self.run_training()
        self.assertIn(second.states["gate"], ("success", "skipped"), second)
        self.assertEqual(second.states["promote"], second.states["gate"])
        champion = "2" if second.states["promote"] == "success" else "1"
        self.assertEqual({number for number, aliases in self.registered().items() if "champion" in aliases}, {champion})
        # What serves is looked up in the registry: its features are those of the SQL.
        self.tidemill("check", str(self.pipeline))


if __name__ == "__main__":
    unittest.main(verbosity=2)
