r"""The targets of this suite, and what the result files say of each."""

import math
from collections.abc import Callable
from typing import Any

from benchmarks.captured import CAPTURED
from benchmarks.markdown import make_table
from benchmarks.scaling.edges import FROM_TIME, GATHERS
from benchmarks.training.backbones import (
    COMMON_FROZEN,
    COMMON_NAME,
    OURS,
    OURS_COMPILED,
    OURS_MRDIB,
    OURS_MRDIB_COMPILED,
    OURS_TRAINED,
)
from benchmarks.training.mrdib_cost import ADDED, ARITHMETIC, PRODUCTS, TURNS

Result = dict[str, Any]
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
MRDIB_SECONDS, MRDIB_SHARE = 0.015, 0.025
PROPAGATION = 0.20
#: The codes of these measurements are 64 wide: one tensor [E, d] is as many numbers an edge.
PID_SPEED, PID_SHARE, PID_NUMBERS = 4.0, 0.7, 64
SLOPE_MEMORY, SLOPE_TIME = 0.05, 0.1
#: Bytes for each further user of recommendations, which are its id and its place, and the share of
#: the raw bytes of items that are left out: their ratings pass through memory, for the k-core.
RECOMMEND_BYTES, AMAZON_SHARE = 32, 0.05
#: A step as it is launched, and on CUDA as a CUDA graph: without MRdIB and with it.
FORMS = (('', OURS, OURS_MRDIB), (CAPTURED, OURS_COMPILED, OURS_MRDIB_COMPILED))
INGEST_ROWS, INGEST_SECONDS, INGEST_GIB = 10_000_000, 60.0, 4.0


def times_of(result: Result | None, value: str, **case: Any) -> dict[str, float]:
    r"""A value of the times by method, of the rows whose case holds these entries."""
    rows = [] if result is None else result['rows']
    return {
        row['method']: row['time'][value]
        for row in rows
        if 'time' in row and case.items() <= row['case'].items()
    }


def medians(result: Result | None, **case: Any) -> dict[str, float]:
    r"""The median times by method, of the rows whose case holds these entries."""
    return times_of(result, 'median', **case)


def mrdib_costs(result: Result) -> dict[str, dict[str, float | None]]:
    r"""By model the step without and with MRdIB, the difference, its share of the step of the
    common implementation, the arithmetic of MRdIB alone, and the products that it adds to the step.
    """
    out: dict[str, dict[str, float | None]] = {}
    for model in dict.fromkeys(row['case'].get('model') for row in result['rows']):
        # In turns, where there are such rows: the difference of two short readings says little.
        times = medians(result, model=model, task='step')
        times |= medians(result, model=model, task=TURNS)
        for end, plain, full in FORMS:
            if plain not in times or full not in times:
                continue
            added = times[full] - times[plain]
            common = times.get(COMMON_NAME)
            out[f'{model}{end}'] = {
                'plain': times[plain],
                'with': times[full],
                'added': added,
                'common': common,
                'share': None if common is None else added / common,
                'alone': medians(result, model=model, task=ARITHMETIC).get('MRdIB'),
                'products': _added_products(result, str(model)),
            }
    return out


def _added_products(result: Result, model: str) -> float | None:
    # Long steps differ by chance, too: what all of these agree upon.
    found = [times_of(result, x, model=model, task=ADDED) for x in ('min', 'q1', 'median')]
    return min((x[OURS_MRDIB] - x[OURS] for x in found if len(x) == 2), default=None)


def _least(entry: dict[str, float | None]) -> float | None:
    # Both are below what MRdIB has to cost.
    known = [x for x in (entry['alone'], entry['products']) if x is not None]
    return max(known, default=None)


def step_products(result: Result | None, model: str, method: str = OURS) -> dict[str, float]:
    r"""The median times of the products of a step alone, by their kind."""
    return medians(result, model=model, task=PRODUCTS[method])


def _allowed(training: Result | None, cost: Result | None, model: str, method: str) -> str:
    # An epoch of the common implementation over what is left of ours if all else took no time.
    alone = sum(step_products(cost, model, method).values())
    for row in [] if training is None or alone == 0 else training['rows']:
        case = row['case']
        if row['method'] == COMMON_NAME and (case['model'], case['task']) == (model, 'epoch'):
            num_steps = math.ceil(case['edges'] / training['settings']['batch_size'])
            most = row['time']['median'] / (num_steps * alone)
            return f' (what its products, sums and Adam alone allow: {most:.1f} x)'
    return ''


