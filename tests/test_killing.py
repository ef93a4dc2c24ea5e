"""What a killed child held is not held against the next one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])  # of killing.py

CHILDREN = """
import os, signal
from killing import fork
from tqdm import tqdm

def use():
    for _ in tqdm(range(2), disable=True):
        pass

def die():
    tqdm.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)

use()
print(*(os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1]) for work in (die, use)))
"""


def test_lock_of_a_killed_child():
    out = subprocess.run(
        [sys.executable, '-c', CHILDREN],
        capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': PATHS}, timeout=60,
    )  # fmt: skip
    assert out.stdout.split() == ['-9', '0'], out.stderr
