import copy
import json
from pathlib import Path

import pytest

from benchmarks import schema
from benchmarks.part import RESULTS
from benchmarks.timer import Timing

FILES = sorted(RESULTS.glob('*.json'))
SUMMARIES = sorted(RESULTS.glob('experiments/*/summary.json'))


@pytest.mark.parametrize('path', SUMMARIES, ids=lambda path: path.parent.name)
def test_committed_summaries_have_the_form(path):
    value = schema.load(path)
    assert schema.validate(value) == 'experiment'
    model = next(iter(next(iter(value['datasets'].values()))['models'].values()))
    next(iter(model['variants'].values()))['test']['recall@20'][0] = -0.1
    with pytest.raises(ValueError, match=r"\['recall@20'\]\[0\]: -0.1 is negative"):
        schema.validate(value)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_committed_results_have_the_form(path):
    value = schema.load(path)
    kind = schema.validate(value)
    if kind == 'speed':
        assert path.stem == f'{value["benchmark"]}-{value["device"]}'
        assert not value['short'], 'committed results are those of the full form'


def test_results_are_committed():
    assert 'planted' in {path.stem for path in FILES} and len(SUMMARIES) > 0


@pytest.fixture
def result(make_part):
    part = make_part()
    case = {'size': 3, 'dtype': 'float32'}
    part.add(case, 'ours', 'ours', time=Timing('cpu', 2.0, 1.5, 3.0, 1.0, 2.5, 5))
    part.add(case, 'base', 'baseline', memory={'peak_bytes': 2, 'before_bytes': 1, 'how': 'rss'})
    part.add(case, 'other', 'rival', values={'error': 0.0})
    part.miss(case, 'fourth', 'not installed')
    part.write(complete=True)
    value = schema.load(part.path)
    assert schema.validate(value) == 'speed'
    return value


def _change(value, change):
    value = copy.deepcopy(value)
    change(value)
    return value


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda v: v.update(extra=1), "unknown keys \\['extra'\\]"),
        (lambda v: v.pop('device'), "missing keys \\['device'\\]"),
        (lambda v: v.update(device='tpu'), 'none of'),
        (lambda v: v.update(short=1), 'no bool'),
        (lambda v: v['rows'][0].update(speed=1), "unknown keys \\['speed'\\]"),
        (lambda v: v['rows'][0].update(role='winner'), 'none of'),
        (lambda v: v['rows'][0]['time'].update(median=-1.0), 'negative'),
        (lambda v: v['rows'][0]['time'].update(median=float('nan')), 'no finite number'),
        (lambda v: v['rows'][0]['time'].update(q1=2.5), 'out of order'),
        (lambda v: v['rows'][0]['time'].update(clock='cuda'), 'not that of the device'),
        (lambda v: v['rows'][0].pop('time'), 'measures nothing'),
        (lambda v: v['rows'][0].update(case={}), 'fewer than 1'),
        (lambda v: v['rows'][0]['case'].update(sizes=[1]), 'no finite number'),
        (lambda v: v['rows'][1]['memory'].update(peak_bytes=0), 'not positive'),
        (lambda v: v['rows'][2]['values'].update(error='0'), 'no finite number'),
        (lambda v: v['rows'].append(v['rows'][0]), 'there twice'),
        (lambda v: v['rows'][2].update(role='baseline'), 'there twice'),
        (lambda v: v['missing'][0].pop('why'), 'missing keys'),
        (lambda v: v['machine'].pop('processor'), 'missing keys'),
        (lambda v: v.update(rows={}), 'no list'),
        (lambda v: v.update(settings=[]), 'no dictionary'),
    ],
)
def test_other_forms_are_refused(result, change, message):
    with pytest.raises(ValueError, match=message):
        schema.validate(_change(result, change))


@pytest.mark.parametrize('name', ['planted', 'experiments/tiktok/summary'])
def test_results_of_quality_are_checked_too(name):
    value = schema.load(RESULTS / f'{name}.json')
    with pytest.raises(ValueError, match="unknown keys \\['more'\\]"):
        schema.validate({**value, 'more': 1})
    value.pop('versions')
    with pytest.raises(ValueError, match="missing keys \\['versions'\\]"):
        schema.validate(value)


def test_only_dictionaries_are_results():
    with pytest.raises(ValueError, match='is a dictionary'):
        schema.validate([])


@pytest.mark.parametrize('text', ['{"a": NaN}', '[Infinity]', '[-Infinity]'])
def test_what_is_no_strict_json_is_refused(tmp_path, text):
    path = Path(tmp_path) / 'x.json'
    path.write_text(text)
    json.loads(text)  # which Python would read
    with pytest.raises(ValueError, match='no JSON'):
        schema.load(path)
