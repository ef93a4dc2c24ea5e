from collections.abc import Mapping, Sequence
from typing import Optional

import pytest
import torch
from contract import make_batch, make_data, moved, same
from torch_geometric.transforms import ToSparseTensor

from mrdib_pyg.nn import CodeNoise, CodePenalty, MRdIB
from mrdib_pyg.nn.models import BM3, FREEDOM, MGCN, MODELS, VBPR, Recommender, Triplets
from mrdib_pyg.nn.models.batch import bpr_loss
from mrdib_pyg.nn.models.recommender import check_values


def test_data_that_lacks_what_a_model_reads():
    for name in ('user', 'item'):
        data = make_data()
        del data[name].num_nodes
        with pytest.raises(ValueError, match=f"data\\['{name}'\\].num_nodes is not set: set it"):
            VBPR(data)
    data = ToSparseTensor()(make_data())
    with pytest.raises(ValueError, match="'edge_index' .*got 'adj_t'.*ToSparseTensor"):
        VBPR(data)


def test_a_modality_may_have_any_name():
    data = make_data(missing=0.3)
    data['item'].x_missing, data['item'].has_missing = data['item'].x_text, data['item'].has_text
    del data['item'].x_text, data['item'].has_text
    assert VBPR(data).modalities == ['image', 'missing']


@pytest.mark.parametrize('mrdib', [None, {}])
@pytest.mark.parametrize('method', ['modality_embeddings', 'fuse'])
def test_rows_that_were_not_asked_for_are_refused(method, mrdib):
    """A loss would read the wrong ones, since it numbers a batch by the rows it asks for."""

    class AllRows(VBPR):
        def modality_embeddings(self, rows=None):
            return super().modality_embeddings(None if method == 'modality_embeddings' else rows)

        def fuse(self, codes, rows=None):
            out = super().fuse(codes, rows)
            return out._replace(user=self.user_emb.weight) if method == 'fuse' else out

    model = AllRows(make_data(), mrdib=mrdib)
    batch = Triplets(*torch.tensor([[3, 5], [0, 2], [4, 1]]))
    with pytest.raises(ValueError, match=f'AllRows.{method}.. must return .*row_wise'):
        model.loss(batch)
    assert model().user.size(0) == model.num_users


MULTIMODAL = [name for name, cls in MODELS.items() if cls.multimodal]


@pytest.mark.parametrize('name', MULTIMODAL)
def test_the_order_of_features_in_the_data_is_irrelevant(name):
    """The order is not part of a checkpoint, and a folder may have another one."""
    data, swapped = make_data(), make_data()
    x = swapped['item'].pop('x_image')
    swapped['item'].x_image = x
    assert list(data['item'].keys()) != list(swapped['item'].keys())
    models = [
        moved(MODELS[name](d, channels=8, mrdib={'redundancy': 'club'})) for d in (data, swapped)
    ]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (model.eval() for model in models)
    assert first.modalities == second.modalities == ['image', 'text']
    assert same(first.embed(), second.embed())
    terms = [model.loss(make_batch(data)) for model in (first, second)]
    assert all(torch.equal(terms[0][key], terms[1][key]) for key in terms[0])


class NotStored(VBPR):
    def __init__(self, data, depth=2, mrdib=None):
        super().__init__(data, mrdib=mrdib)


class Handed(VBPR):
    def __init__(self, data, depth=2, **kwargs):
        super().__init__(data, **kwargs)
        self.depth = depth


def test_config():
    model = Handed(make_data(), depth=3, channels=8, mrdib={'redundancy': None})
    assert model.config['depth'] == 3 and model.config['channels'] == 8
    assert model.config['mrdib']['redundancy'] is None
    again = Handed(make_data(), **model.config)
    assert again.config == model.config
    with pytest.raises(ValueError, match="NotStored must store the argument 'depth'"):
        NotStored(make_data()).config  # noqa: B018


@pytest.mark.parametrize('bottleneck', ['late', 'early', 'complete'])
@pytest.mark.parametrize(
    ('cls', 'settings'), [(BM3, {'dropout': 0.0}), (FREEDOM, {'slot': 'projection', 'k': 5})]
)
def test_synergistic_term_where_codes_do_not_reach_the_score(cls, settings, bottleneck):
    data = make_data()
    layer = {'bottleneck': bottleneck, 'redundancy': None}
    model = moved(cls(data, channels=8, mrdib=layer, **settings)).eval()
    batch = make_batch(data)
    terms = model.loss(batch)
    with torch.no_grad():
        codes = {
            m: (None, item.z) for m, (_, item) in model.mrdib(model.modality_embeddings()).items()
        }
        joint = model._encode_fused(*model.joint(codes, model.fuse(codes)))
        expected, of_score = bpr_loss(*joint, batch), bpr_loss(*model.embed()[:2], batch)
    torch.testing.assert_close(terms['synergistic'].detach(), expected)
    assert (expected - of_score).abs() > 1e-3
    assert not model.joint_is_score and MGCN(data, k=5).joint_is_score
    assert FREEDOM(data, k=5).joint_is_score


