"""Runs of a benchmark, one after the other, whose file grows with each and is continued."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from benchmarks import schema
from mrdib_pyg.datasets import data_hash, load_dataset
from mrdib_pyg.files import write_atomic
from mrdib_pyg.training._run import provenance

Spec = dict[str, Any]


def save(path: Path, result: Spec) -> None:
    """Checks a result and writes it whole."""
    schema.validate(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(result, indent=1) + '\n').encode())


def run_cells(
    dataset: str,
    path: Path,
    settings: Spec,
    variants: Spec,
    cells: list[Spec],
    measure: Callable[[Spec, HeteroData, Spec], Spec],
) -> Spec:
    """Runs the cells that the file does not have yet, and writes it after each."""
    data = load_dataset(dataset)
    head = {'dataset': Path(dataset).name, 'data_hash': data_hash(data)}
    # As they are read back: to be compared with the file.
    head = json.loads(json.dumps({**head, 'settings': settings, 'variants': variants}))
    out: Spec = {**head, **provenance(), 'complete': False, 'runs': []}
    if path.exists():
        out = json.loads(path.read_text())
        if any(out[key] != value for key, value in head.items()):
            raise SystemExit(f"'{path}' was made with other data or settings; name another file")
    done = [{key: run[key] for key in cells[0]} for run in out['runs']]
    todo = [cell for cell in cells if cell not in done]
    for i, cell in enumerate(todo, start=1):
        run = measure(cell, data, settings)
        out['runs'].append(run)
        # In the order of the cells, also where some of them are measured anew.
        out['runs'].sort(key=lambda x: cells.index({key: x[key] for key in cells[0]}))
        out['complete'] = i == len(todo)
        save(path, out)
        value = run['test'][f'recall@{settings["k"]}']
        print(f'{i}/{len(todo)} {" ".join(map(str, cell.values()))}: {value:.4f}', flush=True)
    return out
