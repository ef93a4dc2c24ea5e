import csv
import io
import json

import numpy as np
import pytest

from mrdib_pyg.experiment import Experiment, run_experiment, save_report, summarize
from mrdib_pyg.experiment.figures import save_figures, sensitivity
from mrdib_pyg.experiment.records import Records
from mrdib_pyg.experiment.runner import plan
from mrdib_pyg.experiment.selection import stage
from mrdib_pyg.experiment.summary import bootstrap_gain, csv_text, markdown


def finish(experiment, out, runner):
    assert run_experiment(experiment, out, progress=False, runner=runner) == []
    return Records(out)


def test_summary(experiment, tmp_path, runner):
    records = finish(experiment, tmp_path, runner)
    summary = summarize(experiment, records, num_samples=200)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary['unfinished'] == [] and summary['versions'] == [{'torch': '1'}]
    toy = summary['datasets']['toy']
    assert toy['data_hash'] == 'abc'
    vbpr = toy['models']['vbpr']
    assert list(vbpr['variants']) == ['plain', 'l2', 'noise', 'mrdib']
    for variant in vbpr['variants'].values():
        assert variant['seeds'] == [1, 2, 3] and len(variant['trials']) == 6
        assert sorted(len(trial['val']) for trial in variant['trials']) == [1, 1, 1, 1, 2, 2]
        assert variant['chosen']['settings'] == {'channels': 4, 'reg_weight': 1e-3}
    # The runner's users have .1 on average and .001 for each number of the seed; L2 times 1.2,
    # MRdIB times 1.5, so it gains a quarter over the best of the others, whatever the users.
    assert vbpr['variants']['plain']['test']['recall@5'] == pytest.approx([0.101, 0.102, 0.103])
    for metric in vbpr['variants']['plain']['test']:
        gain = vbpr['gains']['mrdib'][metric]
        assert gain['best_of_others'] == 'l2'
        assert [gain[x] for x in ('gain', 'low', 'high')] == pytest.approx([0.25] * 3, rel=1e-5)
        assert gain['differences'] == pytest.approx([0.0303, 0.0306, 0.0309])
        gain = vbpr['gains_over_plain']['mrdib'][metric]
        assert gain['best_of_others'] == 'plain'
        assert [gain[x] for x in ('gain', 'low', 'high')] == pytest.approx([0.5] * 3, rel=1e-5)
    for key in ('toy', 'all'):
        for kind, value in (('mean_gains', 0.25), ('mean_gains_over_plain', 0.5)):
            mean = summary[kind][key]['mrdib']['ndcg@5']
            assert mean['num_models'] == 1 and mean['gain'] == pytest.approx(value, rel=1e-5)


def test_intervals_are_those_of_the_bootstrap(experiment, tmp_path, runner):
    """Also where the gain differs from user to user, and for the mean over models."""
    rng = np.random.default_rng(0)
    values = {}

    def noisy(job, path, device):
        out = runner(job, path, device)
        if job['test']:
            shifted = {None: 0.0, 'mrdib': 0.3}.get(
                job['mrdib'] and job['mrdib'].get('control', 'mrdib'), -0.5
            )
            users = rng.random(50).astype(np.float32) + shifted
            values[(shifted, job['seed'])] = users
            out['per_user'] = {'user': np.arange(50), **dict.fromkeys(out['test'], users)}
            out['test'] = dict.fromkeys(out['test'], float(users.mean(dtype=np.float64)))
        return out

    summary = summarize(experiment, finish(experiment, tmp_path, noisy), num_samples=300, seed=5)
    gain = summary['datasets']['toy']['models']['vbpr']['gains']['mrdib']['recall@20']
    treated, plain = (np.stack([values[(shift, s)] for s in (1, 2, 3)]) for shift in (0.3, 0.0))
    expected = bootstrap_gain(treated, plain, num_samples=300, seed=5)
    assert gain['best_of_others'] == 'plain'
    assert [gain[x] for x in ('gain', 'low', 'high')] == pytest.approx(expected[:3], rel=1e-5)
    assert gain['low'] < gain['gain'] < gain['high']


