import pytest
import torch

from mrdib_pyg.training import LossWeights


def terms(**values):
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def test_loss_weights_sum_and_gradient():
    weights = LossWeights({'task': 1.0, 'l2': 1e-4}, {'bottleneck': 0.5, 'l2': 0.25})
    x = terms(task=2.0, l2=8.0, bottleneck=3.0, redundant=7.0, unique=11.0, synergistic=2.0)
    total = weights(x)
    assert total.item() == 2.0 + 0.25 * 8.0 + 0.5 * 3.0  # the others are only reported
    total.backward()
    grads = {name: None if v.grad is None else v.grad.item() for name, v in x.items()}
    assert grads == {
        'task': 1.0, 'l2': 0.25, 'bottleneck': 0.5,
        'redundant': None, 'unique': None, 'synergistic': None,
    }  # fmt: skip


def test_loss_weights_keep_a_plain_loss_bit_for_bit():
    x = terms(task=0.1234567)
    assert LossWeights({'task': 1.0})(x) is x['task']


def test_loss_weights_pass_over_absent_terms():
    x = {**terms(task=2.0), 'synergistic': None}
    assert LossWeights({'task': 1.0}, {'unique': 1.0})(x).item() == 2.0


def test_loss_weights_do_not_let_an_unweighted_term_in():
    x = terms(task=2.0, redundant=float('nan'))
    assert LossWeights({'task': 1.0})(x).item() == 2.0


def test_loss_weights_repr():
    weights = LossWeights({'task': 1.0}, {'bottleneck': 1e-3})
    assert str(weights) == 'LossWeights(bottleneck=0.001, redundant=0, unique=0, task=1)'


@pytest.mark.parametrize('name', ['synergistic', 'loss', 'l2', 'Task'])
def test_loss_weights_refuse_a_name(name):
    with pytest.raises(ValueError, match=rf"no loss term '{name}' .*known are \['bottleneck'"):
        LossWeights({'task': 1.0}, {name: 1.0})


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf'), '1', None, True])
@pytest.mark.parametrize('of_model', [True, False])
def test_loss_weights_refuse_a_value(weight, of_model):
    args = ({'task': weight},) if of_model else ({'task': 1.0}, {'task': weight})
    with pytest.raises(ValueError, match="weight 'task' must be a number >= 0"):
        LossWeights(*args)


def test_loss_weights_refuse_an_empty_sum():
    with pytest.raises(ValueError, match='every term has a weight of zero'):
        LossWeights({'task': 1.0}, {'task': 0.0})(terms(task=1.0, unique=2.0))
