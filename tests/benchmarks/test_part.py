import argparse
import json
from pathlib import Path

import pytest

from benchmarks import schema
from benchmarks.part import Part, add_arguments, dump, find_data


def test_rows_are_written_after_every_case(make_part):
    part = make_part()
    timings = part.time({'n': 1}, {'a': lambda: 0, 'b': lambda: 1}, {'a': 'ours'})
    value = schema.load(part.path)
    assert [(r['method'], r['role']) for r in value['rows']] == [('a', 'ours'), ('b', 'rival')]
    assert value['rows'][0]['time']['runs'] == timings['a'].runs == 1
    assert not value['complete'] and value['short']
    part.write(complete=True)
    assert schema.load(part.path)['complete']
    assert part.path.name == 'toy-cpu.json'


def test_errors_are_noted(make_part):
    part = make_part()

    def broken():
        raise RuntimeError('no memory')

    part.time({'n': 1}, {'a': lambda: 0, 'b': broken}, {})
    part.attempt({'n': 2}, broken)
    part.attempt({'n': 3}, lambda: part.add({'n': 3}, 'c', 'ours', values={'x': 1.0}))
    assert [(m['method'], m['why']) for m in part.missing] == [
        ('b', 'RuntimeError: no memory'),
        ('all', 'RuntimeError: no memory'),
    ]
    assert [row['method'] for row in part.rows] == ['a', 'c']


def test_no_case_begins_after_the_time(make_part):
    part = make_part(seconds=0.0)
    ran = []
    part.attempt({'n': 1}, lambda: ran.append(1))
    assert part.time({'n': 2}, {'a': lambda: ran.append(2)}, {}) == {}
    assert ran == []
    assert [m['why'] for m in part.missing] == ['left out: the time of this part was over'] * 2


def test_rooflines_are_added_to_the_rows_of_a_case(make_part):
    part = make_part()
    for n in (1, 2):
        part.time({'n': n}, {'a': lambda: sum(range(1000))}, {})
    part.add_rooflines({'n': 2}, (400, 100), bandwidth=1e9)
    assert 'roofline' not in part.rows[0]
    entry, seconds = part.rows[1]['roofline'], part.rows[1]['time']['median']
    assert entry['compulsory_share'] == pytest.approx(100 / seconds / 1e9, rel=1e-4)
    assert entry['requested_share'] == pytest.approx(4 * entry['compulsory_share'], rel=1e-4)


def test_the_form_of_a_run(tmp_path):
    assert Part('a', out=tmp_path).pick(1, 2, 3) == 1
    assert Part('a', out=tmp_path, short=True).pick(1, 2, 3) == 2
    assert Part('a', out=tmp_path, smallest=True).pick(1, 2, 3) == 3
    assert not Part('a', out=tmp_path).quick and Part('a', out=tmp_path, short=True).quick


def test_files_are_strict_json_with_a_line_a_row():
    value = {'a': 1, 'rows': [{'x': 1}, {'x': 2}], 'missing': []}
    text = dump(value)
    assert json.loads(text) == value
    assert text.count('\n') == 8
    with pytest.raises(ValueError):
        dump({'a': float('nan')})


def test_data_sets_are_found_where_they_are(tmp_path):
    (tmp_path / 'amazon-baby').mkdir()
    assert find_data('amazon-baby', tmp_path) == tmp_path / 'amazon-baby'
    assert find_data('tiktok', tmp_path) is None
    assert find_data('tiktok', None) is None


def test_options(monkeypatch):
    monkeypatch.setenv('MRDIB_DATA', 'somewhere')
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(['--short', '--sizes', '10', '20'])
    assert args.short and args.sizes == [10, 20] and args.data == Path('somewhere')
    assert args.device == 'cpu' and args.out is None


def test_a_resumed_part_keeps_its_rows_and_measures_what_it_lacks(tmp_path):
    part = Part('a', out=tmp_path, short=True, seconds=0.0)
    part.add({'n': 1}, 'old', 'ours', values={'x': 1.0})
    assert part.time({'n': 2}, {'new': int}, {}) == {} and part.is_late
    part.write(complete=not part.is_late)
    assert not schema.load(part.path)['complete']
    again = Part('a', out=tmp_path, short=True, resume=True)
    assert again.has({'n': 1}) and again.has({'n': 1}, 'old') and not again.has({'n': 1}, 'new')
    assert again.time({'n': 1}, {'new': int}, {}) == {}
    assert list(again.time({'n': 2}, {'new': int}, {})) == ['new']
    assert [row['method'] for row in again.rows] == ['old', 'new'] and not again.missing
    assert Part('a', out=tmp_path, short=True).rows == []


@pytest.mark.parametrize('changed', ['short', 'versions', 'machine'])
def test_rows_of_another_origin_are_not_resumed(tmp_path, changed):
    part = Part('a', out=tmp_path, short=True)
    part.add({'n': 1}, 'old', 'ours', values={'x': 1.0})
    part.write()
    value = json.loads(part.path.read_text())
    if changed == 'machine':
        value['machine']['processor'] = 'another'
    elif changed == 'versions':
        value['versions']['torch'] = '1.0.0'
    part.path.write_text(json.dumps(value))
    with pytest.raises(SystemExit, match=f"other values of \\['{changed}'\\]"):
        Part('a', out=tmp_path, short=changed != 'short', resume=True)
