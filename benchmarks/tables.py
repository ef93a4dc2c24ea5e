r"""Makes the tables of ``benchmarks/README.md`` from the JSON files, and nothing else.

python -m benchmarks.tables                    the tables of the committed results
python -m benchmarks.tables runs/bench         those of another folder, to its tables.md
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import schema, targets
from benchmarks.markdown import insert, make_table
from benchmarks.part import RESULTS
from benchmarks.scaling.edges import GATHERS
from benchmarks.training.backbones import COMMON_NAME
from benchmarks.training.mrdib_cost import OPERATORS, PRODUCTS
from benchmarks.training.step_products import KINDS

README = Path(__file__).parent / 'README.md'
NOT_MEASURED = 'Not measured yet.'
Row = dict[str, Any]
Result = dict[str, Any]


def seconds(value: float) -> str:
    r"""A time with three digits, in the unit that suits it."""
    for unit, scale in (('s', 1.0), ('ms', 1e3), ('µs', 1e6)):
        if value * scale >= 1 or unit == 'µs':
            return f'{value * scale:.3g} {unit}' if value * scale < 1000 else f'{value:.0f} {unit}'
    raise AssertionError


def gib(value: float) -> str:
    return f'{value / 2**30:.3g}'


def pivot(result: Result, keep: Callable[[Row], bool] = lambda row: True) -> str:
    r"""One line per case, one column per method: the median, the quartiles, and the ratio to the
    baseline; the fastest in bold.
    """
    rows = [row for row in result['rows'] if 'time' in row and keep(row)]
    if len(rows) == 0:
        return NOT_MEASURED
    order = {'ours': 0, 'baseline': 1, 'rival': 2}
    methods = list(dict.fromkeys(r['method'] for r in sorted(rows, key=lambda r: order[r['role']])))
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(_label(row['case']), {})[row['method']] = row
    lines = []
    for label, entries in cases.items():
        baseline = next((r for r in entries.values() if r['role'] == 'baseline'), None)
        fastest = min(r['time']['median'] for r in entries.values())
        cells = [_cell(entries.get(m), baseline, fastest) for m in methods]
        lines.append([label, *cells])
    return make_table(['', *methods], lines) + _missing(result)


def _cell(row: Row | None, baseline: Row | None, fastest: float) -> str:
    if row is None:
        return ''
    time = row['time']
    text = seconds(time['median'])
    if time['median'] == fastest:
        text = f'**{text}**'
    if time['runs'] > 1:
        text += f' [{seconds(time["q1"])}, {seconds(time["q3"])}]'
    if baseline is not None and baseline is not row:
        text += f' {time["median"] / baseline["time"]["median"]:.2f}'
    return text


def rooflines(result: Result) -> str:
    lines = [
        [
            _label(row['case']),
            row['method'],
            seconds(row['time']['median']),
            f'{row["roofline"]["requested_bytes"] / 1e6:.3g} MB',
            f'{row["roofline"]["compulsory_bytes"] / 1e6:.3g} MB',
            f'{100 * row["roofline"]["requested_share"]:.0f} %',
            f'{100 * row["roofline"]["compulsory_share"]:.0f} %',
        ]
        for row in result['rows']
        if 'roofline' in row
    ]
    if len(lines) == 0:
        return NOT_MEASURED
    speed = next(r for r in result['rows'] if 'roofline' in r)['roofline']['copy_bytes_per_second']
    header = ['', 'method', 'time', 'requested', 'compulsory', 'requested share']
    return (
        make_table([*header, 'compulsory share'], lines)
        + f'\n\nCopy bandwidth of the same run: {speed / 1e9:.3g} GB/s, reads and writes counted.'
    )


def memory(result: Result) -> str:
    lines = [
        [
            _label(row['case']),
            row['method'],
            gib(row['memory']['peak_bytes']),
            gib(row['memory']['peak_bytes'] - row['memory']['before_bytes']),
        ]
        for row in result['rows']
        if 'memory' in row
    ]
    if len(lines) == 0:
        return NOT_MEASURED
    return make_table(['', 'method', 'peak GiB', 'of it for this GiB'], lines)


def mrdib_cost(result: Result) -> str:
    r"""What MRdIB adds to a step, in time and as a share of the common implementation's step."""
    lines = []
    for model, cost in targets.mrdib_costs(result).items():
        share = '' if cost['share'] is None else f'{100 * cost["share"]:.1f} %'
        common = '' if cost['common'] is None else seconds(cost['common'])
        added = f'{1e3 * cost["added"]:.1f} ms'
        alone = '' if cost['alone'] is None else f'{1e3 * cost["alone"]:.1f} ms'
        products = '' if cost['products'] is None else f'{1e3 * cost["products"]:.1f} ms'
        plain, with_ = seconds(cost['plain']), seconds(cost['with'])
        lines.append([model, plain, with_, added, products, alone, common, share])
    if len(lines) == 0:
        return NOT_MEASURED
    header = ['', 'plain step', 'with MRdIB', 'added', 'products it adds', 'its arithmetic alone']
    common = 'step of the common implementation'
    return make_table([*header, common, 'added, as a share of it'], lines)


