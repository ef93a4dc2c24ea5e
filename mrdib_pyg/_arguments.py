"""The arguments of the command line ``mrdib``, and the reading of their values."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

DEFAULT_WEIGHTS = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
EXIT_DONE, EXIT_FAILED, EXIT_WRONG = 0, 1, 2


class Usage(Exception):
    r"""Wrong input: told in a line or two, without a traceback."""


class Parser(argparse.ArgumentParser):
    r"""A parser whose errors are two lines, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_WRONG, f'{self.prog}: {message}\nsee `{self.prog} --help`\n')


def parser(
    commands: Mapping[str, Callable[[argparse.Namespace], None]],
) -> argparse.ArgumentParser:
    r"""Returns the parser of all commands.

    Args:
        commands (Dict[str, Callable]): What to call, by the name of the command.
    """
    out = Parser(
        prog='mrdib',
        description='Multimodal recommendation with a representation-disentangled information '
        'bottleneck.',
        epilog='`mrdib COMMAND --help` tells more. Exit codes: 0 done, 2 wrong input or usage, '
        '1 failed while running.',
    )
    subparsers = out.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add(name: str, usage: str, summary: str, epilog: str | None = None) -> Parser:
        p = subparsers.add_parser(
            name, usage=f'mrdib {name} {usage}'.strip(), help=summary, description=summary,
            epilog=epilog, formatter_class=_Formatter, allow_abbrev=False,
        )  # fmt: skip
        p.set_defaults(run=commands[name])
        p.add_argument('--debug', action='store_true', help='show the traceback of an error')
        return p

    _add_train(add)
    _add_evaluate(add)
    _add_recommend(add)

    p = add('demo', '[options]', 'Train on planted data without and with MRdIB, and compare.')
    p.add_argument('--out', default='runs/demo', help='the folder of both runs (runs/demo)')
    p.add_argument('--seed', type=int, default=0, help='seeds both runs (0)')
    p.add_argument('--quiet', action='store_true', help='no progress bar')

    _add_experiment(add)

    add('models', '', 'List the models and their settings.')
    add('datasets', '', 'List the data sets.')
    return out


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def _add_train(add: Callable[..., Parser]) -> None:
    p = add(
        'train',
        '--dataset DATASET [options]',
        'Train a model, evaluate its best epoch, and write a run folder.',
        epilog='examples:\n'
        '  mrdib train --dataset planted --set fusion=mlp --out runs/plain\n'
        '  mrdib train --dataset data/tiktok --mrdib --seed 0 --out runs/tiktok\n'
        '  mrdib train --dataset data/tiktok --mrdib --seed 0 --out runs/tiktok --resume',
    )
    g = p.add_argument_group('data and model')
    g.add_argument('--dataset', required=True, help='a folder, or a name of `mrdib datasets`')
    g.add_argument(
        '--model', metavar='NAME', default='multimodal_lightgcn',
        help='a name of `mrdib models` (multimodal_lightgcn)',
    )  # fmt: skip
    g.add_argument(
        '--set', metavar='NAME=VALUE,...', default='', help='settings of the model, see there'
    )

    g = p.add_argument_group('MRdIB')
    g.add_argument('--mrdib', action='store_true', help='put MRdIB into the model')
    g.add_argument(
        '--redundancy', choices=['mine', 'nwj', 'infonce', 'club', 'gaussian', 'none'],
        metavar='NAME',
        help='the estimator of what modalities share: mine, nwj, infonce, club, gaussian or none '
        '(mine)',
    )  # fmt: skip
    g.add_argument(
        '--weights', default='', metavar='NAME=W,...',
        help='weights of terms of the loss; with --mrdib by default '
        + ','.join(f'{name}={weight:g}' for name, weight in DEFAULT_WEIGHTS.items()),
    )  # fmt: skip
    g.add_argument(
        '--control', choices=['l2', 'noise'], metavar='NAME',
        help='a control in the place of MRdIB: l2 or noise on the codes',
    )  # fmt: skip
    g.add_argument(
        '--noise-scale', metavar='S', type=float, help='the scale of --control noise (0.1)'
    )

    g = p.add_argument_group('training')
    g.add_argument('--epochs', metavar='N', type=int, default=500, help='the most epochs (500)')
    g.add_argument(
        '--patience', metavar='N', type=int, default=20,
        help='stop after more than N epochs without improvement (20)',
    )  # fmt: skip
    g.add_argument(
        '--monitor', metavar='METRIC', default='recall@20',
        help='the validation metric to select by (recall@20)',
    )  # fmt: skip
    g.add_argument(
        '--batch-size', metavar='N', type=int, default=2048, help='triplets per step (2048)'
    )
    g.add_argument('--lr', metavar='X', type=float, default=1e-3, help='learning rate (0.001)')
    g.add_argument('--seed', metavar='N', type=int, default=0, help='seeds everything (0)')
    g.add_argument('--device', metavar='NAME', default='auto', help='cpu, cuda or auto (auto)')

    g = p.add_argument_group('output')
    g.add_argument('--out', metavar='FOLDER', help='the run folder (runs/DATASET-MODEL)')
    g.add_argument('--resume', action='store_true', help='continue the run in the folder')
    g.add_argument('--no-test', action='store_true', help='do not read the test edges')
    g.add_argument('--json', action='store_true', help='print the results as JSON')
    g.add_argument('--quiet', action='store_true', help='no progress bar')


