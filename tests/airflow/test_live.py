"""A scheduler, a dag-processor and an api-server: drift starts a training by the asset, as it does in production."""

from __future__ import annotations

import unittest

import harness
from harness import World
from live import LiveAirflow


class Live(unittest.TestCase):
    def test_drift_starts_a_training_that_knows_why(self) -> None:
        world = World()
        with harness.environment(), LiveAirflow(world.variables(), world.folder) as airflow:
            airflow.start("fraud_drift")
            drift = airflow.ended("fraud_drift", "manual", 120)
            self.assertEqual(drift["state"], "success")
            training = airflow.ended("fraud_training", "asset_triggered", 180)
            states = airflow.states("fraud_training", training["dag_run_id"])
            self.assertEqual(set(states.values()), {"success"}, states)
            events = airflow.ask("GET", "/api/v2/assets/events")["asset_events"]
        self.assertEqual([(event["source_dag_id"], event["extra"]) for event in events], [("fraud_drift", {"drifted": ["amount_usd"]})])
        trained = [call for call in world.calls() if call.startswith("train ")]
        self.assertEqual(len(trained), 1)
        self.assertIn("--run asset_triggered__", trained[0])


if __name__ == "__main__":
    unittest.main(verbosity=2)