def rows(results: dict[str, Result], device: str) -> list[tuple[str, str, str, bool | None]]:
    r"""Returns what is asked, the target, what was measured, and whether it is met."""
    get = lambda part: results.get(f'{part}-{device}')  # noqa: E731
    out: list[tuple[str, str, str, bool | None]] = []
    if device == 'cuda':  # the targets of training are about one thread
        out.extend(_step_rows(get('mrdib_cost')))
        out.extend(_peer_rows(get('propagation')))
        out.extend(_pid_rows(get('pid_loss')))
        out.extend(_scaling_rows(get('scaling')))
        return out

    def add(what: str, target: str, value: float | None, text: str, met: bool) -> None:
        missing = value is None
        out.append((what, target, NOT_MEASURED if missing else text, None if missing else met))

    training = get('training')
    for model, (trained, frozen) in EPOCH.items():
        times = medians(training, model=model, task='epoch')
        common = times.get(COMMON_NAME)
        same = times.get(OURS_TRAINED) if frozen is not None else times.get(OURS)
        speed = None if common is None or same is None else common / same
        note = ''
        if model == 'bm3':  # ours has frozen features only; so are those of its rival
            fair = times.get(COMMON_FROZEN)
            ours = times.get(OURS)
            if fair is not None and ours is not None:
                note = f' ({fair / ours:.1f} x against frozen features)'
        method = OURS_TRAINED if frozen is not None else OURS
        note += _allowed(training, get('mrdib_cost'), model, method)
        text = '' if speed is None else f'{speed:.1f} x{note}'
        add(f'epoch, {model}', f'>= {trained:g} x', speed, text, (speed or 0) >= trained)
        if frozen is not None:
            ours = times.get(OURS)
            speed = None if common is None or ours is None else common / ours
            text = f'{speed or 0:.1f} x{_allowed(training, get("mrdib_cost"), model, OURS)}'
            what = f'epoch, {model}, features frozen'
            add(what, f'>= {frozen:g} x', speed, text, (speed or 0) >= frozen)

    speeds = []
    for model in EPOCH:
        times = medians(training, model=model, task='evaluation')
        if OURS in times and COMMON_NAME in times:
            speeds.append(times[COMMON_NAME] / times[OURS])
    least = min(speeds) if speeds else None
    text = '' if least is None else f'{least:.1f} to {max(speeds):.1f} x'
    add('evaluation', f'>= {EVALUATION:g} x', least, text, (least or 0) >= EVALUATION)

    speeds = []
    for model in EPOCH:
        times = medians(training, model=model, task='evaluation after an epoch')
        if OURS in times and COMMON_NAME in times:
            speeds.append(times[COMMON_NAME] / times[OURS])
    # Test edges are ranked where validation improved only: the share of epochs is the data's.
    least = min(speeds) if speeds else None
    text = '' if least is None else f'{least:.1f} to {max(speeds):.1f} x'
    what = 'evaluation of an epoch that did not improve'
    add(what, f'>= {EVALUATION:g} x', least, text, (least or 0) >= EVALUATION)

    cost = get('mrdib_cost')
    costs = {} if cost is None else mrdib_costs(cost)
    for model in EPOCH:
        if model != 'lightgcn' and model not in costs:
            target = f'<= {1e3 * MRDIB_SECONDS:g} ms'
            add(f'MRdIB in a step, {model}', target, None, '', False)
    for model, entry in costs.items():
        added, share, common = entry['added'], entry['share'], entry['common']
        assert added is not None
        target = f'<= {1e3 * MRDIB_SECONDS:g} ms'
        met = added <= MRDIB_SECONDS
        alone = _least(entry)
        note = '' if alone is None else f' (the products it adds alone {1e3 * alone:.1f} ms)'
        add(f'MRdIB in a step, {model}', target, added, f'{1e3 * added:.1f} ms{note}', met)
        if share is not None:
            what = f'MRdIB in a step, {model}, share of the common step'
            note = '' if alone is None else f' (products alone {100 * alone / common:.1f} %)'
            text = f'{100 * share:.1f} %{note}'
            add(what, f'<= {100 * MRDIB_SHARE:g} %', share, text, share <= MRDIB_SHARE)

    ratios = _propagation_ratios(get('propagation'))
    worst = max(ratios, default=None)
    text = '' if worst is None else f'{min(ratios):.2f} to {worst:.2f}'
    target = f'<= {PROPAGATION:g} of COO'
    met = (worst or 1.0) <= PROPAGATION
    add('propagation, forward+backward, d = 64, float32', target, worst, text, met)
    out.extend(_pid_rows(get('pid_loss')))
    out.extend(_scaling_rows(get('scaling')))
    out.extend(_ingest_rows(get('ingest')))
    out.append(_recommend_row(get('recommend')))
    out.append(_amazon_row(get('amazon')))
    return out


