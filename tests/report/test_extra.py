"""Without the `report` extra the error says how to get it."""

import subprocess
import sys

WITHOUT = """
import sys
sys.modules["altair"] = None
import residuum.report
"""


def test_the_error_names_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'residuum[report]'" in done.stderr.splitlines()[-1]
