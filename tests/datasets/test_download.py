import functools
import http.server
import os
import threading
from pathlib import Path

import pytest

from mrdib_pyg.datasets._download import download

CONTENT = bytes(range(256)) * 5000


class Server(http.server.BaseHTTPRequestHandler):
    """A file with ranges, which says what it was asked; it can stop early or know no ranges."""

    def __init__(self, state, *args):
        self.state = state
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):
        state = self.state
        content, begin = state['content'], 0
        asked = self.headers.get('Range')
        state['asked'].append(asked)
        if asked and state['ranges'] and self.headers.get('If-Range') == state['tag']:
            begin = int(asked.removeprefix('bytes=').removesuffix('-'))
            if begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            shift = state.get('shift', 0)
            self.send_header(
                'Content-Range', f'bytes {begin + shift}-{len(content) - 1}/{len(content)}'
            )
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(content) - begin))
        if state['tag']:
            self.send_header('ETag', state['tag'])
        self.end_headers()
        self.wfile.write(content[begin : begin + state['limit']])


@pytest.fixture
def state():
    return {'content': CONTENT, 'ranges': True, 'tag': '"1"', 'limit': 10**9, 'asked': []}


@pytest.fixture
def url(state):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Server, state))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/file'
    server.shutdown()
    server.server_close()


def test_download(tmp_path, state, url):
    download(url, tmp_path / 'raw' / 'file')
    assert (tmp_path / 'raw' / 'file').read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / 'raw').iterdir()] == ['file']
    assert state['asked'] == [None]


def test_download_continues(tmp_path, state, url):
    path = tmp_path / 'file'
    state['limit'] = 500_000
    with pytest.raises(ConnectionError, match='500000 of 1280000 bytes arrived; call it again'):
        download(url, path)
    with pytest.raises(ConnectionError, match='1000000 of 1280000'):
        download(url, path)
    assert not path.exists()
    download(url, path)
    assert path.read_bytes() == CONTENT
    assert state['asked'] == [None, 'bytes=500000-', 'bytes=1000000-']
    assert [p.name for p in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('change', ['version', 'no ranges', 'no tag'])
def test_download_starts_anew(tmp_path, state, url, change):
    """Where the rest would belong to another file, or cannot be had, all of it is sent."""
    path = tmp_path / 'file'
    if change == 'no tag':
        state['tag'] = ''
    state['limit'] = 500_000
    with pytest.raises(ConnectionError):
        download(url, path)
    state['limit'] = 10**9
    if change == 'version':
        state.update(tag='"2"', content=CONTENT[::-1])
    elif change == 'no ranges':
        state['ranges'] = False
    download(url, path)
    assert path.read_bytes() == state['content']


def test_download_refuses_another_part(tmp_path, state, url):
    path = tmp_path / 'file'
    state['limit'] = 500_000
    with pytest.raises(ConnectionError):
        download(url, path)
    state.update(limit=10**9, shift=7)
    with pytest.raises(ConnectionError, match='the wrong part'):
        download(url, path)
    assert not path.exists()


@pytest.mark.parametrize('moment', ['write_bytes', 'write_text'])
def test_kill_when_the_file_has_changed(tmp_path, state, url, monkeypatch, moment):
    """At no moment do old bytes have the tag of the new file."""
    path = tmp_path / 'file'
    state['limit'] = 500_000
    with pytest.raises(ConnectionError):
        download(url, path)
    state.update(limit=10**9, tag='"2"', content=CONTENT[::-1])

    class Killed(BaseException):
        pass

    def kill(self, *args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, moment, kill)
        with pytest.raises(Killed):
            download(url, path)
    download(url, path)
    assert path.read_bytes() == CONTENT[::-1]


def test_download_that_fails_a_check(tmp_path, state, url):
    def check(path):
        assert path.read_bytes() == CONTENT
        raise ValueError('it is odd')

    with pytest.raises(ConnectionError, match='damaged: it is odd. It was removed; call it again'):
        download(url, tmp_path / 'file', check=check)
    assert list(tmp_path.iterdir()) == []


def test_download_of_a_part_that_is_complete(tmp_path, state, url):
    (tmp_path / 'file.part').write_bytes(CONTENT)
    (tmp_path / 'file.part.tag').write_text('"1"')
    download(url, tmp_path / 'file')
    assert (tmp_path / 'file').read_bytes() == CONTENT


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
@pytest.mark.parametrize('name', ['file.part', 'file.part.tag'])
def test_download_writes_through_nothing(tmp_path, url, name):
    victim = tmp_path / 'victim'
    victim.write_bytes(b'mine')
    for put in (lambda path: path.symlink_to(victim), os.mkfifo):
        put(tmp_path / name)
        download(url, tmp_path / 'file')
        assert (tmp_path / 'file').read_bytes() == CONTENT and victim.read_bytes() == b'mine'
        assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'victim']


@pytest.mark.parametrize('address', ['http://127.0.0.1:9/file', 'no-address'])
def test_download_without_network(tmp_path, address):
    with pytest.raises(ConnectionError, match='could not be downloaded'):
        download(address, tmp_path / 'file')
    assert list(tmp_path.iterdir()) == []
