import functools
import hashlib
import http.server
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_folder import special

from mrdib_pyg.datasets import InteractionFolder, TikTok, data_hash

DATA = Path(os.environ.get('MRDIB_DATA', '../shared/data'))
TABLE = 'userID\titemID\tx_label\n0\t0\t0\n1\t2\t0\n1\t1\t1\n0\t2\t2\n'


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Shorter(Quiet):
    """Promises a longer body than it sends."""

    def send_header(self, keyword, value):
        if keyword == 'Content-Length':
            value = str(int(value) + 10)
        super().send_header(keyword, value)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / 'source'
    folder.mkdir()
    (folder / 'tiktok.inter').write_text(TABLE)
    for seed, name in enumerate(('image', 'audio')):
        x = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float16)
        np.save(folder / f'{name}_feat.npy', x)
    return folder


@pytest.fixture
def small(source, monkeypatch):
    """`TikTok` with the hashes of the small files in `source`."""
    digests = {
        name: (hashlib.sha256((source / name).read_bytes()).hexdigest(),) for name in TikTok.sha256
    }
    monkeypatch.setattr(TikTok, 'sha256', digests)
    return TikTok


@pytest.fixture
def serve():
    servers = []

    def start(folder, handler=Quiet):
        handler = functools.partial(handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_tiktok_download(tmp_path, source, small, serve):
    root = tmp_path / 'root'
    dataset = small(root, url=serve(source) + '/')
    assert str(dataset) == 'TikTok(tiktok)'
    assert sorted(p.name for p in (root / 'raw').iterdir()) == sorted(small.sha256)
    assert data_hash(dataset[0]) == data_hash(InteractionFolder(source)[0])
    assert [key for key in dataset[0]['item'] if key[:2] == 'x_'] == ['x_image', 'x_audio']
    # Nothing is fetched again: there is no such server.
    again = small(root, url='http://127.0.0.1:9')
    assert data_hash(again[0]) == data_hash(dataset[0])


def test_tiktok_download_only_what_is_missing(tmp_path, source, small, serve):
    root = tmp_path / 'root'
    url = serve(source)
    small(root, url=url)
    (root / 'raw' / 'audio_feat.npy').unlink()
    (source / 'tiktok.inter').unlink()
    small(root, url=url)
    assert (root / 'raw' / 'audio_feat.npy').exists()


def test_tiktok_reads_a_folder_with_the_files(source, small):
    before = sorted(source.rglob('*'))
    data = small(source, modalities=['audio'])[0]
    assert sorted(source.rglob('*')) == before
    assert data['item'].x_audio.size() == (3, 4) and 'x_image' not in data['item']


def test_tiktok_other_features_in_the_folder_are_not_read(source, small):
    np.save(source / 'text_feat.npy', np.ones((3, 2)))
    assert 'x_text' not in small(source)[0]['item']


@pytest.mark.parametrize('name', ['tiktok.inter', 'image_feat.npy', 'audio_feat.npy'])
@pytest.mark.parametrize('damage', ['wrong', 'truncated', 'short', 'absent'])
def test_tiktok_refused_download(tmp_path, source, small, serve, name, damage):
    path = source / name
    content = path.read_bytes()
    if damage == 'wrong':
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == 'truncated':
        path.write_bytes(content[:-1])
    elif damage == 'absent':
        path.unlink()
    url = serve(source, Shorter if damage == 'short' else Quiet)
    error = ValueError if damage in ('wrong', 'truncated') else FileNotFoundError
    with pytest.raises(error) as info:
        small(tmp_path / 'root', url=url)
    if damage != 'short':  # else already the first file fails
        assert f'{url}/{name}' in str(info.value)
    for file, (digest,) in small.sha256.items():
        assert f'{file} (SHA-256 {digest})' in str(info.value)
    assert str(tmp_path / 'root' / 'raw') in str(info.value)
    assert '\n' not in str(info.value)
    assert not (tmp_path / 'root').exists()


@pytest.mark.parametrize('url', ['http://127.0.0.1:9', 'no-address'])
def test_tiktok_without_network(tmp_path, small, url):
    with pytest.raises(FileNotFoundError, match='Please put these files into'):
        small(tmp_path / 'root', url=url)
    assert not (tmp_path / 'root').exists()


def test_tiktok_refuses_a_changed_file(source, small):
    x = np.load(source / 'image_feat.npy')
    np.save(source / 'image_feat.npy', x.astype(np.float32))
    with pytest.raises(ValueError, match="not the pinned 'image_feat.npy'.*InteractionFolder"):
        small(source)


def test_tiktok_refuses_a_mask(source, small):
    """It is not pinned, and would change the features."""
    np.save(source / 'image_mask.npy', np.array([True, False, True]))
    with pytest.raises(ValueError, match=r"image_mask\.npy' is not part of this data set"):
        small(source)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
@pytest.mark.parametrize('kind', ['pipe', 'folder', 'link'])
def test_tiktok_refuses_what_is_no_file(source, small, kind):
    (source / 'audio_feat.npy').unlink()
    special(kind, source / 'audio_feat.npy')
    error = FileNotFoundError if kind == 'link' else ValueError
    with pytest.raises(error, match=r"audio_feat\.npy' (must be a regular file|is a link)"):
        small(source, url='http://127.0.0.1:9')


def test_tiktok_addresses_are_pinned():
    assert TikTok.urls.keys() == TikTok.sha256.keys()
    for name, url in TikTok.urls.items():
        host, owner, repo, commit, *_, last = url.removeprefix('https://').split('/')
        assert host == 'raw.githubusercontent.com' and owner and repo and last == name
        assert len(commit) == 40 and int(commit, 16)
    for digest in sum(TikTok.sha256.values(), ()):
        assert len(digest) == 64 and int(digest, 16)


@pytest.mark.skipif(not (DATA / 'tiktok').is_dir(), reason="'MRDIB_DATA' is not there")
class TestRealFiles:
    def load(self, root, **kwargs):
        with pytest.warns(UserWarning, match='10 of 9308 users have no training interaction'):
            return TikTok(root, **kwargs)[0]

    def test_statistics(self):
        folder = DATA / 'tiktok'
        before = sorted(folder.iterdir())
        data = self.load(folder)
        assert sorted(folder.iterdir()) == before
        assert data['user'].num_nodes == 9308 and data['item'].num_nodes == 6710
        assert data['user', 'rates', 'item'].num_edges == 59541
        assert data['user', 'val', 'item'].edge_label_index.size(1) == 3051
        assert data['user', 'test', 'item'].edge_label_index.size(1) == 6130
        for name in ('image', 'audio'):
            x = data['item'][f'x_{name}']
            assert x.size() == (6710, 128) and x.dtype == torch.float32
        # float16 would overflow in a variance of these: they are cast first.
        assert data['item'].x_image.var() < 100 and data['item'].x_image.abs().max() > 10
        assert data_hash(data).startswith('36560467')

    def test_both_published_forms_of_the_table_are_the_same_data(self, tmp_path):
        table = np.loadtxt(DATA / 'tiktok' / 'tiktok.inter', dtype=np.int64, skiprows=1)
        table = table[np.lexsort((table[:, 1], table[:, 0]))]
        with open(tmp_path / 'tiktok.inter', 'w', newline='\n') as f:
            f.write('userID\titemID\trating\ttimestamp\tx_label\n')
            f.writelines(f'{u}\t{i}\t0\t0\t{x}\n' for u, i, x in table.tolist())
        digest = hashlib.sha256((tmp_path / 'tiktok.inter').read_bytes()).hexdigest()
        assert digest == TikTok.sha256['tiktok.inter'][1]
        for name in ('image_feat.npy', 'audio_feat.npy'):
            (tmp_path / name).symlink_to((DATA / 'tiktok' / name).resolve())
        assert data_hash(self.load(tmp_path)) == data_hash(self.load(DATA / 'tiktok'))
