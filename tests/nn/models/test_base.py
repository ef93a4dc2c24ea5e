import pytest
import torch
from contract import make_batch, make_data, moved, same
from torch_geometric.transforms import ToSparseTensor

from mrdib_pyg.nn.models import BM3, FREEDOM, MGCN, MODELS, VBPR, Recommender, Triplets
from mrdib_pyg.nn.models.batch import bpr_loss


def test_data_that_lacks_what_a_model_reads():
    for name in ('user', 'item'):
        data = make_data()
        del data[name].num_nodes
        with pytest.raises(ValueError, match=f"data\\['{name}'\\].num_nodes is not set: set it"):
            VBPR(data)
    data = ToSparseTensor()(make_data())
    with pytest.raises(ValueError, match="has an 'adj_t' but no 'edge_index'.*ToSparseTensor"):
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
    with pytest.raises(ValueError, match=f'AllRows.{method}.. was asked for .* set row_wise = F'):
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
