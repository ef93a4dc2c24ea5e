"""A step on sampled neighbors, by PyG's loader (with torch_sparse or pyg-lib) and drawn by hand."""

import pytest
import torch
import torch_geometric.typing
from torch import nn
from torch_geometric.data import HeteroData
from torch_geometric.transforms import ToUndirected
from torch_geometric.utils import coalesce, degree

from mrdib_pyg.nn import ModalityConv, MRdIB

USER_ITEM, ITEM_USER = ('user', 'rates', 'item'), ('item', 'rev_rates', 'user')
WIDTHS = {'image': 5, 'text': 7}
CHANNELS, NUM_LAYERS = 8, 2
WEIGHTS = {'bottleneck': 0.1, 'redundant': 0.1, 'unique': 0.1}

# PyG says so with torch_sparse, which it will drop for pyg-lib.
pytestmark = pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' without a 'pyg-lib'")
needs_sampler = pytest.mark.skipif(
    not (torch_geometric.typing.WITH_TORCH_SPARSE or torch_geometric.typing.WITH_PYG_LIB),
    reason='LinkNeighborLoader needs torch_sparse or pyg-lib',
)


@pytest.fixture
def data():
    out = HeteroData()
    out['user'].num_nodes, out['item'].num_nodes = 31, 43
    out['user'].n_id, out['item'].n_id = torch.arange(31), torch.arange(43)
    for name, width in WIDTHS.items():
        out['item'][f'x_{name}'] = torch.randn(43, width)
    rates = torch.rand(31, 43) < 0.08
    rates[torch.arange(31), torch.arange(31)] = True
    user, item = edge_index = rates.nonzero().t().contiguous()
    out[USER_ITEM].edge_index = edge_index
    out[USER_ITEM].edge_weight = (degree(user, 31)[user] * degree(item, 43)[item]).rsqrt()
    return ToUndirected()(out)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.preference = nn.ModuleDict({m: nn.Embedding(31, CHANNELS) for m in WIDTHS})
        self.conv = nn.ModuleDict(
            {m: ModalityConv(w, CHANNELS, NUM_LAYERS, normalize=False) for m, w in WIDTHS.items()}
        )
        self.mrdib = MRdIB(dict.fromkeys(WIDTHS, CHANNELS), redundancy='gaussian')

    def loss(self, data, triplet):
        edge_index = torch.cat([data[USER_ITEM].edge_index, data[ITEM_USER].edge_index.flip(0)], 1)
        weight = torch.cat([data[USER_ITEM].edge_weight, data[ITEM_USER].edge_weight])
        edge_index, weight = coalesce(edge_index, weight, reduce='max')
        x = {}
        for m in WIDTHS:
            user = self.preference[m](data['user'].n_id)
            x[m] = self.conv[m]((user, data['item'][f'x_{m}']), edge_index, weight)
        codes = self.mrdib(x)
        user, item = (sum(codes[m][side].z for m in WIDTHS) for side in (0, 1))
        src, pos, neg = triplet
        bpr = nn.functional.softplus((user[src] * (item[neg] - item[pos])).sum(dim=-1)).mean()
        return {'bpr': bpr, **self.mrdib.loss(codes, *triplet)._asdict()}


def step(model, data, triplet):
    """The terms of the loss, and the gradients of its sum."""
    model.zero_grad()
    terms = {k: v for k, v in model.loss(data, triplet).items() if v is not None}
    sum(WEIGHTS.get(name, 1.0) * term for name, term in terms.items()).backward()
    grads = {name: param.grad for name, param in model.named_parameters()}
    return {k: v.detach() for k, v in terms.items()}, grads


