r"""Makes the tables of ``benchmarks/README.md`` from the JSON files, and nothing else.

python -m benchmarks.tables                    the tables of the committed results
python -m benchmarks.tables --check            whether the README shows them
python -m benchmarks.tables runs/bench         those of another folder, to its tables.md
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import schema
from benchmarks.schema import BOTH, COMMON, GATHERS, KINDS, OPERATORS, PRODUCTS, RESULTS
from benchmarks.targets import (
    Result,
    Row,
    extra_bytes,
    judge,
    medians,
    mrdib_costs,
    rows_of,
    step_products,
)

README = Path(__file__).parent / 'README.md'
NOT_MEASURED = 'Not measured yet.'

# -- Markdown -------------------------------------------------------------------------------------


def make_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ['| ' + ' | '.join(header) + ' |', '|---' * len(header) + '|']
    return '\n'.join([*lines, *('| ' + ' | '.join(row) + ' |' for row in rows)])


def made(header: Sequence[str], rows: Sequence[Sequence[str]], note: str = '') -> str:
    r"""A table and a note below it, of what was measured."""
    return f'{make_table(header, rows)}{note}' if rows else NOT_MEASURED


def update(page: Path, tables: Mapping[str, str], command: str, check: bool = False) -> None:
    r"""Replaces what stands between the marks of tables in a Markdown file.

    Args:
        page (Path): The file.
        tables (Dict[str, str]): The tables by the names of their marks.
        command (str): How it is done, for errors.
        check (bool): Whether to write nothing.

    Raises:
        SystemExit: If marks are missing, or a table is not the one that is to be checked.
    """
    content, stale = page.read_text(encoding='utf-8'), []
    for name, text in tables.items():
        start, end = f'<!-- table: {name} -->', f'<!-- end of table: {name} -->'
        head, found, rest = content.partition(start)
        old, closed, tail = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"'{page}' has no marks '{start}' and '{end}'")
        if old != f'\n{text}\n':
            stale.append(name)
        content = f'{head}{start}\n{text}\n{end}{tail}'
    if not check:
        page.write_text(content, encoding='utf-8')
    elif stale:
        raise SystemExit(f"'{page}' is not made of the results: {stale}; run '{command}'")


def seconds(value: float | None) -> str:
    r"""A time with three digits, in the unit that suits it."""
    if value is None:
        return ''
    for unit, scale in (('s', 1.0), ('ms', 1e3)):
        if value * scale >= 1:
            return f'{value * scale:.3g} {unit}' if value < 1000 else f'{value:.0f} {unit}'
    return f'{1e6 * value:.3g} µs'


def gib(value: float) -> str:
    return f'{value / 2**30:.3g}'


def mean_sd(values: Sequence[float]) -> str:
    r"""The mean and, of more than one value, the standard deviation."""
    spread = f' ± {statistics.stdev(values):.4f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.4f}{spread}'


def shown(value: float | None, form: str, scale: float = 1.0) -> str:
    return '' if value is None else form.format(scale * value)


#: What stands before a value of a case, where it is not its key.
_WORDS = {
    'channels': 'd =',
    'widths': 'features',
    **dict.fromkeys(('graph', 'skew', 'dtype', 'task', 'model', 'data', 'work'), ''),
}


def _label(case: dict[str, Any]) -> str:
    r"""A case in words; counts that its name tells already are left out."""
    told = ('users', 'items', 'edges') if {'graph', 'data'} & case.keys() else ()
    parts = [f'{_WORDS.get(k, k)} {value}'.strip() for k, value in case.items() if k not in told]
    return ', '.join(parts)


def _missing(result: Result) -> str:
    found = [
        f'{_label(x["case"]) if x["method"] == "all" else x["method"]}: {x["why"]}'
        for x in result['missing']
    ]
    return f'\n\nNot measured: {"; ".join(dict.fromkeys(found))}.' if found else ''


# -- the kinds of tables --------------------------------------------------------------------------


def pivot(result: Result, *tasks: str) -> str:
    r"""One line per case, one column per method: the median, the quartiles, and the ratio to the
    baseline; the fastest in bold.
    """
    rows = [row for row in result['rows'] if 'time' in row]
    rows = [row for row in rows if not tasks or row['case'].get('task') in tasks]
    order = ('ours', 'baseline', 'rival')
    in_order = sorted(rows, key=lambda row: order.index(row['role']))
    methods = list(dict.fromkeys(row['method'] for row in in_order))
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(_label(row['case']), {})[row['method']] = row
    lines = [[label, *_cells(entries, methods)] for label, entries in cases.items()]
    return made(['', *methods], lines, _missing(result))


def _cells(entries: dict[str, Row], methods: Sequence[str]) -> list[str]:
    baseline = next((row for row in entries.values() if row['role'] == 'baseline'), None)
    fastest = min(row['time']['median'] for row in entries.values())
    out = []
    for row in map(entries.get, methods):
        if row is None:
            out.append('')
            continue
        time = row['time']
        text = seconds(time['median'])
        if time['median'] == fastest:
            text = f'**{text}**'
        if time['runs'] > 1:
            text += f' [{seconds(time["q1"])}, {seconds(time["q3"])}]'
        if baseline is not None and baseline is not row:
            text += f' {time["median"] / baseline["time"]["median"]:.2f}'
        out.append(text)
    return out


Column = Callable[[Row], str]


def listing(result: Result, columns: Mapping[str, Column], needs: str = 'case') -> str:
    r"""One line per row that has what is needed."""
    lines = [[cell(x) for cell in columns.values()] for x in result['rows'] if needs in x]
    return made(list(columns), lines, _missing(result) if needs == 'case' else '')


def _value(name: str, form: str) -> Column:
    return lambda row: shown(row['values'].get(name), form)


def _roof(name: str, form: str, scale: float) -> Column:
    return lambda row: shown(row['roofline'][name], form, scale)


_MEDIAN: Column = lambda row: seconds(row['time']['median'])  # noqa: E731
_CASE: dict[str, Column] = {
    '': lambda row: _label(row['case']),
    'method': lambda row: row['method'],
}
ROOFLINES: dict[str, Column] = {
    **_CASE,
    'time': _MEDIAN,
    'requested': _roof('requested_bytes', '{:.3g} MB', 1e-6),
    'compulsory': _roof('compulsory_bytes', '{:.3g} MB', 1e-6),
    'requested share': _roof('requested_share', '{:.0f} %', 100),
    'compulsory share': _roof('compulsory_share', '{:.0f} %', 100),
}
MEMORY: dict[str, Column] = {
    **_CASE,
    'peak GiB': lambda row: gib(row['memory']['peak_bytes']),
    'of it for this GiB': lambda row: gib(extra_bytes(row)),
}
RAW_FILES: dict[str, Column] = {
    'items': lambda row: f'{row["case"]["items"]:,}',
    'kept': _value('items_kept', '{:,.0f}'),
    'raw GiB': _value('raw_gib', '{:.2f}'),
    'time': _MEDIAN,
    'peak GiB above the process': lambda row: gib(extra_bytes(row)),
}
SEARCHES: dict[str, Column] = {
    '': lambda row: f'{row["case"]["items"]:,} items, {row["case"]["data"]}',
    'index': lambda row: row['method'],
    'recall @ 20': _value('recall_at_20', '{:.3f}'),
    **{name: _value(f'{name}_ms', '{:.2f} ms') for name in ('p50', 'p90', 'p99')},
    'build': _value('build_s', '{:.1f} s'),
}
LOAD: dict[str, Column] = {
    '': lambda row: row['case']['address'],
    'connections': lambda row: str(row['case']['connections']),
    'requests a second': _value('requests_per_second', '{:.0f}'),
    **{name: _value(f'{name}_ms', '{:.1f} ms') for name in ('p50', 'p90', 'p99')},
    'errors': _value('errors', '{:.0f}'),
}


def rooflines(result: Result) -> str:
    speeds = [x['roofline']['copy_bytes_per_second'] for x in result['rows'] if 'roofline' in x]
    copy = shown(speeds[0] if speeds else None, '{:.3g} GB/s', 1e-9)
    note = f'\n\nCopy bandwidth of the same run: {copy}, reads and writes counted.'
    return listing(result, ROOFLINES, 'roofline') + (note if speeds else '')


def memory(result: Result) -> str:
    return listing(result, MEMORY, needs='memory')


# -- tables of their own --------------------------------------------------------------------------


def mrdib_cost(result: Result) -> str:
    r"""What MRdIB adds to a step, in time and as a share of the common implementation's step."""
    lines = []
    for model, cost in mrdib_costs(result).items():
        lines.append([model, seconds(cost['plain']), seconds(cost['with'])])
        lines[-1] += [shown(cost[x], '{:.1f} ms', 1e3) for x in ('added', 'products', 'alone')]
        lines[-1] += [seconds(cost['common']), shown(cost['share'], '{:.1f} %', 100)]
    header = ['', 'plain step', 'with MRdIB', 'added', 'products it adds', 'its arithmetic alone']
    common = 'step of the common implementation'
    return made([*header, common, 'added, as a share of it'], lines)


