"""What both DAGs share: the settings, from the environment, and `command`, which makes one Airflow task of one call of `tidemill`.

No feature, no model and no threshold is computed here: that is the program's work. Secrets stay in the environment of whatever runs the
program; they are never arguments, XComs or rendered fields. Docker's and Kubernetes' providers are imported only where they run.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset, BaseOperator, RetryDecision, RetryPolicy, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.module_loading import import_string

log = logging.getLogger(__name__)

# What `fraud_drift` says, and `fraud_training` waits for.
DRIFT = Asset("fraud_drift", uri="fraud://drift")

# The program's exit codes that more tries cannot mend: bad arguments, bad data, another writer, wrong configuration.
NOT_WORTH_A_RETRY = {2: "bad arguments", 65: "bad data", 76: "another writer has taken over", 78: "wrong configuration"}
# "Nothing to do": the gate says no, there is no drift.
NO = 99

RUNNERS = {"bash": None, "docker": "airflow.providers.docker", "kubernetes": "airflow.providers.cncf.kubernetes"}


@dataclass(frozen=True)
class Settings:
    """What the environment says. What is wrong with it stands in `problems`, all of it, for `validate_environment` to report: a DAG that
    cannot be imported vanishes, one that fails is seen."""

    runner: str
    program: str
    pipeline: str
    source: str
    history: str
    features_view: str
    work: str
    days: int
    alerts_per_day: int
    training_schedule: str
    drift_schedule: str
    image: str | None
    passed: tuple[str, ...]
    mounts: tuple[str, ...]
    network: str | None
    namespace: str | None
    pod_template: str | None
    notify: str | None
    problems: tuple[str, ...]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        problems: list[str] = []

        def text(name: str, default: str | None = None) -> str | None:
            return environment.get(name, "").strip() or default

        def words(name: str, default: str = "") -> tuple[str, ...]:
            return tuple(word.strip() for word in text(name, default).split(",") if word.strip())

        def positive(name: str, default: int) -> int:
            found = text(name, str(default))
            if not re.fullmatch(r"[1-9][0-9]{0,8}", found):
                problems.append(f"{name}: expected a whole number above 0, found '{found}'")
                return default
            return int(found)

        runner = text("TIDEMILL_RUNNER", "bash")
        if runner not in RUNNERS:
            problems.append(f"TIDEMILL_RUNNER: expected one of {', '.join(RUNNERS)}; found '{runner}'")
            runner = "bash"
        elif RUNNERS[runner] and not has_package(RUNNERS[runner]):
            package = "apache-" + RUNNERS[runner].replace(".", "-")
            problems.append(f"TIDEMILL_RUNNER={runner}: needs the package {package}, which is not installed")
            runner = "bash"
        image = text("TIDEMILL_IMAGE")
        if runner != "bash" and not image:
            problems.append(f"TIDEMILL_RUNNER={runner}: needs TIDEMILL_IMAGE, an image with the program")
        history = text("TIDEMILL_HISTORY")
        if not history:
            problems.append("TIDEMILL_HISTORY: expected where the stored history is, such as s3://lake/transactions/; it is not set")
        return cls(
            runner=runner,
            program=text("TIDEMILL_BIN", "tidemill"),
            pipeline=text("TIDEMILL_PIPELINE", "/opt/tidemill/pipelines/fraud.yaml"),
            source=text("TIDEMILL_SOURCE", "transactions"),
            history=history or "",
            features_view=text("TIDEMILL_FEATURES_VIEW", "features"),
            work=text("TIDEMILL_WORK", "/opt/tidemill/runs"),
            days=positive("TIDEMILL_DAYS", 90),
            alerts_per_day=positive("TIDEMILL_ALERTS_PER_DAY", 100),
            training_schedule=text("TIDEMILL_TRAINING_SCHEDULE", "0 3 * * *"),
            drift_schedule=text("TIDEMILL_DRIFT_SCHEDULE", "0 15 * * *"),
            image=image,
            passed=words("TIDEMILL_PASS", "TIDEMILL_*,MLFLOW_*,AWS_*,KAFKA_*"),
            mounts=words("TIDEMILL_DOCKER_MOUNTS"),
            network=text("TIDEMILL_DOCKER_NETWORK"),
            namespace=text("TIDEMILL_NAMESPACE"),
            pod_template=text("TIDEMILL_POD_TEMPLATE"),
            notify=text("TIDEMILL_NOTIFY"),
            problems=tuple(problems),
        )

    def missing_here(self) -> list[str]:
        """What must be on this machine and is not. Of a container, only Docker or Kubernetes can say so."""
        missing = []
        if self.runner == "bash":
            if not shutil.which(self.program):
                missing.append(f"TIDEMILL_BIN: expected the program, found no '{self.program}' that can be run")
            if not os.path.isfile(self.pipeline):
                missing.append(f"TIDEMILL_PIPELINE: expected a pipeline file, found none at '{self.pipeline}'")
            if not is_writable_folder(self.work):
                missing.append(f"TIDEMILL_WORK: expected a folder that can be written, found '{self.work}'")
        if self.notify and not can_import(self.notify):
            missing.append(f"TIDEMILL_NOTIFY: expected package.module.function, found nothing to import at '{self.notify}'")
        return missing

    def input(self) -> str:
        return f"{self.source}={self.history}"


def has_package(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def is_writable_folder(path: str) -> bool:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK)


def can_import(path: str) -> bool:
    try:
        return callable(import_string(path))
    except ImportError:
        return False


def slug(text: Any) -> str:
    """A run id (or a version) as a name of files and objects: ids hold `:` and `+`. Safe in a shell, too."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", str(text))


