"""A reader of files, and what became of a file that was given to it."""

import contextlib
import faulthandler
import linecache
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mrdib_pyg
from mrdib_pyg.commands.arguments import Usage
from mrdib_pyg.training import CheckpointError

PACKAGE = str(Path(mrdib_pyg.__file__).parent)
#: What a reader may raise: a missing file, or a file that is not as it is documented.
DOCUMENTED = (ValueError, CheckpointError, FileNotFoundError, Usage)
#: Seconds after which a reader counts as hanging.
PATIENCE = 30


class Reader(NamedTuple):
    """A reader.

    Args:
        name: Its file in the folder.
        make: Writes good files into a folder.
        read: Reads a folder; it may write into the folders ``out`` and ``run`` in it.
        inside: Spoil what is packed in the file, and pack it again: the checksums are right then.
        settle: Makes the other files of the folder fit the spoiled one.
        needs: The optional packages that it needs.
        tolerant: Whether it may load whatever it is given.
        also: Further errors that it documents.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], object]
    inside: tuple[Callable[[bytes, list], bytes], ...] = ()
    settle: Callable[[Path], None] | None = None
    needs: tuple[str, ...] = ()
    tolerant: bool = False
    also: tuple[type[Exception], ...] = ()


class Hang(BaseException):
    """Not an :class:`Exception`, which a reader might take for the fault of its file."""


class Outcome(NamedTuple):
    """What became of a file: ``'loaded'``, ``'refused'``, ``'undocumented'`` or ``'hang'``."""

    kind: str
    what: str = ''
    error: BaseException | None = None


def attempt(reader: Reader, folder: Path, content: bytes) -> Outcome:
    """Reads spoiled content."""
    (folder / reader.name).write_bytes(content)
    if reader.settle is not None:
        reader.settle(folder)
    try:
        with _patience(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            reader.read(folder)
        return Outcome('loaded')
    except Hang as e:
        return Outcome('hang', str(e), e)
    except Exception as e:
        wrong = _what_is_wrong(e, (*DOCUMENTED, *reader.also))
        if wrong is None and (folder / 'out').exists():
            wrong = 'something was written'
        if wrong is not None:
            return Outcome('undocumented', f'{type(e).__name__}: {str(e)[:80]} ({wrong})', e)
        return Outcome('refused', type(e).__name__, e)
    finally:
        for name in ('out', 'run'):
            shutil.rmtree(folder / name, ignore_errors=True)


def _what_is_wrong(error: BaseException, documented: tuple[type, ...]) -> str | None:
    """Why an error is not a documented one."""
    if type(error) not in documented:
        return 'of no documented type'
    if not str(error).strip():
        return 'without a message'
    cause: BaseException | None = error
    while cause is not None:
        # PyTorch's allocator raises RuntimeError.
        if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
            return 'out of memory'
        cause = cause.__cause__ or cause.__context__
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    assert frame is not None
    path = frame.tb_frame.f_code.co_filename
    line = linecache.getline(path, frame.tb_lineno).strip()
    if not path.startswith(PACKAGE) or not line.startswith('raise'):
        return 'raised by accident, not by this package'
    return None


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    def hang(*args: object) -> None:
        raise Hang(f'read for more than {PATIENCE} s')

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(PATIENCE)
    # Code that never comes back to the interpreter is not stopped by a signal.
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
