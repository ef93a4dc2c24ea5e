r"""One HTML page about one or more runs."""

from mrdib_pyg.report._write_report import write_report

__all__ = ['write_report']