def mrdib_operators(result: Result) -> str:
    r"""What a step with MRdIB has more of each kind of operator: milliseconds, and calls."""
    lines: dict[str, dict[str, dict[str, float]]] = {}
    for row in result['rows']:
        if row['case'].get('task') == OPERATORS:
            lines.setdefault(row['case']['model'], {})[row['method']] = row['values']
    if len(lines) == 0:
        return NOT_MEASURED
    kinds = list(dict.fromkeys(kind for entry in lines.values() for kind in entry))
    cells = [
        [model, *(_share(entry.get(kind)) for kind in kinds)] for model, entry in lines.items()
    ]
    return make_table(['', *kinds], cells)


def _share(values: dict[str, float] | None) -> str:
    if values is None:
        return ''
    calls = f' in {values["calls"]:.0f}' if values['calls'] > 0 else ''
    return f'{values["ms"]:.1f} ms{calls}'


def step_products(result: Result) -> str:
    r"""What of a step are matrix products, sums over edges and Adam, each timed alone."""
    lines = []
    kinds = [kind for kind in KINDS if kind != 'normal numbers']  # a plain step draws none
    for model in dict.fromkeys(row['case'].get('model') for row in result['rows']):
        steps = targets.medians(result, model=model, task='step')
        common = steps.get(COMMON_NAME)
        for method in PRODUCTS:
            alone = targets.step_products(result, model, method)
            if method not in steps or len(alone) == 0:
                continue
            total = sum(alone.values())
            parts = [seconds(alone[kind]) if kind in alone else '' for kind in kinds]
            share = f'{100 * total / steps[method]:.0f} %'
            allowed = '' if common is None else f'{common / total:.1f} x'
            lines.append([model, method, seconds(steps[method]), *parts, share, allowed])
    if len(lines) == 0:
        return NOT_MEASURED
    header = ['', '', 'step', *kinds, 'together, of the step', 'common step over them']
    return make_table(header, lines)


def _per_edge(row: Row | None, edges: int) -> str:
    return '' if row is None else f'{1e9 * row["time"]["median"] / edges:.3g} ns'


def _system_share(row: Row) -> str:
    share = row.get('values', {}).get('system_share')
    return '' if share is None else f'{100 * share:.0f} %'


def scaling(result: Result) -> str:
    cases: dict[tuple[str, int], dict[str, Row]] = {}
    for row in result['rows']:
        case = row['case']
        if case['task'] != 'slope':
            cases.setdefault((case['work'], case['edges']), {})[case['task']] = row
    lines = []
    for (work, edges), tasks in cases.items():
        step, build, memory = (tasks.get(t) for t in ('forward+backward', 'build', 'memory'))
        if step is None or build is None or memory is None:
            continue
        median = step['time']['median']
        extra = memory['memory']['peak_bytes'] - memory['memory']['before_bytes']
        lines.append(
            [
                work,
                f'{edges:.0e}'.replace('e+0', 'e'),
                seconds(build['time']['median']),
                seconds(median),
                f'{1e9 * median / edges:.3g} ns',
                _per_edge(tasks.get(GATHERS), edges),
                _system_share(step),
                gib(extra),
                f'{extra / edges:.0f}',
            ]
        )
    if len(lines) == 0:
        return NOT_MEASURED
    header = ['', 'edges', 'build', 'forward+backward', 'per edge', 'reads alone', 'system']
    header += ['peak GiB', 'bytes per edge']
    slopes = [
        f'{row["case"]["work"]}: {name} {value:.3f}'
        for row in result['rows']
        if row['case']['task'] == 'slope'
        for name, value in row['values'].items()
    ]
    text = make_table(header, lines)
    return text + (f'\n\nSlopes: {"; ".join(slopes)}.' if slopes else '') + _missing(result)


