"""Attaching MRdIB to a model that knows nothing of it. Run as a script, this file is the
two-process job of the distributed test.
"""

import copy
import faulthandler
import gc
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import GCNConv, SAGEConv

from mrdib_pyg.nn import MRdIB, Posterior, attach, capture, detach

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {'image': 'image_proj', 'text': 'text_proj'}
WEIGHTS = {'bottleneck': 0.1, 'redundant': 0.1, 'unique': 0.1}
NUM_USERS, NUM_ITEMS, CHANNELS = 20, 30, 8


class Model(nn.Module):
    """A recommender as someone else would write it; it multiplies so that no target is idle."""

    def __init__(self, per_batch=False, use_checkpoint=False):
        super().__init__()
        self.per_batch = per_batch
        self.use_checkpoint = use_checkpoint
        self.user = nn.Embedding(NUM_USERS, CHANNELS)
        self.image_proj = nn.Linear(6, CHANNELS)
        self.text_proj = nn.Sequential(nn.Linear(5, CHANNELS), nn.ReLU(inplace=True))
        self.unused = nn.Linear(5, CHANNELS)
        self.heads = nn.ModuleList([nn.Linear(CHANNELS, CHANNELS)])
        self.register_buffer('image', torch.randn(NUM_ITEMS, 6))
        self.register_buffer('text', torch.randn(NUM_ITEMS, 5))

    def items(self, index):
        return self.image_proj(self.image[index]) * self.text_proj(self.text[index])

    def rows(self, index):
        if self.use_checkpoint:
            return checkpoint(self.items, index, use_reentrant=False)
        return self.items(index)

    def forward(self, user, pos, neg):
        user = self.heads[0](self.user(user))
        if self.per_batch:
            pos, neg = self.rows(pos), self.rows(neg)
        else:
            item = self.rows(torch.arange(NUM_ITEMS))
            pos, neg = item[pos], item[neg]
        return (user * pos).sum(dim=-1), (user * neg).sum(dim=-1)


def make(redundancy='mine', **kwargs):
    torch.manual_seed(12345)
    model = Model(**kwargs)
    mrdib = attach(model, TARGETS, channels=CHANNELS, redundancy=redundancy)
    # MINE counts its batches in the forward pass; every parameter but the unused layer's matters.
    model.unused.requires_grad_(False)
    return model, mrdib


def make_triplet(seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(n, (size,), generator=generator) for n in (20, 30, 30))


def compute_loss(model, triplet, owner=None, backward_inside=False):
    """One training step's loss; `owner` is the model inside of a wrapper."""
    owner = model if owner is None else owner
    src, pos, neg = triplet
    if owner.per_batch:  # two calls: the rows of the positives, then those of the negatives
        pos = torch.arange(src.numel())
        neg = pos + src.numel()
    with capture(model) as codes:
        score_pos, score_neg = model(*triplet)
        terms = owner.mrdib.loss(codes, src, pos, neg, user_embedding=owner.user.weight)
        loss = F.softplus(score_neg - score_pos).mean() + terms.total(**WEIGHTS)
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    return loss.detach(), codes


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name, **tolerance)


def assert_clean(model):
    for module in model.modules():
        assert getattr(module, 'captures', []) == []


