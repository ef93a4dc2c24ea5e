import copy
import math

import pytest
import torch

from mrdib_pyg.nn import CodeNoise, CodePenalty, Posterior

CHANNELS = {'image': 4, 'text': 3}
CONTROLS = [CodeNoise, CodePenalty]
TRIPLET = (torch.tensor([0, 1, 1]), torch.tensor([0, 3, 3]), torch.tensor([2, 2, 4]))


def pairs(num_users=2, num_items=5):
    return {m: (torch.randn(num_users, c), torch.randn(num_items, c)) for m, c in CHANNELS.items()}


@pytest.mark.parametrize('cls', CONTROLS)
def test_evaluation_is_the_identity(cls):
    control = cls(CHANNELS).eval()
    x = pairs()
    x['text'] = (None, x['text'][1])
    for name, (user, item) in control(x).items():
        assert item.logstd is None
        assert torch.equal(item.z, x[name][1]) and torch.equal(item.mu, x[name][1])
        assert (user is None) if x[name][0] is None else torch.equal(user.z, x[name][0])
    single = control({'image': x['image'][1]})['image']
    assert isinstance(single, Posterior) and torch.equal(single.z, x['image'][1])


@pytest.mark.parametrize('cls', CONTROLS)
def test_controls_learn_nothing(cls):
    control = cls(CHANNELS)
    assert list(control.parameters()) == [] and list(control.state_dict()) == []
    control.reset_parameters()
    copy.deepcopy(control)


def test_penalty_is_the_identity_in_training_too():
    x = pairs()
    codes = CodePenalty(CHANNELS)(x)
    assert all(torch.equal(codes[m][s].z, x[m][s]) for m in CHANNELS for s in (0, 1))


def test_noise_follows_the_scale_of_the_rows():
    x = 0.02 * torch.randn(20000, 4)
    z = CodeNoise(CHANNELS, noise_scale=0.3)({'image': (None, x)})['image'][1].z
    noise = z - x
    assert float(noise.std() / x.square().mean().sqrt()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(noise.mean())) < 1e-4
    assert torch.equal(CodeNoise(CHANNELS, 0.0)({'image': x})['image'].z, x)


@pytest.mark.parametrize('scale', [1e-3, 300.0])
def test_noise_in_half_precision(scale):
    torch.manual_seed(0)
    x = scale * torch.randn(2000, 4)
    out = CodeNoise({'a': 4}, noise_scale=0.5)({'a': x.half()})['a']
    assert (out.z - out.mu).float().std() == pytest.approx(0.5 * scale, rel=0.05)


def test_noise_passes_the_gradient_through():
    x = torch.randn(5, 4, requires_grad=True)
    CodeNoise(CHANNELS)({'image': x})['image'].z.sum().backward()
    assert (x.grad == 1).all()  # the noise level is a constant


def test_noise_of_nothing():
    out = CodeNoise(CHANNELS)({'image': (torch.empty(0, 4), torch.empty(0, 4))})
    assert out['image'][1].z.shape == (0, 4)


def test_noise_has_no_terms():
    control = CodeNoise(CHANNELS)
    terms = control.loss(control(pairs()), *TRIPLET, unimodal={}, present=None)
    assert [float(t) for t in terms[:3]] == [0.0, 0.0, 0.0]
    assert terms.synergistic is None


def test_penalty_is_half_the_mean_square_of_the_rows_of_the_batch():
    control = CodePenalty(CHANNELS)
    x = pairs()
    src, pos, neg = TRIPLET
    expected = 0.0
    for user, item in x.values():
        rows = [user[i] for i in src] + [item[i] for i in pos] + [item[i] for i in neg]
        expected += sum(float(row.square().sum()) / 2 for row in rows) / len(rows)
    terms = control.loss(control(x), *TRIPLET)
    assert float(terms.bottleneck) == pytest.approx(expected, rel=1e-6)
    assert float(terms.redundant) == float(terms.unique) == 0.0


def test_penalty_leaves_out_what_is_missing():
    control = CodePenalty(CHANNELS)
    x = pairs()
    x['image'][1][2] = 100.0
    present = {'image': (None, torch.tensor([True, True, False, True, True]))}
    terms = control.loss(control(x), *TRIPLET, present=present)
    src, pos, neg = TRIPLET
    rows = [x['image'][0][i] for i in src] + [x['image'][1][i] for i in (0, 3, 3, 4)]
    expected = sum(float(row.square().sum()) / 2 for row in rows) / len(rows)
    rows = [x['text'][0][i] for i in src] + [x['text'][1][i] for i in (*pos, *neg)]
    expected += sum(float(row.square().sum()) / 2 for row in rows) / len(rows)
    assert float(terms.bottleneck) == pytest.approx(expected, rel=1e-6)


def test_penalty_in_one_id_space_with_a_mask():
    x = torch.ones(5, 4)
    x[0] = 100.0
    control = CodePenalty({'image': 4})
    mask = torch.tensor([False, True, True, True, True])
    terms = control.loss(control({'image': x}), *TRIPLET, present={'image': mask})
    assert float(terms.bottleneck) == 2.0  # user 0 and item 0 are the masked row


@pytest.mark.parametrize('noise_scale', [-0.1, math.inf, math.nan])
def test_noise_must_not_be_negative(noise_scale):
    message = rf"'noise_scale' must be finite and not negative \(got {noise_scale}\)"
    with pytest.raises(ValueError, match=message):
        CodeNoise(CHANNELS, noise_scale=noise_scale)


def test_config_and_repr():
    assert CodeNoise(CHANNELS, 0.2).config == {'control': 'noise', 'noise_scale': 0.2}
    assert CodePenalty(CHANNELS).config == {'control': 'l2'}
    assert repr(CodeNoise(CHANNELS)) == f'CodeNoise({CHANNELS}, noise_scale=0.1)'
    assert repr(CodePenalty(CHANNELS)) == f'CodePenalty({CHANNELS})'
