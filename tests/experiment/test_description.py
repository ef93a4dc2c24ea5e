import json
import math
import re
from pathlib import Path

import pytest

from mrdib_pyg.experiment import Experiment, load_experiment
from mrdib_pyg.experiment.records import job_id
from mrdib_pyg.nn.models import MODELS, Recommender


def test_cells(experiment):
    assert [c.variant for c in experiment.cells] == ['plain', 'l2', 'noise', 'mrdib']
    assert {len(c.settings) for c in experiment.cells} == {6}
    plain, l2, noise, mrdib = experiment.cells
    for cell in experiment.cells:  # the same settings of the model, trial by trial
        for setting, of_plain in zip(cell.settings, plain.settings):
            assert setting['settings'] == of_plain['settings']
            assert setting['fit'] == of_plain['fit']
            assert setting['settings']['channels'] == 4 and setting['fit']['epochs'] == 2
    assert len({json.dumps(setting) for setting in plain.settings}) == 6
    assert plain.settings[0]['mrdib'] is None and plain.settings[0]['weights'] == {}
    assert {x['weights']['bottleneck'] for x in l2.settings} == {1e-3, 1e-2}
    assert all(x['mrdib'] == {'control': 'l2'} for x in l2.settings)
    assert {x['mrdib']['noise_scale'] for x in noise.settings} == {0.1, 0.5}
    assert all(x['mrdib'] == {'redundancy': 'gaussian'} for x in mrdib.settings)
    assert {x['weights']['unique'] for x in mrdib.settings} == {1e-2, 0.5}
    assert {x['weights']['redundant'] for x in mrdib.settings} == {0}


def test_a_variant_with_a_fit_of_its_own_shares_the_rest(description):
    description['trials'] = [6, 2]
    description['fit'] = {'epochs': 2, 'lr': [0.1, 0.2], 'batch_size': [32, 64]}
    description['models']['vbpr'] = {'channels': 4, 'reg_weight': [0.0, 0.1, 0.2]}
    description['variants']['mrdib']['fit'] = {'lr': [0.3, 0.4]}
    plain, *_, mrdib = Experiment(description).cells
    for a, b in zip(plain.settings, mrdib.settings):
        assert a['settings'] == b['settings']
        assert a['fit']['batch_size'] == b['fit']['batch_size']
        assert a['fit']['lr'] < 0.25 < b['fit']['lr']
    assert len({json.dumps(setting) for setting in mrdib.settings}) == 6


def test_decoders_and_weights_of_zero_are_in_grids(description):
    description['variants']['mrdib'] = {
        'redundancy': 'none',
        'decoder': ['bpr', 'nce'],
        'num_negatives': [8, 16],
        'weights': {'bottleneck': [0, 1e-3], 'redundant': 0, 'unique': [0.0, 0.1]},
    }
    description['models']['vbpr']['task'] = ['bpr', 'ssm']
    *_, mrdib = Experiment(description).cells
    found = [setting['mrdib'] for setting in mrdib.settings]
    assert {x['decoder'] for x in found} == {'bpr', 'nce'}
    assert {x['num_negatives'] for x in found} == {8, 16}
    assert all(x['redundancy'] is None for x in found)
    assert {x['weights']['unique'] for x in mrdib.settings} == {0.0, 0.1}
    assert {x['settings']['task'] for x in mrdib.settings} == {'bpr', 'ssm'}


@pytest.mark.parametrize(('name', 'value'), [('decoder', 'softmax'), ('num_negatives', 0)])
def test_refused_decoders(description, name, value):
    description['variants']['mrdib'][name] = value
    with pytest.raises(ValueError, match=rf"variants.mrdib.*'{name}' must .*got {value!r}"):
        Experiment(description)


def test_job_names_all_that_a_run_depends_on(experiment):
    cell = experiment.cells[3]
    job = experiment.job(cell, 0, 101, test=False)
    assert job['dataset'] == {'name': 'toy', 'num_users': 40, 'num_items': 50}
    assert job['seed'] == 101 and job['test'] is False and job['k'] == [5, 10, 20]
    assert job_id(job).startswith('toy-vbpr-')
    names = {
        job_id(experiment.job(c, t, seed, test))
        for c in experiment.cells for t in range(6) for seed in (1, 101) for test in (False, True)
    }  # fmt: skip
    assert len(names) == 4 * 6 * 2 * 2
    assert job_id(dict(reversed(job.items()))) == job_id(job)


def test_steps_may_be_compiled(description):
    jobs = []
    for value in (False, True):
        description['fit']['compile'] = value
        experiment = Experiment(description)
        jobs.append(experiment.job(experiment.cells[0], 0, 1, False))
    assert [job['fit']['compile'] for job in jobs] == [False, True]
    assert job_id(jobs[0]) != job_id(jobs[1])


