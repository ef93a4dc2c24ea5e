import json

import pytest
import torch
import torch.nn.functional as F

from mrdib_pyg.ops import masked_topk
from mrdib_pyg.serving import ItemIndex


def make(num_items=500, channels=16, num_queries=30):
    generator = torch.Generator().manual_seed(0)
    item = torch.randn(num_items, channels, generator=generator)
    query = torch.randn(num_queries, channels, generator=generator)
    row = torch.randint(num_queries, (400,), generator=generator)
    col = torch.randint(num_items, (400,), generator=generator)
    return item, query, torch.stack([row, col])


def dense(item, query, k, mask):
    scores = query @ item.t()
    scores[mask[0], mask[1]] = -torch.inf
    return scores.topk(k, dim=1)


@pytest.mark.parametrize('num_items', [500, 512])
@pytest.mark.parametrize('cosine', [False, True])
def test_exact(num_items, cosine):
    item, query, mask = make(num_items)
    index = ItemIndex(item, cosine=cosine)
    score, found = index.search(query, 7, mask)
    if cosine:
        item, query = F.normalize(item, dim=1), F.normalize(query, dim=1)
    expected = dense(item, query, 7, mask)
    assert torch.equal(found, expected.indices)
    assert torch.allclose(score, expected.values, atol=1e-5)
    assert torch.equal(found, masked_topk(query, item, 7, mask)[1])
    assert index.numel == num_items and f'({num_items}, 16, cosine={cosine}' in repr(index)


@pytest.mark.parametrize('cosine', [False, True])
def test_approximate_visiting_every_cell_is_exact(cosine):
    pytest.importorskip('faiss')
    item, query, mask = make()
    index = ItemIndex(item, cosine=cosine, approximate=True, num_cells=9, num_cells_to_visit=9)
    for excluded in (mask, mask[:, :0], None):
        score, found = index.search(query, 7, excluded)
        expected = ItemIndex(item, cosine=cosine).search(query, 7, excluded)
        assert torch.equal(found, expected[1])
        assert torch.allclose(score, expected[0], atol=1e-5)


def test_approximate_visiting_some_cells():
    pytest.importorskip('faiss')
    item, query, mask = make(2000)
    index = ItemIndex(item, approximate=True)
    assert (index.num_cells, index.num_cells_to_visit) == (44, 6)
    score, found = index.search(query, 10, mask)
    assert torch.allclose(score, (item[found] * query.unsqueeze(1)).sum(-1), atol=1e-5)
    assert bool((score[:, 1:] <= score[:, :-1]).all())
    pairs = set(map(tuple, mask.t().tolist()))
    assert pairs.isdisjoint((q, i) for q, row in enumerate(found.tolist()) for i in row)
    exact = ItemIndex(item).search(query, 10, mask)[1]
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist())]
    index.num_cells_to_visit = 30
    more = index.search(query, 10, mask)[1]
    fresh = ItemIndex(item, approximate=True, num_cells_to_visit=30)
    assert torch.equal(fresh.search(query, 10, mask)[1], more)
    more_hits = [len(set(a) & set(b)) for a, b in zip(more.tolist(), exact.tolist())]
    assert sum(hits) < sum(more_hits) < 300 and sum(hits) > 90  # a third, of no structure at all


