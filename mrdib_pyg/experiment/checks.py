"""What a description of an experiment must be: checks that name the entry and its value."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mrdib_pyg.nn import CodeNoise, CodePenalty, MRdIB
from mrdib_pyg.nn.models import find_model
from mrdib_pyg.nn.models.recommender import check_values
from mrdib_pyg.nn.models.registry import model_settings, takes_mrdib
from mrdib_pyg.training._fit import DEFAULTS as FIT_DEFAULTS
from mrdib_pyg.training._fit import _check_settings, _cutoff
from mrdib_pyg.training.step import LossWeights

LAYERS: dict[str, type] = {'l2': CodePenalty, 'noise': CodeNoise, 'mrdib': MRdIB}

#: Arguments that the model or the experiment fills in.
GIVEN = {'channels', 'fused_channels', 'user_codes'}


def is_file_name(name: str) -> bool:
    r"""Returns whether a name is plain enough to be part of the name of a file."""
    return re.fullmatch(r'\w[\w.-]*', name, re.ASCII) is not None


def keys(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    r"""Refuses keys that mean nothing: a misspelled one would otherwise change nothing."""
    for key in table:
        if key not in known:
            raise ValueError(f"{where} has an unknown key '{key}'; known are {sorted(known)}")


def tables(raw: Mapping[str, Any]) -> None:
    r"""Refuses values of the wrong form in the sections of a description."""
    if not isinstance(raw['datasets'], list):
        raise ValueError(f"'datasets' must be a list (got {raw['datasets']!r})")
    for name in ('models', 'variants', 'fit', 'groups', 'epoch_seconds'):
        if not isinstance(raw[name], dict):
            raise ValueError(f"'{name}' must be a table, [{name}] in TOML (got {raw[name]!r})")
    for section in ('models', 'variants'):
        for name, table in raw[section].items():
            inner = [table.get(key, {}) for key in ('fit', 'weights') if isinstance(table, dict)]
            if not isinstance(table, dict) or not all(isinstance(x, (dict, list)) for x in inner):
                raise ValueError(f"'{section}.{name}' must be a table of settings (got {table!r})")
            if isinstance(table.get('fit', {}), list):
                raise ValueError(f"'{section}.{name}.fit' must be a table (got {table['fit']!r})")
            if not is_file_name(name.replace(' ', '_')):
                raise ValueError(f"'{section}.{name}': name it by letters, digits, '_', '.', '-'")
    of_fit = {f'{section}.{name}.fit': table.get('fit', {}) for section in ('models', 'variants')
              for name, table in raw[section].items()}  # fmt: skip
    for where, table in {'fit': raw['fit'], **of_fit}.items():
        for name, value in table.items():
            if isinstance(value, dict):
                raise ValueError(f"'{where}.{name}' must be a value or a list (got {value!r})")
    for group, names in raw['groups'].items():
        if not isinstance(names, list) or len(names) == 0:
            raise ValueError(f"'groups.{group}' must be a list of models (got {names!r})")
        unique(f'groups.{group}', names)
        for name in names:
            if not isinstance(name, str) or name not in raw['models']:
                raise ValueError(
                    f"'groups.{group}': the description has no model {name!r}; it has "
                    f'{sorted(raw["models"])}'
                )
    for model, seconds in raw['epoch_seconds'].items():
        if model not in raw['models']:
            raise ValueError(
                f"'epoch_seconds': the description has no model '{model}'; it has "
                f'{sorted(raw["models"])}'
            )
        if not (type(seconds) in (int, float) and seconds > 0):
            raise ValueError(f"'epoch_seconds.{model}' must be positive (got {seconds!r})")


def integers(name: str, value: Any, low: int = 0) -> list[int]:
    r"""Returns a list of different integers, at least ``low``."""
    ok = isinstance(value, list) and len(value) > 0
    if not ok or any(type(x) is not int or not low <= x < 2**32 for x in value):
        raise ValueError(f"'{name}' must be a list of integers from {low} on (got {value!r})")
    unique(name, value)
    return list(value)


def unique(name: str, values: Sequence[Any]) -> None:
    r"""Refuses a value that is named twice."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"'{name}' names {value!r} twice; leave one out")


def protocol(trials: Sequence[int], selection_seeds: Sequence[int], seeds: Sequence[int]) -> None:
    r"""Refuses a selection that would not be one: see :class:`Experiment`."""
    if list(trials) != sorted(trials, reverse=True) or len(trials) != len(selection_seeds):
        raise ValueError(
            f"'trials' must fall, with one number for each of 'selection_seeds': how many settings "
            f'run with that seed, such as [12, 4] (got {list(trials)} for {list(selection_seeds)})'
        )
    both = sorted(set(selection_seeds) & set(seeds))
    if both:
        raise ValueError(
            f"'seeds' and 'selection_seeds' share {both}: a setting chosen by a seed looks better "
            f'on it; name other ones'
        )


