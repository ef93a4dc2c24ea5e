r"""An epoch and an evaluation of every model, its peak memory, and those of the common
implementation and of models from elsewhere.

    python -m benchmarks.training.epochs --short

An epoch of this package is a call of :func:`~mrdib_pyg.training.fit`, its preparations included.
*evaluation* is that of the validation edges. *evaluation after an epoch* is what each side does:
the common implementation evaluates validation and test edges, this package the validation edges.
"""

import functools
from typing import Any

from torch_geometric.data import HeteroData

from benchmarks.graphs import case_of, describe_data, load, make_data
from benchmarks.run import Part, part_main
from benchmarks.schema import COMMON, OURS, OURS_MRDIB, OURS_TRAINED
from benchmarks.timer import describe, peak_of
from benchmarks.training.backbones import ROLES, Subject, make_batches, subjects
from benchmarks.training.mrdib_cost import names

#: Epochs of one timed call on CUDA, where an epoch is short and its preparations are not.
_EPOCHS = {'cpu': 1, 'cuda': 2}
#: Wall seconds of a case; one round is always run.
_SECONDS = {'cpu': 30.0, 'cuda': 7.0}
MEASURED = (OURS, OURS_MRDIB, OURS_TRAINED, COMMON)
#: Models whose evaluation is timed on CUDA, where time is short: all rank tables of one size.
_RANKED = ('lightgcn',)


def measure(part: Part) -> None:
    epochs = 1 if part.smallest else _EPOCHS[part.device]
    part.settings.update(batch_size=2048, channels=64, epochs_per_call=epochs)
    data = load(part).to(part.device)
    for name in names():
        case: dict[str, Any] = {'model': name, **case_of(part)}
        part.attempt(case, functools.partial(_measure, part, name, data, case, epochs))
    # Last, because no target is about it.
    for name in names() if not part.short or part.smallest else []:
        entry: dict[str, Any] = {'model': name, **case_of(part), 'task': 'memory'}
        makers = subjects(name, data, part.device)[0]
        roles = {method: ROLES[method] for method in MEASURED if method in makers}
        target = 'benchmarks.training.epochs:measure_memory'
        arguments = roles, target, name, describe_data(part)
        part.attempt(entry, functools.partial(part.peaks, entry, *arguments))


def _measure(part: Part, name: str, data: HeteroData, case: dict[str, Any], epochs: int) -> None:
    tasks = ('epoch', 'evaluation', 'evaluation after an epoch')
    if all(part.has({**case, 'task': task}) for task in tasks):
        return
    makers, missing = subjects(name, data, part.device, epochs)
    for method, why in missing.items():
        part.miss(case, method, why)
    made: dict[str, Subject] = {}
    for method, make in makers.items():
        try:
            made[method] = make()
        except Exception as e:
            part.miss(case, method, describe(e))
    # An epoch takes long: each is warmed up by a single step.
    batch = make_batches(data, count=1)[0]
    for subject in made.values():
        if subject.step is not None:
            subject.step(batch)
    rivals = {method: s.epoch for method, s in made.items() if s.epoch is not None}
    if not part.short or part.smallest:
        part.time(
            {**case, 'task': 'epoch'},
            rivals,
            ROLES,
            warmup=0,
            min_runs=3,
            min_seconds=0.0,
            max_seconds=_SECONDS[part.device],
            repeats=epochs,
        )
    if part.device == 'cuda' and name not in _RANKED:
        return
    rankers = {
        method: made[method].evaluate
        for method in (OURS, COMMON)
        if method in made and made[method].evaluate is not None
    }
    settings: dict[str, Any] = {'warmup': 0, 'min_runs': 3, 'min_seconds': 0.0}
    calls = {method: functools.partial(fn, 'val') for method, fn in rankers.items()}
    part.time({**case, 'task': 'evaluation'}, calls, ROLES, **settings)
    if not part.short or part.smallest:
        calls[COMMON] = lambda: [rankers[COMMON](split) for split in ('val', 'test')]
        if COMMON in rankers:
            entry = {**case, 'task': 'evaluation after an epoch'}
            part.time(entry, calls, ROLES, **settings)


def measure_memory(
    method: str, name: str, description: tuple[Any, ...], device: str
) -> dict[str, Any]:
    r"""The peak memory of some steps and one evaluation, the data not counted; on CPU for a process
    of its own.
    """
    data = make_data(*description).to(device)
    make = subjects(name, data, device)[0][method]

    def work() -> None:
        subject = make()
        assert subject.step is not None and subject.evaluate is not None
        for batch in make_batches(data, count=3):
            subject.step(batch)
        subject.evaluate('val')

    return peak_of(work, device)


if __name__ == '__main__':
    part_main('training', measure)