# For templates: `{{ run_id | slug }}`.
FILTERS = {"slug": slug}


# --- the answer of a command


def answer_of(line: Any) -> dict[str, Any]:
    """The JSON object that the program prints last."""
    try:
        answer = json.loads(line)
    except (TypeError, ValueError):
        answer = None
    if not isinstance(answer, dict):
        raise AirflowException("expected one JSON object as the last line on standard output of tidemill; the log above holds what came")
    return answer


def say_no(context: Mapping[str, Any], answer: dict[str, Any] | None) -> None:
    """Keeps the answer of a command that ended with 99, which Airflow's operators drop, and says aloud what it means."""
    if answer is not None:
        context["ti"].xcom_push(key="return_value", value=answer)
    log.warning("%s: the answer is no (exit code %d): %s", context["ti"].task_id, NO, json.dumps(answer, sort_keys=True))


def tell_assets(context: Mapping[str, Any], outlets: Sequence[Any], answer: Any) -> None:
    """Who is started by the asset sees why."""
    for outlet in outlets:
        if isinstance(outlet, Asset) and isinstance(answer, dict):
            context["outlet_events"][outlet].extra.update(answer)


def notify(settings: Settings, event: str):
    """A callback that tells TIDEMILL_NOTIFY, a function of the platform, what a person should know; without it, the log."""

    def tell(context: Mapping[str, Any]) -> None:
        # For a whole run there is no task; for a task that was skipped without a no of its own, there is nothing to tell.
        ti = context.get("ti") if event == "rejected" else None
        answer = ti.xcom_pull(task_ids=ti.task_id, key="return_value") if ti else None
        if ti and answer is None:
            return
        told = {"event": event, "dag": context["dag"].dag_id, "run": context["run_id"], "reason": context.get("reason"), "answer": answer}
        log.warning("tidemill: %s", json.dumps(told, sort_keys=True))
        if settings.notify:
            import_string(settings.notify)(told)

    return tell


class OnlyWhatTimeMends(RetryPolicy):
    """No second try after an exit code that says that a person has to act."""

    EXIT_CODE = re.compile(r"(?:exit[ _]code|StatusCode)['\"]?:? (\d+)")

    def evaluate(self, exception, try_number, max_tries, context=None) -> RetryDecision:
        # Kubernetes' message shows the whole pod, helpers included.
        for code in map(int, self.EXIT_CODE.findall(str(exception))):
            if code in NOT_WORTH_A_RETRY:
                return RetryDecision.fail(f"exit code {code}: {NOT_WORTH_A_RETRY[code]}")
        return RetryDecision.default()


# --- one task for one call


def validate(settings: Settings):
    """The task that reports everything that is wrong with the environment, at once."""

    @task(task_id="validate_settings", retries=0)
    def validate_settings() -> None:
        problems = [*settings.problems, *settings.missing_here()]
        if problems:
            raise AirflowFailException("the environment of Airflow has to be mended:\n" + "\n".join(problems))

    return validate_settings()


