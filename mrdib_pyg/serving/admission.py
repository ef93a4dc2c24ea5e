"""Bounds on the work of a service."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.responses import Response

#: Answers of at most this many scores are short.
SHORT = 2000
SEND_SECONDS = 60.0
_CHUNK = 1 << 16  # bytes

#: Makes an answer in parts; a caller may stop between two of them.
Answer = Callable[[], Iterator[bytes]]


class Overloaded(RuntimeError):
    r"""The service has no room for another answer."""


class Admission:
    r"""Runs requests in threads. Short answers have their own, long ones share a single one. The
    size of an answer, its number of scores, counts from its admission to its last byte. At most
    ``max_size`` scores of long answers and ``max_short`` short answers are under way at a time.
    """

    def __init__(
        self, max_size: int, num_threads: int | None = None, max_short: int = 1024
    ) -> None:
        num_threads = num_threads or os.cpu_count() or 1
        self.lanes = (
            _Lane(ThreadPoolExecutor(num_threads, 'short'), max_short * SHORT),
            _Lane(ThreadPoolExecutor(1, 'long'), max_size),
        )

    def close(self) -> None:
        r"""Ends the threads after their current work, and drops waiting work."""
        for lane in self.lanes:
            lane.pool.shutdown(wait=False, cancel_futures=True)

    async def respond(
        self, answer: Answer, size: int, receive: Callable[[], Awaitable[Any]]
    ) -> Response:
        r"""Makes an answer in a thread, and drops it if the client disconnects. ``receive`` is the
        ASGI channel of the request, whose body has been read.
        """
        lane = self.lanes[int(size > SHORT)]
        lane.enter(size)
        try:
            body = await _make(answer, lane.pool, receive)
        except BaseException:
            lane.leave(size)
            raise
        if body is None:
            lane.leave(size)
            return Response(status_code=499)  # nobody reads it
        return _Sent(body, lambda: lane.leave(size))


class _Lane:
    def __init__(self, pool: ThreadPoolExecutor, max_size: int) -> None:
        self.pool, self.max_size = pool, max_size
        self.size = 0

    def enter(self, size: int) -> None:
        if self.size > 0 and self.size + size > self.max_size:
            raise Overloaded('the service is busy; try again in a second')
        self.size += size

    def leave(self, size: int) -> None:
        self.size -= size


async def _make(
    answer: Answer, pool: ThreadPoolExecutor, receive: Callable[[], Awaitable[Any]]
) -> bytes | None:
    gone = threading.Event()

    def work() -> bytes | None:
        parts = []
        if not gone.is_set():
            for part in answer():
                parts.append(part)
                if gone.is_set():
                    return None
        return b''.join(parts)

    made = asyncio.get_running_loop().run_in_executor(pool, work)
    left = asyncio.ensure_future(_wait_until_gone(receive))
    try:
        await asyncio.wait((made, left), return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            gone.set()
        return await made
    finally:
        gone.set()
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await left


async def _wait_until_gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())['type'] != 'http.disconnect':
        pass


class _Sent(Response):
    r"""Sends JSON in chunks as fast as the client reads, then calls ``done``."""

    media_type = 'application/json'

    def __init__(self, body: bytes, done: Callable[[], None]) -> None:
        super().__init__(body)
        self.done = done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.wait_for(self._send(send), SEND_SECONDS)
        except asyncio.TimeoutError:
            pass  # the server closes a connection whose answer is not complete
        finally:
            self.done()

    async def _send(self, send: Any) -> None:
        start = {'type': 'http.response.start', 'status': 200, 'headers': self.raw_headers}
        await send(start)
        body = memoryview(self.body)
        for begin in range(0, max(len(body), 1), _CHUNK):
            part, more = bytes(body[begin : begin + _CHUNK]), begin + _CHUNK < len(body)
            await send({'type': 'http.response.body', 'body': part, 'more_body': more})
