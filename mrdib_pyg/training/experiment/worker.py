"""What a worker process does: one run after the other, each with a log of its own."""

import functools
import json
import os
import os.path as osp
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from mrdib_pyg.training.experiment.records import Records, job_id

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
    :func:`mrdib_pyg.training.run` returns.
    """
    from mrdib_pyg.training.freed_memory import keep_freed_memory
    from mrdib_pyg.training.run import run

    keep_freed_memory()
    kwargs = {key: value for key, value in job['dataset'].items() if key != 'name'}
    return run(
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


def serve(pipe: connection.Connection) -> None:
    r"""Does the tasks that come through a pipe until it is closed; ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    # Its own lock is one between processes, which would be left behind by one that is ended.
    tqdm.set_lock(threading.RLock())
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        _write_to_log(task)
        reason = execute(task)
        sys.stdout.flush()
        sys.stderr.flush()
        pipe.send(reason)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _write_to_log(task: Task) -> None:
    path = Records(task.folder).path(job_id(task.job), '.log')
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'wb') as file:  # the descriptors themselves, for libraries in C as well
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print(json.dumps(task.job), flush=True)


@functools.lru_cache(maxsize=1)
def _load(path: str, kwargs: str) -> Any:
    from mrdib_pyg.datasets import load_dataset

    return load_dataset(path, **json.loads(kwargs))


def locate(path: str, root: str | Path) -> str:
    r"""Returns the name of a data set as it is, and its folder below :obj:`root`."""
    from mrdib_pyg.datasets import DATASETS

    # Joined as text: './tiktok' is a folder, where 'tiktok' would be a name.
    return path if path in DATASETS else osp.join(root, osp.expanduser(path))
