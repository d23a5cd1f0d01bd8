"""Loads the DAGs into a real Airflow and runs them in this process, task after task, as `airflow dags test` does.

The environment of Airflow itself (home, database, folder of DAGs) comes from tests/airflow.sh.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

HERE = Path(__file__).resolve().parent
DAGS = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
DOUBLE = HERE / "tidemill"
# As Airflow does for a bundle.
sys.path.insert(0, str(DAGS))


@dataclass
class Run:
    state: str
    run_id: str
    states: dict[str, str]
    tries: dict[str, int]
    answers: dict[str, Any]


@contextlib.contextmanager
def environment(**variables: str):
    """Exactly these variables of ours, whatever the caller has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMILL_", "DOUBLE_", "MLFLOW_"))}
    with mock.patch.dict(os.environ, {**kept, **variables}, clear=True):
        yield


def load() -> dict[str, Any]:
    """The DAGs as the environment makes them; import errors are failures."""
    bag = BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    return bag.dags


def run(dag: Any, conf: dict[str, Any] | None = None) -> Run:
    for task in dag.tasks:
        # That a retry waits is Airflow's business.
        task.retry_delay = timedelta(seconds=0)
    result = dag.test(run_conf=conf)
    with create_session() as session:
        tasks = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag.dag_id, TaskInstance.run_id == result.run_id)).all()
        answers = session.scalars(
            select(XComModel).where(XComModel.dag_id == dag.dag_id, XComModel.run_id == result.run_id, XComModel.key == "return_value")
        ).all()
        return Run(
            state=str(result.state),
            run_id=result.run_id,
            states={task.task_id: str(task.state) for task in tasks},
            tries={task.task_id: task.try_number for task in tasks},
            answers={answer.task_id: XComModel.deserialize_value(answer) for answer in answers},
        )


class World:
    """A folder with what a run needs, the double in place of the program, and what the double was asked."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tidemill-airflow-"))
        (self.folder / "fraud.yaml").write_text("pipeline: fraud\n")
        self.calls_file = self.folder / "calls"

    def variables(self, **more: str) -> dict[str, str]:
        return {
            "TIDEMILL_BIN": str(DOUBLE),
            "TIDEMILL_PIPELINE": str(self.folder / "fraud.yaml"),
            "TIDEMILL_HISTORY": str(self.folder / "history"),
            "TIDEMILL_REGISTRY": str(self.folder / "registry"),
            "TIDEMILL_WORK": str(self.folder / "work"),
            "DOUBLE_CALLS": str(self.calls_file),
            **more,
        }

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
