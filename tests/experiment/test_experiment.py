import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from mrdib_pyg.experiment import Experiment, run_experiment
from mrdib_pyg.experiment.records import Records, job_id
from mrdib_pyg.experiment.runner import Task, Workers, by_popularity, execute, run_job
from mrdib_pyg.experiment.selection import stage

ROOT = Path(__file__).resolve().parents[2]


def go(experiment, out, runner, **kwargs):
    return run_experiment(experiment, out, progress=False, runner=runner, **kwargs)


def groups(jobs):
    """The jobs of each variant, in order."""
    out = {}
    for job in jobs:
        control = job['mrdib'] and job['mrdib'].get('control', 'mrdib')
        out.setdefault(control or 'plain', []).append(job)
    return out


def test_halving_chooses_by_validation_and_reads_the_test_edges_once(experiment, tmp_path, runner):
    assert go(experiment, tmp_path, runner) == []
    of_variant = groups(runner.jobs)
    assert list(of_variant) == ['plain', 'l2', 'noise', 'mrdib']
    for jobs in of_variant.values():
        assert [job['seed'] for job in jobs] == [101] * 6 + [102] * 2 + [1, 2, 3]
        assert [job['test'] for job in jobs] == [False] * 8 + [True] * 3
        # The runner's test metrics are best where its validation metrics are worst.
        best = {'reg_weight': 1e-3, 'channels': 4}
        for job in jobs[8:]:
            assert job['settings'] == best and job['fit']['lr'] == 1e-2
        assert {json.dumps(job['settings']) for job in jobs[6:8]} <= {
            json.dumps(job['settings']) for job in jobs[:6]
        }
    for cell in experiment.cells:
        at = stage(experiment, cell, Records(tmp_path))
        assert at.is_finished and at.num_runs == 11 and at.jobs == []
        assert sorted(map(len, at.scores)) == [1, 1, 1, 1, 2, 2]


class Scores:
    """A runner whose validation metric is given, by trial and seed."""

    def __init__(self, experiment, values, runner):
        cell = experiment.cells[0]
        self.values = {
            job_id(experiment.job(cell, trial, seed, False)): value
            for (trial, seed), value in values.items()
        }
        self.runner = runner

    def __call__(self, job, path, device):
        value = self.values.get(job_id(job))
        if value is math.nan:
            raise FloatingPointError("the loss term 'task' became inf")
        out = self.runner(job, path, device)
        if value is not None:
            out['val'] = {**out['val'], 'recall@20': value}
        return out


@pytest.mark.parametrize(
    ('first', 'second', 'chosen'),
    [
        ([1, 5, 2, 4, 3, 0], {1: 0.0, 3: 2.0}, 3),  # 2.5 against 3
        ([1, 5, 2, 4, 3, 0], {1: 0.5, 3: 1.5}, 1),  # a tie: the earlier one
        ([9, 5, 2, 4, 9, 9], {0: 1.0, 4: 2.0}, 4),  # a tie in the first rung: 5 is left out
        ([math.nan, math.nan, math.nan, math.nan, math.nan, 1], {5: 1.0, 0: math.nan}, 5),
        ([math.nan, 3, 2, 1, 1, 1], {1: math.nan, 2: 0.1}, 2),
    ],
)
def test_choice_is_by_the_mean_over_the_selection_seeds(
    description, tmp_path, runner, first, second, chosen
):
    description['variants'] = {'plain': {}}
    experiment = Experiment(description)
    values = {(t, 101): x for t, x in enumerate(first)} | {(t, 102): x for t, x in second.items()}
    assert go(experiment, tmp_path, Scores(experiment, values, runner)) == []
    assert stage(experiment, experiment.cells[0], Records(tmp_path)).chosen == chosen


def test_all_settings_diverge(description, tmp_path, runner):
    description['variants'] = {'plain': {}}
    experiment = Experiment(description)
    values = {(t, seed): math.nan for t in range(6) for seed in (101, 102)}
    (failure,) = go(experiment, tmp_path, Scores(experiment, values, runner))
    assert failure[0] == 'toy vbpr plain' and failure[1].endswith('lower the values of lr')
    assert 'settings that were left diverged with one of the selection seeds' in failure[1]
    assert not any(job['test'] for job in runner.jobs)


def test_a_single_setting_is_not_searched(description, tmp_path, runner):
    description['fit']['lr'], description['models']['vbpr']['reg_weight'] = 1e-3, 1e-2
    description['variants'] = {'plain': {}}
    description['trials'], description['selection_seeds'] = [1], [101]
    go(Experiment(description), tmp_path, runner)
    assert [(job['seed'], job['test']) for job in runner.jobs] == [(s, True) for s in (1, 2, 3)]


