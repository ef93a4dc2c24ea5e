r"""One training step of every model, plain and with MRdIB, against the common implementation.

    python -m benchmarks.training.mrdib_cost --short

What MRdIB costs a step is the difference of two rows, of steps without and with it that took turns
often enough: one step of 700 ms differs from the next by as much as what is added. Its share is
taken of the step of the common implementation, which is what published shares refer to. Beside it
is what no implementation can do without: the arithmetic of the layer alone, what the step with it
has more of products and normal numbers than the plain one (some models read more rows for it) and,
of the plain step, its products and its optimizer alone (:mod:`benchmarks.training.step_products`).
"""

import functools
import itertools
from typing import Any

from torch_geometric.data import HeteroData

from benchmarks.graphs import case_of, load
from benchmarks.run import Part, part_main
from benchmarks.schema import ADDED, ARITHMETIC, OPERATORS, OURS, OURS_MRDIB, PRODUCTS, TURNS
from benchmarks.timer import describe
from benchmarks.training.backbones import (
    BATCH_SIZE,
    ROLES,
    SETTINGS,
    Batch,
    make_batches,
    subjects,
)
from benchmarks.training.step_products import Arithmetic, StepProducts, added_operators
from mrdib_pyg.nn.models import MODELS


def names() -> list[str]:
    r"""The models with a common implementation, and the others of this package."""
    return [*SETTINGS, *(name for name in MODELS if name not in SETTINGS)]


def measure(part: Part) -> None:
    part.settings.update(batch_size=BATCH_SIZE, channels=64)
    data = load(part).to(part.device)
    batches = make_batches(data)
    for name in names():
        case: dict[str, Any] = {'model': name, **case_of(part), 'task': 'step'}
        part.attempt(case, functools.partial(_measure, part, name, data, batches, case))


def _measure(
    part: Part, name: str, data: HeteroData, batches: list[Batch], case: dict[str, Any]
) -> None:
    makers, missing = subjects(name, data, part.device)
    for method, why in missing.items():
        if 'not in mrdib_pyg' in why:
            part.miss(case, method, why)
    rivals: dict[str, Any] = {}
    layer: Any = None
    for method, make in makers.items():
        try:
            subject = make()
        except Exception as e:
            part.miss(case, method, describe(e))
            continue
        if subject.step is not None:
            turn = itertools.cycle(batches)
            rivals[method] = functools.partial(_next, subject.step, turn)
        if method == OURS_MRDIB and subject.model is not None:
            layer = subject.model.mrdib
    settings: dict[str, Any] = {'warmup': 2, 'min_runs': 5, 'min_seconds': 0.3}
    part.time(case, rivals, ROLES, **settings)
    if part.device == 'cuda':  # what bounds a step there are not its products
        return
    is_long = not part.short or part.smallest
    entry = {**case, 'task': TURNS}
    if is_long and OURS_MRDIB in rivals and not part.has(entry):
        turns = {method: rivals[method] for method in (OURS, OURS_MRDIB)}
        part.time(entry, turns, ROLES, **{**settings, 'min_runs': 41, 'max_seconds': 45})
    for method, task in PRODUCTS.items():
        entry = {**case, 'task': task}
        if method in rivals and not part.has(entry):
            calls = StepProducts(rivals[method]).calls()
            # Not until the fastest has run for long: one is often a hundred times another.
            bounds = {'warmup': 1, 'min_runs': 7, 'min_seconds': 0.0}
            part.time(entry, calls, dict.fromkeys(calls, 'ours'), **bounds)
    entry = {**case, 'task': ADDED}
    if is_long and OURS_MRDIB in rivals and not part.has(entry):
        both = {method: StepProducts(rivals[method]) for method in (OURS, OURS_MRDIB)}
        part.time(entry, both, dict.fromkeys(both, 'ours'), **{**settings, 'min_runs': 11})
    entry = {**case, 'task': OPERATORS}
    if is_long and OURS_MRDIB in rivals and not part.has(entry) and not part.out_of_time(entry):
        for kind, share in added_operators(rivals[OURS], rivals[OURS_MRDIB]).items():
            part.add(entry, kind, 'ours', values={'ms': 1e3 * share.seconds, 'calls': share.calls})
        part.write()
    if layer is not None:
        alone = Arithmetic(layer, rivals[OURS_MRDIB])
        part.time({**case, 'task': ARITHMETIC}, {'MRdIB': alone}, {'MRdIB': 'ours'}, **settings)


def _next(step: Any, turn: Any) -> None:
    step(next(turn))


if __name__ == '__main__':
    part_main('mrdib_cost', measure)
