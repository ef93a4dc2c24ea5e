r"""`mrdib serve` under load: wrk against the service on the loopback, a few seconds at each number
of connections. wrk is in Debian (`apt-get install wrk`); without it nothing is measured, and the
file says so.

    python -m benchmarks.serving.load --short
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.graphs import BABY, random_graph, to_hetero_data
from benchmarks.run import Part, part_main
from mrdib_pyg.datasets import load_dataset, write_folder
from mrdib_pyg.training import train_model

SCRIPT = Path(__file__).with_name('load.lua')
ADDRESSES = {
    'recommend': '/recommend?user=USER&k=20',
    'recommend with parts': '/recommend?user=USER&k=20&parts=true',
    'health': '/health',  # what HTTP costs by itself
}


def measure(part: Part) -> None:
    part.command = 'python -m benchmarks.serving.load'
    users, items, edges = part.pick(BABY, BABY, (60, 50, 300))
    case: dict[str, Any] = {'users': users, 'items': items}
    if shutil.which('wrk') is None:
        part.miss(case, 'all', 'wrk is not installed: apt-get install wrk')
        return
    seconds = part.pick(5, 1, 1)
    part.settings.update(seconds=seconds, service_threads=os.cpu_count(), wrk_threads=1)
    with tempfile.TemporaryDirectory() as folder:
        graph = random_graph(users, items, edges, 'power law')
        data = to_hetero_data(graph, {'image': 32, 'text': 32}, held_out=users)
        write_folder(data, f'{folder}/data', 'load')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of users at random without an edge
            data = load_dataset(f'{folder}/data')
        train_model(  # times do not depend on what it has learned
            data, 'multimodal_lightgcn', mrdib={}, test=False, out=f'{folder}/run', epochs=1,
            dataset=f'{folder}/data', batch_size=8192, progress=False,
        )  # fmt: skip
        with _Service(f'{folder}/run') as address:
            for name, path in ADDRESSES.items():
                for connections in part.pick((1, 8, 64), (1, 8), (1,)):
                    here = {**case, 'address': name, 'connections': connections}
                    if not part.out_of_time(here):
                        _load(part, here, address, path, seconds)


def _load(part: Part, case: dict, address: str, path: str, seconds: int) -> None:
    command = ['wrk', '-t', '1', '-c', str(case['connections']), '-d', f'{seconds}s', '-s']
    out = subprocess.run(
        [*command, str(SCRIPT), '--timeout', '10s', address],
        env={**os.environ, 'NUM_USERS': str(case['users']), 'ADDRESS': path},
        capture_output=True, text=True, timeout=seconds + 60,
    )  # fmt: skip
    match = re.search(r'^FIGURES (.*)$', out.stdout, re.MULTILINE)
    if out.returncode != 0 or match is None:
        part.miss(case, 'mrdib serve', f'wrk: {(out.stderr or out.stdout).strip()[:200]}')
        return
    requests, micros, *errors = (float(x) for x in match[1].split())
    *errors, p50, p90, p99, longest = errors
    values = {
        'requests_per_second': 1e6 * requests / micros, 'requests': requests,
        'errors': sum(errors), 'p50_ms': p50 / 1e3, 'p90_ms': p90 / 1e3, 'p99_ms': p99 / 1e3,
        'max_ms': longest / 1e3,
    }  # fmt: skip
    part.add(case, 'mrdib serve', 'ours', values=values)
    part.log(f'{case["address"]}, {case["connections"]} connections: {values}')
    part.write()


class _Service:
    r"""The service as a process of its own, from its start to its graceful end."""

    def __init__(self, run: str) -> None:
        command = [sys.executable, '-m', 'mrdib_pyg.cli', 'serve', run, '--port', '0']
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        assert self.process.stdout is not None
        match = re.search(r'http://\S+', self.process.stdout.readline())
        if match is None:
            raise RuntimeError('the service did not start')
        return match[0]

    def __exit__(self, *args: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
        if code != 0:
            raise RuntimeError(f'the service ended with the exit code {code}')


if __name__ == '__main__':
    part_main('load', measure)
