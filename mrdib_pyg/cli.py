import argparse
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from mrdib_pyg import __version__
from mrdib_pyg.commands import COMMANDS
from mrdib_pyg.commands.arguments import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_WRONG,
    CommandFormatter,
    Parser,
    Usage,
)

#: The commands that torchrun may start in several processes.
SEVERAL_PROCESSES = ('train', 'evaluate', 'recommend')


def main(argv: Sequence[str] | None = None) -> int:
    r"""Runs the command line ``mrdib``.

    Args:
        argv (Sequence[str], optional): The arguments. (default: :obj:`None`, those of the process)

    Returns:
        int: 0 if done, 2 for wrong input or usage, 1 if it failed while running.
    """
    for stream in (sys.stdout, sys.stderr):  # ids and paths that it cannot encode are escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    parser, commands = _parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        commands[args.command].error(f'unrecognized arguments: {" ".join(unknown)}')
    options = _options(commands[args.command], args)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            _check_processes(args.command)
            args.run(args)
            sys.stdout.flush()
    except (Usage, ValueError, FileNotFoundError, NotADirectoryError) as e:
        return _fail(e, EXIT_WRONG, args.debug, options)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        advice = {
            'train': '; continue with --resume',
            'experiment': '; call it again to continue',
            'prepare': '; nothing is written; a download continues when it is called again',
        }
        print(f'\nmrdib: stopped{advice.get(args.command, "")}', file=sys.stderr)
        return EXIT_FAILED
    except Exception as e:
        return _fail(e, EXIT_FAILED, args.debug, options)
    return EXIT_DONE


def _parser() -> tuple[Parser, dict[str, Parser]]:
    r"""Returns the parser of all arguments, and those of the commands by name."""
    out = Parser(
        prog='mrdib',
        description='Multimodal recommendation with a representation-disentangled information '
        'bottleneck.',
        epilog='`mrdib COMMAND --help` tells more. Exit codes: 0 done, 2 wrong input or usage, '
        '1 failed while running.',
    )
    out.add_argument('--version', action='version', version=f'mrdib_pyg {__version__}')
    subparsers = out.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add(run: Callable[[argparse.Namespace], None]) -> Callable[..., Parser]:
        def add_one(name: str, usage: str, summary: str, epilog: str | None = None) -> Parser:
            p = subparsers.add_parser(
                name, usage=f'mrdib {name} {usage}'.strip(), help=summary, description=summary,
                epilog=epilog, formatter_class=CommandFormatter, allow_abbrev=False,
            )  # fmt: skip
            p.set_defaults(run=run)
            p.add_argument('--debug', action='store_true', help='show the traceback of an error')
            return p

        return add_one

    for name in COMMANDS:
        command = importlib.import_module(f'mrdib_pyg.commands.{name}')
        command.add_arguments(add(command.run))
    return out, subparsers.choices


def _check_processes(command: str) -> None:
    # By environment variables alone: most commands start before PyTorch is imported.
    size = os.environ.get('WORLD_SIZE', '1')
    if 'TORCHELASTIC_RUN_ID' in os.environ and size != '1' and command not in SEVERAL_PROCESSES:
        raise Usage(
            f'`mrdib {command}` runs in one process (torchrun has started {size}); only '
            f'{", ".join(SEVERAL_PROCESSES)} run in several'
        )


def _options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, str]:
    r"""Returns the options of a command, or of its own subcommand, by the names of their values."""
    out: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            out |= _options(action.choices[getattr(args, action.dest)], args)
        elif action.option_strings:
            out[action.dest] = action.option_strings[-1]
    return out


def _show_warning(message: Any, category: Any, filename: str, lineno: int, *args: Any) -> None:
    print('warning:', ' '.join(str(message).split()), file=sys.stderr)


def _fail(error: Exception, code: int, debug: bool, options: dict[str, str]) -> int:
    if debug:
        traceback.print_exc()
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        reason = f"{error.strerror}: '{os.fsdecode(error.filename)}'"
    else:
        reason = ' '.join(str(error).split()) or type(error).__name__
    # Ids and names of files are not to move the cursor.
    reason = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in reason)
    print(f'mrdib: {_with_options(reason, options)}', file=sys.stderr)
    return code


def _with_options(reason: str, options: dict[str, str]) -> str:
    r"""Returns a message with the options of a command in place of arguments in Python."""
    for name, option in options.items():
        if '_' in name:  # a word that no data have by accident
            reason = reason.replace(f"'{name}'", option)
        elif reason.startswith(f"'{name}' "):
            reason = reason.replace(f"'{name}'", option, 1)
    if 'no_quotes' in options:
        reason = reason.replace('pass quote=False', 'add --no-quotes')
        reason = reason.replace("that as 'sep'", 'that to --sep').replace(
            "pass 'sep'", 'pass --sep'
        )
        reason = reason.replace("header=False and 'names'", '--header none and --names').replace(
            "header=False, 'names'", '--header none --names'
        )
        reason = reason.replace('pass force=True', 'add --force')
    return reason


if __name__ == '__main__':
    sys.exit(main())
