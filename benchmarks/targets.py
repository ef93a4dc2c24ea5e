r"""The targets of this suite, and what the result files say of each."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.schema import (
    ADDED,
    ARITHMETIC,
    CAPTURED,
    COMMON,
    COMMON_FROZEN,
    FROM_TIME,
    GATHERS,
    OURS,
    OURS_COMPILED,
    OURS_MRDIB,
    OURS_MRDIB_COMPILED,
    OURS_TRAINED,
    PER_EDGE,
    PRODUCTS,
    TURNS,
)

Row = dict[str, Any]
Result = dict[str, Any]
#: The result of a part, if it was measured.
Get = Callable[[str], Result | None]
NOT_MEASURED = 'not measured'
#: How many times faster an epoch is to be than that of the common implementation. The second
#: number, where there is one, is for frozen features against trained ones.
EPOCH = {
    'lightgcn': (5.0, None),
    'vbpr': (3.0, None),
    'freedom': (2.5, 6.0),
    'bm3': (3.0, None),
    'mgcn': (3.0, 6.0),
    'mmgcn': (20.0, None),
}
EVALUATION = 4.0
MRDIB_MS, MRDIB_PERCENT = 15.0, 2.5
PROPAGATION = 0.20
#: The codes of these measurements are 64 wide: one tensor [E, d] is as many numbers an edge.
PID_SPEED, PID_SHARE, PID_NUMBERS = 4.0, 0.7, 64.0
SLOPE_MEMORY, SLOPE_TIME = 0.05, 0.1
#: Bytes for each further user of recommendations, which are its id and its place, and the share of
#: the raw bytes of items that are left out: their ratings pass through memory, for the k-core.
RECOMMEND_BYTES, AMAZON_PERCENT = 32, 5.0
INGEST_ROWS, INGEST_SECONDS, INGEST_GIB = 10_000_000, 60.0, 4.0


class Target(NamedTuple):
    r"""What is asked, by which bound, what was measured and whether it is met; :obj:`None` where
    it was not measured, or is not judged.
    """

    what: str
    bound: str
    text: str = NOT_MEASURED
    met: bool | None = None


# -- reading results ------------------------------------------------------------------------------


def rows_of(result: Result | None, **case: Any) -> list[Row]:
    r"""The rows whose case holds these entries; none of a part that was not measured."""
    rows = [] if result is None else result['rows']
    return [row for row in rows if case.items() <= row['case'].items()]


def medians(result: Result | None, value: str = 'median', **case: Any) -> dict[str, float]:
    r"""The median time, or another value of the times, by method."""
    rows = rows_of(result, **case)
    return {row['method']: row['time'][value] for row in rows if 'time' in row}


def cases(result: Result | None, **case: Any) -> list[dict[str, Row]]:
    r"""The rows with a time, by case and method."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows_of(result, **case):
        if 'time' in row:
            found.setdefault(json.dumps(row['case']), {})[row['method']] = row
    return list(found.values())


def extra_bytes(row: Row) -> int:
    r"""The peak memory above what there was before."""
    return row['memory']['peak_bytes'] - row['memory']['before_bytes']


def step_products(result: Result | None, model: str, method: str = OURS) -> dict[str, float]:
    r"""The median times of the products of a step alone, by their kind."""
    return medians(result, model=model, task=PRODUCTS[method])


def mrdib_costs(result: Result | None) -> dict[str, dict[str, Any]]:
    r"""By model the step without and with MRdIB, the difference, its share of the step of the
    common implementation, the arithmetic of MRdIB alone, and the products that it adds to the step.
    """
    out: dict[str, dict[str, Any]] = {}
    for model in dict.fromkeys(row['case'].get('model') for row in rows_of(result)):
        # In turns, where there are such rows: the difference of two short readings says little.
        times = medians(result, model=model, task='step')
        times |= medians(result, model=model, task=TURNS)
        # Long steps differ by chance, too: what minimum, quartile and median agree upon.
        each = [medians(result, x, model=model, task=ADDED) for x in ('min', 'q1', 'median')]
        products = [x[OURS_MRDIB] - x[OURS] for x in each if len(x) == 2]
        for end, plain, full in (
            ('', OURS, OURS_MRDIB),
            (CAPTURED, OURS_COMPILED, OURS_MRDIB_COMPILED),
        ):
            if plain not in times or full not in times:
                continue
            added, common = times[full] - times[plain], times.get(COMMON)
            out[f'{model}{end}'] = {
                'plain': times[plain],
                'with': times[full],
                'added': added,
                'common': common,
                'share': None if common is None else added / common,
                'alone': medians(result, model=model, task=ARITHMETIC).get('MRdIB'),
                'products': min(products, default=None),
            }
    return out


