"""Downloads of large files that resume, are checked, and leave no partial file."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from mrdib_pyg.datasets._read import shown

_BLOCK = 1 << 20


def download(
    url: str, path: Path, progress: bool = False, check: Callable[[Path], None] | None = None
) -> None:
    r"""Downloads :obj:`url` to :obj:`path` through ``<path>.part``, which a later call completes
    unless the file has changed on the server. A file for which ``check`` raises :class:`ValueError`
    is removed. Every failure is a :class:`ConnectionError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    tag = path.with_name(f'{path.name}.part.tag')  # the version of the part
    try:
        for leftover in (part, tag):  # never writes through a link or into a pipe
            if leftover.is_symlink() or (leftover.exists() and not leftover.is_file()):
                leftover.unlink()
        _fetch(url, part, tag, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # closes the connection
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
        if not part.exists():
            tag.unlink(missing_ok=True)
        raise ConnectionError(f'{shown(url)} could not be downloaded ({error!r})') from error
    try:
        if check is not None:
            check(part)
    except ValueError as error:
        tag.unlink(missing_ok=True)
        part.unlink()
        raise ConnectionError(
            f'the download of {shown(url)} is not complete or damaged: {error}. It was removed; '
            f'call it again'
        ) from error
    os.replace(part, path)
    tag.unlink(missing_ok=True)


def _fetch(url: str, part: Path, tag: Path, progress: bool) -> None:
    version = tag.read_text(encoding='latin-1') if tag.exists() else ''
    begin = part.stat().st_size if part.exists() and version else 0
    request = urllib.request.Request(url)
    if begin > 0:
        request.add_header('Range', f'bytes={begin}-')
        request.add_header('If-Range', version)
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416 or begin == 0:
            raise
        # Nothing is left to send: the part is complete or belongs to another file.
        error.close()
        part.unlink()
        begin = 0
        response = urllib.request.urlopen(url, timeout=30)
    with response:
        if begin > 0 and response.status != 206:
            begin = 0
        length = response.headers.get('Content-Length')
        total = None if length is None else begin + int(length)
        sent = response.headers.get('Content-Range', '')
        if begin > 0 and not sent.startswith(f'bytes {begin}-'):
            raise ValueError('the server sent the wrong part of the file')
        if begin == 0:
            # In this order, so that a tag never stands beside bytes of another version.
            tag.unlink(missing_ok=True)
            part.write_bytes(b'')
            version = response.headers.get('ETag') or response.headers.get('Last-Modified') or ''
            if version and not version.startswith('W/'):
                tag.write_text(version, encoding='latin-1')
        bar = tqdm(
            desc=part.stem, total=total, initial=begin, unit='B', unit_scale=True,
            disable=not progress,
        )  # fmt: skip
        with open(part, 'ab') as file, bar:
            while data := response.read(_BLOCK):
                file.write(data)
                bar.update(len(data))
    size = part.stat().st_size
    if total is not None and size != total:
        raise ValueError(f'{size} of {total} bytes arrived; call it again to continue')
