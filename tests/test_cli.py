import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mrdib_pyg import __version__
from mrdib_pyg.cli import main
from mrdib_pyg.commands import COMMANDS, demo
from mrdib_pyg.commands.arguments import absolute
from mrdib_pyg.commands.train import SETTINGS
from mrdib_pyg.datasets import InteractionFolder, Planted, write_folder
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.training import load_model
from mrdib_pyg.training._fit import DEFAULTS
from mrdib_pyg.training.checkpoint import load_checkpoint

TRAIN = ['--set', 'channels=8', '--epochs', '2', '--batch-size', '64', '--quiet']
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parent.parent)}


@pytest.fixture(scope='session')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cli') / 'small'
    write_folder(Planted(num_users=40, num_items=50, num_interactions=10)[0], folder)
    return folder


@pytest.fixture(scope='session')
def finished(dataset):
    folder = dataset.parent / 'finished'
    assert main(['train', '--dataset', str(dataset), '--out', str(folder), '--mrdib', *TRAIN]) == 0
    return folder


def call(argv):
    """The exit code, also where argparse exits by itself."""
    try:
        return main([str(arg) for arg in argv])
    except SystemExit as e:
        return e.code


def refused(capsys, argv, message, code=2):
    assert call(argv) == code
    out, err = capsys.readouterr()
    assert out == ''
    assert message in err
    assert len(err.splitlines()) <= 3 and 'Traceback' not in err


def process(*argv, **kwargs):
    command = [sys.executable, '-m', 'mrdib_pyg', *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=300, **kwargs)


@pytest.mark.parametrize('command', [None, *COMMANDS])
def test_help(capsys, command):
    assert call(['--help'] if command is None else [command, '--help']) == 0
    out, err = capsys.readouterr()
    assert err == '' and 'usage: mrdib' in out
    assert len(out.splitlines()) < 60 and max(map(len, out.splitlines())) <= 100
    if command is None:
        assert all(name in out for name in COMMANDS) and 'Exit codes: 0 done, 2' in out
    else:
        # Every option says what it does.
        for line in out.splitlines():
            if line.startswith('  --') and len(line.split()) <= 2:
                raise AssertionError(f'no help for {line}')


def test_version(capsys):
    assert call(['--version']) == 0
    assert capsys.readouterr().out == f'mrdib_pyg {__version__}\n'


