from mrdib_pyg.training._fit import fit
from mrdib_pyg.training._run import train_model
from mrdib_pyg.training.checkpoint import CheckpointError, load_model

__all__ = [
    'CheckpointError',
    'fit',
    'load_model',
    'train_model',
]
