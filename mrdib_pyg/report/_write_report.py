import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

import mrdib_pyg
from mrdib_pyg.files import write_atomic
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.nn.models.registry import is_of_model
from mrdib_pyg.report import charts
from mrdib_pyg.report.decomposition_section import decomposition_section
from mrdib_pyg.report.model_facts import (
    ModelFacts,
    NamedData,
    choose_users,
    load_named_data,
    look_into,
)
from mrdib_pyg.report.model_section import map_section, recommendations_section, width_section
from mrdib_pyg.report.page import GENERATOR, Section, figures_of, render
from mrdib_pyg.report.results_section import (
    curves_section,
    headlines,
    results_section,
    settings_section,
)
from mrdib_pyg.report.runs import (
    Group,
    RunFolder,
    by_dataset,
    distinguish,
    group_runs,
    load_run_folder,
    runs_of,
)
from mrdib_pyg.training import CheckpointError

METHODS = ('tsne', 'pca')

MAX_MODELS = 8  # loaded for codes, posteriors and recommendations


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
    progress: bool = False,
) -> Path:
    r"""Writes one HTML page about one or more runs. It opens without a network.

    Runs that differ only in their seed form one row of the results. Codes, posteriors and
    recommendations are those of the first run of each row, at its best epoch. The same runs and
    arguments give the same file.

    Args:
        runs (Sequence[str or Path]): Folders made by ``mrdib train``.
        out (str or Path, optional): The file, ``*.html`` in a folder that exists. It may replace a
            report, but no other file. (default: :obj:`None`, ``report.html`` in the first folder)
        dataset (str, optional): The data, where they have moved since training. Sections that need
            missing data say so. (default: :obj:`None`, the data named by the runs)
        users (Sequence[str], optional): The users whose recommendations are shown, by their raw ids
            if the data have them, else by index. (default: :obj:`None`, some at random)
        num_users (int, optional): The number of users drawn without :obj:`users`.
            (default: :obj:`3`)
        k (int, optional): The number of items per user. (default: :obj:`10`)
        method (str, optional): The projection of the item codes, :obj:`"tsne"` or
            :obj:`"pca"`. (default: ``'tsne'``)
        num_items (int, optional): The largest number of items in a map. (default: :obj:`400`)
        seed (int, optional): Seeds the choice of users and items, and the map.
            (default: :obj:`0`)
        figures (str or Path, optional): A folder for every figure as PNG, created if missing.
            (default: :obj:`None`)
        models (Sequence[Type[Recommender]], optional): The classes of models of your own, needed to
            load them. The report notes the errors they raise. (default: :obj:`()`)
        progress (bool, optional): If set to :obj:`True`, shows a progress bar on a terminal.
            (default: :obj:`False`)

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a folder is not a run, :obj:`out` exists and is not a report, a setting is
            out of range, a user does not exist, or a chart library is missing. Nothing is written
            in these cases.
    """
    if len(runs) == 0:
        raise ValueError("'runs' is empty; pass the folder of at least one run")
    if method not in METHODS:
        raise ValueError(f"'method' must be one of {list(METHODS)} (got '{method}')")
    limits = (
        ('k', k, 1),
        ('num_users', num_users, 0),
        ('num_items', num_items, 3),
        ('seed', seed, 0),
    )
    for name, value, low in limits:
        if value < low:
            raise ValueError(f"'{name}' must be at least {low} (got {value})")
    out = Path(runs[0]) / 'report.html' if out is None else Path(out)
    charts.check_installed()
    found: dict[Path, RunFolder] = {}
    for path in runs:  # a folder that is named twice counts once
        found.setdefault(Path(path).resolve(), load_run_folder(path))
    _check_out(out)
    if figures is not None and Path(figures).exists() and not Path(figures).is_dir():
        raise ValueError(f"'figures' must be a folder (got the file '{figures}')")

    groups = group_runs(distinguish(list(found.values())))
    facts: dict[int, ModelFacts] = {}
    notes: list[str] = []
    look = partial(look_into, k=k, method=method, num_items=num_items, seed=seed)
    sources: dict[tuple[str, str], NamedData] = {}
    steps: list[tuple[str, Callable[[], Section]]] = [
        ('results', lambda: results_section(groups)),
        ('training', lambda: curves_section(groups)),
        ('decomposition', lambda: decomposition_section(groups)),
        ('item codes', lambda: map_section(groups, facts, notes, method)),
        ('posteriors', lambda: width_section(groups, facts, notes)),
        ('recommendations', lambda: recommendations_section(groups, facts, notes)),
        ('settings', lambda: settings_section(groups)),
    ]
    num_models = min(len(groups), MAX_MODELS)
    bar = tqdm(total=num_models + len(steps) + 1, disable=None if progress else True, leave=False)
    with bar:

        def tell(step: str) -> None:
            bar.set_description(step)
            bar.update()

        for group in groups[:MAX_MODELS]:
            run = group.first
            tell(f'looking into {run.name}')
            key = str(run.config.get('dataset')), str(run.config.get('data_hash'))
            try:
                if key not in sources:
                    sources[key] = load_named_data(run, dataset)
                source = sources[key]
            except (ValueError, OSError) as e:
                notes.append(f'{run.path}: {e}')
                continue
            chosen = choose_users(source, users, num_users, seed)
            cls = _class_of(str(run.config['model']), models)
            try:
                facts[group.number] = look(run, source, chosen, cls=cls)
            except (CheckpointError, OSError) as e:
                notes.append(f'{run.path}: {e}')
            except Exception as e:
                if cls is None:
                    raise
                # The code of the user failed. The other sections do without it.
                notes.append(f"{run.path}: '{cls.__name__}' raised {type(e).__name__}: {e}")
        if len(groups) > MAX_MODELS:
            notes.append(f'Only the first {MAX_MODELS} of {len(groups)} models are shown here.')

        sections = []
        for name, make in steps:
            tell(name)
            sections.append(make())
        tell('page')
        about = _about(groups, facts)
        text = render(_title(groups), headlines(groups), about, sections, mrdib_pyg.__version__)
        drawn = figures_of(sections) if figures is not None else []
        pictures = {figure.name: charts.png(figure.spec, figure.title) for figure in drawn}
    if figures is not None:
        Path(figures).mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            write_atomic(Path(figures) / f'{name}.png', picture)
    write_atomic(out, text.encode())
    return out


