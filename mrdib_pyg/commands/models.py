"""``mrdib models``: the models and their settings."""

import argparse
import inspect
import json
from typing import Any

from mrdib_pyg.commands.arguments import Add, describe, find_class


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    p = add('models', '[NAME ...]', 'List the models and their settings.')
    p.add_argument(
        'names', metavar='NAME', nargs='*', help='only these; MODULE:CLASS is a model of your own'
    )


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    from mrdib_pyg.nn.models import MODELS
    from mrdib_pyg.nn.models.registry import model_name, model_settings

    for cls in map(find_class, args.names or sorted(MODELS)):
        describe(model_name(cls), cls)
        for name, default in model_settings(cls).items():
            print(f'    {name}' if default is inspect.Parameter.empty else f'    {name}={default}')
        for dataset, preset in cls.presets.items() if 'presets' in vars(cls) else ():
            text = ','.join(f'{name}={_printed(value)}' for name, value in preset.items())
            print(f'    published for {dataset}: {text}')


def _printed(value: Any) -> str:
    # The form that --set of `mrdib train` takes.
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
