r"""One HTML page about one or more runs."""

from mrdib_pyg.report.report import write_report
from mrdib_pyg.report.run_folder import RunFolder, load_run_folder

__all__ = [
    'RunFolder',
    'load_run_folder',
    'write_report',
]
