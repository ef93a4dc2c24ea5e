"""The short forms of the benchmarks of quality, and the tables of their results."""

import json
import statistics
import sys
from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData

from benchmarks import schema
from benchmarks.quality import (
    cold_models,
    missing_modalities,
    pid_training,
    pid_truth,
    planted,
    popularity,
    results,
    short_runs,
    term_gradients,
)
from benchmarks.schema import RESULTS
from benchmarks.training.backbones import make_batches
from mrdib_pyg.datasets import Planted, load_dataset, write_folder
from mrdib_pyg.experiment.summary import markdown
from mrdib_pyg.nn.models import VBPR, Triplets


@pytest.mark.parametrize('name', ['tiktok', 'ablation-vbpr'])
def test_committed_tables_are_those_of_the_summaries(name):
    """Pages are made of `table.md`, which `mrdib experiment --table` writes with the summary."""
    folder = RESULTS / 'experiments' / name
    assert (folder / 'table.md').read_text() == markdown(schema.load(folder / 'summary.json'))


def test_committed_truth_is_within_the_gate():
    summary = schema.load(RESULTS / 'pid_truth.json')
    assert [case['case'] for case in summary['cases']] == list(pid_truth.CASES)
    for case in summary['cases']:
        assert {row['noise'] for row in case['trained']} == set(pid_truth.NOISES)
        for name, truth in case['truth'].items():
            assert results.is_within(case['estimator'][name][0], truth)


def test_truth_of_a_small_case():
    sizes = {'num_users': 60, 'num_items': 60, 'num_interactions': 10}
    found = pid_truth.check_case('v', 1, (1.0,), epochs=1, num_bootstrap=2, num_bins=8, **sizes)
    versions = {'torch': '1', 'numpy': '1', 'python': '3'}
    machine = {'system': 'a', 'processor': 'b', 'cores': 1, 'threads': 1, 'cuda': None}
    summary = {'benchmark': 'pid_truth', 'seed': 1, 'epochs': 1, 'cases': [found]}
    assert schema.validate({**summary, 'versions': versions, 'machine': machine}) == 'pid_truth'
    lines = results.pid_truth(summary).splitlines()
    assert len(lines) == 2 + 2 + 2 and lines[-1].startswith('|  | MRdIB, noise 1 |')


@pytest.mark.parametrize('truth', [0.0, 0.2])
def test_gate(truth):
    most = {0.0: 0.02, 0.2: 0.03}[truth]
    assert results.is_within(truth + most - 1e-3, truth)
    assert not results.is_within(truth - most - 1e-3, truth)


def test_shared_information_tells_equal_from_independent_codes():
    torch.manual_seed(0)
    z, other = torch.randn(800, 3), torch.randn(800, 3)
    found = pid_training.shared_information(z, z + 0.5 * torch.randn(800, 3), steps=60)
    none = pid_training.shared_information(z, other, steps=60)
    assert set(found) == {'mine', 'nwj', 'infonce', 'club', 'gaussian'}
    for name, value in found.items():
        assert value > 0.3 and abs(none[name]) < 0.3, name


def test_training_is_measured_in_parts(tmp_path, monkeypatch, capsys):
    small = lambda seed: Planted(num_users=60, num_items=60, num_interactions=10, seed=seed)  # noqa: E731
    monkeypatch.setattr(pid_training, 'Planted', small)
    path = tmp_path / 'a' / 'x.json'
    argv = ['x', 'planted', '--epochs', '1', '--limit', '1', '--json', str(path)]
    monkeypatch.setattr(sys, 'argv', argv)
    for num_runs in (1, 2):
        pid_training.main()
        summary = schema.load(path)
        assert schema.validate(summary) == 'pid_training'
        assert [run['variant'] for run in summary['runs']['planted']] == [*pid_training.variants()][
            :num_runs
        ]
    assert '| bottleneck only |' in results.pid_training(summary)


@pytest.mark.slow
def test_mrdib_gains_on_planted_content():
    """At noise 3: two-layer encoders, a perceptron as fusion, no graph."""
    spec = planted.MODELS['content']
    variants = {name: spec['variants'][name] for name in ('plain', 'MRdIB')}
    summary = planted.measure([1, 2, 3, 4, 5], models={'content': {**spec, 'variants': variants}})
    mean = {
        name: sum(run['test']['ndcg@10'] for run in variant['runs']) / 5
        for name, variant in summary['models']['content']['variants'].items()
    }
    assert mean['MRdIB'] >= 1.4 * mean['plain']


