import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize('name', ['csr_matmul', 'pid_loss'])
def test_cases(name):
    """In a process of its own: without CUDA under Triton's interpreter, which is chosen when Triton
    is imported, and other tests may have imported it by now.
    """
    triton = pytest.importorskip('triton', reason='Triton is not installed')
    if not torch.cuda.is_available() and triton.__version__.startswith('3.6.'):
        pytest.skip('the interpreter of Triton 3.6 cannot run loops with NumPy 2.4 and newer')
    cases = Path(__file__).with_name(f'{name}_cases.py')
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


@pytest.fixture
def compile_kernel(tmp_path, monkeypatch):
    """Compiles for a GPU that is not there: the interpreter takes programs that it refuses."""
    triton = pytest.importorskip('triton', reason='Triton is not installed')
    pytest.importorskip('triton.backends.nvidia', reason='Triton is built without CUDA')
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))

    def run(kernel, types, constants, capability=90, num_warps=2):
        names = kernel.arg_names
        signature = {name: 'constexpr' if name in constants else types[name] for name in names}
        constexprs = {(i,): constants[x] for i, x in enumerate(names) if x in constants}
        options = {'num_warps': num_warps, 'enable_fp_fusion': True}
        source = ASTSource(kernel, signature, constexprs=constexprs)
        target = GPUTarget('cuda', capability, 32)
        assert triton.compile(source, target=target, options=options).asm['cubin']

    return run


@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('index', ['i32', 'i64'])
@pytest.mark.parametrize('num_products', [1, 2])
@pytest.mark.parametrize('capability', [80, 90])
def test_products_compile(dtype, index, num_products, capability, compile_kernel):
    import triton

    kernel = import_module('mrdib_pyg.ops.kernels.csr_matmul')._rows_kernel
    indices = ('rowptrs', 'cols', 'firsts', 'lasts', 'owners', 'piece_ptrs', 'cut_rows')
    types = {
        **dict.fromkeys(kernel.arg_names, 'i32'),
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
        'alpha': 2 / 3, 'beta': 1 / 3, 'acc_type': triton.language.float32, 'max_piece': 512,
        'block_entries': 16, 'block_channels': 64, 'has_addend': True,
    }  # fmt: skip
    compile_kernel(kernel, types, constants, capability, num_warps=1)


@pytest.mark.parametrize(
    ('dtype', 'each'), [('fp32', True), ('fp32', False), ('bf16', False), ('fp64', True)]
)
def test_losses_compile(dtype, each, compile_kernel):
    import triton

    kernels = import_module('mrdib_pyg.ops.kernels.pid_loss')
    sums = 'fp64' if dtype == 'fp64' else 'fp32'
    constants = {
        'DTYPE': getattr(triton.language, 'float64' if dtype == 'fp64' else 'float32'),
        'BLOCK': 1024, 'BLOCK_E': 16, 'BLOCK_D': 64, 'SEGMENT': kernels._SEGMENT,
        'EACH': each, 'HAS_SRC': True, 'HAS_SUM': True, 'HAS_KEEP': True, 'HAS_GAIN': True,
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
        compile_kernel(
            kernel, {**dict.fromkeys(kernel.arg_names, '*i64'), **types, **own}, constants
        )
