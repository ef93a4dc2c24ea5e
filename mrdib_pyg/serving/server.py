"""The HTTP server of :obj:`mrdib serve`: uvicorn, with a time limit on requests."""

import ipaddress
import signal
import socket
from typing import Any

#: A request must be complete this many seconds after its first byte or its connection.
REQUEST_SECONDS = 10.0
#: The most connections with an incomplete request. Beyond it the oldest is closed.
MAX_INCOMPLETE = 256


def listen(host: str, port: int) -> socket.socket:
    r"""Returns a socket bound to an address; port 0 takes a free one."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it, answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def allowed_hosts(host: str, listener: socket.socket) -> list[str] | None:
    r"""The values of the header :obj:`Host` to answer: the names of the loopback, if the bound
    address is one (``LOCALHOST`` and ``127.1`` are), else :obj:`None` for any.
    """
    bound = listener.getsockname()[0].partition('%')[0]
    address = ipaddress.ip_address(bound)
    if not (getattr(address, 'ipv4_mapped', None) or address).is_loopback:
        return None
    return ['localhost', '127.0.0.1', '::1', '[::1]', bound, f'[{bound}]', host]


def serve(
    app: Any,
    listener: socket.socket,
    host: str,
    request_seconds: float = REQUEST_SECONDS,
    max_incomplete: int = MAX_INCOMPLETE,
) -> None:
    r"""Serves an ASGI application until SIGINT or SIGTERM, and finishes the requests under way.
    ``host`` is the address as the user named it, for the greeting.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            port = listener.getsockname()[1]
            shown = f'[{host}]' if ':' in host else host
            print(f'serving on http://{shown}:{port} (Ctrl-C stops it)', flush=True)

    config = uvicorn.Config(
        app,
        http=make_protocol(request_seconds, max_incomplete),
        log_level='warning',
        access_log=False,
        lifespan='on',
        limit_concurrency=1000,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        server_header=False,
    )
    # uvicorn finishes what is under way and then raises the signal again, which must not kill us.
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_protocol(request_seconds: float, max_incomplete: int) -> Any:
    r"""Returns uvicorn's protocol with a deadline for a whole request. uvicorn limits only the time
    between requests, so connections that send half a request would shut everyone out.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    incomplete: dict[Any, None] = {}  # the oldest first

    class DeadlineProtocol(H11Protocol):
        timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.expect_request()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete and not cycle.more_body:
                self.stop_timer()
            elif self.timer is None:
                self.expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            super().connection_lost(exc)

        def expect_request(self) -> None:
            self.timer = self.loop.call_later(request_seconds, self.give_up)
            incomplete[self] = None
            if len(incomplete) > max_incomplete:
                next(iter(incomplete)).give_up()

        def stop_timer(self) -> None:
            incomplete.pop(self, None)
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def give_up(self) -> None:
            self.stop_timer()
            if self.cycle is None or self.cycle.response_complete:  # no answer has begun
                self.transport.write(
                    b'HTTP/1.1 408 Request Timeout\r\n'
                    b'Connection: close\r\nContent-Length: 0\r\n\r\n'
                )
            self.transport.close()

    return DeadlineProtocol
