"""What an experiment will take, as far as it is known."""

from collections.abc import Sequence

from mrdib_pyg.training.experiment.description import Cell, Experiment
from mrdib_pyg.training.experiment.records import Records
from mrdib_pyg.training.experiment.selection import Stage, stage


def seconds_per_run(
    experiment: Experiment, cell: Cell, stages: Sequence[Stage]
) -> tuple[float | None, bool]:
    r"""Returns what a run of a cell takes, and whether it was measured.

    It is the mean of the finished runs of the cell; without any, that of the finished runs of its
    model on its data set; without any, the model's :obj:`epoch_seconds` in the description times
    the largest number of epochs, which is a bound; otherwise :obj:`None`.
    """
    cells = list(zip(experiment.cells, stages))
    for is_alike in (
        lambda other: other == cell,
        lambda other: (other.dataset, other.model) == (cell.dataset, cell.model),
    ):
        seconds = [x for other, at in cells if is_alike(other) for x in at.seconds if x > 0]
        if seconds:
            return sum(seconds) / len(seconds), True
    if cell.model in experiment.epoch_seconds:
        epochs = max(setting['fit'].get('epochs', 500) for setting in cell.settings)
        return experiment.epoch_seconds[cell.model] * epochs, False
    return None, False


def seconds_left(experiment: Experiment, stages: Sequence[Stage]) -> float | None:
    r"""Returns what all missing runs will take on one core, taking the models of which nothing is
    known for as costly as the others; :obj:`None` if nothing is known of any.
    """
    known, total, num_unknown = 0, 0.0, 0
    for cell, at in zip(experiment.cells, stages):
        count = at.num_runs - at.num_finished
        seconds, _ = seconds_per_run(experiment, cell, stages)
        if seconds is None:
            num_unknown += count
        else:
            known += count
            total += count * seconds
    if known == 0:
        return 0.0 if num_unknown == 0 else None
    return total * (1 + num_unknown / known)


def plan(experiment: Experiment, records: Records) -> str:
    r"""Returns a table of the runs of an experiment: how many there are and are finished, and what
    the missing ones will take.

    Args:
        experiment (Experiment): The experiment.
        records (Records): Its folder, which need not exist.
    """
    stages = [stage(experiment, cell, records) for cell in experiment.cells]
    halving = ' -> '.join(str(n) for n in [*experiment.trials, 1])
    lines = [
        f'{experiment.name}: {halving} settings by {experiment.monitor} on the validation edges, '
        f'then {len(experiment.seeds)} seeds on the test edges',
        f'{"data set":16}{"model":22}{"variant":16}{"runs":>6}{"finished":>10}  time of the rest',
    ]
    total, bound, num_unknown = 0.0, False, 0
    for cell, at in zip(experiment.cells, stages):
        count = at.num_runs - at.num_finished
        seconds, is_measured = seconds_per_run(experiment, cell, stages)
        if count == 0:
            left = '-'
        elif seconds is None:
            left = 'not known'
            num_unknown += count
        else:
            left = f'{"about" if is_measured else "at most"} {_hours(count * seconds)}'
            total += count * seconds
            bound = bound or not is_measured
        lines.append(
            f'{cell.dataset.name:15} {cell.model:21} {cell.variant:15} {at.num_runs:>5}'
            f'{at.num_finished:>10}  {left}'
        )
    num_runs, num_finished = (sum(getattr(s, x) for s in stages) for x in _COUNTS)
    about = 'at most' if bound else 'about'
    last = f'{num_runs} runs, {num_finished} finished'
    if total > 0:
        last += f'; the rest takes {about} {_hours(total)} of one core'
    if num_unknown > 0:
        last += f'{", and" if total > 0 else ";"} the time of {num_unknown} runs is not known yet'
    return '\n'.join([*lines, last])


_COUNTS = ('num_runs', 'num_finished')


def _hours(seconds: float) -> str:
    return f'{seconds / 3600:.1f} h' if seconds >= 3600 else f'{seconds / 60:.1f} min'
