import json
import math

import pytest
import torch

from benchmarks.quality.planted_truth import LogOdds, PlantedGenerator
from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import VBPR, LightGCN
from mrdib_pyg.pid import decompose, measure_pid
from mrdib_pyg.pid._decompose import quantile_bins
from mrdib_pyg.pid._measure import _estimate, estimate, measure_sources
from mrdib_pyg.pid.measurement import Estimate
from mrdib_pyg.pid.pairs import sample_pairs
from mrdib_pyg.pid.sources import Predictors, model_sources


@pytest.fixture(scope='module')
def measured(model, data):
    return measure_pid(model, data, num_bootstrap=20)


def parts_of(measured):
    yield from measured.overall.values()
    for found in measured.groups.values():
        for by_way in found.values():
            yield from by_way.values()


def test_atoms_add_up(measured):
    assert list(measured.overall) == ['uniform', 'popularity']
    for part in parts_of(measured):
        pair = part.pairs['image+text']
        for atoms in (pair.broja, pair.mmi):
            four = (atoms.redundant, *atoms.unique.values(), atoms.synergistic)
            assert sum(x.value for x in four) == pytest.approx(atoms.total.value)
            assert atoms.total == part.informations['content']
            for name, unique in atoms.unique.items():
                expected = part.informations[name].value
                assert atoms.redundant.value + unique.value == pytest.approx(expected, abs=1e-6)
            for x in (*four, atoms.synergistic_scores):
                assert x.low <= x.value <= x.high
        assert min(x.value for x in pair.mmi.unique.values()) == pytest.approx(0.0, abs=1e-12)
        known = {name: x.value for name, x in part.informations.items()}
        assert part.content_given_id.value == pytest.approx(known['all'] - known['id'])
        assert part.id_given_content.value == pytest.approx(known['all'] - known['content'])
        assert max(known.values()) < math.log(2)


def test_the_decomposition_is_that_of_the_joint_table(model, data, measured):
    predictors = Predictors(
        model_sources(model), ['image', 'text'], sample_pairs(data, 'val', seed=0)
    )
    pairs = sample_pairs(data, 'test', seed=1)
    logits = predictors(pairs.user, pairs.item)
    part = measured.overall['uniform']
    bins = [quantile_bins(logits[name], part.num_bins) for name in ('image', 'text')]
    table = torch.zeros(part.num_bins, part.num_bins, 2)
    for a, b, y in zip(*bins, pairs.y):
        table[a, b, y] += 1
    for name in ('broja', 'mmi'):
        found, expected = getattr(part.pairs['image+text'], name), decompose(table, name)
        assert found.redundant.value == pytest.approx(expected.redundant, abs=1e-6)
        assert found.synergistic_scores.value == pytest.approx(expected.synergistic, abs=1e-6)
        unique = [x.value for x in found.unique.values()]
        assert unique == pytest.approx(list(expected.unique), abs=1e-6)
    cells = int((table.sum(dim=-1) > 0).sum())
    assert part.pairs['image+text'].bias == pytest.approx((cells - 1) / (2 * len(pairs.y)))
    assert (part.num_edges, part.num_users) == (450, 150)


def test_strict_json_and_text(measured):
    found = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert found['format'] == 'mrdib_pyg pid 1' and found['unit'] == 'nats'
    assert found['negatives'] == ['uniform', 'popularity']
    pair = found['overall']['uniform']['pairs'][0]
    assert pair['modalities'] == ['image', 'text']
    assert set(pair['broja']) == {
        'redundant', 'unique', 'synergistic', 'synergistic_scores', 'total',
    }  # fmt: skip
    assert set(pair['broja']['unique']['image']) == {'value', 'low', 'high'}
    count = sum(by['uniform']['num_edges'] for by in found['groups']['popularity'].values())
    assert count + sum(found['omitted'].get('popularity', {}).values()) == 450
    lines = repr(measured).splitlines()
    assert lines[0].startswith('MultimodalLightGCN: information about')
    assert any(line.startswith('BROJA unique to image') for line in lines)
    assert max(map(len, lines)) <= 120


def test_same_seed_same_numbers(model, data, measured):
    state = torch.get_rng_state()
    assert measure_pid(model, data, num_bootstrap=20) == measured
    assert torch.equal(state, torch.get_rng_state())  # nothing global is drawn
    other = measure_pid(model, data, num_bootstrap=0, groups=(), seed=1)
    assert other.overall['uniform'] != measured.overall['uniform']


