"""Tables and targets of made-up results; and that pages are made without torch."""

import subprocess
import sys

import pytest

from benchmarks import schema, tables
from benchmarks.schema import (
    ADDED,
    ARITHMETIC,
    CAPTURED,
    COMMON,
    OPERATORS,
    OURS,
    OURS_COMPILED,
    OURS_MRDIB,
    OURS_TRAINED,
    TURNS,
)
from benchmarks.targets import NOT_MEASURED, judge, mrdib_costs
from benchmarks.timer import Timing

ROOT = tables.README.parents[1]


@pytest.mark.parametrize(
    'call', ['benchmarks.tables import generate', 'benchmarks.quality.results import pages']
)
def test_tables_are_made_without_torch_and_models(call):
    name = call.split()[-1]
    argument = {'generate': 'RESULTS', 'pages': ''}[name]
    code = (
        'import sys\n'
        'for name in ("torch", "torch_geometric", "mrdib_pyg"):\n'
        '    sys.modules[name] = None\n'
        f'from {call}\nfrom benchmarks.schema import RESULTS\nassert {name}({argument})\n'
    )
    subprocess.run([sys.executable, '-W', 'error', '-c', code], check=True, cwd=ROOT)


def test_tables_stand_between_their_marks(tmp_path):
    page = tmp_path / 'README.md'
    page.write_text('a\n<!-- table: toy -->\nold\n<!-- end of table: toy -->\nb\n')
    with pytest.raises(SystemExit, match=r"\['toy'\].*'python -m toy'"):
        tables.update(page, {'toy': 'new'}, 'python -m toy', check=True)
    assert 'old' in page.read_text()
    tables.update(page, {'toy': 'new'}, 'python -m toy')
    assert page.read_text() == 'a\n<!-- table: toy -->\nnew\n<!-- end of table: toy -->\nb\n'
    tables.update(page, {'toy': 'new'}, 'python -m toy', check=True)
    with pytest.raises(SystemExit, match='<!-- table: other -->'):
        tables.update(page, {'other': 'new'}, 'python -m toy')


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (2.0, '2 s'),
        (1234.5, '1234 s'),
        (0.0123, '12.3 ms'),
        (1.5e-6, '1.5 µs'),
        (0.9999, '1e+03 ms'),
    ],
)
def test_times_in_words(value, text):
    assert tables.seconds(value) == text


def test_mean_and_spread_of_values():
    assert tables.mean_sd([0.1, 0.3]) == '0.2000 ± 0.1414' and tables.mean_sd([0.1]) == '0.1000'


def timing(median, runs=3):
    return Timing('cpu', median, median, median, median, median, runs)


def add(part, times, baseline=COMMON, **case):
    """Rows of one case: the time of each method."""
    for method, seconds in times.items():
        role = 'baseline' if method == baseline else 'ours'
        part.add(case, method, role, time=timing(seconds))


def step(part, model, **times):
    names = {'plain': OURS, 'mrdib': OURS_MRDIB, 'common': COMMON}
    add(part, {names[key]: x for key, x in times.items()}, model=model, task='step')


def result_of(part):
    part.write(complete=True)
    return schema.load(part.path)


def targets_of(part, device='cpu'):
    """What is measured of each target, and whether it is met."""
    found = judge({f'{part.name}-{device}': result_of(part)}, device)
    return {target.what: (target.text, target.met) for _, target in found}


def test_one_line_a_case_with_ratios_and_the_fastest_in_bold(make_part):
    part = make_part()
    for n, ours in ((1, 0.001), (2, 0.004)):
        case = {'graph': 'toy', 'edges': n, 'channels': n, 'task': 'x'}
        part.add(case, 'base', 'baseline', time=timing(0.002))
        part.add(case, 'ours', 'ours', time=timing(ours, runs=1))
    part.miss({'graph': 'toy'}, 'other', 'not installed')
    rows = [
        ['toy, d = 1, x', '**1 ms** 0.50', '2 ms [2 ms, 2 ms]'],
        ['toy, d = 2, x', '4 ms 2.00', '**2 ms** [2 ms, 2 ms]'],
    ]
    expected = tables.make_table(['', 'ours', 'base'], rows)
    expected += '\n\nNot measured: other: not installed.'
    assert tables.pivot(result_of(part)) == tables.pivot(result_of(part), 'x') == expected
    assert tables.pivot(result_of(part), 'y') == tables.NOT_MEASURED