def monitor(name: str, k: Sequence[int]) -> None:
    r"""Refuses a metric that does not exist or is not measured."""
    if _cutoff(name) not in k:
        raise ValueError(f"'monitor' is '{name}' but 'k' is {list(k)}; add {_cutoff(name)} to 'k'")


def model(name: str, cls: Any, settings: Mapping[str, Any], kind: str) -> None:
    r"""Refuses an unknown model, an unknown setting, and MRdIB where there is no modality."""
    if not isinstance(cls, str):
        raise ValueError(f"'models.{name}.class' must be 'module:Class' (got {cls!r})")
    try:
        found = find_model(cls)
    except ValueError as e:
        where = " in its 'class'" if cls == name else ''
        raise ValueError(f'[models.{name}]: {e}{where}') from e.__cause__
    if kind != 'plain' and not takes_mrdib(found):
        why = 'has no argument for MRdIB' if found.multimodal else 'knows no modalities'
        raise ValueError(
            f"the model '{name}' {why}, so it has no codes for a variant of the kind '{kind}'; "
            f"write variants = ['plain'] in [models.{name}]"
        )
    keys(f'[models.{name}]', settings, list(model_settings(found)))


def model_values(name: str, class_name: str, settings: Mapping[str, Any]) -> None:
    r"""Refuses values that are of another type than a model's constructor takes."""
    try:
        check_values(find_model(class_name), settings)
    except ValueError as e:
        raise ValueError(f'[models.{name}]: {e}') from None


def layer(variant: str, kind: str, settings: Mapping[str, Any]) -> None:
    r"""Refuses settings that MRdIB, or the control, does not have."""
    known: list[str] = []
    if kind in LAYERS:
        known = [x for x in inspect.signature(LAYERS[kind]).parameters if x not in GIVEN]
    keys(f'[variants.{variant}]', settings, known)


def layer_values(variant: str, kind: str, settings: Mapping[str, Any]) -> None:
    r"""Refuses values that MRdIB, or the control, would refuse once a run has begun."""
    given = {name: value for name, value in settings.items() if name != 'control'}
    if kind == 'mrdib' and given.get('bottleneck', 'late') != 'late':
        given['fused_channels'] = 2
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn
            LAYERS[kind]({'first': 2, 'second': 2}, **given)
    except (TypeError, ValueError) as e:
        raise ValueError(f'[variants.{variant}]: {e}') from None


def weights(variant: str, kind: str, table: Any, terms: Sequence[str]) -> None:
    r"""Refuses weights of terms that a variant does not have, and asks for those it has."""
    for candidate in table if isinstance(table, list) else [table]:
        if not isinstance(candidate, dict):
            raise ValueError(
                f"[variants.{variant}]: 'weights' must be a table or a list of tables (got "
                f'{candidate!r} in it)'
            )
        for term in candidate:
            if term not in terms:
                raise ValueError(
                    f"[variants.{variant}]: a variant of the kind '{kind}' has no weight '{term}', "
                    f'it has {list(terms)}; weights of MRdIB belong to a variant of the kind mrdib'
                )
        for term in terms:
            if term not in candidate:
                raise ValueError(
                    f"[variants.{variant}]: 'weights.{term}' is missing; name its values, or 0 to "
                    f'leave the term out'
                )


def weight_values(variant: str, table: Mapping[str, Any]) -> None:
    r"""Refuses weights that are no numbers >= 0."""
    try:
        LossWeights({}, table)
    except ValueError as e:
        raise ValueError(f'[variants.{variant}]: {e}') from None


def fit(settings: Mapping[str, Any], model: str | None) -> None:
    r"""Refuses settings of the training that :func:`fit` does not have, not in this range, or not
    for a model, the name of its class; :obj:`None` if that is not known.
    """
    # The others have places of their own in a description.
    keys('[fit]', settings, [name for name in FIT_DEFAULTS if name not in ('weights', 'monitor')])
    ratio = settings.get('modality_dropout', 0.0)
    if type(ratio) not in (int, float) or not 0 <= ratio < 1:
        raise ValueError(f"'fit.modality_dropout' must lie in [0, 1) (got {ratio!r})")
    if ratio > 0 and model is not None and not find_model(model).multimodal:
        raise ValueError(
            f"'fit.modality_dropout' is {ratio}, but the model '{model}' reads no modality; set "
            f'fit.modality_dropout = 0 in its table'
        )
    if ratio > 0 and settings.get('compile', False):
        raise ValueError(
            "'fit.modality_dropout' and 'fit.compile' exclude each other: a compiled step takes "
            'the same masks each time'
        )
    if not isinstance(settings.get('compile', False), bool):
        raise ValueError(f"'fit.compile' must be true or false (got {settings['compile']!r})")
    try:
        given = {**FIT_DEFAULTS, **settings}
        names = ('epochs', 'batch_size', 'lr', 'critic_steps', 'patience')
        _check_settings(seed=0, **{name: given[name] for name in names})
    except TypeError:
        raise ValueError(f"'fit' must hold numbers (got {dict(settings)})") from None