def test_groups_by_a_column(model, data, measured):
    data = data.clone()
    data['item'].kind = (torch.arange(120) >= 60).long()
    found = measure_pid(model, data, negatives='uniform', groups=['kind'], num_bootstrap=0)
    assert set(found.groups['kind']) == {'0', '1'} and found.omitted == {}
    edges = [by['uniform'].num_edges for by in found.groups['kind'].values()]
    item = data['user', 'test', 'item'].edge_label_index[1]
    assert edges == [int((item < 60).sum()), int((item >= 60).sum())]
    data['item'].kind[data['item'].kind == 0] = torch.arange(60) % 2 + 2
    data['item'].kind[:2] = 7
    found = measure_pid(model, data, negatives='uniform', groups=['kind'], num_bootstrap=0)
    assert '7' not in found.groups['kind'] and found.omitted['kind']['7'] < 50


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'split': 'val'}, "'split' must .*"),
        ({'split': 'dev'}, "'split' must .*got 'dev'"),
        ({'negatives': 'hard'}, "'negatives' must be some of"),
        ({'negatives': []}, "'negatives' must be some of"),
        ({'num_bins': 13}, r"'num_bins' must lie in \[2, 12\] \(got 13\)"),
        ({'num_bootstrap': -1}, "'num_bootstrap' must not be negative"),
        ({'groups': ['genre']}, r"'groups' must be some of \['popularity'\].*\(got 'genre'\)"),
        ({'groups': ['x_image']}, r"'groups': data\['item'\].x_image must hold"),
    ],
)
def test_refused(model, data, kwargs, message):
    with pytest.raises(ValueError, match=message):
        measure_pid(model, data, **kwargs)


def test_models_that_cannot_be_measured(data):
    with pytest.raises(ValueError, match=r"'model' must read a modality \(got LightGCN"):
        measure_pid(LightGCN(data, channels=4), data)
    with pytest.raises(TypeError, match='must be a Recommender'):
        measure_pid(torch.nn.Linear(2, 2), data)


def test_an_untrained_model_knows_nothing(data):
    torch.manual_seed(0)
    measured = measure_pid(VBPR(data, channels=4), data, negatives='uniform', groups=())
    part = measured.overall['uniform']
    assert abs(part.informations['all'].value) < 0.05
    assert part.pairs['image+text'].broja.redundant.value < 0.02


def test_one_and_three_modalities(data):
    data = data.clone()
    del data['item'].x_text
    single = measure_pid(VBPR(data, channels=4), data, groups=(), num_bootstrap=0)
    assert single.overall['uniform'].pairs == {}
    assert set(single.overall['uniform'].informations) == {'image', 'content', 'id', 'all'}
    assert 'I(image; Y)' in repr(single)
    data['item'].x_a, data['item'].x_b = torch.randn(120, 4), torch.randn(120, 3)
    triple = measure_pid(VBPR(data, channels=4), data, groups=(), num_bootstrap=0)
    assert list(triple.overall['uniform'].pairs) == ['a+b', 'a+image', 'b+image']
    json.dumps(triple.to_dict(), allow_nan=False)


def test_negative_estimates_are_not_clipped(data):
    found = _estimate(torch.tensor([-0.2, -0.5, -0.3, -0.4]).double())
    assert found.value == pytest.approx(-0.2) and found.low < -0.2 < found.high
    assert _estimate(torch.tensor([-0.1], dtype=torch.float64)) == Estimate(-0.1, -0.1, -0.1)

    # A fused score that is noise to a calibration on other users' validation edges: what the two
    # scores know is lost in it, and the synergy says so.
    class Worse(Predictors):
        def __call__(self, user, item):
            out = super().__call__(user, item)
            return {**out, 'image+text': 0 * out['image'], 'content': 0 * out['image']}

    sizes = {'num_users': 150, 'num_items': 120, 'num_interactions': 15}
    generator = PlantedGenerator(Planted(case='v+r', seed=1, **sizes))
    predictors = Worse(generator.sources(), ['image', 'text'], sample_pairs(data, 'val', seed=0))
    part = estimate(predictors, sample_pairs(data, 'test', seed=1), 12, 0, 0)
    atoms = part.pairs['image+text'].broja
    assert atoms.total.value == 0 and atoms.synergistic.value < -0.05


def test_synergy_that_only_the_fused_score_has(data):
    """Scores that are independent of the label, one by one and together, and a fused one that
    knows it: the table of two holds nothing."""
    generator = torch.Generator().manual_seed(0)
    known = torch.zeros(150, 120)
    for split in ('val', 'test'):
        known[tuple(data['user', split, 'item'].edge_label_index)] = 1.0
    noise = [torch.randn(150, 120, generator=generator).double() for _ in range(3)]
    fused = LogOdds(2 * known.double() + noise[2])
    sources = {'image': LogOdds(noise[0]), 'text': LogOdds(noise[1]), 'image+text': fused}
    sources |= {'content': fused, 'score': fused}
    part = measure_sources(sources, ['image', 'text'], data).overall['uniform']
    atoms = part.pairs['image+text'].broja
    assert atoms.synergistic.value == pytest.approx(atoms.total.value, abs=0.02)
    assert atoms.total.value > 0.2 and atoms.synergistic_scores.value < 0.05


