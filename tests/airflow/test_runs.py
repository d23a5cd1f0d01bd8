"""The DAGs run in a real Airflow, with a double in place of the program: what each exit code leads to."""

from __future__ import annotations

import sys
import unittest
from datetime import datetime, timedelta, timezone

from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
from sqlalchemy import select

import harness
from harness import World

SETUPS = ["validate_settings", "validate_pipeline", "validate_registry"]
TOLD: list[dict] = []


def remember(told: dict) -> None:
    """TIDEMILL_NOTIFY of the tests."""
    TOLD.append(told)


def drift_events() -> list[dict]:
    with create_session() as session:
        return [event.extra for event in session.scalars(select(AssetEvent).order_by(AssetEvent.id)).all()]


class Training(unittest.TestCase):
    def setUp(self) -> None:
        self.world = World()
        TOLD.clear()
        # By this name, too, when the file itself is what runs.
        sys.modules.setdefault("test_runs", sys.modules[__name__])

    def run_training(self, conf=None, **variables) -> harness.Run:
        with harness.environment(**self.world.variables(TIDEMILL_NOTIFY="test_runs.remember", **variables)):
            return harness.run(harness.load()["fraud_training"], conf)

    def assert_states(self, run: harness.Run, run_state: str, **others: list[str]) -> None:
        """Tasks that are not named have succeeded."""
        expected = {task: state for state, tasks in others.items() for task in tasks}
        self.assertEqual(run.states, {task: expected.get(task, "success") for task in run.states})
        self.assertEqual(run.state, run_state)

    def test_a_good_model_is_trained_and_promoted_under_one_run_id(self) -> None:
        old, foreign = self.world.folder / "work/fraud_training/scheduled__2026-01-01", self.world.folder / "work/notes/kept__"
        for folder in (old, foreign):
            folder.mkdir(parents=True)
        run = self.run_training()
        self.assert_states(run, "success")
        pipeline, history = f"{self.world.folder}/fraud.yaml", f"transactions={self.world.folder}/history"
        registry = f"--pipeline {pipeline}"
        slug = run.run_id.replace(":", "-").replace("+", "-")
        of_run = f"{self.world.folder}/work/fraud_training/{slug}"
        self.assertEqual(
            self.world.calls(),
            [
                f"check {pipeline}",
                f"model list {registry}",
                f"replay {pipeline} --input {history} --view features --output {of_run}/features",
                f"train {pipeline} --input {history} --run {slug} --output {of_run}/model --register --json",
                f"model gate fraud --version 7 {registry} --json",
                f"model promote fraud --version 7 {registry} --json",
            ],
        )
        self.assertEqual(run.answers["promote"], {"alias": "champion", "version": "7"})
        # Files of this run stay, those of earlier ones and nothing else are gone.
        self.assertEqual([entry.name for entry in (self.world.folder / "work/fraud_training").iterdir()], [slug])
        self.assertTrue(foreign.exists())
        self.assertEqual(TOLD, [])

    def test_a_model_that_the_gate_refuses_is_not_promoted_and_not_silent(self) -> None:
        with self.assertLogs("tidemill_tasks", "WARNING") as log:
            run = self.run_training(DOUBLE_GATE="99")
        self.assert_states(run, "success", skipped=["gate", "promotion_wanted", "promote"])
        reason = "PR-AUC 0.70 is below 0.81 of the champion"
        self.assertEqual(run.answers["gate"], {"passed": False, "reasons": [reason]})
        self.assertIn(reason, "\n".join(log.output))
        self.assertEqual([(told["event"], told["dag"], told["answer"]["reasons"]) for told in TOLD], [("rejected", "fraud_training", [reason])])
        self.assertFalse([call for call in self.world.calls() if "promote" in call])

    def test_a_person_may_keep_a_good_model_from_serving_and_choose_days_and_budget(self) -> None:
        run = self.run_training({"promote": False, "days": 30, "alerts_per_day": 5})
        self.assert_states(run, "success", skipped=["promote"])
        from_day = (datetime.now(timezone.utc) - timedelta(days=30)).date()
        environment = self.world.calls_file.with_name("calls.environment").read_text().splitlines()
        training = [line for line in environment if line.split(":")[0] in ("replay", "train", "gate")]
        self.assertEqual(len(training), 3)
        for line in training:
            self.assertRegex(line, rf": from={from_day}T\d\d:\d\d:\d\dZ alerts=5$")

    def test_a_broken_environment_fails_before_anything_runs(self) -> None:
        run = self.run_training(TIDEMILL_HISTORY="", TIDEMILL_RUNNER="ssh")
        later = [*SETUPS[1:], "replay_features", "train", "gate", "promotion_wanted", "promote", "clean_up"]
        self.assert_states(run, "failed", failed=["validate_settings"], upstream_failed=later)
        self.assertEqual(self.world.calls(), [])

    def test_a_wrong_pipeline_fails_at_once(self) -> None:
        run = self.run_training(DOUBLE_CHECK="78")
        self.assertEqual((run.state, run.states["validate_pipeline"], run.states["train"]), ("failed", "failed", "upstream_failed"))
        self.assertEqual(self.world.calls(), [f"check {self.world.folder}/fraud.yaml"])
        self.assertEqual([told["event"] for told in TOLD], ["failed"])

    def test_only_what_time_mends_is_tried_again(self) -> None:
        run = self.run_training(DOUBLE_REPLAY="75 0", DOUBLE_TRAIN="65")
        self.assert_states(run, "failed", failed=["train"], upstream_failed=["gate", "promotion_wanted", "promote"])
        self.assertEqual([run.tries[task] for task in ("replay_features", "train", "clean_up")], [2, 1, 1])

    def test_a_program_without_an_answer_is_a_failure(self) -> None:
        run = self.run_training(DOUBLE_SILENT="gate")
        self.assert_states(run, "failed", failed=["gate"], upstream_failed=["promotion_wanted", "promote"])


class Drift(unittest.TestCase):
    def run_drift(self, **variables) -> harness.Run:
        with harness.environment(**World().variables(**variables)):
            return harness.run(harness.load()["fraud_drift"])

    def test_drift_emits_the_event_that_starts_a_training_with_its_reason(self) -> None:
        before = len(drift_events())
        run = self.run_drift()
        self.assertEqual((run.state, run.states["drift"]), ("success", "success"))
        self.assertEqual(drift_events()[before:], [{"drifted": ["amount_usd"]}])

    def test_no_drift_emits_nothing(self) -> None:
        before = len(drift_events())
        run = self.run_drift(DOUBLE_DRIFT="99")
        self.assertEqual((run.state, run.states["drift"]), ("success", "skipped"))
        self.assertEqual(len(drift_events()), before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
