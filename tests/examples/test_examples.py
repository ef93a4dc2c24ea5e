"""Every example runs from beginning to end, at a small size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ['--epochs', '2', '--num_users', '100']
# The script, its arguments, and what it has to print.
EXAMPLES = [
    ('drop_in_layer.py', SMALL, r'Epoch: 02, task: .*unique: .*\nTest NDCG@10: 0\.\d{4}\n'),
    (
        'attach_to_existing_model.py',
        SMALL,
        r"Test NDCG@10: 0\.\d{4}\nRuntimeError: target 'cold_start_proj' of modality 'text' was "
        r'not called inside of capture\(model\)',
    ),
    (
        'quickstart.py',
        ['--epochs', '1', '--quiet'],
        r'best epoch 1: .*\nbest epoch 1: .*unique.*\nplain: recall@20 0\.\d{4}, .*\nMRdIB: .*\n'
        r'best items of user 0: \[\d+, \d+, \d+, \d+, \d+\]\n',
    ),
]


@pytest.mark.parametrize('name, args, expected', EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_example(name, args, expected, tmp_path):
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-W', 'error::UserWarning', str(ROOT / 'examples' / name), *args]
    out = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120
    )
    assert out.returncode == 0, out.stderr
    assert out.stderr == ''
    assert re.search(expected, out.stdout), out.stdout
    assert 'nan' not in out.stdout


def test_no_example_is_left_out():
    assert {path.name for path in (ROOT / 'examples').glob('*.py')} == {e[0] for e in EXAMPLES}
