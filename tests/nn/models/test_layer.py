import pytest
import torch
from contract import make_batch, make_data, moved

from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import MGCN, VBPR


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


@pytest.mark.parametrize('mrdib', [True, 'mine', torch.nn.Identity(), MRdIB])
def test_what_is_no_layer(mrdib):
    with pytest.raises(TypeError, match="'mrdib' must be an MRdIB, a control, a dictionary"):
        VBPR(make_data(), mrdib=mrdib)
