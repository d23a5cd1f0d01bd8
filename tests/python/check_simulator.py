"""How hard the simulated fraud is to find: without history, with velocity, with all history. See simulator_difficulty.py."""

import os
import pathlib
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as folder:
    data = pathlib.Path(folder) / "transactions.parquet"
    generate = [os.environ["TIDEMILL_BIN"], "generate", "--parquet", data, "--from", "2026-01-01", "--days", "60",
                "--fields", "device_id,campaign"]
    subprocess.run(generate, check=True)
    difficulty = pathlib.Path(__file__).with_name("simulator_difficulty.py")
    sys.exit(subprocess.run([sys.executable, difficulty, data]).returncode)