def test_ablations_of_one_kind(description):
    description['models']['vbpr'] = {'channels': 4}
    description['fit']['lr'] = 1e-3
    description['trials'], description['selection_seeds'] = [1], [101]
    weights = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
    description['variants'] = {
        'plain': {},
        'mrdib': {'weights': weights, 'fit': {'critic_steps': 1}},
        'without L_R': {'kind': 'mrdib', 'redundancy': 'none', 'weights': [weights]},
    }
    plain, full, without = Experiment(description).cells
    assert plain.settings[0]['fit'] == {'epochs': 2, 'lr': 1e-3}
    assert full.settings[0]['fit'] == {'epochs': 2, 'lr': 1e-3, 'critic_steps': 1}
    assert full.settings[0]['mrdib'] == {}
    assert without.kind == 'mrdib' and without.settings[0]['mrdib'] == {'redundancy': None}
    assert without.settings[0]['weights'] == weights


def test_settings_of_a_model_replace_those_of_all(description):
    description['models']['vbpr']['fit'] = {'lr': [0.5, 0.25]}
    cells = Experiment(description).cells
    assert {x['fit']['lr'] for c in cells for x in c.settings} == {0.5, 0.25}


def test_only_some_models(description):
    description['models']['nothing'] = {}
    with pytest.raises(ValueError, match="no model 'nothing'"):
        Experiment(description)
    assert Experiment(description, models=['vbpr']).models == ['vbpr']
    with pytest.raises(ValueError, match=r"no model 'mmgcn'; it has \['nothing', 'vbpr'\]"):
        Experiment(description, models=['mmgcn'])


def change(path, value):
    def apply(description):
        inner = description
        for name in path[:-1]:
            inner = inner[name]
        if value is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        (['trails'], [12], "unknown key 'trails'; known are"),
        (['datasets'], None, 'names no datasets'),
        (['models'], {}, 'names no models'),
        (['datasets'], 'toy', "'datasets' must be a list"),
        (['datasets'], [{'name': 'x'}], "a table with a 'path'"),
        (['datasets'], ['a/toy', 'b/toy'], "names 'toy' twice"),
        (['datasets'], ['a/..'], "needs a 'name' of letters"),
        (['variants', 'l2'], 3, "'variants.l2' must be a table"),
        (['variants', 'l2', 'weights'], 3, "'variants.l2' must be a table"),
        (['models', 'vbpr', 'fit'], [1], "'models.vbpr.fit' must be a table"),
        (['fit'], [1], "'fit' must be a table"),
        (['trials'], [4, 12], "'trials' must fall"),
        (['trials'], [12], "'trials' must fall, with one number for each of 'selection_seeds'"),
        (['trials'], [7, 2], r"'vbpr' with the variant 'plain' has 6 settings, fewer than 7"),
        (['seeds'], [1, 101], r"'seeds' and 'selection_seeds' share \[101\]"),
        (['seeds'], [1, 1], "'seeds' names 1 twice"),
        (['seeds'], [], "'seeds' must be a list of integers"),
        (['seeds'], [True], "'seeds' must be a list of integers"),
        (['monitor'], 'recall@50', "'monitor' is 'recall@50' but 'k' is"),
        (['monitor'], 'hits', "'monitor' must be one of"),
        (['models', 'deepfm'], {}, "no model 'deepfm'; known are"),
        (['models', 'vbpr', 'depth'], 3, r"\[models.vbpr\] has an unknown key 'depth'; known are"),
        (['models', 'vbpr', 'mrdib'], {'x': 1}, "unknown key 'mrdib'"),
        (
            ['models', 'vbpr', 'channels'],
            [4, 'wide'],
            r"\[models.vbpr\]: the setting 'channels' must be an integer \(got 'wide'\)",
        ),
        (['models', 'vbpr', 'reg_weight'], [0.1, True, 2], "'reg_weight' must be a number"),
        (['models', 'vbpr', 'variants'], ['l3'], "there is no variant 'l3'"),
        (['models', 'vbpr', 'reg_weight'], [], "'settings.reg_weight' lists no value"),
        (['variants', 'dropout'], {}, "'kind' must be one of"),
        (['variants', 'noise', 'strength'], 1, "unknown key 'strength'; known are"),
        (['variants', 'mrdib', 'user_codes'], False, "unknown key 'user_codes'"),
        (['variants', 'mrdib', 'redundancy'], 'mien', r"\[variants.mrdib\]: .*'mien'"),
        (
            ['variants', 'mrdib', 'hidden_channels'],
            [8, 0],
            r"\[variants.mrdib\]: 'hidden_channels'",
        ),
        (['variants', 'noise', 'noise_scale'], [0.1, 'loud'], r'\[variants.noise\]: '),
        (['variants', 'noise', 'noise_scale'], [0.1, math.inf], r'\[variants.noise\]: .*inf'),
        (['variants', 'plain', 'weights'], {'unique': 1}, "'plain' has no weight 'unique'"),
        (['variants', 'l2', 'weights', 'unique'], 1, r"'l2' has no weight 'unique', it has \['b"),
        (['variants', 'mrdib', 'weights', 'unique'], None, "'weights.unique' is missing"),
        (['variants', 'l2', 'weights', 'bottleneck'], [1, -1], 'must be a number >= 0'),
        (['fit', 'lr'], [0.1, 0], "'lr' must be positive"),
        (['fit', 'lr'], [0.1, 'fast'], "'fit' must hold numbers"),
        (['fit', 'seed'], 3, "unknown key 'seed'"),
        (['fit', 'compile'], 1, "'fit.compile' must be true or false"),
        (['search_seed'], 'x', "'search_seed' must be"),
        (['groups'], {'few': 'vbpr'}, "'groups.few' must be a list of models"),
        (['groups'], {'few': ['vbpr', 'vbpr']}, "'groups.few' names 'vbpr' twice"),
        (['groups'], {'few': ['deepfm']}, "'groups.few': the description has no model 'deepfm'"),
        (['epoch_seconds'], {'vbpr': 'long'}, "'epoch_seconds.vbpr' must be positive"),
        (['epoch_seconds'], {'vpbr': 1.0}, "'epoch_seconds': the description has no model 'vpbr'"),
    ],
)
def test_refuses(description, path, value, message):
    change(path, value)(description)
    with pytest.raises(ValueError, match=message):
        Experiment(description)


