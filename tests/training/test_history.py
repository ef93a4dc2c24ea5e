import json

import pytest

from mrdib_pyg.training import CheckpointError
from mrdib_pyg.training.checkpoint import History

ROWS = [{'epoch': n, 'train': {'task': 1 / n}} for n in (1, 2, 3)]


def write(path, rows, tail=''):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows) + tail)
    return History(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_history(tmp_path):
    history = History(tmp_path / 'history.jsonl')
    for n, row in enumerate(ROWS, start=1):
        history.append(row)
        assert read(history.path) == ROWS[:n]  # on disk at once
    assert history.epochs == ROWS and len(history) == 3
    assert str(history) == 'History(num_epochs=3)'


def test_history_in_memory():
    history = History()
    history.append(ROWS[0])
    assert history.epochs == ROWS[:1] and history.path is None


@pytest.mark.parametrize('num_epochs', [0, 1, 2, 3])
@pytest.mark.parametrize(
    'tail', ['', '{"epoch": 4, "tra', '{"epoch": 4}\n{"epo', '\0\0\0', '4', '[]\n', '\ud800'],
    ids=['none', 'torn', 'ahead', 'zeros', 'number', 'list', 'bytes'],
)  # fmt: skip
def test_history_restore(tmp_path, num_epochs, tail):
    history = write(tmp_path / 'history.jsonl', ROWS)
    with open(history.path, 'ab') as f:
        f.write(tail.encode('utf-8', 'surrogatepass'))
    history.restore(num_epochs)
    assert history.epochs == read(history.path) == ROWS[:num_epochs]
    history.append({'epoch': num_epochs + 1})
    assert len(read(history.path)) == num_epochs + 1
    assert [p.name for p in tmp_path.iterdir()] == ['history.jsonl']


def test_history_restore_nothing(tmp_path):
    history = History(tmp_path / 'history.jsonl')
    history.restore(0)
    assert history.epochs == [] and read(history.path) == []


@pytest.mark.parametrize(
    ('rows', 'found'), [([], 0), (ROWS[:1], 1), ([ROWS[0], ROWS[2]], 1), (ROWS[1:], 0)]
)
def test_history_with_a_gap(tmp_path, rows, found):
    history = write(tmp_path / 'history.jsonl', rows)
    before = history.path.read_bytes()
    with pytest.raises(CheckpointError, match=f'holds {found} of the 2 epochs'):
        history.restore(2)
    assert history.path.read_bytes() == before
