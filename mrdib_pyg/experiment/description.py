"""The settings that are tried: a value is fixed, a list is searched."""

import importlib
import json
import math
import os.path as osp
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrdib_pyg.experiment import checks
from mrdib_pyg.files import is_there

KeyPath = tuple[str, ...]

Axes = dict[KeyPath, list[Any]]

Row = dict[KeyPath, Any]


def axes(table: Mapping[str, Any], where: str, prefix: KeyPath = ()) -> Axes:
    r"""Returns the values of each setting of a table, by its path within the table.

    Args:
        table (Dict[str, Any]): A value is fixed, a list is searched; tables may be nested.
        where (str): What to call the table in errors.
        prefix (Tuple[str, ...], optional): The path of the table. (default: :obj:`()`)

    Raises:
        ValueError: If a list is empty or names a value twice.
    """
    out: Axes = {}
    for name, value in table.items():
        path = (*prefix, name)
        if isinstance(value, Mapping):
            out |= axes(value, where, path)
            continue
        values = value if isinstance(value, list) else [value]
        if len(values) == 0:
            raise ValueError(f"{where}: '{'.'.join(path)}' lists no value; name one, or leave it")
        if any(x in values[:i] for i, x in enumerate(values)):
            raise ValueError(f"{where}: '{'.'.join(path)}' lists a value twice; leave one out")
        out[path] = values
    return out


def size(grid: Axes) -> int:
    r"""Returns the number of points of a grid."""
    return math.prod(len(values) for values in grid.values())


def nest(row: Row) -> dict[str, Any]:
    r"""Returns a point of a grid as nested dictionaries."""
    out: dict[str, Any] = {}
    for path, value in row.items():
        inner = out
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return out


