"""What holds for every model. A new model is tested by one more subclass:

class TestMyModel(RecommenderContract):
    name = 'my_model'
"""

import copy
import json

import pytest
import torch
from torch_geometric.data import HeteroData

from mrdib_pyg.nn import MRdIB, VariationalBottleneck
from mrdib_pyg.nn.models import MODELS, Recommender, Triplets

CHANNELS = 8
WEIGHTS = {'bottleneck': 0.1, 'redundant': 0.1, 'unique': 0.1}
LAYERS = {
    'plain': None,
    'mrdib': {'redundancy': 'mine', 'hidden_channels': 8},
    # As many negatives as a batch has: which of them are drawn does not depend on a seed.
    'nce': {'redundancy': None, 'decoder': 'nce', 'num_negatives': 64},
    'l2': {'control': 'l2'},
    'noise': {'control': 'noise'},
}


def make_data(num_users=17, num_items=23, modalities=2, missing=0.0, seed=0):
    """Random interactions; sizes are prime, so that no two tensors share one by accident."""
    generator = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = num_users, num_items
    for name, width in list({'image': 5, 'text': 7, 'audio': 3}.items())[:modalities]:
        x = torch.randn(num_items, width, generator=generator)
        if missing > 0.0:
            has = torch.rand(num_items, generator=generator) >= missing
            x[~has] = 0.0
            data['item'][f'has_{name}'] = has
        data['item'][f'x_{name}'] = x
    rates = torch.rand(num_users, num_items, generator=generator) < 0.3
    rates[torch.arange(num_users), torch.arange(num_users) % num_items] = True
    rates[0, : num_items - 3] = True  # a user with few items left
    rates[1] = False
    rates[1, 4] = True  # a user with a single item
    rates[:, num_items - 1] = False  # an item without users
    data['user', 'rates', 'item'].edge_index = rates.nonzero().t().contiguous()
    return data