@pytest.mark.parametrize('bottleneck', ['late', 'early', 'complete'])
def test_every_place_of_the_bottleneck_is_possible(description, bottleneck):
    description['variants']['mrdib']['bottleneck'] = bottleneck
    assert Experiment(description).cells[-1].settings[0]['mrdib']['bottleneck'] == bottleneck


def test_refuses_mrdib_without_modalities(description, monkeypatch):
    class IDOnly(Recommender):
        multimodal = False

        def __init__(self, data, channels=64, reg_weight=0.1, mrdib=None):
            raise NotImplementedError

    monkeypatch.setitem(MODELS, 'id_only', IDOnly)
    description['models']['id_only'] = {'reg_weight': [1, 2, 3]}
    with pytest.raises(ValueError, match=r"knows no modalities.*write variants = \['plain'\]"):
        Experiment(description)
    description['models']['id_only']['variants'] = ['plain']
    assert [c.variant for c in Experiment(description).cells if c.model == 'id_only'] == ['plain']


class WithoutLayer(Recommender):
    def __init__(self, data, channels=64, reg_weight=0.1):
        super().__init__(data, channels)


def test_models_with_a_class(description, experiment):
    of_vbpr = description['models']['vbpr']
    description['models'] = {'mine': {**of_vbpr, 'class': 'mrdib_pyg.nn.models:VBPR'}}
    mine = Experiment(description)
    a, b = (x.job(x.cells[0], 0, 1, test=False) for x in (experiment, mine))
    assert 'class' not in a and b['class'] == 'mrdib_pyg.nn.models:VBPR' and b['model'] == 'mine'
    assert job_id(b).startswith('toy-mine-') and job_id({**b, 'class': 'vbpr'}) != job_id(b)
    # A class may come twice, with other settings.
    twice = {name: {**of_vbpr, 'class': 'vbpr', 'channels': c} for name, c in (('a', 4), ('b', 8))}
    description['models'] = twice
    assert Experiment(description).models == ['a', 'b']


def test_a_single_variant_may_be_a_word(description):
    description['models']['vbpr']['variants'] = 'plain'
    assert [cell.variant for cell in Experiment(description).cells] == ['plain']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d['models']['vbpr'].update(variants=['plain', 'plain']), "names 'plain' twice"),
        (lambda d: d['models']['vbpr'].update(variants=[['plain']]), r"no variant \['plain'\]"),
        (lambda d: d['models']['vbpr'].update(variants={}), r'no variant \{\}'),
        (lambda d: d.update(groups={'g': [[]]}), r'has no model \[\]'),
        (lambda d: d['variants']['mrdib'].update(weights=[1, 2]), "'weights' must be a table or"),
        (lambda d: d['variants']['noise'].update(fit={'epochs': {'a': 1}}), 'must be a value or'),
        (lambda d: d['fit'].update(epochs={'a': 1}), "'fit.epochs' must be a value or a list"),
        (lambda d: d['fit'].update(lr=object()), 'may hold numbers, words, truth values'),
        (
            lambda d: d.update(
                models={'lightgcn': {'variants': 'plain', 'reg_weight': [0.1, 0.2, 0.3]}},
                fit={**d['fit'], 'modality_dropout': 0.2},
            ),
            "'fit.modality_dropout' is 0.2, but the model 'lightgcn' reads no modality",
        ),
    ],
)
def test_refuses_forms(description, change, message):
    change(description)
    with pytest.raises(ValueError, match=message):
        Experiment(description)


