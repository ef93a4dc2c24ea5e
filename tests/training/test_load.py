import pytest
import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import VBPR, MultimodalLightGCN
from mrdib_pyg.nn.models.registry import model_name
from mrdib_pyg.training import CheckpointError, fit, load_checkpoint, load_model


class Mine(VBPR):
    """A model that this package does not know."""


@pytest.fixture
def folder(data, tmp_path):
    return train(data, tmp_path, VBPR)[0]


def train(data, folder, cls, **kwargs):
    seed_everything(0)
    model = cls(data, channels=8, **kwargs)
    fit(model, data, epochs=2, batch_size=64, out=folder, progress=False)
    return folder, model


def change(path, **changes):
    state = load_checkpoint(path)
    torch.save({**state, **changes}, path)


@pytest.mark.parametrize(
    ('cls', 'kwargs'),
    [
        (VBPR, {}),
        (VBPR, {'mrdib': {'redundancy': 'club'}, 'feature_scaling': 'row'}),
        (VBPR, {'mrdib': {'control': 'noise', 'noise_scale': 0.2}}),
        (VBPR, {'mrdib': {'control': 'l2'}}),
        (MultimodalLightGCN, {'fusion': 'mlp', 'num_layers': 1, 'id_channel': False}),
        (MultimodalLightGCN, {'fusion': 'product_of_experts', 'mrdib': {}}),
        (MultimodalLightGCN, {'fusion': 'attention', 'mrdib': {'bottleneck': 'complete'}}),
    ],
)
def test_load_model(data, tmp_path, cls, kwargs):
    _, model = train(data, tmp_path, cls, **kwargs)
    loaded, info = load_model(tmp_path / 'best.pt', data)
    assert type(loaded) is cls and not loaded.training
    assert loaded.config == model.config
    assert torch.equal(loaded.embed().user, model.embed().user)
    assert torch.equal(loaded.embed().item, model.embed().item)
    assert info['epoch'] in (1, 2) and info['identity']['model'] == model_name(cls)
    assert 'model' not in info


def test_load_last(data, folder):
    assert load_model(folder / 'last.pt', data)[1]['epoch'] == 2


def test_load_model_of_a_class_of_ones_own(data, tmp_path):
    train(data, tmp_path, Mine)
    message = f'holds the model {__name__}:Mine, which is not one of this package; pass its class'
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / 'best.pt', data)
    for wrong in (VBPR, 'vbpr'):
        with pytest.raises(CheckpointError, match=f'holds the model {__name__}:Mine, not vbpr'):
            load_model(tmp_path / 'best.pt', data, cls=wrong)
    for cls in (Mine, f'{__name__}:Mine'):
        assert type(load_model(tmp_path / 'best.pt', data, cls=cls)[0]) is Mine


def test_a_class_of_ones_own_with_a_name_of_this_package(data, tmp_path):
    own = type('VBPR', (VBPR,), {'__module__': 'elsewhere'})
    train(data, tmp_path / 'own', own)
    train(data, tmp_path / 'vbpr', VBPR)
    with pytest.raises(CheckpointError, match='holds the model elsewhere:VBPR, which is not one'):
        load_model(tmp_path / 'own' / 'best.pt', data)
    with pytest.raises(CheckpointError, match='holds the model vbpr, not elsewhere:VBPR.*leave th'):
        load_model(tmp_path / 'vbpr' / 'best.pt', data, cls=own)
    # Its file may have moved, and its script may have trained it.
    for module in ('moved', '__main__'):
        moved = type('VBPR', (VBPR,), {'__module__': module})
        assert type(load_model(tmp_path / 'own' / 'best.pt', data, cls=moved)[0]) is moved
    with pytest.raises(CheckpointError, match="made with model 'elsewhere:VBPR' but this run has"):
        fit(VBPR(data, channels=8), data, out=tmp_path / 'own', resume=True, progress=False)


def test_other_data(folder):
    other = Planted(num_users=40, num_items=50, num_interactions=10, noise=1.0)[0]
    with pytest.raises(CheckpointError, match='trained on other data'):
        load_model(folder / 'best.pt', other)


def test_no_checkpoint(data, tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        load_model(tmp_path / 'best.pt', data)


@pytest.mark.parametrize('identity', [None, {}, {'model': 'VBPR'}, 'VBPR'])
def test_no_identity(data, folder, identity):
    change(folder / 'best.pt', identity=identity)
    with pytest.raises(CheckpointError, match='not a checkpoint of a training run'):
        load_model(folder / 'best.pt', data)


def test_parameters_that_do_not_fit(data, folder):
    state = load_checkpoint(folder / 'best.pt')['model']
    change(folder / 'best.pt', model={**state, 'bias': torch.zeros(9)})
    with pytest.raises(CheckpointError, match='do not fit the model vbpr'):
        load_model(folder / 'best.pt', data)


def test_settings_that_are_gone(data, folder):
    identity = load_checkpoint(folder / 'best.pt')['identity']
    config = {**identity['config'], 'no_longer': 1}
    change(folder / 'best.pt', identity={**identity, 'config': config})
    with pytest.raises(CheckpointError, match='do not fit the model vbpr'):
        load_model(folder / 'best.pt', data)
