"""Bounds on the work of a service, and what becomes of clients that leave or do not read."""

import asyncio
import threading
import time

import pytest

pytest.importorskip('fastapi')

from mrdib_pyg.serving import admission as module  # noqa: E402
from mrdib_pyg.serving.admission import SHORT, Admission, Overloaded  # noqa: E402

LONG = SHORT + 1


async def never():
    await asyncio.Event().wait()


def run(test, **kwargs):
    async def main():
        admission = Admission(2 * LONG, num_threads=2, **kwargs)
        try:
            await asyncio.wait_for(test(admission), 60)
        finally:
            admission.close()

    asyncio.run(main())


async def send(response, send=None):
    sent = []

    async def keep(message):
        sent.append(message)

    await response({'type': 'http'}, never, send or keep)
    return b''.join(m.get('body', b'') for m in sent), sent


def sizes(admission):
    return [lane.size for lane in admission.lanes]


def test_an_answer_counts_until_it_is_sent():
    async def test(admission):
        response = await admission.respond(lambda: iter([b'[1', b']']), LONG, never)
        assert sizes(admission) == [0, LONG]
        body, sent = await send(response)
        assert body == b'[1]' and dict(sent[0]['headers'])[b'content-length'] == b'3'
        assert sizes(admission) == [0, 0]

    run(test)


def test_large_answers_are_sent_in_chunks():
    async def test(admission):
        text = b'x' * 200_000
        body, sent = await send(await admission.respond(lambda: iter([text]), 1, never))
        assert body == text and len(sent) == 1 + 4
        assert [m['more_body'] for m in sent[1:]] == [True, True, True, False]

    run(test)


def test_too_much_work_is_refused():
    async def test(admission):
        for _ in range(2):
            await admission.respond(lambda: iter([b'']), LONG, never)
        with pytest.raises(Overloaded):
            await admission.respond(lambda: iter([b'']), LONG, never)
        await send(await admission.respond(lambda: iter([b'']), SHORT, never))  # another lane
        assert sizes(admission) == [0, 2 * LONG]

    run(test)


def test_one_answer_is_always_taken():
    async def test(admission):
        response = await admission.respond(lambda: iter([b'1']), 100 * LONG, never)
        assert (await send(response))[0] == b'1'

    run(test)


def test_short_answers_do_not_wait_for_long_ones():
    async def test(admission):
        end = threading.Event()

        def slow():
            assert end.wait(60)
            yield b'slow'

        long = asyncio.ensure_future(admission.respond(slow, LONG, never))
        short = await admission.respond(lambda: iter([b'short']), 1, never)
        assert (await send(short))[0] == b'short' and not long.done()
        end.set()
        assert (await send(await long))[0] == b'slow'

    run(test)


def test_work_of_a_client_that_has_gone_is_dropped():
    async def test(admission):
        gone, made = threading.Event(), []

        async def receive():
            while not made:
                await asyncio.sleep(0.001)
            gone.set()
            return {'type': 'http.disconnect'}

        def answer():
            for part in range(1000):
                made.append(part)
                yield b'x'
                assert gone.wait(60)
                time.sleep(0.001)  # lets the other thread hear of it

        response = await admission.respond(answer, LONG, receive)
        assert response.status_code == 499 and len(made) < 1000
        assert sizes(admission) == [0, 0]

    run(test)


def test_errors_free_their_place():
    async def test(admission):
        def answer():
            yield b'x'
            raise KeyError('no such user')

        with pytest.raises(KeyError, match='no such user'):
            await admission.respond(answer, LONG, never)
        assert sizes(admission) == [0, 0]

    run(test)


def test_a_client_that_does_not_read_loses_its_place(monkeypatch):
    monkeypatch.setattr(module, 'SEND_SECONDS', 0.01)

    async def test(admission):
        response = await admission.respond(lambda: iter([b'x']), LONG, never)

        async def stuck(message):
            await never()

        await send(response, stuck)
        assert sizes(admission) == [0, 0]

    run(test)