@pytest.mark.parametrize(
    ('of_model', 'message'),
    [
        ({'class': 3}, r"'models.mine.class' must be 'module:Class' \(got 3\)"),
        ({'class': ['vbpr']}, "'models.mine.class' must be 'module:Class'"),
        ({}, r"\[models.mine\]: there is no model 'mine'.*'module:Class' in its 'class'"),
        ({'class': 'absent:Mine'}, r"\[models.mine\]: there is no module 'absent'"),
        ({'class': 'vbpr', 'depth': 3}, r"\[models.mine\] has an unknown key 'depth'"),
        ({'class': f'{__name__}:WithoutLayer'}, "the model 'mine' has no argument for MRdIB"),
    ],
)
def test_refuses_classes(description, of_model, message):
    description['models'] = {'mine': {'reg_weight': [1, 2, 3], **of_model}}
    with pytest.raises(ValueError, match=message):
        Experiment(description)


def test_load(tmp_path, description, experiment):
    path = tmp_path / 'small.json'
    path.write_text(json.dumps(description))
    loaded = load_experiment(path)
    assert loaded.name == 'small' and loaded.cells == experiment.cells
    path.write_text('[1]')
    with pytest.raises(ValueError, match='must hold a table'):
        load_experiment(path)
    with pytest.raises(FileNotFoundError, match='no description'):
        load_experiment(tmp_path / 'nothing.toml')


def test_load_toml(tmp_path):
    pytest.importorskip('tomllib')
    path = tmp_path / 'small.toml'
    path.write_text(
        'datasets = ["planted", { path = "planted", name = "b", noise = 1.0 }]\n'
        'trials = [2]\nselection_seeds = [9]\n[fit]\nlr = [1e-3, 1e-2]\n[models.vbpr]\n'
        '[variants.plain]\n[variants.l2]\nweights.bottleneck = 0.1\n'
    )
    cells = load_experiment(path).cells
    assert [(c.dataset.name, c.variant) for c in cells] == [
        ('planted', 'plain'), ('planted', 'l2'), ('b', 'plain'), ('b', 'l2'),
    ]  # fmt: skip
    assert cells[3].dataset.kwargs == {'noise': 1.0}
    path.write_text('datasets = ')
    with pytest.raises(ValueError, match=r"small\.toml' is not readable"):
        load_experiment(path)


def test_the_description_in_the_documentation(tmp_path):
    tomllib = pytest.importorskip('tomllib')
    page = Path(__file__).resolve().parents[2] / 'docs' / 'EXPERIMENTS.md'
    (text,) = re.findall(r'```toml\n(.*?)```', page.read_text(), flags=re.DOTALL)
    raw = tomllib.loads(text)
    models = [model for model in raw['models'] if model in MODELS]
    assert {c.model for c in Experiment(raw, models=models).cells} == set(models) >= {'vbpr'}


def test_toml_without_a_reader(tmp_path, monkeypatch):
    path = tmp_path / 'small.toml'
    path.write_text('x = 1')
    for name in ('tomllib', 'tomli'):
        monkeypatch.setitem(__import__('sys').modules, name, None)
    with pytest.raises(ValueError, match='TOML needs Python 3.11.*write it as .json'):
        load_experiment(path)


def test_a_data_set_is_not_called_all(description):
    description['datasets'] = [{'path': 'planted', 'name': 'all'}]
    with pytest.raises(ValueError, match="cannot be called 'all'"):
        Experiment(description)


def test_modality_dropout_is_a_setting_of_training(description):
    description['fit']['modality_dropout'] = 0.3
    cell = Experiment(description).cells[0]
    assert cell.settings[0]['fit']['modality_dropout'] == 0.3
    for value in (1.0, -0.1, 'much', True):
        description['fit']['modality_dropout'] = value
        with pytest.raises(ValueError, match=r"'fit.modality_dropout' must lie in \[0, 1\)"):
            Experiment(description)
    description['fit'] |= {'modality_dropout': 0.3, 'compile': True}
    with pytest.raises(ValueError, match='exclude each other'):
        Experiment(description)
