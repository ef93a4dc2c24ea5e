"""The short forms of the benchmarks of missing modalities and of new items and users."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks import schema
from benchmarks.part import RESULTS
from benchmarks.quality import cold_models, missing_modalities
from mrdib_pyg.datasets import Planted, load_dataset, write_folder

PAGE = RESULTS.parents[1] / 'docs' / 'MISSING.md'
MODELS = {'vbpr': {'epochs': 1}, 'freedom': {'epochs': 1}}
MISSING = {'modality': 'image', 'ratios': [0.0, 0.5], 'seeds': [1, 2], 'k': 5, 'models': MODELS}
COLD = {
    'ratio': 0.3,
    'user_ratio': 0.2,
    'seeds': [1],
    'k': 3,
    'models': MODELS,
    'user_models': ['vbpr'],
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('missing') / 'small'
    write_folder(Planted(num_users=50, num_items=40, num_interactions=10)[0], path)
    return str(path)


@pytest.fixture(scope='module')
def missing(folder):
    path = Path(folder).parent / 'missing.json'
    missing_modalities.run(folder, path, MISSING)
    return path


@pytest.fixture(scope='module')
def cold(folder):
    path = Path(folder).parent / 'cold.json'
    cold_models.run(folder, path, COLD)
    return path


def test_missing(missing):
    result = schema.load(missing)
    assert schema.validate(result) == 'missing' and result['complete']
    # Mean filling at 0 is plain, and runs once.
    assert len(result['runs']) == 2 * 2 * (2 * 4 - 1)
    for run in result['runs']:
        assert ('test_without' in run) == (run['ratio'] > 0)
    text = missing_modalities.report(result, None, None)
    found = missing_modalities.values(result, 'vbpr', 'plain', 0.5, 'recall@5')
    assert len(found) == 2
    cell = f'{statistics.mean(found):.4f} ± {statistics.stdev(found):.4f}'
    assert cell in text
    lines = [line.split(' | ')[2] for line in text.splitlines() if line.startswith('| `vbpr` |')]
    assert lines[0] == lines[1]


@pytest.mark.parametrize('name', ['missing', 'cold'])
def test_continues(name, folder, request, monkeypatch):
    path = request.getfixturevalue(name)
    module = {'missing': missing_modalities, 'cold': cold_models}[name]
    settings = {'missing': MISSING, 'cold': COLD}[name]
    whole = json.loads(path.read_text())
    part = path.with_name(f'{name}-part.json')
    part.write_text(json.dumps({**whole, 'complete': False, 'runs': whole['runs'][:-1]}))
    assert module.run(folder, part, settings)['runs'][-1] == whole['runs'][-1]  # the same bits
    for task in ('measure', 'measure_items', 'measure_users'):
        monkeypatch.setattr(module, task, None, raising=False)
    assert module.run(folder, part, settings) == json.loads(part.read_text())  # nothing to do
    with pytest.raises(SystemExit, match='was made with other data or settings'):
        module.run(folder, part, {**settings, 'k': 4})


def test_figure(missing, tmp_path):
    pytest.importorskip('matplotlib')
    paths = [tmp_path / name for name in ('a.svg', 'b.svg')]
    for path in paths:
        missing_modalities.figure(schema.load(missing), path)
    assert paths[0].read_bytes() == paths[1].read_bytes() and b'</svg>' in paths[0].read_bytes()


def test_cold(cold, folder):
    result = schema.load(cold)
    assert schema.validate(result) == 'cold' and result['complete']
    assert len(result['runs']) == 1 + 2 * 2 + 3
    num_items = int(load_dataset(folder)['item'].num_nodes)
    for run in result['runs']:
        assert run['num_candidates'] == (num_items if run['task'] == 'users' else 12)
    text = cold_models.report(result, None)
    assert '| popularity |  | none: all are equal | none: all are equal |' in text
    assert text.count('| content k-NN |') == 2 and text.count('| `freedom` | MRdIB |') == 1


def test_content_neighbors_of_a_worked_example():
    """A user's mean features, and the items by inner product with it."""
    import torch
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data['item'].x_image = torch.tensor([[0.0, 5.0], [2.0, 5.0]])  # the second column is constant
    data['cold_item'].x_image = torch.tensor([[3.0, 9.0], [1.0, 5.0]])
    known, new = cold_models.content(data, 'item', 'cold_item')
    assert known.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert new.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    edges = torch.tensor([[0, 0, 2], [0, 1, 1]])
    assert cold_models.mean_of_items(edges, known, 3).tolist() == [[0, 0], [0, 0], [1, 0]]


def test_page_shows_the_committed_results():
    page = PAGE.read_text(encoding='utf-8')
    for name, module in (('missing_modalities', missing_modalities), ('cold_models', cold_models)):
        result = schema.load(RESULTS / f'{name}.json')
        arguments = (None, None) if name == 'missing_modalities' else (None,)
        for text in module.report(result, *arguments).split('\n\n'):
            assert text in page, name
    assert (PAGE.parent / 'missing_modalities.png').is_file() and 'missing_modalities.png' in page