def test_mean_gain_over_models_and_data_sets(description, tmp_path, runner):
    description['datasets'].append({'path': 'planted', 'name': 'toy2'})
    description['models']['multimodal_lightgcn'] = {'l2_weight': [1e-3, 1e-2, 1e-1]}

    def other(job, path, device):
        job = {**job, 'settings': {'reg_weight': job['settings'].get('reg_weight', 1e-3)}}
        out = runner(job, path, device)
        second = job['model'] != 'vbpr' or job['dataset']['name'] == 'toy2'
        if job['test'] and second and job['mrdib'] == {'redundancy': 'gaussian'}:
            for kind in ('per_user', 'test'):
                out[kind] = {k: v if k == 'user' else v * 1.2 for k, v in out[kind].items()}
        return out

    description['groups'] = {'a': ['multimodal_lightgcn'], 'b': ['multimodal_lightgcn', 'vbpr']}
    experiment = Experiment(description)
    records = finish(experiment, tmp_path, other)
    summary = summarize(experiment, records, num_samples=50)
    means = {k: v['mrdib']['recall@5'] for k, v in summary['mean_gains'].items()}
    # 25 % where nothing was added, 1.25 * 1.2 - 1 = 50 % elsewhere.
    assert means['toy']['gain'] == pytest.approx((0.25 + 0.5) / 2, rel=1e-5)
    assert means['toy2']['gain'] == pytest.approx(0.5, rel=1e-5)
    assert means['all']['gain'] == pytest.approx((0.25 + 3 * 0.5) / 4, rel=1e-5)
    assert [means[x]['num_models'] for x in ('toy', 'toy2', 'all')] == [2, 2, 4]
    text = markdown(summary)
    assert '| **mean** | mrdib | +37.5 [+37.5, +37.5] |' in text and '## All data sets' in text
    for kind in ('mean_gains', 'mean_gains_over_plain'):
        assert summary['groups']['b'][kind] == summary[kind]
        alone = {k: v['mrdib']['recall@5'] for k, v in summary['groups']['a'][kind].items()}
        assert [alone[x]['num_models'] for x in ('toy', 'toy2', 'all')] == [1, 1, 2]
        assert alone['toy']['gain'] > means['toy']['gain']
    # A group of which a model is missing has no mean.
    summary = summarize(Experiment(description, models=['vbpr']), records, num_samples=50)
    for group in summary['groups'].values():
        assert group['mean_gains'] == {'toy': {}, 'toy2': {}, 'all': {}}
    assert '**mean' not in markdown(summary)


def test_a_group_has_a_mean_of_the_variants_that_all_of_its_models_have(
    description, tmp_path, runner
):
    second = {**description['variants']['mrdib'], 'kind': 'mrdib', 'redundancy': 'mine'}
    description['variants']['two'] = second
    of_vbpr = description['models']['vbpr']
    description['models']['other'] = {**of_vbpr, 'class': 'vbpr', 'variants': ['plain', 'mrdib']}
    description['groups'] = {'g': ['vbpr', 'other']}
    experiment = Experiment(description)
    summary = summarize(experiment, finish(experiment, tmp_path, runner), num_samples=50)
    means = summary['groups']['g']['mean_gains']['toy']
    assert list(means) == ['mrdib'] and means['mrdib']['recall@5']['num_models'] == 2
    assert list(summary['mean_gains']['toy']) == ['mrdib', 'two']


def test_unfinished(experiment, tmp_path, runner):
    with pytest.raises(ValueError, match='no variant of a model is finished'):
        summarize(experiment, Records(tmp_path))

    def failing(job, path, device):
        if job['mrdib'] == {'redundancy': 'gaussian'} and job['test'] and job['seed'] == 2:
            raise MemoryError
        return runner(job, path, device)

    run_experiment(experiment, tmp_path, progress=False, runner=failing)
    summary = summarize(experiment, Records(tmp_path))
    assert summary['unfinished'] == ['toy vbpr mrdib: 10 of 11 runs']
    vbpr = summary['datasets']['toy']['models']['vbpr']
    assert list(vbpr['variants']) == ['plain', 'l2', 'noise'] and vbpr['gains'] == {}
    text = markdown(summary)
    assert text.endswith('Not finished:\n\n- toy vbpr mrdib: 10 of 11 runs\n')
    assert 'gain in %' not in text
    csv_text(summary)


