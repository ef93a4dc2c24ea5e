"""``mrdib serve``: a trained model behind HTTP."""

import argparse
import importlib.util
import ipaddress
import os
import signal
import socket
from typing import Any

from mrdib_pyg.commands.arguments import Add, Usage, add_run_arguments, load_ids, load_run


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'serve',
        'RUN [options]',
        'Answer requests for recommendations over HTTP, with a page for the browser.',
        epilog='It says where it listens once it is ready, and ends by Ctrl-C or SIGTERM after\n'
        'the requests under way. There is no login: put it behind a proxy before you name\n'
        'another --host.\n'
        'example: mrdib serve runs/tiktok --port 8000',
    )
    add_run_arguments(p)
    p.add_argument(
        '--host', metavar='ADDRESS', default='127.0.0.1', help='where to listen (127.0.0.1)'
    )
    p.add_argument(
        '--port', metavar='N', type=int, default=8000, help='the port, or 0 for a free one (8000)'
    )
    p.add_argument(
        '--max-k', metavar='N', type=int, default=100, help='the most items of an answer (100)'
    )
    p.add_argument(
        '--exclude', choices=['all', 'train'], default='all', metavar='NAME',
        help='which items that a user has are left out: all of the data, or those of train; a '
        'request may rank them by exclude_seen=false (all)',
    )  # fmt: skip
    p.add_argument(
        '--threads', metavar='N', type=int, help='requests worked on at a time (number of cores)'
    )
    p.add_argument(
        '--approximate', action='store_true', help='search an approximate index (for 1e5 items up)'
    )


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    needed = ['fastapi', 'uvicorn', *(['faiss'] if args.approximate else [])]
    for name in needed:
        if importlib.util.find_spec(name) is None:
            raise Usage(f"serve needs {name}: pip install 'mrdib_pyg[serve]'")
    threads = os.cpu_count() or 1 if args.threads is None else args.threads
    for option, value, most in (
        ('--port', args.port, 65535),
        ('--max-k', args.max_k, 10_000),
        ('--threads', threads, 256),
    ):
        if not int(option != '--port') <= value <= most:
            raise Usage(f'{option} must lie between {int(option != "--port")} and {most}')
    listener = _listen(args.host, args.port)
    with listener:
        model, data = load_run(args)
        user_ids, item_ids = load_ids(args, model)

        import torch

        from mrdib_pyg.serving import known_pairs, make_app

        # A request is small: threads of requests, not of one matrix product.
        torch.set_num_threads(1)
        if args.approximate:
            import faiss

            faiss.omp_set_num_threads(1)
        app = make_app(
            model,
            user_ids,
            item_ids,
            data=data,
            exclude=known_pairs(data) if args.exclude == 'all' else None,
            approximate=args.approximate,
            max_k=args.max_k,
            num_threads=threads,
            hosts=_hosts(args.host, listener),
        )
        _serve(app, listener, args.host)


def _serve(app: Any, listener: socket.socket, host: str) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            port = listener.getsockname()[1]
            shown = f'[{host}]' if ':' in host else host
            print(f'serving on http://{shown}:{port} (Ctrl-C stops it)', flush=True)

    config = uvicorn.Config(
        app,
        log_level='warning',
        access_log=False,
        lifespan='on',
        limit_concurrency=1000,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        server_header=False,
    )
    # uvicorn finishes what is under way, and then raises the signal again: that is the end we want.
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in signals}
    try:
        Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    r"""Returns a socket bound to the address: before the model is loaded, which takes its time."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it, answers wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as e:
        listener.close()
        reason = e.strerror or str(e)
        raise Usage(f'cannot listen at {host}, port {port} ({reason}); name others') from None
    return listener


def _hosts(host: str, listener: socket.socket) -> list[str] | None:
    r"""On the loopback only its own names are answered; elsewhere any, as nobody knows them.

    What is bound decides, not how it was named: ``LOCALHOST``, ``127.1`` and others are loopback.
    """
    bound = listener.getsockname()[0].partition('%')[0]
    address = ipaddress.ip_address(bound)
    if not (getattr(address, 'ipv4_mapped', None) or address).is_loopback:
        return None
    return ['localhost', '127.0.0.1', '::1', '[::1]', bound, f'[{bound}]', host]
