from mrdib_pyg.training.atomic import atomic_file, atomic_folder, write_atomic
from mrdib_pyg.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from mrdib_pyg.training.fit import FitResult, fit
from mrdib_pyg.training.freed_memory import keep_freed_memory
from mrdib_pyg.training.history import History
from mrdib_pyg.training.load import load_model
from mrdib_pyg.training.provenance import provenance
from mrdib_pyg.training.run import run
from mrdib_pyg.training.seed import seed_everything
from mrdib_pyg.training.weights import LossWeights

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
