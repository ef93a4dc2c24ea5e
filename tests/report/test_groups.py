import json

import pytest

from mrdib_pyg.report.runs import group_runs, load_run_folder, mean_and_spread


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
    assert [group.label for group in groups] == ['plain · lr=default', 'plain · lr=0.1']
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
