"""The commands of ``mrdib``: a file each, with ``add_arguments(add)`` and ``run(args)``.

Nothing here is meant for import from elsewhere. Commands import PyTorch only when they run:
``mrdib --help`` should not wait for it.
"""

#: The commands, in the order of ``mrdib --help``; each is the module of its name.
COMMANDS = (
    'prepare',
    'inspect',
    'train',
    'evaluate',
    'recommend',
    'export',
    'serve',
    'measure',
    'explain',
    'demo',
    'experiment',
    'report',
    'models',
    'datasets',
)

__all__: list[str] = []
