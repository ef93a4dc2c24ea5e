import pytest

from benchmarks import tables, targets
from benchmarks.markdown import make_table
from benchmarks.part import RESULTS
from benchmarks.timer import Timing
from benchmarks.training.mrdib_cost import ADDED, ARITHMETIC, OPERATORS, TURNS


def timing(median, runs=3):
    return Timing('cpu', median, median, median, median, median, runs)


def step(part, model, **times):
    names = {'plain': targets.OURS, 'mrdib': targets.OURS_MRDIB, 'common': targets.COMMON_NAME}
    roles = {'plain': 'ours', 'mrdib': 'ours', 'common': 'baseline'}
    for key, value in times.items():
        part.add({'model': model, 'task': 'step'}, names[key], roles[key], time=timing(value))


def result_of(part):
    part.write(complete=True)
    return tables.schema.load(part.path)


def test_readme_shows_the_committed_results():
    readme = tables.README.read_text()
    for name, text in tables.generate(RESULTS).items():
        start, end = f'<!-- table: {name} -->', f'<!-- end of table: {name} -->'
        assert f'{start}\n{text}\n{end}' in readme, f'{name}: run python -m benchmarks.tables'


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
    assert tables.seconds(value) in (text, '1000 ms')


def test_one_line_a_case_with_ratios_and_the_fastest_in_bold(make_part):
    part = make_part()
    for n, ours in ((1, 0.001), (2, 0.004)):
        case = {'graph': 'toy', 'edges': n, 'channels': n, 'task': 'x'}
        part.add(case, 'base', 'baseline', time=timing(0.002))
        part.add(case, 'ours', 'ours', time=timing(ours, runs=1))
    part.miss({'graph': 'toy'}, 'other', 'not installed')
    text = tables.pivot(result_of(part))
    assert text == (
        make_table(
            ['', 'ours', 'base'],
            [
                ['toy, d = 1, x', '**1 ms** 0.50', '2 ms [2 ms, 2 ms]'],
                ['toy, d = 2, x', '4 ms 2.00', '**2 ms** [2 ms, 2 ms]'],
            ],
        )
        + '\n\nNot measured: other: not installed.'
    )


def test_costs_of_mrdib(make_part):
    part = make_part('mrdib_cost')
    step(part, 'vbpr', plain=0.010, mrdib=0.012, common=0.2)
    step(part, 'other', plain=0.010, mrdib=0.040)
    step(part, 'broken', plain=0.010)
    costs = targets.mrdib_costs(result_of(part))
    assert list(costs) == ['vbpr', 'other']
    assert costs['vbpr']['added'] == pytest.approx(0.002)
    assert costs['vbpr']['share'] == pytest.approx(0.01)
    assert costs['other']['share'] is None
    for method, seconds in ((targets.OURS, 0.011), (targets.OURS_MRDIB, 0.0145)):
        part.add({'model': 'other', 'task': TURNS}, method, 'ours', time=timing(seconds))
    # Steps that took turns say more of what is added.
    assert targets.mrdib_costs(result_of(part))['other']['added'] == pytest.approx(0.0035)
    assert '| vbpr | 10 ms | 12 ms | 2.0 ms |  |  | 200 ms | 1.0 % |' in tables.mrdib_cost(
        result_of(part)
    )


def test_what_bounds_the_cost_of_mrdib(make_part):
    part = make_part('mrdib_cost')
    step(part, 'bm3', plain=0.050, mrdib=0.090, common=0.4)
    case = {'model': 'bm3', 'task': ADDED}
    for method, seconds in ((targets.OURS, 0.030), (targets.OURS_MRDIB, 0.055)):
        part.add(case, method, 'ours', time=timing(seconds))
    case = {'model': 'bm3', 'task': ARITHMETIC}
    part.add(case, 'MRdIB', 'ours', time=timing(0.007))
    result = result_of(part)
    assert targets.mrdib_costs(result)['bm3']['products'] == pytest.approx(0.025)
    texts = {what: text for what, _, text, _ in targets.rows({'mrdib_cost-cpu': result}, 'cpu')}
    assert texts['MRdIB in a step, bm3'] == '40.0 ms (the products it adds alone 25.0 ms)'
    share = texts['MRdIB in a step, bm3, share of the common step']
    assert share == '10.0 % (products alone 6.2 %)'


