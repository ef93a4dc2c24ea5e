import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrdib_pyg.datasets._read import UNREADABLE, Npz
from mrdib_pyg.files import is_there, write_atomic


def job_id(job: Mapping[str, Any]) -> str:
    r"""Returns the name of a run: a hash of all that it depends on, behind what it is about."""
    text = json.dumps(job, sort_keys=True, separators=(',', ':'))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{job["dataset"]["name"]}-{job["model"]}-{digest[:12]}'


class Records:
    r"""The folder of the runs of an experiment: a JSON file for each finished run and, where the
    test edges were read, the metrics of each user beside it.

    A file is written atomically, the JSON last: a run is finished if and only if that is there.

    Args:
        folder (str or Path): The folder of the experiment; nothing is written before :meth:`save`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._cache: dict[str, dict[str, Any]] = {}

    def path(self, name: str, suffix: str = '.json') -> Path:
        r"""Returns the file of a run; logs have a folder of their own."""
        return self.folder / ('logs' if suffix == '.log' else 'runs') / f'{name}{suffix}'

    def load(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        r"""Returns the record of a job: its :obj:`'result'`, or why it :obj:`'diverged'`; or
        :obj:`None` if it has not finished.

        Raises:
            ValueError: If the file is torn, or of another job.
        """
        name = job_id(job)
        if name not in self._cache:
            path = self.path(name)
            if not is_there(path):
                return None
            try:
                record = json.loads(path.read_text(encoding='utf-8'))
                if record['job'] != json.loads(json.dumps(job)):
                    raise ValueError("its 'job' is another one")
                if not isinstance(record.get('diverged'), str):
                    _check_result(record['result'], job)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
                reason = f'it has no {e}' if isinstance(e, KeyError) else str(e)
                raise ValueError(
                    f"'{path}' is torn, or of another run ({reason}); remove it, and run again"
                ) from None
            self._cache[name] = record
        return self._cache[name]

    def save(self, job: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        r"""Writes what :func:`mrdib_pyg.training.train_model` has returned."""
        result = dict(result)
        per_user = result.pop('per_user', None)
        name = job_id(job)
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        if per_user is not None:
            write_atomic(self.path(name, '.npz'), _pack(per_user))
        self._write(name, {'job': job, 'result': result})

    def save_diverged(self, job: Mapping[str, Any], reason: str) -> None:
        r"""Writes that a setting diverged, which is an outcome of a trial like any other."""
        self._write(job_id(job), {'job': job, 'diverged': reason})

    def save_failure(self, job: Mapping[str, Any], reason: str) -> None:
        r"""Writes why a run failed; it will be tried again, so it does not count as finished."""
        name = job_id(job)
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({'job': job, 'failed': reason}, indent=1) + '\n'
        write_atomic(self.path(name, '.failed.json'), text.encode())

    def per_user(self, job: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        r"""Returns the ids of the users of the test edges, and each metric of each of them.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is torn.
        """
        path = self.path(job_id(job), '.npz')
        if not is_there(path):
            raise FileNotFoundError(
                f"the values per user '{path}' are missing beside their JSON; remove "
                f"'{self.path(job_id(job)).name}' and run again"
            )
        content = io.BytesIO(path.read_bytes())
        try:
            with zipfile.ZipFile(content) as archive:
                arrays = Npz(archive)
                user = np.flatnonzero(np.unpackbits(arrays['is_evaluated']))
                names, values = arrays['metrics'].tolist(), arrays['values'].astype(np.float64)
            if values.shape != (len(names), len(user)):
                raise ValueError(f'it has values of the shape {list(values.shape)}')
        except (*UNREADABLE, zlib.error, RuntimeError, OSError) as e:
            raise ValueError(
                f"the values per user '{path}' are torn ({e}); remove them and "
                f"'{self.path(job_id(job)).name}', and run again"
            ) from e
        return user, dict(zip(names, values))

    def popularity(
        self, dataset: str, data_hash: str | None, k: Sequence[int]
    ) -> dict[str, float] | None:
        r"""Returns the test metrics of ranking by popularity, if they are there for these data."""
        found = self._popularity().get(dataset)
        if not isinstance(found, dict) or found.get('data_hash') != data_hash:
            return None
        test = found.get('test')
        if not isinstance(test, dict) or not all(_is_number(x) for x in test.values()):
            return None
        return test if {int(x.split('@')[1]) for x in test} == set(k) else None

    def save_popularity(self, dataset: str, data_hash: str, test: Mapping[str, float]) -> None:
        r"""Writes the test metrics of ranking by popularity."""
        all = {**self._popularity(), dataset: {'data_hash': data_hash, 'test': dict(test)}}
        content = json.dumps(all, indent=1) + '\n'
        write_atomic(self.folder / 'popularity.json', content.encode())

    def _popularity(self) -> dict[str, Any]:
        path = self.folder / 'popularity.json'
        if not is_there(path):
            return {}
        try:
            found = json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"'{path}' is torn; remove it, and run again")
        return found

    def _write(self, name: str, record: dict[str, Any]) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path(name), (json.dumps(record, indent=1) + '\n').encode())
        self.path(name, '.failed.json').unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}('{self.folder}')"


def _check_result(result: Any, job: Mapping[str, Any]) -> None:
    r"""Refuses a result without what tables are made of, as of a file that somebody has edited."""
    for split in ('val', 'test') if job['test'] else ('val',):
        metrics = result[split]
        if not metrics or not all(_is_number(value) for value in metrics.values()):
            raise ValueError(f"'{split}' must be numbers by metric (got {metrics!r})")
        missing = [k for k in job['k'] if f'recall@{k}' not in metrics]
        if missing or (split == 'val' and job['monitor'] not in metrics):
            raise ValueError(f"'{split}' lacks the metrics at {missing or job['monitor']}")
    for name in ('best_epoch', 'num_epochs', 'num_parameters', 'epoch_seconds', 'seconds'):
        if not _is_number(result[name]):
            raise ValueError(f"'{name}' must be a number (got {result[name]!r})")
    for name, kind in (('data_hash', str), ('terms', dict), ('versions', dict), ('machine', dict)):
        if not isinstance(result[name], kind):
            raise ValueError(f"'{name}' is damaged (got {result[name]!r})")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _pack(per_user: Mapping[str, Any]) -> bytes:
    # A bit per user rather than an id, and a row per metric: mostly zeros, which compress well.
    user = np.asarray(per_user['user'])
    is_evaluated = np.zeros(int(user.max()) + 1, dtype=bool)
    is_evaluated[user] = True
    names = [name for name in per_user if name != 'user']
    file = io.BytesIO()
    np.savez_compressed(
        file,
        is_evaluated=np.packbits(is_evaluated),
        metrics=np.array(names),
        values=np.stack([np.asarray(per_user[name], dtype=np.float32) for name in names]),
    )
    return file.getvalue()
