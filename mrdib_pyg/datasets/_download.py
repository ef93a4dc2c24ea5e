"""Download of large files: continued where it stopped, checked, and complete or not there."""

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
    r"""Downloads :obj:`url` to :obj:`path`.

    What arrives is kept in ``<path>.part`` until it is complete: a later call asks for the rest
    only, unless the file has changed there meanwhile.

    Args:
        url (str): The address.
        path (Path): The file; its folder is created.
        progress (bool, optional): Whether to show a progress bar. (default: :obj:`False`)
        check (Callable, optional): Raises a :class:`ValueError` if the file, which has not got its
            name yet, is not what is expected. (default: :obj:`None`)

    Raises:
        ConnectionError: If the server cannot be reached, refuses, ends too early, or sends what
            does not pass the check (which is removed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    tag = path.with_name(f'{path.name}.part.tag')  # of the version that the part is of
    try:
        for leftover in (part, tag):  # nothing is written through a link, or into a pipe
            if leftover.is_symlink() or (leftover.exists() and not leftover.is_file()):
                leftover.unlink()
        _fetch(url, part, tag, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
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
            f'what {shown(url)} sent is not complete or damaged: {error}. It was removed; call it '
            f'again to download it anew'
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
        # Nothing is left to send: the part is complete, or is of another file.
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
            raise ValueError('the server sent another part than was asked for')
        if begin == 0:
            # In this order: at no moment is there a tag beside bytes of another version.
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
