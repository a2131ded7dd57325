"""The quick-start notebook runs, cell by cell, in a clean folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from results import record as records

ROOT = Path(__file__).parent.parent


def test_the_quick_start_notebook_runs(tmp_path):
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".git", "runs", "data", "tests", "*.egg-info"))
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project / "docs", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert records.read(project / "runs/quickstart/lenet")["status"] == "completed"
    assert "4 jobs, 2 configurations" in done.stdout