def test_models_go_by_the_names_of_their_classes_too(capsys, tmp_path, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ['train', '--dataset', dataset, '--model', 'MultimodalLightGCN', *TRAIN]
    assert call(argv) == 0
    assert Path('runs/small-multimodal_lightgcn/results.json').is_file()


def test_help_does_not_import_torch():
    script = (
        'import sys\nfrom mrdib_pyg.cli import main\n'
        "try:\n    main(['train', '--help'])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, env=ENV)
    assert out.returncode == 0, out.stderr
    assert '--dataset' in out.stdout and out.stderr == ''


def test_help_shows_the_defaults_of_the_library(capsys):
    call(['train', '--help'])
    text = ' '.join(capsys.readouterr().out.split()).partition('examples:')[0]
    defaults = {**DEFAULTS, 'seed': 0}
    for name in SETTINGS:
        if name != 'compile':
            after = text.rpartition(f'--{name.replace("_", "-")} ')[2]
            shown = after[after.index('(') + 1 : after.index(')')]
            assert shown == (defaults[name] if name == 'monitor' else f'{defaults[name]:g}'), name


def test_unknown_options_are_told_by_the_command(capsys, finished):
    refused(capsys, ['evaluate', finished, '--quiet'], '--quiet\nsee `mrdib evaluate --help`')


def test_messages_do_not_move_the_cursor(capsys, tmp_path):
    refused(capsys, ['evaluate', tmp_path / 'a\x1b[2J'], r'a\x1b[2J')


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='nothing is denied to root')
def test_permission_denied(capsys, tmp_path):
    path = tmp_path / 'config.json'
    path.write_text('{}')
    path.chmod(0)
    refused(capsys, ['evaluate', tmp_path], f"cannot read '{path}': Permission denied")


@pytest.mark.parametrize('kind', ['folder', 'link', 'fifo'])
@pytest.mark.parametrize('name', ['config.json', 'best.pt', 'last.pt', 'history.jsonl'])
def test_what_is_no_file_in_a_run_folder_is_refused_at_once(
    capsys, tmp_path, dataset, finished, kind, name
):
    if os.name != 'posix':
        pytest.skip('needs FIFOs and links')
    out = tmp_path / 'run'
    shutil.copytree(finished, out)
    (out / name).unlink()
    make = {'folder': os.mkdir, 'link': lambda p: os.symlink('nothing', p), 'fifo': os.mkfifo}
    make[kind](out / name)
    argv = ['train', '--dataset', dataset, '--out', out, '--mrdib', *TRAIN]
    refused(capsys, argv, 'not empty')
    if name in ('config.json', 'best.pt'):
        refused(capsys, ['evaluate', out], name)
    refused(capsys, [*argv, '--resume'], f"{name}' must be a file")


def test_links_in_a_run_folder_are_replaced(tmp_path, dataset):
    if os.name != 'posix':
        pytest.skip('needs links')
    out, victim = tmp_path / 'run', tmp_path / 'victim'
    argv = ['train', '--dataset', str(dataset), '--out', str(out), *TRAIN]
    assert main(argv) == 0
    for name in ('config.json', 'history.jsonl', 'best.pt', 'last.pt', 'results.json'):
        (out / name).rename(tmp_path / name)
        (out / name).symlink_to(tmp_path / name)
    (out / '.lock').symlink_to(victim)
    victim.write_text('precious')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert main([*argv, '--epochs', '40', '--resume']) == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    linked = {p.name for p in out.iterdir() if p.is_symlink()}
    assert linked <= {'best.pt'}  # which is only replaced by a better epoch


def test_two_trainings_on_one_folder(tmp_path, dataset):
    out = tmp_path / 'run'
    argv = ['train', '--dataset', dataset, '--out', out, *TRAIN]
    first = subprocess.Popen(
        [sys.executable, '-m', 'mrdib_pyg', *map(str, argv), '--epochs', '100000',
         '--patience', '100000'], env=ENV, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not (out / 'last.pt').exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = process(*argv, '--epochs', '100000', '--patience', '100000', '--resume')
        assert second.returncode == 2 and second.stdout == ''
        assert f"'{out}'" in second.stderr and 'another process' in second.stderr
    finally:
        first.kill()
        first.wait()
    assert main([str(x) for x in [*argv, '--epochs', '1', '--patience', '100000', '--resume']]) == 0


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'COMMAND'),
        (['fly'], "invalid choice: 'fly'"),
        (['train'], '--dataset'),
        (['train', '--dataset', 'planted', '--epochs', 'many'], "invalid int value: 'many'"),
        (['train', '--dataset', 'planted', '--nonsense'], '--nonsense'),
        (['train', '--dataset', 'planted', '--control', 'none'], "invalid choice: 'none'"),
        (['evaluate'], 'RUN'),
        (['evaluate', 'x', '--split', 'train'], "invalid choice: 'train'"),
    ],
)
def test_usage(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    refused(capsys, argv, message)
    assert list(tmp_path.iterdir()) == []


def test_train(capsys, tmp_path, dataset):
    out = tmp_path / 'a' / 'run'
    assert main(['train', '--dataset', str(dataset), '--out', str(out), *TRAIN]) == 0
    stdout, err = capsys.readouterr()
    assert err == ''
    lines = stdout.splitlines()
    assert lines[0].split() == ['recall', 'ndcg', 'precision', 'map']
    assert [line.split()[0] for line in lines[1:-1]] == [
        f'{split}@{k}' for split in ('val', 'test') for k in (5, 10, 20, 50)
    ]
    assert lines[-1].startswith('best epoch ') and str(out) in lines[-1]
    assert sorted(p.name for p in out.iterdir()) == [
        'best.pt', 'config.json', 'history.jsonl', 'last.pt', 'results.json',
    ]  # fmt: skip
    results = json.loads((out / 'results.json').read_text())
    shown = float(lines[1].split()[1])
    assert shown == round(results['val']['recall@5'], 4)
    assert results['dataset'] == str(dataset)


def test_train_json(capsys, tmp_path, dataset):
    argv = ['train', '--dataset', str(dataset), '--out', str(tmp_path), '--json', '--no-test']
    assert main([*argv, *TRAIN]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / 'results.json').read_text())
    assert 'test' not in json.loads(out) and err == ''


