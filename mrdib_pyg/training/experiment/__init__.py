from mrdib_pyg.training.experiment.bootstrap import Gain, bootstrap_gain
from mrdib_pyg.training.experiment.cost import plan
from mrdib_pyg.training.experiment.description import Cell, Experiment, load_experiment
from mrdib_pyg.training.experiment.experiment import Failure, check_data, run_experiment
from mrdib_pyg.training.experiment.figures import save_figures
from mrdib_pyg.training.experiment.records import Records, job_id
from mrdib_pyg.training.experiment.report import save_report
from mrdib_pyg.training.experiment.selection import Stage, stage
from mrdib_pyg.training.experiment.summary import summarize
from mrdib_pyg.training.experiment.table import csv_text, markdown

__all__ = [
    'Cell',
    'Experiment',
    'Failure',
    'Gain',
    'Records',
    'Stage',
    'bootstrap_gain',
    'check_data',
    'csv_text',
    'job_id',
    'load_experiment',
    'markdown',
    'plan',
    'run_experiment',
    'save_figures',
    'save_report',
    'stage',
    'summarize',
]
