"""Every example runs from beginning to end, at a small size."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch_geometric.typing

from mrdib_pyg.datasets import Planted, write_folder
from mrdib_pyg.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
SMALL = ['--epochs', '2', '--num_users', '100']
# The script, its arguments, and what it has to print.
EXAMPLES = [
    (
        'drop_in_layer.py',
        SMALL,
        r'Epoch: 02, task: .*unique: .*\nTest NDCG@10: 0\.\d{4}\n'
        r'scores: .*BROJA unique to image .*I\(content; Y \| id\)',
    ),
    (
        'attach_to_existing_model.py',
        SMALL,
        r"Test NDCG@10: 0\.\d{4}\nRuntimeError: target 'cold_start_proj' of modality 'text' was "
        r'not called inside capture\(model\)',
    ),
    (
        'measure_pid.py',
        ['--epochs', '1', '--num-bootstrap', '3'],
        r'--- plain\nMultimodalLightGCN: .*--- MRdIB\n.*BROJA synergistic .*'
        r'unique to text: \d\.\d{4} nats, 95 % in \[',
    ),
    (
        'explain_recommendation.py',
        ['--epochs', '1', '--user', '7', '--k', '2'],
        r'shared +[+-]\d\.\d{4}\n.*The model .* item \d+ for user 7 .*The model .*for user 7 ',
    ),
    (
        'cold_start.py',
        SMALL,
        r'100 users, \d+ known and \d+ new items\nnew items: recall@20 0\.\d{4}, .*\n'
        r'without image: .*\nhalf of the images: .*\nshuffled features: .*\n'
        r'new user 0: (new )?item \d+, ',
    ),
    (
        'inspect_data.py',
        ['--num_users', '100', '--num_items', '80'],
        r'1,200 interactions of 100 users .*\nunique   text .*\nImage alone says 0\.\d+ nats .*'
        r'text adds -?0\.0\d+ nats to image\namplitudes: image 0\.\d+, text ',
    ),
    (
        'new_items.py',
        SMALL,
        r'\d+ known and \d+ new items\nmodel: recall@20 0\.\d{4}, .*\nevidence: .*'
        r'  interactions: image .*evidence on LightGCN: .*user 2: new item \d+, ',
    ),
    (
        'quickstart.py',
        ['--epochs', '1', '--quiet'],
        r'best epoch 1: .*\nbest epoch 1: .*unique.*\nplain: recall@20 0\.\d{4}, .*\nMRdIB: .*\n'
        r'best items of user 0: \[\d+, \d+, \d+, \d+, \d+\]\n',
    ),
    (
        'own_model.py',
        [*SMALL, '--quiet'],
        r'plain: best epoch \d, ndcg@10 0\.\d{4} of __main__:GatedMF\n'
        r'MRdIB: best epoch \d, ndcg@10 0\.\d{4} of __main__:GatedMF\n',
    ),
    (
        'own_table.py',
        ['--epochs', '1', '--quiet'],
        r'1,200 rows of a data frame\n.* -225 with a rating below 2\n(.*\n)*photo: 72 items .*'
        r"\n.*\nndcg@10: 0\.\d+\nfor customer0@shop: \['SKU-\d+', 'SKU-\d+', 'SKU-\d+'\]\n",
    ),
    (
        'amazon_baby.py',
        ['--dry-run', '--category', 'sports'],
        r'ratings_Sports_and_Outdoors.csv: missing, from https://.*\nmeta_.*\nimage_features_.*\n',
    ),
    (
        'serve_and_query.py',
        SMALL,
        r'health: ok\n1\. article-\d+: .* \(image alone .*, text alone .*\)\n(.*\n)*'
        r'near article-\d+: '
        r"\['article-\d+', .*\n(without .*\n){2}404 there is no user 'nobody'\n",
    ),
]


@pytest.mark.parametrize('name, args, expected', EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_example(name, args, expected, tmp_path):
    if name == 'serve_and_query.py':
        pytest.importorskip('fastapi')
        pytest.importorskip('uvicorn')
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-W', 'error::UserWarning', str(ROOT / 'examples' / name), *args]
    out = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120
    )
    assert out.returncode == 0, out.stderr
    assert out.stderr == ''
    assert re.search(expected, out.stdout, re.DOTALL), out.stdout
    assert 'nan' not in out.stdout


def test_amazon_baby(tmp_path):
    """From raw files to recommendations."""
    sys.path.insert(0, str(ROOT / 'tests' / 'datasets'))
    raw_files = importlib.import_module('raw_files')
    raw_files.write_amazon(tmp_path / 'data')
    args = ['--root', 'data', '--text-encoder', 'hashing', '--epochs', '1', '--channels', '8']
    expected = (
        r'320 rows of ratings_Baby.csv\n(.*\n)*text: 30 items have it, 384 channels\n'
        r'plain: recall@20 0\.\d{4}, .*\nMRdIB: recall@20 .*\n'
        r"for A\d{12}X: \[('B\d{9}'(, )?){5}\]\n"
    )
    test_example('amazon_baby.py', [*args, '--quiet'], expected, tmp_path)


@pytest.fixture
def reproduce_paper(monkeypatch):
    path = ROOT / 'examples' / 'reproduce_paper.py'
    spec = importlib.util.spec_from_file_location('reproduce_paper', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*args):
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, args)])
        module.main()

    return call


@pytest.fixture
def baby(tmp_path):
    write_folder(Planted(num_users=40, num_items=50, num_interactions=10)[0], tmp_path / 'baby')
    small = ['--trials', '2', '1', '--seeds', '1', '--epochs', '1', '--models', 'vbpr']
    return ['--root', str(tmp_path), *small, '--out', str(tmp_path / 'out'), '--sets', 'baby']


def test_reproduce_paper(reproduce_paper, baby, tmp_path, capsys):
    reproduce_paper(*baby, '--dry-run')
    out, _ = capsys.readouterr()
    assert out.startswith('baby: 2 -> 1 -> 1 settings by recall@20')
    assert '16 runs, 0 finished' in out
    with pytest.raises(SystemExit) as e:
        reproduce_paper(*baby, 'sports')
    assert e.value.code == 2 and "'sports' is not in" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_reproduce_paper_runs(baby):
    command = [sys.executable, str(ROOT / 'examples' / 'reproduce_paper.py'), *baby]
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    out = subprocess.run(command, capture_output=True, text=True, env=env)
    assert out.returncode == 0, out.stderr
    assert '### vbpr' in out.stdout and '| Recall@5 |' in out.stdout


@pytest.mark.filterwarnings('ignore:.*no training interaction')
def test_reproduce_paper_plans_for_the_sets_at_hand(reproduce_paper, data_root, capsys):
    args = ['--root', data_root, '--modalities', 'image', '--dry-run', '--sets']
    reproduce_paper(*args, 'amazon-baby', 'tiktok')
    out, _ = capsys.readouterr()
    for name in ('amazon-baby', 'tiktok'):
        for model in ('vbpr', 'mmgcn', 'dualgnn', 'freedom', 'mgcn', 'soil'):
            assert out.count(f'\n{name:15} {model} ') == 4
    assert out.count('504 runs, 0 finished') == 2  # 24 variants of 12 + 4 + 5 runs


EXPERIMENTS = sorted((ROOT / 'examples' / 'experiments').glob('*.toml'))


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda path: path.stem)
def test_descriptions(path, monkeypatch):
    """What the descriptions of experiments ask for exists, with as many trials for each."""
    pytest.importorskip('tomllib')
    monkeypatch.syspath_prepend(ROOT / 'examples')  # where own-model.toml is to be called
    experiment = load_experiment(path)
    assert len(experiment.cells) >= 4
    assert {len(cell.settings) for cell in experiment.cells} == {experiment.trials[0]}


def test_hetero_neighbor_loader():
    """Runs with torch_sparse or pyg-lib, and says what to install without."""
    script = ROOT / 'examples' / 'hetero_neighbor_loader.py'
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    args = ['--epochs', '2', '--num_users', '100', '--batch_size', '256']
    command = [sys.executable, str(script), *args]
    out = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    if not (torch_geometric.typing.WITH_TORCH_SPARSE or torch_geometric.typing.WITH_PYG_LIB):
        assert out.returncode == 1 and out.stdout == ''
        assert out.stderr.startswith('LinkNeighborLoader needs torch-sparse or pyg-lib: pip inst')
        return
    assert out.returncode == 0, out.stderr
    found = re.search(r'Difference to the whole graph: (\S+)\n$', out.stdout)
    assert float(found[1]) < 1e-5
    assert re.search(r'Epoch: 02, Loss: \d\.\d{4}, NDCG@10: 0\.\d{4}\n', out.stdout), out.stdout
    out = subprocess.run(
        [*command, '--num_neighbors', '5', '3'], capture_output=True, text=True, env=env
    )
    assert out.returncode == 0 and 'Difference' not in out.stdout


def test_no_example_is_left_out():
    names = {path.name for path in (ROOT / 'examples').glob('*.py')}
    others = {'reproduce_paper.py', 'hetero_neighbor_loader.py'}
    assert names == {*(e[0] for e in EXAMPLES), *others}
