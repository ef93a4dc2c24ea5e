"""The decomposition of planted data, and what is said of it."""

import json
import math

import pytest
import torch

from mrdib_pyg.cli import main
from mrdib_pyg.datasets import Planted, load_dataset, write_folder
from mrdib_pyg.evidence import evidence, inspect_data
from mrdib_pyg.evidence.heads import interaction_targets
from mrdib_pyg.evidence.inspection import Amount, Inspection

SMALL = {'num_users': 300, 'num_items': 240, 'num_interactions': 20, 'noise': 0.2}
PLANTED = {'v': 'unique image', 't': 'unique text', 'r': 'shared', 's': 'synergy'}


def atoms(found):
    return {
        'unique image': found.unique['image'],
        'unique text': found.unique['text'],
        'shared': found.shared['image+text'],
        'synergy': found.synergy['image*text'],
    }


@pytest.mark.parametrize('case', ['v', 't', 'r'])
def test_what_was_planted_is_found_and_nothing_else(case):
    found = inspect_data(Planted(**SMALL, case=case)[0], num_shuffles=1)
    assert {n for n, x in atoms(found).items() if x.found} == {PLANTED[case]}
    recall = found.recall
    shown = {'v': ['image'], 't': ['text'], 'r': ['image', 'text']}[case]
    for m in ('image', 'text'):
        assert (recall[m] > 1.3 * recall['chance']) == (m in shown)
        assert found.alone[m].found == (m in shown)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('case', 'noise'), [(c, n) for c in ('v', 'r', 's', 'v+s', 'v+t') for n in (0.5, 1.0)]
)
def test_planted_atoms_at_full_size(case, noise):
    found = inspect_data(Planted(case=case, noise=noise, seed=1)[0], num_shuffles=1)
    assert {n for n, x in atoms(found).items() if x.found} == {PLANTED[k] for k in case.split('+')}


@pytest.fixture(scope='module')
def small():
    return Planted(num_users=60, num_items=50, num_interactions=10, missing=0.1)[0]


@pytest.fixture(scope='module')
def found(small):
    return inspect_data(small, k=5)


def test_amounts_are_differences_of_evidence(small, found):
    edge_index = small['user', 'rates', 'item'].edge_index
    used = torch.bincount(edge_index[1], minlength=50) > 0
    y = interaction_targets(edge_index, 60, 50)[used.numpy()]
    x = {m: small['item'][f'x_{m}'][used] for m in ('image', 'text')}
    has = {m: small['item'][f'has_{m}'][used] for m in x}

    def nats(*names):
        if not names:  # features that tell nothing
            return evidence({'none': torch.ones(int(used.sum()), 1)}, y).nats
        return evidence({m: x[m] for m in names}, y, {m: has[m] for m in names}).nats

    both, image, text, none = nats('image', 'text'), nats('image'), nats('text'), nats()
    close = {'abs': 1e-5}
    assert found.alone['image'].value == pytest.approx(image - none, **close)
    assert found.unique['text'].value == pytest.approx(both - image, **close)
    assert found.total.value == pytest.approx(both - none, **close)
    assert found.shared['image+text'].value == pytest.approx(image + text - both - none, **close)
    assert found.num_items == int(used.sum()) and found.num_interactions == edge_index.size(1)
    rows = found.unique['image'].value + found.unique['text'].value
    total = rows + found.shared['image+text'].value
    assert total == pytest.approx(found.total.value, abs=1e-12)


def test_intervals_shrink_with_the_number_of_items():
    width = {}
    for n in (150, 600):
        data = Planted(num_users=200, num_items=n, num_interactions=20, noise=0.3, case='v')[0]
        x = inspect_data(data, ['image'], num_shuffles=1).alone['image']
        assert x.low < x.value < x.high
        width[n] = (x.high - x.low) / x.value
    assert width[600] < width[150]


def test_one_modality_and_three():
    data = Planted(num_users=60, num_items=50, num_interactions=10)[0]
    one = inspect_data(data, ['text'], num_shuffles=1)
    assert one.modalities == ['text'] and not one.shared and not one.synergy
    assert one.unique['text'].value == one.alone['text'].value == one.total.value
    assert 'no other modality' in str(one)
    data['item'].x_sound = data['item'].x_image.clone()
    three = inspect_data(data, num_shuffles=1)
    assert set(three.shared) == {'image+sound', 'image+text', 'sound+text'}
    assert set(three.synergy) == {'image*sound', 'image*text', 'sound*text'}
    assert abs(three.unique['sound'].value) < 1e-4  # a copy adds nothing
    assert not three.unique['sound'].found