def _all(
    what: str, bound: str, values: Sequence[float], test: Callable[[float], bool] | None, form: str
) -> Target:
    # The span of some values: met if each of them passes; without a test it is not judged.
    if len(values) == 0:
        return Target(what, bound)
    text = form.format(min(values), max(values))
    return Target(what, bound, text, None if test is None else all(map(test, values)))


def _at_most(what: str, limit: float, unit: str, value: float | None, form: str) -> Target:
    if value is None:
        return Target(what, f'<= {limit:g} {unit}')
    return Target(what, f'<= {limit:g} {unit}', form.format(value), value <= limit)


# -- the targets by part --------------------------------------------------------------------------


def _training(get: Get) -> Iterator[Target]:
    training, cost = get('training'), get('mrdib_cost')
    for model, (trained, frozen) in EPOCH.items():
        times = medians(training, model=model, task='epoch')
        asked = [(f'epoch, {model}', OURS if frozen is None else OURS_TRAINED, trained)]
        if frozen is not None:
            asked.append((f'epoch, {model}, features frozen', OURS, frozen))
        for what, method, bound in asked:
            target = Target(what, f'>= {bound:g} x')
            if COMMON in times and method in times:
                speed, note = times[COMMON] / times[method], ''
                if model == 'bm3' and COMMON_FROZEN in times:  # ours has frozen features only
                    fair = times[COMMON_FROZEN] / times[method]
                    note = f' ({fair:.1f} x against frozen features)'
                note += _allowed(training, cost, model, method)
                target = target._replace(text=f'{speed:.1f} x{note}', met=speed >= bound)
            yield target
    for task, what in (
        ('evaluation', 'evaluation'),
        # Test edges are ranked where validation improved only: the share of epochs is the data's.
        ('evaluation after an epoch', 'evaluation of an epoch that did not improve'),
    ):
        found = [medians(training, model=model, task=task) for model in EPOCH]
        speeds = [x[COMMON] / x[OURS] for x in found if {COMMON, OURS} <= x.keys()]
        passes, form = EVALUATION.__le__, '{:.1f} to {:.1f} x'
        yield _all(what, f'>= {EVALUATION:g} x', speeds, passes, form)


def _allowed(training: Result | None, cost: Result | None, model: str, method: str) -> str:
    # An epoch of the common implementation over what is left of ours if all else took no time.
    alone = sum(step_products(cost, model, method).values())
    for row in rows_of(training, model=model, task='epoch'):
        if row['method'] == COMMON and alone > 0 and training is not None:
            num_steps = math.ceil(row['case']['edges'] / training['settings']['batch_size'])
            most = row['time']['median'] / (num_steps * alone)
            return f' (what its products, sums and Adam alone allow: {most:.1f} x)'
    return ''


def _mrdib_cost(get: Get) -> Iterator[Target]:
    costs = mrdib_costs(get('mrdib_cost'))
    for model in EPOCH:
        if model != 'lightgcn' and model not in costs:
            yield _at_most(f'MRdIB in a step, {model}', MRDIB_MS, 'ms', None, '')
    for model, entry in costs.items():
        what = f'MRdIB in a step, {model}'
        # Both are below what MRdIB has to cost.
        least = max((x for x in (entry['alone'], entry['products']) if x is not None), default=None)
        note = '' if least is None else f' (the products it adds alone {1e3 * least:.1f} ms)'
        yield _at_most(what, MRDIB_MS, 'ms', 1e3 * entry['added'], '{:.1f} ms' + note)
        if entry['share'] is not None:
            note = ''
            if least is not None:
                note = f' (products alone {100 * least / entry["common"]:.1f} %)'
            what, share = f'{what}, share of the common step', 100 * entry['share']
            yield _at_most(what, MRDIB_PERCENT, '%', share, '{:.1f} %' + note)