def test_runs_of_different_data(experiment, tmp_path, runner):
    def other(job, path, device):
        return {**runner(job, path, device), 'data_hash': str(job['seed'])}

    records = finish(experiment, tmp_path, other)
    with pytest.raises(ValueError, match="of different data named 'toy'"):
        summarize(experiment, records)


def variant(kind, recall, trials, **chosen):
    settings = {'settings': {'reg_weight': 0.1}, 'fit': {'lr': 0.001}, 'mrdib': None, 'weights': {}}
    settings |= chosen
    return {
        'kind': kind, 'chosen': settings, 'seeds': [1, 2], 'test': {'recall@5': recall},
        'trials': [{**settings, 'val': val} for val in trials], 'epoch_seconds': [1.0, 3.0],
        'best_epoch': [9, 12], 'num_epochs': [20, 12 if kind == 'l2' else 20],
    }  # fmt: skip


@pytest.fixture
def summary():
    gain = {'gain': 0.05, 'low': -0.012, 'high': 0.11}
    more = {'gain': 0.1, 'low': 0.02, 'high': 0.18}
    weights = {'bottleneck': 0.001, 'redundant': 0, 'unique': 0.5}
    vbpr = {
        'variants': {
            'plain': variant('plain', [0.1, 0.12], [[0.1, 0.2], [0.05], [None]]),
            'l2': variant('l2', [0.11, 0.12], [[0.1], [0.2], [0.3]], mrdib={'control': 'l2'}),
            'mrdib': variant(
                'mrdib', [0.1163, 0.1263], [[0.15, 0.3], [0.04], [0.1]],
                mrdib={'redundancy': 'club'}, weights=weights,
            ),
        },
        'gains': {
            'mrdib': {
                'recall@5': {'best_of_others': 'l2', **gain, 'differences': [0.0055, 0.006]}
            }
        },
        'gains_over_plain': {
            'mrdib': {
                'recall@5': {'best_of_others': 'plain', **more, 'differences': [0.0155, 0.006]}
            }
        },
    }  # fmt: skip
    mean = {'mrdib': {'recall@5': {**gain, 'num_models': 1}}}
    mean_over_plain = {'mrdib': {'recall@5': {**more, 'num_models': 1}}}
    return {
        'name': 'small', 'unfinished': [], 'versions': [{}], 'machines': [{}], 'groups': {},
        'datasets': {'toy': {'data_hash': '0123456789abcdef' * 4, 'models': {'vbpr': vbpr}}},
        'mean_gains': {'toy': mean, 'all': mean},
        'mean_gains_over_plain': {'toy': mean_over_plain, 'all': mean_over_plain},
    }  # fmt: skip


TABLE = """\
# small

Test edges, mean ± standard deviation over 2 seeds; every variant had 3 trials, chosen on the \
validation edges. A gain is that of MRdIB over the best of the other variants, metric by metric, \
in percent, with a 95 % interval by a bootstrap over users and seeds; under three seeds there is \
none.

## toy

Data: SHA-256 `0123456789abcdef`.

| gain | | Recall@5 |
|---|---|---|
| vbpr | mrdib | +5.0 [-1.2, +11.0] |

| gain over plain alone | | Recall@5 |
|---|---|---|
| vbpr | mrdib | +10.0 [+2.0, +18.0] |

### vbpr

|  | plain | l2 | mrdib | gain in % | over | seed by seed, in 1e-4 |
|---|---|---|---|---|---|---|
| Recall@5 | 0.1100 ± 0.0141 | 0.1150 ± 0.0071 | 0.1213 ± 0.0071 | +5.0 [-1.2, +11.0] | l2 | \
+55.0 +60.0 |

Chosen:

- plain: lr 0.001, reg_weight 0.1; 2.00 s an epoch; 1 of 3 trials diverged
- l2: lr 0.001, reg_weight 0.1; 2.00 s an epoch; the last epoch was the best in 1 of 2 runs
- mrdib: lr 0.001, reg_weight 0.1, redundancy club, bottleneck 0.001, redundant 0, unique 0.5; \
2.00 s an epoch
"""