def _step_rows(result: Result | None) -> list[tuple[str, str, str, bool | None]]:
    # On CUDA, a step as a CUDA graph against the common implementation's, for each model.
    out: list[tuple[str, str, str, bool | None]] = []
    for row in [] if result is None else result['rows']:
        times = medians(result, **row['case'])
        if row['method'] == COMMON_NAME and OURS_COMPILED in times:
            speeds = [times[COMMON_NAME] / times[method] for method in (OURS_COMPILED, OURS)]
            text = f'{speeds[0]:.1f} x (launched one by one {speeds[1]:.1f} x)'
            what = f'a step as a CUDA graph, {row["case"]["model"]}'
            out.append((what, 'faster', text, speeds[0] > 1))
    return out


def _peer_rows(result: Result | None) -> list[tuple[str, str, str, bool | None]]:
    # On CUDA, propagation against the fastest of all others.
    out: list[tuple[str, str, str, bool | None]] = []
    for end, task in (('', 'forward+backward'), (CAPTURED, 'forward')):
        wanted = {'dtype': 'float32', 'channels': 64, 'task': task}
        ratios = []
        for row in [] if result is None else result['rows']:
            if row['role'] != 'baseline' or not wanted.items() <= row['case'].items():
                continue
            times = medians(result, **row['case'])
            roles = {r['method']: r['role'] for r in result['rows'] if r['case'] == row['case']}
            kind = {m: t for m, t in times.items() if m.endswith(CAPTURED) == bool(end)}
            ours = [t for m, t in kind.items() if m == f'propagate_mean{end}']
            others = [t for m, t in kind.items() if roles[m] != 'ours']
            if ours and others:
                ratios.append(ours[0] / min(others))
        text = f'{min(ratios):.2f} to {max(ratios):.2f}' if ratios else NOT_MEASURED
        what = f'propagation, {task}, d = 64, float32{", as CUDA graphs" if end else ""}'
        met = max(ratios) < 1 if ratios else None
        out.append((what, '< 1 of the fastest other', text, met))
    return out


def _propagation_ratios(result: Result | None) -> list[float]:
    out = []
    wanted = {'task': 'forward+backward', 'dtype': 'float32', 'channels': 64}
    for row in [] if result is None else result['rows']:
        if row['role'] == 'baseline' and wanted.items() <= row['case'].items():
            times = medians(result, **row['case'])
            if 'propagate_mean' in times:
                out.append(times['propagate_mean'] / times[row['method']])
    return out


def _pid_rows(result: Result | None) -> list[tuple[str, str, str, bool | None]]:
    out: list[tuple[str, str, str, bool | None]] = []
    found = [] if result is None else result['rows']
    # The speed is asked of CUDA; on CPU it is shown without a verdict.
    judged = result is not None and result['device'] == 'cuda'
    for end in ('', CAPTURED) if judged else ('',):
        speeds, shares = [], []
        for row in found:
            if row['case'].get('task') != 'all edges, forward+backward' or 'time' not in row:
                continue
            if row['role'] != 'ours' or row['method'].endswith(CAPTURED) != bool(end):
                continue
            times = medians(result, **row['case'])
            if f'gathered rows{end}' in times:
                speeds.append(times[f'gathered rows{end}'] / times[row['method']])
            if 'roofline' in row:
                shares.append(row['roofline']['requested_share'])
        name = 'PID loss over all edges' + (', as CUDA graphs' if end else '')
        for what, target, values, bound, unit in (
            (f'{name}, against gathers', '>= 4 x on CUDA', speeds, PID_SPEED, ' x'),
            (f'{name}, requested bytes over copy bandwidth', '>= 70 % on CUDA', shares,
             PID_SHARE, ''),
        ):  # fmt: skip
            if len(values) == 0:
                out.append((what, target, NOT_MEASURED, None))
                continue
            text = f'{min(values):.2f} to {max(values):.2f}{unit}'
            if judged:
                num_met = sum(value >= bound for value in values)
                text += f', {num_met} of {len(values)} rows'
            out.append((what, target, text, min(values) >= bound if judged else None))
    numbers = [
        row['values']['numbers_per_further_edge']
        for row in found
        if row['role'] == 'ours' and 'numbers_per_further_edge' in row.get('values', {})
    ]
    what = 'PID loss, memory of a further edge, in numbers'
    target = f'< {PID_NUMBERS}, of one [E, d] tensor'
    text, met = NOT_MEASURED, None
    if numbers:
        text = f'{min(numbers):.1f} to {max(numbers):.1f}'
        met = max(numbers) < PID_NUMBERS
    out.append((what, target, text, met))
    return out


