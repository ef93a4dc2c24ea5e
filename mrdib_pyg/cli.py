import argparse
import importlib.util
import inspect
import json
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrdib_pyg._arguments import (
    DEFAULT_WEIGHTS,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_WRONG,
    Usage,
    integers,
    number,
    pairs,
    parser,
    value,
)

# PyTorch is imported by the commands: `mrdib --help` should not wait for it.


def main(argv: Sequence[str] | None = None) -> int:
    r"""Runs the command line ``mrdib``.

    Args:
        argv (Sequence[str], optional): The arguments. (default: :obj:`None`, those of the process)

    Returns:
        int: 0 if done, 2 for wrong input or usage, 1 if it failed while running.
    """
    commands = {
        'train': _train,
        'evaluate': _evaluate,
        'recommend': _recommend,
        'demo': _demo,
        'experiment': _experiment,
        'models': _models,
        'datasets': _datasets,
    }
    args = parser(commands).parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            args.run(args)
            sys.stdout.flush()
    except (Usage, ValueError, FileNotFoundError, NotADirectoryError) as e:
        return _fail(e, EXIT_WRONG, args.debug)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        advice = {'train': '; continue with --resume', 'experiment': '; call it again to continue'}
        print(f'\nmrdib: stopped{advice.get(args.command, "")}', file=sys.stderr)
        return EXIT_FAILED
    except Exception as e:
        return _fail(e, EXIT_FAILED, args.debug)
    return EXIT_DONE


def _train(args: argparse.Namespace) -> None:
    weights = pairs('--weights', args.weights, number)
    settings = pairs('--set', args.set, value)
    mrdib = _mrdib(args, weights)
    out = _run_folder(
        args.out or f'runs/{Path(args.dataset).expanduser().resolve().name}-{args.model}',
        args.resume,
    )

    from mrdib_pyg.datasets import load_dataset
    from mrdib_pyg.nn.models import MODELS
    from mrdib_pyg.training import run

    if args.model not in MODELS:
        raise Usage(f"there is no model '{args.model}'; known are {', '.join(sorted(MODELS))}")
    results = run(
        load_dataset(args.dataset),
        args.model,
        settings=settings,
        mrdib=mrdib,
        seed=args.seed,
        test=not args.no_test,
        out=out,
        device=_device(args.device),
        dataset=_absolute(args.dataset),
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        weights=weights,
        patience=args.patience,
        monitor=args.monitor,
        resume=args.resume,
        progress=not args.quiet,
    )
    if args.json:
        print(json.dumps(results))
        return
    measured: dict[str, dict[str, float]] = {
        split: results[split] for split in ('val', 'test') if split in results
    }
    if measured:
        print(_table(measured))
    print(f'best epoch {results["best_epoch"]} of {results["num_epochs"]}; files in {out}')


def _mrdib(args: argparse.Namespace, weights: dict[str, float]) -> dict[str, Any] | None:
    r"""Returns the settings of MRdIB or of a control; adds the default weights."""
    if args.mrdib and args.control:
        raise Usage('--mrdib and --control exclude each other: a control takes its place')
    if args.redundancy and not args.mrdib:
        raise Usage('--redundancy is a setting of MRdIB: add --mrdib')
    if args.noise_scale is not None and args.control != 'noise':
        raise Usage('--noise-scale is a setting of a control: add --control noise')
    used = list(DEFAULT_WEIGHTS) if args.mrdib else ['bottleneck'] if args.control == 'l2' else []
    for name in DEFAULT_WEIGHTS:
        if name in weights and name not in used:
            raise Usage(f"--weights: without --mrdib there is no term '{name}'; add --mrdib")
    for name in used:
        weights.setdefault(name, DEFAULT_WEIGHTS[name])
    if args.mrdib:
        return {'redundancy': None if args.redundancy == 'none' else args.redundancy or 'mine'}
    if args.control == 'noise':
        scale = 0.1 if args.noise_scale is None else args.noise_scale
        return {'control': 'noise', 'noise_scale': scale}
    return {'control': 'l2'} if args.control == 'l2' else None


