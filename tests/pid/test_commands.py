"""The commands ``mrdib measure`` and ``mrdib explain``."""

import json
import os
import shutil

import pytest

from mrdib_pyg.cli import main
from mrdib_pyg.datasets import Planted, write_folder
from mrdib_pyg.datasets.ids import IdMap
from mrdib_pyg.pid import explain_pair, measure_pid
from mrdib_pyg.training import load_model


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pid') / 'small'
    write_folder(Planted(num_users=60, num_items=50, num_interactions=10)[0], folder)
    out = folder.parent / 'run'
    argv = ['train', '--dataset', folder, '--out', out, '--mrdib', '--set', 'channels=4', '--quiet']
    assert main([str(x) for x in [*argv, '--epochs', 2, '--batch-size', 128]]) == 0
    return folder


def call(*argv):
    return main([str(x) for x in argv])


def test_measure(folder, capsys):
    run = folder.parent / 'run'
    capsys.readouterr()
    assert call('measure', run, '--num-bootstrap', 10) == 0
    out, err = capsys.readouterr()
    assert err == '' and out.startswith('MultimodalLightGCN: information about')
    assert out.endswith(f'written to {run / "pid.json"}\n')
    model, _ = load_model(run / 'best.pt', data := load(folder))
    expected = measure_pid(model, data, num_bootstrap=10).to_dict()
    assert json.loads((run / 'pid.json').read_text()) == expected
    argv = ['measure', run, '--negatives', 'popularity', '--groups', 'none', '--json']
    assert call(*argv, '--num-bootstrap', 0) == 0
    text = capsys.readouterr().out
    assert text == (run / 'pid.json').read_text()
    assert json.loads(text)['negatives'] == ['popularity'] and json.loads(text)['groups'] == {}
    assert not [p for p in run.iterdir() if p.name.endswith('.tmp')]


def load(folder):
    from mrdib_pyg.datasets import load_dataset

    return load_dataset(str(folder))


def test_explain(folder, capsys):
    run = folder.parent / 'run'
    assert call('explain', run, '--user', 3, '--item', 17) == 0
    data = load(folder)
    expected = explain_pair(load_model(run / 'best.pt', data)[0], 3, 17, data)
    assert capsys.readouterr().out == f'{expected}\n'
    assert call('explain', run, '--user', 3, '--item', 17, '--json') == 0
    found = json.loads(capsys.readouterr().out)
    parts = [found['redundant'], *found['unique'].values(), found['synergistic'], found['id']]
    assert sum(parts) == pytest.approx(found['total'], abs=1e-9)
    assert found['sentence'] == expected.sentence


def test_explain_by_raw_ids(folder, tmp_path, capsys):
    data = tmp_path / 'small'
    shutil.copytree(folder, data)
    IdMap([f'u{i}' for i in range(60)]).save(data, 'user')
    IdMap([f'B{i:03}' for i in range(50)]).save(data, 'item')
    run = folder.parent / 'run'
    argv = ['explain', run, '--dataset', data]
    assert call(*argv, '--user', 'u3', '--item', 'B017') == 0
    out = capsys.readouterr().out
    assert 'item B017 for user u3' in out
    assert call('explain', run, '--user', 3, '--item', 17) == 0
    assert out.splitlines()[:-1] == capsys.readouterr().out.splitlines()[:-1]
    assert call(*argv, '--user', 3, '--item', 'B017') == 2
    assert "--user: there is no '3' in the data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['measure', 'nowhere'], "there is no run folder 'nowhere'"),
        (['measure', 'RUN', '--num-bootstrap', '-1'], '--num-bootstrap must not be negative'),
        (['measure', 'RUN', '--groups', 'genre'], "--groups must be some of ['popularity'"),
        (['explain', 'RUN', '--user', '60', '--item', '0'], '--user must be ids from 0 to 59'),
        (['explain', 'RUN', '--user', '3,17', '--item', '0'], "--user takes one id (got '3,17')"),
        (['explain', 'RUN', '--user', '3', '--item', '1 2'], "--item takes one id (got '1 2')"),
        (['explain', 'RUN', '--user', '0', '--item', '-1'], '--item must be ids from 0 to 49'),
        (['explain', 'RUN', '--user', '0', '--item', 'x', '--seed', '-1'], '--seed must lie in'),
    ],
)
def test_refused(folder, tmp_path, capsys, argv, message):
    run = tmp_path / 'run'
    shutil.copytree(folder.parent / 'run', run)
    (run / 'pid.json').unlink(missing_ok=True)
    assert call(*(run if x == 'RUN' else x for x in argv)) == 2
    out, err = capsys.readouterr()
    assert out == '' and message in err and len(err.splitlines()) <= 3
    assert not (run / 'pid.json').exists()


def test_a_fifo_in_the_place_of_the_file_is_refused_at_once(folder, tmp_path, capsys):
    run = tmp_path / 'run'
    shutil.copytree(folder.parent / 'run', run)
    (run / 'pid.json').unlink(missing_ok=True)
    os.mkfifo(run / 'pid.json')
    assert call('measure', run) == 2
    assert "pid.json' must be a regular file" in capsys.readouterr().err


def test_model_without_modality(folder, tmp_path, capsys):
    out = tmp_path / 'lightgcn'
    argv = ['train', '--dataset', folder, '--model', 'lightgcn', '--out', out, '--quiet']
    assert call(*argv, '--epochs', 1, '--set', 'channels=4') == 0
    capsys.readouterr()
    assert call('measure', out) == 2
    assert '--model must read a modality (got LightGCN' in capsys.readouterr().err
