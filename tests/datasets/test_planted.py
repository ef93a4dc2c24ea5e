import math

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData, InMemoryDataset

from mrdib_pyg.datasets import InteractionFolder, Planted, data_hash

SMALL = {'num_users': 60, 'num_items': 80, 'num_interactions': 10}


def ndcg(scores, data, masked=('rates',), k=10):
    """NDCG@k with the items of the relations `masked` left out, in plain torch."""
    scores = scores.clone()
    for relation in masked:
        store = data['user', relation, 'item']
        scores[tuple(store['edge_index' if relation == 'rates' else 'edge_label_index'])] = -1e9
    truth = torch.zeros_like(scores)
    truth[tuple(data['user', 'test', 'item'].edge_label_index)] = 1.0
    discount = 1.0 / torch.arange(2.0, k + 2.0).log2()
    dcg = (truth.gather(1, scores.topk(k).indices) * discount).sum(dim=-1)
    ideal = discount.cumsum(0)[truth.sum(dim=-1).long().clamp(max=k) - 1]
    return float((dcg / ideal).mean())


def test_planted_data():
    dataset = Planted()
    assert isinstance(dataset, InMemoryDataset) and len(dataset) == 1
    assert str(dataset) == 'Planted(v=1, t=1, r=1, s=1)'
    data = dataset[0]
    assert isinstance(data, HeteroData) and data.validate() and data.name == 'planted'
    assert data['user'].num_nodes == 1500 and data['item'].num_nodes == 1200
    assert set(data['item'].keys()) == {'num_nodes', 'x_image', 'x_text'}
    assert data['item'].x_image.size() == (1200, 64) and data['item'].x_text.size() == (1200, 48)
    assert data['item'].x_image.dtype == data['item'].x_text.dtype == torch.float32
    codes = []
    for relation, key, count in (
        ('rates', 'edge_index', 12), ('val', 'edge_label_index', 4), ('test', 'edge_label_index', 4)
    ):  # fmt: skip
        index = data['user', relation, 'item'][key]
        assert torch.equal(index[0].bincount(minlength=1500), torch.full((1500,), count))
        codes.append(index[0] * 1200 + index[1])
        assert (codes[-1].diff() > 0).all()
    assert torch.cat(codes).unique().numel() == 1500 * 20  # the splits are disjoint


def test_planted_bits_and_features():
    dataset = Planted(num_items=4000, num_users=5, noise=0.0)
    bits = dataset.bits
    assert set(bits) == {'v', 't', 'r', 'bv', 'bt', 's'}
    assert torch.equal(bits['s'], bits['bv'] * bits['bt'])
    names = list(bits)
    stacked = torch.cat([bits[name] for name in names], dim=-1)
    assert stacked.size() == (4000, 24) and stacked.abs().eq(1).all()
    # All bits are balanced and pairwise independent, s of its two factors too.
    gram = stacked.t() @ stacked / 4000
    assert (gram - torch.eye(24)).abs().max() < 5 / math.sqrt(4000)
    # Without nuisance each modality shows its own bits up to the white noise, and no others.
    data = dataset[0]
    for x, shown in (
        (data['item'].x_image, ('v', 'r', 'bv')),
        (data['item'].x_text, ('t', 'r', 'bt')),
    ):
        for name in names:
            fit = torch.linalg.lstsq(x, bits[name])
            error = (x @ fit.solution - bits[name]).pow(2).mean()
            assert (error < 0.02) == (name in shown), name
            if name not in shown:
                assert error > 0.9
        inputs = torch.cat([bits[name] for name in shown], dim=-1)
        matrix = torch.linalg.lstsq(inputs, x).solution / 2  # entries N(0, 1 / 12)
        assert abs(matrix.var() * 12 - 1) < 0.3
        residual = x - 2 * inputs @ matrix
        assert abs(residual.std() - 0.1) < 0.005


def test_planted_noise():
    base = Planted(num_items=4000, num_users=5, noise=0.0)[0]['item']
    one = Planted(num_items=4000, num_users=5, noise=1.0)[0]['item']
    three = Planted(num_items=4000, num_users=5, noise=3.0)[0]['item']
    nuisance = {}
    for key in ('x_image', 'x_text'):
        nuisance[key] = one[key] - base[key]
        assert torch.allclose(three[key] - base[key], 3 * nuisance[key], atol=1e-4)
        assert torch.linalg.matrix_rank(nuisance[key].double(), rtol=1e-4) == 32
        # 2 x 32 inputs of variance 1 through entries of variance 1 / 32.
        assert abs(nuisance[key].var() - 4) < 0.6
    # Half of the inputs are shared: the two spans have 16 directions in common.
    q1 = torch.linalg.svd(nuisance['x_image'].double(), full_matrices=False)[0][:, :32]
    q2 = torch.linalg.svd(nuisance['x_text'].double(), full_matrices=False)[0][:, :32]
    cosines = torch.linalg.svdvals(q1.t() @ q2)
    assert (cosines > 0.99).sum() == 16 and cosines[16] < 0.3


