from collections.abc import Sequence
from pathlib import Path

import mrdib_pyg
from mrdib_pyg.files import write_atomic
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.nn.models.registry import is_of_model
from mrdib_pyg.report import charts
from mrdib_pyg.report.decomposition_section import (
    decomposition_section,
    map_section,
    recommendations_section,
    width_section,
)
from mrdib_pyg.report.model_facts import Facts, Source, choose_users, load_source, look_into
from mrdib_pyg.report.page import Figure, figures_of, render
from mrdib_pyg.report.results_section import (
    curves_section,
    headlines,
    results_section,
    settings_section,
)
from mrdib_pyg.report.runs import Group, RunFolder, distinguish, group_runs, load_run_folder
from mrdib_pyg.training import CheckpointError

METHODS = ('tsne', 'pca')

MAX_MODELS = 8  # that are loaded and looked into


def write_report(
    runs: Sequence[str | Path],
    out: None | str | Path = None,
    *,
    dataset: str | None = None,
    users: None | Sequence[str] = None,
    num_users: int = 3,
    k: int = 10,
    method: str = 'tsne',
    num_items: int = 400,
    seed: int = 0,
    figures: None | str | Path = None,
    models: Sequence[type[Recommender]] = (),
) -> Path:
    r"""Makes one HTML file of the files of one or more runs. It needs no network.

    Runs that differ in nothing but their seed are one row of the results. Where a model has to be
    looked into, it is that of the first run of each such group, at its best epoch. The same runs
    and arguments give the same file.

    Args:
        runs (Sequence[str or Path]): Folders made by ``mrdib train``.
        out (str or Path, optional): The file; its folder must exist.
            (default: :obj:`None`, ``report.html`` in the first folder)
        dataset (str, optional): The data, where they have moved since training.
            (default: :obj:`None`, what the runs name; without data the sections that need them say
            so)
        users (Sequence[str], optional): The users to show recommendations of, by their own ids
            where the data have them, else by index. (default: :obj:`None`, some at random)
        num_users (int, optional): The number of users drawn without :obj:`users`.
            (default: :obj:`3`)
        k (int, optional): The number of items per user. (default: :obj:`10`)
        method (str, optional): How the map of item codes is made, :obj:`"tsne"` or
            :obj:`"pca"`. (default: ``'tsne'``)
        num_items (int, optional): The largest number of items in a map. (default: :obj:`400`)
        seed (int, optional): Seeds the choice of users and items, and the map.
            (default: :obj:`0`)
        figures (str or Path, optional): A folder, which is made, for every figure as PNG.
            (default: :obj:`None`)
        models (Sequence[Type[Recommender]], optional): The classes of models of your own, without
            which these cannot be looked into. What one of them raises is noted in the report.
            (default: :obj:`()`)

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a folder is no run, a setting is out of range, a user does not exist, or
            the libraries of the charts are not installed. Nothing has been written then.
    """
    if len(runs) == 0:
        raise ValueError("'runs' is empty; pass the folder of at least one run")
    if method not in METHODS:
        raise ValueError(f"'method' must be one of {list(METHODS)} (got '{method}')")
    for name, value, low in (('k', k, 1), ('num_users', num_users, 0), ('num_items', num_items, 3)):
        if value < low:
            raise ValueError(f"'{name}' must be at least {low} (got {value})")
    out = Path(runs[0]) / 'report.html' if out is None else Path(out)
    charts.check_installed()
    found: dict[Path, RunFolder] = {}
    for path in runs:  # a folder that is named twice counts once
        found.setdefault(Path(path).resolve(), load_run_folder(path))
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"'out' ('{out}') must be a file in a folder that exists")
    if figures is not None and Path(figures).exists() and not Path(figures).is_dir():
        raise ValueError(f"'figures' ('{figures}') is a file; name a folder")

    groups = group_runs(distinguish(list(found.values())))
    facts: dict[int, Facts] = {}
    notes: list[str] = []
    sources: dict[tuple[str, str], Source] = {}
    for group in groups[:MAX_MODELS]:
        run = group.first
        key = str(run.config.get('dataset')), str(run.config.get('data_hash'))
        try:
            if key not in sources:
                sources[key] = load_source(run, dataset)
            source = sources[key]
        except (ValueError, OSError) as e:
            notes.append(f'{run.path}: {e}')
            continue
        chosen = choose_users(source, users, num_users, seed)
        cls = _class_of(str(run.config['model']), models)
        try:
            facts[group.number] = look_into(
                run, source, chosen, k=k, method=method, num_items=num_items, seed=seed, cls=cls
            )
        except (CheckpointError, OSError) as e:
            notes.append(f'{run.path}: {e}')
        except Exception as e:
            if cls is None:
                raise
            # Of code that is not ours: the other sections do without it.
            notes.append(f"{run.path}: '{cls.__name__}' raised {type(e).__name__}: {e}")
    if len(groups) > MAX_MODELS:
        notes.append(f'Only the first {MAX_MODELS} of {len(groups)} models were looked into.')

    sections = [
        results_section(groups),
        curves_section(groups),
        decomposition_section(groups),
        map_section(groups, facts, notes, method),
        width_section(groups, facts, notes),
        recommendations_section(groups, facts, notes),
        settings_section(groups),
    ]
    text = render(
        _title(groups), headlines(groups), _about(groups, facts), sections, mrdib_pyg.__version__
    )
    pictures = [] if figures is None else [(f, _png(f)) for f in figures_of(sections)]
    if figures is not None:
        Path(figures).mkdir(parents=True, exist_ok=True)
        for figure, content in pictures:
            write_atomic(Path(figures) / f'{figure.name}.png', content)
    write_atomic(out, text.encode())
    return out


def _class_of(name: str, models: Sequence[type[Recommender]]) -> type[Recommender] | None:
    found = [cls for cls in models if is_of_model(name, cls)]
    return found[0] if len(found) == 1 else None


def _png(figure: Figure) -> bytes:
    return charts.png(figure.spec, figure.title)


def _title(groups: Sequence[Group]) -> str:
    models = list(dict.fromkeys(group.first.config['model'] for group in groups))
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    return f'{_join(models)} on {_join(datasets)}'


def _about(groups: Sequence[Group], facts: dict[int, Facts]) -> list[str]:
    runs = sum(len(group.runs) for group in groups)
    settings = f'{len(groups)} settings' if len(groups) > 1 else 'one setting'
    out = [f'{runs} runs of {settings}' if runs > 1 else '1 run']
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    for dataset in datasets:
        known = [facts[g.number] for g in groups if g.dataset == dataset and g.number in facts]
        if known:
            sizes = ', '.join(f'{number:,} {name}' for name, number in known[0].counts.items())
            out.append(sizes if len(datasets) == 1 else f'{dataset}: {sizes}')
    return out


def _join(names: Sequence[str]) -> str:
    if len(names) > 3:
        return ', '.join(names[:3]) + ' and more'
    return ' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)
