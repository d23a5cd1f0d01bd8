"""What the DAGs are, before anything runs: schedule, order, retries, and what each runner makes of a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest
from datetime import timedelta
from pathlib import Path
from unittest import mock

import harness
from harness import World
from tidemill_tasks import OnlyWhatTimeMends, Settings, command, slug

from airflow.sdk import RetryAction, TriggerRule
from airflow.sdk.exceptions import AirflowSkipException

POD_TEMPLATE = str(Path(harness.DAGS).parent / "pod-template.yaml")
ORDER = ["validate_settings", "validate_pipeline", "validate_registry", "replay_features", "train", "gate", "promotion_wanted", "promote"]


def load(**variables: str):
    with harness.environment(**World().variables(**variables)):
        return harness.load()


class Structure(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.dags = load()
        cls.training, cls.drift = cls.dags["fraud_training"], cls.dags["fraud_drift"]

    def test_there_are_two_dags_and_the_shared_file_is_none(self) -> None:
        self.assertEqual(sorted(self.dags), ["fraud_drift", "fraud_training"])

    def test_training_starts_at_three_utc_and_on_drift(self) -> None:
        timetable = self.training.timetable
        self.assertEqual((timetable.timetable.expression, str(timetable.timetable.timezone)), ("0 3 * * *", "UTC"))
        self.assertEqual([asset.uri for asset in timetable.asset_condition.objects], ["fraud://drift/"])
        self.assertEqual([outlet.uri for outlet in self.drift.get_task("drift").outlets], ["fraud://drift/"])

    def test_a_missed_day_is_not_caught_up_and_no_two_runs_overlap(self) -> None:
        for dag in self.dags.values():
            self.assertEqual((dag.catchup, dag.max_active_runs), (False, 1))
            self.assertIsInstance(dag.dagrun_timeout, timedelta)

    def test_steps_follow_one_another_and_all_have_a_time_limit(self) -> None:
        for earlier, later in zip(ORDER, [*ORDER[1:], "clean_up"]):
            self.assertIn(later, self.training.get_task(earlier).downstream_task_ids)
        for task in self.training.tasks:
            self.assertIsInstance(task.execution_timeout, timedelta, task.task_id)

    def test_what_decides_or_changes_the_champion_is_tried_once(self) -> None:
        retries = {task.task_id: task.retries for task in self.training.tasks}
        again = {task: number for task, number in retries.items() if number}
        self.assertEqual(again, {"replay_features": 2, "train": 2})
        self.assertEqual(self.drift.get_task("drift").retries, 2)

    def test_clean_up_is_the_teardown_of_the_validation(self) -> None:
        clean_up = self.training.get_task("clean_up")
        self.assertTrue(clean_up.is_teardown)
        self.assertEqual(clean_up.trigger_rule, TriggerRule.ALL_DONE_SETUP_SUCCESS)
        self.assertEqual([task for task in ORDER if self.training.get_task(task).is_setup], ["validate_registry"])

    def test_schedules_and_names_come_from_the_environment(self) -> None:
        dags = load(TIDEMILL_TRAINING_SCHEDULE="30 1 * * *", TIDEMILL_SOURCE="payments", TIDEMILL_DAYS="7")
        training = dags["fraud_training"]
        self.assertEqual(training.timetable.timetable.expression, "30 1 * * *")
        self.assertEqual(training.params["days"], 7)
        self.assertIn("payments=/", training.get_task("train").bash_command)

    def test_no_runner_is_imported_that_is_not_used(self) -> None:
        script = "import harness, sys; harness.load(); print([m for m in sys.modules if m.startswith('airflow.providers.') and 'operators' in m])"
        variables = {**os.environ, **World().variables(), "PYTHONPATH": str(harness.HERE)}
        printed = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        self.assertIn("airflow.providers.standard.operators.bash", printed)
        self.assertNotIn("docker", printed)
        self.assertNotIn("kubernetes", printed)


class Environment(unittest.TestCase):
    def test_all_problems_are_named_together_with_what_was_expected(self) -> None:
        settings = Settings.of({"TIDEMILL_RUNNER": "ssh", "TIDEMILL_DAYS": "0", "TIDEMILL_ALERTS_PER_DAY": "many", "TIDEMILL_WORK": "/dev/null/runs"})
        problems = "\n".join([*settings.problems, *settings.missing_here()])
        self.assertIn("TIDEMILL_RUNNER: expected one of bash, docker, kubernetes; found 'ssh'", problems)
        for name in ("TIDEMILL_DAYS", "TIDEMILL_ALERTS_PER_DAY", "TIDEMILL_HISTORY", "TIDEMILL_BIN", "TIDEMILL_PIPELINE", "TIDEMILL_WORK"):
            self.assertIn(f"{name}: expected", problems)

    def test_a_runner_without_its_package_is_a_problem_and_not_an_import_error(self) -> None:
        with mock.patch("tidemill_tasks.has_package", return_value=False):
            settings = Settings.of({"TIDEMILL_RUNNER": "kubernetes", "TIDEMILL_IMAGE": "tidemill"})
        self.assertIn("needs the package apache-airflow-providers-cncf-kubernetes", settings.problems[0])

    def test_a_complete_environment_has_no_problem(self) -> None:
        settings = Settings.of(World().variables())
        self.assertEqual([*settings.problems, *settings.missing_here()], [])

    def test_a_run_id_becomes_a_name_that_files_objects_and_shells_take(self) -> None:
        self.assertEqual(slug("asset_triggered__2026-11-23T03:00:00+00:00_x"), "asset_triggered__2026-11-23T03-00-00-00-00_x")
        self.assertEqual(slug("a'; rm -rf ~ #"), "a---rm--rf----")


class Retries(unittest.TestCase):
    def test_only_codes_that_a_person_has_to_mend_end_the_tries(self) -> None:
        def action(message: str) -> RetryAction:
            return OnlyWhatTimeMends().evaluate(RuntimeError(message), 1, 2).action

        self.assertEqual(action("The command returned a non-zero exit code 78."), RetryAction.FAIL)
        self.assertEqual(action("Docker container failed: {'Error': None, 'StatusCode': 65}"), RetryAction.FAIL)
        self.assertEqual(action("remote_pod: {'exit_code': 0, ...} {'exit_code': 78, ...}"), RetryAction.FAIL)
        for message in ("The command returned a non-zero exit code 75.", "exit code 137", "connection reset"):
            self.assertEqual(action(message), RetryAction.DEFAULT)


class Pushed:
    """A task instance, as far as an answer needs it."""

    task_id = "gate"

    def __init__(self) -> None:
        self.values: dict = {}

    def xcom_push(self, key, value) -> None:
        self.values[key] = value


class Docker(unittest.TestCase):
    VARIABLES = {
        "TIDEMILL_RUNNER": "docker",
        "TIDEMILL_IMAGE": "tidemill:1",
        "TIDEMILL_DOCKER_MOUNTS": "/srv/pipelines:/opt/tidemill/pipelines:ro, runs:/opt/tidemill/runs",
        "TIDEMILL_DOCKER_NETWORK": "lake",
        "AWS_SECRET_ACCESS_KEY": "sesame",
    }

    def test_a_step_is_a_container_that_has_the_secrets_and_shows_none(self) -> None:
        training = load(**self.VARIABLES)["fraud_training"]
        gate = training.get_task("gate")
        self.assertEqual((gate.image, gate.entrypoint[0], gate.command[:2], gate.command[-1]), ("tidemill:1", str(harness.DOUBLE), ["model", "gate"], "--json"))
        self.assertEqual([(m["Source"], m["Target"], m["Type"], m["ReadOnly"]) for m in gate.mounts], [
            ("/srv/pipelines", "/opt/tidemill/pipelines", "bind", True),
            ("runs", "/opt/tidemill/runs", "volume", False),
        ])
        self.assertEqual(training.get_task("clean_up").entrypoint, ["find"])
        self.assertEqual(gate._private_environment["AWS_SECRET_ACCESS_KEY"], "sesame")
        self.assertNotIn("PATH", gate._private_environment)
        from airflow.serialization.serialized_objects import DagSerialization

        self.assertNotIn("sesame", json.dumps(DagSerialization.serialize_dag(training), default=str))

    def test_the_answer_is_kept_when_it_is_no(self) -> None:
        from airflow.providers.docker.exceptions import DockerContainerFailedSkipException
        from airflow.providers.docker.operators.docker import DockerOperator

        gate, ti = load(**self.VARIABLES)["fraud_training"].get_task("gate"), Pushed()
        self.assertEqual(list(gate.skip_on_exit_code), [99])
        refused = DockerContainerFailedSkipException("99", logs=["INFO a log line", '{"passed": false}'])
        with mock.patch.object(DockerOperator, "execute", side_effect=refused), self.assertRaises(AirflowSkipException):
            gate.execute({"ti": ti})
        self.assertEqual(ti.values, {"return_value": {"passed": False}})


class Kubernetes(unittest.TestCase):
    VARIABLES = {"TIDEMILL_RUNNER": "kubernetes", "TIDEMILL_IMAGE": "tidemill:1", "TIDEMILL_NAMESPACE": "fraud", "TIDEMILL_POD_TEMPLATE": POD_TEMPLATE}

    def test_a_step_is_a_pod_of_the_platforms_template(self) -> None:
        training = load(**self.VARIABLES, TIDEMILL_BIN="tidemill")["fraud_training"]
        train = training.get_task("train")
        # Nothing is asked of a cluster.
        train.hook = mock.Mock(is_in_cluster=True)
        pod = train.build_pod_request_obj()
        container = pod.spec.containers[0]
        self.assertEqual((pod.metadata.namespace, container.image, container.command), ("fraud", "tidemill:1", ["tidemill"]))
        self.assertEqual((container.args[:2], container.args[-2:]), (["train", container.args[1]], ["--result-file", "/airflow/xcom/return.json"]))
        self.assertEqual(container.env_from[0].secret_ref.name, "tidemill")
        self.assertEqual([volume.name for volume in pod.spec.volumes], ["xcom", "pipelines", "runs"])
        self.assertEqual(training.get_task("replay_features").do_xcom_push, False)

    def test_the_answer_is_kept_when_it_is_no(self) -> None:
        from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

        gate, ti = load(**self.VARIABLES)["fraud_training"].get_task("gate"), Pushed()
        with mock.patch.object(KubernetesPodOperator, "cleanup", side_effect=AirflowSkipException), self.assertRaises(AirflowSkipException):
            gate.cleanup(None, None, xcom_result={"passed": False}, context={"ti": ti})
        self.assertEqual(ti.values, {"return_value": {"passed": False}})


if __name__ == "__main__":
    unittest.main(verbosity=2)
