import math

import pytest
import torch

from benchmarks.quality.planted_truth import PlantedGenerator
from mrdib_pyg.datasets import Planted

SMALL = {'num_users': 25, 'num_items': 200, 'num_interactions': 10, 'seed': 2}


def sampled_information(dataset, kinds):
    """ln 2 less the mean entropy of edges and non-edges drawn by the definition, bit by bit, of
    what the bits of some kinds say. No sharing of code: every user by himself, by loops."""
    share, total = 10 / 200, 0.0
    words = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).double()
    matter = [k for k, w in dataset.weights.items() if w]
    for u in range(25):
        utility = torch.zeros(()).double()
        for kind in matter:
            part = dataset.weights[kind] * (words @ dataset.preference[kind][u].double())
            utility = utility.unsqueeze(-1) + part
        low, high = -60.0, 60.0
        for _ in range(80):
            tau = (low + high) / 2
            taken = 1 - torch.exp(-torch.exp(tau + utility))
            low, high = (tau, high) if taken.mean() < share else (low, tau)
        axes = [a for a, kind in enumerate(matter) if kind not in kinds]
        edge = (taken.mean(axes) if axes else taken) / share
        other = ((1 - taken).mean(axes) if axes else 1 - taken) / (1 - share)
        p, q = 0.5 * edge / edge.numel(), 0.5 * other / other.numel()
        total += float((p * (p / (p + q) / 0.5).log() + q * (q / (p + q) / 0.5).log()).sum())
    return total / 25


@pytest.mark.parametrize(
    ('case', 'image', 'text'),
    [('v', 'v', ''), ('s', '', ''), ('v+r', 'vr', 'r'), ('v+t', 'v', 't'), ('v+s', 'v', '')],
)
def test_informations_against_the_definition(case, image, text):
    dataset = Planted(case=case, **SMALL)
    truth = PlantedGenerator(dataset).truth(num_bins=16)
    total = sampled_information(dataset, 'vtrs')
    assert truth.total == pytest.approx(total, abs=1e-5)
    assert 0.05 < total < math.log(2)
    for name, kinds in (('image', image), ('text', text)):
        expected = sampled_information(dataset, kinds) if kinds else 0.0
        assert truth.redundant + truth.unique[name] == pytest.approx(expected, abs=1e-5)
    assert truth.total == pytest.approx(
        truth.redundant + sum(truth.unique.values()) + truth.synergistic
    )
    assert 0 <= truth.error < 0.02


def test_which_atom_is_which():
    found = {c: PlantedGenerator(Planted(case=c, **SMALL)).truth(24) for c in 'vtrs'}
    for case, truth in found.items():
        atoms = {'r': truth.redundant, 's': truth.synergistic, 'v': truth.unique['image']}
        atoms['t'] = truth.unique['text']
        assert atoms.pop(case) == pytest.approx(truth.total, abs=1e-4)
        assert max(map(abs, atoms.values())) < 1e-4


def test_generator_scores_the_items_of_the_catalogue():
    dataset = Planted(weights={'v': 1.0, 's': 0.5}, **SMALL)
    generator = PlantedGenerator(dataset)
    out = generator.sources()
    assert set(out) == {'image', 'text', 'content', 'image+text', 'score'}
    # All that matters is the utility, user by user; the image shows a part of it.
    utility = dataset.utility().double()
    for u in (0, 17):
        order = utility[u].argsort()
        assert bool((out['content'].table[u][order].diff() > -1e-9).all())
        order = dataset.utility('v')[u].argsort()
        assert bool((out['image'].table[u][order].diff() > -1e-6).all())
    assert float(out['text'].table.abs().max()) < 1e-9
    user, item = torch.tensor([3, 5]), torch.tensor([7, 9])
    assert torch.equal(out['content'].features(user, item)[:, 0], out['content'].table[user, item])


def test_weights_of_zero_are_refused():
    with pytest.raises(ValueError, match='all .weights. are zero'):
        PlantedGenerator(Planted(weights={'v': 0.0}, **SMALL))