class Holder(nn.Module):
    """Modules by name, and no more."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


# -- what it does ------------------------------------------------------------------------------


def test_attach_and_detach():
    torch.manual_seed(0)
    model = Model().eval()
    triplet = make_triplet()
    keys, modules = list(model.state_dict()), [n for n, _ in model.named_modules()]
    out = model(*triplet)

    mrdib = attach(model, TARGETS, channels=CHANNELS)
    assert model.mrdib is mrdib and isinstance(mrdib, MRdIB)
    assert not mrdib.training
    assert mrdib.targets == TARGETS and mrdib.channels == {'image': 8, 'text': 8}
    assert "targets={'image': 'image_proj'" in repr(mrdib)
    added = set(model.state_dict()) - set(keys)
    assert added == {f'mrdib.{key}' for key in mrdib.state_dict()} != set()
    assert len(model.image_proj._forward_hooks) == 1
    # A fresh bottleneck in evaluation mode is the identity, bit for bit.
    for actual, expected in zip(model(*triplet), out):
        assert torch.equal(actual, expected)
    model.train()
    assert not torch.equal(model(*triplet)[0], out[0])

    detach(model)
    assert list(model.state_dict()) == keys
    assert [n for n, _ in model.named_modules()] == modules
    assert not hasattr(model, 'mrdib')
    for module in model.modules():
        assert len(module._forward_hooks) == 0
    for actual, expected in zip(model(*triplet), out):
        assert torch.equal(actual, expected)
    attach(model, TARGETS, channels=CHANNELS)  # and once more


def test_equals_the_explicit_layer():
    model, mrdib = make()
    explicit = MRdIB({'image': 8, 'text': 8}, user_codes=False)
    explicit.load_state_dict(mrdib.state_dict())
    plain = copy.deepcopy(model)
    detach(plain)
    src, pos, neg = make_triplet()

    torch.manual_seed(1)
    loss, codes = compute_loss(model, (src, pos, neg))

    torch.manual_seed(1)
    expected_codes = explicit(
        {'image': plain.image_proj(plain.image), 'text': plain.text_proj(plain.text)}
    )
    item = expected_codes['image'].z * expected_codes['text'].z
    user = plain.heads[0](plain.user(src))
    score = (user * (item[neg] - item[pos])).sum(dim=-1)
    terms = explicit.loss(expected_codes, src, pos, neg, user_embedding=plain.user.weight)
    expected = F.softplus(score).mean() + terms.total(**WEIGHTS)
    expected.backward()

    torch.testing.assert_close(loss, expected.detach())
    for name in TARGETS:
        for actual, reference in zip(codes[name], expected_codes[name]):
            assert torch.equal(actual, reference)
    reference = gradients(plain)
    reference.update({f'mrdib.{n}': g for n, g in gradients(explicit).items()})
    assert_same(gradients(model), reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('redundancy', ['mine', 'nwj', 'infonce', 'club', 'gaussian', None])
def test_every_parameter_gets_a_gradient(redundancy):
    model, _ = make(redundancy)
    compute_loss(model, make_triplet(size=64))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # The last bias of a critic cancels in the bound.
            if 'critics' not in name:
                assert parameter.grad.abs().sum() > 0, name


def test_a_few_steps_learn():
    model, _ = make()
    triplet = make_triplet(size=64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(float(compute_loss(model, triplet)[0]))
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def gcn(x):
    return GCNConv(6, CHANNELS), (x, torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]))


def sage(x):
    return SAGEConv((6, 6), CHANNELS), ((x, x), torch.tensor([[0, 1, 2], [1, 0, 3]]))


@pytest.mark.parametrize(
    'target',
    [
        lambda x: (nn.Linear(6, CHANNELS), (x,)),
        lambda x: (nn.Embedding(12, CHANNELS), (torch.arange(12),)),
        lambda x: (nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, CHANNELS)), (x,)),
        lambda x: (nn.Linear(6, CHANNELS), (x.view(3, 4, 6),)),
        lambda x: (nn.Linear(6, CHANNELS), (x[0],)),
        lambda x: (nn.Linear(6, CHANNELS).double(), (x.double(),)),
        lambda x: (nn.Linear(6, CHANNELS).bfloat16(), (x.bfloat16(),)),
        lambda x: (nn.Linear(6, CHANNELS), (x[:0],)),
        gcn,
        sage,
    ],
    ids='linear embedding sequential rank3 rank1 double bfloat16 empty gcn sage'.split(),
)
def test_target(target):
    module, args = target(torch.randn(12, 6))
    model = Holder(target=module)
    out = module(*args)
    mrdib = attach(model, {'image': 'target'}, CHANNELS, redundancy=None)
    assert next(mrdib.parameters()).dtype == out.dtype

    model.eval()
    with capture(model) as codes:
        actual = module(*args)
    assert actual.shape == out.shape and actual.dtype == out.dtype
    assert torch.equal(actual, out)
    assert torch.equal(codes['image'].z.view_as(out), out)

    model.train()
    with capture(model) as codes:
        actual = module(*args)
    assert isinstance(codes['image'], Posterior)
    assert codes['image'].z.shape == codes['image'].logstd.shape == (out.numel() // 8, 8)
    assert torch.equal(codes['image'].z.view_as(out), actual)
    assert out.numel() == 0 or not torch.equal(actual, out)
    actual.sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None


def test_target_in_a_submodule_and_channels_per_modality():
    model = Holder(tower=nn.ModuleDict({'a': nn.Linear(3, 4), 'b': nn.Linear(3, 5)}))
    mrdib = attach(model, {'x': 'tower.a', 'y': 'tower.b'}, {'y': 5, 'x': 4})
    assert mrdib.channels == {'x': 4, 'y': 5}
    with capture(model) as codes:
        for name in 'ba':
            model.tower[name](torch.ones(2, 3))
    assert codes['x'].z.shape == (2, 4) and codes['y'].z.shape == (2, 5)


def test_activations_changed_in_place_do_not_change_the_codes():
    model = Holder(net=nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True)))
    attach(model, {'image': 'net.0'}, 8, redundancy=None)
    for training in [True, False]:
        model.train(training)
        with capture(model) as codes:
            out = model.net(torch.randn(50, 4))
        assert (codes['image'].z < 0).any()
        assert torch.equal(codes['image'].z.relu(), out)
        assert training != torch.equal(codes['image'].z, codes['image'].mu)


# -- capture -----------------------------------------------------------------------------------


def test_repeated_calls_give_their_rows_in_call_order():
    model, mrdib = make(per_batch=True)
    src, pos, neg = make_triplet()
    with capture(model) as codes:
        model(src, pos, neg)
    model.eval()
    with capture(model) as means:
        model(src, pos, neg)
    index = torch.cat([pos, neg])
    torch.testing.assert_close(
        means['image'].mu, F.linear(model.image[index], *model.image_proj.parameters())
    )
    torch.testing.assert_close(codes['image'].mu, means['image'].mu)
    rows = torch.arange(16)
    mrdib.loss(codes, src, rows, rows + 16, user_embedding=model.user.weight)
    with pytest.raises(IndexError, match=r"'dst_neg_index' .*\[0, 32\) \(got 17 to 32\)"):
        mrdib.loss(codes, src, rows, rows + 17, user_embedding=model.user.weight)


def test_nothing_is_kept_outside_of_capture():
    model, _ = make()
    model(*make_triplet())
    assert_clean(model)
    with capture(model) as codes:
        assert codes == {}
        model(*make_triplet())
        assert set(codes) == {'image', 'text'}
    assert_clean(model)
    before = codes['image'].z.clone()
    model(*make_triplet())
    assert torch.equal(codes['image'].z, before)
    copy.deepcopy(model)


def test_nested_captures():
    model, _ = make()
    triplet = make_triplet()
    with capture(model) as outer:
        model(*triplet)
        with capture(model) as inner:
            model(*triplet)
            model(*triplet)
    assert len(outer['image'].z) == NUM_ITEMS
    assert len(inner['image'].z) == 2 * NUM_ITEMS
    # Blocks need not close in the reverse order.
    first, second = capture(model), capture(model)
    codes_1 = first.__enter__()
    model(*triplet)
    codes_2 = second.__enter__()
    model(*triplet)
    first.__exit__(None, None, None)
    model(*triplet)
    second.__exit__(None, None, None)
    assert len(codes_1['image'].z) == NUM_ITEMS
    assert len(codes_2['image'].z) == 2 * NUM_ITEMS
    assert_clean(model)


def test_exception_inside_of_capture():
    model, _ = make()
    with pytest.raises(KeyError, match='mine'), capture(model):
        raise KeyError('mine')  # and no word on targets that were not called
    assert_clean(model)
    compute_loss(model, make_triplet())


def test_not_called():
    model, mrdib = make()
    message = "target 'image_proj' of modality 'image' was not called inside capture"
    with pytest.raises(RuntimeError, match=message), capture(model):
        pass
    assert_clean(model)
    with pytest.raises(RuntimeError, match="'text_proj' of modality 'text'"), capture(model):
        model.image_proj(model.image)
    with pytest.raises(RuntimeError, match=message), capture(model) as codes:
        mrdib.loss(codes, *make_triplet(), user_embedding=model.user.weight)
    with pytest.raises(RuntimeError, match=message):
        mrdib.loss({}, *make_triplet(), user_embedding=model.user.weight)


def test_different_numbers_of_rows():
    model, mrdib = make()
    with capture(model) as codes:
        model(*make_triplet())
        model.text_proj(model.text)
    with pytest.raises(ValueError, match="'image_proj' 30, 'text_proj' 60"):
        mrdib.loss(codes, *make_triplet(), user_embedding=model.user.weight)


def test_user_embedding_of_another_width():
    model, mrdib = make()
    with capture(model) as codes:
        model(*make_triplet())
    for width in [1, 9]:
        with pytest.raises(ValueError, match=f"users of width {width} cannot .*'image' of width 8"):
            mrdib.loss(codes, *make_triplet(), user_embedding=torch.zeros(NUM_USERS, width))


def test_called_without_gradients():
    model, mrdib = make()
    triplet = make_triplet()
    with torch.no_grad(), capture(model) as codes:
        model(*triplet)
    with pytest.raises(RuntimeError, match="'image_proj' .* without gradients.*use_reentrant"):
        mrdib.loss(codes, *triplet, user_embedding=model.user.weight)
    with torch.no_grad():
        mrdib.loss(codes, *triplet, user_embedding=model.user.weight)
    model.eval()
    with torch.no_grad(), capture(model) as codes:
        model(*triplet)
    mrdib.loss(codes, *triplet, user_embedding=model.user.weight)


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'targets, kwargs, error, message',
    [
        ({'image': 'image_prj'}, {}, ValueError, "'image_prj' of modality 'image'.*'image_proj'"),
        (
            {'image': 'xyzzy'},
            {},
            ValueError,
            "'xyzzy' .* must be a module of Model; it has .'user'",
        ),
        ({'image': ''}, {}, ValueError, "target '' .* must be a module"),
        ({'image': 'text_proj.7'}, {}, ValueError, "did you mean .'text_proj"),
        ({'image': 'image'}, {}, TypeError, "'image' .*got a Tensor"),
        ({'image': 'user.weight'}, {}, TypeError, 'got a Parameter'),
        ({'image': 'items'}, {}, TypeError, 'got a method'),
        ({'image': 'heads'}, {}, TypeError, "'heads' .*got ModuleList.*'heads.0'"),
        ({'a': 'user', 'b': 'user'}, {}, ValueError, "'user' is the target of both 'a' and 'b'"),
        ({}, {}, ValueError, "'targets' must .*got none"),
        (TARGETS, {'channels': {'image': 8}}, ValueError, "'channels' must .*got .'image'"),
        (TARGETS, {'channels': 0}, ValueError, 'must be positive'),
        (TARGETS, {'name': 'user'}, ValueError, "'name' must .*got 'user'"),
        (TARGETS, {'name': 'no name'}, ValueError, "'name' must .*got 'no name'"),
        (TARGETS, {'bottleneck': 'early'}, ValueError, "'bottleneck' cannot be set"),
        (TARGETS, {'user_codes': True}, ValueError, "'user_codes' cannot be set"),
        (TARGETS, {'redundancy': 'nope'}, ValueError, "'redundancy' must be one of"),
    ],
)
def test_attach_refuses(targets, kwargs, error, message):
    model = Model()
    keys = list(model.state_dict())
    with pytest.raises(error, match=message):
        attach(model, targets, **{'channels': 8, **kwargs})
    assert list(model.state_dict()) == keys
    assert all(len(module._forward_hooks) == 0 for module in model.modules())


def test_output_that_does_not_fit():
    model = Holder(gru=nn.GRU(3, 4), lin=nn.Linear(3, 4), flat=nn.Flatten())
    attach(model, {'a': 'gru', 'b': 'lin', 'c': 'flat'}, channels=8)
    with pytest.raises(TypeError, match="'gru' of modality 'a' .*got a tuple"):
        model.gru(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"'lin' .* 8\] \(got \[2, 4\]\); .*\{'b': 4, "):
        model.lin(torch.ones(2, 3))
    with pytest.raises(TypeError, match="'flat' of modality 'c' .*got a torch.int64"):
        model.flat(torch.ones(2, 8, dtype=torch.long))


def test_attached_twice_wrapped_or_not_at_all():
    model, _ = make()
    with pytest.raises(ValueError, match=r'got Model\.mrdib'):
        attach(model, TARGETS, channels=8, name='other')
    both = nn.ModuleList([model, make()[0]])
    with pytest.raises(ValueError, match=r'got Model\.mrdib'):
        attach(Holder(model=model), {'image': 'model.image_proj'}, channels=8)
    with pytest.raises(ValueError, match=r'\(Model.mrdib, Model.m'):
        with capture(both):
            pass
    detach(model)
    with capture(both):  # only one is left, and it is found inside of the list
        both[1](*make_triplet())
    with pytest.raises(ValueError, match='this Model; call attach'):
        detach(model)
    with pytest.raises(ValueError, match='this Model; call attach'), capture(model):
        pass
    for part, where in (('', "'model'"), ('image_proj', "its 'image_proj'")):
        compiled = Model()
        compiled.get_submodule(part).compile(backend='eager')
        with pytest.raises(ValueError, match=f'{where} must not be compiled'):
            attach(compiled, TARGETS, channels=CHANNELS)
    for wrapped in [nn.DataParallel(model), torch.compile(model, backend='eager')]:
        with pytest.raises(ValueError, match="'model' must not be wrapped .got"):
            attach(wrapped, TARGETS, channels=8)
    with pytest.raises(TypeError, match="'model' must .*got Sequential"):
        attach(nn.Sequential(nn.Linear(3, 8)), {'image': '0'}, channels=8)
    with pytest.raises(TypeError, match="'model' must be a torch.nn.Module"):
        attach(lambda x: x, TARGETS)


def test_other_name():
    model = Model()
    model.mrdib = nn.Identity()
    with pytest.raises(ValueError, match="'name' must .*got 'mrdib'"):
        attach(model, TARGETS, channels=8)
    mrdib = attach(model, TARGETS, channels=8, name='attached')
    assert model.attached is mrdib
    with capture(model):
        model(*make_triplet())
    detach(model)
    assert not hasattr(model, 'attached') and isinstance(model.mrdib, nn.Identity)


# -- copies, files, precision ------------------------------------------------------------------


def copy_by_pickle(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('copy_model', [copy.deepcopy, copy_by_pickle])
def test_copies_are_independent(copy_model):
    model, _ = make()
    triplet = make_triplet()
    model(*triplet)  # sets the noise level
    other = copy_model(model)
    hook = next(iter(other.image_proj._forward_hooks.values()))
    assert hook.__self__ is other.mrdib.bottlenecks['modality_image']

    torch.manual_seed(0)
    loss, _ = compute_loss(model, triplet)
    torch.manual_seed(0)
    loss_other, _ = compute_loss(other, triplet)
    assert torch.equal(loss, loss_other)
    assert_same(gradients(model), gradients(other), rtol=0, atol=0)

    # The copy's hook reads the copy's parameters, and its capture sees its own calls.
    model.eval()
    other.eval()
    out = model(*triplet)[0]
    with torch.no_grad():
        other.mrdib.bottlenecks['modality_image'].lin.bias.fill_(1.0)
    assert torch.equal(model(*triplet)[0], out)
    assert not torch.equal(other(*triplet)[0], out)
    with capture(other) as codes:
        other(*triplet), model(*triplet)
    assert len(codes['image'].z) == NUM_ITEMS

    detach(other)
    assert torch.equal(other(*triplet)[0], Model.forward(other, *triplet)[0])
    assert all(len(module._forward_hooks) == 0 for module in other.modules())
    with capture(model):
        model(*triplet)


def test_save_and_load(tmp_path):
    model, _ = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compute_loss(model, make_triplet())
    optimizer.step()
    torch.save(model.state_dict(), tmp_path / 'model.pt')

    other = Model()
    attach(other, TARGETS, channels=CHANNELS)
    other.load_state_dict(torch.load(tmp_path / 'model.pt', weights_only=True))
    for mode in [True, False]:
        model.train(mode), other.train(mode)
        outs = []
        for m in (model, other):
            torch.manual_seed(0)
            outs.append(m(*make_triplet())[0])
        assert torch.equal(*outs)
    # What was learned is visible, and belongs to the layer.
    detach(other)
    assert not torch.equal(other(*make_triplet())[0], model(*make_triplet())[0])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model, mrdib = make()
    triplet = make_triplet()
    with torch.autocast('cpu', dtype):
        model.eval()
        out = model(*triplet)
        plain = copy.deepcopy(model)
        detach(plain)
        for actual, expected in zip(out, plain(*triplet)):
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)
        model.train()
        with capture(model) as codes:
            pos, neg = model(*triplet)
        assert codes['image'].z.dtype == dtype
        terms = mrdib.loss(codes, *triplet, user_embedding=model.user.weight)
        loss = F.softplus(neg - pos).mean() + terms.total(**WEIGHTS)
    assert terms.bottleneck.dtype == torch.float32
    loss.backward()
    for name, grad in gradients(model).items():
        assert grad.isfinite().all() and grad.dtype == torch.float32, name


# -- checkpointing, compilation, several processes ---------------------------------------------


@pytest.mark.parametrize('per_batch', [False, True])
@pytest.mark.parametrize('backward_inside', [False, True])
def test_activation_checkpointing(per_batch, backward_inside):
    results = []
    for use_checkpoint in [False, True]:
        model, _ = make(per_batch=per_batch, use_checkpoint=use_checkpoint)
        calls = []
        model.image_proj.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        torch.manual_seed(3)
        loss, codes = compute_loss(model, make_triplet(), backward_inside=backward_inside)
        assert len(calls) == (1 + per_batch) * (1 + use_checkpoint)  # it was computed again
        results.append((loss, codes, gradients(model), dict(model.named_buffers())))
        assert_clean(model)
    for first, second in zip(*results):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def check_compiled(backend, per_batch=False, use_checkpoint=False, fullgraph=True):
    torch._dynamo.reset()
    model, _ = make(per_batch=per_batch, use_checkpoint=use_checkpoint)
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend=backend, fullgraph=fullgraph)
    for step in range(3):
        triplet = make_triplet(step)
        torch.manual_seed(step)
        loss, codes = compute_loss(model, triplet)
        torch.manual_seed(step)
        loss_compiled, codes_compiled = compute_loss(compiled, triplet, owner=other)
        torch.testing.assert_close(loss_compiled, loss)
        assert codes_compiled['image'].z.shape == codes['image'].z.shape
        assert_same(gradients(other), gradients(model), rtol=1e-4, atol=1e-5)
        assert_clean(other)
    model.eval()
    other.eval()
    torch.testing.assert_close(compiled(*triplet), model(*triplet))
    # The hook, not a constant: parameters and modes are read anew.
    with torch.no_grad():
        other.mrdib.bottlenecks['modality_text'].lin.bias.fill_(1.0)
        model.mrdib.bottlenecks['modality_text'].lin.bias.fill_(1.0)
    torch.testing.assert_close(compiled(*triplet), model(*triplet))
    # Without and with nested captures.
    other.train()
    compiled(*triplet)
    with capture(compiled) as outer:
        compiled(*triplet)
        with capture(compiled) as inner:
            compiled(*triplet)
            compiled(*triplet)
    assert 2 * len(outer['text'].z) == len(inner['text'].z) == len(codes['text'].z) * 2
    assert not torch.equal(*inner['text'].z.chunk(2))


@pytest.mark.parametrize('per_batch', [pytest.param(False, marks=pytest.mark.slow), True])
def test_compile(per_batch):
    check_compiled('aot_eager', per_batch)


@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor:UserWarning')
def test_compile_with_activation_checkpointing():
    # The compiler takes no Python side effect into a checkpoint: the graph is split there.
    check_compiled('aot_eager', per_batch=True, use_checkpoint=True, fullgraph=False)


@pytest.mark.slow
def test_compile_inductor():
    with torch._inductor.config.patch(fallback_random=True):  # the noise of the eager mode
        check_compiled('inductor')


def run_distributed(rank, folder):
    faulthandler.dump_traceback_later(200, exit=True)  # a process that waits for ever says where
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/init', rank=rank, world_size=2
    )
    compare_gradients(rank)
    gc.collect()  # the wrapper must not outlive the process group, or the process may never end
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def compare_gradients(rank):
    """Two steps of one of two processes; asserts what is the same in all of them."""
    model, _ = make()
    reference = copy.deepcopy(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for step in range(2):
        expected: dict[str, torch.Tensor] = {}
        for r in range(2):  # what one process alone would average
            single = copy.deepcopy(reference)
            torch.manual_seed(10 * step + r)
            compute_loss(single, make_triplet(10 * step + r))
            for name, grad in gradients(single).items():
                expected[name] = expected.get(name, 0) + grad / 2
        wrapped.zero_grad()
        torch.manual_seed(10 * step + rank)
        compute_loss(wrapped, make_triplet(10 * step + rank), owner=model)
        actual = gradients(model)
        assert_same(actual, expected, rtol=1e-4, atol=1e-6)
        for name, grad in actual.items():
            grads = [torch.empty_like(grad) for _ in range(2)]
            torch.distributed.all_gather(grads, grad)
            assert torch.equal(*grads), name
        torch.optim.SGD(model.parameters(), lr=0.01).step()
        # DDP takes the buffers (noise level, moving averages) of the first process.
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
        reference.load_state_dict(model.state_dict())


def test_distributed(tmp_path):
    # As a script, because a started process has to import what it runs by name.
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, __file__, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == 'done'


if __name__ == '__main__':
    # A fork does not import everything a second and a third time, where it is safe.
    method = 'fork' if sys.platform == 'linux' else 'spawn'
    torch.multiprocessing.start_processes(
        run_distributed, args=(sys.argv[1],), nprocs=2, start_method=method
    )
    print('done')