def _evaluate(args: argparse.Namespace) -> None:
    k = None if args.k is None else integers('--k', args.k)
    model, data = _load_run(args)

    from mrdib_pyg.evaluation import evaluate

    if k is None:  # like `train`: the cut-offs that the catalogue allows
        k = [n for n in (5, 10, 20, 50) if n <= model.num_items] or [model.num_items]
    values = evaluate(model, data, args.split, k=k, mask=args.mask)
    print(json.dumps(values) if args.json else _table({args.split: values}))


def _recommend(args: argparse.Namespace) -> None:
    if args.out is not None and (Path(args.out).is_dir() or not Path(args.out).parent.is_dir()):
        raise Usage(f"--out '{args.out}' must be a file in a folder that exists")
    users = None if args.users is None else _users(args.users)
    model, data = _load_run(args)

    import torch

    from mrdib_pyg.training import write_atomic

    user = None
    if users is not None:
        if not 0 <= min(users) <= max(users) < model.num_users:
            wrong = next(u for u in users if not 0 <= u < model.num_users)
            raise Usage(f'--users must be ids from 0 to {model.num_users - 1} (got {wrong})')
        user = torch.tensor(users)
    k = min(20, model.num_items) if args.k is None else args.k
    score, item = model.recommend(user, k=k, exclude_seen=not args.include_seen)
    lines: list[str] = [] if args.json else ['userID,rank,itemID,score']
    for u, items, scores in zip(users or range(model.num_users), item.tolist(), score.tolist()):
        ranked = [(i, s) for i, s in zip(items, scores) if i >= 0]
        if args.json:
            row = {'user': u, 'item': [i for i, _ in ranked], 'score': [s for _, s in ranked]}
            lines.append(json.dumps(row))
        else:
            lines += [f'{u},{rank},{i},{s:.6g}' for rank, (i, s) in enumerate(ranked, start=1)]
    text = '\n'.join(lines) + '\n'
    if args.out is None:
        sys.stdout.write(text)
    else:
        write_atomic(Path(args.out), text.encode())


def _users(text: str) -> list[int]:
    if os.path.isfile(text):  # unlike Path.is_file, takes a text too long for a name
        try:
            return integers(f"--users, file '{text}'", Path(text).read_text(encoding='utf-8'))
        except UnicodeDecodeError:
            raise Usage(f"--users: '{text}' is not a text file of ids") from None
    try:
        return integers('--users', text)
    except Usage as e:
        raise Usage(f'{e}, and there is no such file') from None


def _demo(args: argparse.Namespace) -> None:
    from mrdib_pyg.demo import demo

    print(demo(Path(args.out), seed=args.seed, progress=not args.quiet))


def _experiment(args: argparse.Namespace) -> None:
    models = None if args.models is None else args.models.replace(',', ' ').split()
    cores = os.cpu_count() or 1
    if not 1 <= args.workers <= cores:
        raise Usage(f'--workers must lie between 1 and the {cores} cores (got {args.workers})')
    if args.figures and importlib.util.find_spec('matplotlib') is None:
        raise Usage("--figures needs matplotlib: pip install 'mrdib_pyg[report]'")

    from mrdib_pyg.training.experiment import (
        Records,
        check_data,
        load_experiment,
        plan,
        run_experiment,
        save_report,
    )

    experiment = load_experiment(args.file, models)
    out = Path(args.out or f'runs/{experiment.name}')
    if args.dry_run:
        check_data(experiment, Records(out), args.root)
        print(plan(experiment, Records(out)))
        return
    if not args.table:
        device = _device(args.device)
        failures = run_experiment(
            experiment, out, args.root, args.workers, device, progress=not args.quiet
        )
        if failures:
            first = failures[0]
            raise RuntimeError(
                f'{len(failures)} of the runs failed, first {first.name}: {first.reason}; the logs '
                f'are in {out / "logs"}; call it again to try them again'
            )
    summary = save_report(experiment, out, figures=args.figures)
    if args.json:
        print(json.dumps(summary))
    elif args.table:
        print((out / 'table.md').read_text(encoding='utf-8'), end='')
    else:
        print(f'all runs are finished; tables in {out / "table.md"} and {out / "table.csv"}')


def _models(args: argparse.Namespace) -> None:
    from mrdib_pyg.nn.models import MODELS

    for name, cls in sorted(MODELS.items()):
        _describe(name, cls)
        for setting in list(inspect.signature(cls.__init__).parameters.values())[2:]:
            if setting.name != 'mrdib':
                print(f'    {setting.name}={setting.default}')
        for dataset, preset in cls.presets.items():
            text = ','.join(f'{name}={value}' for name, value in preset.items())
            print(f'    published for {dataset}: {text}')