def raw_files(result: Result) -> str:
    r"""Time and memory over the size of the raw files."""
    lines = []
    for row in result['rows']:
        extra = row['memory']['peak_bytes'] - row['memory']['before_bytes']
        lines.append(
            [
                f'{row["case"]["items"]:,}',
                f'{row["values"]["items_kept"]:,.0f}',
                f'{row["values"]["raw_gib"]:.2f}',
                seconds(row['time']['median']),
                gib(extra),
            ]
        )
    if len(lines) == 0:
        return NOT_MEASURED
    header = ['items', 'kept', 'raw GiB', 'time', 'peak GiB above the process']
    return make_table(header, lines) + _missing(result)


def searches(result: Result) -> str:
    r"""Recall and wall latency of single queries, by index."""
    lines = []
    for row in result['rows']:
        values = row['values']
        recall = f'{values["recall_at_20"]:.3f}' if 'recall_at_20' in values else ''
        case = f'{row["case"]["items"]:,} items, {row["case"]["data"]}'
        cells = [f'{values[name]:.2f} ms' for name in ('p50_ms', 'p90_ms', 'p99_ms')]
        build = f'{values["build_s"]:.1f} s' if 'build_s' in values else ''
        lines.append([case, row['method'], recall, *cells, build])
    if len(lines) == 0:
        return NOT_MEASURED
    header = ['', 'index', 'recall @ 20', 'p50', 'p90', 'p99', 'build']
    return make_table(header, lines) + _missing(result)


def load(result: Result) -> str:
    r"""What the service bears, by address and number of connections."""
    lines = [
        [
            row['case']['address'],
            str(row['case']['connections']),
            f'{row["values"]["requests_per_second"]:.0f}',
            *(f'{row["values"][name]:.1f} ms' for name in ('p50_ms', 'p90_ms', 'p99_ms')),
            f'{row["values"]["errors"]:.0f}',
        ]
        for row in result['rows']
    ]
    if len(lines) == 0:
        return NOT_MEASURED
    header = ['', 'connections', 'requests a second', 'p50', 'p90', 'p99', 'errors']
    return make_table(header, lines) + _missing(result)


def _of_task(*tasks: str) -> Callable[[Row], bool]:
    return lambda row: row['case'].get('task') in tasks


#: The tables by name: the part they are made of, and how.
TABLES: dict[str, tuple[str, Callable[[Result], str]]] = {
    'propagation': (
        'propagation',
        lambda result: pivot(result, _of_task('forward', 'forward+backward')),
    ),
    'propagation-roofline': ('propagation', rooflines),
    'pid-loss': ('pid_loss', pivot),
    'pid-loss-roofline': ('pid_loss', rooflines),
    'pid-loss-memory': ('pid_loss', memory),
    'topk': ('topk', pivot),
    'topk-memory': ('topk', memory),
    'knn': ('knn', pivot),
    'knn-memory': ('knn', memory),
    'negative-sampling': ('negative_sampling', pivot),
    'mutual-information': ('mutual_information', pivot),
    'steps': ('mrdib_cost', lambda result: pivot(result, _of_task('step'))),
    'step-products': ('mrdib_cost', step_products),
    'mrdib-cost': ('mrdib_cost', mrdib_cost),
    'mrdib-operators': ('mrdib_cost', mrdib_operators),
    'epochs': ('training', lambda result: pivot(result, _of_task('epoch'))),
    'evaluation': (
        'training',
        lambda result: pivot(result, _of_task('evaluation', 'evaluation after an epoch')),
    ),
    'training-memory': ('training', memory),
    'scaling': ('scaling', scaling),
    'ingest': ('ingest', pivot),
    'ingest-memory': ('ingest', memory),
    'amazon': ('amazon', raw_files),
    'index': ('index', searches),
    'recommend': ('recommend', pivot),
    'recommend-memory': ('recommend', memory),
    'load': ('load', load),
}