def test_planted_utility_and_oracle():
    weights = {'v': 0.5, 't': 1.5, 'r': 2.0, 's': 0.25}
    dataset = Planted(weights=weights, **SMALL)
    oracle = dataset.oracle()
    assert oracle.embed() is oracle
    assert oracle.user.size() == (60, 16) and oracle.item.size() == (80, 16)
    total = sum(w * dataset.preference[k] @ dataset.bits[k].t() for k, w in weights.items())
    assert torch.allclose(oracle.user @ oracle.item.t(), total, atol=1e-5)
    assert torch.allclose(dataset.utility(), total, atol=1e-5)
    assert torch.allclose(sum(dataset.utility(kind) for kind in weights), total, atol=1e-5)
    assert torch.allclose(dataset.utility('s') * 4, dataset.preference['s'] @ dataset.bits['s'].t())


def test_planted_preferences_are_standard_normal():
    preference = torch.cat(list(Planted(num_users=5000, num_items=5, num_interactions=5)
                                .preference.values()), dim=-1)  # fmt: skip
    assert preference.size() == (5000, 16)
    assert preference.mean().abs() < 0.02 and abs(preference.std() - 1) < 0.02


def test_planted_draws_follow_the_utility():
    # The first of k Gumbel draws is a draw from the softmax. Five of five items leave only the
    # split random: every item is as likely to be held out, however large its utility.
    dataset = Planted(num_users=4000, num_items=5, num_interactions=5)
    index = dataset[0]['user', 'test', 'item'].edge_label_index
    utility = dataset.utility()
    centered = utility[index[0], index[1]] - utility.mean(dim=-1)
    assert centered.mean().abs() < 4 * utility.std() / math.sqrt(4000)
    # With many items, those taken have the mean utility of the softmax (5 of 400 are few).
    dataset = Planted(case='v', num_users=2000, num_items=400, num_interactions=5)
    utility = dataset.utility()
    index = dataset[0]['user', 'rates', 'item'].edge_index
    found = utility[index[0], index[1]].mean()
    expected = (utility.softmax(dim=-1) * utility).sum(dim=-1).mean()
    assert abs(found - expected) < 0.1 * expected


@pytest.mark.parametrize(
    ('kwargs', 'masked', 'expected', 'tolerance'),
    [
        # The means over ten seeds, and four standard deviations of one.
        ({}, ('rates',), 0.446, 0.025),
        ({}, ('rates', 'val'), 0.540, 0.029),
        ({'case': 's'}, ('rates',), 0.0374, 0.008),
    ],
)
def test_planted_oracle_ndcg(kwargs, masked, expected, tolerance):
    dataset = Planted(**kwargs)
    assert abs(ndcg(dataset.utility(), dataset[0], masked) - expected) < tolerance


@pytest.mark.parametrize('case', ['v', 't', 'r', 's', 'v+r', 'v+s', 'v+t'])
def test_planted_cases(case):
    dataset = Planted(case=case, num_users=600)
    assert {kind for kind, weight in dataset.weights.items() if weight} == set(case.split('+'))
    assert list(dataset.weights) == ['v', 't', 'r', 's']
    # Only the parts of this case help.
    oracle = ndcg(dataset.utility(), dataset[0])
    assert oracle > 0.03
    for kind in ('v', 't', 'r', 's'):
        unweighted = dataset.preference[kind] @ dataset.bits[kind].t()
        score = ndcg(unweighted, dataset[0])
        assert (score > 0.012) == (kind in case), (kind, score)


def test_planted_unequal_weights():
    assert Planted(case='v+s', **SMALL).weights == {'v': 1.0, 't': 0.0, 'r': 0.0, 's': 0.5}


