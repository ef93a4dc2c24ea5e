import re
import subprocess
import sys
from pathlib import Path

import pytest

import mrdib_pyg

ROOT = Path(__file__).resolve().parent.parent

# Heavy or talkative packages that nothing needs before it is used.
LATE = ['ogb', 'outdated', 'pandas', 'sklearn', 'matplotlib', 'torch_scatter', 'torch_sparse']

SCRIPT = f"""
import socket, sys
def refuse(self, address):
    raise AssertionError(f'connected to {{address}}')
socket.socket.connect = socket.socket.connect_ex = refuse
import torch_geometric
before = set(sys.modules)
import mrdib_pyg
new = set(sys.modules) - before
late = [name for name in {LATE!r} if name in new]
assert not late, f'import mrdib_pyg imports {{late}}'
ours = sorted(name for name in new if name.split('.')[0] == 'mrdib_pyg')
assert ours == ['mrdib_pyg'], f'import mrdib_pyg imports {{ours}}'
assert len(new) < 20, f'import mrdib_pyg imports {{len(new)}} modules: {{sorted(new)}}'
"""


def test_import_is_silent_light_and_offline():
    out = subprocess.run(
        [sys.executable, '-c', SCRIPT], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout == ''
    assert out.stderr == ''


def test_version():
    assert re.fullmatch(r'\d+\.\d+\.\d+(\.dev\d+)?', mrdib_pyg.__version__)


def test_setup_reads_the_version_without_importing_the_package():
    # -S: no site-packages, so torch is out of reach; `setup` is replaced by a stub.
    script = (
        'import sys, types\n'
        'seen = {}\n'
        "stub = types.ModuleType('setuptools')\n"
        'stub.setup = lambda **kwargs: seen.update(kwargs)\n'
        'stub.find_packages = lambda **kwargs: []\n'
        "sys.modules['setuptools'] = stub\n"
        "import runpy; runpy.run_path('setup.py')\n"
        "print(seen['version'])"
    )
    out = subprocess.run(
        [sys.executable, '-S', '-c', script], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == mrdib_pyg.__version__


def test_is_typed():
    assert (Path(mrdib_pyg.__file__).parent / 'py.typed').is_file()


@pytest.mark.parametrize('name', mrdib_pyg.__all__)
def test_exported_name(name):
    assert getattr(mrdib_pyg, name).__name__ == name
    assert name in dir(mrdib_pyg)


def test_unknown_name():
    with pytest.raises(AttributeError, match="'mrdib_pyg' has no attribute 'nonsense'"):
        mrdib_pyg.nonsense  # noqa: B018
