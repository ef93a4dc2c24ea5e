import pytest
from contract import make_data

from mrdib_pyg.nn.models import MGCN


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
