"""The contract can fail: models with a known defect do not pass it. And every model is under it."""

from pathlib import Path

import pytest
import torch
from contract import RecommenderContract, make_data

from mrdib_pyg.nn.models import MODELS, VBPR, Embeddings, Recommender
from mrdib_pyg.nn.models.batch import bpr_loss


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
