"""Every script at its smallest size: it runs, and its file has the form and the rows."""

import importlib
import math

import pytest

from benchmarks import schema
from benchmarks.ops.propagation import ORDERED
from benchmarks.run import PARTS, Part
from benchmarks.schema import PRODUCTS
from mrdib_pyg.nn.models import MODELS


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """The results of every part, each run once."""
    out = tmp_path_factory.mktemp('results')
    values = {}
    for name, entry in PARTS.items():
        part = Part(name, out=out, smallest=True)
        importlib.import_module(entry.module).measure(part)
        part.write(complete=True)
        values[name] = schema.load(part.path)
    return out, values


@pytest.mark.parametrize('name', PARTS)
def test_smallest_run(name, results):
    value = results[1][name]
    assert schema.validate(value) == 'speed'
    assert value['benchmark'] == name and value['complete']
    assert any(row['role'] == 'ours' for row in value['rows'])
    for entry in value['missing']:  # nothing but what is not there
        words = ('not installed', 'not in mrdib_pyg')
        assert any(word in entry['why'] for word in words), entry


def _rows(value, **case):
    return {r['method']: r for r in value['rows'] if case.items() <= r['case'].items()}


def test_propagation_agrees_with_the_reference(results):
    rows = _rows(results[1]['propagation'], task='forward')
    assert {'propagate_mean', 'torch COO sparse.mm', 'EdgeIndex.matmul', 'PyG LGConv'} <= set(rows)
    for name in ORDERED:
        assert rows[name]['role'] == 'ours' and 'relative_error' in rows[name]['values']
    assert all(row['values']['relative_error'] < 1e-5 for row in rows.values())
    single = _rows(results[1]['propagation'], task='one product')
    assert all('roofline' in row for row in single.values()) and 'propagate' in single


def test_operators_agree_with_their_rivals(results):
    value = results[1]
    assert _rows(value['topk'], task='top-k')['masked_topk']['values']['equal_places'] == 1
    evaluation = _rows(value['topk'], task='evaluation')['evaluate']
    assert evaluation['values']['metric_error'] < 1e-6
    assert value['knn']['rows'][0]['values']['equal_neighbors'] == 1
    assert _rows(value['mutual_information'])['CLUB']['values']['error'] < 1e-5
    for row in value['pid_loss']['rows']:
        if row['role'] == 'ours' and 'values' in row:
            assert row['values'].get('error', 0) < 1e-5


def test_every_model_is_timed(results):
    for name in MODELS:
        rows = _rows(results[1]['mrdib_cost'], model=name)
        assert 'mrdib_pyg' in rows
        assert ('mrdib_pyg with MRdIB' in rows) == MODELS[name].multimodal
        assert ('MRdIB' in rows) == MODELS[name].multimodal  # its arithmetic alone
        for method in PRODUCTS.keys() & rows:
            alone = _rows(results[1]['mrdib_cost'], model=name, task=PRODUCTS[method])
            assert ('dense products' in alone) == MODELS[name].multimodal
            assert ('sums over edges' in alone) == (name != 'vbpr') and 'Adam' in alone
        epochs = _rows(results[1]['training'], model=name, task='epoch')
        assert 'mrdib_pyg' in epochs
    for name in ('vbpr', 'lightgcn'):
        rows = _rows(results[1]['training'], model=name, task='epoch')
        assert 'common implementation' in rows


def test_scaling_has_its_slopes(results):
    rows = [r for r in results[1]['scaling']['rows'] if r['case']['task'] == 'slope']
    assert rows and all(math.isfinite(row['values']['memory']) for row in rows)


def test_tables_and_plots_of_these_results(results):
    from benchmarks import tables

    made = tables.generate(results[0])
    for name in ('propagation', 'topk', 'steps', 'epochs', 'scaling', 'mrdib-cost', 'targets'):
        assert made[f'{name}-cpu'].count('\n') > 2, name
        assert made[f'{name}-cuda'] == tables.NOT_MEASURED
    pytest.importorskip('matplotlib')
    from benchmarks import plot

    names = {path.name for path in plot.write(results[0])}
    assert {'propagation-cpu.svg', 'training-cpu.svg', 'scaling-cpu.svg'} <= names
    first = (results[0] / 'scaling-cpu.svg').read_bytes()
    plot.write(results[0])
    assert (results[0] / 'scaling-cpu.svg').read_bytes() == first
