import json
import os
from pathlib import Path
from typing import Any

#: Its file in a data folder.
FILE = 'report.json'


class PrepareReport:
    r"""What became of the rows of raw data on their way to a folder: what was dropped and why, what
    is left, and by which settings.

    Args:
        source (str): Where the rows came from.
        settings (Dict[str, Any]): What they were prepared by.

    Attributes:
        num_rows (int): The rows that were read.
        dropped (Dict[str, int]): The rows that were left out, by the reason.
        examples (Dict[str, str]): The first value that could not be read, by the reason.
        kept (Dict[str, int]): The interactions, users and items that are left.
        split (Dict[str, int]): The interactions of each split.
        modalities (Dict[str, Dict[str, Any]]): For each modality its width, the items that have it,
            and what was left out, by the reason.
        times (Dict[str, Any]): The first and the last time of the rows that were read: dates in
            UTC, or numbers as they are.
        notes (Dict[str, int]): What else is worth knowing, counted.
        remarks (List[str]): What was chosen where nothing was said.
    """

    def __init__(self, source: str, settings: dict[str, Any]) -> None:
        self.source, self.settings = source, settings
        self.num_rows = 0
        self.dropped: dict[str, int] = {}
        self.examples: dict[str, str] = {}
        self.kept: dict[str, int] = {}
        self.split: dict[str, int] = {}
        self.modalities: dict[str, dict[str, Any]] = {}
        self.times: dict[str, Any] = {}
        self.notes: dict[str, int] = {}
        self.remarks: list[str] = []

    def drop(self, reason: str, count: int, example: Any = None) -> None:
        r"""Counts rows that are left out. Zero counts are omitted."""
        if count > 0:
            self.dropped[reason] = self.dropped.get(reason, 0) + int(count)
            if example is not None:
                self.examples.setdefault(reason, str(example)[:40])

    def reasons(self) -> dict[str, int]:
        r"""Returns the rows that were left out, by the reason with an example of it."""
        return {
            f'{reason}, such as {self.examples[reason]!r}' if reason in self.examples else reason: n
            for reason, n in self.dropped.items()
        }

    def note(self, text: str, count: int) -> None:
        r"""Counts something else. Zero counts are omitted."""
        if count > 0:
            self.notes[text] = self.notes.get(text, 0) + int(count)

    def to_dict(self) -> dict[str, Any]:
        r"""Returns all of it in plain values."""
        return {
            'source': self.source,
            'settings': self.settings,
            'rows': self.num_rows,
            'dropped': self.dropped,
            'examples': self.examples,
            'kept': self.kept,
            'split': self.split,
            'modalities': self.modalities,
            'times': self.times,
            'notes': self.notes,
            'remarks': self.remarks,
        }

    def to_json(self) -> str:
        r"""Returns all of it as JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + '\n'

    @classmethod
    def load(cls, folder: str | os.PathLike) -> 'PrepareReport | None':
        r"""Reads the report of a folder, :obj:`None` where there is none that can be read.

        Args:
            folder (str): The data folder.
        """
        try:
            value = json.loads((Path(folder) / FILE).read_text(encoding='utf-8'))
            out = cls(value['source'], value['settings'])
            out.num_rows = value['rows']
            for name in ('dropped', 'kept', 'split', 'modalities', 'notes'):
                setattr(out, name, dict(value[name]))
            for name in ('times', 'examples'):  # reports of older versions have none
                setattr(out, name, dict(value.get(name, {})))
            out.remarks = [str(remark) for remark in value.get('remarks', ())]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return out

    def __str__(self) -> str:
        lines = [f'{self.num_rows:>13,} rows of {self.source}']
        lines += [f'{-count:>13,} {reason}' for reason, count in self.reasons().items()]
        if self.kept:
            kept = self.kept
            lines.append(
                f'{kept["interactions"]:>13,} interactions of {kept["users"]:,} users with '
                f'{kept["items"]:,} items'
            )
        if self.times:
            lines.append(f'times: {self.times["first"]} to {self.times["last"]}')
        if self.split:
            lines.append('split: ' + ', '.join(f'{n:,} {name}' for name, n in self.split.items()))
        for name, entry in self.modalities.items():
            text = f'{name}: {entry["items"]:,} items have it, {entry["channels"]} channels'
            counts = [f'{count:,} {why}' for why, count in entry.get('notes', {}).items()]
            lines.append('; '.join([text, *counts]))
        lines += [f'{count:,} {text}' for text, count in self.notes.items()] + self.remarks
        return '\n'.join(lines)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.source})'