def draw(base: Axes, own: Axes, n: int, seed: str, own_seed: str) -> list[tuple[Row, Row]]:
    r"""Draws ``n`` different points of the product of two grids, balanced: every value of a
    setting comes up as often as any other, up to one, where the grid allows it.

    The points of ``base`` depend on ``seed`` alone: the variants of a model, which have their own
    grids, share them trial by trial. A product of exactly ``n`` points is listed in full.

    Args:
        base (Dict[Tuple[str, ...], List]): The grid of the model.
        own (Dict[Tuple[str, ...], List]): The grid of the variant.
        n (int): The number of points.
        seed (str): Seeds the draw of ``base``.
        own_seed (str): Seeds the draw of ``own``.

    Raises:
        ValueError: If the product has fewer points.
    """
    if size(base) * size(own) < n:
        raise ValueError(f'{size(base) * size(own)} settings, fewer than {n}')
    points = _distinct(base, min(n, size(base)), random.Random(seed))
    points = [points[i % len(points)] for i in range(n)]
    rng = random.Random(own_seed)
    if size(base) < n:  # a point of `base` comes up several times: with other points of `own`
        needed = [len(range(i, n, size(base))) for i in range(min(n, size(base)))]
        per_point = [_distinct(own, count, rng) for count in needed]
        own_points = [per_point[i % len(per_point)][i // len(per_point)] for i in range(n)]
    else:
        own_points = _balanced(own, n, rng)
    return list(zip(points, own_points))


def _distinct(grid: Axes, n: int, rng: random.Random) -> list[Row]:
    total = size(grid)
    if n == total:
        return [_point(grid, i) for i in range(total)]
    for _ in range(1000):
        rows = _balanced(grid, n, rng)
        if all(row not in rows[:i] for i, row in enumerate(rows)):
            return rows
    return [_point(grid, i) for i in sorted(rng.sample(range(total), n))]


def _balanced(grid: Axes, n: int, rng: random.Random) -> list[Row]:
    columns = []
    for values in grid.values():
        column: list[Any] = []
        while len(column) < n:
            column += rng.sample(values, len(values))
        column = column[:n]
        rng.shuffle(column)
        columns.append(column)
    return [dict(zip(grid, [column[i] for column in columns])) for i in range(n)]


def _point(grid: Axes, index: int) -> Row:
    out: Row = {}
    for path, values in reversed(grid.items()):
        index, i = divmod(index, len(values))
        out[path] = values[i]
    return {path: out[path] for path in grid}


KINDS = ('plain', 'l2', 'noise', 'mrdib')

#: The weights that each kind of variant takes.
TERMS: dict[str, tuple[str, ...]] = {
    'plain': (),
    'l2': ('bottleneck',),
    'noise': (),
    'mrdib': ('bottleneck', 'redundant', 'unique'),
}

DEFAULTS: dict[str, Any] = {
    'trials': [12, 4],
    'selection_seeds': [101, 102],
    'seeds': [1, 2, 3, 4, 5],
    'k': [5, 10, 20],
    'monitor': 'recall@20',
    'search_seed': 0,
    'fit': {},
    'groups': {},
    'epoch_seconds': {},
}


class Source(NamedTuple):
    r"""A data set: its name in the results, where it is, and arguments of its class."""

    name: str
    path: str
    kwargs: dict[str, Any]


class Cell(NamedTuple):
    r"""A model in one variant on one data set, with the settings that are tried, and the name of
    its class, as :func:`~mrdib_pyg.nn.models.find_model` takes it.
    """

    dataset: Source
    model: str
    variant: str
    kind: str
    settings: list[dict[str, Any]]
    class_name: str


class Experiment:
    r"""What an experiment compares: models times data sets times variants, each with the same
    number of trials, chosen on the validation edges.

    Args:
        description (Dict[str, Any]): The content of the file, see ``docs/EXPERIMENTS.md``.
        name (str, optional): What to call the experiment. (default: ``'experiment'``)
        models (Sequence[str], optional): Takes these models of the description alone.
            (default: :obj:`None`, all)
        imports (bool, optional): If set to :obj:`False`, the modules of models of your own are not
            imported, and the settings of these models not checked. (default: :obj:`True`)

    Raises:
        ValueError: If something is missing, unknown, out of range, or does not fit together; the
            message names it and says what to do.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        name: str = 'experiment',
        models: Sequence[str] | None = None,
        imports: bool = True,
    ) -> None:
        self.name, self._imports = name, imports
        try:
            self.description = json.loads(json.dumps(description))  # a copy that is surely plain
        except TypeError as e:  # TOML has dates
            raise ValueError(
                f'the description may hold numbers, words, truth values, lists and tables ({e})'
            ) from None
        raw = {**DEFAULTS, **self.description}
        checks.keys('the description', raw, [*DEFAULTS, 'datasets', 'models', 'variants'])
        for key in ('datasets', 'models', 'variants'):
            if not raw.get(key):
                raise ValueError(f"the description names no {key}: add '{key}'")
        checks.tables(raw)
        self.trials = checks.integers('trials', raw['trials'], low=1)
        self.selection_seeds = checks.integers('selection_seeds', raw['selection_seeds'])
        self.seeds = checks.integers('seeds', raw['seeds'])
        self.k = sorted(checks.integers('k', raw['k'], low=1))
        checks.protocol(self.trials, self.selection_seeds, self.seeds)
        self.monitor = str(raw['monitor'])
        checks.monitor(self.monitor, self.k)
        self.search_seed = checks.integers('search_seed', [raw['search_seed']])[0]
        self.epoch_seconds: dict[str, float] = raw['epoch_seconds']
        self.groups: dict[str, list[str]] = raw['groups']
        self.datasets = [_source(entry) for entry in raw['datasets']]
        checks.unique('datasets', [source.name for source in self.datasets])

        chosen = list(raw['models']) if models is None else list(models)
        for model in chosen:
            if model not in raw['models']:
                raise ValueError(
                    f"the description has no model '{model}'; it has {sorted(raw['models'])}"
                )
        self._models = {model: raw['models'][model] for model in raw['models'] if model in chosen}
        self._variants: dict[str, dict[str, Any]] = raw['variants']
        self._fit: dict[str, Any] = raw['fit']
        self.cells = [
            self._cell(source, model, variant)
            for source in self.datasets
            for model in self._models
            for variant in self._variants_of(model)
        ]

    @property
    def models(self) -> list[str]:
        r"""The names of the models, in the order of the description."""
        return list(self._models)

    def job(self, cell: Cell, trial: int, seed: int, test: bool) -> dict[str, Any]:
        r"""Returns all that a run depends on, apart from the data themselves."""
        return {
            'dataset': {'name': cell.dataset.name, **cell.dataset.kwargs},
            'model': cell.model,
            **({} if cell.class_name == cell.model else {'class': cell.class_name}),
            **cell.settings[trial],
            'monitor': self.monitor,
            'k': self.k,
            'seed': seed,
            'test': test,
        }

    def _variants_of(self, model: str) -> list[str]:
        names = self._models[model].get('variants', list(self._variants))
        names = names if isinstance(names, list) else [names]
        checks.unique(f'models.{model}.variants', names)
        for name in names:
            if not isinstance(name, str) or name not in self._variants:
                raise ValueError(
                    f'[models.{model}]: there is no variant {name!r}; the description has '
                    f'{list(self._variants)}'
                )
        return list(names)

    def _cell(self, source: Source, model: str, variant: str) -> Cell:
        of_model = {k: v for k, v in self._models[model].items() if k != 'variants'}
        class_name = of_model.pop('class', model)
        of_variant = dict(self._variants[variant])
        kind = of_variant.pop('kind', variant)
        if kind not in KINDS:
            raise ValueError(
                f"[variants.{variant}]: 'kind' must be one of {list(KINDS)} (got '{kind}')"
            )
        fit = {**self._fit, **of_model.pop('fit', {}), **of_variant.pop('fit', {})}
        weights = of_variant.pop('weights', {})
        is_checked = self._imports or ':' not in str(class_name)
        if is_checked:
            checks.model(model, class_name, of_model, kind)
        checks.layer(variant, kind, of_variant)
        checks.weights(variant, kind, weights, TERMS[kind])
        own_fit = {k: v for k, v in fit.items() if k in self._variants[variant].get('fit', {})}
        shared_fit = {**self._fit, **self._models[model].get('fit', {})}
        base = axes({'settings': of_model, 'fit': shared_fit}, f'[models.{model}], [fit]')
        own = axes(
            {'fit': own_fit, 'layer': of_variant, 'weights': weights}, f'[variants.{variant}]'
        )
        seed = f'{self.search_seed}/{model}'
        free = {path: values for path, values in base.items() if path not in own}
        try:
            if size(free) * size(own) < self.trials[0]:
                raise ValueError(f'{size(free) * size(own)} settings, fewer than {self.trials[0]}')
            rows = draw(base, own, self.trials[0], seed, f'{seed}/{variant}')
        except ValueError as e:
            raise ValueError(
                f"the model '{model}' with the variant '{variant}' has {e} 'trials': list more "
                f'values in [models.{model}], [fit] or [variants.{variant}], or lower trials[0] '
                f'for all'
            ) from None
        # What the variant sets itself takes the place of the model's, which was drawn along so
        # that the variants of a model share all else trial by trial.
        joined = [{**a, **b} for a, b in rows]
        if any(row in joined[:i] for i, row in enumerate(joined)):
            rows = draw(free, own, self.trials[0], seed, f'{seed}/{variant}')
            joined = [{**a, **b} for a, b in rows]
        settings = [_setting(nest(row), kind) for row in joined]
        for setting in settings:
            if is_checked:
                checks.model_values(model, class_name, setting['settings'])
            checks.fit(setting['fit'], class_name if is_checked else None)
            checks.weight_values(variant, setting['weights'])
        if kind != 'plain':
            layers = {json.dumps(setting['mrdib']): setting['mrdib'] for setting in settings}
            for layer in layers.values():
                checks.layer_values(variant, kind, layer)
        return Cell(source, model, variant, kind, settings, class_name)

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.name}, datasets={[d.name for d in self.datasets]}, '
            f'models={self.models}, variants={list(self._variants)})'
        )


def load_experiment(
    path: str | Path, models: Sequence[str] | None = None, imports: bool = True
) -> Experiment:
    r"""Reads the description of an experiment from a TOML file, or from a JSON file.

    Args:
        path (str or Path): The file.
        models (Sequence[str], optional): Takes these models of the description alone.
            (default: :obj:`None`, all)
        imports (bool, optional): See :class:`Experiment`. (default: :obj:`True`)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or the description is not possible.
    """
    path = Path(path)
    if not is_there(path):
        raise FileNotFoundError(f"there is no description of an experiment '{path}'")
    try:
        text = path.read_text(encoding='utf-8')
        raw = json.loads(text) if path.suffix == '.json' else _toml(text)
    except (ValueError, RecursionError) as e:  # of both parsers, and of the encoding
        raise ValueError(f"'{path}' is not readable: {e}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"'{path}' must hold a table of settings, not a {type(raw).__name__}")
    try:
        return Experiment(raw, path.stem, models, imports)
    except ValueError as e:
        raise ValueError(f"'{path}': {e}") from None


def _toml(text: str) -> Any:
    for name in ('tomllib', 'tomli'):  # the former from Python 3.11 on
        try:
            return importlib.import_module(name).loads(text)
        except ModuleNotFoundError:
            continue
    raise ValueError('TOML needs Python 3.11 or newer or the package tomli; or write it as .json')


def _source(entry: Any) -> Source:
    entry = {'path': entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get('path'), str):
        raise ValueError(
            "each of 'datasets' must be a folder, a name of `mrdib datasets`, or a table with a "
            f"'path' (got {entry!r})"
        )
    kwargs = {key: value for key, value in entry.items() if key not in ('path', 'name')}
    name = str(entry.get('name', osp.basename(osp.normpath(entry['path']))))
    if not checks.is_file_name(name):
        raise ValueError(f"the data set '{name}' needs a 'name' of letters, digits, '_', '.', '-'")
    if name == 'all':  # which the mean over all data sets is called
        raise ValueError("a data set cannot be called 'all'; give it another 'name'")
    return Source(name, entry['path'], kwargs)


def _setting(nested: dict[str, Any], kind: str) -> dict[str, Any]:
    layer = {k: None if v == 'none' else v for k, v in nested.get('layer', {}).items()}
    mrdib: dict[str, Any] | None = layer
    if kind != 'mrdib':
        mrdib = None if kind == 'plain' else {'control': kind, **layer}
    settings = {k: None if v == 'none' else v for k, v in nested.get('settings', {}).items()}
    return {
        'settings': settings,
        'fit': nested.get('fit', {}),
        'mrdib': mrdib,
        'weights': nested.get('weights', {}),
    }
