"""An Airflow as it runs in production, on loopback: api-server, dag-processor and scheduler as processes, and what a person would ask by REST."""

from __future__ import annotations

import ctypes
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PARTS = {
    "api-server": ["--host", "127.0.0.1", "--workers", "1"],
    "dag-processor": [],
    "scheduler": ["--skip-serve-logs"],
}
AIRFLOW = Path(sys.executable).with_name("airflow")


def free_port() -> int:
    """Below the range from which outgoing connections take theirs."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def end_with_parent() -> None:
    """A test that is killed leaves nothing running (PR_SET_PDEATHSIG, SIGTERM)."""
    ctypes.CDLL(None).prctl(1, 15)


class LiveAirflow:
    """`with LiveAirflow(variables, folder) as airflow: ...`; its logs are in the folder."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.token: str | None = None
        self.environment = {
            **os.environ,
            **variables,
            # The DAGs run when the test asks for it: no such day since their start date.
            "TIDEMILL_TRAINING_SCHEDULE": "0 3 29 2 *",
            "TIDEMILL_DRIFT_SCHEDULE": "0 3 29 2 *",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.port}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of a test that is longer than the sixty-four bytes it takes",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        }
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> LiveAirflow:
        for part, arguments in PARTS.items():
            if part == "api-server":
                arguments = [*arguments, "--port", str(self.port)]
            with open(self.folder / f"{part}.log", "wb") as log:
                self.processes[part] = subprocess.Popen(
                    [AIRFLOW, part, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=end_with_parent
                )
        try:
            self.wait("the api-server answers", lambda: self.get("/api/v2/monitor/health", token=False), 300)
            self.token = self.ask("GET", "/auth/token", token=False)["access_token"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 20
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            # Whatever a part has left of its own session.
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()

    def ask(self, method: str, path: str, body: Any = None, token: bool = True) -> Any:
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {self.token}"} if token else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        # No proxy: it is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            return json.load(response)

    def get(self, path: str, token: bool = True) -> Any:
        """None while it is not there."""
        try:
            return self.ask("GET", path, token=token)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def wait(self, what: str, found: Any, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for part, process in self.processes.items():
                if process.poll() is not None:
                    raise AssertionError(f"{part} ended with code {process.returncode}: {self.tail(part)}")
            if result := found():
                return result
            time.sleep(0.5)
        raise AssertionError(f"after {seconds:.0f} s it is not so that {what}: {self.tail('scheduler')}")

    def tail(self, part: str) -> str:
        return (self.folder / f"{part}.log").read_text(errors="replace")[-3000:]

    def start(self, dag: str, conf: dict[str, Any] | None = None) -> str:
        """The id of the new run."""
        self.wait(f"{dag} is known", lambda: self.get(f"/api/v2/dags/{dag}"), 90)
        return self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf or {}})["dag_run_id"]

    def ended(self, dag: str, run_type: str, seconds: float) -> dict[str, Any]:
        """The first run of a type, when it has ended."""

        def found() -> dict[str, Any] | None:
            runs = (self.get(f"/api/v2/dags/{dag}/dagRuns?run_type={run_type}") or {}).get("dag_runs", [])
            return next((run for run in runs if run["state"] in ("success", "failed")), None)

        return self.wait(f"a run of {dag} of type {run_type} has ended", found, seconds)

    def states(self, dag: str, run: str) -> dict[str, str]:
        from urllib.parse import quote

        tasks = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{quote(run, safe='')}/taskInstances?limit=100")["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}
