"""From stored history to a served model: validate, back-fill features, train and register, gate, promote, clean up.

Every day at 03:00 UTC, and whenever `fraud_drift` finds drift. Each step is one call of `tidemill`, named by the run, so that retries and
clears repeat it instead of adding to it. A model that the gate refuses leaves the run green and `promote` skipped; it is said in the
gate's log, in its XCom, and to TIDEMILL_NOTIFY.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
import os

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Param, TaskGroup, task

from tidemill_tasks import DRIFT, FILTERS, Settings, command, notify, validate

settings = Settings.of(os.environ)

RUN = "{{ run_id | slug }}"
# What `train` has registered: the model's name and the number of its version.
MODEL = '{{ ti.xcom_pull(task_ids="train")["registered"]["name"] | slug }}'
VERSION = '{{ ti.xcom_pull(task_ids="train")["registered"]["version"] | slug }}'
RUNS = f"{settings.work}/fraud_training"
# What the form of a run asks for; the pipeline file takes both from the environment. The same run asks for the same days again.
FROM_PARAMS = {
    "TIDEMILL_TRAIN_FROM": '{{ (dag_run.run_after - macros.timedelta(days=params.days | int)).strftime("%Y-%m-%dT%H:%M:%SZ") }}',
    "TIDEMILL_ALERTS_PER_DAY": "{{ params.alerts_per_day | int }}",
}
# The registry that the pipeline file names, or the environment: the one that serving follows.
REGISTRY = ["--pipeline", settings.pipeline]

with DAG(
    dag_id="fraud_training",
    description="Train on the pipeline's own features; promote what the gate lets through",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable(settings.training_schedule, timezone="UTC"), assets=[DRIFT]),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    # Two promoters at once could swap their models: an alias knows no compare-and-set.
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=4),
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=15),
        "execution_timeout": timedelta(minutes=15),
    },
    params={
        "days": Param(settings.days, type="integer", minimum=1, maximum=3650, description="days of history to train on"),
        "alerts_per_day": Param(settings.alerts_per_day, type="integer", minimum=1, description="alert budget: how many alerts a day people can look at"),
        "promote": Param(True, type="boolean", description="let a model that passes the gate serve"),
    },
    user_defined_filters=FILTERS,
    on_failure_callback=notify(settings, "failed"),
    tags=["tidemill", "fraud"],
):
    with TaskGroup("validate_environment", prefix_group_id=False):
        validate_settings = validate(settings)
        validate_pipeline = command(settings, "validate_pipeline", ["check", settings.pipeline], retries=0)
        validate_registry = command(settings, "validate_registry", ["model", "list", *REGISTRY], retries=0)
        validate_settings >> validate_pipeline >> validate_registry

    replay_features = command(
        settings,
        "replay_features",
        ["replay", settings.pipeline, "--input", settings.input(), "--view", settings.features_view, "--output", f"{RUNS}/{RUN}/features"],
        environment=FROM_PARAMS,
        execution_timeout=timedelta(hours=1),
    )
    train = command(
        settings,
        "train",
        ["train", settings.pipeline, "--input", settings.input(), "--run", RUN, "--output", f"{RUNS}/{RUN}/model", "--register"],
        answers=True,
        environment=FROM_PARAMS,
        execution_timeout=timedelta(hours=2),
    )
    gate = command(
        settings,
        "gate",
        ["model", "gate", MODEL, "--version", VERSION, *REGISTRY],
        answers=True,
        environment=FROM_PARAMS,
        retries=0,
        execution_timeout=timedelta(minutes=30),
        on_skipped_callback=notify(settings, "rejected"),
    )

    @task.short_circuit(ignore_downstream_trigger_rules=False, retries=0)
    def promotion_wanted(params=None):
        """`promote` of the run's form: a person may want to look first."""
        return params["promote"]

    promote = command(settings, "promote", ["model", "promote", MODEL, "--version", VERSION, *REGISTRY], answers=True, retries=0)
    # The files of this run stay for a look until the next one; its model is in the registry. Only names of runs, only two levels down.
    clean_up = command(
        settings,
        "clean_up",
        [
            *[settings.work, "-mindepth", "2", "-maxdepth", "2", "-path", "*/fraud_training/*__*", "!", "-name", RUN],
            *["-exec", "rm", "-rf", "{}", "+"],
        ],
        program="find",
        retries=0,
    )

    validate_registry >> replay_features >> train >> gate >> promotion_wanted() >> promote >> clean_up
    # After whatever happened behind the last check; a run that did not pass it leaves the files of the one before.
    clean_up.as_teardown(setups=validate_registry)
