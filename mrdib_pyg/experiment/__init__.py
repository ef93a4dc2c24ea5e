from mrdib_pyg.experiment.description import Experiment, load_experiment
from mrdib_pyg.experiment.figures import save_figures, save_report
from mrdib_pyg.experiment.records import Records
from mrdib_pyg.experiment.runner import Failure, run_experiment
from mrdib_pyg.experiment.summary import Gain, bootstrap_gain, summarize

__all__ = [
    'Experiment',
    'Failure',
    'Gain',
    'Records',
    'bootstrap_gain',
    'load_experiment',
    'run_experiment',
    'save_figures',
    'save_report',
    'summarize',
]
