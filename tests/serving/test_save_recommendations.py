import csv
import json

import pytest
import torch

from mrdib_pyg.datasets import IdMap
from mrdib_pyg.serving import export as module
from mrdib_pyg.serving import recommend, save_recommendations
from mrdib_pyg.serving.recommendations import Recommendations

BLOCKS = [
    Recommendations(
        torch.tensor([3, 0]),
        torch.tensor([[7, 2], [8, -1]]),
        torch.tensor([[0.5, 0.25], [-1.5, -torch.inf]]),
    ),
    Recommendations(torch.tensor([1]), torch.tensor([[-1, -1]]), torch.full((1, 2), -torch.inf)),
]


def test_csv(tmp_path, ids):
    path = tmp_path / 'recs.csv'
    save_recommendations(BLOCKS, path)
    assert path.read_text() == 'userID,rank,itemID,score\n3,1,7,0.5\n3,2,2,0.25\n0,1,8,-1.5\n'
    save_recommendations(BLOCKS, path, *ids)
    with open(path, encoding='utf-8', newline='') as file:
        rows = list(csv.reader(file))
    assert rows[1:] == [
        ['José, "J"', '1', '<b>7</b>', '0.5'], ['José, "J"', '2', 'i2', '0.25'],
        ['u0', '1', 'a b', '-1.5'],
    ]  # fmt: skip


@pytest.mark.parametrize('suffix', ['jsonl', 'ndjson', 'JSON'])
def test_json_lines(tmp_path, ids, suffix):
    path = tmp_path / f'recs.{suffix}'
    save_recommendations(BLOCKS, path, ids[0])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {'user': 'José, "J"', 'item': [7, 2], 'score': [0.5, 0.25]},
        {'user': 'u0', 'item': [8], 'score': [-1.5]},
        {'user': 'u1', 'item': [], 'score': []},
    ]


def test_parquet(tmp_path, ids):
    parquet = pytest.importorskip('pyarrow.parquet')
    path = tmp_path / 'recs.parquet'
    save_recommendations(BLOCKS, path, None, ids[1])
    table = parquet.read_table(path)
    assert table.to_pydict() == {
        'userID': [3, 3, 0], 'rank': [1, 2, 1], 'itemID': ['<b>7</b>', 'i2', 'a b'],
        'score': [0.5, 0.25, -1.5],
    }  # fmt: skip
    assert [str(field.type) for field in table.schema] == ['int64', 'int32', 'string', 'float']


def test_formats_agree(tmp_path, model):
    pytest.importorskip('pyarrow')
    pandas = pytest.importorskip('pandas')
    for name in ('a.csv', 'a.parquet', 'a.jsonl'):
        save_recommendations(recommend(model, k=4, batch_size=16), tmp_path / name)
    a, b = pandas.read_csv(tmp_path / 'a.csv'), pandas.read_parquet(tmp_path / 'a.parquet')
    lines = [json.loads(line) for line in (tmp_path / 'a.jsonl').read_text().splitlines()]
    assert len(a) == 160 and list(a) == list(b)
    for name in ('userID', 'rank', 'itemID'):
        assert a[name].tolist() == b[name].tolist()
    assert a['score'].tolist() == pytest.approx(b['score'].tolist(), rel=1e-5)
    assert b['itemID'].tolist() == [i for line in lines for i in line['item']]
    assert b['itemID'].tolist() == model.recommend(k=4)[1].view(-1).tolist()


@pytest.mark.parametrize('suffix', ['csv', 'jsonl', 'parquet'])
def test_a_failure_leaves_the_old_file(tmp_path, suffix):
    if suffix == 'parquet':
        pytest.importorskip('pyarrow')
    path = tmp_path / f'recs.{suffix}'

    def fails():
        yield BLOCKS[0]
        raise RuntimeError('stopped')

    for old in (None, b'old'):
        if old is not None:
            path.write_bytes(old)
        with pytest.raises(RuntimeError, match='stopped'):
            save_recommendations(fails(), path)
        assert [p.read_bytes() for p in tmp_path.iterdir()] == [old] * (old is not None)


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"ends in '.xlsx'; recommendations are written as .csv"):
        save_recommendations(BLOCKS, tmp_path / 'a.xlsx')
    with pytest.raises(ValueError, match="'format' must be csv, jsonl or parquet"):
        save_recommendations(BLOCKS, tmp_path / 'a', format='xml')
    with pytest.raises(ValueError, match='must be a file'):
        save_recommendations(BLOCKS, '/dev/null')

    def missing(name):
        raise ModuleNotFoundError(name, name=name.split('.')[0])

    monkeypatch.setattr(module.importlib, 'import_module', missing)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'mrdib_pyg\[serve\]'"):
        save_recommendations(BLOCKS, tmp_path / 'a.parquet')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['a\rb', 'a\nb', 'a\r\nb', '"', ',', ''])
def test_csv_of_odd_ids(tmp_path, name):
    block = Recommendations(torch.tensor([0]), torch.tensor([[1, 0]]), torch.ones(1, 2))
    save_recommendations([block], tmp_path / 'r.csv', IdMap(['u']), IdMap([name, 'plain']))
    with open(tmp_path / 'r.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.reader(file))
    assert rows[1:] == [['u', '1', 'plain', '1'], ['u', '2', name, '1']]
