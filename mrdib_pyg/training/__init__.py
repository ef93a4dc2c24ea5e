from mrdib_pyg.files import atomic_file, atomic_folder, write_atomic
from mrdib_pyg.training._fit import FitResult, fit, seed_everything
from mrdib_pyg.training._freed_memory import keep_freed_memory
from mrdib_pyg.training._run import provenance, run
from mrdib_pyg.training.checkpoint import (
    CheckpointError,
    History,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from mrdib_pyg.training.step import LossWeights

__all__ = [
    'CheckpointError',
    'FitResult',
    'History',
    'LossWeights',
    'atomic_file',
    'atomic_folder',
    'fit',
    'keep_freed_memory',
    'load_checkpoint',
    'load_model',
    'provenance',
    'run',
    'save_checkpoint',
    'seed_everything',
    'write_atomic',
]
