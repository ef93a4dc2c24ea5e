import pytest
import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import LightGCN, MultimodalLightGCN, Triplets
from mrdib_pyg.training import LossWeights, fit, load_checkpoint
from mrdib_pyg.training.step import make_loss_step

# By torch's own tracing.
pytestmark = pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')


@pytest.fixture(scope='module')
def data():
    return Planted(num_users=40, num_items=30, num_interactions=10)[0]


def test_other_sizes_run_as_they_are(data, monkeypatch):
    sizes = []

    def compile(function, **kwargs):
        assert kwargs == {'dynamic': False}

        def compiled(batch):
            sizes.append(batch.src_index.numel())
            assert model.static_shapes
            return function(batch)

        return compiled

    monkeypatch.setattr(torch, 'compile', compile)
    seed_everything(0)
    model = MultimodalLightGCN(data, channels=4)
    weighting = LossWeights(model.loss_weights)
    step, plain = make_loss_step(model, weighting, 8), make_loss_step(model, weighting)
    user, pos = data['user', 'rates', 'item'].edge_index
    for size in (8, 5, 8):
        batch = Triplets(user[:size], pos[:size], pos[-size:])
        (loss, terms), (expected, expected_terms) = step(batch), plain(batch)
        torch.testing.assert_close(loss, expected)
        assert loss.requires_grad and terms.keys() == expected_terms.keys()
        assert not model.static_shapes
    assert sizes == [8, 8]


def test_static_shapes_are_reset_after_an_error(data, monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda function, **kwargs: function)
    model = MultimodalLightGCN(data, channels=4)
    step = make_loss_step(model, LossWeights(model.loss_weights), 1)
    with pytest.raises(IndexError):
        step(Triplets(*(torch.tensor([10**6]) for _ in range(3))))
    assert not model.static_shapes


@pytest.mark.slow
def test_fit(data, tmp_path):
    """By the compiler of PyTorch, which compiles C++ on a CPU."""
    histories = []
    for compile in (False, True):
        torch.compiler.reset()
        seed_everything(0)
        model = LightGCN(data, channels=8)
        out = tmp_path / str(compile)
        fitted = fit(model, data, epochs=3, batch_size=64, compile=compile, progress=False, out=out)
        assert ('compile' in load_checkpoint(out / 'best.pt')['identity']['settings']) == compile
        histories.append([row['train'] for row in fitted.history])
    for plain, compiled in zip(*histories):
        assert compiled == pytest.approx(plain, rel=1e-4)