def test_train_shows_a_progress_bar_on_stderr(capfd, tmp_path, dataset):
    argv = ['train', '--dataset', str(dataset), '--out', str(tmp_path / 'run'), '--json']
    assert main([*argv, *TRAIN[:-1]]) == 0
    out, err = capfd.readouterr()
    assert '2/2' in err and 'task=' in err
    json.loads(out)


def test_train_default_folder(capsys, tmp_path, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(dataset, tmp_path)
    assert main(['train', '--dataset', relative, '--model', 'vbpr', *TRAIN]) == 0
    assert [str(p) for p in Path('runs').iterdir()] == ['runs/small-vbpr']
    monkeypatch.chdir('/')  # the folder of the data was given relatively
    capsys.readouterr()
    assert main(['evaluate', str(tmp_path / 'runs' / 'small-vbpr'), '--json']) == 0
    json.loads(capsys.readouterr().out)


def test_name_wins_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'planted').mkdir()
    assert absolute('planted') == 'planted'
    assert absolute('./planted') == str(tmp_path / 'planted')


@pytest.mark.parametrize(
    ('argv', 'mrdib', 'weights'),
    [
        ([], None, {}),
        (['--mrdib'], {'redundancy': 'mine'},
         {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}),
        (['--mrdib', '--redundancy', 'none', '--weights', 'unique=0.5, l2=0'],
         {'redundancy': None}, {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 0.5, 'l2': 0.0}),
        (['--mrdib', '--redundancy', 'club'], {'redundancy': 'club'}, None),
        (['--mrdib', '--decoder', 'nce', '--redundancy', 'none', '--weights',
          'bottleneck=0,redundant=0,unique=0'], {'redundancy': None, 'decoder': 'nce'},
         {'bottleneck': 0.0, 'redundant': 0.0, 'unique': 0.0}),
        (['--mrdib', '--decoder', 'nce', '--num-negatives', '5', '--set', 'task=ssm'],
         {'redundancy': 'mine', 'decoder': 'nce', 'num_negatives': 5}, None),
        (['--control', 'l2', '--weights', 'bottleneck=1e-2'], {'control': 'l2'},
         {'bottleneck': 1e-2}),
        (['--control', 'noise', '--noise-scale', '0.3'],
         {'control': 'noise', 'noise_scale': 0.3}, {}),
        (['--control', 'noise'], {'control': 'noise', 'noise_scale': 0.1}, {}),
    ],
)  # fmt: skip
def test_train_mrdib(capsys, tmp_path, dataset, argv, mrdib, weights):
    argv = ['train', '--dataset', str(dataset), '--out', str(tmp_path / 'r'), '--json', *argv]
    assert main([*argv, *TRAIN]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results['settings'].get('mrdib') == mrdib
    if weights is not None:
        assert results['fit']['weights'] == weights
    assert ('bottleneck' in results['terms']) == (mrdib is not None)


def test_train_refuses_mrdib_without_a_modality(capsys, tmp_path, dataset):
    for option in (['--mrdib'], ['--control', 'l2']):
        argv = ['train', '--dataset', dataset, '--model', 'lightgcn', *option, *TRAIN]
        refused(capsys, [*argv, '--out', tmp_path / 'r'], 'LightGCN reads no modality')
    assert list(tmp_path.iterdir()) == []


def test_train_settings(capsys, tmp_path, dataset):
    text = 'channels=4,fusion=mlp,id_channel=False,num_layers=0,feature_scaling=None,l2_weight=1e-3'
    argv = ['train', '--dataset', str(dataset), '--out', str(tmp_path / 'r'), '--json', '--set']
    assert main([*argv, text, '--epochs', '1', '--quiet', '--seed', '5']) == 0
    results = json.loads(capsys.readouterr().out)
    assert results['seed'] == 5
    assert results['settings'] == {
        'channels': 4, 'fusion': 'mlp', 'id_channel': False, 'num_layers': 0,
        'feature_scaling': None, 'l2_weight': 1e-3,
    }  # fmt: skip


def test_train_resume(capsys, tmp_path, dataset):
    argv = ['train', '--dataset', str(dataset), '--mrdib', '--set', 'channels=8', '--batch-size',
            '64', '--quiet']  # fmt: skip
    assert main([*argv, '--out', str(tmp_path / 'a'), '--epochs', '4']) == 0
    for epochs in ('1', '3', '4', '4'):
        assert main([*argv, '--out', str(tmp_path / 'b'), '--resume', '--epochs', epochs]) == 0
        is_new = 'holds no finished epoch; training begins anew' in capsys.readouterr().err
        assert is_new == (epochs == '1')
    a, b = (load_checkpoint(tmp_path / name / 'last.pt') for name in 'ab')
    assert all(torch.equal(value, b['model'][name]) for name, value in a['model'].items())
    a, b = (json.loads((tmp_path / name / 'results.json').read_text()) for name in 'ab')
    assert a['test'] == b['test'] and a['best_epoch'] == b['best_epoch']


def test_refuses_weights_of_terms_that_are_not_there(capsys, dataset, tmp_path):
    argv = ['train', '--dataset', dataset, '--out', tmp_path / 'run', *TRAIN]
    message = "with --redundancy none there is no term 'redundant'"
    refused(capsys, [*argv, '--mrdib', '--redundancy', 'none', '--weights', 'redundant=3'], message)
    refused(capsys, [*argv, '--weights', 'unique=3'], "without --mrdib there is no term 'unique'")


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--decoder', 'nce'], '--decoder is a setting of MRdIB: add --mrdib'),
        (['--mrdib', '--num-negatives', '4'], '--num-negatives is a setting of --decoder nce'),
        (
            ['--mrdib', '--decoder', 'nce', '--num-negatives', '0'],
            '--num-negatives must be a positive integer (got 0)',
        ),
        (['--set', 'task=softmax'], "(got 'softmax')"),
        (['--set', 'num_negatives=many'], "--num-negatives must be an integer (got 'many')"),
        (['--model', 'bm3', '--set', 'task=ssm'], "(got 'ssm'): BM3 has a task loss of its own"),
    ],
)
def test_refuses_a_decoder_and_a_task(capsys, dataset, tmp_path, options, message):
    refused(capsys, ['train', '--dataset', dataset, '--out', tmp_path / 'run', *options], message)
    assert list(tmp_path.iterdir()) == []


