from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import data_hash
from mrdib_pyg.nn.models import MODELS, Recommender, find_model
from mrdib_pyg.nn.models.registry import is_of_model, model_name
from mrdib_pyg.training.checkpoint import CheckpointError, load_checkpoint


def load_model(
    path: str | Path, data: HeteroData, cls: None | str | type[Recommender] = None
) -> tuple[Recommender, dict[str, Any]]:
    r"""Builds the model of a checkpoint of :func:`fit`, in evaluation mode.

    Args:
        path (str or Path): The checkpoint, e.g. ``best.pt`` in the folder of a run.
        data (HeteroData): The data the model was trained on.
        cls (str or Type[Recommender], optional): The class of the model, or its name as
            ``'module:Class'``, needed where it is not one of this package. (default: :obj:`None`)

    Returns:
        Tuple[Recommender, Dict[str, Any]]: The model, and what the checkpoint says of itself: the
        epoch, the best metric, and the identity of the run.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        CheckpointError: If it is torn, or belongs to another model or other data.
    """
    state = load_checkpoint(path)
    identity = state.get('identity')
    if (
        not isinstance(identity, dict)
        or not {'model', 'config', 'data_hash'} <= set(identity)
        or 'model' not in state
    ):
        raise CheckpointError(f"'{path}' is not a checkpoint of a training run; train again")
    found = data_hash(data)
    if identity['data_hash'] != found:
        raise CheckpointError(
            f"the model in '{path}' was trained on other data (hash "
            f'{str(identity["data_hash"])[:12]}, this data has {found[:12]}); pass the data set it '
            f'was trained on'
        )
    name = str(identity['model'])
    if cls is None:
        # By the bare name of the class, too, which checkpoints used to hold.
        of_package = {**{model.__name__: model for model in MODELS.values()}, **MODELS}
        if name not in of_package:
            raise CheckpointError(
                f"'{path}' holds the model {name}, which is not one of this package; pass its "
                f"class as 'cls', on the command line by --model MODULE:CLASS"
            )
        cls = of_package[name]
    cls = find_model(cls)
    if not is_of_model(name, cls, may_have_moved=True):
        raise CheckpointError(
            f"'{path}' holds the model {name}, not {model_name(cls)}; pass its class as 'cls', on "
            f'the command line by --model, or leave that out for a model of this package'
        )
    try:
        model = cls(data, **identity['config'])
        model.load_state_dict(state['model'])
    except (RuntimeError, TypeError, AttributeError, LookupError) as e:  # of other settings
        raise CheckpointError(
            f"the parameters in '{path}' do not fit the model {name}; train again"
        ) from e
    model.eval()
    info = {key: value for key, value in state.items() if key != 'model'}
    return model, info