def test_pulls_are_those_of_the_loss():
    data = Planted(num_users=60, num_items=60, num_interactions=10)[0]
    batch = Triplets(*make_batches(data, 1)[0])
    torch.manual_seed(0)
    model = VBPR(data, channels=4, mrdib={'redundancy': 'gaussian'}).train()
    found = []
    for factor in (1.0, 2.0):
        weights = {'bottleneck': 1e-2 * factor, 'redundant': 0.0, 'unique': 0.1 * factor}
        torch.manual_seed(1)  # the noise of the codes
        found.append(term_gradients.pulls(model, batch, weights))
    for name in ('bottleneck', 'unique'):
        assert found[0][name] > 0
        assert found[1][name] == pytest.approx(2 * found[0][name], rel=1e-5)
    assert found[0]['redundant'] == 0
    assert found[0]['own'] == pytest.approx(found[1]['own'], rel=1e-5) and found[0]['own'] > 0
    assert 0 < found[0]['rms of rows'] < found[0]['rms of codes']  # which have noise


def test_pulls_are_measured_model_by_model(tmp_path, monkeypatch, capsys):
    chosen = {
        'settings': {'channels': 4},
        'fit': {'epochs': 3, 'patience': 3, 'batch_size': 512, 'lr': 1e-3},
        'mrdib': {},
        'weights': {'bottleneck': 1e-3, 'redundant': 1e-3, 'unique': 1e-3},
    }
    plain = {'variants': {'plain': {'chosen': {**chosen, 'mrdib': None}}}}
    models = {'lightgcn': plain, 'vbpr': {'variants': {'mrdib': {'chosen': chosen}}}}
    path = tmp_path / 'experiments' / 'toy' / 'summary.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({'datasets': {'planted': {'models': models}}}))
    monkeypatch.setattr(term_gradients, 'RESULTS', tmp_path)
    out = tmp_path / 'x.json'
    argv = ['x', 'planted', '--experiment', 'toy', '--epochs', '1', '--json', str(out)]
    monkeypatch.setattr(sys, 'argv', [*argv, '--batches', '2'])
    term_gradients.main()
    summary = schema.load(out)
    assert schema.validate(summary) == 'term_gradients'
    assert list(summary['models']) == ['vbpr']
    assert '| vbpr |' in capsys.readouterr().out
    before = out.read_bytes()
    term_gradients.main()  # has it already
    assert out.read_bytes() == before
    monkeypatch.setattr(sys, 'argv', [*argv, '--batches', '3'])
    with pytest.raises(SystemExit, match=str(out.name)):
        term_gradients.main()


