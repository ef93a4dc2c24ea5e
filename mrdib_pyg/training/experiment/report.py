import json
from pathlib import Path
from typing import Any

from mrdib_pyg.training.atomic import write_atomic
from mrdib_pyg.training.experiment.description import Experiment
from mrdib_pyg.training.experiment.figures import save_figures
from mrdib_pyg.training.experiment.records import Records
from mrdib_pyg.training.experiment.summary import summarize
from mrdib_pyg.training.experiment.table import csv_text, markdown


def save_report(
    experiment: Experiment, folder: str | Path, figures: bool = False, num_samples: int = 2000
) -> dict[str, Any]:
    r"""Writes what the finished runs of an experiment say: ``summary.json``, and made of it alone
    ``table.md``, ``table.csv`` and, if asked for, the figures ``gains.svg`` and
    ``sensitivity.svg``.

    Args:
        experiment (Experiment): The experiment.
        folder (str or Path): The folder of its records.
        figures (bool, optional): If set to :obj:`True`, draws the figures, which takes matplotlib.
            (default: :obj:`False`)
        num_samples (int, optional): The number of resamples of the bootstrap.
            (default: :obj:`2000`)

    Returns:
        Dict[str, Any]: The summary.

    Raises:
        ValueError: If nothing has finished, or matplotlib is asked for and not installed.
    """
    folder = Path(folder)
    summary = summarize(experiment, Records(folder), num_samples)
    text = json.dumps(summary, indent=1, allow_nan=False) + '\n'
    for name, content in (
        ('summary.json', text),
        ('table.md', markdown(summary)),
        ('table.csv', csv_text(summary)),
    ):
        write_atomic(folder / name, content.encode())
    if figures:
        save_figures(summary, folder)
    return summary
