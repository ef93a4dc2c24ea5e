"""``mrdib models``: the models and their settings."""

import argparse
import inspect
import json
from typing import Any

from mrdib_pyg.commands.arguments import Add
from mrdib_pyg.commands.describe import describe


def add_arguments(add: Add) -> None:
    r"""Adds the command to the parser."""
    add('models', '', 'List the models and their settings.')


def run(args: argparse.Namespace) -> None:
    r"""Runs the command."""
    from mrdib_pyg.nn.models import MODELS

    for name, cls in sorted(MODELS.items()):
        describe(name, cls)
        for setting in list(inspect.signature(cls.__init__).parameters.values())[2:]:
            if setting.name != 'mrdib':
                print(f'    {setting.name}={setting.default}')
        for dataset, preset in cls.presets.items():
            text = ','.join(f'{name}={_printed(value)}' for name, value in preset.items())
            print(f'    published for {dataset}: {text}')


def _printed(value: Any) -> str:
    # As --set of `mrdib train` takes it.
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