def test_the_same_numbers_again(small, found):
    assert inspect_data(small, k=5).to_dict() == found.to_dict()
    del small['user', 'test', 'item'], small['user', 'val', 'item']
    assert inspect_data(small, k=5).to_dict() == found.to_dict()  # only training edges are read


def test_more_items_than_may_be_factorized():
    data = Planted(**SMALL, case='v')[0]
    exact = inspect_data(data, num_shuffles=1)
    reduced = inspect_data(data, num_shuffles=1, max_size=200)
    assert 0 < reduced.left_out['image*text'] < 1 and not exact.left_out
    for m in ('image', 'text'):
        assert reduced.alone[m].value == pytest.approx(exact.alone[m].value, abs=1e-5)
    assert 'left out of image*text: ' in str(reduced)


def test_sentences():
    def amount(value, found=True):
        return Amount(value, value - 1e-4, value + 1e-4, 0.0, found)

    inspection = Inspection(
        {'image': amount(0.0017), 'text': amount(0.0089)},
        {'image': amount(0.00025), 'text': amount(0.00746)},
        {'image': amount(0.0002), 'text': amount(0.006)},
        {'image+text': amount(0.00146)},
        {'image*text': amount(0.00001, False)},
        {'image*text': 0.0},
        amount(0.00914),
        {'image': 0.157, 'text': 0.262, 'all': 0.263, 'chance': 0.068},
        20,
        (651, 1468, 31035),
        {},
    )
    assert inspection.sentences() == [
        'Text alone says 0.00890 nats of who takes what, image a fifth of that.',
        'Given the others text adds 0.00746 nats, image a 30th of that; image and text share '
        '0.00146 nats.',
        'Nothing is said by two modalities together only; of the new items a user takes, the 20 '
        'ranked first hold 0.157 by image, 0.262 by text and 0.263 by all (0.068 by chance).',
    ]
    assert repr(inspection) == "Inspection(['image', 'text'], total=0.00914 nats per entry)"
    inspection.alone['text'] = amount(0.0089, False)
    assert inspection.sentences()[0].startswith('No modality')


def test_errors(small):
    with pytest.raises(ValueError, match="'sound'"):
        inspect_data(small, ['sound'])
    for name in ('k', 'num_shuffles'):
        with pytest.raises(ValueError, match=f"'{name}' must be at least 1 .*got 0"):
            inspect_data(small, **{name: 0})
    few = Planted(num_users=1, num_items=5, num_interactions=5)[0]
    with pytest.raises(ValueError, match='3 items with training edges'):
        inspect_data(few)


def test_command(tmp_path, capsys):
    data = Planted(num_users=60, num_items=50, num_interactions=10)[0]
    write_folder(data, tmp_path / 'small')
    found = inspect_data(data, k=5)
    assert main(['inspect', str(tmp_path / 'small'), '--k', '5', '--json']) == 0
    out = json.loads(capsys.readouterr().out)
    assert set(out['alone']) == {'image', 'text'} and len(out['sentences']) == 3
    assert all(math.isfinite(x['value']) for x in out['unique'].values())
    assert out['alone'] == found.to_dict()['alone']
    with pytest.raises(ValueError, match="'path' must end in .*'a.txt'"):
        found.figure(tmp_path / 'a.txt')
    pytest.importorskip('matplotlib')
    for name in ('a.svg', 'b.png'):
        path = tmp_path / name
        argv = ['inspect', str(tmp_path / 'small'), '--k', '5', '--figure', str(path)]
        assert main([*argv, '--modalities', 'text', '--num-shuffles', '1']) == 0
        assert 'alone    text' in capsys.readouterr().out and path.stat().st_size > 1000
    for argv, message in [
        (['--figure', str(tmp_path / 'no' / 'a.svg')], '--figure'),
        (['--figure', str(tmp_path / 'a.txt')], '--figure'),
        (['--seed', '-1'], '--seed'),
        (['--modalities', 'sound'], "'sound'"),
    ]:
        assert main(['inspect', str(tmp_path / 'small'), *argv]) == 2
        out, err = capsys.readouterr()
        assert out == '' and message in err and len(err.splitlines()) <= 3


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*no training interaction')
def test_movielens(data_root):
    found = inspect_data(load_dataset(data_root / 'movielens-posters'), num_shuffles=1)
    assert found.alone['image'].value == pytest.approx(0.00171, abs=1e-5)
    assert found.unique['text'].value == pytest.approx(0.00744, abs=3e-5)
    assert found.recall['text'] > found.recall['image'] > 1.5 * found.recall['chance']
