import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mrdib_pyg.experiment.description import Cell, Experiment
from mrdib_pyg.experiment.records import Records


class Stage(NamedTuple):
    r"""Where a cell of an experiment stands.

    Args:
        jobs (List[Dict[str, Any]]): The runs to be done next, in any order.
        scores (List[List[float]]): The validation metric of each setting, one per selection seed
            it has run with; :obj:`-inf` where it diverged.
        chosen (int, optional): The setting that was chosen, once it is known.
        seconds (List[float]): How long each finished run has taken.
        num_runs (int): The number of runs in all.
        problem (str, optional): Why the cell cannot go on.
    """

    jobs: list[dict[str, Any]]
    scores: list[list[float]]
    chosen: int | None
    seconds: list[float]
    num_runs: int
    problem: str | None = None

    @property
    def num_finished(self) -> int:
        r"""The number of finished runs."""
        return len(self.seconds)

    @property
    def is_finished(self) -> bool:
        r"""Whether there is nothing left to do."""
        return self.num_finished == self.num_runs


def stage(experiment: Experiment, cell: Cell, records: Records) -> Stage:
    r"""Tells what a model in one variant needs next: successive halving on the validation metric,
    then the test runs of the setting that won.

    With ``trials = [12, 4]`` all 12 settings run with the first selection seed, the best 4 with
    the second, and of these the one with the best mean over both is chosen. Neither kind of run
    reads the test edges. Then the chosen setting runs with each of ``seeds``, and these runs read
    them, once each. Of equals the earlier setting is taken. A single setting needs no selection.

    Args:
        experiment (Experiment): The experiment.
        cell (Cell): One of its cells.
        records (Records): The finished runs.
    """
    rungs = list(zip(experiment.trials, experiment.selection_seeds))
    rungs = rungs if len(cell.settings) > 1 else []
    num_runs = sum(count for count, _ in rungs) + len(experiment.seeds)
    scores: list[list[float]] = [[] for _ in cell.settings]
    survivors = list(range(len(cell.settings)))
    seconds: list[float] = []

    def missing(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        loaded = [records.load(job) for job in jobs]
        seconds.extend(_seconds(record) for record in loaded if record is not None)
        return [job for job, record in zip(jobs, loaded) if record is None]

    for count, seed in rungs:
        survivors = _best(survivors, scores, count)
        jobs = {t: experiment.job(cell, t, seed, test=False) for t in survivors}
        for trial, job in jobs.items():
            record = records.load(job)
            if record is not None:
                scores[trial].append(_score(record, experiment.monitor))
        todo = missing(list(jobs.values()))
        if todo:
            return Stage(todo, scores, None, seconds, num_runs)

    chosen = _best(survivors, scores, 1)[0]
    if -math.inf in scores[chosen]:
        problem = (
            f'all {len(survivors)} settings that were left diverged with one of the selection '
            f'seeds {list(experiment.selection_seeds)}; lower the values of lr'
        )
        return Stage([], scores, None, seconds, num_runs, problem)
    finals = [experiment.job(cell, chosen, seed, test=True) for seed in experiment.seeds]
    return Stage(missing(finals), scores, chosen, seconds, num_runs)


def _seconds(record: dict[str, Any]) -> float:
    return float(record.get('result', {}).get('seconds', 0.0))


def _score(record: dict[str, Any], monitor: str) -> float:
    score = -math.inf if 'diverged' in record else float(record['result']['val'][monitor])
    return score if math.isfinite(score) else -math.inf


def _best(trials: Sequence[int], scores: Sequence[Sequence[float]], count: int) -> list[int]:
    def mean(trial: int) -> float:
        return sum(scores[trial]) / max(1, len(scores[trial]))

    return sorted(trials, key=lambda trial: (-mean(trial), trial))[:count]
