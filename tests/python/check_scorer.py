"""The scorer against Python's LightGBM: 21 models, 100 000 rows each, every bit. See oracle_lightgbm.py."""

import pathlib
import subprocess
import sys

oracle = pathlib.Path(__file__).with_name("oracle_lightgbm.py")
sys.exit(subprocess.run([sys.executable, oracle, "--check"]).returncode)
