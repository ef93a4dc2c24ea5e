"""A model that is not of the package, from the command line: that of ``examples/own_model.py``."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from mrdib_pyg.cli import main
from mrdib_pyg.datasets import Planted, write_folder
from mrdib_pyg.nn.models import find_model
from mrdib_pyg.report._write_report import _class_of
from mrdib_pyg.report.runs import load_run_folder

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
NAME = 'own_model:GatedMF'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the module and a data set, in which the command line is called."""
    shutil.copy(EXAMPLES / 'own_model.py', tmp_path)
    write_folder(Planted(num_users=40, num_items=50, num_interactions=10)[0], tmp_path / 'small')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [path for path in sys.path if path not in ('', '.')])
    monkeypatch.delitem(sys.modules, 'own_model', raising=False)
    return tmp_path


def test_from_training_to_recommendations(here, capsys):
    train = ['train', '--dataset', 'small', '--model', NAME, '--mrdib', '--quiet', '--json']
    settings = ['--set', 'channels=8', '--epochs', '2', '--batch-size', '64']
    assert main([*train, *settings]) == 0
    run = str(here / 'runs' / 'small-GatedMF')
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((Path(run) / 'results.json').read_text())
    assert results['model'] == NAME
    assert results['settings'] == {'channels': 8, 'mrdib': {'redundancy': 'mine'}}
    assert {'bottleneck', 'redundant', 'unique'} < set(results['terms'])

    assert main(['evaluate', run, '--json', '--model', NAME]) == 0
    assert json.loads(capsys.readouterr().out) == results['test']
    assert main(['recommend', run, '--model', NAME, '--users', '0', '--k', '3']) == 0
    assert len(capsys.readouterr().out.split()) >= 3
    assert main(['explain', run, '--model', NAME, '--user', '3', '--item', '17']) == 0
    assert 'image' in capsys.readouterr().out

    assert main(['evaluate', run]) == 2  # a name in a file does not have code imported
    message = 'holds the model own_model:GatedMF, which is not one of this package; pass its class'
    assert message in capsys.readouterr().err
    assert main(['evaluate', run, '--model', 'VBPR']) == 2
    assert 'holds the model own_model:GatedMF, not vbpr' in capsys.readouterr().err


@pytest.fixture
def runs(here):
    """The folders of a run of the module's model and of one of the package's, to report on."""
    pytest.importorskip('altair')
    pytest.importorskip('vl_convert')
    train = ['train', '--dataset', 'small', '--epochs', '1', '--quiet', '--set', 'channels=8']
    for model, out in ((NAME, 'mine'), ('vbpr', 'vbpr')):
        assert main([*train, '--model', model, '--out', out]) == 0
    return [here / 'mine', here / 'vbpr']


def test_report(runs):
    assert main(['report', *map(str, runs), '--map', 'pca']) == 0
    without = (runs[0] / 'report.html').read_text()
    assert main(['report', *map(str, runs), '--map', 'pca', '--model', NAME]) == 0
    page = (runs[0] / 'report.html').read_text()
    message = 'holds the model own_model:GatedMF, which is not one of this package'
    assert message in without and message not in page


def test_report_on_a_model_that_fails(runs, monkeypatch):
    def fails(self):
        raise AttributeError('of no such thing')

    monkeypatch.setattr(find_model(NAME), 'embed', fails)
    assert main(['report', *map(str, runs), '--map', 'pca', '--model', NAME]) == 0
    page = (runs[0] / 'report.html').read_text()
    assert 'GatedMF' in page and 'raised AttributeError: of no such thing' in page


def test_models(here, capsys):
    assert main(['models', NAME, 'VBPR']) == 0
    out = capsys.readouterr().out
    assert out.startswith('own_model:GatedMF (GatedMF)\n  Matrix factorization, to whose items')
    assert '    channels=64\n    bias=True\nvbpr (VBPR)\n' in out


def test_modules_that_are_installed_come_first(here, capsys):
    (here / 'json.py').write_text('raise SystemExit(7)')
    (here / 'colorsys.py').write_text('raise SystemExit(7)')
    sys.modules.pop('colorsys', None)
    assert main(['models', 'colorsys:Model']) == 2
    assert "the model 'colorsys:Model' must be a subclass of" in capsys.readouterr().err


def test_experiment(here, capsys):
    description = {
        'datasets': ['small'], 'trials': [2], 'selection_seeds': [9], 'seeds': [1],
        'fit': {'epochs': 1, 'lr': [1e-2, 1e-3]},
        'models': {'gated': {'class': NAME, 'channels': 8}, 'plain_vbpr': {'class': 'vbpr'}},
        'variants': {
            'plain': {},
            'mrdib': {'weights': {'bottleneck': 0.1, 'redundant': 0, 'unique': 0.1}},
        },
    }  # fmt: skip
    (here / 'e.json').write_text(json.dumps(description))
    (here / 'trap.py').write_text("open('sprung', 'w').close()")
    trap = {**description, 'models': {'trap': {'class': 'trap:Model', 'any': [1, 2]}}}
    (here / 'trap.json').write_text(json.dumps(trap))
    assert main(['experiment', 'trap.json', '--dry-run']) == 0
    assert '6 runs, 0 finished' in capsys.readouterr().out
    assert not (here / 'sprung').exists()  # a dry run imports nothing
    assert main(['experiment', 'trap.json']) == 2 and (here / 'sprung').exists()
    capsys.readouterr()
    assert main(['experiment', 'e.json', '--out', 'out', '--quiet']) == 0, capsys.readouterr().err
    jobs = [json.loads(path.read_text()) for path in (here / 'out' / 'runs').glob('*.json')]
    assert {(job['job']['model'], job['job']['class']) for job in jobs} == {
        ('gated', NAME),
        ('plain_vbpr', 'vbpr'),
    }
    assert {job['result']['model'] for job in jobs} == {NAME, 'vbpr'}
    table = (here / 'out' / 'table.md').read_text()
    assert '### gated' in table and '### plain_vbpr' in table


TWICE = """
from mrdib_pyg.nn.models import VBPR as Base, Embeddings
class VBPR(Base):
    def fuse(self, codes, rows=None):
        out = super().fuse(codes, rows)
        return out._replace(item=out.item * {factor})
"""


def test_classes_of_one_name(here, capsys):
    """Of this package and of two modules: none is taken for another."""
    train = ['train', '--dataset', 'small', '--epochs', '2', '--quiet', '--set', 'channels=8']
    for module, factor in (('first', -1), ('second', 1)):
        (here / f'{module}.py').write_text(TWICE.format(factor=factor))
        assert main([*train, '--model', f'{module}:VBPR', '--out', module]) == 0
    assert main(['evaluate', 'first']) == 2
    assert 'holds the model first:VBPR, which is not one' in capsys.readouterr().err
    assert main([*train, '--model', 'vbpr', '--out', 'first', '--resume']) == 2
    assert "model 'first:VBPR' but this run has 'vbpr'" in capsys.readouterr().err
    classes = [load_class(module) for module in ('first', 'second')]
    runs = [load_run_folder(here / module) for module in ('first', 'second')]
    for run, cls in zip(runs, classes):
        assert _class_of(run.config['model'], classes) is cls
    assert _class_of('__main__:VBPR', classes) is None  # which of them it was is not known


def load_class(module):
    return find_model(f'{module}:VBPR')