def test_interrupt(capsys, tmp_path, dataset, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('mrdib_pyg.training.train_model', interrupt)
    argv = ['train', '--dataset', dataset, '--out', tmp_path / 'run', *TRAIN]
    refused(capsys, argv, 'stopped; continue with --resume', code=1)


@pytest.mark.parametrize('split', ['val', 'test'])
def test_evaluate_repeats_the_results(capsys, finished, split):
    results = json.loads((finished / 'results.json').read_text())
    assert main(['evaluate', str(finished), '--split', split, '--json']) == 0
    assert json.loads(capsys.readouterr().out) == results[split]
    assert main(['evaluate', str(finished), '--split', split]) == 0
    assert f'{results[split]["ndcg@10"]:.4f}' in capsys.readouterr().out


def test_evaluate_options(capsys, finished, dataset):
    argv = ['evaluate', str(finished), '--k', '3, 7', '--mask', 'train+val', '--json']
    assert main(argv) == 0
    data = InteractionFolder(dataset)[0]
    model, _ = load_model(finished / 'best.pt', data)
    expected = evaluate(model, data, 'test', k=(3, 7), mask='train+val')
    assert json.loads(capsys.readouterr().out) == expected


def test_evaluate_data_that_have_moved(capsys, tmp_path, dataset):
    folder, moved = tmp_path / 'data', tmp_path / 'moved'
    write_folder(InteractionFolder(dataset)[0], folder, name='other')
    out = tmp_path / 'run'
    assert main(['train', '--dataset', str(folder), '--out', str(out), *TRAIN]) == 0
    folder.rename(moved)
    capsys.readouterr()
    refused(capsys, ['evaluate', out], 'have moved; name them by --dataset')
    assert main(['evaluate', str(out), '--dataset', str(moved), '--json']) == 0


def recommended(capsys, *argv):
    assert main(['recommend', *map(str, argv)]) == 0
    out, err = capsys.readouterr()
    assert err == ''
    lines = out.splitlines()
    assert lines[0] == 'userID,rank,itemID,score'
    return [(int(u), int(r), int(i), float(s)) for u, r, i, s in
            (line.split(',') for line in lines[1:])]  # fmt: skip


def test_recommend_all_users(capsys, finished, dataset):
    rows = recommended(capsys, finished, '--k', 5)
    assert [row[:2] for row in rows] == [(u, r) for u in range(40) for r in range(1, 6)]
    data = InteractionFolder(dataset)[0]
    model, _ = load_model(finished / 'best.pt', data)
    known = set(map(tuple, data['user', 'rates', 'item'].edge_index.t().tolist()))
    for split in ('val', 'test'):
        known |= set(map(tuple, data['user', split, 'item'].edge_label_index.t().tolist()))
    assert known.isdisjoint((u, i) for u, _, i, _ in rows)
    scores, items = model.recommend(k=50, exclude_seen=False)
    for u in range(40):
        best = [n for n, i in enumerate(items[u].tolist()) if (u, i) not in known][:5]
        assert [row[2] for row in rows if row[0] == u] == items[u, best].tolist()
        found = [row[3] for row in rows if row[0] == u]
        assert found == pytest.approx(scores[u, best].tolist(), rel=1e-5)
    rows = recommended(capsys, finished, '--k', 5, '--exclude', 'train')
    assert [row[2] for row in rows] == model.recommend(k=5)[1].flatten().tolist()


def test_recommend_users(capsys, tmp_path, finished):
    everyone = recommended(capsys, finished, '--k', 3)
    wanted = [row for u in (7, 0, 7) for row in everyone if row[0] == u]
    assert recommended(capsys, finished, '--k', 3, '--users', '7,0,7') == wanted
    (tmp_path / 'users.txt').write_text('7\n0\n7\n')
    assert recommended(capsys, finished, '--k', 3, '--users', tmp_path / 'users.txt') == wanted
    everyone_named = ','.join(map(str, range(40))) + ',0' * 200  # too long for the name of a file
    assert recommended(capsys, finished, '--k', 3, '--users', everyone_named)[:120] == everyone
    assert len(recommended(capsys, finished, '--users', '3')) == 20


def test_recommend_seen(capsys, finished):
    every = recommended(capsys, finished, '--users', '0', '--k', 50, '--include-seen')
    assert sorted(row[2] for row in every) == list(range(50))
    fewer = recommended(capsys, finished, '--users', '0', '--k', 50)
    assert len(fewer) == 40  # ten are known; no pads are written
    fewer = recommended(capsys, finished, '--users', '0', '--k', 50, '--exclude', 'train')
    assert len(fewer) == 44  # six of them by training


def test_recommend_json(capsys, tmp_path, finished):
    argv = ['recommend', str(finished), '--json', '--k', '4']
    assert main(argv) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row['user'] for row in rows] == list(range(40))
    assert all(len(row['item']) == len(row['score']) == 4 for row in rows)
    assert main([*argv, '--out', str(tmp_path / 'x.jsonl')]) == 0
    assert capsys.readouterr().out == ''
    assert [json.loads(s) for s in (tmp_path / 'x.jsonl').read_text().splitlines()] == rows


