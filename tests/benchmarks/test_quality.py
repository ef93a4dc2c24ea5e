import json
from pathlib import Path

import pytest

from benchmarks import schema
from benchmarks.quality import compare, planted, table

RESULTS = Path(__file__).resolve().parents[2] / 'benchmarks' / 'results'


def _comparison(folder, value):
    """A comparison of two seeds in which every variant has the same known values."""
    metrics = {f'{name}@{k}': value for name in ('recall', 'ndcg') for k in (5, 20)}
    for i, name in enumerate(table.VARIANTS):
        for trial, seed in ((0, 0), (None, 1), (None, 2)):
            scaled = {key: v * (1 + i) + 0.001 * seed for key, v in metrics.items()}
            result = {
                'dataset': 'toy', 'data_hash': 'x', 'model': 'm', 'versions': {}, 'machine': {},
                'best_epoch': 1, 'epoch_seconds': 1.0, 'terms': {}, 'val': scaled, 'test': scaled,
            }  # fmt: skip
            job = {'variant': name, 'trial': trial, 'seed': seed, 'settings': {}, 'lr': 0.1}
            path = folder / f'{name}-{trial}-{seed}.json'
            path.write_text(json.dumps({'job': job, 'result': result}))


def test_table_of_a_comparison(tmp_path):
    _comparison(tmp_path, 0.1)
    text = table.table(table.collect(tmp_path))
    rows = dict(line.strip('| ').split(' | ', 1) for line in text.splitlines()[2:])
    assert rows['plain'].startswith('0.1015 ± 0.0007')
    assert rows['MRdIB'].startswith('0.4015 ± 0.0007')
    # .4015 against .3015 of the best other, which is the noise here.
    best = next(value for key, value in rows.items() if 'best of the others' in key)
    assert best.startswith('+33.2 % (noise on the codes)')
    assert next(v for k, v in rows.items() if 'seed by seed' in k).startswith('+1000 +1000')


def test_runs_of_other_data_are_refused(tmp_path):
    _comparison(tmp_path, 0.1)
    path = tmp_path / 'plain-0-0.json'
    record = json.loads(path.read_text())
    record['result']['data_hash'] = 'y'
    path.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match='different data'):
        table.collect(tmp_path)


def test_every_variant_gets_the_same_number_of_trials():
    counts = {len(compare.MODEL_TRIALS), *(len(trials) for trials in compare.TRIALS.values())}
    assert len(counts) == 1


def test_readme_shows_the_committed_results():
    readme = (RESULTS.parents[1] / 'README.md').read_text()
    shown = 0
    for path in sorted(RESULTS.glob('*.json')):
        summary = schema.load(path)
        kind = schema.validate(summary)
        if kind in ('planted', 'comparison'):  # the others are in pages of their own
            assert {'planted': planted, 'comparison': table}[kind].table(summary) in readme
            shown += 1
    assert shown >= 2


@pytest.mark.slow
def test_mrdib_gains_on_planted_content():
    """At noise 3: two-layer encoders, a perceptron as fusion, no graph."""
    spec = planted.MODELS['content']
    variants = {name: spec['variants'][name] for name in ('plain', 'MRdIB')}
    summary = planted.measure([1, 2, 3, 4, 5], models={'content': {**spec, 'variants': variants}})
    mean = {
        name: sum(run['test']['ndcg@10'] for run in variant['runs']) / 5
        for name, variant in summary['models']['content']['variants'].items()
    }
    assert mean['MRdIB'] >= 1.4 * mean['plain']
