"""What the tests of kills share, for a process of their own that has imported everything: children
are forked from it, so that a kill costs milliseconds.
"""

import os
import signal
import threading

from tqdm import tqdm


def fork(work) -> int:
    """Starts a child that does the work and ends; returns its number."""
    pid = os.fork()
    if pid == 0:
        try:
            # The lock of tqdm is one between processes: a child that is killed while it holds it
            # would leave it locked, and all later children would wait for it.
            tqdm.set_lock(threading.RLock())
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def die_at_call(n, *functions):
    """Kills this process right before or right after its n-th call of functions, each given as the
    module and the name.
    """
    calls = [0]

    def counted(function):
        def call(*args, **kwargs):
            for part in (lambda: None, lambda: function(*args, **kwargs)):
                out = part()
                calls[0] += 1
                if calls[0] == n:
                    os.kill(os.getpid(), signal.SIGKILL)
            return out

        return call

    for owner, name in functions:
        setattr(owner, name, counted(getattr(owner, name)))
