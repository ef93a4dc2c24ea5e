"""The server against clients that do not finish what they began."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

uvicorn = pytest.importorskip('uvicorn')

from mrdib_pyg.serving.server import listen, make_protocol  # noqa: E402


async def app(scope, receive, send):
    message = await receive()
    while message.get('more_body'):
        message = await receive()
    if message['type'] == 'http.disconnect':
        return
    await send(
        {'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'2')]}
    )
    await send({'type': 'http.response.body', 'body': b'ok'})


@contextlib.contextmanager
def served(**settings):
    listener = listen('127.0.0.1', 0)
    config = uvicorn.Config(
        app, http=make_protocol(**settings), log_level='critical', lifespan='off', ws='none'
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()


def connect(address, text=b''):
    client = socket.create_connection(address, timeout=60)
    client.sendall(text)
    return client


def read(client):
    with client:
        return b''.join(iter(lambda: client.recv(4096), b''))


WHOLE = b'GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n'
HALVES = [
    b'',
    b'GET / HTTP/1.1\r\nHost: he',
    b'POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n12345',
]


def test_half_a_request_is_given_up():
    with served(request_seconds=0.2, max_incomplete=100) as address:
        for text in HALVES:
            answer = read(connect(address, text))  # the server ends the connection
            assert answer == b'' or answer.startswith(b'HTTP/1.1 408')
        assert read(connect(address, WHOLE)).endswith(b'ok')


def test_the_second_request_of_a_connection_has_a_deadline_too():
    with served(request_seconds=0.2, max_incomplete=100) as address:
        client = connect(address, b'GET / HTTP/1.1\r\nHost: here\r\n\r\n')
        assert client.recv(4096)
        client.sendall(HALVES[1])
        assert b'408' in read(client)


@pytest.mark.parametrize('text', HALVES)
def test_half_requests_shut_nobody_out(text):
    with served(request_seconds=60, max_incomplete=5) as address:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(address, text)) for _ in range(20)]
            for _ in range(3):
                assert read(connect(address, WHOLE)).endswith(b'ok')
            closed = sum(client.recv(1) in (b'', b'H') for client in clients[:14])
            assert closed == 14  # the oldest gave way