def test_costs_of_mrdib(make_part):
    part = make_part('mrdib_cost')
    step(part, 'vbpr', plain=0.010, mrdib=0.012, common=0.2)
    step(part, 'other', plain=0.010, mrdib=0.040)
    step(part, 'broken', plain=0.010)
    costs = mrdib_costs(result_of(part))
    assert list(costs) == ['vbpr', 'other']
    assert costs['vbpr']['added'] == pytest.approx(0.002)
    assert costs['vbpr']['share'] == pytest.approx(0.01)
    assert costs['other']['share'] is None
    add(part, {OURS: 0.011, OURS_MRDIB: 0.0145}, model='other', task=TURNS)
    # Steps that took turns say more of what is added.
    assert mrdib_costs(result_of(part))['other']['added'] == pytest.approx(0.0035)
    line = '| vbpr | 10 ms | 12 ms | 2.0 ms |  |  | 200 ms | 1.0 % |'
    assert line in tables.mrdib_cost(result_of(part))
    found = targets_of(part)
    assert found['MRdIB in a step, vbpr'] == ('2.0 ms', True)
    assert found['MRdIB in a step, vbpr, share of the common step'] == ('1.0 %', True)
    assert found['epoch, vbpr'] == (NOT_MEASURED, None)


def test_what_bounds_the_cost_of_mrdib(make_part):
    part = make_part('mrdib_cost')
    step(part, 'bm3', plain=0.050, mrdib=0.090, common=0.4)
    add(part, {OURS: 0.030, OURS_MRDIB: 0.055}, model='bm3', task=ADDED)
    add(part, {'MRdIB': 0.007}, model='bm3', task=ARITHMETIC)
    assert mrdib_costs(result_of(part))['bm3']['products'] == pytest.approx(0.025)
    found = targets_of(part)
    text = '40.0 ms (the products it adds alone 25.0 ms)'
    assert found['MRdIB in a step, bm3'] == (text, False)
    share = found['MRdIB in a step, bm3, share of the common step']
    assert share == ('10.0 % (products alone 6.2 %)', False)


def test_operators_that_mrdib_adds(make_part):
    part = make_part('mrdib_cost')
    assert tables.mrdib_operators(result_of(part)) == tables.NOT_MEASURED
    for kind, ms, calls in (('dense products', 8.25, 42.0), ('between operators', 4.0, 0.0)):
        case = {'model': 'mgcn', 'task': OPERATORS}
        part.add(case, kind, 'ours', values={'ms': ms, 'calls': calls})
    lines = tables.mrdib_operators(result_of(part)).splitlines()
    assert lines[0] == '|  | dense products | between operators |'
    assert lines[2] == '| mgcn | 8.2 ms in 42 | 4.0 ms |'


def test_epochs_are_compared_like_with_like(make_part):
    part = make_part('training')
    add(part, {OURS: 1.0, OURS_TRAINED: 5.0, COMMON: 10.0}, model='freedom', task='epoch', edges=1)
    for model, seconds in (('vbpr', 1.0), ('bm3', 2.5)):
        add(part, {OURS: seconds, COMMON: 5.0}, model=model, task='evaluation')
    found = targets_of(part)
    assert found['epoch, freedom'] == ('2.0 x', False)
    assert found['epoch, freedom, features frozen'] == ('10.0 x', True)
    assert found['evaluation'] == ('2.0 to 5.0 x', False)


def test_propagation_is_judged_by_its_worst_graph_of_the_width(make_part):
    part = make_part('propagation')
    for channels, ours in ((16, 0.9), (64, 0.1)):
        case = {'channels': channels, 'dtype': 'float32', 'task': 'forward+backward'}
        add(part, {'propagate_mean': ours, 'COO': 1.0}, 'COO', **case)
    what = 'propagation, forward+backward, d = 64, float32'
    assert targets_of(part)[what] == ('0.10 to 0.10', True)
    add(part, {'propagate_mean': 0.3, 'COO': 1.0}, 'COO', **case, graph='other')
    assert targets_of(part)[what] == ('0.10 to 0.30', False)