def test_markdown(summary):
    assert markdown(summary) == TABLE


def test_popularity_stands_beside_the_results(summary):
    summary['datasets']['toy']['popularity'] = {'recall@5': 0.05}
    lines = markdown(summary).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith('|  | plain'))
    assert lines[head].split(' | ')[4] == 'by popularity'
    assert lines[head + 2].split(' | ')[4] == '0.0500'


def test_without_controls_the_best_of_the_others_is_plain(summary):
    del summary['datasets']['toy']['models']['vbpr']['variants']['l2']
    assert 'over plain alone |' not in markdown(summary)


def test_means_over_data_sets_are_of_both_kinds(summary):
    summary['datasets']['other'] = summary['datasets']['toy']
    end = markdown(summary).split('## All data sets')[1]
    assert '| mean over all | mrdib | +5.0 [-1.2, +11.0] |' in end
    assert '| mean over all | mrdib | +10.0 [+2.0, +18.0] |' in end


def test_means_of_groups(summary):
    models = summary['datasets']['toy']['models']
    models['mgcn'] = models['vbpr']
    mean, over_plain = summary['mean_gains'], summary['mean_gains_over_plain']
    summary['groups'] = {
        "the paper's": {
            'models': ['mgcn'], 'mean_gains': over_plain, 'mean_gains_over_plain': mean,
        },
        'not finished': {
            'models': ['soil'], 'mean_gains': {'toy': {}}, 'mean_gains_over_plain': {'toy': {}},
        },
    }  # fmt: skip
    lines = markdown(summary).splitlines()
    at = lines.index('| **mean** | mrdib | +5.0 [-1.2, +11.0] |')
    assert lines[at + 1 : at + 3] == ["| **mean, the paper's** | mrdib | +10.0 [+2.0, +18.0] |", '']
    at = lines.index('| **mean** | mrdib | +10.0 [+2.0, +18.0] |')
    assert lines[at + 1 : at + 3] == ["| **mean, the paper's** | mrdib | +5.0 [-1.2, +11.0] |", '']
    summary['datasets']['other'] = summary['datasets']['toy']
    end = markdown(summary).split('## All data sets')[1]
    assert "| mean over all, the paper's | mrdib | +10.0 [+2.0, +18.0] |" in end


def test_nothing_to_gain_over_is_shown_as_such(summary):
    gain = summary['datasets']['toy']['models']['vbpr']['gains']['mrdib']['recall@5']
    gain |= {'gain': None, 'low': None, 'high': None}
    assert '| - | l2 | +55.0 +60.0 |' in markdown(summary)


def test_csv(summary):
    rows = list(csv.DictReader(io.StringIO(csv_text(summary))))
    assert [row['variant'] for row in rows] == ['plain', 'l2', 'mrdib']
    assert rows[0]['values'] == '0.1 0.12' and rows[0]['seeds'] == '1 2' and rows[0]['gain'] == ''
    assert float(rows[0]['mean']) == pytest.approx(0.11)
    assert float(rows[0]['sd']) == pytest.approx(0.0141421, rel=1e-4)
    assert rows[2]['gain'] == '0.05' and rows[2]['low'] == '-0.012'
    assert rows[2]['gain_over_plain'] == '0.1' and rows[0]['gain_over_plain'] == ''
    assert rows[2]['best_of_others'] == 'l2' and rows[2]['differences'] == '0.0055 0.006'


