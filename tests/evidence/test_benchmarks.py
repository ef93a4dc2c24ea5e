"""The short forms of the benchmarks of evidence: they run, continue, and say what they found."""

import json

import pytest
import torch

from benchmarks.quality import cold_items, evidence_cost, evidence_page, evidence_truth
from mrdib_pyg.datasets import Planted, load_dataset, write_folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('cold') / 'small'
    write_folder(Planted(num_users=80, num_items=120, num_interactions=15, noise=0.3)[0], path)
    return str(path)


def test_cold_items(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(cold_items.FIT, 'epochs', 2)
    monkeypatch.setattr(cold_items, 'K', 5)
    path = tmp_path / 'out' / 'cold.json'
    rows = cold_items.run(folder, path, [5], list(cold_items.RUNS))
    assert json.loads(path.read_text()) == rows
    methods = [row['method'] for row in rows]
    assert len(methods) == len(set(methods)) == 9 + 1 + 6 + 2 + 2 + 2
    assert sum('evidence' in method for method in methods) == 9
    for row in rows:
        assert row['seed'] == 5 and row['dataset'] == 'small'
        values = (row['recall@5'], row['ndcg@5'], row['val']['recall@5'], row['all']['ndcg@5'])
        assert all(0 <= value <= 1 for value in values)
    # A part of the runs is completed with the same numbers, and nothing is done twice.
    path.write_text(json.dumps([row for row in rows if row['run'] != 'L2']))
    again = cold_items.run(folder, path, [5], ['L2'])
    old, new = ([r for r in x if r['run'] == 'L2'] for x in (rows, again))
    assert [r['recall@5'] for r in old] == [r['recall@5'] for r in new]
    monkeypatch.setattr(cold_items, 'rows_of', None)
    assert cold_items.run(folder, path, [5], list(cold_items.RUNS)) == again
    text = cold_items.table(again)
    assert text.count('\n') == 1 + len(methods) and 'evidence, both: all' in text
    other = tmp_path / 'other'
    write_folder(Planted(num_users=40, num_items=60, num_interactions=10)[0], other)
    with pytest.raises(SystemExit, match='was made with other data'):
        cold_items.run(str(other), path, [5], ['content'])


def test_each_split_is_ranked_among_itself(folder):
    data = cold_items.split_items(load_dataset(folder), seed=1)
    cold, sizes = data['cold_item'], {}
    for split in ('val', 'test'):
        store = data[f'{split}_item']
        index = data['user', split, f'{split}_item'].edge_label_index
        sizes[split] = int(store.num_nodes)
        assert index[1].unique().numel() == sizes[split]
        before = data['user', split, 'cold_item'].edge_label_index
        assert torch.equal(store.x_image[index[1]], cold.x_image[before[1]])
        assert torch.equal(index[0], before[0])
    assert sum(sizes.values()) == int(cold.num_nodes) == int(data['all_item'].num_nodes)


def test_evidence_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_truth, 'NOISES', (0.2,))
    monkeypatch.setattr(evidence_truth, 'CASES', {'v': {'v': 1.0}, 'v+t': {'v': 1.0, 't': 1.0}})
    sizes = {'num_users': 200, 'num_items': 150}
    result = evidence_truth.run(tmp_path / 'truth.json', (0,), **sizes)
    assert [row['case'] for row in result['rows']] == ['v', 'v+t']
    planted = [[n for n, x in row['atoms'].items() if x['planted']] for row in result['rows']]
    assert planted == [['unique image'], ['unique image', 'unique text']]
    monkeypatch.setattr(evidence_truth, 'measure', None)
    assert evidence_truth.run(tmp_path / 'truth.json', (0,), **sizes) == result
    lines = evidence_truth.table(result).splitlines()
    assert lines[2].startswith('| `v` | 0.2 | **') and '1 of 1' in lines[2]


def test_evidence_cost():
    row = evidence_cost.measure(300)
    assert row['form'] == 'dual' and row['fit_cpu_seconds'] > 0 and row['peak_gib'] > 0


def test_the_page_shows_the_committed_results():
    page = evidence_page.PAGE.read_text(encoding='utf-8')
    for name, text in evidence_page.tables().items():
        start, end = f'<!-- table: {name} -->', f'<!-- end of table: {name} -->'
        assert f'{start}\n{text}\n{end}' in page, (
            f'{name}: run python -m benchmarks.quality.evidence_page'
        )