class Pairs(VBPR):
    def fuse(self, codes, rows=None):
        return super().fuse(codes, rows)[:2]


class Without(Recommender):
    def __init__(self, data):
        super().__init__(data, 8)


def test_what_a_model_of_ones_own_forgot():
    with pytest.raises(TypeError, match=r'Pairs.fuse\(\) must return Embeddings.*got tuple'):
        Pairs(make_data()).loss(make_batch(make_data()))
    with pytest.raises(NotImplementedError, match=r'Without has no modality_embeddings\(\)'):
        Without(make_data())()


def test_settings_of_a_layer():
    data = make_data()
    model = MGCN(data, mrdib={'user_codes': False})
    assert not model.mrdib.user_codes and 'user_0_1' not in model.mrdib.critics
    for settings, message in (
        ({'redundency': 'mine'}, "unknown setting 'redundency'; MRdIB has \\['redundancy'"),
        ({'control': 'l2', 'noise_scale': 0.1}, "'noise_scale'; the control 'l2' has \\[\\]"),
        ({'control': 'noise', 'redundancy': None}, "control 'noise' has \\['noise_scale'"),
    ):
        with pytest.raises(ValueError, match=message):
            MGCN(data, mrdib=settings)


def test_a_layer_in_another_order_of_modalities():
    """Critics are told apart by the order: it is kept where a checkpoint builds the layer anew."""
    data = make_data()
    layer = MRdIB({'text': 8, 'image': 8}, user_codes=False)
    model = moved(VBPR(data, channels=8, mrdib=layer)).eval()
    again = VBPR(data, **model.config).eval()
    again.load_state_dict(model.state_dict())
    assert list(again.mrdib.channels) == ['text', 'image']
    redundant = [m.loss(make_batch(data))['redundant'] for m in (model, again)]
    assert torch.equal(*redundant)


@pytest.mark.parametrize('cls', [VBPR, MGCN])
@pytest.mark.parametrize('kind', [MRdIB, CodeNoise, CodePenalty])
def test_a_layer_of_the_caller_is_copied(kind, cls):
    """Two models of one layer share nothing, and a model without user codes takes no critics."""
    layer = kind({'image': 8, 'text': 8})
    with torch.no_grad():
        for param in layer.parameters():
            param.fill_(0.5)
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    models = [cls(make_data(), channels=8, mrdib=layer) for _ in range(2)]
    assert len({id(layer), *(id(model.mrdib) for model in models)}) == 3
    assert layer.state_dict().keys() == before.keys()
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())
    if kind is MRdIB:
        assert 'user_0_1' in layer.critics and layer.user_codes
        assert ('user_0_1' in models[0].mrdib.critics) == cls.user_codes


@pytest.mark.parametrize('mrdib', [True, 'mine', torch.nn.Identity(), MRdIB])
def test_what_is_no_layer(mrdib):
    with pytest.raises(TypeError, match="'mrdib' must be an MRdIB, a control, a dictionary"):
        VBPR(make_data(), mrdib=mrdib)


class Model:
    def __init__(
        self,
        data,
        layers: int = 2,
        ratio: float | None = 0.1,
        name: Optional[str] = None,  # noqa: UP045
        sizes: Sequence[int] | str = (),
        weights: Mapping[str, float] | None = None,
        flag=False,
        anything=3,
        quoted: 'NotDefined' = None,  # noqa: F821
        quoted_flag: 'bool' = True,
        implicit: int = None,
    ):
        pass


GOOD = {
    'layers': [1], 'ratio': [1, 0.5, None], 'name': ['a', None], 'sizes': [[1], (1, 2), 'all'],
    'weights': [{'a': 1.0}, None], 'flag': [True], 'anything': ['x', None, 1, []],
    'quoted': [1, 'x'], 'quoted_flag': [False], 'implicit': [1, None],
}  # fmt: skip


def test_values_that_fit():
    for name, values in GOOD.items():
        for value in values:
            check_values(Model, {name: value})


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('layers', 2.0, r"'layers' must be an integer \(got 2.0\)"),
        ('layers', True, "'layers' must be an integer"),
        ('layers', None, "'layers' must be an integer"),
        ('ratio', False, "'ratio' must be a number or none"),
        ('ratio', '0.5', "'ratio' must be a number or none"),
        ('name', 1, "'name' must be a word or none"),
        ('sizes', 1, "'sizes' must be a list or a word"),
        ('flag', 'no', r"'flag' must be true or false \(got 'no'\)"),
        ('flag', 1, "'flag' must be true or false"),
        ('quoted_flag', 'no', "'quoted_flag' must be true or false"),
        ('implicit', 'a', "'implicit' must be an integer"),
    ],
)
def test_values_that_do_not(name, value, message):
    with pytest.raises(ValueError, match=f'the setting {message}'):
        check_values(Model, {name: value})


def test_base_class_needs_its_two_functions():
    model = Recommender(make_data(), channels=4)
    for method in (model.modality_embeddings, lambda: model.fuse({})):
        with pytest.raises(NotImplementedError):
            method()
