"""Looks whether transactions or scores still look as they did when the served model was trained.

Once a day, since drift is judged on windows of 24 hours. Drift (exit code 0) emits the asset that starts `fraud_training`, with what drifted
in the event; none (exit code 99) skips the task and emits nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
import os

from airflow.sdk import DAG, CronTriggerTimetable

from tidemill_tasks import DRIFT, FILTERS, Settings, command, notify, validate

settings = Settings.of(os.environ)

with DAG(
    dag_id="fraud_drift",
    description="Start a training when features or scores drift",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(settings.drift_schedule, timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": 2, "max_retry_delay": timedelta(minutes=15)},
    user_defined_filters=FILTERS,
    on_failure_callback=notify(settings, "failed"),
    tags=["tidemill", "fraud"],
):
    validate(settings) >> command(
        settings,
        "drift",
        ["drift", settings.pipeline, "--input", settings.input()],
        answers=True,
        outlets=[DRIFT],
        execution_timeout=timedelta(hours=1),
    )
