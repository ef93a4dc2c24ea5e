r"""Draws the plots of ``benchmarks/README.md`` from the JSON files, with the extra ``[report]``.

python -m benchmarks.plot [FOLDER]
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from benchmarks import schema
from benchmarks.schema import RESULTS
from benchmarks.targets import extra_bytes

COLORS = {'ours': '#2166ac', 'baseline': '#4d4d4d', 'rival': '#b2b2b2'}
#: Lighter shades for the further methods of ours.
SHADES = ('#2166ac', '#67a9cf', '#a6cde3', '#d1e5f0')
#: Longer bars are cut, and say so.
_WIDEST = 2.0
#: By file: the tasks that are drawn, and the entry of a case that names its group of bars.
BARS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    'propagation': (('forward', 'forward+backward'), ('graph', 'skew', 'channels', 'dtype')),
    'pid_loss': (('all edges, forward+backward',), ('graph', 'channels', 'modalities')),
    'mrdib_cost': (('step',), ('model',)),
    'training': (('epoch', 'evaluation'), ('model',)),
    'topk': (('top-k', 'evaluation'), ('graph',)),
}


def bars(result: dict[str, Any], path: Path) -> bool:
    r"""Draws the times of every case as a share of the baseline's, a panel for each task."""
    tasks, keys = BARS[result['benchmark']]
    panels = []
    for task in tasks:
        groups: dict[str, dict[str, tuple[str, float]]] = {}
        for row in result['rows']:
            case = row['case']
            if case.get('task') == task and 'time' in row and _is_shown(case):
                label = ' '.join(str(case[key]) for key in keys if key in case)
                entry = (row['role'], row['time']['median'])
                groups.setdefault(label, {})[row['method']] = entry
        groups = {k: g for k, g in groups.items() if any(r == 'baseline' for r, _ in g.values())}
        if groups:
            panels.append((task, groups))
    if len(panels) == 0:
        return False
    height = sum(1.2 + 0.16 * sum(len(g) + 1 for g in groups.values()) for _, groups in panels)
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(8, height),
        squeeze=False,
        height_ratios=[sum(len(g) + 1 for g in groups.values()) for _, groups in panels],
    )
    for axis, (task, groups) in zip(axes[:, 0], panels):
        _panel(axis, task, groups)
    figure.suptitle(f'{result["benchmark"]} on {result["device"]}: time, baseline = 1')
    _save(figure, path)
    return True


def _is_shown(case: dict[str, Any]) -> bool:
    return case.get('dtype', 'float32') == 'float32' and case.get('channels', 64) in (8, 64)


def _panel(axis: Any, task: str, groups: dict[str, dict[str, tuple[str, float]]]) -> None:
    ours = list(dict.fromkeys(m for g in groups.values() for m in g if g[m][0] == 'ours'))
    at, ticks, labels = 0.0, [], []
    for label, group in groups.items():
        base = next(time for role, time in group.values() if role == 'baseline')
        order = {'ours': 0, 'baseline': 1, 'rival': 2}
        for method, (role, time) in sorted(group.items(), key=lambda m: order[m[1][0]]):
            color = SHADES[ours.index(method) % 4] if role == 'ours' else COLORS[role]
            ratio = time / base
            axis.barh(at, min(ratio, _WIDEST), color=color, height=0.9)
            text = f' {ratio:.2f}' + (' (cut)' if ratio > _WIDEST else '')
            axis.text(min(ratio, _WIDEST), at, text, va='center', fontsize=6)
            ticks.append(at)
            labels.append(f'{method} ({label})' if len(groups) > 1 else method)
            at += 1
        at += 1
    axis.axvline(1.0, color='black', linewidth=0.8)
    axis.set_yticks(ticks, labels, fontsize=6)
    axis.set_xlim(0, _WIDEST * 1.15)
    axis.invert_yaxis()
    axis.set_title(task, fontsize=9)


def scaling(result: dict[str, Any], path: Path) -> bool:
    r"""Draws time and memory over the number of edges, log-log, with a line of slope one."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in result['rows']:
        case = row['case']
        if case['task'] == 'slope':
            continue
        if 'memory' in row:
            value = max(extra_bytes(row), 1) / 2**30
        else:
            value = row['time']['median']
        points.setdefault((case['work'], case['task']), []).append((case['edges'], value))
    if len(points) == 0:
        return False
    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for (work, task), line in points.items():
        axis = axes[1] if task == 'memory' else axes[0]
        x, y = zip(*sorted(line))
        axis.plot(x, y, marker='o', markersize=3, label=f'{work}, {task}')
        axis.plot(x, [y[-1] * n / x[-1] for n in x], color='gray', linestyle=':', linewidth=0.7)
    for axis, label in zip(axes, ('seconds', 'GiB')):
        axis.set(xscale='log', yscale='log', xlabel='edges', ylabel=label)
        axis.legend(fontsize=6)
    figure.suptitle(f'{result["device"]}; dotted: slope one')
    _save(figure, path)
    return True


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={'Date': None})
    plt.close(figure)
    print(f'wrote {path}')


def write(folder: Path) -> list[Path]:
    r"""Draws what the files of a folder give, next to them."""
    matplotlib.use('Agg')
    plt.rcParams['svg.hashsalt'] = 'mrdib_pyg'  # the same figures give the same file
    out = []
    for path in sorted(folder.glob('*.json')):
        result = schema.load(path)
        if not isinstance(result, dict) or 'benchmark' not in result:
            continue
        make = {**dict.fromkeys(BARS, bars), 'scaling': scaling}.get(result['benchmark'])
        target = path.with_suffix('.svg')
        try:
            if make is not None and make(result, target):
                out.append(target)
        except Exception as e:  # a plot must not cost the results
            print(f'{path}: no plot: {type(e).__name__}: {e}')
    return out


if __name__ == '__main__':
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