def test_sensitivity_pairs_trials_of_the_same_settings(summary):
    variants = summary['datasets']['toy']['models']['vbpr']['variants']
    plain, treated = (variants[name]['trials'] for name in ('plain', 'mrdib'))
    treated[1]['weights'] = {'bottleneck': 0.01, 'redundant': 0, 'unique': 0.5}
    out = sensitivity(plain, treated)  # the third trial of plain diverged
    assert out['bottleneck'][0.001] == pytest.approx([0.5])
    assert out['bottleneck'][0.01] == pytest.approx([-0.2])
    assert out['unique'] == {0.5: pytest.approx([0.5, -0.2])}
    treated[0]['fit'] = {'lr': 0.1}
    assert sensitivity(plain, treated)['unique'] == {0.5: pytest.approx([-0.2])}


def test_figures(summary, tmp_path):
    pytest.importorskip('matplotlib')
    paths = save_figures(summary, tmp_path)
    assert [path.name for path in paths] == ['gains.svg', 'sensitivity.svg']
    before = [path.read_bytes() for path in paths]
    assert all(content.startswith(b'<?xml') for content in before)
    assert [path.read_bytes() for path in save_figures(summary, tmp_path)] == before
    del summary['datasets']['toy']['models']['vbpr']['variants']['plain']
    summary['datasets']['toy']['models']['vbpr']['gains'] = {}
    summary['mean_gains']['toy'] = {}
    assert save_figures(summary, tmp_path / 'nowhere') == []


def test_figures_that_cannot_be_written_leave_the_old(summary, tmp_path, monkeypatch):
    figure = pytest.importorskip('matplotlib.figure')
    before = {path.name: path.read_bytes() for path in save_figures(summary, tmp_path)}

    def fail(self, path, **kwargs):
        with open(path, 'wb') as file:
            file.write(b'torn')
        raise OSError('No space left on device')

    monkeypatch.setattr(figure.Figure, 'savefig', fail)
    with pytest.raises(OSError, match='No space left'):
        save_figures(summary, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_figures_without_matplotlib(summary, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'matplotlib', None)
    with pytest.raises(ValueError, match=r"pip install 'mrdib_pyg\[report\]'"):
        save_figures(summary, tmp_path)


def test_save_report(experiment, tmp_path, runner):
    finish(experiment, tmp_path, runner)
    before = set(tmp_path.iterdir())
    summary = save_report(experiment, tmp_path, num_samples=50)
    written = {path.name for path in set(tmp_path.iterdir()) - before}
    assert written == {'summary.json', 'table.md', 'table.csv'}
    # The tables are made of what the JSON holds, and of nothing else.
    assert json.loads((tmp_path / 'summary.json').read_text()) == summary
    assert (tmp_path / 'table.md').read_text() == markdown(summary)
    assert (tmp_path / 'table.csv').read_text() == csv_text(summary)


def test_plan(description, tmp_path, runner):
    description['epoch_seconds'] = {'vbpr': 90.0}
    experiment = Experiment(description, 'small')
    lines = plan(experiment, Records(tmp_path / 'none')).splitlines()
    assert not (tmp_path / 'none').exists()
    assert lines[0].startswith('small: 6 -> 2 -> 1 settings by recall@20 on the validation edges')
    # Eleven runs of at most two epochs of 90 s.
    assert lines[2].split() == ['toy', 'vbpr', 'plain', '11', '0', 'at', 'most', '33.0', 'min']
    assert lines[-1] == '44 runs, 0 finished; the rest takes at most 2.2 h of one core'

    def stopping(job, path, device):
        if job['mrdib'] is not None:
            raise KeyboardInterrupt
        return runner(job, path, device)

    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment, tmp_path, progress=False, runner=stopping)
    lines = plan(experiment, Records(tmp_path)).splitlines()
    assert lines[2].split() == ['toy', 'vbpr', 'plain', '11', '11', '-']
    assert lines[3].split() == ['toy', 'vbpr', 'l2', '11', '0', 'about', '0.2', 'min']
    assert lines[-1] == '44 runs, 11 finished; the rest takes about 0.6 min of one core'

    del description['epoch_seconds']
    experiment = Experiment(description, 'small')
    assert 'the time of 44 runs is not known yet' in plan(experiment, Records(tmp_path / 'none'))
    assert stage(experiment, experiment.cells[0], Records(tmp_path)).is_finished