def _check_out(out: Path) -> None:
    r"""Refuses to replace anything but a report; a link is replaced and never followed."""
    if not out.parent.is_dir():
        raise ValueError(f"'out' must be a file in a folder that exists (got '{out}')")
    if out.suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f"'out' must end in .html (got '{out}')")
    try:
        mode = out.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        return
    is_report = False
    if stat.S_ISREG(mode):
        with open(out, 'rb') as file:
            is_report = GENERATOR.encode() in file.read(4096)
    if not is_report:
        raise ValueError(
            f"'out' must be a new file or an existing report (got '{out}'); name another file"
        )


def _class_of(name: str, models: Sequence[type[Recommender]]) -> type[Recommender] | None:
    found = [cls for cls in models if is_of_model(name, cls)]
    return found[0] if len(found) == 1 else None


def _title(groups: Sequence[Group]) -> str:
    models = list(dict.fromkeys(group.first.config['model'] for group in groups))
    return f'{_join(models)} on {_join(list(by_dataset(groups)))}'


def _about(groups: Sequence[Group], facts: dict[int, ModelFacts]) -> list[str]:
    runs = len(runs_of(groups))
    settings = f'{len(groups)} settings' if len(groups) > 1 else 'one setting'
    out = [f'{runs} runs of {settings}' if runs > 1 else '1 run']
    datasets = by_dataset(groups)
    for dataset, members in datasets.items():
        known = [facts[group.number] for group in members if group.number in facts]
        if known:
            sizes = ', '.join(f'{number:,} {name}' for name, number in known[0].counts.items())
            out.append(sizes if len(datasets) == 1 else f'{dataset}: {sizes}')
    return out


def _join(names: Sequence[str]) -> str:
    if len(names) > 3:
        return ', '.join(names[:3]) + ' and more'
    return ' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)