def test_slopes(make_part):
    part = make_part('scaling')
    case = {'work': 'propagation', 'task': 'slope', 'from': 100_000, 'to': 100_000_000}
    values = {'memory': 1.06, 'time of build': 1.06}
    values |= {'time of forward+backward': 1.2, 'time of gathers alone': 1.19}
    part.add(case, 'mrdib_pyg', 'ours', values=values)
    found = targets_of(part)
    assert found['slope of memory, propagation, 1e5 to 1e8 edges'] == ('1.060', False)
    assert found['slope of time of build, propagation, 1e7 to 1e8 edges'] == ('1.060', True)
    what = 'slope of time of forward+backward, propagation, 1e7 to 1e8 edges'
    # What the memory takes for the same rows is told, and judges nothing.
    assert found[what] == ('1.200 (of reading the same rows alone 1.190)', False)
    assert not any('gathers alone' in what for what in found)


def test_memory_that_must_not_grow(make_part):
    part = make_part('recommend')
    for users, peak in ((2_000, 1_000_000), (200_000, 1_000_000 + 40 * 198_000)):
        memory = {'peak_bytes': peak, 'before_bytes': 0, 'how': 'peak RSS of a process'}
        part.add({'users': users, 'task': 'csv'}, 'recommend', 'ours', memory=memory)
    what = 'recommendations, memory for a further user'
    assert targets_of(part)[what] == ('40 bytes', False)
    part = make_part('amazon')
    for gib, peak in ((1.0, 2**29), (3.0, 2**29 + 2**25)):
        memory = {'peak_bytes': peak, 'before_bytes': 0, 'how': 'peak RSS of a process'}
        case, values = {'items': int(gib), 'task': 'prepare'}, {'raw_gib': gib}
        part.add(case, 'prepare_amazon', 'ours', memory=memory, values=values)
    what = 'raw files of Amazon, memory for items that are left out'
    assert targets_of(part)[what] == ('1.6 %', True)


def test_tables_that_are_prepared(make_part):
    part = make_part('ingest')
    memory = {'peak_bytes': 5 * 2**30, 'before_bytes': 0, 'how': 'peak RSS of a process'}
    case = {'rows': 10_000_000, 'task': 'prepare'}
    part.add(case, 'pandas', 'baseline', time=timing(10.0), memory=memory)
    part.add(case, 'prepare_table', 'ours', time=timing(59.0), memory=memory)
    found = targets_of(part)
    what = 'a table of 10 million rows into a folder'
    assert (found[what], found[f'{what}, memory']) == (('59.0 s', True), ('5.00 GiB', False))


# -- CUDA -----------------------------------------------------------------------------------------


def judged(part, task, times, **case):
    """The targets on CUDA of one case: by method the role and the time."""
    case = {'task': task, **case}
    rows = [
        {'case': case, 'method': method, 'role': role, 'time': {'median': seconds}}
        for method, (role, seconds) in times.items()
    ]
    found = judge({f'{part}-cuda': {'device': 'cuda', 'rows': rows}}, 'cuda')
    return {target.what: target[2:] for name, target in found if name == part}


def test_captured_calls_are_compared_with_captured_ones():
    times = {
        'gathered rows': ('baseline', 8.0), 'pid_loss': ('ours', 4.0),
        f'gathered rows{CAPTURED}': ('rival', 6.0), f'pid_loss{CAPTURED}': ('ours', 1.0),
    }  # fmt: skip
    found = judged('pid_loss', 'all edges, forward+backward', times)
    name = 'PID loss over all edges'
    assert found[f'{name}, against gathers'] == ('2.00 to 2.00 x, 0 of 1 rows', False)
    graphs = found[f'{name}, as CUDA graphs, against gathers']
    assert graphs == ('6.00 to 6.00 x, 1 of 1 rows', True)


def test_propagation_is_judged_by_the_fastest_other():
    times = {
        'torch COO sparse.mm': ('baseline', 9.0), 'EdgeIndex.matmul': ('rival', 2.0),
        'propagate_mean': ('ours', 3.0), 'propagate_mean, square': ('ours', 1.0),
        f'propagate_mean{CAPTURED}': ('ours', 0.5),
    }  # fmt: skip
    found = judged('propagation', 'forward+backward', times, dtype='float32', channels=64)
    assert list(found.values()) == [('1.50 to 1.50', False), (NOT_MEASURED, None)]


def test_steps_are_compared_as_cuda_graphs():
    times = {COMMON: ('baseline', 6.0), OURS: ('ours', 8.0), OURS_COMPILED: ('ours', 2.0)}
    found = judged('mrdib_cost', 'step', times, model='vbpr')
    assert list(found.values()) == [('3.0 x (launched one by one 0.8 x)', True)]