def test_planted_is_deterministic():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Planted(**SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = Planted(**SMALL)
    assert data_hash(first[0]) == data_hash(second[0])
    for key, value in first[0].to_dict().items():
        assert str(value) == str(second[0].to_dict()[key])
    assert data_hash(Planted(seed=1, **SMALL)[0]) != data_hash(first[0])


def test_planted_settings_share_their_draws():
    base = Planted(**SMALL)
    for other in (Planted(noise=1.0, **SMALL), Planted(case='v', **SMALL),
                  Planted(missing=0.5, **SMALL)):  # fmt: skip
        for key, value in base.bits.items():
            assert torch.equal(value, other.bits[key])
        for key, value in base.preference.items():
            assert torch.equal(value, other.preference[key])
    for other in (Planted(noise=1.0, **SMALL), Planted(missing=0.5, **SMALL)):
        for store, other_store in zip(base[0].edge_stores, other[0].edge_stores):
            assert str(store.to_dict()) == str(other_store.to_dict())


def test_planted_missing():
    complete, data = Planted(**SMALL)[0]['item'], Planted(missing=0.25, **SMALL)[0]['item']
    assert 'has_image' not in complete
    for name in ('image', 'text'):
        mask = data[f'has_{name}']
        assert mask.dtype == torch.bool and int((~mask).sum()) == 20
        assert (data[f'x_{name}'][~mask] == 0).all()
        assert torch.equal(data[f'x_{name}'][mask], complete[f'x_{name}'][mask])
    assert not torch.equal(data.has_image, data.has_text)


@pytest.mark.parametrize('missing', [0.0, 0.25])
@pytest.mark.filterwarnings('ignore:.*lack the modality')
def test_planted_root(tmp_path, missing):
    data = Planted(tmp_path / 'x', missing=missing, **SMALL)[0]
    assert data_hash(InteractionFolder(tmp_path / 'x')[0]) == data_hash(data)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'x').iterdir()}
    Planted(tmp_path / 'x', missing=missing, **SMALL)
    with pytest.raises(ValueError, match="'root' must not hold other planted data.*force_reload"):
        Planted(tmp_path / 'x', seed=1, missing=missing, **SMALL)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'x').iterdir()} == before
    other = Planted(tmp_path / 'x', force_reload=True, seed=1, missing=missing, **SMALL)[0]
    assert data_hash(InteractionFolder(tmp_path / 'x')[0]) == data_hash(other)


def test_planted_transforms():
    def pre_transform(data):
        data.value = 1
        return data

    def transform(data):
        data.value += 1
        return data

    dataset = Planted(transform=transform, pre_transform=pre_transform, **SMALL)
    assert dataset[0].value == dataset[0].value == 2


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'case': 'x'}, "'case' must be one of .* .got 'x'"),
        ({'case': 'v', 'weights': {'v': 1.0}}, "'case' must be None with 'weights' .got 'v'"),
        ({'weights': {'w': 1.0}}, "'weights' must"),
        ({'weights': {'v': math.nan}}, "'weights' must"),
        ({'num_users': 0}, "'num_users' must"),
        ({'num_interactions': 4}, "'num_interactions' must"),
        ({'num_items': 19}, "at most 'num_items' = 19 .got 20"),
        ({'noise': -1.0}, "'noise' must"),
        ({'noise': math.inf}, "'noise' must"),
        ({'missing': 1.0}, "'missing' must"),
        ({'missing': -0.1}, "'missing' must"),
    ],
)
def test_planted_refused(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        Planted(tmp_path / 'x', **kwargs)
    assert not (tmp_path / 'x').exists()


def test_force_reload_replaces_a_folder_with_a_mask(tmp_path):
    sizes = {'num_users': 30, 'num_items': 40}
    Planted(tmp_path, missing=0.5, **sizes)
    data = Planted(tmp_path, force_reload=True, **sizes)[0]
    assert not (tmp_path / 'image_mask.npy').exists()
    assert data_hash(Planted(tmp_path, **sizes)[0]) == data_hash(data)


@pytest.mark.filterwarnings('ignore:.*lack the modality')
@pytest.mark.parametrize('name', ['planted.inter', 'image_feat.npy', 'text_mask.npy'])
def test_files_that_were_changed_are_noticed(tmp_path, name):
    Planted(tmp_path, missing=0.25, **SMALL)
    path = tmp_path / name
    if name == 'planted.inter':
        rows = path.read_text().splitlines()
        rows[1] = rows[1][:-1] + '2'  # from train to test
        path.write_text('\n'.join(rows) + '\n')
    else:
        array = np.load(path)
        array.reshape(-1)[array.size // 2] = not array.reshape(-1)[array.size // 2]
        np.save(path, array)
    with pytest.raises(ValueError, match="'root' must not hold other planted data"):
        Planted(tmp_path, missing=0.25, **SMALL)
