import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mrdib_pyg.datasets import DATASETS, data_hash, load_dataset
from mrdib_pyg.evaluation import held_out_edges
from mrdib_pyg.training.experiment.cost import seconds_left
from mrdib_pyg.training.experiment.description import Experiment
from mrdib_pyg.training.experiment.pool import WorkerPool
from mrdib_pyg.training.experiment.records import Records, job_id
from mrdib_pyg.training.experiment.selection import Stage, stage
from mrdib_pyg.training.experiment.worker import Task, execute, locate


class Failure(NamedTuple):
    r"""A run, or the selection of a model's variant, that failed.

    Args:
        name (str): What failed.
        reason (str): Why.
    """

    name: str
    reason: str


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    root: str | Path = '.',
    workers: int = 1,
    device: str = 'cpu',
    progress: bool = True,
    runner: Callable[..., dict[str, Any]] | None = None,
    compile: bool = False,
) -> list[Failure]:
    r"""Does all runs of an experiment that have not been done yet.

    Every finished run is a file named by a hash of its job: after an interruption, a failure or a
    change of the description the same call does what is missing. The setting of a model and
    variant is chosen as :func:`stage` says; the test edges are read by the runs of the chosen
    setting alone, once each.

    Args:
        experiment (Experiment): The experiment.
        out (str or Path): The folder of its records and logs.
        root (str or Path, optional): What relative folders of data sets are relative to.
            (default: ``'.'``)
        workers (int, optional): The number of processes, of one thread each. (default: :obj:`1`)
        device (str, optional): Where to train. (default: ``'cpu'``)
        progress (bool, optional): If set to :obj:`False`, no progress bar is shown.
            (default: :obj:`True`)
        runner (Callable, optional): Does a run in this process, given its job, its data set and
            the device, in place of the workers. (default: :obj:`None`)
        compile (bool, optional): If set to :obj:`True`, trainings that are yet to run are
            compiled, as by :func:`~mrdib_pyg.training.fit`. As the device, it is how a run is
            done: finished runs without it count. (default: :obj:`False`)

    Returns:
        List[Failure]: What failed, in the order of the failures; everything that does not depend
        on it was done nevertheless.

    Raises:
        ValueError: If a setting is out of range, a data set is missing or was another one when
            earlier runs in :obj:`out` were made, or another process works in :obj:`out`. Nothing
            has been written.
    """
    if workers < 1:
        raise ValueError(f"'workers' must be at least 1 (got {workers})")
    settings = [setting for cell in experiment.cells for setting in cell.settings]
    if compile and any(setting['fit'].get('modality_dropout', 0) > 0 for setting in settings):
        raise ValueError(
            "'compile' and the description's 'fit.modality_dropout' exclude each other: a compiled "
            'step takes the same masks each time'
        )
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"'{out}' is a file; name a folder")
    records = Records(out)
    if runner is None:  # with a runner of the caller's, so are the data
        check_data(experiment, records, root)
    with _lock(Path(out)):
        records.remove_leftovers()
        loop = _Loop(experiment, records, root, device, compile, progress)
        return loop.run(workers, runner)


def check_data(experiment: Experiment, records: Records, root: str | Path = '.') -> dict[str, str]:
    r"""Loads the data sets of an experiment and returns the hash of each.

    Raises:
        ValueError: If one is missing, cannot be evaluated, or is not the one that finished runs
            were made of.
    """
    out: dict[str, str] = {}
    for source in experiment.datasets:
        path = locate(source.path, root)
        if path not in DATASETS and not Path(path).is_dir():
            raise ValueError(
                f"the data set '{source.name}' is not in '{Path(path).absolute()}'; name the "
                f"folder that '{source.path}' is relative to by --root ('root')"
            )
        try:
            data = load_dataset(path, **source.kwargs)
        except TypeError as e:
            raise ValueError(f"the data set '{source.name}': {e}") from None
        for split in ('val', 'test'):
            held_out_edges(data, split)
        if max(experiment.k) > data['item'].num_nodes:
            raise ValueError(
                f"'k' is {experiment.k} but '{source.name}' has {data['item'].num_nodes} items to "
                f'rank; leave the larger ones out'
            )
        out[source.name] = data_hash(data)
    for cell in experiment.cells:
        name = cell.dataset.name
        for trial, seed, test in _all_runs(experiment, len(cell.settings)):
            record = records.load(experiment.job(cell, trial, seed, test))
            if record is not None and 'result' in record:
                found = record['result']['data_hash']
                if found != out[name]:
                    raise ValueError(
                        f"finished runs in '{records.folder}' are of other data named '{name}' "
                        f'(hash {found[:12]}, now {out[name][:12]}); name another folder by --out, '
                        f'or the data they are of'
                    )
    return out


