from mrdib_pyg.experiment.description import Cell, Experiment, load_experiment
from mrdib_pyg.experiment.figures import save_figures, save_report
from mrdib_pyg.experiment.records import Records, job_id
from mrdib_pyg.experiment.runner import Failure, check_data, plan, run_experiment
from mrdib_pyg.experiment.selection import Stage, stage
from mrdib_pyg.experiment.summary import Gain, bootstrap_gain, csv_text, markdown, summarize

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
