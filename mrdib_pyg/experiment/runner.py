"""What an experiment does: one run after the other in processes of one thread each, resumable."""

import functools
import json
import multiprocessing
import os
import os.path as osp
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData
from tqdm import tqdm

from mrdib_pyg.datasets import DATASETS, data_hash, load_dataset
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.experiment.description import Cell, Experiment
from mrdib_pyg.experiment.records import Records, job_id
from mrdib_pyg.experiment.selection import Stage, stage
from mrdib_pyg.files import lock_folder, remove_leftovers
from mrdib_pyg.interactions import held_out_edges

Job = dict[str, Any]


class Task(NamedTuple):
    r"""A run to be done: the job, where its data are, where its record goes, the device, and
    whether steps are compiled.
    """

    job: Job
    path: str
    folder: str
    device: str
    compile: bool = False


def run_job(job: Mapping[str, Any], path: str, device: str) -> dict[str, Any]:
    r"""Trains and evaluates what a job asks for, and returns what
    :func:`mrdib_pyg.training.train_model` returns.
    """
    from mrdib_pyg.training import train_model
    from mrdib_pyg.training._freed_memory import keep_freed_memory

    keep_freed_memory()
    kwargs = {key: value for key, value in job['dataset'].items() if key != 'name'}
    return train_model(
        _load(path, json.dumps(kwargs)),
        job.get('class', job['model']),
        settings=job['settings'],
        mrdib=job['mrdib'],
        seed=job['seed'],
        k=job['k'],
        test=job['test'],
        per_user=job['test'],
        device=device,
        dataset=job['dataset']['name'],
        weights=job['weights'],
        monitor=job['monitor'],
        **job['fit'],
    )


@functools.lru_cache(maxsize=1)
def _load(path: str, kwargs: str) -> HeteroData:
    return load_dataset(path, **json.loads(kwargs))


def execute(task: Task, runner: Callable[..., dict[str, Any]] = run_job) -> str | None:
    r"""Does a run and writes its record.

    Args:
        task (Task): The run.
        runner (Callable, optional): Does it. (default: :func:`run_job`)

    Returns:
        str: Why it failed, or :obj:`None` if it has not.
    """
    records = Records(task.folder)
    job = task.job
    if task.compile:
        job = {**job, 'fit': {**job['fit'], 'compile': True}}
    try:
        result = runner(job, task.path, task.device)
        if 'val' not in result:
            raise ValueError('there are no validation edges to choose a setting by')
        records.save(task.job, result)
        return None
    except Exception as e:
        traceback.print_exc()  # into the log
        reason = ' '.join(f'{type(e).__name__}: {e}'.split())
        if isinstance(e, FloatingPointError) and not task.job['test']:
            records.save_diverged(task.job, reason)
            return None
        return reason


def locate(path: str, root: str | Path) -> str:
    r"""Returns the name of a data set as it is, and its folder below :obj:`root`."""
    # Joined as text: './tiktok' is a folder, where 'tiktok' would be a name.
    return path if path in DATASETS else osp.join(root, osp.expanduser(path))


class Workers:
    r"""Processes of one thread each that do runs side by side.

    Each is an executor of its own: a process that dies, as by the system for want of memory, fails
    its run alone and is replaced. All of them end with this process, in whatever way that ends.

    Args:
        num_workers (int): The number of processes.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.busy: dict[Future[str | None], tuple[str, ProcessPoolExecutor]] = {}
        self._idle: list[ProcessPoolExecutor] = []
        # Nothing is ever sent: a worker ends when the other end is closed.
        self._end, self._ours = multiprocessing.get_context('spawn').Pipe(duplex=False)

    @property
    def has_room(self) -> bool:
        r"""Whether another run can be started."""
        return len(self.busy) < self.num_workers

    def start(self, name: str, task: Task) -> None:
        r"""Gives a run to a worker."""
        if self._idle:
            executor = self._idle.pop()
            with suppress(BrokenProcessPool):
                self.busy[executor.submit(_work, task)] = name, executor
                return
        context = multiprocessing.get_context('spawn')
        executor = ProcessPoolExecutor(1, context, _start_worker, (self._end,))
        with _as_a_worker_starts():
            self.busy[executor.submit(_work, task)] = name, executor

    def wait(self) -> list[tuple[str, str | None]]:
        r"""Waits until at least one run has ended, and returns the names of those that have, each
        with the reason if it failed.
        """
        out: list[tuple[str, str | None]] = []
        for future in wait_for(self.busy, return_when=FIRST_COMPLETED).done:
            name, executor = self.busy.pop(future)
            try:
                out.append((name, future.result()))
                self._idle.append(executor)
            except BrokenProcessPool:
                reason = 'its process was ended; was there enough memory? Try fewer workers'
                out.append((name, reason))
        return out

    def __enter__(self) -> 'Workers':
        return self

    def __exit__(self, *args: Any) -> None:
        self._ours.close()  # ends all workers at once, with whatever they are doing
        for executor in [*self._idle, *(executor for _, executor in self.busy.values())]:
            executor.shutdown()
        self._end.close()


@contextmanager
def _as_a_worker_starts() -> Iterator[None]:
    # One thread, since two workers on two threads each would wait for each other; few lines of
    # progress for its logs; and no interest in Ctrl-C from its first moment on: it inherits the
    # mask, and this process, which ends it, hears of the signal afterwards.
    settings = {'OMP_NUM_THREADS': '1', 'TQDM_MININTERVAL': '10'}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    has_mask = hasattr(signal, 'pthread_sigmask')
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if has_mask else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker(end: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(end,), daemon=True).start()
    torch.set_num_threads(1)
    # Its own lock is one between processes, which would be left behind by one that is ended.
    tqdm.set_lock(threading.RLock())


def _end_with_parent(end: Any) -> None:
    with suppress(EOFError, OSError):
        end.recv_bytes()
    os._exit(1)


def _work(task: Task) -> str | None:
    path = Records(task.folder).path(job_id(task.job), '.log')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link is not followed
    with open(path, 'xb') as file:  # the descriptors themselves, for libraries in C as well
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print(json.dumps(task.job), flush=True)
    reason = execute(task)
    sys.stdout.flush()
    sys.stderr.flush()
    return reason


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
    hashes: dict[str, str] = {}
    if runner is None:  # with a runner of the caller's, so are the data
        hashes = check_data(experiment, records, root)
    with lock_folder(out):
        remove_leftovers(records.folder / 'runs')
        for source in experiment.datasets if hashes else []:
            if records.popularity(source.name, hashes[source.name], experiment.k) is None:
                data = load_dataset(locate(source.path, root), **source.kwargs)
                found = by_popularity(data, experiment.k)
                records.save_popularity(source.name, hashes[source.name], found)
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


def by_popularity(data: HeteroData, k: Sequence[int]) -> dict[str, float]:
    r"""Returns the test metrics of ranking all items by their number of training edges: the floor
    that a model has to pass. Of equals, the item of lower id is first.
    """
    if ('user', 'test', 'item') not in data.edge_types:
        return {}
    item = data['user', 'rates', 'item'].edge_index[1]
    count = torch.bincount(item, minlength=data['item'].num_nodes).double().unsqueeze(1)
    user = torch.ones(data['user'].num_nodes, 1, dtype=torch.double)
    model = SimpleNamespace(embed=lambda: SimpleNamespace(user=user, item=count))
    return evaluate(model, data, 'test', k=list(k))


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
        with self.bar, Workers(workers) as pool:
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
                if pool.busy:
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
