"""A part with its file, and the suite of parts."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks import run, schema
from benchmarks.run import Part, add_arguments, dump, find_data


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
    why = 'RuntimeError: no memory'
    assert [(m['method'], m['why']) for m in part.missing] == [('b', why), ('all', why)]
    assert [row['method'] for row in part.rows] == ['a', 'c']


def test_no_case_begins_after_the_time(make_part):
    part = make_part(seconds=0.0)
    ran = []
    part.attempt({'n': 1}, lambda: ran.append(1))
    assert part.time({'n': 2}, {'a': lambda: ran.append(2)}, {}) == {}
    assert ran == [] and part.is_late
    assert [m['case'] for m in part.missing] == [{'n': 1}, {'n': 2}]


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
    forms = ({}, {'short': True}, {'smallest': True})
    assert [Part('a', out=tmp_path, **form).pick(1, 2, 3) for form in forms] == [1, 2, 3]
    assert [Part('a', out=tmp_path, **form).quick for form in forms] == [False, True, True]


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
    assert find_data('tiktok', tmp_path) is find_data('tiktok', None) is None


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
    assert part.time({'n': 2}, {'new': int}, {}) == {}
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
    value['machine']['processor'] = {'machine': 'x'}.get(changed, value['machine']['processor'])
    value['versions']['torch'] = {'versions': '1'}.get(changed, value['versions']['torch'])
    part.path.write_text(json.dumps(value))
    with pytest.raises(SystemExit, match=f"\\['{changed}'\\]"):
        Part('a', out=tmp_path, short=changed != 'short', resume=True)


# -- the suite ------------------------------------------------------------------------------------


@pytest.fixture
def parts(monkeypatch):
    """A suite of three parts, none of which is run."""
    entry = run.Entry('no.such.module', 10, 10, 10)
    monkeypatch.setattr(run, 'PARTS', {'one': entry, 'two': entry, 'three': entry})
    ran = []

    def run_part(name, args, out, left, share):
        ran.append(name)
        part = Part(name, args.device, args.short, args.full, out)
        part.seconds_before = 7.0
        part.add({'n': 1}, 'a', 'ours', values={'x': 1.0})
        part.write(complete=name != 'two')
        return 'died' if name == 'two' else None

    monkeypatch.setattr(run, 'run_part', run_part)
    return ran


def test_a_part_that_fails_keeps_what_it_has_and_costs_no_other_anything(parts, tmp_path):
    assert run.main(['--out', str(tmp_path)]) == 1
    assert parts == ['one', 'two', 'three']
    value = schema.load(tmp_path / 'two-cpu.json')
    assert not value['complete'] and len(value['rows']) == 1 and value['seconds'] >= 7
    assert value['missing'] == [{'case': {'part': 'two'}, 'method': 'all', 'why': 'died'}]
    assert schema.load(tmp_path / 'three-cpu.json')['complete']
    assert (tmp_path / 'tables.md').exists()


def test_only_and_resume(parts, tmp_path):
    assert run.main(['--out', str(tmp_path), '--only', 'three,one']) == 0
    assert parts == ['three', 'one']
    for _ in range(2):  # again and again, as it is not complete
        parts.clear()
        run.main(['--out', str(tmp_path), '--resume'])
        assert parts == ['two']


def test_a_process_that_cannot_start_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(run, 'PARTS', {'one': run.Entry('no.such.module', 10, 10, 10)})
    assert run.main(['--short', '--out', str(tmp_path)]) == 1
    assert '1' in schema.load(tmp_path / 'one-cpu.json')['missing'][0]['why']  # the exit code


@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        (['--only', 'four'], "--only: .*'four'.* propagation"),
        (['--limit', '0'], '--limit: .*0'),
        (['--limit', '-3'], '--limit: .*-3'),
        (['--device', 'cuda'], '--device cuda: '),
    ],
)
def test_options_that_are_refused(argv, words, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit, match='2'):
        run.main(argv)
    err = capsys.readouterr().err
    assert all(word in err for word in words.split('.*'))


def test_parts_without_anything_on_a_device_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(SystemExit, match='2'):
        run.main(['--device', 'cuda', '--only', 'ingest'])
    err = capsys.readouterr().err
    assert '--only' in err and "'ingest'" in err and 'cuda' in err


@pytest.mark.parametrize(('form', 'most'), [('short', 300), ('cuda', 600), ('full', 3600)])
def test_times_of_the_parts_fit_into_the_time_of_the_suite(form, most):
    total = sum(getattr(entry, form) for entry in run.PARTS.values())
    assert total <= run.LIMITS[form] <= most


def args(device='cpu', short=False, full=False, limit=None):
    return argparse.Namespace(device=device, short=short, full=full, limit=limit)


def test_parts_alone_have_the_time_of_the_suite():
    assert run.share_of_time(list(run.PARTS), 'full') == pytest.approx(1.0, abs=0.01)
    seconds = run.PARTS['knn'].full
    assert run.share_of_time(['knn'], 'full') == run.LIMITS['full'] / seconds
    short = args(short=True)
    assert run.budget('knn', short, 200.0, share=2.0)[0] == 2 * run.PARTS['knn'].short
    assert run.budget('knn', short, 20.0, share=2.0)[0] == 10.0


def test_no_part_may_take_longer_than_what_is_left():
    for left in (5.0, 40.0, 500.0):
        soft, hard = run.budget('training', args('cuda'), left)
        assert soft <= hard <= left
    unbounded = float('inf'), float('inf')
    assert run.budget('training', args(full=True), float('inf')) == unbounded
    assert run.budget('training', args(full=True, limit=50.0), 40.0) == (30.0, 40.0)


def test_a_limit_is_shared_by_the_parts_after_their_starts():
    names = ['knn', 'topk']
    needed = sum(run.PARTS[name].short for name in names)
    share = run.share_of_time(names, 'short', 2 * run.START + needed / 2)
    assert share == pytest.approx(0.5)
    assert run.share_of_time(names, 'short', run.START) == 0.0


def test_what_was_measured_stays_where_there_is_no_time(tmp_path):
    part = Part('knn', out=tmp_path)
    part.write()
    before = part.path.read_bytes()
    assert run.main(['--only', 'knn', '--limit', '5', '--out', str(tmp_path)]) == 1
    assert part.path.read_bytes() == before
