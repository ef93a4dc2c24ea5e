import pytest
import torch

from benchmarks import run, schema
from benchmarks.part import Part


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
    parts.clear()
    run.main(['--out', str(tmp_path), '--resume'])
    assert parts == ['two']
    parts.clear()
    run.main(['--out', str(tmp_path), '--resume'])
    assert parts == ['two']  # which is not complete


def test_refusals(parts, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(['--only', 'four'])
    assert "there is no part 'four'; parts are one, two, three" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            run.main(['--device', 'cuda'])
        assert 'no CUDA device' in capsys.readouterr().err


def test_a_process_that_cannot_start_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(run, 'PARTS', {'one': run.Entry('no.such.module', 10, 10, 10)})
    assert run.main(['--short', '--out', str(tmp_path)]) == 1
    value = schema.load(tmp_path / 'one-cpu.json')
    assert value['missing'][0]['why'] == 'ended with the exit code 1'


@pytest.mark.parametrize('form', ['short', 'cuda', 'full'])
def test_times_of_the_parts_fit_into_the_time_of_the_suite(form):
    total = sum(getattr(entry, form) for entry in run.PARTS.values())
    assert (
        total <= run.LIMITS[form]
        and run.LIMITS[form] <= {'short': 300, 'cuda': 600, 'full': 3600}[form]
    )


def test_parts_alone_have_the_time_of_the_suite():
    assert run.share_of_time(list(run.PARTS), 'full') == pytest.approx(1.0, abs=0.01)
    seconds = run.PARTS['knn'].full
    assert run.share_of_time(['knn'], 'full') == run.LIMITS['full'] / seconds

    class Args:
        device, short, full, limit = 'cpu', True, False, None

    assert run.budget('knn', Args, 200.0, share=2.0)[0] == 2 * run.PARTS['knn'].short
    assert run.budget('knn', Args, 20.0, share=2.0)[0] == 10.0


def test_no_part_may_take_longer_than_what_is_left():
    class Args:
        device, short, full, limit = 'cuda', False, False, None

    for left in (5.0, 40.0, 500.0):
        soft, hard = run.budget('training', Args, left)
        assert soft <= hard <= left
    Args.device, Args.full = 'cpu', True
    assert run.budget('training', Args, float('inf')) == (float('inf'), float('inf'))
    Args.limit = 50.0
    assert run.budget('training', Args, 40.0) == (30.0, 40.0)


def test_a_limit_is_shared_by_the_parts_after_their_starts():
    names = ['knn', 'topk']
    needed = sum(run.PARTS[name].short for name in names)
    share = run.share_of_time(names, 'short', 2 * run.START + needed / 2)
    assert share == pytest.approx(0.5)
    assert run.share_of_time(names, 'short', run.START) == 0.0


def test_what_was_measured_stays_where_there_is_no_time(tmp_path):
    path = tmp_path / 'knn-cpu.json'
    path.write_text('{"measured": "before"}')
    assert run.main(['--only', 'knn', '--limit', '5', '--out', str(tmp_path)]) == 1
    assert path.read_text() == '{"measured": "before"}'


@pytest.mark.parametrize('limit', ['0', '-3'])
def test_limits_that_are_refused(limit, capsys):
    with pytest.raises(SystemExit):
        run.main(['--limit', limit])
    assert '--limit: must be positive' in capsys.readouterr().err


def test_parts_without_anything_on_a_device_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(SystemExit):
        run.main(['--device', 'cuda', '--only', 'ingest'])
    assert "of 'ingest' there is nothing to measure on cuda" in capsys.readouterr().err
