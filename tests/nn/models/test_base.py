import pytest
import torch
from contract import make_data
from torch_geometric.transforms import ToSparseTensor

from mrdib_pyg.nn.models import VBPR, Triplets


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
