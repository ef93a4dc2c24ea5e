r"""One HTML page about one or more runs."""

from mrdib_pyg.report._write_report import write_report
from mrdib_pyg.report.runs import RunFolder, load_run_folder

__all__ = [
    'RunFolder',
    'load_run_folder',
    'write_report',
]