def mrdib_operators(result: Result) -> str:
    r"""What a step with MRdIB has more of each kind of operator: milliseconds, and calls."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows_of(result, task=OPERATORS):
        ms, calls = row['values']['ms'], row['values']['calls']
        text = f'{ms:.1f} ms' + (f' in {calls:.0f}' if calls > 0 else '')
        lines.setdefault(row['case']['model'], {})[row['method']] = text
    kinds = list(dict.fromkeys(kind for entry in lines.values() for kind in entry))
    cells = [[model, *(entry.get(kind, '') for kind in kinds)] for model, entry in lines.items()]
    return made(['', *kinds], cells)


def products(result: Result) -> str:
    r"""What of a step are matrix products, sums over edges and Adam, each timed alone."""
    lines = []
    kinds = [kind for kind in KINDS if kind != 'normal numbers']  # a plain step draws none
    for model in dict.fromkeys(row['case'].get('model') for row in result['rows']):
        steps = medians(result, model=model, task='step')
        for method in PRODUCTS:
            alone = step_products(result, str(model), method)
            if method not in steps or len(alone) == 0:
                continue
            total = sum(alone.values())
            lines.append([str(model), method, seconds(steps[method])])
            lines[-1] += [seconds(alone.get(kind)) for kind in kinds]
            lines[-1].append(f'{100 * total / steps[method]:.0f} %')
            lines[-1].append(shown(steps.get(COMMON), '{:.1f} x', 1 / total))
    header = ['', '', 'step', *kinds, 'together, of the step', 'common step over them']
    return made(header, lines)


def scaling(result: Result) -> str:
    cases: dict[tuple[str, int], dict[str, Row]] = {}
    slopes = []
    for row in result['rows']:
        case = row['case']
        if case['task'] == 'slope':
            slopes += [f'{case["work"]}: {key} {x:.3f}' for key, x in row['values'].items()]
        else:
            cases.setdefault((case['work'], case['edges']), {})[case['task']] = row
    lines = []
    for (work, edges), tasks in cases.items():
        if not {BOTH, 'build', 'memory'} <= tasks.keys():
            continue
        times = {task: row['time']['median'] for task, row in tasks.items() if 'time' in row}
        extra = extra_bytes(tasks['memory'])
        lines.append([work, f'{edges:.0e}'.replace('e+0', 'e')])
        lines[-1] += [seconds(times[x]) for x in ('build', BOTH)]
        lines[-1] += [shown(times.get(x), '{:.3g} ns', 1e9 / edges) for x in (BOTH, GATHERS)]
        lines[-1].append(shown(tasks[BOTH].get('values', {}).get('system_share'), '{:.0f} %', 100))
        lines[-1] += [gib(extra), f'{extra / edges:.0f}']
    header = ['', 'edges', 'build', 'forward+backward', 'per edge', 'reads alone', 'system']
    note = f'\n\nSlopes: {"; ".join(slopes)}.' if slopes else ''
    return made([*header, 'peak GiB', 'bytes per edge'], lines, note + _missing(result))


#: The tables by name: the part they are made of, and how.
TABLES: dict[str, tuple[str, Callable[[Result], str]]] = {
    'propagation': ('propagation', lambda x: pivot(x, 'forward', 'forward+backward')),
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
    'steps': ('mrdib_cost', lambda x: pivot(x, 'step')),
    'step-products': ('mrdib_cost', products),
    'mrdib-cost': ('mrdib_cost', mrdib_cost),
    'mrdib-operators': ('mrdib_cost', mrdib_operators),
    'epochs': ('training', lambda x: pivot(x, 'epoch')),
    'evaluation': ('training', lambda x: pivot(x, 'evaluation', 'evaluation after an epoch')),
    'training-memory': ('training', memory),
    'scaling': ('scaling', scaling),
    'ingest': ('ingest', pivot),
    'ingest-memory': ('ingest', memory),
    'amazon': ('amazon', lambda x: listing(x, RAW_FILES)),
    'index': ('index', lambda x: listing(x, SEARCHES)),
    'recommend': ('recommend', pivot),
    'recommend-memory': ('recommend', memory),
    'load': ('load', lambda x: listing(x, LOAD)),
}


def targets(results: dict[str, Result], device: str) -> str:
    r"""The targets, what was measured of them, and by which command."""
    if not any(name.endswith(f'-{device}') for name in results):
        return NOT_MEASURED
    words = {True: 'met', False: 'missed', None: ''}
    command = f'python -m benchmarks.run{" --device cuda" if device == "cuda" else ""} --only'
    lines = [
        [target.what, target.bound, target.text, words[target.met], f'`{command} {part}`']
        for part, target in judge(results, device)
    ]
    return make_table(['', 'target', 'measured', '', 'how'], lines)


def machines(results: dict[str, Result], device: str) -> str:
    r"""What each file was measured on, by which versions, when and how."""
    lines = []
    for name, result in results.items():
        if result['device'] != device:
            continue
        machine, versions = result['machine'], result['versions']
        what, gpu = machine['processor'], machine['accelerator']
        if gpu is not None:
            what = f'{gpu["name"]}, driver {gpu["driver"]}'
        form = 'short form' if result['short'] else 'full form'
        state = form if result['complete'] else f'{form}, not complete'
        lines.append(
            [
                name,
                f'{what}, {machine["threads"]} thread',
                f'torch {versions["torch"]}, PyG {versions["torch_geometric"]}',
                f'{result["date"]}, {state}, {result["seconds"]:.0f} s',
                f'`{result["command"]}`',
            ]
        )
    header = ['file', 'machine', 'versions', '', 'command']
    return made(header, lines).replace('|  |', '| |', 1)


def generate(folder: Path) -> dict[str, str]:
    r"""Returns all tables that the files of a folder give, by the name of their marks."""
    results: dict[str, Result] = {}
    for path in sorted(folder.glob('*.json')):
        value = schema.load(path)
        if schema.validate(value) == 'speed':
            results[path.stem] = value
    out: dict[str, str] = {}
    for device in ('cpu', 'cuda'):
        out[f'targets-{device}'] = targets(results, device)
        out[f'machine-{device}'] = machines(results, device)
        plots = [path.stem for path in sorted(folder.glob(f'*-{device}.svg'))]
        links = [f'![{name}]({folder.name}/{name}.svg)' for name in plots]
        out[f'plots-{device}'] = '\n'.join(links) or NOT_MEASURED
        for name, (part, make) in TABLES.items():
            result = results.get(f'{part}-{device}')
            out[f'{name}-{device}'] = NOT_MEASURED if result is None else make(result)
    return out


def write(folder: Path, check: bool = False) -> None:
    r"""Writes the tables: into the README for the committed results, else to ``tables.md``."""
    found = generate(folder)
    if folder.resolve() == RESULTS:
        update(README, found, 'python -m benchmarks.tables', check)
        return
    parts = [
        f'## {name}\n\n{text}\n'
        for name, text in found.items()
        if text != NOT_MEASURED and not name.startswith('plots-')  # which lie beside
    ]
    (folder / 'tables.md').write_text('\n'.join(parts), encoding='utf-8')
    print('\n'.join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description='Make the tables of the benchmarks.')
    parser.add_argument('folder', type=Path, nargs='?', default=RESULTS)
    parser.add_argument('--check', action='store_true', help='only whether the README shows them')
    args = parser.parse_args()
    write(args.folder, args.check)


if __name__ == '__main__':
    main()