def assert_equal_to_the_whole(data, batch, triplet):
    torch.manual_seed(1)
    model = Model().eval()  # means of the codes: noise would differ
    for bottleneck in model.mrdib.bottlenecks.values():
        nn.init.normal_(bottleneck.lin.weight)
        bottleneck.is_initialized.fill_(True)
    names = ('user', 'item', 'item')
    whole = [batch[name].n_id[index] for name, index in zip(names, triplet)]
    for found, expected in zip(step(model, batch, triplet), step(model, data, whole)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def draw(data, triplet, num_hops):
    """All neighbors of the nodes of a batch, as a loader lists them: each edge in the direction in
    which it was found, seeds first.
    """
    nodes = {
        'user': list(dict.fromkeys(triplet[0].tolist())),
        'item': list(dict.fromkeys(torch.cat(triplet[1:]).tolist())),
    }
    edges = {USER_ITEM: [], ITEM_USER: []}
    frontier = {name: list(ids) for name, ids in nodes.items()}
    for _ in range(num_hops):
        found = {'user': [], 'item': []}
        for edge_type in (USER_ITEM, ITEM_USER):
            src, dst = data[edge_type].edge_index.tolist()
            for e, (i, j) in enumerate(zip(src, dst)):
                if j in frontier[edge_type[2]]:
                    edges[edge_type].append(e)
                    if i not in nodes[edge_type[0]] and i not in found[edge_type[0]]:
                        found[edge_type[0]].append(i)
        for name, ids in found.items():
            nodes[name] += ids
        frontier = found
    out = HeteroData()
    place = {name: {i: n for n, i in enumerate(ids)} for name, ids in nodes.items()}
    for name, ids in nodes.items():
        out[name].num_nodes, out[name].n_id = len(ids), torch.tensor(ids)
    for m in WIDTHS:
        out['item'][f'x_{m}'] = data['item'][f'x_{m}'][out['item'].n_id]
    for edge_type, ids in edges.items():
        pairs = data[edge_type].edge_index[:, ids].t().tolist()
        src, dst = place[edge_type[0]], place[edge_type[2]]
        out[edge_type].edge_index = torch.tensor([[src[i], dst[j]] for i, j in pairs]).t()
        out[edge_type].edge_weight = data[edge_type].edge_weight[ids]
    names = ('user', 'item', 'item')
    local = [torch.tensor([place[n][i] for i in t.tolist()]) for n, t in zip(names, triplet)]
    return out, local


def test_all_neighbors_by_hand(data):
    src, pos = data[USER_ITEM].edge_index[:, :5]
    triplet = (src, pos, torch.tensor([40, 41, 42, 0, 1]))
    batch, local = draw(data, triplet, NUM_LAYERS)
    assert batch['user'].num_nodes < 31 or batch['item'].num_nodes < 43
    assert_equal_to_the_whole(data, batch, local)
    # One hop too few is another step: the test can fail.
    batch, local = draw(data, triplet, NUM_LAYERS - 1)
    with pytest.raises(AssertionError):
        assert_equal_to_the_whole(data, batch, local)


@needs_sampler
@pytest.mark.parametrize('batch_size', [1, 8, 10_000])
def test_all_neighbors_by_the_loader(data, batch_size):
    from torch_geometric.loader import LinkNeighborLoader
    from torch_geometric.sampler import NegativeSampling

    loader = LinkNeighborLoader(
        data,
        num_neighbors=[-1] * NUM_LAYERS,
        edge_label_index=(USER_ITEM, data[USER_ITEM].edge_index),
        neg_sampling=NegativeSampling('triplet'),
        batch_size=batch_size,
        shuffle=True,
    )
    batch = next(iter(loader))
    local = (batch['user'].src_index, batch['item'].dst_pos_index, batch['item'].dst_neg_index)
    assert local[0].numel() == min(batch_size, data[USER_ITEM].num_edges)
    whole = torch.stack([batch['user'].n_id[local[0]], batch['item'].n_id[local[1]]])
    known = set(map(tuple, data[USER_ITEM].edge_index.t().tolist()))
    assert set(map(tuple, whole.t().tolist())) <= known
    assert_equal_to_the_whole(data, batch, local)


@needs_sampler
def test_some_neighbors_learn(data):
    """Users like items of their own kind, which the features tell."""
    from torch_geometric.loader import LinkNeighborLoader
    from torch_geometric.sampler import NegativeSampling

    user, item = torch.meshgrid(torch.arange(31), torch.arange(43), indexing='ij')
    rates = (user % 2 == item % 2) & (torch.rand(31, 43) < 0.4)
    user, item = edge_index = rates.nonzero().t().contiguous()
    weight = (degree(user, 31)[user] * degree(item, 43)[item]).rsqrt()
    for edge_type, index in ((USER_ITEM, edge_index), (ITEM_USER, edge_index.flip(0))):
        data[edge_type].edge_index, data[edge_type].edge_weight = index.contiguous(), weight
    for m in WIDTHS:
        data['item'][f'x_{m}'] += 2.0 * (2 * (torch.arange(43) % 2) - 1).unsqueeze(1)
    loader = LinkNeighborLoader(
        data,
        num_neighbors=[2, 2],
        edge_label_index=(USER_ITEM, data[USER_ITEM].edge_index),
        neg_sampling=NegativeSampling('triplet'),
        batch_size=32,
        shuffle=True,
    )
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    means = []
    for _ in range(8):
        losses = []
        for batch in loader:
            item = batch['item']
            terms = model.loss(
                batch, (batch['user'].src_index, item.dst_pos_index, item.dst_neg_index)
            )
            optimizer.zero_grad()
            loss = terms['bpr'] + 1e-3 * (terms['bottleneck'] + terms['redundant'])
            loss.backward()
            optimizer.step()
            losses.append(float(terms['bpr'].detach()))
        means.append(sum(losses) / len(losses))
    # Half of the negatives are of the right kind, and cannot be told apart.
    assert means[-1] < 0.9 * means[0] < 0.69
