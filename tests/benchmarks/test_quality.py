import json
import sys
from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData

from benchmarks import schema
from benchmarks.quality import (
    pid_time,
    pid_training,
    pid_truth,
    planted,
    popularity,
    short_runs,
    term_gradients,
)
from benchmarks.training.backbones import make_batches
from mrdib_pyg.datasets import Planted, write_folder
from mrdib_pyg.nn.models import VBPR, Triplets

RESULTS = Path(__file__).resolve().parents[2] / 'benchmarks' / 'results'


def test_readme_shows_the_committed_results():
    readme = (RESULTS.parents[1] / 'README.md').read_text()
    pages = [(RESULTS.parents[1] / 'docs' / name).read_text() for name in ('PID.md', 'RESULTS.md')]
    pid, results = pages
    of_pid = {'pid_truth': pid_truth, 'pid_training': pid_training, 'pid_time': pid_time}
    shown = 0
    for path in sorted(RESULTS.glob('*.json')):
        summary = schema.load(path)
        kind = schema.validate(summary)
        if kind in of_pid:
            assert of_pid[kind].table(summary) in pid
        elif kind in ('term_gradients', 'popularity'):
            module = {'term_gradients': term_gradients, 'popularity': popularity}[kind]
            assert module.table(summary) in results
        elif kind == 'short_runs':
            assert short_runs.graph_table(summary) in results
            assert short_runs.training_table(summary) in results
        elif kind == 'planted':  # the others are in pages of their own
            assert planted.table(summary) in readme
            shown += 1
    assert shown == 1


def test_committed_truth_is_within_the_gate():
    summary = schema.load(RESULTS / 'pid_truth.json')
    assert [case['case'] for case in summary['cases']] == list(pid_truth.CASES)
    for case in summary['cases']:
        assert {row['noise'] for row in case['trained']} == set(pid_truth.NOISES)
        for name, truth in case['truth'].items():
            assert pid_truth.is_within(case['estimator'][name][0], truth)


def test_truth_of_a_small_case():
    sizes = {'num_users': 60, 'num_items': 60, 'num_interactions': 10}
    found = pid_truth.check_case('v', 1, (1.0,), epochs=1, num_bootstrap=2, num_bins=8, **sizes)
    versions = {'torch': '1', 'numpy': '1', 'python': '3'}
    machine = {'system': 'a', 'processor': 'b', 'cores': 1, 'threads': 1, 'cuda': None}
    summary = {'benchmark': 'pid_truth', 'seed': 1, 'epochs': 1, 'cases': [found]}
    assert schema.validate({**summary, 'versions': versions, 'machine': machine}) == 'pid_truth'
    lines = pid_truth.table(summary).splitlines()
    assert len(lines) == 2 + 2 + 2 and lines[-1].startswith('|  | MRdIB, noise 1 |')


def test_gate():
    assert pid_truth.is_within(0.019, 0.0) and not pid_truth.is_within(0.021, 0.0)
    assert pid_truth.is_within(0.23, 0.2) and not pid_truth.is_within(0.232, 0.2)


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
    assert '| bottleneck only |' in pid_training.table(summary)


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
    with pytest.raises(SystemExit, match='other settings'):
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
    assert '| small | 0.6667 | 1.0000 |' in popularity.table(summary)


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
    assert list(of_small['graphs']) == list(short_runs.GRAPHS)
    assert [row['mrdib'] for row in of_small['trainings'].values()] == [False, True]
    assert all(0 < x['epoch_seconds'] < x['seconds'] for x in of_small['trainings'].values())
    out = capsys.readouterr().out
    assert '| small | InterestGraph | SOIL | ' in out and '| vbpr, MRdIB | ' in out
