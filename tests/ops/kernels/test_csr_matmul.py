"""Runs ``csr_matmul_cases.py`` in a process of its own: without CUDA under Triton's interpreter,
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
    cases = Path(__file__).with_name('csr_matmul_cases.py')
    interpreter = {} if torch.cuda.is_available() else {'TRITON_INTERPRET': '1'}
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(cases)],
        env={**os.environ, **interpreter},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout and 'skipped' not in result.stdout, result.stdout


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('index', ['i32', 'i64'])
@pytest.mark.parametrize('num_products', [1, 2])
@pytest.mark.parametrize('capability', [80, 90])
def test_compiles_for_a_gpu_that_is_not_there(
    dtype, index, num_products, capability, tmp_path, monkeypatch
):
    """The interpreter takes programs that the compiler refuses."""
    triton = pytest.importorskip('triton', reason='Triton is not installed')
    pytest.importorskip('triton.backends.nvidia', reason='Triton is built without CUDA')
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mrdib_pyg.ops.kernels import csr_matmul as kernels

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    indices = ('rowptrs', 'cols', 'firsts', 'lasts', 'owners', 'piece_ptrs', 'cut_rows')
    types = {
        **dict.fromkeys(indices, (f'*{index}',) * num_products),
        **dict.fromkeys(('xs', 'addends', 'outs'), (f'*{dtype}',) * num_products),
        'values': ('*fp32',) * num_products,
        **dict.fromkeys(('x_strides', 'addend_strides', 'out_strides'), ('i32',) * num_products),
        # Without cut rows the former is the features, the latter indices.
        'partial_ptr': '*fp32' if num_products == 2 else f'*{dtype}',
        'counter_ptr': '*i32' if num_products == 2 else f'*{index}',
        'dims': ('i32',),
    }
    constants = {
        'alpha': 2 / 3,
        'beta': 1 / 3,
        'acc_type': triton.language.float32,
        'max_piece': 512,
        'block_entries': 16,
        'block_channels': 64,
        'has_addend': True,
    }
    options = {'num_warps': 1, 'enable_fp_fusion': True}
    kernel = kernels._rows_kernel
    names = kernel.arg_names
    signature = {
        name: 'constexpr' if name in constants else types.get(name, 'i32') for name in names
    }
    constexprs = {(names.index(name),): constants[name] for name in names if name in constants}
    source = ASTSource(kernel, signature, constexprs=constexprs)
    target = GPUTarget('cuda', capability, 32)
    assert triton.compile(source, target=target, options=options).asm['cubin']