def test_operators_that_mrdib_adds(make_part):
    part = make_part('mrdib_cost')
    assert tables.mrdib_operators(result_of(part)) == tables.NOT_MEASURED
    for kind, ms, calls in (('dense products', 8.25, 42.0), ('between operators', 4.0, 0.0)):
        case = {'model': 'mgcn', 'task': OPERATORS}
        part.add(case, kind, 'ours', values={'ms': ms, 'calls': calls})
    lines = tables.mrdib_operators(result_of(part)).splitlines()
    assert lines[0] == '|  | dense products | between operators |'
    assert lines[2] == '| mgcn | 8.2 ms in 42 | 4.0 ms |'


def test_targets_are_judged_both_ways(make_part):
    part = make_part('mrdib_cost')
    step(part, 'vbpr', plain=0.010, mrdib=0.012, common=0.2)
    step(part, 'mgcn', plain=0.010, mrdib=0.040, common=0.2)
    found = {
        what: met for what, _, _, met in targets.rows({'mrdib_cost-cpu': result_of(part)}, 'cpu')
    }
    assert found['MRdIB in a step, vbpr'] is True
    assert found['MRdIB in a step, mgcn'] is False
    assert found['MRdIB in a step, vbpr, share of the common step'] is True
    assert found['MRdIB in a step, mgcn, share of the common step'] is False
    assert found['epoch, vbpr'] is None  # not measured


def test_targets_of_epochs_compare_like_with_like(make_part):
    part = make_part('training')
    case = {'model': 'freedom', 'task': 'epoch'}
    for method, seconds in (
        (targets.OURS, 1.0),
        (targets.OURS_TRAINED, 5.0),
        (targets.COMMON_NAME, 10.0),
    ):
        part.add(case, method, 'rival', time=timing(seconds))
    rows = targets.rows({'training-cpu': result_of(part)}, 'cpu')
    found = {what: (text, met) for what, _, text, met in rows}
    assert found['epoch, freedom'] == ('2.0 x', False)
    assert found['epoch, freedom, features frozen'] == ('10.0 x', True)


def test_target_of_propagation(make_part):
    part = make_part('propagation')
    for channels in (16, 64):
        case = {'channels': channels, 'dtype': 'float32', 'task': 'forward+backward'}
        part.add(case, 'propagate_mean', 'ours', time=timing(0.1 if channels == 64 else 0.9))
        part.add(case, 'torch COO sparse.mm', 'baseline', time=timing(1.0))
    rows = targets.rows({'propagation-cpu': result_of(part)}, 'cpu')
    found = {what: (text, met) for what, _, text, met in rows}
    what = 'propagation, forward+backward, d = 64, float32'
    assert found[what] == ('0.10 to 0.10', True)


def test_target_of_slopes(make_part):
    part = make_part('scaling')
    case = {'work': 'propagation', 'task': 'slope', 'from': 100_000, 'to': 100_000_000}
    values = {'memory': 1.06, 'time of build': 1.06}
    values |= {'time of forward+backward': 1.2, 'time of gathers alone': 1.19}
    part.add(case, 'mrdib_pyg', 'ours', values=values)
    rows = targets.rows({'scaling-cpu': result_of(part)}, 'cpu')
    found = {what: (text, met) for what, _, text, met in rows}
    assert found['slope of memory, propagation, 1e5 to 1e8 edges'] == ('1.060', False)
    assert found['slope of time of build, propagation, 1e7 to 1e8 edges'] == ('1.060', True)
    what = 'slope of time of forward+backward, propagation, 1e7 to 1e8 edges'
    # What the memory takes for the same rows is told, and judges nothing.
    assert found[what] == ('1.200 (of reading the same rows alone 1.190)', False)
    assert not any('gathers alone' in what for what in found)


def test_targets_of_memory_that_must_not_grow(make_part):
    recommend, amazon = make_part('recommend'), make_part('amazon')
    for users, peak in ((2_000, 1_000_000), (200_000, 1_000_000 + 40 * 198_000)):
        memory = {'peak_bytes': peak, 'before_bytes': 0, 'how': 'peak RSS of a process'}
        recommend.add({'users': users, 'task': 'csv'}, 'recommend', 'ours', memory=memory)
    for gib, peak in ((1.0, 2**29), (3.0, 2**29 + 2**25)):
        memory = {'peak_bytes': peak, 'before_bytes': 0, 'how': 'peak RSS of a process'}
        values = {'raw_gib': gib}
        case = {'items': int(gib), 'task': 'prepare'}
        amazon.add(case, 'prepare_amazon', 'ours', memory=memory, values=values)
    results = {'recommend-cpu': result_of(recommend), 'amazon-cpu': result_of(amazon)}
    found = {what: (text, met) for what, _, text, met in targets.rows(results, 'cpu')}
    assert found['recommendations, memory for a further user'] == ('40 bytes', False)
    assert found['raw files of Amazon, memory for items that are left out'] == ('1.6 %', True)
