"""Every example runs from beginning to end, at a small size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mrdib_pyg.datasets import Planted, write_folder
from mrdib_pyg.nn.models import MODELS
from mrdib_pyg.training.experiment import load_experiment

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


def reproduce_paper(*args):
    command = [sys.executable, str(ROOT / 'examples' / 'reproduce_paper.py'), *map(str, args)]
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_reproduce_paper(tmp_path):
    write_folder(Planted(num_users=40, num_items=50, num_interactions=10)[0], tmp_path / 'baby')
    args = ['--root', tmp_path, '--models', 'vbpr', '--out', tmp_path / 'out']
    small = ['--sets', 'baby', '--trials', 2, 1, '--seeds', 1, '--epochs', 1]
    out = reproduce_paper(*args, *small, '--dry-run')
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith('baby: 2 -> 1 -> 1 settings by recall@20')
    assert '16 runs, 0 finished' in out.stdout and not (tmp_path / 'out').exists()
    out = reproduce_paper(*args)
    assert out.returncode == 2 and "'sports' is not in" in out.stderr
    out = reproduce_paper(*args, *small)
    assert out.returncode == 0, out.stderr
    assert '### vbpr' in out.stdout and '| Recall@5 |' in out.stdout


def test_reproduce_paper_plans_for_the_sets_at_hand(data_root):
    args = ['--root', data_root, '--models', 'vbpr', '--modalities', 'image', '--dry-run', '--sets']
    out = reproduce_paper(*args, 'amazon-baby', 'tiktok')
    assert out.returncode == 0, out.stderr
    for name in ('amazon-baby', 'tiktok'):
        assert out.stdout.count(f'\n{name:15} vbpr ') == 4
    assert out.stdout.count('84 runs, 0 finished') == 2


EXPERIMENTS = sorted((ROOT / 'examples' / 'experiments').glob('*.toml'))


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda path: path.stem)
def test_descriptions(path):
    """What the descriptions of experiments ask for exists, with as many trials for each."""
    tomllib = pytest.importorskip('tomllib')
    models = [model for model in tomllib.loads(path.read_text())['models'] if model in MODELS]
    experiment = load_experiment(path, models)
    assert len(experiment.cells) >= 4
    assert {len(cell.settings) for cell in experiment.cells} == {experiment.trials[0]}


def test_no_example_is_left_out():
    names = {path.name for path in (ROOT / 'examples').glob('*.py')}
    assert names == {*(e[0] for e in EXAMPLES), 'reproduce_paper.py'}
