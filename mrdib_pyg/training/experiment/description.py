import importlib
import json
import os.path as osp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrdib_pyg.training.experiment import checks
from mrdib_pyg.training.experiment.grid import axes, draw, nest, size

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

    Raises:
        ValueError: If something is missing, unknown, out of range, or does not fit together; the
            message names it and says what to do.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        name: str = 'experiment',
        models: Sequence[str] | None = None,
    ) -> None:
        self.name = name
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
            checks.model_values(model, class_name, setting['settings'])
            checks.fit(setting['fit'], class_name)
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


def load_experiment(path: str | Path, models: Sequence[str] | None = None) -> Experiment:
    r"""Reads the description of an experiment from a TOML file, or from a JSON file.

    Args:
        path (str or Path): The file.
        models (Sequence[str], optional): Takes these models of the description alone.
            (default: :obj:`None`, all)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or the description is not possible.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no description of an experiment '{path}'")
    try:
        text = path.read_text(encoding='utf-8')
        raw = json.loads(text) if path.suffix == '.json' else _toml(text)
    except (ValueError, RecursionError) as e:  # of both parsers, and of the encoding
        raise ValueError(f"'{path}' is not readable: {e}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"'{path}' must hold a table of settings, not a {type(raw).__name__}")
    try:
        return Experiment(raw, path.stem, models)
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