def _scaling_rows(result: Result | None) -> list[tuple[str, str, str, bool | None]]:
    out: list[tuple[str, str, str, bool | None]] = []
    gathers = f'time of {GATHERS}'
    for row in [] if result is None else result['rows']:
        if row['case']['task'] != 'slope':
            continue
        for name, value in row['values'].items():
            if name == gathers:
                continue
            bound = SLOPE_MEMORY if name == 'memory' else SLOPE_TIME
            begin = row['case']['from'] if name == 'memory' else max(row['case']['from'], FROM_TIME)
            span = f'{begin:.0e} to {row["case"]["to"]:.0e}'.replace('e+0', 'e')
            what = f'slope of {name}, {row["case"]["work"]}, {span} edges'
            text = f'{value:.3f}'
            if name == 'time of forward+backward' and gathers in row['values']:
                text += f' (of reading the same rows alone {row["values"][gathers]:.3f})'
            out.append((what, f'1 +- {bound:g}', text, abs(value - 1) <= bound))
    if len(out) == 0:
        out.append(('slopes of memory and time', '1 +- 0.05 and 0.1', NOT_MEASURED, None))
    return out


def _ingest_rows(result: Result | None) -> list[tuple[str, str, str, bool | None]]:
    what = 'a table of 10 million rows into a folder'
    names = (what, f'{what}, memory')
    targets = (f'<= {INGEST_SECONDS:g} s', f'<= {INGEST_GIB:g} GiB')
    for row in [] if result is None else result['rows']:
        case = row['case']
        if case == {'rows': INGEST_ROWS, 'task': 'prepare'} and row['role'] == 'ours':
            seconds, gib = row['time']['median'], row['memory']['peak_bytes'] / 2**30
            return [
                (names[0], targets[0], f'{seconds:.1f} s', seconds <= INGEST_SECONDS),
                (names[1], targets[1], f'{gib:.2f} GiB', gib <= INGEST_GIB),
            ]
    return [(name, target, NOT_MEASURED, None) for name, target in zip(names, targets)]


def _growth(result: Result | None, size: Callable[[Result], float]) -> list[float]:
    r"""Per task, by how many bytes memory grows with a size, from the smallest to the largest."""
    points: dict[str, list[tuple[float, int]]] = {}
    for row in [] if result is None else result['rows']:
        if row['role'] == 'ours':
            extra = row['memory']['peak_bytes'] - row['memory']['before_bytes']
            points.setdefault(row['case']['task'], []).append((size(row), extra))
    ends = [(min(of_task), max(of_task)) for of_task in points.values()]
    return [(b - a) / (n - m) for (m, a), (n, b) in ends if n > m]


def _recommend_row(result: Result | None) -> tuple[str, str, str, bool | None]:
    what, target = 'recommendations, memory for a further user', f'<= {RECOMMEND_BYTES} bytes'
    found = _growth(result, lambda row: row['case']['users'])
    if len(found) == 0:
        return what, target, NOT_MEASURED, None
    return what, target, f'{max(found):.0f} bytes', max(found) <= RECOMMEND_BYTES


def _amazon_row(result: Result | None) -> tuple[str, str, str, bool | None]:
    what = 'raw files of Amazon, memory for items that are left out'
    target = f'<= {100 * AMAZON_SHARE:g} % of their bytes'
    found = _growth(result, lambda row: row['values']['raw_gib'] * 2**30)
    if len(found) == 0:
        return what, target, NOT_MEASURED, None
    return what, target, f'{100 * max(found):.1f} %', max(found) <= AMAZON_SHARE


def table(results: dict[str, Result], device: str) -> str:
    r"""The targets as a table."""
    if not any(name.endswith(f'-{device}') for name in results):
        return 'Not measured yet.'
    words = {True: 'met', False: 'missed', None: ''}
    option = ' --device cuda' if device == 'cuda' else ''
    command = f'python -m benchmarks.run{option} --only'
    lines = [
        [what, target, text, words[met], f'`{command} {_part_of(what)}`']
        for what, target, text, met in rows(results, device)
    ]
    return make_table(['', 'target', 'measured', '', 'how'], lines)


def _part_of(what: str) -> str:
    parts = {
        'MRdIB': 'mrdib_cost', 'a step': 'mrdib_cost', 'propagation': 'propagation',
        'PID': 'pid_loss', 'slope': 'scaling',
        'a table': 'ingest', 'recommendations': 'recommend', 'raw files': 'amazon',
    }  # fmt: skip
    found = [part for start, part in parts.items() if what.startswith(start)]
    return found[0] if found else 'training'
