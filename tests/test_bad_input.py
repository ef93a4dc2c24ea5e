"""What is refused, with which message and exit code, and that nothing is left behind; what is
accepted with a counted warning; and what is fine."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mrdib_pyg.cli import main
from mrdib_pyg.training.checkpoint import load_checkpoint

HEADER = 'userID\titemID\tx_label\n'
# Four users with two training edges each among six items, one of validation and one of test.
EDGES = ''.join(
    f'{u}\t{(u + n) % 6}\t{label}\n' for u in range(4) for n, label in enumerate((0, 0, 1, 2))
)
QUICK = ['--set', 'channels=4', '--epochs', '1', '--monitor', 'recall@2', '--quiet']


def features(rows=6, columns=3):
    return np.random.default_rng(0).normal(size=(rows, columns)).astype('f4')


def make(folder, table=HEADER + EDGES, **arrays):
    """Writes a good folder, but for what is given; None leaves a file away."""
    folder.mkdir()
    if table is not None:
        (folder / 'toy.inter').write_bytes(table if isinstance(table, bytes) else table.encode())
    for name, array in {'image_feat': features(), 'text_feat': features(6, 2), **arrays}.items():
        if isinstance(array, bytes):
            (folder / f'{name}.npy').write_bytes(array)
        elif array is not None:
            np.save(folder / f'{name}.npy', array, allow_pickle=True)


def npy(cut):
    def build(folder):
        make(folder)
        path = folder / 'image_feat.npy'
        path.write_bytes(path.read_bytes()[:cut])

    return build


def table(content):
    return lambda folder: make(folder, content)


def arrays(**kwargs):
    return lambda folder: make(folder, **kwargs)


def faulty(value):
    x = features()
    x[2, 1] = value
    return x


def snapshot(folder):
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob('*'))}


def refused(capsys, folder, argv, message, code=2):
    """Runs a command that is refused, and looks at what it said and left."""
    before = snapshot(folder)
    try:
        assert main([str(arg) for arg in argv]) == code
    except SystemExit as e:
        assert e.code == code
    out, err = capsys.readouterr()
    assert out == ''
    assert message in err
    assert len(err.splitlines()) <= 3 and 'Traceback' not in err
    assert snapshot(folder) == before


# The folder, and what the message names.
DATA = {
    'no folder': (lambda f: None, 'no data set named'),
    'a file': (lambda f: f.write_text('x'), 'no data set named'),
    'empty folder': (lambda f: f.mkdir(), "no '*.inter'"),
    'no table': (table(None), "no '*.inter'"),
    'two tables': (lambda f: (make(f), (f / 'b.inter').write_text(HEADER)), 'exactly one'),
    'empty table': (table(''), "toy.inter' is empty"),
    'header missing': (table(EDGES), 'lacks the column'),
    'column missing': (table('userID\titemID\n0\t0\n'), "['x_label']"),
    'header alone': (table(HEADER), 'no interactions'),
    'binary table': (table(b'\xff\xfe\x00\x81' * 9), 'UTF-8'),
    'torn line': (table(HEADER + EDGES + '1\t'), 'line 18'),
    'user negative': (table(HEADER + EDGES + '-1\t0\t0\n'), 'userID is -1'),
    'item negative': (table(HEADER + EDGES + '0\t-3\t0\n'), 'itemID is -3'),
    'user not an integer': (table(HEADER + EDGES + '1.5\t0\t0\n'), "userID is '1.5'"),
    'item not an integer': (table(HEADER + EDGES + '0\tB0X\t0\n'), "itemID is 'B0X'"),
    'item beyond the features': (table(HEADER + EDGES + '0\t6\t0\n'), 'names item 6'),
    'id far beyond': (table(HEADER + EDGES + '4000000000\t0\t0\n'), 'renumber'),
    'label 3': (table(HEADER + EDGES + '0\t0\t3\n'), 'x_label is 3'),
    'label absent': (table(HEADER + EDGES + '0\t0\t\n'), "x_label is ''"),
    'label negative': (table(HEADER + EDGES + '0\t0\t-1\n'), 'x_label is -1'),
    'no train edge': (table(HEADER + '0\t0\t1\n1\t1\t2\n'), 'no training interaction'),
    'no modality': (arrays(image_feat=None, text_feat=None), 'needs item features'),
    'features empty': (npy(0), 'image_feat.npy'),
    'features without a header': (npy(20), 'complete'),
    'features truncated': (npy(-1), 'complete'),
    'features text': (arrays(image_feat=b'1 2 3\n'), 'image_feat.npy'),
    'features pickled': (arrays(image_feat=pickle.dumps(features())), 'image_feat.npy'),
    'features objects': (arrays(image_feat=np.full((6, 2), None)), 'image_feat.npy'),
    'features strings': (arrays(image_feat=np.full((6, 2), 'a')), 'real numbers'),
    'features NaN': (arrays(image_feat=faulty(np.nan)), 'first is row 2'),
    'features inf': (arrays(text_feat=faulty(-np.inf)), 'text_feat.npy'),
    'features too few rows': (arrays(image_feat=features(5)), 'has 5 rows'),
    'features disagree': (arrays(image_feat=features(7)), 'has 7'),
    'features rank 1': (arrays(image_feat=np.zeros(6)), 'shape [6]'),
    'features rank 3': (arrays(image_feat=np.zeros((6, 2, 2))), 'shape [6, 2, 2]'),
    'features no columns': (arrays(image_feat=np.zeros((6, 0))), 'no columns'),
    'mask alone': (arrays(audio_mask=np.ones(6, bool)), "no 'audio_feat.npy'"),
    'mask not boolean': (arrays(image_mask=np.ones(6)), 'expected bool'),
    'no negative': (table(HEADER + ''.join(f'{u}\t{i}\t0\n' for u in (0, 1) for i in range(6))),
                    'no negative to learn from'),
    'validation of nobody': (table(HEADER + EDGES.replace('\t1\n', '\t0\n') + '4\t0\t1\n'),
                             "no user with held-out edges in split 'val'"),
}  # fmt: skip


@pytest.mark.filterwarnings('ignore:.*no training interaction:UserWarning')
@pytest.mark.parametrize('case', DATA)
def test_refused_data(capsys, tmp_path, case):
    build, message = DATA[case]
    folder = tmp_path / 'toy'
    build(folder)
    argv = ['train', '--dataset', folder, '--out', tmp_path / 'runs' / 'x', *QUICK]
    refused(capsys, tmp_path, argv, message)


TRAIN = {
    'model': (['--model', 'nothing'], "no model 'nothing'; known are "),
    'setting': (['--set', 'depth=3'], "no settings ['depth']"),
    'setting of another name': (['--set', 'mrdib=1'], "no settings ['mrdib']"),
    'setting without a value': (['--set', 'channels'], "name=value pairs separated by commas (got"),
    'setting of a wrong kind': (['--set', 'channels=wide'], "'channels'"),
    'setting out of range': (['--set', 'channels=0'], "'channels' must be positive"),
    'setting unknown': (['--set', 'fusion=glue'], "'fusion' must be one of"),
    'setting twice': (['--set', 'channels=4,channels=8'], "names 'channels' twice"),
    'weight unknown': (['--weights', 'nothing=1'], "no loss term 'nothing'"),
    'weight of synergy': (['--mrdib', '--weights', 'synergistic=1'], "term 'synergistic'"),
    'weight not a number': (['--mrdib', '--weights', 'unique=much'], "'much' is not a number"),
    'weight without a name': (['--mrdib', '--weights', '=1'], 'name=value pairs'),
    'weight without a value': (['--mrdib', '--weights', 'unique'], 'name=value pairs'),
    'weight NaN': (['--mrdib', '--weights', 'unique=nan'], 'must be a number >= 0 (got nan)'),
    'weight negative': (['--mrdib', '--weights', 'unique=-1'], 'must be a number >= 0 (got -1'),
    'weight without MRdIB': (['--weights', 'bottleneck=1'], 'add --mrdib'),
    'weight of a control': (['--control', 'l2', '--weights', 'unique=1'], 'add --mrdib'),
    'MRdIB and control': (['--mrdib', '--control', 'l2'], 'exclude each other'),
    'redundancy alone': (['--redundancy', 'mine'], 'add --mrdib'),
    'noise alone': (['--noise-scale', '1'], 'add --control noise'),
    'noise negative': (['--control', 'noise', '--noise-scale', '-1'], 'must be finite'),
    'epochs': (['--epochs', '0'], '--epochs must be at least 1'),
    'batch size': (['--batch-size', '0'], '--batch-size must be at least 1'),
    'learning rate': (['--lr', '-1'], '--lr must be positive'),
    'learning rate NaN': (['--lr', 'nan'], '--lr must be positive'),
    'patience': (['--patience', '-1'], '--patience must not be negative'),
    'seed': (['--seed', '-1'], '--seed must lie in'),
    'monitor': (['--monitor', 'loss'], '--monitor must be one of recall'),
    'monitor beyond the catalogue': (['--monitor', 'recall@7'], 'there are 6 items to rank'),
    'device': (['--device', 'abacus'], '--device must be cpu'),
    'device that is not there': (['--device', 'cuda:99'], 'sees no such device'),
}  # fmt: skip


@pytest.mark.parametrize('case', TRAIN)
def test_refused_arguments_of_train(capsys, tmp_path, case):
    make(tmp_path / 'toy')
    options, message = TRAIN[case]
    argv = ['train', '--dataset', tmp_path / 'toy', '--out', tmp_path / 'run', *QUICK]
    if options[0] == '--set':
        argv = [arg for arg in argv if arg not in ('--set', 'channels=4')]
    refused(capsys, tmp_path, [*argv, *options], message)


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
    """A folder with the data ``toy`` and the run ``run``; tests get a copy."""
    folder = tmp_path_factory.mktemp('bad_input')
    make(folder / 'toy')
    argv = ['train', '--dataset', folder / 'toy', '--out', folder / 'run', *QUICK]
    assert main([str(arg) for arg in argv]) == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    for path, content in snapshot(finished).items():
        target = tmp_path / Path(path).relative_to(finished)
        target.mkdir() if content is None else target.write_bytes(content)
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())
    config['dataset'] = str(tmp_path / 'toy')
    (tmp_path / 'run' / 'config.json').write_text(json.dumps(config))
    return tmp_path


def resume(folder, *options):
    return ['train', '--dataset', folder / 'toy', '--out', folder / 'run', '--resume', *QUICK,
            '--epochs', '2', *options]  # fmt: skip


FOLDER = {
    'is a file': (lambda f: (f / 'x').write_text(''), 'x', 'is a file'),
    'is not empty': (lambda f: None, 'run', 'is not empty; add --resume'),
    'below a file': (lambda f: (f / 'x').write_text(''), 'x/run', 'Not a directory'),
}


@pytest.mark.parametrize('case', FOLDER)
def test_refused_folder(capsys, copy, case):
    build, name, message = FOLDER[case]
    build(copy)
    argv = ['train', '--dataset', copy / 'toy', '--out', copy / name, *QUICK]
    refused(capsys, copy, argv, message)


def test_refused_folder_that_is_no_run(capsys, copy):
    argv = ['train', '--dataset', copy / 'toy', '--out', copy / 'toy', '--resume', *QUICK]
    refused(capsys, copy, argv, 'holds no run to resume')


def other_data(folder):
    np.save(folder / 'toy' / 'image_feat.npy', features() + 1)


def other_catalogue(folder):
    for name in ('image', 'text'):
        np.save(folder / 'toy' / f'{name}_feat.npy', features(9))


def tear(name, part):
    def build(folder):
        path = folder / 'run' / name
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])

    return build


def flip(name):
    def build(folder):
        path = folder / 'run' / name
        state = load_checkpoint(path)
        tensor = next(x for x in state['model'].values() if x.numel() > 10)
        content = bytearray(path.read_bytes())
        content[content.index(tensor.numpy().tobytes()) + 5] ^= 64
        path.write_bytes(content)

    return build


def remove(name):
    return lambda folder: (folder / 'run' / name).unlink()


def replace(name, content):
    return lambda folder: (folder / 'run' / name).write_bytes(content)


class Bomb:
    def __reduce__(self):
        return open, ('exploded', 'w')


def bomb(name):
    return lambda folder: torch.save({'version': 1, 'x': Bomb()}, folder / 'run' / name)


RESUME = {
    'other model': (lambda f: None, ['--model', 'vbpr'], "model 'multimodal_lightgcn'"),
    'with MRdIB': (lambda f: None, ['--mrdib'], 'config.mrdib None'),
    'other width': (lambda f: None, ['--set', 'channels=8'], 'config.channels 4'),
    'other seed': (lambda f: None, ['--seed', '1'], 'settings.seed 0 but this run has 1'),
    'other rate': (lambda f: None, ['--lr', '0.1'], 'settings.lr 0.001'),
    'other data': (other_data, [], 'made with data_hash'),
    'other catalogue': (other_catalogue, [], 'made with'),
    'torn': (tear('last.pt', 0.5), [], 'is torn or not a checkpoint'),
    'empty': (tear('last.pt', 0.0), [], 'is torn or not a checkpoint'),
    'flipped bit': (flip('last.pt'), [], 'is torn or not a checkpoint'),
    'text': (replace('last.pt', b'no'), [], 'is torn or not a checkpoint'),
    'bomb': (bomb('last.pt'), [], 'is torn or not a checkpoint'),
    'no history': (remove('history.jsonl'), [], 'holds 0 of the 1 epochs'),
}


@pytest.mark.parametrize('case', RESUME)
def test_refused_resume(capsys, copy, monkeypatch, case):
    monkeypatch.chdir(copy)
    build, options, message = RESUME[case]
    build(copy)
    refused(capsys, copy, resume(copy, *options), message)


LOAD = {
    'no run': (lambda f: (f / 'run').rename(f / 'walk'), 'there is no run folder'),
    'no config': (remove('config.json'), 'no readable config.json'),
    'torn config': (tear('config.json', 0.5), 'no readable config.json'),
    'other config': (replace('config.json', b'[1]'), 'no readable config.json'),
    'config without data': (replace('config.json', b'{"dataset": null}'), 'or --dataset'),
    'no checkpoint': (remove('best.pt'), 'there is no checkpoint'),
    'torn checkpoint': (tear('best.pt', 0.9), 'is torn or not a checkpoint'),
    'flipped bit': (flip('best.pt'), 'is torn or not a checkpoint'),
    'bomb': (bomb('best.pt'), 'is torn or not a checkpoint'),
    'other data': (other_data, 'was trained on other data'),
    'other catalogue': (other_catalogue, 'was trained on other data'),
    'no data': (lambda f: (f / 'toy').rename(f / 'boy'), 'name them by --dataset'),
    'bad data': (lambda f: (f / 'toy' / 'toy.inter').write_text(HEADER), 'no interactions'),
}


@pytest.mark.parametrize('command', ['evaluate', 'recommend'])
@pytest.mark.parametrize('case', LOAD)
def test_refused_run(capsys, copy, monkeypatch, command, case):
    monkeypatch.chdir(copy)
    build, message = LOAD[case]
    build(copy)
    refused(capsys, copy, [command, copy / 'run'], message)


USE = {
    'k beyond the catalogue': (['evaluate', '--k', '5,7'], '6 items (got 7)'),
    'k of zero': (['evaluate', '--k', '0'], '--k must lie between 1'),
    'k not an integer': (['evaluate', '--k', '5,x'], "'x' is not an integer"),
    'k of nothing': (['evaluate', '--k', ','], 'names nothing'),
    'mask of validation': (
        ['evaluate', '--split', 'val', '--mask', 'train+val'],
        "--mask must be 'train'",
    ),
    'other data set': (['evaluate', '--dataset', 'nowhere'], "no data set named 'nowhere'"),
    'n beyond the catalogue': (['recommend', '--k', '7'], '--k must be between'),
    'n of zero': (['recommend', '--k', '0'], '--k must be between'),
    'n negative': (['recommend', '--k', '-2'], '--k must be between'),
    'user beyond': (['recommend', '--users', '0,4'], 'ids from 0 to 3 (got 4)'),
    'user negative': (['recommend', '--users', '0,-1'], 'ids from 0 to 3 (got -1)'),
    'user giant': (['recommend', '--users', '9' * 30], 'ids from 0 to 3'),
    'user not an id': (['recommend', '--users', 'users.txt'], 'there is no such file'),
    'users of nothing': (['recommend', '--users', ''], 'names nothing'),
    'users binary': (['recommend', '--users', 'toy/image_feat.npy'], 'not a text file of ids'),
    'users empty': (['recommend', '--users', 'empty'], 'names nothing'),
    'out in no folder': (['recommend', '--out', 'no/x.csv'], 'in a folder that exists'),
    'out a folder': (['recommend', '--out', 'toy'], 'must be a file'),
}


@pytest.mark.parametrize('case', USE)
def test_refused_arguments(capsys, copy, monkeypatch, case):
    monkeypatch.chdir(copy)
    (copy / 'empty').touch()
    (command, *options), message = USE[case]
    refused(capsys, copy, [command, copy / 'run', *options], message)


def test_no_test_edges(capsys, tmp_path):
    make(tmp_path / 'toy', HEADER + EDGES.replace('\t2\n', '\t1\n'))
    argv = ['train', '--dataset', tmp_path / 'toy', '--out', tmp_path / 'run', *QUICK]
    assert main([str(arg) for arg in argv]) == 0
    capsys.readouterr()
    refused(capsys, tmp_path, ['evaluate', tmp_path / 'run'], 'must hold an edge')


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'),
                                   RuntimeError('file write failed')])  # fmt: skip
def test_disk_full_at_the_second_epoch(capsys, copy, monkeypatch, error):
    before = snapshot(copy)

    def full(state, name):
        Path(name).write_bytes(b'torn')
        raise error

    save = torch.save
    monkeypatch.setattr(torch, 'save', lambda s, n: save(s, n) if s['epoch'] == 1 else full(s, n))
    assert main([str(arg) for arg in resume(copy)]) == 1
    err = capsys.readouterr().err
    assert "last.pt'" in err and 'if the disk is full' in err and len(err.splitlines()) == 1
    after = snapshot(copy)
    assert set(after) == set(before)
    for name in ('last.pt', 'best.pt'):
        assert after[str(copy / 'run' / name)] == before[str(copy / 'run' / name)]
    monkeypatch.undo()
    assert main([str(arg) for arg in resume(copy)]) == 0


def test_loss_that_explodes(capsys, tmp_path):
    make(tmp_path / 'toy', image_feat=features() * 1e30)
    argv = ['train', '--dataset', tmp_path / 'toy', '--out', tmp_path / 'run', '--quiet', '--set',
            'channels=4,feature_scaling=none', '--monitor', 'recall@2', '--lr', '1e30']  # fmt: skip
    assert main([str(arg) for arg in argv]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and 'epoch' in err and "lower 'lr'" in err


ACCEPTED = {
    'duplicates': (table(HEADER + EDGES + '0\t0\t0\n0\t0\t0\n'),
                   'dropped 2 repeated pair(s) of the train split'),
    'users without a train edge': (table(HEADER + EDGES + '5\t0\t1\n5\t1\t2\n'),
                                   '2 of 6 users have no training interaction'),
    'items without a modality': (arrays(image_mask=np.array([True, False, True, False, True, True]),
                                        image_feat=faulty(1.0)),
                                 "2 of 6 items lack the modality 'image'"),
    'items without any': (arrays(image_mask=np.arange(6) > 0, text_mask=np.arange(6) > 0),
                          "1 of 6 items lack the modality 'text'"),
    'pairs in two splits': (table(HEADER + EDGES + '0\t0\t2\n'),
                            'kept 1 pair(s) that are in both the train and test splits'),
}  # fmt: skip


@pytest.mark.filterwarnings('default:.*toy.inter:UserWarning')
@pytest.mark.parametrize('options', [[], ['--mrdib']], ids=['plain', 'mrdib'])
@pytest.mark.parametrize('case', ACCEPTED)
def test_accepted_with_a_counted_warning(capsys, tmp_path, case, options):
    build, message = ACCEPTED[case]
    build(tmp_path / 'toy')
    argv = ['train', '--dataset', tmp_path / 'toy', '--out', tmp_path / 'run', *QUICK, *options]
    assert main([str(arg) for arg in argv]) == 0
    err = capsys.readouterr().err
    assert message in err and err.startswith('warning: ') and len(err.splitlines()) == 1
    for command in ('evaluate', 'recommend'):
        assert main([command, str(tmp_path / 'run'), '--json']) == 0
        out, err = capsys.readouterr()
        assert message in err and len(err.splitlines()) == 1
        for line in out.splitlines():
            json.loads(line)


FINE = {
    'one modality': arrays(text_feat=None),
    'three modalities': arrays(audio_feat=features(6, 5)),
    'integer features': arrays(image_feat=np.arange(12).reshape(6, 2)),
    'half precision': arrays(image_feat=features().astype('f2')),
    'constant features': arrays(image_feat=np.ones((6, 2))),
    'more items than edges name': arrays(image_feat=features(9), text_feat=features(9)),
    'ratings and times': table(
        'userID\titemID\trating\ttimestamp\tx_label\n'
        + ''.join('{}\t{}\t5.0\t1e9\t{}\n'.format(*row.split()) for row in EDGES.splitlines())
    ),
    'no held-out edges': table(HEADER + EDGES.replace('\t1\n', '\t0\n').replace('\t2\n', '\t0\n')),
}


@pytest.mark.parametrize('options', [[], ['--mrdib'], ['--model', 'vbpr', '--mrdib']],
                         ids=['plain', 'mrdib', 'vbpr'])  # fmt: skip
@pytest.mark.parametrize('case', FINE)
def test_fine(capsys, tmp_path, case, options):
    FINE[case](tmp_path / 'toy')
    argv = ['train', '--dataset', tmp_path / 'toy', '--out', tmp_path / 'run', *QUICK, *options]
    assert main([*map(str, argv), '--json']) == 0
    out, err = capsys.readouterr()
    assert err == '' or (case == 'no held-out edges' and 'no validation edges' in err)
    terms = json.loads(out)['terms']
    if case == 'one modality' and '--mrdib' in options:
        assert terms['redundant'] == 0.0
    if case == 'three modalities' and '--mrdib' in options:
        assert terms['redundant'] != 0.0
