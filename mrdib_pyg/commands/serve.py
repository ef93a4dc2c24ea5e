"""``mrdib serve``: a trained model behind HTTP."""

import argparse
import os

from mrdib_pyg.commands.arguments import (
    Add,
    Usage,
    add_run_arguments,
    load_ids,
    load_run,
    require_packages,
)


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'serve',
        'RUN [options]',
        'Answer requests for recommendations over HTTP, with a page for the browser.',
        epilog='It prints its address once it is ready. Ctrl-C or SIGTERM stops it after the\n'
        'requests under way. There is no login: put it behind a proxy before you choose\n'
        'another --host.\n'
        'example: mrdib serve runs/tiktok --port 8000',
    )
    add_run_arguments(p)
    p.add_argument(
        '--host',
        metavar='ADDRESS',
        default='127.0.0.1',
        help='the address to listen at (127.0.0.1)',
    )
    p.add_argument(
        '--port', metavar='N', type=int, default=8000, help='the port, or 0 for a free one (8000)'
    )
    p.add_argument(
        '--max-k', metavar='N', type=int, default=100, help='the most items of an answer (100)'
    )
    p.add_argument(
        '--exclude', choices=['all', 'train'], default='all', metavar='NAME',
        help='leave out the items that a user has: those of all splits, or of train; '
        'exclude_seen=false in a request ranks them (all)',
    )  # fmt: skip
    p.add_argument(
        '--threads', metavar='N', type=int, help='threads for short answers (number of cores)'
    )
    p.add_argument(
        '--approximate',
        action='store_true',
        help='search an approximate index (for 1e5 or more items)',
    )


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    require_packages('serve', 'fastapi', 'uvicorn', *(['faiss'] if args.approximate else []))
    threads = os.cpu_count() or 1 if args.threads is None else args.threads
    for option, value, least, most in (
        ('--port', args.port, 0, 65535),
        ('--max-k', args.max_k, 1, 10_000),
        ('--threads', threads, 1, 256),
    ):
        if not least <= value <= most:
            raise Usage(f'{option} must lie between {least} and {most} (got {value})')
    from mrdib_pyg.serving.server import allowed_hosts, listen, serve

    try:  # before loading the model, which takes time
        listener = listen(args.host, args.port)
    except OSError as e:
        raise Usage(
            f'cannot listen at {args.host}, port {args.port} ({e.strerror or e}); choose another'
        ) from None
    with listener:
        model, data = load_run(args)
        user_ids, item_ids = load_ids(args, model)

        import torch

        from mrdib_pyg.serving import known_pairs, make_app

        # Requests are small, so they run in parallel and their matrix products do not.
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
            hosts=allowed_hosts(args.host, listener),
        )
        serve(app, listener, args.host)
