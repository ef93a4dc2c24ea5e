import pytest
import torch

from mrdib_pyg.ops.adjacency import _MAX_RADIX, sort_stable, to_rowptr


@pytest.mark.parametrize('num_rows', [100, 2**16, 2**16 + 1, 2**20, 2**33])
@pytest.mark.parametrize('size', [0, 1, 300, _MAX_RADIX + 1])
@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_sort_stable(num_rows, size, dtype):
    if num_rows > torch.iinfo(dtype).max:
        pytest.skip('ids that the type does not hold')
    index = torch.randint(num_rows, (size,), dtype=dtype)
    index[: size // 2] = num_rows - 1
    value, perm = sort_stable(index, num_rows)
    expected = index.sort(stable=True)
    assert torch.equal(value, expected.values) and torch.equal(perm, expected.indices)
    assert value.dtype == dtype


@pytest.mark.parametrize('dtype', [torch.int32, torch.int64])
def test_to_rowptr(dtype):
    rowptr = to_rowptr(torch.tensor([0, 0, 2, 2, 2], dtype=dtype), 5)
    assert torch.equal(rowptr, torch.tensor([0, 2, 2, 5, 5, 5], dtype=dtype))
    assert to_rowptr(torch.empty(0, dtype=dtype), 2).tolist() == [0, 0, 0]
