"""Runs ``pid_loss_cases.py`` in a process of its own: without CUDA under Triton's interpreter,
which is chosen when Triton is imported, and other tests may have imported it by now.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


def test_cases():
    triton = pytest.importorskip('triton', reason='Triton is not installed')
    if not torch.cuda.is_available() and triton.__version__.startswith('3.6.'):
        pytest.skip('the interpreter of Triton 3.6 cannot run loops with NumPy 2.4 and newer')
    interpreter = {} if torch.cuda.is_available() else {'TRITON_INTERPRET': '1'}
    cases = Path(__file__).with_name('pid_loss_cases.py')
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(cases)],
        env={**os.environ, **interpreter},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout and 'skipped' not in result.stdout, result.stdout


@pytest.mark.parametrize(
    ('dtype', 'each'), [('fp32', True), ('fp32', False), ('bf16', False), ('fp64', True)]
)
def test_compiles_for_a_gpu_that_is_not_there(dtype, each, tmp_path, monkeypatch):
    """The interpreter takes programs that the compiler refuses."""
    triton = pytest.importorskip('triton', reason='Triton is not installed')
    pytest.importorskip('triton.backends.nvidia', reason='Triton is built without CUDA')
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mrdib_pyg.ops.kernels import pid_loss as kernels

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    sums = 'fp64' if dtype == 'fp64' else 'fp32'
    constants = {
        'DTYPE': getattr(triton.language, 'float64' if dtype == 'fp64' else 'float32'),
        'BLOCK': 1024, 'BLOCK_E': 16, 'BLOCK_D': 64, 'SEGMENT': kernels._SEGMENT,
        'EACH': each, 'HAS_SRC': True, 'HAS_SUM': True, 'HAS_KEEP': True,
        'HAS_GAIN': True,
    }  # fmt: skip
    # Two modalities: tuples of tables, of sums, and of widths.
    sized = ('scores', 'sums', 'partials', 'grads', 'gains', 'totals')
    types = {
        **dict.fromkeys(('users', 'tables', 'outs'), (f'*{dtype}',) * 2),
        **dict.fromkeys(sized, (f'*{sums}',) * 2),
        'keeps': ('*i1', '*i1'),
        'dims': ('i32', 'i32'),
        'scales': f'*{sums}',
        **dict.fromkeys(('src', 'items'), '*i32'),
        **dict.fromkeys(('num', 'num_cuts', 'num_users', 'num_items', 'num_rows'), 'i32'),
        'num_cols': 'i32',
    }
    for kernel in (value for name, value in vars(kernels).items() if name.endswith('_kernel')):
        own = {'items': types['tables']} if kernel is kernels.score_kernel else {}
        arguments = kernel.arg_names
        signature = {
            name: 'constexpr' if name in constants else {**types, **own}.get(name, '*i64')
            for name in arguments
        }
        constexprs = {
            (i,): constants[name] for i, name in enumerate(arguments) if name in constants
        }
        source = ASTSource(kernel, signature, constexprs=constexprs)
        options = {'num_warps': 2, 'enable_fp_fusion': True}
        compiled = triton.compile(source, target=GPUTarget('cuda', 90, 32), options=options)
        assert compiled.asm['cubin']