def generate(folder: Path) -> dict[str, str]:
    r"""Returns all tables that the files of a folder give, by the name of their marks."""
    results: dict[str, Result] = {}
    for path in sorted(folder.glob('*.json')):
        value = schema.load(path)
        if isinstance(value, dict) and 'schema' in value:
            schema.validate(value)
            results[path.stem] = value
    out: dict[str, str] = {}
    for device in ('cpu', 'cuda'):
        out[f'targets-{device}'] = targets.table(results, device)
        out[f'machine-{device}'] = _machine(results, device)
        plots = [path.name for path in sorted(folder.glob(f'*-{device}.svg'))]
        links = [f'![{name[:-4]}]({folder.name}/{name})' for name in plots]
        out[f'plots-{device}'] = '\n'.join(links) or NOT_MEASURED
        for name, (part, make) in TABLES.items():
            result = results.get(f'{part}-{device}')
            out[f'{name}-{device}'] = NOT_MEASURED if result is None else make(result)
    return out


def write(folder: Path) -> None:
    r"""Writes the tables: into the README for the committed results, else to ``tables.md``."""
    tables = generate(folder)
    if folder.resolve() == RESULTS.resolve():
        for name, text in tables.items():
            insert(README, name, text)
        print(f'wrote the tables of {README}')
        return
    for device in ('cpu', 'cuda'):
        tables.pop(f'plots-{device}')  # they lie beside
    parts = [f'## {name}\n\n{text}\n' for name, text in tables.items() if text != NOT_MEASURED]
    path = folder / 'tables.md'
    path.write_text('\n'.join(parts))
    print('\n'.join(parts))
    print(f'wrote {path}')


def _machine(results: dict[str, Result], device: str) -> str:
    lines: list[str] = []
    for name, result in results.items():
        if result['device'] != device:
            continue
        machine, versions = result['machine'], result['versions']
        what = machine['processor']
        if machine['accelerator'] is not None:
            accelerator = machine['accelerator']
            what = f'{accelerator["name"]}, driver {accelerator["driver"]}'
        form = 'short form' if result['short'] else 'full form'
        state = form if result['complete'] else f'{form}, not complete'
        lines.append(
            f'| {name} | {what}, {machine["threads"]} thread | torch {versions["torch"]}, PyG '
            f'{versions["torch_geometric"]} | {result["date"]}, {state}, '
            f'{result["seconds"]:.0f} s | `{result["command"]}` |'
        )
    if len(lines) == 0:
        return NOT_MEASURED
    header = '| file | machine | versions | | command |\n|---|---|---|---|---|'
    return '\n'.join([header, *lines])


def _label(case: dict[str, Any]) -> str:
    r"""A case in words; counts that its name tells already are left out."""
    parts = []
    for key, value in case.items():
        if key in ('users', 'items', 'edges') and ('graph' in case or 'data' in case):
            continue
        if key in ('graph', 'skew', 'dtype', 'task', 'model', 'data', 'work'):
            parts.append(str(value))
        elif key == 'channels':
            parts.append(f'd = {value}')
        elif key == 'widths':
            parts.append(f'features {value}')
        else:
            parts.append(f'{key} {value}')
    return ', '.join(parts)


def _missing(result: Result) -> str:
    seen: dict[str, str] = {}
    for entry in result['missing']:
        if entry['method'] == 'all':
            seen.setdefault(f'{_label(entry["case"])}: {entry["why"]}', '')
        else:
            seen.setdefault(f'{entry["method"]}: {entry["why"]}', '')
    return '' if len(seen) == 0 else '\n\nNot measured: ' + '; '.join(seen) + '.'


if __name__ == '__main__':
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
