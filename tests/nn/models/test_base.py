import pytest
from contract import make_data
from torch_geometric.transforms import ToSparseTensor

from mrdib_pyg.nn.models import VBPR


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