def test_resume(experiment, tmp_path, runner):
    def interrupted(job, path, device):
        if len(runner.jobs) == 9:
            raise KeyboardInterrupt
        return runner(job, path, device)

    with pytest.raises(KeyboardInterrupt):
        go(experiment, tmp_path, interrupted)
    (tmp_path / 'runs' / '.toy-vbpr-1.json.0123abcd.tmp').write_text('torn')
    done = [job_id(job) for job in runner.jobs]
    assert go(experiment, tmp_path, runner) == []
    names = [job_id(job) for job in runner.jobs]
    assert len(names) == len(set(names)) == 44 and names[:9] == done
    assert {p.name.split('.')[0] for p in (tmp_path / 'runs').iterdir()} == set(names)
    go(experiment, tmp_path, runner)
    assert len(runner.jobs) == 44  # nothing is left to do


def test_more_seeds_are_added_to_what_is_there(description, tmp_path, runner):
    go(Experiment(description), tmp_path, runner)
    description['seeds'] = [1, 2, 3, 4]
    go(Experiment(description), tmp_path, runner)
    assert [job['seed'] for job in runner.jobs[44:]] == [4] * 4


def test_failures_are_told_and_tried_again(experiment, tmp_path, runner):
    def failing(job, path, device):
        if job['mrdib'] is None and job['seed'] == 102:
            raise MemoryError('none\nleft')
        if job['mrdib'] == {'control': 'l2'} and job['test'] and job['seed'] == 2:
            raise FloatingPointError('inf')  # in the choice an outcome, here a failure
        return runner(job, path, device)

    failures = go(experiment, tmp_path, failing)
    assert [f.reason for f in failures] == ['MemoryError: none left'] * 2 + [
        'FloatingPointError: inf'
    ]
    assert failures[0].name.startswith('toy vbpr plain seed 102 (toy-vbpr-')
    assert failures[2].name.startswith('toy vbpr l2 seed 2 (')
    assert len(list((tmp_path / 'runs').glob('*.failed.json'))) == 3
    # What does not depend on them was done: all but two of the choice, and four test runs.
    assert len(runner.jobs) == 44 - 2 - 3 - 1
    assert go(experiment, tmp_path, runner) == []
    assert len(runner.jobs) == 44 and not list((tmp_path / 'runs').glob('*.failed.json'))


def test_without_validation_edges(experiment, tmp_path, runner):
    def blind(job, path, device):
        return {k: v for k, v in runner(job, path, device).items() if k != 'val'}

    failures = go(experiment, tmp_path, blind)
    assert len(failures) == 24 and 'no validation edges' in failures[0].reason


def test_other_data_are_refused(experiment, tmp_path, runner):
    go(experiment, tmp_path, runner)  # of data with the hash 'abc'
    with pytest.raises(ValueError, match="of other data named 'toy' .hash abc, now"):
        run_experiment(experiment, tmp_path, progress=False)
    assert len(runner.jobs) == 44


@pytest.mark.parametrize(
    ('source', 'k', 'message'),
    [
        ({'path': 'nowhere/toy'}, [20], "'toy' is not in '.*nowhere/toy'; name the folder"),
        ({'path': 'planted', 'colour': 1}, [20], "'planted': .*colour"),
        ({'path': 'planted', 'num_items': 30}, [20, 50], "'planted' has 30 items to rank"),
    ],
)
def test_data_that_are_refused(description, tmp_path, source, k, message):
    description['datasets'], description['k'] = [source], k
    with pytest.raises(ValueError, match=message):
        run_experiment(Experiment(description), tmp_path / 'out', progress=False)
    assert not (tmp_path / 'out').exists()


def test_two_processes_at_once(experiment, tmp_path, runner):
    pytest.importorskip('fcntl')
    errors = []

    def other():
        try:
            go(experiment, tmp_path, runner)
        except ValueError as e:
            errors.append(str(e))

    def second(job, path, device):
        if not errors:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        return runner(job, path, device)

    assert go(experiment, tmp_path, second) == []
    assert len(errors) == 1 and f"'{tmp_path}'" in errors[0] and len(runner.jobs) == 44


def test_compile_is_how_a_run_is_done(experiment, tmp_path, runner):
    """As the device, it is told to the run and is no part of what names it."""
    assert go(experiment, tmp_path, runner, compile=True) == []
    assert all(job['fit']['compile'] for job in runner.jobs)
    count = len(runner.jobs)
    assert go(experiment, tmp_path, runner) == [] and len(runner.jobs) == count


