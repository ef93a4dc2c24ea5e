from contextlib import contextmanager
from importlib import import_module

import pytest
import torch


class Kernel:
    """What Triton returns at a launch, and a second launch of which binds nothing."""

    arg_names = ['x', 'sizes', 'n', 'FLAG']

    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        def run(*args, **kwargs):
            self.calls.append(('bound', grid, kwargs['num_warps']))
            return Compiled(self)

        return run


class Compiled:
    function, packed_metadata = 'function', 'metadata'

    def __init__(self, kernel):
        self.kernel = kernel

    def run(self, *args):
        assert args[4:9] == ('function', 'metadata', None, None, None)
        self.kernel.calls.append(('direct', args[:3], args[-1]))

    def __getitem__(self, grid):
        return lambda *args: self.kernel.calls.append(('watched', grid, args[-1]))


@pytest.fixture
def module():
    pytest.importorskip('triton', reason='Triton is not installed')
    return import_module('mrdib_pyg.ops.kernels.launch')


@pytest.fixture
def launch(module, monkeypatch):
    # What stands in for a driver where there is none.
    monkeypatch.setattr(module, '_stream_of', lambda device: 'stream')
    monkeypatch.setattr(module, '_IS_KNOWN', True)
    return module.launch


def test_a_second_launch_of_the_same_kind_binds_nothing(launch):
    kernel, x = Kernel(), torch.zeros(64)

    def kinds(*args, num_warps=1, flag=True):
        kernel.calls.clear()
        launch(kernel, (5, 2), args, {'FLAG': flag}, num_warps)
        return kernel.calls[0]

    assert kinds(x, (8, 3), 7) == ('bound', (5, 2, 1), 1)
    assert kinds(x, (8, 3), 9) == ('direct', (5, 2, 1), True)  # another number, of the same class
    assert kinds(torch.ones(3), (8, 3), 7)[0] == 'direct'
    # Whatever a compiled kernel takes for granted.
    assert kinds(x[1:], (8, 3), 7)[0] == 'bound'  # not aligned to 16 bytes
    assert kinds(x.double(), (8, 3), 7)[0] == 'bound'
    assert kinds(x, (8, 4), 7)[0] == 'bound'
    assert kinds(x, (8, x), 7)[0] == 'bound'
    assert kinds(x, (8, 3), 2**31)[0] == 'bound'
    assert kinds(x, (8, 3), 7, flag=False)[0] == 'bound'
    assert kinds(x, (8, 3), 7, num_warps=2)[0] == 'bound'
    assert kinds(x, (8, 3), 7)[0] == 'direct'


def test_the_device_and_the_stream_of_the_tensors(launch, module, monkeypatch):
    """Another device than the current one, which it is for the launch alone."""
    kernel, current, streams = Kernel(), [0], []

    @contextmanager
    def device(index):
        before, current[0] = current[0], index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, 'current_device', lambda: current[0])
    monkeypatch.setattr(torch.cuda, 'device', device)
    monkeypatch.setattr(module, '_device_of', lambda args: 1)
    monkeypatch.setattr(module, '_stream_of', lambda index: streams.append((index, *current)))
    for _ in range(3):
        launch(kernel, (5, 2), (torch.zeros(64), (8, 3), 7), {'FLAG': True}, 1)
    assert [call[0] for call in kernel.calls] == ['bound', 'direct', 'direct']
    assert streams == [(1, 1), (1, 1)] and current == [0]


def test_hooks_of_a_profiler_are_told(launch, monkeypatch):
    triton = pytest.importorskip('triton', minversion='3.6', reason='hooks are kept elsewhere')
    kernel, args = Kernel(), (torch.zeros(64), (8, 3), 7)
    launch(kernel, (5, 2), args, {'FLAG': True}, 1)
    monkeypatch.setattr(triton.knobs.runtime.launch_exit_hook, 'calls', [print])
    launch(kernel, (5, 2), args, {'FLAG': True}, 1)
    assert kernel.calls[-1] == ('watched', (5, 2, 1), True)


def test_constants_in_another_order(launch):
    with pytest.raises(ValueError, match='in this order'):
        launch(Kernel(), (1,), (torch.zeros(1), (1, 1), 1), {'OTHER': 1}, 1)


def test_an_unknown_version_is_launched_by_its_own_interface(launch, module, monkeypatch):
    monkeypatch.setattr(module, '_IS_KNOWN', False)
    kernel = Kernel()
    for _ in range(2):
        launch(kernel, (5, 2), (torch.zeros(64), (8, 3), 7), {'FLAG': True}, 1)
    assert [call[0] for call in kernel.calls] == ['bound', 'bound']
