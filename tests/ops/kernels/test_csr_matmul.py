"""Runs ``csr_matmul_cases.py`` in a process of its own: without CUDA under Triton's interpreter,
which is chosen when Triton is imported, and other tests may have imported it by now.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


def test_cases():
    pytest.importorskip('triton', reason='Triton is not installed')
    cases = Path(__file__).with_name('csr_matmul_cases.py')
    interpreter = {} if torch.cuda.is_available() else {'TRITON_INTERPRET': '1'}
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(cases)],
        env={**os.environ, **interpreter},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout and 'skipped' not in result.stdout, result.stdout