def change(*keys, to):
    def edit(text):
        record = json.loads(text)
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        return json.dumps(record)

    return edit


@pytest.mark.parametrize(
    ('edit', 'what'),
    [
        (lambda text: text[:50], 'Unterminated'),
        (lambda text: '[' * 100_000, 'recursion'),
        (lambda text: '[]', 'list indices'),
        (lambda text: '{}', "no 'job'"),
        (change('job', 'seed', to=7), "'job' is another"),
        (change('result', to=None), 'NoneType'),
        (change('result', to={}), "no 'val'"),
        (change('result', 'val', to={}), "'val' must be numbers"),
        (change('result', 'val', 'recall@20', to='high'), "'val' must be numbers"),
        (change('result', 'val', to={'recall@5': 0.1}), r"'val' lacks .*10, 20"),
        (change('result', 'best_epoch', to=None), "'best_epoch' must be a number"),
        (change('result', 'seconds', to='long'), "'seconds' must be a number"),
        (change('result', 'versions', to=3), "'versions' is damaged"),
    ],
)
def test_torn_and_edited_records(experiment, tmp_path, runner, edit, what):
    go(experiment, tmp_path, runner)
    path = tmp_path / 'runs' / f'{job_id(runner.jobs[0])}.json'
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError, match=f'{path.name}.* is torn.*({what}).*remove it'):
        go(experiment, tmp_path, runner)


@pytest.mark.parametrize('kind', ['folder', 'link', 'fifo'])
def test_records_that_are_no_files(experiment, tmp_path, runner, kind):
    if os.name != 'posix':
        pytest.skip('needs FIFOs and links')
    go(experiment, tmp_path, runner)
    for name in (f'runs/{job_id(runner.jobs[0])}.json', 'popularity.json'):
        (tmp_path / name).unlink(missing_ok=True)
        make = {'folder': os.mkdir, 'link': lambda p: os.symlink('nothing', p), 'fifo': os.mkfifo}
        make[kind](tmp_path / name)
    with pytest.raises(ValueError, match='json. must be a file'):
        go(experiment, tmp_path, runner)
    with pytest.raises(ValueError, match='popularity.json. must be a file'):
        Records(tmp_path).popularity('toy', 'abc', [5])


def test_run_job(description, tmp_path):
    """The real thing, in this process: what is written is what `run` returned."""
    experiment = Experiment(description)
    cell = experiment.cells[3]
    job = experiment.job(cell, 0, 1, test=True)
    assert execute(Task(job, 'planted', str(tmp_path), 'cpu')) is None
    records = Records(tmp_path)
    result = records.load(job)['result']
    assert result == json.loads(json.dumps(strip(run_job(job, 'planted', 'cpu'), result)))
    assert result['seed'] == 1 and result['fit'].items() >= cell.settings[0]['fit'].items()
    assert result['settings']['mrdib'] == {'redundancy': 'gaussian'}
    user, values = records.per_user(job)
    assert user.tolist() == list(range(40)) and set(values) == set(result['test'])
    for name, value in result['test'].items():
        assert values[name].mean() == pytest.approx(value, abs=1e-7)
    (tmp_path / 'runs' / f'{job_id(job)}.npz').unlink()
    with pytest.raises(FileNotFoundError, match='per user .* are missing'):
        records.per_user(job)

    job = experiment.job(cell, 0, 1, test=False)
    assert execute(Task(job, 'planted', str(tmp_path), 'cpu')) is None
    assert 'test' not in Records(tmp_path).load(job)['result']
    assert not (tmp_path / 'runs' / f'{job_id(job)}.npz').exists()


def strip(result, like):
    """A result without its values per user, with the times of another one."""
    times = {name: like[name] for name in ('epoch_seconds', 'seconds')}
    return {**{k: v for k, v in result.items() if k != 'per_user'}, **times}


def test_workers(description, tmp_path):
    """Two processes do what one does; one that is killed fails its run alone."""
    description['fit']['epochs'] = 200
    description['fit']['patience'] = 200
    experiment = Experiment(description)
    jobs = [experiment.job(experiment.cells[0], t, 1, test=False) for t in range(2)]
    tasks = {job_id(job): Task(job, 'planted', str(tmp_path), 'cpu') for job in jobs}
    with Workers(2) as pool:
        for name, task in tasks.items():
            pool.start(name, task)
        assert not pool.has_room and len(pool.busy) == 2
        first, second = tasks
        processes = {name: [*executor._processes.values()][0] for name, executor in
                     pool.busy.values()}  # fmt: skip
        os.kill(processes[first].pid, signal.SIGKILL)
        ended = dict(pool.wait())
        while pool.busy:
            ended |= pool.wait()
        assert ended[second] is None
        assert 'was ended; was there enough memory' in ended[first]
        assert processes[second].is_alive()
    assert not processes[second].is_alive()
    records = Records(tmp_path)
    assert records.load(jobs[0]) is None
    result = records.load(jobs[1])['result']
    assert result['machine']['threads'] == 1
    log = records.path(second, '.log').read_text()
    assert json.loads(log.splitlines()[0]) == jobs[1] and 'train:' in log