def _add_evaluate(add: Callable[..., Parser]) -> None:
    p = add('evaluate', 'RUN [options]', 'Rank all items for every user by a trained model.')
    p.add_argument('folder', metavar='RUN', help='a run folder of `mrdib train`')
    p.add_argument('--dataset', help='the data, where it has moved since training')
    p.add_argument(
        '--split', choices=['val', 'test'], default='test', metavar='NAME',
        help='the held-out edges: val or test (test)',
    )  # fmt: skip
    p.add_argument('--k', metavar='N,...', help='cut-offs (5,10,20,50)')
    p.add_argument(
        '--mask', choices=['train', 'train+val'], default='train', metavar='NAME',
        help="the user's items that are not ranked: train or train+val (train)",
    )  # fmt: skip
    p.add_argument('--json', action='store_true', help='print the metrics as JSON')


def _add_recommend(add: Callable[..., Parser]) -> None:
    p = add(
        'recommend',
        'RUN [options]',
        'Write the best items of users as CSV or JSON lines.',
        epilog='example: mrdib recommend runs/tiktok --users 3,17 --k 10',
    )
    p.add_argument('folder', metavar='RUN', help='a run folder of `mrdib train`')
    p.add_argument('--dataset', help='the data, where it has moved since training')
    p.add_argument(
        '--users', metavar='ID,...', help='ids separated by commas, or a file of ids (all users)'
    )
    p.add_argument('--k', metavar='N', type=int, help='items per user (20)')
    p.add_argument('--include-seen', action='store_true', help='rank training items too')
    p.add_argument('--out', metavar='FILE', help='a file (standard output)')
    p.add_argument('--json', action='store_true', help='one JSON object per user')


def _add_experiment(add: Callable[..., Parser]) -> None:
    p = add(
        'experiment',
        'FILE [options]',
        'Compare models without and with MRdIB: search, choose, test, and make the tables.',
        epilog='The same command continues what was interrupted, and tries again what failed.\n'
        'examples:\n'
        '  mrdib experiment examples/experiments/planted-small.toml --dry-run\n'
        '  mrdib experiment examples/experiments/planted-small.toml --workers 2\n'
        '  mrdib experiment examples/experiments/planted-small.toml --table --figures',
    )
    p.add_argument('file', metavar='FILE', help='a description, see docs/EXPERIMENTS.md')
    p.add_argument('--out', metavar='FOLDER', help='the folder of all runs (runs/NAME of FILE)')
    p.add_argument(
        '--root', metavar='FOLDER', default='.',
        help='what the folders of the data sets in FILE are relative to (.)',
    )  # fmt: skip
    p.add_argument('--models', metavar='NAME,...', help='only these models of FILE')
    p.add_argument(
        '--workers', metavar='N', type=int, default=1,
        help='processes side by side, of one thread each (1)',
    )  # fmt: skip
    p.add_argument('--device', metavar='NAME', default='auto', help='cpu, cuda or auto (auto)')
    p.add_argument('--dry-run', action='store_true', help='print the plan, and do nothing')
    p.add_argument('--table', action='store_true', help='make the tables of finished runs')
    p.add_argument('--figures', action='store_true', help='draw the figures too')
    p.add_argument('--json', action='store_true', help='print the summary as JSON')
    p.add_argument('--quiet', action='store_true', help='no progress bar')


def pairs(option: str, text: str, convert: Callable[[str, str], Any]) -> dict[str, Any]:
    r"""Reads ``name=value,...``."""
    out: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(','))):
        name, sep, value = (piece.strip() for piece in part.partition('='))
        if not (name and sep and value):
            raise Usage(f"{option} takes name=value pairs separated by commas (got '{part}')")
        if name in out:
            raise Usage(f"{option} names '{name}' twice")
        out[name] = convert(option, value)
    return out


def integers(option: str, text: str) -> list[int]:
    r"""Reads integers separated by commas or white space."""
    out = [integer(option, part) for part in text.replace(',', ' ').split()]
    if len(out) == 0:
        raise Usage(f'{option} names nothing; pass numbers separated by commas')
    return out


def number(option: str, text: str) -> float:
    r"""Reads a number."""
    try:
        return float(text)
    except ValueError:
        raise Usage(f"{option}: '{text}' is not a number") from None


def integer(option: str, text: str) -> int:
    r"""Reads an integer."""
    try:
        return int(text)
    except ValueError:
        raise Usage(f"{option}: '{text[:40]}' is not an integer") from None


def value(option: str, text: str) -> Any:
    r"""Reads a number, a truth value, nothing (``none``), or a word."""
    word = {'none': 'null', 'true': 'true', 'false': 'false'}.get(text.lower(), text)
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return text