def test_models_and_datasets(capsys):
    assert main(['models']) == 0
    out = capsys.readouterr().out
    assert 'multimodal_lightgcn (MultimodalLightGCN)' in out and 'fusion=sum' in out
    assert 'vbpr (VBPR)' in out and 'mrdib=' not in out
    assert 'published for sports: num_layers=1,dropout=0.5,reg_weight=0.01' in out  # of bm3
    assert main(['datasets']) == 0
    out += capsys.readouterr().out
    assert 'planted (Planted)' in out and 'tiktok' in out and 'FOLDER' in out
    assert not any(mark in out for mark in (':class:', ':obj:', '`', '~'))


def test_demo(capsys, tmp_path, monkeypatch):
    small = Planted(num_users=40, num_items=50, num_interactions=10)[0]
    monkeypatch.setattr('mrdib_pyg.datasets.load_dataset', lambda name: small)
    monkeypatch.setattr(demo, 'FIT', {'epochs': 2, 'lr': 3e-3, 'batch_size': 64})
    argv = ['demo', '--out', str(tmp_path), '--quiet']
    assert main(argv) == 0
    first, err = capsys.readouterr()
    assert err == ''
    for metric in ('recall', 'ndcg'):
        for k in (5, 10, 20):
            line = next(x for x in first.splitlines() if x.startswith(f'{metric}@{k} '))
            values = [float(x) for x in line.split()[1:3]]
            for name, shown in zip(('plain', 'mrdib'), values):
                results = json.loads((tmp_path / name / 'results.json').read_text())
                assert shown == round(results['test'][f'{metric}@{k}'], 4)
    for term in ('task', 'bottleneck', 'redundant', 'unique'):
        assert f'\n{term} ' in first
    assert main(argv) == 0  # continues what is there, and finds it done
    assert capsys.readouterr().out == first
    assert main([*argv, '--seed', '1']) == 0
    assert capsys.readouterr().out != first


