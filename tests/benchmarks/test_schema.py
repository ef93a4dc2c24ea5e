"""The form of every committed result, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks import schema
from benchmarks.schema import RESULTS
from benchmarks.timer import Timing

FILES = sorted([*RESULTS.glob('*.json'), *RESULTS.glob('experiments/*/summary.json')])


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(RESULTS)))
def test_committed_results_have_the_form(path):
    value = schema.load(path)
    kind = schema.validate(value)
    if kind == 'speed':
        assert path.stem == f'{value["benchmark"]}-{value["device"]}'
        assert not value['short']  # committed results are those of the full form
    key = 'versions'
    with pytest.raises(ValidationError) as error:
        schema.validate({**{k: v for k, v in value.items() if k != key}, 'more': 1})
    assert places(error) == {(key,): 'missing', ('more',): 'extra_forbidden'}


def test_every_kind_is_committed():
    assert {schema.validate(schema.load(path)) for path in FILES} == set(schema.FORMS)


def places(error):
    return {e['loc']: e['type'] for e in error.value.errors()}


@pytest.fixture
def result(make_part):
    part = make_part()
    case = {'size': 3, 'dtype': 'float32'}
    part.add(case, 'ours', 'ours', time=Timing('cpu', 2.0, 1.5, 3.0, 1.0, 2.5, 5))
    part.add(case, 'base', 'baseline', memory={'peak_bytes': 2, 'before_bytes': 1, 'how': 'rss'})
    part.add(case, 'other', 'rival', values={'error': 0.0})
    part.miss(case, 'fourth', 'not installed')
    part.write(complete=True)
    return schema.load(part.path)


ROW, NO_NUMBER = ('rows', 0), {'bool_type', 'string_type', 'float_type', 'finite_number'}


@pytest.mark.parametrize(
    ('place', 'value', 'kind'),
    [
        (('device',), 'tpu', 'literal_error'),
        (('short',), 1, 'bool_type'),
        (('rows',), {}, 'list_type'),
        (('settings',), [], 'dict_type'),
        (('settings', 'n'), float('nan'), NO_NUMBER),
        ((*ROW, 'speed'), 1, 'extra_forbidden'),
        ((*ROW, 'role'), 'winner', 'literal_error'),
        ((*ROW, 'time', 'median'), -1.0, 'greater_than_equal'),
        ((*ROW, 'time', 'median'), float('nan'), 'finite_number'),
        ((*ROW, 'time', 'median'), '2', 'float_type'),
        ((*ROW, 'time', 'runs'), True, 'float_type'),
        ((*ROW, 'time'), None, 'dict_type'),
        ((*ROW, 'case'), {}, 'too_short'),
        ((*ROW, 'case', 'sizes'), [1], NO_NUMBER),
        (('rows', 1, 'memory', 'peak_bytes'), 0, 'greater_than'),
        (('rows', 2, 'values', 'error'), '0', 'float_type'),
        (('missing', 0, 'why'), '', 'string_too_short'),
        (('machine', 'processor'), None, 'string_type'),
    ],
)
def test_other_values_are_refused(result, place, value, kind):
    at = result
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(ValidationError) as error:
        schema.validate(result)
    for found, of_kind in places(error).items():
        assert found[: len(place)] == place and of_kind in kind


@pytest.mark.parametrize(
    ('change', 'place'),
    [
        (lambda rows: rows[0]['time'].update(q1=2.5), 'median'),
        (lambda rows: rows[0]['time'].update(clock='cuda'), 'rows.0.time.clock'),
        (lambda rows: rows[0].pop('time'), 'rows.0'),
        (lambda rows: rows.append(rows[0]), "rows.3: 'ours'"),
        (lambda rows: rows[2].update(role='baseline'), "rows.2: 'baseline'"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(result, change, place):
    change(result['rows'])
    with pytest.raises(ValueError, match=place):
        schema.validate(result)


@pytest.mark.parametrize('change', [{'inputs': 1}, {'hangs': 1}])
def test_counts_of_readers_must_add_up(change):
    value = schema.load(RESULTS / 'fuzz.json')
    value['readers'][0].update(change)
    with pytest.raises(ValueError, match=value['readers'][0]['reader']):
        schema.validate(value)
    value = schema.load(RESULTS / 'fuzz.json')
    value['total']['loaded'] -= 1
    with pytest.raises(ValueError, match='total'):
        schema.validate(value)


def test_values_deep_in_an_experiment_are_checked():
    value = schema.load(RESULTS / 'experiments' / 'tiktok' / 'summary.json')
    test = copy.copy(value['datasets']['tiktok']['models']['vbpr']['variants']['mrdib']['test'])
    test['recall@20'] = [-0.1]
    value['datasets']['tiktok']['models']['vbpr']['variants']['mrdib']['test'] = test
    with pytest.raises(ValidationError) as error:
        schema.validate(value)
    (place,) = places(error)
    assert place[-3:] == ('test', 'recall@20', 0)


def test_only_dictionaries_are_results():
    with pytest.raises(ValueError, match='list'):
        schema.validate([])


@pytest.mark.parametrize('text', ['{"a": NaN}', '[Infinity]', '[-Infinity]'])
def test_what_is_no_strict_json_is_refused(tmp_path, text):
    path = Path(tmp_path) / 'x.json'
    path.write_text(text)
    json.loads(text)  # which Python would read
    with pytest.raises(ValueError, match=text.strip('[]{} "a:')):
        schema.load(path)
