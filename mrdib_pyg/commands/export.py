"""``mrdib export``: a trained model for other software."""

import argparse
from pathlib import Path

from mrdib_pyg.commands.arguments import (
    Add,
    Usage,
    add_run_arguments,
    find_dataset,
    load_ids,
    load_run,
    require_packages,
)


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add(
        'export',
        'RUN --out FOLDER [options]',
        'Write the embeddings and ids of a trained model, or its graph, for other software.',
        epilog='examples:\n'
        '  mrdib export runs/tiktok --out tiktok-embeddings\n'
        '  mrdib export runs/tiktok --format ogb --out tiktok-ogb',
    )
    add_run_arguments(p)
    p.add_argument('--out', metavar='FOLDER', required=True, help='a new or empty folder')
    p.add_argument(
        '--format', choices=['embeddings', 'ogb'], default='embeddings', metavar='NAME',
        help='embeddings (Parquet and safetensors), or ogb: the graph in the layout of the Open '
        'Graph Benchmark (embeddings)',
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    out = Path(args.out)
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise Usage(f"--out must be a new or empty folder (got '{args.out}')")
    if args.format == 'embeddings':
        require_packages('export', 'pyarrow', 'safetensors')
    model, data = load_run(args)
    user_ids, item_ids = load_ids(args, model)

    from mrdib_pyg.datasets import data_hash
    from mrdib_pyg.serving import export_model, export_ogb

    if args.format == 'ogb':
        export_ogb(data, out, 'mrdib', user_ids, item_ids)
    else:
        info = {'dataset': Path(find_dataset(args)).name, 'data_hash': data_hash(data)}
        export_model(model, out, user_ids, item_ids, info)
    print(f'wrote {out}')