EXPERIMENT = {
    'datasets': ['small'],
    'trials': [1],
    'selection_seeds': [101],
    'seeds': [1, 2],
    'fit': {'epochs': 1},
    'models': {'vbpr': {'channels': 4}},
    'variants': {
        'plain': {},
        'mrdib': {'weights': {'bottleneck': 1e-3, 'redundant': 0, 'unique': 0.1}},
    },
}


@pytest.fixture
def description(tmp_path):
    path = tmp_path / 'compare.json'
    path.write_text(json.dumps(EXPERIMENT))
    return path


def test_experiment(capsys, tmp_path, dataset, description, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ['experiment', str(description), '--root', str(dataset.parent), '--quiet']
    assert main([*argv, '--dry-run']) == 0
    out, err = capsys.readouterr()
    assert err == '' and out.splitlines()[-1].startswith('4 runs, 0 finished')
    refused(capsys, [*argv, '--table'], 'no variant of a model is finished')
    assert [p.name for p in tmp_path.iterdir()] == ['compare.json']

    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == '' and out == (
        'all runs are finished; tables in runs/compare/table.md and runs/compare/table.csv\n'
    )
    folder = tmp_path / 'runs' / 'compare'
    assert len(list((folder / 'runs').glob('small-vbpr-*.json'))) == 4
    for path in (folder / 'runs').glob('*.json'):
        assert str(tmp_path) not in path.read_text()  # results name no folder of this machine
    assert main(['experiment', str(description), '--table']) == 0  # takes no data
    out, err = capsys.readouterr()
    assert err == '' and out == (folder / 'table.md').read_text() and '### vbpr' in out
    assert main(['experiment', str(description), '--table', '--json']) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / 'summary.json').read_text())