def test_a_worker_that_died_while_idle_is_replaced(description, tmp_path):
    experiment = Experiment(description)
    jobs = [experiment.job(experiment.cells[0], t, 1, test=False) for t in range(2)]
    with Workers(1) as pool:
        for i, job in enumerate(jobs):
            pool.start('a', Task(job, 'planted', str(tmp_path), 'cpu'))
            (executor,) = [executor for _, executor in pool.busy.values()]
            assert pool.wait() == [('a', None)]
            if i == 0:
                (process,) = executor._processes.values()
                process.kill()
                process.join()
                while not executor._broken:
                    time.sleep(0.01)
    assert all(Records(tmp_path).load(job) for job in jobs)


def test_a_link_in_the_place_of_a_log_is_replaced(description, tmp_path):
    experiment = Experiment(description)
    job = experiment.job(experiment.cells[0], 0, 1, test=False)
    path, victim = Records(tmp_path).path(job_id(job), '.log'), tmp_path / 'victim'
    victim.write_text('precious')
    path.parent.mkdir()
    path.symlink_to(victim)
    with Workers(1) as pool:
        pool.start('a', Task(job, 'planted', str(tmp_path), 'cpu'))
        assert pool.wait() == [('a', None)]
    assert victim.read_text() == 'precious' and path.is_file() and not path.is_symlink()


def test_by_popularity(data):
    """Against scores that are written out."""
    count = [0] * 50
    for item in data['user', 'rates', 'item'].edge_index[1].tolist():
        count[item] += 1
    order = sorted(range(50), key=lambda item: (-count[item], item))
    train = set(map(tuple, data['user', 'rates', 'item'].edge_index.t().tolist()))
    train |= set(map(tuple, data['user', 'val', 'item'].edge_label_index.t().tolist()))
    test = data['user', 'test', 'item'].edge_label_index.t().tolist()
    recalls = []
    for user in sorted({u for u, _ in test}):
        top = [item for item in order if (user, item) not in train][:10]
        wanted = [item for u, item in test if u == user]
        recalls.append(len(set(top) & set(wanted)) / len(wanted))
    found = by_popularity(data, [10])
    assert found['recall@10'] == pytest.approx(sum(recalls) / len(recalls), abs=1e-6)
    assert set(found) == {f'{name}@10' for name in ('recall', 'ndcg', 'precision', 'map')}


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='finds processes by /proc')
@pytest.mark.parametrize(
    'how', [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_nothing_is_left_behind_when_it_is_stopped(description, tmp_path, how):
    """Stopped while two workers are at it: they end, and what was finished is kept."""
    description['fit'] |= {'epochs': 100_000, 'patience': 100_000}  # they do not end by themselves
    path, out, mark = tmp_path / 'x.json', tmp_path / 'out', uuid.uuid4().hex
    path.write_text(json.dumps(description))
    command = [sys.executable, '-m', 'mrdib_pyg.cli', 'experiment', path, '--out', out, '--quiet',
               '--workers', '2' if (os.cpu_count() or 1) > 1 else '1']  # fmt: skip
    env = {**os.environ, 'MRDIB_TEST_MARK': mark, 'PYTHONPATH': str(ROOT)}
    process = subprocess.Popen(
        list(map(str, command)), env=env, stderr=subprocess.PIPE, start_new_session=True
    )
    logs = out / 'logs'
    while not (logs.is_dir() and any('train:' in p.read_text() for p in logs.iterdir())):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.kill()
    err = process.communicate()[1].decode()
    while marked(mark):  # ends only when all have ended
        time.sleep(0.05)
    if how == signal.SIGINT:
        assert process.returncode == 1
        assert err.strip() == 'mrdib: stopped; call it again to continue'
    assert [p.read_text() for p in (out / 'runs').glob('*.json')] == []


def marked(mark):
    """The processes that were started with a mark in their environment, and have not ended."""
    out = []
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            if mark.encode() in path.read_bytes():
                out.append(path.parent.name)
        except OSError:
            continue
    return out