def test_where_cells_hold_fewer_than_k():
    pytest.importorskip('faiss')
    item = F.one_hot(torch.arange(6) // 2).float() + 1e-3 * torch.arange(6).view(-1, 1)
    index = ItemIndex(item, approximate=True, num_cells=3, num_cells_to_visit=1)
    mask = torch.tensor([[1, 1], [1, 4]])
    score, found = index.search(item[[0, 0]], 2, mask)  # the one cell that is visited holds 0 and 1
    assert found[0].tolist() == [1, 0]
    # Of one item alone the rest comes from the exact search.
    exact = ItemIndex(item).search(item[[0, 0]], 2, mask)
    assert found[1].tolist() == exact[1][1].tolist() and score[1].tolist() == exact[0][1].tolist()
    score, found = index.search(item[:1], 6, torch.tensor([[0, 0], [1, 3]]))
    assert sorted(found[0, :4].tolist()) == [0, 2, 4, 5] and found[0, 4:].tolist() == [-1, -1]
    assert bool((score[0, 4:] == -torch.inf).all())


@pytest.mark.parametrize('approximate', [False, True])
@pytest.mark.parametrize('cosine', [False, True])
def test_save_and_load(tmp_path, cosine, approximate):
    pytest.importorskip('safetensors')
    if approximate:
        pytest.importorskip('faiss')
    item, query, mask = make()
    index = ItemIndex(item, cosine=cosine, approximate=approximate)
    path = tmp_path / 'index.safetensors'
    index.save(path)
    content = path.read_bytes()
    loaded = ItemIndex.load(path)
    assert repr(loaded) == repr(index)
    for a, b in zip(index.search(query, 9, mask), loaded.search(query, 9, mask)):
        assert torch.equal(a, b)
    loaded.save(path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ['index.safetensors']


def test_load_refuses_what_is_no_index(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    path = tmp_path / 'index.safetensors'
    with pytest.raises(FileNotFoundError, match='there is no index'):
        ItemIndex.load(path)
    ItemIndex(make()[0]).save(path)
    content = path.read_bytes()
    for torn in (content[:100], content[:-1], b'', b'{}', content[::-1]):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match="index.safetensors' must be an index"):
            ItemIndex.load(path)
    item = torch.ones(4, 2)
    settings = {
        'version': 'mrdib_pyg index 1', 'cosine': False, 'approximate': True,
        'num_cells_to_visit': 1,
    }  # fmt: skip
    for tensors, changed in (
        ({'item': item}, {'version': 'mrdib_pyg index 0'}),
        ({'item': item}, {}),
        ({'item': item * torch.nan}, {}),
        ({'item': item, 'centroids': torch.ones(2, 2), 'cells': torch.tensor([0, 0, 0, 2])}, {}),
        ({'item': item, 'centroids': torch.ones(2, 3), 'cells': torch.zeros(4).long()}, {}),
    ):
        safetensors.save_file(tensors, path, {'settings': json.dumps({**settings, **changed})})
        with pytest.raises(ValueError, match="'.*index.safetensors' must be an index"):
            ItemIndex.load(path)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'item': torch.ones(3)}, "'item' must be a matrix"),
        ({'item': torch.ones(3, 2).long()}, "'item' must be a matrix"),
        ({'item': torch.ones(0, 2)}, "'item' must be a matrix"),
        ({'item': torch.full((3, 2), torch.inf)}, "'item' must be finite"),
        ({'num_cells': 2}, r'approximate=True \(got False\)'),
        ({'approximate': True, 'num_cells': 4}, "'num_cells' must lie between 1 and the 3 items"),
        ({'approximate': True, 'num_cells': 2, 'num_cells_to_visit': 3}, 'the 2 cells'),
    ],
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ItemIndex(**{'item': torch.ones(3, 2), **kwargs})


def test_search_refusals():
    index = ItemIndex(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"'query' must be of the shape \[\*, 2\]"):
        index.search(torch.ones(1, 3), 1)
    with pytest.raises(ValueError, match="'k' must be between 1 and the 3 items"):
        index.search(torch.ones(1, 2), 4)


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (torch.tensor([[0], [3]]), r"'mask' .*item ids .*\(got 3\)"),
        (torch.tensor([[1], [0]]), r"'mask' .*row ids .*\(got 1\)"),
        (torch.tensor([[0.0], [0.0]]), "'mask' must hold integer ids"),
        (torch.tensor([0, 0]), "'mask' must hold integer ids"),
    ],
)
@pytest.mark.parametrize('approximate', [False, True])
def test_masks_that_do_not_fit(mask, message, approximate):
    if approximate:
        pytest.importorskip('faiss', reason='faiss is not installed')
    index = ItemIndex(torch.randn(3, 2), approximate=approximate)
    with pytest.raises(ValueError, match=message):
        index.search(torch.ones(1, 2), 1, mask)
    with pytest.raises(ValueError, match='NaN'):
        index.search(torch.full((1, 2), torch.nan), 1)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    safetensors = pytest.importorskip('safetensors')
    torch_files = pytest.importorskip('safetensors.torch')
    ItemIndex(torch.ones(3, 2)).save(tmp_path / 'index')
    before = (tmp_path / 'index').read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b'torn')
        raise safetensors.SafetensorError('no space left')

    monkeypatch.setattr(torch_files, 'save_file', full)
    with pytest.raises(OSError, match='could not be written to .*is the disk full'):
        ItemIndex(torch.zeros(3, 2)).save(tmp_path / 'index')
    assert [path.name for path in tmp_path.iterdir()] == ['index']
    assert (tmp_path / 'index').read_bytes() == before
