"""A process that writes version after version is killed at random: readers find whole ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])  # of killing.py
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': PATHS}

# Readers are children too: a library that has threads of its own must not be forked.
KILLER = """
import itertools, os, random, shutil, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import pyarrow.parquet, safetensors.torch, torch
from killing import fork
from mrdib_pyg.serving import ItemIndex, export_model, load_export, save_recommendations
from mrdib_pyg.serving.recommendations import Recommendations
from mrdib_pyg.training.checkpoint import load_checkpoint, save_checkpoint

torch.set_num_threads(1)
folder, num_kills = Path(sys.argv[1]), int(sys.argv[2])
N = 500

def write(first, last=None):
    for n in itertools.count(first) if last is None else range(first, last + 1):
        x = torch.full((N, 4), float(n))
        block = Recommendations(torch.arange(N), torch.arange(N).view(-1, 1), x[:, :1])
        save_recommendations([block, block], folder / 'recs.csv')
        save_recommendations([block, block], folder / 'recs.parquet')
        ItemIndex(x).save(folder / 'index.safetensors')
        save_checkpoint(folder / 'best.pt', {'x': x})
        emb = SimpleNamespace(user=x, item=x)
        export_model(SimpleNamespace(num_users=N, num_items=N, config={}, embed=lambda: emb),
               folder / f'export-{n}')

def versions():
    found = {}
    if (folder / 'recs.csv').exists():
        lines = (folder / 'recs.csv').read_text().splitlines()[1:]
        assert len(lines) == 2 * N
        found['csv'] = [float(line.split(',')[3]) for line in lines]
    if (folder / 'recs.parquet').exists():
        table = pyarrow.parquet.read_table(folder / 'recs.parquet')
        assert len(table) == 2 * N
        found['parquet'] = table['score'].to_pylist()
    if (folder / 'index.safetensors').exists():
        found['index'] = ItemIndex.load(folder / 'index.safetensors').item.view(-1).tolist()
    if (folder / 'best.pt').exists():
        found['checkpoint'] = load_checkpoint(folder / 'best.pt')['x'].view(-1).tolist()
    for path in folder.glob('export-*'):
        loaded = load_export(path)
        found[path.name] = loaded.user.view(-1).tolist() + loaded.item.view(-1).tolist()
    for name, values in found.items():
        assert len(set(values)) == 1, name
    return {name: int(values[0]) for name, values in found.items()}

def read(before):
    now = versions()
    for name, version in before.items():
        assert now[name] >= version, (name, before, now)
    (folder / 'seen').write_text(repr(now))

random.seed(0)
start = time.monotonic()
os.waitpid(fork(lambda: write(1, 3)), 0)
whole = (time.monotonic() - start) / 3  # seconds of a version: machines differ
before, leftovers = {}, 0
for i in range(num_kills):
    first = 1 + max(before.values(), default=0)
    for path in folder.glob('export-*'):  # the name of the next must be free
        if int(path.name.split('-')[1]) >= first:
            shutil.rmtree(path)
    pid = fork(lambda: write(first))
    time.sleep(random.uniform(0.0, 2 * whole))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), 'the writer ended by itself'
    leftovers += any(path.name.endswith('.tmp') for path in folder.iterdir())
    for path in folder.glob('.*.tmp'):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, status = os.waitpid(fork(lambda: read(before)), 0)
    assert os.waitstatus_to_exitcode(status) == 0, 'what is there is not whole'
    before = eval((folder / 'seen').read_text())
    (folder / 'seen').unlink()
print(len(before), max(before.values(), default=0), leftovers)
"""


@pytest.mark.slow
def test_kill_a_writer_at_random(tmp_path):
    for name in ('pyarrow', 'safetensors'):
        pytest.importorskip(name)
    out = subprocess.run(
        [sys.executable, '-c', KILLER, str(tmp_path), '50'],
        capture_output=True, text=True, env=ENV, timeout=600,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    num_files, last, leftovers = map(int, out.stdout.split())
    assert num_files > 5 and last > 10  # it did write on
    assert leftovers > 10  # and did die while it was writing