@pytest.mark.slow
@pytest.mark.parametrize('case', ['v', 't', 'r', 's', 'v+r', 'v+s', 'v+t'])
def test_truth(case):
    """Fed the generator's own scores, every atom is within .02 nats or 15 % of the truth."""
    from benchmarks.quality.pid_truth import check_case
    from benchmarks.quality.results import ATOMS, is_within

    found = check_case(case, seed=2, noises=(), num_bootstrap=0, num_bins=32)
    assert found['truth_error'] < 0.005
    for name in ATOMS:
        assert is_within(found['estimator'][name][0], found['truth'][name]), name


def test_scores_in_any_form_give_the_numbers_of_the_model(model, data):
    sources = model_sources(model)
    user, item = sources['content'][:2]
    scores = {
        'image': (sources['image'].user, sources['image'].item),
        'text': sources['text'].user @ sources['text'].item.t(),
        'content': lambda u, i: (user[u] * item[i]).sum(-1),
        'id': tuple(sources['id'][:2]),
        'score': tuple(sources['score'][:2]),
    }
    kwargs = {'num_bootstrap': 0, 'negatives': 'uniform', 'groups': ()}
    found = measure_pid(scores, data, **kwargs)
    expected = measure_pid(model, data, **kwargs)
    assert found.model == 'scores' and found.modalities == ['image', 'text']
    a, b = (x.overall['uniform'] for x in (found, expected))
    for name, x in b.informations.items():
        assert a.informations[name].value == pytest.approx(x.value, abs=1e-4)
    ours, theirs = (x.pairs['image+text'].broja for x in (a, b))
    assert ours.redundant.value == pytest.approx(theirs.redundant.value, abs=1e-4)
    assert ours.synergistic.value == pytest.approx(theirs.synergistic.value, abs=1e-4)
    # Without the optional ones there is no ID path.
    few = measure_pid({name: scores[name] for name in ('image', 'text', 'content')}, data, **kwargs)
    part = few.overall['uniform']
    assert part.id_given_content is None
    assert part.informations['all'] == part.informations['content']
    one = measure_pid({'image': scores['image']}, data, **kwargs).overall['uniform']
    assert one.pairs == {} and set(one.informations) == {'image', 'content', 'all'}


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        ({'text': torch.zeros(3, 4)}, ValueError, r"'text' .*\[150, 120\] \(got \[3, 4\]\)"),
        ({'text': (torch.zeros(150, 2), torch.zeros(120, 3))}, ValueError, r"'text' .*\[120, 3\]"),
        ({'text': torch.full((150, 120), math.nan)}, ValueError, "'text' must be finite"),
        ({'text': lambda u, i: torch.zeros(7)}, ValueError, r"'text' .*\(got \[7\]"),
        ({'text': 3}, TypeError, r"'text' .*\(got int\)"),
        ({'text+audio': torch.zeros(150, 120)}, ValueError, r"'text\+audio'"),
        ({'content': None}, ValueError, "'content'"),
        ({'image': None, 'text': None}, ValueError, r"modality \(got \['content'\]\)"),
    ],
)
def test_scores_that_do_not_fit(data, change, error, message):
    scores = {name: torch.rand(150, 120) for name in ('image', 'text', 'content')} | change
    with pytest.raises(error, match=message):
        measure_pid({k: v for k, v in scores.items() if v is not None}, data)


def test_no_part_is_printed_above_its_whole_and_no_group_vanishes(model, data):
    data = data.clone()
    edges = data['user', 'rates', 'item'].edge_index
    data['user', 'rates', 'item'].edge_index = edges[:, edges[1] >= 30]  # 30 items of equal rank
    found = measure_pid(model, data, negatives='uniform', num_bootstrap=0)
    assert {'2', '3'} <= set(found.omitted['popularity'])
    assert set(found.groups['popularity']) | set(found.omitted['popularity']) == {
        str(i) for i in range(1, 11)
    }
    assert found.omitted['popularity']['2'] == 0
    text = repr(found)
    assert 'of it' not in text.replace('all of it', '') and '\n  2' in text and 'no edges' in text
    assert 'BROJA synergistic, two scores only' in text
