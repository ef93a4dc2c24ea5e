import importlib
from typing import Any

from mrdib_pyg.nn.models.bm3 import BM3
from mrdib_pyg.nn.models.dualgnn import DualGNN
from mrdib_pyg.nn.models.freedom import FREEDOM
from mrdib_pyg.nn.models.lightgcn import LightGCN
from mrdib_pyg.nn.models.mgcn import MGCN
from mrdib_pyg.nn.models.mmgcn import MMGCN
from mrdib_pyg.nn.models.multimodal_lightgcn import MultimodalLightGCN
from mrdib_pyg.nn.models.recommender import Recommender, constructor_arguments
from mrdib_pyg.nn.models.soil import SOIL
from mrdib_pyg.nn.models.vbpr import VBPR

#: The models by the names of the command line.
MODELS: dict[str, type[Recommender]] = {
    'freedom': FREEDOM,
    'mgcn': MGCN,
    'bm3': BM3,
    'dualgnn': DualGNN,
    'lightgcn': LightGCN,
    'mmgcn': MMGCN,
    'multimodal_lightgcn': MultimodalLightGCN,
    'soil': SOIL,
    'vbpr': VBPR,
}


def find_model(model: str | type[Recommender]) -> type[Recommender]:
    r"""Returns the class of a model.

    Args:
        model (str or Type[Recommender]): A name in :obj:`MODELS`, or a subclass of
            :class:`Recommender` of your own: the class or ``'module:Class'``, which is imported.

    Raises:
        ValueError: If there is no such model, its module cannot be imported, or it is not a
            :class:`Recommender`.
    """
    if not isinstance(model, str):
        return _check(model, f"'model' ({model!r})", '')
    if model in MODELS:
        return MODELS[model]
    module_name, colon, class_name = model.partition(':')
    if not colon:
        raise ValueError(
            f"there is no model '{model}'; known are {sorted(MODELS)}, and one of your own as "
            f"'module:Class'"
        )
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as e:  # the latter of a script that reads its arguments
        if isinstance(e, ModuleNotFoundError) and f'{module_name}.'.startswith(f'{e.name}.'):
            raise ValueError(
                f"there is no module '{module_name}' to take the model '{model}' from; call it "
                f'where its file lies, or put that folder into PYTHONPATH'
            ) from None
        raise ValueError(
            f"the module of the model '{model}' cannot be imported: {type(e).__name__}: {e}"
        ) from e
    found: Any = module
    for part in class_name.split('.'):  # of a class within another one
        found = getattr(found, part, None)
    models = [
        key
        for key, value in vars(module).items()
        if _is_model(value) and value.__module__ == module.__name__
    ]
    where = getattr(module, '__file__', None) or 'of Python itself'
    hint = f'; the models of its module ({where}) are {models}'
    return _check(found, f"the model '{model}'", hint)


def model_name(cls: type[Recommender]) -> str:
    r"""Returns the name by which :func:`find_model` finds a class."""
    names = {model: name for name, model in MODELS.items()}
    return names.get(cls, f'{cls.__module__}:{cls.__qualname__}')


def is_of_model(name: str, cls: type[Recommender], may_have_moved: bool = False) -> bool:
    r"""Whether a recorded name is that of a class. The module of a user's own class may be
    ``__main__`` on either side or, if :obj:`may_have_moved`, any other.
    """
    module, _, class_name = name.rpartition(':')
    own_module, _, own_name = model_name(cls).rpartition(':')
    if module and own_module and (may_have_moved or '__main__' in (module, own_module)):
        return class_name == own_name
    return name == model_name(cls)


def model_settings(cls: type[Recommender]) -> dict[str, Any]:
    r"""Returns the settings of a model with their defaults (:obj:`inspect.Parameter.empty` for
    none): the constructor's arguments without the data and :obj:`mrdib`.
    """
    arguments = constructor_arguments(cls)
    return {name: p.default for name, p in arguments.items() if name != 'mrdib'}


def takes_mrdib(cls: type[Recommender]) -> bool:
    r"""Whether a model takes MRdIB."""
    return cls.multimodal and 'mrdib' in constructor_arguments(cls)


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Recommender)


def _check(value: Any, what: str, hint: str) -> type[Recommender]:
    if not _is_model(value):
        raise ValueError(f'{what} must be a subclass of mrdib_pyg.nn.models.Recommender{hint}')
    return value
