"""From Amazon's raw files to answers over HTTP, by the command line alone."""

import csv
import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from mrdib_pyg.cli import main

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'tests' / 'datasets'))
from raw_files import write_amazon  # noqa: E402

pytestmark = pytest.mark.slow


def call(capsys, *argv):
    code = main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_raw_files_to_answers(tmp_path, capsys):
    for name in ('fastapi', 'uvicorn', 'altair', 'vl_convert'):
        pytest.importorskip(name)
    write_amazon(tmp_path / 'raw')
    data, run = tmp_path / 'baby', tmp_path / 'run'
    call(
        capsys, 'prepare', 'amazon', '--category', 'Baby', '--root', tmp_path, '--out', data,
        '--text-encoder', 'hashing', '--no-download', '--quiet',
    )  # fmt: skip
    call(
        capsys, 'train', '--dataset', data, '--out', run, '--mrdib', '--epochs', 2, '--quiet',
        '--set', 'channels=8',
    )  # fmt: skip
    metrics = json.loads(call(capsys, 'evaluate', run, '--k', '5', '--json'))
    assert metrics == pytest.approx(
        {k: json.loads((run / 'results.json').read_text())['test'][k] for k in metrics}
    )

    call(capsys, 'recommend', run, '--k', 3, '--out', tmp_path / 'recs.csv')
    with open(tmp_path / 'recs.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    with open(data / 'user_ids.csv', newline='') as file:
        users = [row['raw_id'] for row in csv.DictReader(file)]
    assert {row['userID'] for row in rows} <= set(users)
    user = rows[0]['userID']
    best = [row['itemID'] for row in rows if row['userID'] == user]
    told = json.loads(call(capsys, 'explain', run, '--user', user, '--item', best[0], '--json'))
    call(capsys, 'measure', run)
    call(capsys, 'report', run, '--users', user)
    page = (run / 'report.html').read_text(encoding='utf-8')
    assert best[0] in page and '</html>' in page

    command = [sys.executable, '-m', 'mrdib_pyg.cli', 'serve', str(run), '--port', '0']
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1', 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r'http://\S+', process.stdout.readline())[0]
            query = urllib.parse.urlencode({'user': user, 'k': 3})
            with urllib.request.urlopen(f'{address}/recommend?{query}', timeout=60) as response:
                answer = json.load(response)
            query = urllib.parse.urlencode({'user': user, 'item': best[0]})
            with urllib.request.urlopen(f'{address}/explain?{query}', timeout=60) as response:
                served = json.load(response)
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert [entry['item'] for entry in answer['items']] == best
    assert served['total'] == pytest.approx(told['total'])
