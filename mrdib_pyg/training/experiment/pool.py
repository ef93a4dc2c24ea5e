import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from typing import Any, NamedTuple

from mrdib_pyg.training.experiment.worker import Task, serve


class Slot(NamedTuple):
    r"""A worker process, and the pipe to it."""

    process: Any
    pipe: connection.Connection


class WorkerPool:
    r"""Processes of one thread each that do runs side by side.

    A worker that dies, as by the system for want of memory, fails its run alone and is replaced.
    All of them end with this process, in whatever way that ends.

    Args:
        num_workers (int): The number of processes.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._idle: list[Slot] = []
        self._busy: dict[str, Slot] = {}

    @property
    def has_room(self) -> bool:
        r"""Whether another run can be started."""
        return len(self._busy) < self.num_workers

    @property
    def num_running(self) -> int:
        r"""The number of runs that have been started and not been waited for."""
        return len(self._busy)

    def start(self, name: str, task: Task) -> None:
        r"""Gives a run to a worker."""
        while self._idle:
            slot = self._idle.pop()
            if slot.process.is_alive():
                break
        else:
            slot = _spawn()
        self._busy[name] = slot
        slot.pipe.send(task)

    def wait(self) -> list[tuple[str, str | None]]:
        r"""Waits until at least one run has ended, and returns the names of those that have, each
        with the reason if it failed.
        """
        ends = [end for slot in self._busy.values() for end in (slot.pipe, slot.process.sentinel)]
        ready = connection.wait(ends)
        out: list[tuple[str, str | None]] = []
        for name, slot in list(self._busy.items()):
            if slot.pipe not in ready and slot.process.sentinel not in ready:
                continue
            del self._busy[name]
            try:
                out.append((name, slot.pipe.recv()))
                self._idle.append(slot)
            except (EOFError, ConnectionResetError):
                slot.process.join()
                code = slot.process.exitcode
                how = f'by signal {-code}' if code < 0 else f'with exit code {code}'
                hint = '; was there enough memory? Try fewer workers' if code == -9 else ''
                out.append((name, f'its process ended {how}{hint}'))
        return out

    def close(self) -> None:
        r"""Ends all workers at once, with whatever they are doing."""
        slots = [*self._idle, *self._busy.values()]
        self._idle, self._busy = [], {}
        for slot in slots:
            slot.pipe.close()
            slot.process.terminate()
        for slot in slots:
            slot.process.join(5)
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()

    def __enter__(self) -> 'WorkerPool':
        return self

    def __exit__(self, *args: Any) -> None:
        with hold_interrupts():
            self.close()


def _spawn() -> Slot:
    context = multiprocessing.get_context('spawn')
    pipe, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    # A worker starts with what is set here: one thread, since two workers on two threads each
    # would wait for each other; few lines of progress for its logs; and no interest in Ctrl-C
    # from its first moment on.
    settings = {'OMP_NUM_THREADS': '1', 'TQDM_MININTERVAL': '10'}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        with hold_interrupts():
            process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    theirs.close()  # else the end of the process would not be seen
    return Slot(process, pipe)


@contextmanager
def hold_interrupts() -> Iterator[None]:
    r"""Puts off Ctrl-C until the end of the block; processes that it starts never hear of it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    # It is started with the first process, and clears the mask then.
    resource_tracker.ensure_running()
    held: list[Any] = []
    # The mask is for the processes, which inherit it. It does not keep the signal from the other
    # threads here, such as that of a progress bar; what they catch is held by the handler.
    handler = signal.signal(signal.SIGINT, lambda *args: held.append(args))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held and callable(handler):
            handler(*held[0])