def _steps(get: Get) -> Iterator[Target]:
    # On CUDA, a step as a CUDA graph against the common implementation's, for each model.
    for rows in cases(get('mrdib_cost')):
        if {COMMON, OURS_COMPILED} <= rows.keys():
            times = {method: row['time']['median'] for method, row in rows.items()}
            speeds = [times[COMMON] / times[method] for method in (OURS_COMPILED, OURS)]
            text = f'{speeds[0]:.1f} x (launched one by one {speeds[1]:.1f} x)'
            what = f'a step as a CUDA graph, {rows[COMMON]["case"]["model"]}'
            yield Target(what, 'faster', text, speeds[0] > 1)


def _ratios(result: Result | None, task: str, end: str, roles: Sequence[str]) -> list[float]:
    # Of propagation, to the fastest of some others.
    out = []
    for rows in cases(result, dtype='float32', channels=64, task=task):
        ours = rows.get(f'propagate_mean{end}')
        others = [
            row['time']['median']
            for method, row in rows.items()
            if row['role'] in roles and method.endswith(CAPTURED) == bool(end)
        ]
        if ours is not None and others and any(r['role'] == 'baseline' for r in rows.values()):
            out.append(ours['time']['median'] / min(others))
    return out


def _propagation(get: Get) -> Iterator[Target]:
    ratios = _ratios(get('propagation'), 'forward+backward', '', ('baseline',))
    what, bound = 'propagation, forward+backward, d = 64, float32', f'<= {PROPAGATION:g} of COO'
    yield _all(what, bound, ratios, PROPAGATION.__ge__, '{:.2f} to {:.2f}')


def _peers(get: Get) -> Iterator[Target]:
    # On CUDA, propagation against the fastest of all others.
    for end, task in (('', 'forward+backward'), (CAPTURED, 'forward')):
        ratios = _ratios(get('propagation'), task, end, ('baseline', 'rival'))
        what = f'propagation, {task}, d = 64, float32{", as CUDA graphs" if end else ""}'
        yield _all(what, '< 1 of the fastest other', ratios, (1.0).__gt__, '{:.2f} to {:.2f}')


def _pid_loss(get: Get) -> Iterator[Target]:
    result = get('pid_loss')
    # The speed is asked of CUDA; on CPU it is shown without a verdict.
    judged = result is not None and result['device'] == 'cuda'
    for end in ('', CAPTURED) if judged else ('',):
        speeds, shares = [], []
        for rows in cases(result, task='all edges, forward+backward'):
            gathered = rows.get(f'gathered rows{end}')
            for method, row in rows.items():
                if row['role'] != 'ours' or method.endswith(CAPTURED) != bool(end):
                    continue
                if gathered is not None:
                    speeds.append(gathered['time']['median'] / row['time']['median'])
                if 'roofline' in row:
                    shares.append(row['roofline']['requested_share'])
        name = 'PID loss over all edges' + (', as CUDA graphs' if end else '')
        for what, bound, values, least, unit in (
            ('against gathers', '>= 4 x on CUDA', speeds, PID_SPEED, ' x'),
            ('requested bytes over copy bandwidth', '>= 70 % on CUDA', shares, PID_SHARE, ''),
        ):
            form, passes = '{:.2f} to {:.2f}' + unit, least.__le__ if judged else None
            if judged:
                form += f', {sum(map(least.__le__, values))} of {len(values)} rows'
            yield _all(f'{name}, {what}', bound, values, passes, form)
    ours = [row.get('values', {}) for row in rows_of(result) if row['role'] == 'ours']
    numbers = [x[PER_EDGE] for x in ours if PER_EDGE in x]
    what, bound = (
        'PID loss, memory of a further edge, in numbers',
        f'< {PID_NUMBERS:g}, of one [E, d] tensor',
    )
    yield _all(what, bound, numbers, PID_NUMBERS.__gt__, '{:.1f} to {:.1f}')


