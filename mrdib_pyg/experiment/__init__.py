from mrdib_pyg.experiment.description import Experiment, load_experiment
from mrdib_pyg.experiment.figures import save_report
from mrdib_pyg.experiment.runner import run_experiment
from mrdib_pyg.experiment.summary import summarize

__all__ = [
    'Experiment',
    'load_experiment',
    'run_experiment',
    'save_report',
    'summarize',
]
