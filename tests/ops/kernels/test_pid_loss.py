"""Runs ``pid_loss_cases.py`` under Triton's interpreter, in a process of its own: the interpreter
is chosen when Triton is imported, and other tests may have imported it by now.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_under_the_interpreter():
    pytest.importorskip('triton', reason='Triton is not installed')
    cases = Path(__file__).with_name('pid_loss_cases.py')
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(cases)],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout and 'skipped' not in result.stdout, result.stdout
