"""`mrdib serve` as a process of its own, and its page in a browser."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mrdib_pyg.cli import main
from mrdib_pyg.datasets import write_folder

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': '1'}

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def run(tmp_path_factory, data, ids):
    pytest.importorskip('fastapi')
    pytest.importorskip('uvicorn')
    folder = tmp_path_factory.mktemp('serve')
    write_folder(data, folder / 'data')
    ids[0].save(folder / 'data', 'user')
    ids[1].save(folder / 'data', 'item')
    argv = ['train', '--dataset', folder / 'data', '--out', folder / 'run', '--mrdib', '--set']
    assert main([*map(str, argv), 'channels=8', '--epochs', '2', '--quiet']) == 0
    return folder / 'run'


@contextlib.contextmanager
def serving(run, *argv):
    """The process and its address; it is killed at the end if it still lives."""
    command = [sys.executable, '-m', 'mrdib_pyg.cli', 'serve', str(run), '--port', '0', *argv]
    process = subprocess.Popen(
        command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r'serving on (http://127\.0\.0\.1:\d+) \(Ctrl-C stops it\)\n', line)
        assert match, (line, process.stderr.read())
        yield process, match[1]
    finally:
        process.kill()
        process.communicate()


def get(address):
    with urllib.request.urlopen(address, timeout=60) as response:
        return json.load(response)


def answers(address):
    paths = ['recommend?user=u4&parts=true&k=7', 'similar?item=i3', 'recommend?user=u0&k=50']
    return [get(f'{address}/{path}') for path in paths]


def test_killed_and_restarted(run):
    with serving(run) as (process, address):
        first = answers(address)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    with serving(run) as (process, address):
        assert answers(address) == first
        for path, code in (('recommend?user=nobody', 404), ('recommend?user=u1&k=101', 422)):
            with pytest.raises(urllib.error.HTTPError) as e:
                get(f'{address}/{path}')
            with e.value:
                assert e.value.code == code and 'detail' in json.load(e.value)
        port = int(address.rsplit(':', 1)[1])
        out = subprocess.run(
            [sys.executable, '-m', 'mrdib_pyg.cli', 'serve', str(run), '--port', str(port)],
            env=ENV, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert out.returncode == 2 and f'cannot listen at 127.0.0.1, port {port}' in out.stderr
        # Of someone who never reads and never ends, it does not wait for long.
        with socket.create_connection(('127.0.0.1', port)):
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, '', '')


def test_ends_by_interrupt(run):
    with serving(run, '--threads', '1', '--max-k', '5') as (process, address):
        assert get(f'{address}/health')['max_k'] == 5
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, '', '')


@pytest.fixture
def browse(tmp_path):
    """Returns a function that gives a page as headless Chromium has made it."""
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        pytest.skip('no chromium')

    def dump(address):
        # The port of this machine is all it may reach, by name or otherwise.
        command = [
            chromium, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
            '--no-first-run', '--disable-background-networking', '--disable-component-update',
            '--disable-sync', f'--user-data-dir={tmp_path / "profile"}', '--enable-logging=stderr',
            '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1', '--v=0',
            '--virtual-time-budget=20000', '--dump-dom', address,
        ]  # fmt: skip
        out = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert out.returncode == 0, out.stderr
        assert 'CONSOLE' not in out.stderr, out.stderr
        return out.stdout

    return dump


@pytest.fixture(scope='module')
def address(run):
    with serving(run) as (_, address):
        yield address


def test_page_in_a_browser(address, browse):
    found = get(f'{address}/recommend?user=u4&k=6&parts=true')
    near = get(f'{address}/similar?item={urllib.request.quote(found["items"][0]["item"])}&k=8')
    html = browse(f'{address}/#user=u4&k=6')
    docs = browse(f'{address}/docs')
    names = [entry['item'] for entry in found['items'] + near['items']]
    shown = re.findall(r'<span class="name">(.*?)</span>', html)
    assert [name.replace('&lt;', '<').replace('&gt;', '>') for name in shown] == names
    assert html.count('<div class="bar">') == 2 * 6  # image and text
    assert 'MultimodalLightGCN with MRdIB · 40 users · 50 items' in html
    assert 'Best items for u4' in html and 'score by image alone' in html
    assert f'{found["items"][0]["score"]:.3f}' in html
    assert docs.count('<section>') == 6 and '/similar' in docs


def test_page_tells_what_is_wrong(address, browse):
    html = browse(f'{address}/')  # with raw ids it knows no user to begin with
    assert 'Enter a user ID.' in html and 'class="name"' not in html
    html = browse(f'{address}/#user=%3Cb%3E7')
    assert 'there is no user' in html and '<b>7' not in html
    assert 'user=0' not in browse(f'{address}/docs')  # which is no id here