def _all_runs(experiment: Experiment, num_trials: int) -> Iterator[tuple[int, int, bool]]:
    for trial in range(num_trials):
        for seed in experiment.selection_seeds:
            yield trial, seed, False
        for seed in experiment.seeds:
            yield trial, seed, True


class _Loop:
    def __init__(
        self,
        experiment: Experiment,
        records: Records,
        root: str | Path,
        device: str,
        compile: bool,
        progress: bool,
    ) -> None:
        self.experiment = experiment
        self.records = records
        self.root = root
        self.device, self.compile = device, compile
        self.failures: dict[str, Failure] = {}
        self.stages: list[Stage] = []
        self.labels: dict[str, str] = {}
        self.tasks: dict[str, Task] = {}
        self.bar = tqdm(disable=not progress, unit='run', bar_format=_BAR)

    def run(self, workers: int, runner: Callable[..., dict[str, Any]] | None) -> list[Failure]:
        self.refresh()
        self.bar.total = sum(s.num_runs for s in self.stages)
        self.bar.n = sum(s.num_finished for s in self.stages)
        with self.bar, WorkerPool(workers) as pool:
            while True:
                queue = self.queue()
                while queue and pool.has_room:
                    name, task = queue.pop(0)
                    self.tasks[name] = task
                    if runner is None:
                        pool.start(name, task)
                    else:
                        self.finish(name, execute(task, runner))
                        break
                if pool.num_running > 0:
                    self.show(workers)
                    for name, reason in pool.wait():
                        self.finish(name, reason)
                elif not queue and not self.queue():
                    break
        return [*self.failures.values(), *self.problems()]

    def refresh(self) -> None:
        r"""Reads where every cell stands."""
        self.stages = [stage(self.experiment, c, self.records) for c in self.experiment.cells]

    def queue(self) -> list[tuple[str, Task]]:
        r"""Returns the runs that can start, those of the first model first."""
        out: dict[str, Task] = {}
        for cell, at in zip(self.experiment.cells, self.stages):
            path = locate(cell.dataset.path, self.root)
            for job in at.jobs:
                name = job_id(job)
                self.labels.setdefault(
                    name, f'{cell.dataset.name} {cell.model} {cell.variant} seed {job["seed"]}'
                )
                if name not in self.tasks:
                    folder = str(self.records.folder)
                    out.setdefault(name, Task(job, path, folder, self.device, self.compile))
        return list(out.items())

    def finish(self, name: str, reason: str | None) -> None:
        r"""Takes note of a run that has ended, with the reason if it failed."""
        if reason is not None:
            self.records.save_failure(self.tasks[name].job, reason)
            self.failures[name] = Failure(f'{self.labels[name]} ({name})', reason)
        self.refresh()
        self.bar.n = sum(s.num_finished for s in self.stages)
        self.bar.refresh()

    def problems(self) -> list[Failure]:
        r"""Returns the selections that cannot go on."""
        return [
            Failure(f'{cell.dataset.name} {cell.model} {cell.variant}', at.problem)
            for cell, at in zip(self.experiment.cells, self.stages)
            if at.problem is not None
        ]

    def show(self, workers: int) -> None:
        seconds = seconds_left(self.experiment, self.stages)
        left = '?' if seconds is None else tqdm.format_interval(seconds / workers)
        failed = f', {len(self.failures)} failed' if self.failures else ''
        self.bar.set_postfix_str(f'left about {left}{failed}')


_BAR = '{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs, {elapsed}{postfix}'


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    r"""Keeps a second process out: both would do the same runs."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == 'win32':
        yield
        return
    import fcntl

    with open(folder / '.lock', 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another process is at work in '{folder}'; wait for it") from None
        yield