def test_popularity(tmp_path, monkeypatch):
    """Three users: the second and the third have not seen the item that all others like best."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = 3, 4
    data['user', 'rates', 'item'].edge_index = torch.tensor([[0, 0, 1, 2], [1, 2, 1, 3]])
    held_out = torch.tensor([[0, 1, 2], [3, 0, 1]])
    data['user', 'test', 'item'].edge_label_index = held_out
    # By popularity 1, 2, 3, 0: of the first user's 3 and 0 he has 3, of 2, 3, 0 the second has the
    # last, and of 1, 2, 0 the third the first.
    monkeypatch.setattr(popularity, 'K', (1, 3))
    found = popularity.measure(data)
    assert found['test']['recall@1'] == pytest.approx(2 / 3)
    assert found['test']['recall@3'] == 1.0
    assert found['share_of_test_edges'] == pytest.approx({'1': 1 / 3, '3': 2 / 3})
    path = tmp_path / 'popularity.json'
    monkeypatch.setattr(popularity, 'load_dataset', lambda name: data)
    monkeypatch.setattr(sys, 'argv', ['', 'data/small', '--json', str(path)])
    popularity.main()
    summary = schema.load(path)
    assert schema.validate(summary) == 'popularity'
    assert '| small | 0.6667 | 1.0000 |' in results.popularity(summary)


def test_short_runs(tmp_path, monkeypatch, capsys):
    folder, path = tmp_path / 'small', tmp_path / 'short_runs.json'
    write_folder(Planted(num_users=40, num_items=50, num_interactions=10)[0], folder)
    argv = ['', str(folder), '--models', 'lightgcn,vbpr', '--runs', '1', '--json', str(path)]
    monkeypatch.setattr(sys, 'argv', argv)
    # A graph in a process of its own is slow to start, and has a test of its own.
    monkeypatch.setattr(short_runs, 'in_process', lambda _, *args: short_runs.measure_graph(*args))
    short_runs.main()
    summary = schema.load(path)
    assert schema.validate(summary) == 'short_runs'
    of_small = summary['datasets']['small']
    assert list(of_small['graphs']) == list(results.GRAPHS)
    assert [row['mrdib'] for row in of_small['trainings'].values()] == [False, True]
    assert all(0 < x['epoch_seconds'] < x['seconds'] for x in of_small['trainings'].values())
    out = capsys.readouterr().out
    assert '| small | InterestGraph | SOIL | ' in out and '| vbpr, MRdIB | ' in out


# -- missing modalities, new items and users -------------------------------------------------------

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
    text = results.missing(result, 'recall')
    found = results.values_of(result, 'vbpr', 'plain', 0.5, 'recall@5')
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
    with pytest.raises(SystemExit, match=part.name):
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
    text = results.cold(result, 'items') + results.cold(result, 'users')
    assert '| popularity |  | none: all are equal | none: all are equal |' in text
    assert text.count('| content k-NN |') == 2 and text.count('| `freedom` | MRdIB |') == 1


def test_content_neighbors_of_a_worked_example():
    """A user's mean features, and the items by inner product with it."""
    data = HeteroData()
    data['item'].x_image = torch.tensor([[0.0, 5.0], [2.0, 5.0]])  # the second column is constant
    data['cold_item'].x_image = torch.tensor([[3.0, 9.0], [1.0, 5.0]])
    known, new = cold_models.content(data, 'item', 'cold_item')
    assert known.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert new.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    edges = torch.tensor([[0, 0, 2], [0, 1, 1]])
    assert cold_models.mean_of_items(edges, known, 3).tolist() == [[0, 0], [0, 0], [1, 0]]


# -- experiments -----------------------------------------------------------------------------------


def test_an_ablation_is_a_row_for_each_variant():
    def variant(*values):
        metrics = ('recall@5', 'ndcg@5', 'recall@20', 'ndcg@20')
        return {'test': {metric: list(values) for metric in metrics}}

    variants = {'plain': variant(0.1, 0.3), 'full': variant(0.4, 0.4), 'less': variant(0.2, 0.4)}
    summary = {'datasets': {'d': {'models': {'vbpr': {'variants': variants}}}}}
    lines = results.ablation(summary).splitlines()
    assert lines[2].startswith('| vbpr | plain | 0.2000 ± 0.1414 |')
    assert lines[2].endswith('| -50.0 % |') and lines[3].endswith('|  |')
    assert lines[4].endswith('| -25.0 % |')


def test_the_overview_has_a_row_for_each_model():
    def variant(*values):
        return {'test': {'recall@20': list(values), 'ndcg@20': list(values)}}

    gain = {'gain': 0.25, 'low': -0.125, 'high': 0.5}
    models = {
        'bm3': {
            'variants': {
                'mrdib': variant(0.4, 0.6),
                'l2': variant(0.1, 0.3),
                'plain': variant(0.1),
            },
            'gains': {'mrdib': {'recall@20': gain, 'ndcg@20': gain}},
        },
        'lightgcn': {'variants': {'plain': variant(0.2)}, 'gains': {}},
    }
    summary = {'datasets': {'d': {'data_hash': 'a', 'models': models}}}
    floors = {'d': {'data_hash': 'a', 'test': {'recall@20': 0.05}}}
    lines = results.overview(summary, floors).splitlines()
    assert lines[0].count('|') == lines[2].count('|') == lines[3].count('|') == 8
    assert lines[2].startswith('| bm3 | 0.1000 | 0.2000 ± 0.1414 |  | 0.5000 ± 0.1414 |')
    assert lines[2].endswith('| +25.0 [-12.5, +50.0] | +25.0 [-12.5, +50.0] |')
    assert lines[3] == '| lightgcn | 0.2000 |  |  |  |  |  |'
    assert lines[4] == '| (popularity) | 0.0500 |  |  |  |  |  |'
    floors['d']['data_hash'] = 'b'
    with pytest.raises(ValueError, match="'d'"):
        results.overview(summary, floors)