def make_batch(data, num=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    edge_index = data['user', 'rates', 'item'].edge_index
    index = torch.randint(edge_index.size(1), (num,), generator=generator)
    neg = torch.randint(data['item'].num_nodes, (num,), generator=generator)
    return Triplets(*edge_index[:, index], neg)


def permute_items(data, perm):
    """The same data, in which item `perm[i]` is called `i`."""
    out = copy.copy(data)
    for key, value in data['item'].items():
        if isinstance(value, torch.Tensor):
            out['item'][key] = value[perm]
    user, item = data['user', 'rates', 'item'].edge_index
    edge_index = torch.stack([user, perm.argsort()[item]])
    code = (edge_index[0] * data['item'].num_nodes + edge_index[1]).argsort()
    out['user', 'rates', 'item'].edge_index = edge_index[:, code]
    return out


def blocks(num_users=24, num_items=16):
    """Users and items of two kinds; half of the items of a user's kind are held out."""
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = num_users, num_items
    kind = torch.arange(num_items) % 2
    for name, width in (('image', 5), ('text', 7)):
        x = 0.1 * torch.randn(num_items, width)
        data['item'][f'x_{name}'] = x + (2.0 * kind.unsqueeze(1) - 1)
    alike = torch.arange(num_users).unsqueeze(1) % 2 == kind
    train = alike & (torch.rand(num_users, num_items) < 0.6)
    train[:, :2] = alike[:, :2]
    data['user', 'rates', 'item'].edge_index = train.nonzero().t().contiguous()
    return data, alike, train


def same(first, second):
    """Whether two embeddings, or two dictionaries of losses, are equal bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            torch.equal(v, second[k]) for k, v in first.items()
        )
    return torch.equal(first.user, second.user) and torch.equal(first.item, second.item)


def scores(model):
    emb = model.embed()
    return emb.user @ emb.item.t()


def total(model, terms):
    weights = {**model.loss_weights, **WEIGHTS}
    return sum(weights.get(name, 0.0) * term for name, term in terms.items())


def moved(model):
    """Leaves the start, at which biases and bottlenecks are zero and have no noise level yet."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn(param.shape, generator=generator, dtype=param.dtype))
        for module in model.modules():
            if isinstance(module, VariationalBottleneck):
                module.log_scale.fill_(-2.0)
                module.is_initialized.fill_(True)
    return model


class RecommenderContract:
    #: The name in `MODELS`.
    name: str
    #: Arguments of the constructor.
    settings: dict = {}
    #: Parameters that cannot change a ranking and hence get no gradient from it.
    without_gradient: tuple = ()
    #: Whether the task is BPR on the fused score, so that it is the synergistic term, too.
    task_is_bpr: bool = True
    #: Whether the plain model draws random numbers in training.
    is_random: bool = False

    def make(self, data, layer='plain', seed=0, **settings):
        cls = MODELS[self.name]
        if not cls.multimodal and layer != 'plain':
            pytest.skip('has no modality for MRdIB to encode')
        torch.manual_seed(seed)
        if cls.multimodal:
            settings['mrdib'] = LAYERS[layer] if isinstance(layer, str) else layer
        return cls(data, **{'channels': CHANNELS, **self.settings, **settings})

    @pytest.fixture
    def data(self):
        return make_data()

    @pytest.fixture(params=LAYERS)
    def layer(self, request):
        return request.param

    # -- terms and gradients -------------------------------------------------------------------

    def test_terms(self, data, layer):
        model = self.make(data, layer)
        assert isinstance(model, Recommender)
        terms = model.loss(make_batch(data))
        expected = set(model.loss_weights)
        if layer != 'plain':
            expected |= {'bottleneck', 'redundant', 'unique'}
        if layer == 'nce':
            expected |= {f'information_{m}' for m in model.modalities}
        is_mrdib = layer in ('mrdib', 'nce')
        if layer != 'plain' and self.task_is_bpr and (model.joint_is_score or is_mrdib):
            expected |= {'synergistic'}
            if model.joint_is_score:  # it is the task, which is there already
                assert not terms['synergistic'].requires_grad
                assert torch.equal(terms['synergistic'], terms['task'])
        assert set(terms) == expected
        assert all(term.shape == () and torch.isfinite(term) for term in terms.values())

    def test_every_parameter_gets_a_gradient_and_learns(self, data, layer):
        model = self.make(data, layer)
        before = {name: param.detach().clone() for name, param in model.named_parameters()}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        total(model, model.loss(make_batch(data))).backward()
        optimizer.step()
        for name, param in model.named_parameters():
            if name in self.without_gradient:
                continue
            assert param.grad is not None, name
            assert torch.isfinite(param.grad).all(), name
            assert param.grad.abs().max() > 1e-8, name
            assert not torch.equal(param, before[name]), name

    def test_mixed_precision(self, data, layer):
        model = moved(self.make(data, layer)).eval()
        batch = make_batch(data)
        expected = model.loss(batch)
        with torch.autocast('cpu', torch.bfloat16):
            terms = model.loss(batch)
        total(model, terms).backward()
        for name, value in expected.items():
            torch.testing.assert_close(
                terms[name].float(), value, rtol=0.1, atol=0.05, msg=lambda m, n=name: f'{n}: {m}'
            )
        grads = [param.grad for param in model.parameters() if param.grad is not None]
        assert len(grads) > 0 and all(torch.isfinite(grad).all() for grad in grads)

    def test_loss_of_the_rows_equals_that_of_all(self, data, layer):
        model = moved(self.make(data, layer)).eval()
        batch = make_batch(data)
        rows = model.loss(batch)
        model.row_wise = False
        for name, value in model.loss(batch).items():
            torch.testing.assert_close(rows[name], value, rtol=1e-4, atol=1e-6, msg=name)

    def test_order_of_triplets_is_irrelevant(self, data, layer):
        model = moved(self.make(data, layer)).eval()
        batch = make_batch(data)
        perm = torch.randperm(len(batch[0]))
        permuted = model.loss(Triplets(*(index[perm] for index in batch)))
        for name, value in model.loss(batch).items():
            torch.testing.assert_close(permuted[name], value, rtol=1e-4, atol=1e-6, msg=name)

    def test_any_name_of_a_modality(self, data):
        """Also those that `torch.nn.ModuleDict` and `torch.nn.Module` have as attributes."""
        data['item'].x_type, data['item'].x_items = data['item'].x_image, data['item'].x_text
        del data['item'].x_image, data['item'].x_text
        model = self.make(data, 'mrdib')
        total(model, model.loss(make_batch(data))).backward()
        assert model.modalities == (['items', 'type'] if model.multimodal else [])

    def test_features_that_are_not_finite_are_refused(self, data):
        if not MODELS[self.name].multimodal:
            pytest.skip('has no features')
        data['item'].x_text[3, 1] = torch.inf
        with pytest.raises(
            ValueError, match=r"row 3 of data\['item'\].x_text holds NaN or infinity"
        ):
            self.make(data)
        data['item'].has_text = torch.arange(23) != 3
        terms = self.make(data, 'mrdib').loss(make_batch(data))
        assert all(torch.isfinite(term) for term in terms.values())

    # -- identity ------------------------------------------------------------------------------

    def test_identity_layer_changes_no_bit(self, data):
        """With a layer that changes nothing, scores and losses are those of the plain model."""
        layers = [('l2', not self.is_random), ('noise', False)]
        if not MODELS[self.name].fuse_posteriors and not self.settings_fuse_posteriors():
            layers.append(('mrdib', False))
        plain = moved(self.make(data))
        for layer, training in layers:
            model = self.make(data, layer)
            model.load_state_dict(plain.state_dict(), strict=False)
            for other in (plain, model):
                other.train(training)
            batch = make_batch(data)
            expected, actual = plain.loss(batch), model.loss(batch)
            for name, value in expected.items():
                assert torch.equal(actual[name], value), (layer, name)
            assert same(model.embed(), plain.embed()), layer
            # The gradients, too, where the terms have no weight.
            plain.zero_grad()
            for other, terms in ((plain, expected), (model, actual)):
                sum(w * terms[name] for name, w in other.loss_weights.items()).backward()
            for name, param in plain.named_parameters():
                torch.testing.assert_close(model.get_parameter(name).grad, param.grad, msg=name)

    def settings_fuse_posteriors(self):
        # A product of experts reads the variance that only MRdIB gives.
        return self.settings.get('fusion') == 'product_of_experts'

    def test_mrdib_may_be_a_module(self, data):
        if not MODELS[self.name].multimodal:
            pytest.skip('has no modality for MRdIB to encode')
        mrdib = moved(MRdIB({'image': CHANNELS, 'text': CHANNELS}))
        before = copy.deepcopy(mrdib.state_dict())
        model = self.make(data, mrdib)
        total(model, model.loss(make_batch(data))).backward()
        assert all(param.grad is not None for param in model.mrdib.parameters())
        # The caller's own is left as it was: not reset, trained, or robbed of its critics.
        after = mrdib.state_dict()
        assert mrdib.user_codes and list(after) == list(before)
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert all(param.grad is None for param in mrdib.parameters())
        with pytest.raises(ValueError, match="'mrdib' must be for .*got {'image': 8}"):
            self.make(data, MRdIB({'image': CHANNELS}))

    @pytest.mark.parametrize('position', ['early', 'complete'])
    def test_bottleneck_after_the_fusion(self, data, position):
        if not MODELS[self.name].multimodal:
            pytest.skip('has no modality for MRdIB to encode')
        model = self.make(data, {'bottleneck': position})
        plain = self.make(data)
        model.load_state_dict(plain.state_dict(), strict=False)
        if position == 'early':  # fresh, hence the identity
            assert same(model.embed(), plain.embed())
        terms = model.loss(make_batch(data))
        total(model, terms).backward()
        assert (model.mrdib.fused_bottleneck.lin.weight.grad != 0).any()
        assert float(terms['bottleneck'].detach()) > 0
        assert not torch.equal(model().user, model().user)  # noise in training

    # -- evaluation ----------------------------------------------------------------------------

    def test_evaluation_is_a_function_of_the_parameters(self, data, layer):
        model = moved(self.make(data, layer))
        model.loss(make_batch(data))
        state = copy.deepcopy(model.state_dict())
        first = model.embed()
        assert same(first, model.embed())  # in training mode
        model.eval()
        assert same(first, model.embed()) and same(first, model.embed())
        model.train()
        model.loss(make_batch(data, seed=1))  # forwarded, without a step
        for name, param in model.named_parameters():
            assert torch.equal(param, state[name])
        model.load_state_dict(state)  # but for statistics of the critics
        assert same(first, model.eval().embed())

    @pytest.mark.parametrize('training', [True, False])
    def test_embeddings_are_fresh_after_a_fused_step(self, data, layer, training):
        """A fused optimizer changes parameters without a new version."""
        model = self.make(data, layer).train(training)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        total(model, model.loss(make_batch(data))).backward()
        old = model.embed()
        optimizer.step()
        new = model.embed()
        assert not torch.equal(old.user, new.user) and not torch.equal(old.item, new.item)
        assert same(new, model.eval().embed())
        cached = model.embed()
        assert cached.user is model.embed().user  # kept while nothing changes
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        assert cached.user is not model.embed().user

    def test_embed_leaves_the_mode_and_no_graph(self, data, layer):
        model = self.make(data, layer)
        assert not model.embed().user.requires_grad and model.training
        assert not model.eval().embed().item.requires_grad and not model.training

    def test_scores_follow_a_permutation_of_the_items(self, data, layer):
        model = moved(self.make(data, layer)).eval()
        perm = torch.randperm(23)
        other = self.make(permute_items(data, perm), layer).eval()
        # Sizes are prime: what has 23 rows belongs to the items.
        state = {
            name: value[perm] if value.dim() > 0 and value.size(0) == 23 else value
            for name, value in model.state_dict().items()
        }
        other.load_state_dict(state)
        torch.testing.assert_close(scores(other), scores(model)[:, perm], rtol=1e-4, atol=1e-5)
        batch = make_batch(data)
        pos, neg = perm.argsort()[batch.dst_pos_index], perm.argsort()[batch.dst_neg_index]
        expected = model.loss(batch)
        for name, value in other.loss(Triplets(batch.src_index, pos, neg)).items():
            if name != 'redundant':  # the derangement of the rows depends on their order
                torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)

    # -- recommendation ------------------------------------------------------------------------

    def test_recommend(self, data, layer):
        model = moved(self.make(data, layer))
        user, item = data['user', 'rates', 'item'].edge_index
        expected = scores(model)
        expected[user, item] = float('-inf')
        score, index = model.recommend(k=5)
        assert score.shape == index.shape == (17, 5)
        for u in range(17):
            seen = set(item[user == u].tolist())
            assert not seen & set(index[u].tolist())
            num = min(5, 23 - len(seen))
            assert (index[u, :num] >= 0).all() and (index[u, num:] == -1).all()
            torch.testing.assert_close(score[u, :num], expected[u].topk(num).values)
        assert (index[0, 3:] == -1).all()  # three items are left for this user
        found = index >= 0
        pairs = torch.stack([torch.arange(17).unsqueeze(1).expand(17, 5)[found], index[found]])
        torch.testing.assert_close(model.predict(pairs), score[found])

        some = torch.tensor([3, 0, 3])  # any order, and with repeats
        part = model.recommend(some, k=5)
        assert torch.equal(part[1], index[some])
        assert torch.equal(model.recommend(3, k=5)[1], index[3:4])
        everything = model.recommend(k=23, exclude_seen=False)[1]
        assert (everything.sort(dim=1).values == torch.arange(23)).all()

    def test_recommend_refuses(self, data):
        model = self.make(data)
        with pytest.raises(ValueError, match='k'):
            model.recommend(k=24)
        for user in (17, -1):
            with pytest.raises(IndexError, match=rf"'user' must lie in \[0, 17\) \(got {user}"):
                model.recommend(torch.tensor([user]))
        assert model.recommend(torch.empty(0, dtype=torch.long), k=3)[1].shape == (0, 3)

    # -- data ----------------------------------------------------------------------------------

    def check_runs(self, data, layer):
        model = self.make(data, layer)
        terms = model.loss(make_batch(data))
        total(model, terms).backward()
        assert all(torch.isfinite(term) for term in terms.values())
        for name, param in model.named_parameters():
            assert param.grad is None or torch.isfinite(param.grad).all(), name
        emb = model.embed()
        assert torch.isfinite(emb.user).all() and torch.isfinite(emb.item).all()
        return model

    @pytest.mark.parametrize('size', [(17, 23), (23, 17), (5, 61), (19, 19)])
    def test_sizes(self, size, layer):
        self.check_runs(make_data(*size), layer)

    @pytest.mark.parametrize('modalities', [1, 2, 3])
    @pytest.mark.parametrize('missing', [0.0, 0.2, 0.7])
    def test_modalities(self, modalities, missing, layer):
        data = make_data(modalities=modalities, missing=missing)
        if MODELS[self.name].multimodal:
            assert self.check_runs(data, layer).modalities == sorted(
                ['image', 'text', 'audio'][:modalities]
            )

    def test_missing_features_have_no_influence(self, layer):
        data = make_data(missing=0.3)
        expected = moved(self.make(data, layer)).embed()
        other = data.clone()
        other['item'].x_text[~other['item'].has_text] = float('nan')
        assert same(moved(self.make(other, layer)).embed(), expected)

    def test_masks_of_ones_change_no_bit(self, data, layer):
        other = data.clone()
        other['item'].has_image = torch.ones(23, dtype=torch.bool)
        batch = make_batch(data)
        model, masked = self.make(data, layer), self.make(other, layer)
        assert same(model.embed(), masked.embed())
        torch.manual_seed(1)
        expected = model.loss(batch)
        torch.manual_seed(1)
        assert same(masked.loss(batch), expected)

    def test_odd_items(self, data, layer):
        data['item'].x_image[3] = data['item'].x_image[2]  # a duplicate
        data['item'].x_text[3] = data['item'].x_text[2]
        data['item'].x_image[5] = 0.0
        data['item'].x_text[5] = 0.0
        data['item'].x_text[:, 1] = 1000.1  # a constant column
        self.check_runs(data, layer)

    def test_repeated_edges_count_once(self, data):
        other = data.clone()
        edge_index = data['user', 'rates', 'item'].edge_index
        other['user', 'rates', 'item'].edge_index = torch.cat([edge_index[:, 40:], edge_index], 1)
        assert same(self.make(other).embed(), self.make(data).embed())
        assert torch.equal(self.make(other).train_edge_index, edge_index)

    # -- learning ------------------------------------------------------------------------------

    def test_learns_what_was_planted(self, layer):
        """Users like the items of their own kind, of which they have seen about half."""
        data, alike, train = blocks()
        model = self.make(data, layer)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        edge_index = data['user', 'rates', 'item'].edge_index
        for _ in range(60):
            neg = torch.randint(16, (edge_index.size(1),))
            neg = torch.where(train[edge_index[0], neg], (neg + 1) % 16, neg)
            optimizer.zero_grad()
            terms = model.loss(Triplets(*edge_index, neg))
            weights = {**model.loss_weights, 'bottleneck': 1e-3, 'redundant': 1e-3, 'unique': 0.1}
            sum(weights.get(name, 0.0) * term for name, term in terms.items()).backward()
            optimizer.step()
        unseen = alike & ~train
        right = num = 0
        for user, items in enumerate(model.recommend(k=8)[1]):
            best = items[: int(unseen[user].sum())]
            right += int(unseen[user, best].sum())
            num += len(best)
        assert right >= 0.95 * num, f'{right} of {num}'

    # -- the module ----------------------------------------------------------------------------

    def test_seeds(self, data, layer):
        def run(seed):
            model = self.make(data, layer, seed=seed)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            for step in range(2):
                optimizer.zero_grad()
                total(model, model.loss(make_batch(data, seed=step))).backward()
                optimizer.step()
            return model.embed()

        first = run(1)
        assert same(first, run(1))
        assert not torch.equal(first.user, run(2).user)

    def test_reset_parameters(self, data, layer):
        model = self.make(data, layer)
        torch.manual_seed(3)
        model.reset_parameters()
        first = copy.deepcopy(model.state_dict())
        moved(model).loss(make_batch(data))
        torch.manual_seed(3)
        model.reset_parameters()
        assert same(dict(model.state_dict()), dict(first))

    def test_deepcopy_state_dict_and_config(self, data, layer):
        model = moved(self.make(data, layer))
        model.loss(make_batch(data))
        config = json.loads(json.dumps(model.config))
        rebuilt = MODELS[self.name](data, **config)
        assert rebuilt.config == model.config
        assert not any(f'x_{m}' in name for name in model.state_dict() for m in model.modalities)
        assert not same(rebuilt.embed(), model.embed())
        rebuilt.eval().embed()  # what is kept must not outlive the load
        rebuilt.load_state_dict(model.state_dict())
        assert same(rebuilt.embed(), model.embed())

        clone = copy.deepcopy(model)
        expected = model.embed()
        assert same(clone.embed(), expected)
        clone.eval().embed()
        with torch.no_grad():
            for param in clone.parameters():
                param.zero_()
        assert same(model.embed(), expected) and not same(clone.embed(), expected)

    def test_double_precision(self, data, layer):
        model = moved(self.make(data, layer)).eval()
        batch = make_batch(data)
        terms, expected = model.loss(batch), model.embed()
        model.to(torch.float64)
        for name, term in model.loss(batch).items():
            assert term.dtype == torch.float64, name
            torch.testing.assert_close(term.float(), terms[name], rtol=1e-3, atol=1e-4, msg=name)
        emb = model.embed()
        assert emb.user.dtype == emb.item.dtype == torch.float64
        torch.testing.assert_close(emb.user.float(), expected.user, rtol=1e-3, atol=1e-5)
        model.float()
        torch.testing.assert_close(model.embed().item, expected.item)

    def test_refuses_unusable_data(self, data):
        def without_edges(data):
            data['user', 'rates', 'item'].edge_index = torch.empty(2, 0, dtype=torch.long)

        def without_edge_type(data):
            del data['user', 'rates', 'item']

        def without_features(data):
            del data['item']['x_image'], data['item']['x_text']

        def short(data):
            data['item'].x_text = data['item'].x_text[:-1]

        def flat(data):
            data['item'].x_text = data['item'].x_text[:, 0]

        def short_mask(data):
            data['item'].has_text = torch.ones(3, dtype=torch.bool)

        cases = [(without_edges, 'no training edge'), (without_edge_type, 'no training edge')]
        if MODELS[self.name].multimodal:
            cases += [
                (without_features, r"needs item features: set data\['item'\].x_<modality>"),
                (short, r'x_text must have one row for each of the 23 items \(got the shape \[22'),
                (flat, r'x_text must have one row .* \(got the shape \[23\]'),
                (short_mask, r'has_text must have one entry .* \(got the shape \[3\]'),
            ]
        for change, message in cases:
            other = data.clone()
            change(other)
            with pytest.raises(ValueError, match=message):
                self.make(other)

    def test_refuses_settings(self, data):
        with pytest.raises(ValueError, match=r"'channels' must be positive \(got 0\)"):
            self.make(data, channels=0)
        if not MODELS[self.name].multimodal:
            return
        with pytest.raises(ValueError, match="'control' must be one of"):
            self.make(data, {'control': 'l1'})
        with pytest.raises(ValueError, match=r"'feature_scaling' must be .* \(got 'max'\)"):
            self.make(data, feature_scaling='max')
        with pytest.raises(ValueError, match=r"'fused_channels' of 'mrdib' .*got 5"):
            channels = {'image': CHANNELS, 'text': CHANNELS}
            self.make(data, MRdIB(channels, bottleneck='early', fused_channels=5))

    def test_presets_are_settings(self, data):
        for preset in MODELS[self.name].presets.values():
            model = self.make(data, **preset)
            assert preset.items() <= model.config.items()

    def test_repr(self, data, layer):
        text = repr(self.make(data, layer))
        name = MODELS[self.name].__name__
        assert text.startswith(f'{name}(num_users=17, num_items=23, channels={CHANNELS}, mrdib=')


def check_trainable_features(cls, tables_of, **settings):
    """They start at the features of the data, learn where an item has them, and can be reset."""
    data = make_data(missing=0.3)
    model = cls(data, channels=8, trainable_features=True, **settings)
    frozen = cls(data, channels=8, **settings)
    frozen.load_state_dict(model.state_dict(), strict=False)
    batch = make_batch(data)
    for name, value in model.eval().loss(batch).items():
        torch.testing.assert_close(value, frozen.eval().loss(batch)[name])
    model.loss(batch)['content'].backward()
    for m in ('image', 'text'):
        grad = tables_of(model)[f'modality_{m}'].grad
        assert (grad != 0).any() and (grad[~data['item'][f'has_{m}']] == 0).all()
    with torch.no_grad():
        tables_of(model)['modality_text'].zero_()
    model.reset_parameters()
    assert torch.equal(tables_of(model)['modality_text'], model.features('text'))
    sizes = [sum(p.numel() for p in x.parameters()) for x in (model, frozen)]
    assert sizes[0] == 12 * 23 + sizes[1]