def _datasets(args: argparse.Namespace) -> None:
    from mrdib_pyg.datasets import DATASETS, InteractionFolder

    for name, cls in sorted(DATASETS.items()):
        _describe(name, cls)
    _describe('FOLDER', InteractionFolder)
    print('    <name>.inter, tab separated: userID itemID x_label (0 train, 1 validation, 2 test)')
    print('    <modality>_feat.npy: a row per item; <modality>_mask.npy: which items have it')


def _describe(name: str, cls: type) -> None:
    r"""Prints a name and the first paragraph of its documentation, without its markup."""
    text = ' '.join((inspect.getdoc(cls) or '').split('\n\n')[0].split()).rstrip(',')
    text = re.sub(r' :math:`[^`]*`', '', text)  # formulas need more than a terminal
    text = re.sub(r':\w+:`~?(?:[\w.]+\.)?(\w+)`', r'\1', text)
    text = re.sub(r'`([^`<]+?)\s*<[^>]*>`_', r'\1', text)
    print(f'{name} ({cls.__name__})')
    print(textwrap.fill(text, 88, initial_indent='  ', subsequent_indent='  '))


def _load_run(args: argparse.Namespace) -> Any:
    folder = Path(args.folder)
    if not folder.is_dir():
        raise Usage(f"there is no run folder '{folder}'; make one with `mrdib train --out`")
    dataset = args.dataset
    if dataset is None:
        try:
            dataset = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['dataset']
            assert isinstance(dataset, str)
        except (OSError, ValueError, KeyError, TypeError, AssertionError):
            raise Usage(
                f"'{folder}' has no readable config.json, so it is no run folder; pass a folder "
                f'made by `mrdib train`, or --dataset'
            ) from None

    from mrdib_pyg.datasets import DATASETS, load_dataset
    from mrdib_pyg.training import load_model

    if args.dataset is None and dataset not in DATASETS and not os.path.isdir(dataset):
        raise Usage(f"the data of this run, '{dataset}', have moved; name them by --dataset")
    data = load_dataset(dataset)
    model, _ = load_model(folder / 'best.pt', data)
    return model, data


def _run_folder(out: str, resume: bool) -> Path:
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise Usage(f"--out '{path}' is a file; name a folder")
    names = {p.name for p in path.iterdir()} if path.is_dir() else set()
    if names and not resume:
        raise Usage(f"--out '{path}' is not empty; add --resume, or name another folder")
    if names and 'config.json' not in names and not all(n.startswith('.') for n in names):
        raise Usage(f"--out '{path}' holds no run to resume; name the folder of a run")
    return path


def _device(name: str) -> str:
    import torch

    if re.fullmatch(r'auto|cpu|cuda(:\d+)?', name) is None:
        raise Usage(f"--device must be cpu, cuda, cuda:N or auto (got '{name}')")
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if name.startswith('cuda') and int(name[5:] or 0) >= torch.cuda.device_count():
        raise Usage(f"--device '{name}': this PyTorch sees no such device; use --device cpu")
    return name


def _absolute(dataset: str) -> str:
    from mrdib_pyg.datasets import DATASETS

    return dataset if dataset in DATASETS else str(Path(dataset).expanduser().resolve())


def _table(rows: dict[str, dict[str, float]]) -> str:
    cutoffs = sorted({int(key.split('@')[1]) for row in rows.values() for key in row})
    names = ('recall', 'ndcg', 'precision', 'map')
    lines = [' ' * 8 + ''.join(f'{name:>11}' for name in names)]
    for split, row in rows.items():
        for k in cutoffs:
            cells = ''.join(f'{row[f"{name}@{k}"]:11.4f}' for name in names)
            lines.append(f'{f"{split}@{k}":8}{cells}')
    return '\n'.join(lines)


def _show_warning(message: Any, category: Any, filename: str, lineno: int, *args: Any) -> None:
    print('warning:', ' '.join(str(message).split()), file=sys.stderr)


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    reason = ' '.join(str(error).split()) or type(error).__name__
    print(f'mrdib: {reason}', file=sys.stderr)
    return code


if __name__ == '__main__':
    sys.exit(main())