def test_experiment_that_fails(capsys, tmp_path, dataset, description):
    # As above, but with a setting that only the model can judge.
    changed = {**EXPERIMENT, 'models': {'vbpr': {'channels': -1}}}
    description.write_text(json.dumps(changed))
    out = tmp_path / 'out'
    argv = ['experiment', description, '--root', dataset.parent, '--out', out, '--quiet']
    refused(capsys, argv, '4 of the runs failed, first small vbpr plain seed 1', code=1)
    assert len(list((out / 'runs').glob('*.failed.json'))) == 4
    assert any("'channels' must be positive" in p.read_text() for p in (out / 'logs').iterdir())


@pytest.mark.parametrize(
    ('change', 'argv', 'message'),
    [
        ({'models': {'deepfm': {}}}, [], "no model 'deepfm'; known are"),
        ({'datasets': ['large']}, [], "'large' is not in"),
        ({'variants': {'plain': {'weights': {'unique': 1}}}}, [], "no weight 'unique'"),
        ({'trials': [12]}, [], "fewer than 12 'trials'"),
        ({'name': 'x'}, [], "unknown key 'name'"),
        ({}, ['--models', 'mgcn'], "no model 'mgcn'"),
        ({}, ['--workers', '0'], '--workers must lie between 1 and'),
        ({}, ['--workers', 'two'], "invalid int value: 'two'"),
        ({}, ['--device', 'tpu'], '--device must be'),
    ],
)
def test_experiment_refuses(capsys, tmp_path, dataset, description, change, argv, message):
    description.write_text(json.dumps({**EXPERIMENT, **change}))
    out = tmp_path / 'out'
    refused(
        capsys,
        ['experiment', description, '--root', dataset.parent, '--out', out, *argv],
        message,
    )
    assert not out.exists()


def test_experiment_files(capsys, tmp_path):
    refused(capsys, ['experiment', tmp_path / 'none.toml'], 'there is no description')
    (tmp_path / 'torn.json').write_text('{')
    refused(capsys, ['experiment', tmp_path / 'torn.json'], "torn.json' is not readable")


def test_disk_full(dataset, tmp_path):
    run = ['train', '--dataset', dataset, '--out', tmp_path / 'run', '--set', 'channels=64',
           '--quiet', '--resume', '--epochs']  # fmt: skip
    assert call([*run, 1]) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / 'run').iterdir()}
    script = (
        'import resource, sys\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n'
        'from mrdib_pyg.cli import main\n'
        'sys.exit(main(sys.argv[1:]))'
    )
    out = subprocess.run(
        [sys.executable, '-c', script, *map(str, run), '2'],
        capture_output=True, text=True, env=ENV,
    )  # fmt: skip
    assert out.returncode == 1
    assert out.stdout == '' and len(out.stderr.splitlines()) <= 3
    assert 'an older checkpoint is as it was' in out.stderr and ".pt' (" in out.stderr
    for name in ('last.pt', 'best.pt', 'results.json'):
        assert (tmp_path / 'run' / name).read_bytes() == before[name]
    assert {p.name for p in (tmp_path / 'run').iterdir()} == set(before)
    assert call([*run, 2]) == 0
    assert load_checkpoint(tmp_path / 'run' / 'last.pt')['epoch'] == 2


def test_process(tmp_path, dataset):
    out = process('train', '--dataset', dataset, '--out', tmp_path / 'run', '--json', *TRAIN)
    assert (out.returncode, out.stderr) == (0, '')
    json.loads(out.stdout)
    out = process('recommend', tmp_path / 'run', '--k', '51', cwd=tmp_path)
    assert (out.returncode, out.stdout) == (2, '')
    assert len(out.stderr.splitlines()) == 1 and '--k must' in out.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['run']


def test_debug_shows_the_traceback(capsys, tmp_path):
    assert main(['evaluate', str(tmp_path / 'x'), '--debug']) == 2
    err = capsys.readouterr().err
    assert 'Traceback' in err and err.splitlines()[-1].startswith('mrdib: there is no run folder')


def test_closed_pipe(finished):
    command = [sys.executable, '-m', 'mrdib_pyg.cli', 'recommend', str(finished), '--k', '44']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
    process.stdout.close()
    assert process.stderr.read() == b''
    process.stderr.close()
    assert process.wait() == 1
