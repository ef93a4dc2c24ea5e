from mrdib_pyg.training._fit import FitResult, fit
from mrdib_pyg.training._run import train_model
from mrdib_pyg.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from mrdib_pyg.training.step import LossWeights

__all__ = [
    'CheckpointError',
    'FitResult',
    'LossWeights',
    'fit',
    'load_checkpoint',
    'load_model',
    'save_checkpoint',
    'train_model',
]