def _scaling(get: Get) -> Iterator[Target]:
    gathers, slopes = f'time of {GATHERS}', rows_of(get('scaling'), task='slope')
    for row in slopes:
        case, values = row['case'], row['values']
        for name, value in values.items():
            if name == gathers:
                continue
            bound = SLOPE_MEMORY if name == 'memory' else SLOPE_TIME
            begin = case['from'] if name == 'memory' else max(case['from'], FROM_TIME)
            span = f'{begin:.0e} to {case["to"]:.0e}'.replace('e+0', 'e')
            text = f'{value:.3f}'
            if name == 'time of forward+backward' and gathers in values:
                text += f' (of reading the same rows alone {values[gathers]:.3f})'
            what = f'slope of {name}, {case["work"]}, {span} edges'
            yield Target(what, f'1 +- {bound:g}', text, abs(value - 1) <= bound)
    if not any(row['values'].keys() - {gathers} for row in slopes):
        yield Target('slopes of memory and time', '1 +- 0.05 and 0.1')


def _ingest(get: Get) -> Iterator[Target]:
    what = 'a table of 10 million rows into a folder'
    found = rows_of(get('ingest'), rows=INGEST_ROWS, task='prepare')
    ours = next((row for row in found if row['role'] == 'ours'), None)
    wall = None if ours is None else ours['time']['median']
    peak = None if ours is None else ours['memory']['peak_bytes'] / 2**30
    yield _at_most(what, INGEST_SECONDS, 's', wall, '{:.1f} s')
    yield _at_most(f'{what}, memory', INGEST_GIB, 'GiB', peak, '{:.2f} GiB')


def _growth(result: Result | None, size: Callable[[Row], float]) -> float | None:
    # By how many bytes memory grows with a size, from the smallest to the largest: the worst task.
    points: dict[str, list[tuple[float, int]]] = {}
    for row in rows_of(result):
        if row['role'] == 'ours':
            points.setdefault(row['case']['task'], []).append((size(row), extra_bytes(row)))
    ends = [(min(of_task), max(of_task)) for of_task in points.values()]
    return max(((b - a) / (n - m) for (m, a), (n, b) in ends if n > m), default=None)


def _recommend(get: Get) -> Iterator[Target]:
    found = _growth(get('recommend'), lambda row: row['case']['users'])
    what = 'recommendations, memory for a further user'
    yield _at_most(what, RECOMMEND_BYTES, 'bytes', found, '{:.0f} bytes')


def _amazon(get: Get) -> Iterator[Target]:
    found = _growth(get('amazon'), lambda row: row['values']['raw_gib'] * 2**30)
    what = 'raw files of Amazon, memory for items that are left out'
    percent = None if found is None else 100 * found
    yield _at_most(what, AMAZON_PERCENT, '% of their bytes', percent, '{:.1f} %')


#: By device the parts and what is asked of them. The targets of training are about one thread.
ASKED: dict[str, dict[str, Callable[[Get], Iterator[Target]]]] = {
    'cpu': {
        'training': _training, 'mrdib_cost': _mrdib_cost, 'propagation': _propagation,
        'pid_loss': _pid_loss, 'scaling': _scaling, 'ingest': _ingest, 'recommend': _recommend,
        'amazon': _amazon,
    },
    'cuda': {
        'mrdib_cost': _steps, 'propagation': _peers, 'pid_loss': _pid_loss, 'scaling': _scaling,
    },
}  # fmt: skip


def judge(results: dict[str, Result], device: str) -> list[tuple[str, Target]]:
    r"""Returns the targets on a device, each with the name of its part."""

    def get(part: str) -> Result | None:
        return results.get(f'{part}-{device}')

    return [(part, target) for part, judged in ASKED[device].items() for target in judged(get)]
