import json

import pytest

from mrdib_pyg.report.runs import distinguish, group_runs, load_run_folder, mean_and_spread


def test_run_folder(runs):
    run = load_run_folder(runs.mrdib)
    assert (run.name, run.seed, run.variant, run.monitor) == ('mrdib-0', 0, 'MRdIB', 'recall@20')
    assert [row['epoch'] for row in run.history] == [1, 2, 3]
    assert run.notes == [] and run.pid is not None
    assert run.best_epoch == json.loads((runs.mrdib / 'results.json').read_text())['best_epoch']
    assert set(run.metrics('test')) > {'recall@5', 'ndcg@20'}
    assert load_run_folder(runs.plain).variant == 'plain'


@pytest.mark.parametrize(
    ('mrdib', 'variant'),
    [
        ({'control': 'l2'}, 'L2 on the codes'),
        ({'control': 'noise', 'noise_scale': 0.1}, 'noise on the codes'),
        ({'redundancy': None}, 'MRdIB'),
    ],
)
def test_variant(runs, tmp_path, mrdib, variant):
    folder = runs.copy(tmp_path)
    config = json.loads((folder / 'config.json').read_text())
    config['settings']['mrdib'] = mrdib
    (folder / 'config.json').write_text(json.dumps(config))
    assert load_run_folder(folder).variant == variant


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder '.*nowhere'; make one with"):
        load_run_folder(tmp_path / 'nowhere')


@pytest.mark.parametrize('text', [None, '', '{"model": "vb', '[]', '{}', '{"model": "vbpr"}'])
def test_no_run(tmp_path, text):
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match='no readable config.json, so it is no run folder'):
        load_run_folder(tmp_path)


@pytest.mark.parametrize(
    ('damage', 'kept'),
    [
        (lambda text: text[:-20], 2),  # half a line at the end
        (lambda text: text + '{"epoch": 4', 3),
        (lambda text: '{]\n' + text, 0),
        (lambda text: text.splitlines(True)[0] + text, 1),  # an epoch twice
    ],
)
def test_damaged_history(runs, tmp_path, damage, kept):
    folder = runs.copy(tmp_path)
    path = folder / 'history.jsonl'
    path.write_text(damage(path.read_text()))
    run = load_run_folder(folder)
    assert [row['epoch'] for row in run.history] == list(range(1, kept + 1))
    assert len(run.notes) == 1
    assert f"history.jsonl' is damaged in line {kept + 1}" in run.notes[0]


def test_what_is_missing_is_noted(runs, tmp_path):
    folder = runs.copy(tmp_path)
    results = json.loads((folder / 'results.json').read_text())
    del results['test']
    (folder / 'results.json').write_text(json.dumps(results))
    (folder / 'pid.json').write_text('{')
    run = load_run_folder(folder)
    assert run.metrics('test') == {} and run.metrics('val') != {} and run.pid is None
    assert ['no test results' in note for note in run.notes] == [True, False]
    assert "pid.json' is not a JSON object" in run.notes[1]

    for name in ('results.json', 'history.jsonl', 'pid.json'):
        (folder / name).unlink()
    run = load_run_folder(folder)
    assert (run.results, run.history, run.best_epoch) == (None, [], None)
    assert 'no history.jsonl' in run.notes[0] and 'no results.json' in run.notes[1]


def test_best_epoch_of_an_unfinished_run(runs, tmp_path):
    folder = runs.copy(tmp_path)
    (folder / 'results.json').unlink()
    rows = [
        {'epoch': i, 'train': {'loss': 1.0}, 'val': {'recall@20': x}}
        for i, x in enumerate((0.1, 0.3, 0.3, 0.2), start=1)
    ]
    (folder / 'history.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    assert load_run_folder(folder).best_epoch == 2  # the first of equals


def test_folders_of_one_name_are_told_apart(runs, tmp_path):
    run = load_run_folder(runs.plain)
    paths = ['a/run', 'b/run', 'b/other', 'c/x/run', 'd/x/run', 'run', 'a/run']
    found = distinguish([run._replace(path=tmp_path / p, name=p.split('/')[-1]) for p in paths])
    here = tmp_path.name
    names = [x.name for x in found]
    assert names[1:6] == ['b/run', 'other', 'c/x/run', 'd/x/run', f'{here}/run']
    assert names[0] == names[6]  # the same folder: nothing tells them apart
    assert [x.path for x in found] == [tmp_path / p for p in paths]


def changed(run, **changes):
    return run._replace(config={**run.config, **changes})


def test_groups(runs):
    groups = group_runs([load_run_folder(path) for path in runs.all])
    assert [group.label for group in groups] == ['plain', 'MRdIB']
    assert [[run.name for run in group.runs] for group in groups] == [
        ['plain-0', 'plain-1'],
        ['mrdib-0', 'mrdib-1'],
    ]
    assert [(group.number, group.dataset) for group in groups] == [(0, 'small'), (1, 'small')]
    results = json.loads((runs.plain / 'results.json').read_text())['test']['recall@5']
    assert groups[0].values('test', 'recall@5') == pytest.approx([results, results + 0.01])
    assert groups[0].values('test', 'recall@7') == []


def test_labels_tell_what_differs(runs):
    run = load_run_folder(runs.plain)
    fit = run.config['fit']
    groups = group_runs([run, changed(run, fit={**fit, 'lr': 0.1})])
    assert [group.label for group in groups] == ['plain · lr=0.001', 'plain · lr=0.1']
    groups = group_runs([run, changed(run, model='vbpr')])
    assert [group.label for group in groups] == ['multimodal_lightgcn · plain', 'vbpr · plain']
    groups = group_runs([run, changed(run, dataset='/x/baby', data_hash='1' * 64)])
    assert [group.label for group in groups] == ['small · plain', 'baby · plain']
    # The same name for other data, and other names for the same data.
    groups = group_runs([run, changed(run, data_hash='1' * 64)])
    assert groups[1].dataset == 'small (11111111)' != groups[0].dataset
    assert len(group_runs([run, changed(run, dataset='/moved/here')])) == 1


def test_mean_and_spread():
    assert mean_and_spread([3.0]) == (3.0, None)
    mean, spread = mean_and_spread([1.0, 2.0, 3.0])
    assert mean == 2.0 and spread == pytest.approx(1.0)
