"""The contract can fail: models with a known defect do not pass it. And every model is under it."""

from pathlib import Path

import pytest
import torch
from contract import RecommenderContract, make_data

from mrdib_pyg.nn.models import MODELS, VBPR, Embeddings, Recommender, Triplets
from mrdib_pyg.nn.models.batch import bpr_loss, to_local


@pytest.mark.parametrize('name', MODELS)
def test_every_model_is_under_the_contract(name):
    source = (Path(__file__).parent / f'test_{name}.py').read_text()
    assert '(RecommenderContract)' in source and f"name = '{name}'" in source
    assert issubclass(MODELS[name], Recommender)


class StaleScores(VBPR):
    """Scores with what the last batch left behind."""

    def loss(self, batch):
        self.last = self()
        return super().loss(batch)

    def embed(self):
        return getattr(self, 'last', None) or super().embed()


class NoisyScores(VBPR):
    """Draws random numbers in evaluation."""

    def fuse(self, codes, rows=None):
        emb = super().fuse(codes, rows)
        return Embeddings(emb.user, emb.item + 1e-3 * torch.randn_like(emb.item))


class StaleCache(VBPR):
    """Trusts the versions of parameters, which fused optimizers do not raise."""

    def _embed(self, rows):
        out = super()._embed(rows)
        self._may_change = False
        return out


class DeadParameter(VBPR):
    """Has a table that no score depends on."""

    def __init__(self, data, *args, **kwargs):
        super().__init__(data, *args, **kwargs)
        self.unused = torch.nn.Parameter(torch.ones(3))


class TiedToIds(VBPR):
    """Scores items by their position, too."""

    def fuse(self, codes, rows=None):
        emb = super().fuse(codes, rows)
        ids = torch.arange(self.num_items) if rows is None else rows.item
        return Embeddings(emb.user, emb.item + 0.1 * ids.unsqueeze(1))


class ReadsMissing(VBPR):
    """Reads codes where there is no modality."""

    def masked_codes(self, codes, rows=None):
        return [], [1.0 / item for _, item in codes.values()]


class ChangedByIdentity(VBPR):
    """Scores otherwise as soon as there is a layer."""

    def fuse(self, codes, rows=None):
        emb = super().fuse(codes, rows)
        return emb if self.mrdib is None else Embeddings(emb.user, emb.item * 1.0001)


class LearnsNothing(VBPR):
    """Minimizes the wrong sign."""

    def task_loss(self, embeddings, batch):
        return bpr_loss(embeddings.user, -embeddings.item, batch)


DEFECTS = [
    (
        StaleScores,
        'test_embeddings_are_fresh_after_a_fused_step',
        {'layer': 'plain', 'training': True},
    ),
    (NoisyScores, 'test_evaluation_is_a_function_of_the_parameters', {'layer': 'plain'}),
    (
        StaleCache,
        'test_embeddings_are_fresh_after_a_fused_step',
        {'layer': 'plain', 'training': False},
    ),
    (DeadParameter, 'test_every_parameter_gets_a_gradient_and_learns', {'layer': 'plain'}),
    (TiedToIds, 'test_scores_follow_a_permutation_of_the_items', {'layer': 'plain'}),
    (ChangedByIdentity, 'test_identity_layer_changes_no_bit', {}),
    (LearnsNothing, 'test_learns_what_was_planted', {'layer': 'plain'}),
    (ReadsMissing, 'test_modalities', {'layer': 'plain', 'modalities': 2, 'missing': 0.2}),
]


@pytest.mark.parametrize('cls, test, arguments', DEFECTS, ids=lambda x: getattr(x, '__name__', ''))
def test_the_contract_finds(cls, test, arguments, monkeypatch):
    contract = type('Contract', (RecommenderContract,), {'name': 'defect'})()
    arguments = dict(arguments)
    method = getattr(contract, test)
    if 'data' in method.__code__.co_varnames[: method.__code__.co_argcount]:
        arguments['data'] = make_data()
    monkeypatch.setitem(MODELS, 'defect', VBPR)
    method(**arguments)  # the sound model passes
    monkeypatch.setitem(MODELS, 'defect', cls)
    with pytest.raises(AssertionError):
        method(**arguments)


def test_local_rows():
    batch = Triplets(torch.tensor([7, 2, 7]), torch.tensor([5, 1, 9]), torch.tensor([1, 5, 4]))
    rows, local = to_local(batch)
    assert rows.user.tolist() == [2, 7] and rows.item.tolist() == [1, 4, 5, 9]
    for ids, index, expected in (
        (rows.user, local.src_index, batch.src_index),
        (rows.item, local.dst_pos_index, batch.dst_pos_index),
        (rows.item, local.dst_neg_index, batch.dst_neg_index),
    ):
        assert torch.equal(ids[index], expected)


def test_bpr_loss():
    user, item = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    batch = Triplets(torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([4, 3]))
    expected = -sum(
        (user[u] @ item[i] - user[u] @ item[j]).sigmoid().log() for u, i, j in zip(*batch)
    )
    torch.testing.assert_close(bpr_loss(user, item, batch), expected / 2)
    extreme = bpr_loss(
        torch.tensor([[1e4]]),
        torch.tensor([[0.0], [1.0]]),
        Triplets(*torch.tensor([[0], [0], [1]])),
    )
    assert float(extreme) == 1e4  # and not infinite


def test_base_class_needs_its_two_functions():
    model = Recommender(make_data(), channels=4)
    for method in (model.modality_embeddings, lambda: model.fuse({})):
        with pytest.raises(NotImplementedError):
            method()


@pytest.mark.parametrize('has_missing', [False, True])
@pytest.mark.parametrize('scaling', ['standard', 'row', None])
def test_feature_scaling(scaling, has_missing):
    data = make_data(missing=0.3 if has_missing else 0.0)
    raw = data['item'].x_text.clone()
    data['item'].x_text[:, 2] = raw[:, 2] = 1000.1
    model = Recommender(data, channels=4, feature_scaling=scaling)
    x = model.features('text')
    has = data['item'].has_text if has_missing else torch.ones(23, dtype=torch.bool)
    assert (x[~has] == 0).all()
    if scaling is None:
        assert torch.equal(x[has], raw[has])
    elif scaling == 'row':
        torch.testing.assert_close(x[has].norm(dim=1), torch.ones(int(has.sum())))
    else:
        kept = x[has][:, [0, 1, 3, 4, 5, 6]]
        torch.testing.assert_close(kept.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
        torch.testing.assert_close(kept.std(dim=0, unbiased=False), torch.ones(6))
        assert (x[:, 2] == 0).all()  # a constant column, not its rounding error
    assert torch.equal(data['item'].x_text, raw.where(has.unsqueeze(1), data['item'].x_text))
    assert torch.equal(model.features('text', torch.tensor([4, 1])), x[[4, 1]])


def test_users_have_a_modality_if_any_of_their_items_does():
    data = make_data(missing=0.5)
    model = Recommender(data, channels=4)
    user, item = data['user', 'rates', 'item'].edge_index
    for name, (has_user, has_item) in model.present().items():
        assert torch.equal(has_item, data['item'][f'has_{name}'])
        for u in range(17):
            assert bool(has_user[u]) == bool(has_item[item[user == u]].any())
    assert Recommender(make_data(), channels=4).present() is None