def command(
    settings: Settings,
    task_id: str,
    arguments: Sequence[str],
    *,
    answers: bool = False,
    environment: Mapping[str, str] | None = None,
    program: str | None = None,
    **options: Any,
) -> BaseOperator:
    """A task that runs the program once. `answers`: it ends with a JSON object, which becomes the task's XCom, and code 99 means "no".
    What is dynamic in the arguments is a template without single quotes that ends in `| slug` or `| int`: nothing else reaches a shell."""
    options.setdefault("retry_policy", OnlyWhatTimeMends())
    build = {"bash": bash_task, "docker": docker_task, "kubernetes": kubernetes_task}[settings.runner]
    return build(settings, task_id, list(arguments), answers, dict(environment or {}), program or settings.program, options)


def bash_task(settings, task_id, arguments, answers, environment, program, options) -> BaseOperator:
    return BashCommand(
        task_id=task_id,
        # `exec`, so that the signals of a stop reach the program.
        bash_command="exec " + shlex.join([program, *arguments, *json_option(answers)]),
        env=environment,
        append_env=True,
        skip_on_exit_code=NO if answers else None,
        output_processor=answer_of if answers else lambda _: None,
        do_xcom_push=answers,
        **options,
    )


def json_option(answers: bool) -> list[str]:
    return ["--json"] if answers else []


class RememberedOutput(SubprocessHook):
    """Airflow's own operator forgets what a skipped command printed."""

    last_line = ""

    def run_command(self, *arguments, **options):
        result = super().run_command(*arguments, **options)
        self.last_line = result.output
        return result


class BashCommand(BashOperator):
    """A BashOperator whose answer is kept when it is no."""

    @cached_property
    def subprocess_hook(self):
        return RememberedOutput()

    def execute(self, context):
        try:
            answer = super().execute(context)
        except AirflowSkipException:
            say_no(context, answer_of(self.subprocess_hook.last_line))
            raise
        tell_assets(context, self.outlets, answer)
        return answer


def docker_task(settings, task_id, arguments, answers, environment, program, options) -> BaseOperator:
    from airflow.providers.docker.exceptions import DockerContainerFailedSkipException
    from airflow.providers.docker.operators.docker import DockerOperator
    from docker.types import Mount

    class DockerCommand(DockerOperator):
        """A DockerOperator whose answer is an object, kept when it is no."""

        def execute(self, context):
            try:
                output = super().execute(context)
            except DockerContainerFailedSkipException as skip:
                say_no(context, answer_of(skip.logs[-1] if skip.logs else None))
                raise
            if not answers:
                return None
            answer = answer_of(output)
            tell_assets(context, self.outlets, answer)
            return answer

    def mount(text: str) -> Mount:
        source, target, *mode = text.split(":")
        return Mount(target=target, source=source, type="bind" if source.startswith("/") else "volume", read_only=mode == ["ro"])

    return DockerCommand(
        task_id=task_id,
        image=settings.image,
        entrypoint=[program],
        command=[*arguments, *json_option(answers)],
        environment=environment,
        # Passed on, and shown nowhere.
        private_environment={name: value for name, value in os.environ.items() if is_passed(name, settings.passed)},
        mounts=[mount(text) for text in settings.mounts],
        mount_tmp_dir=False,
        network_mode=settings.network,
        auto_remove="force",
        skip_on_exit_code=NO if answers else None,
        do_xcom_push=answers,
        **options,
    )


def is_passed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def kubernetes_task(settings, task_id, arguments, answers, environment, program, options) -> BaseOperator:
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    class PodCommand(KubernetesPodOperator):
        """A KubernetesPodOperator that says it when the answer is no."""

        def cleanup(self, pod, remote_pod, xcom_result=None, context=None):
            try:
                super().cleanup(pod, remote_pod, xcom_result=xcom_result, context=context)
            except AirflowSkipException:
                say_no(context, xcom_result)
                raise
            if answers and context:
                tell_assets(context, self.outlets, xcom_result)

    return PodCommand(
        task_id=task_id,
        name=f"tidemill-{task_id}".replace("_", "-").replace(".", "-"),
        namespace=settings.namespace,
        image=settings.image,
        cmds=[program],
        arguments=[*arguments, *(["--result-file", "/airflow/xcom/return.json"] if answers else [])],
        env_vars=environment,
        # Secrets, volumes, resources and the service account: the platform's, see README.md.
        pod_template_file=settings.pod_template,
        on_finish_action="delete_succeeded_pod",
        skip_on_exit_code=NO if answers else None,
        do_xcom_push=answers,
        **options,
    )
