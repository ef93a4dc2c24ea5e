"""The readers of what this package has written itself: runs, experiments, and what is served."""

import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from reader import Reader
from spoil import (
    inside_checkpoint,
    inside_json,
    inside_json_lines,
    inside_safetensors,
    inside_zip,
)

from mrdib_pyg.commands.arguments import find_dataset
from mrdib_pyg.datasets import IdMap, Planted, data_hash
from mrdib_pyg.experiment import load_experiment
from mrdib_pyg.experiment.records import Records
from mrdib_pyg.nn.models import VBPR
from mrdib_pyg.report import charts
from mrdib_pyg.report.decomposition_section import decomposition_section
from mrdib_pyg.report.results_section import (
    curves_section,
    headlines,
    results_section,
    settings_section,
)
from mrdib_pyg.report.runs import group_runs, load_run_folder
from mrdib_pyg.serving import ItemIndex, export_model, load_export
from mrdib_pyg.training import fit, load_model
from mrdib_pyg.training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DATA = Planted(num_users=6, num_items=5, num_interactions=5)[0]


def make_model():
    torch.manual_seed(0)
    return VBPR(DATA, channels=2)


def make_checkpoint(folder):
    model = make_model()
    identity = {'model': 'vbpr', 'config': {'channels': 2}, 'data_hash': data_hash(DATA)}
    state = {'identity': identity, 'epoch': 1, 'model': model.state_dict()}
    save_checkpoint(folder / 'best.pt', state)


def train(folder, epochs, **kwargs):
    fit(
        make_model(), DATA, epochs=epochs, batch_size=16, monitor='recall@2', out=folder,
        progress=False, **kwargs,
    )  # fmt: skip


def make_run(folder):
    config = {
        'model': 'VBPR', 'dataset': 'planted', 'data_hash': data_hash(DATA), 'seed': 0,
        'settings': {'channels': 2, 'mrdib': None},
        'fit': {'epochs': 2, 'monitor': 'recall@2', 'weights': {'unique': 0.1}},
    }  # fmt: skip
    train(folder, 2, config=config, patience=5)
    metrics = {'recall@2': 0.5, 'ndcg@2': 0.25, 'precision@2': 0.5, 'map@2': 0.25}
    results = {
        'best_epoch': 1, 'num_epochs': 2, 'seconds': 1.5, 'epoch_seconds': 0.75,
        'num_parameters': 90, 'val': metrics, 'test': metrics,
    }  # fmt: skip
    (folder / 'results.json').write_text(json.dumps(results))


def resume(folder):
    run = folder / 'run'
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns('run'))
    train(run, 3, resume=True, patience=5)


def chart(rows, *args):
    """In the place of a chart, which takes long: a browser reads no other JSON than this."""
    return json.loads(json.dumps(rows, allow_nan=False))


def read_run(folder):
    groups = group_runs([load_run_folder(folder)])
    headlines(groups)
    with mock.patch.multiple(charts, lines=chart, dots=chart, bars=chart):
        for section in (results_section, curves_section, decomposition_section, settings_section):
            section(groups)


def read_config(folder):
    find_dataset(SimpleNamespace(folder=folder, dataset=None))
    read_run(folder)


JOB = {
    'dataset': {'name': 'x'}, 'model': 'vbpr', 'seed': 1, 'test': True, 'k': [2],
    'monitor': 'recall@2',
}  # fmt: skip
RESULT = {
    **dict.fromkeys(('val', 'test'), {'recall@2': 0.75}),
    **dict.fromkeys(('best_epoch', 'num_epochs', 'num_parameters', 'epoch_seconds', 'seconds'), 1),
    **dict.fromkeys(('terms', 'versions', 'machine'), {}),
    'data_hash': 'x',
}


def make_records(folder):
    (folder / 'runs').mkdir()
    per_user = {'user': torch.tensor([0, 2]), 'recall@2': torch.tensor([0.5, 1.0])}
    Records(folder).save(JOB, {**RESULT, 'per_user': per_user})


def record(suffix):
    from mrdib_pyg.experiment.records import job_id

    return f'runs/{job_id(JOB)}{suffix}'


def make_toml(folder):
    shutil.copy(ROOT / 'examples/experiments/planted-small.toml', folder / 'e.toml')


def make_json(folder):
    make_toml(folder)
    description = load_experiment(folder / 'e.toml').description
    (folder / 'e.json').write_text(json.dumps(description, indent=1))


def make_index(**kwargs):
    def make(folder):
        torch.manual_seed(0)
        ItemIndex(torch.randn(9, 3), **kwargs).save(folder / 'i.safetensors')

    return make


def read_index(folder):
    index = ItemIndex.load(folder / 'i.safetensors')
    index.search(torch.ones(2, index.item.size(1)), 1)


def make_export(folder):
    x = torch.arange(6.0).view(3, 2)
    model = SimpleNamespace(
        num_users=3, num_items=3, config={}, embed=lambda: SimpleNamespace(user=x, item=x + 1)
    )
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / 'made')
    export_model(model, folder / 'made', user_ids=IdMap(['a', 'b', 'c']))


def rehash(folder):
    """An export whose checksums are right."""
    path = folder / 'made' / 'export.json'
    info = json.loads(path.read_text())
    for name in info['sha256']:
        content = (folder / 'made' / name).read_bytes()
        info['sha256'][name] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(info))


def read_export(folder):
    load_export(folder / 'made')


TOML = () if sys.version_info >= (3, 11) else ('tomli',)
SERVE = ('pyarrow', 'safetensors')
RUN_READERS = {
    'checkpoint': Reader(
        'best.pt', make_checkpoint, lambda f: load_checkpoint(f / 'best.pt'), (inside_zip,)
    ),
    'model': Reader(
        'best.pt', make_checkpoint, lambda f: load_model(f / 'best.pt', DATA),
        (inside_zip, inside_checkpoint),
    ),
    'resume, last.pt': Reader(
        'last.pt', make_run, resume, (inside_zip, inside_checkpoint), also=(FloatingPointError,)
    ),
    'resume, best.pt': Reader('best.pt', make_run, resume, (inside_zip, inside_checkpoint)),
    'resume, history.jsonl': Reader('history.jsonl', make_run, resume, (inside_json_lines,)),
    'run, history.jsonl': Reader(
        'history.jsonl', make_run, read_run, (inside_json_lines,), tolerant=True
    ),
    'run, config.json': Reader('config.json', make_run, read_config, (inside_json,)),
    'run, results.json': Reader(
        'results.json', make_run, read_run, (inside_json,), tolerant=True
    ),
    'experiment .toml': Reader(
        'e.toml', make_toml, lambda f: load_experiment(f / 'e.toml'), needs=TOML
    ),
    'experiment .json': Reader(
        'e.json', make_json, lambda f: load_experiment(f / 'e.json'), (inside_json,), needs=TOML
    ),
    'record of an experiment': Reader(
        record('.json'), make_records, lambda f: Records(f).load(JOB), (inside_json,)
    ),
    'record per user': Reader(
        record('.npz'), make_records, lambda f: Records(f).per_user(JOB), (inside_zip,)
    ),
    'index': Reader(
        'i.safetensors', make_index(), read_index, (inside_safetensors,), needs=('safetensors',)
    ),
    'approximate index': Reader(
        'i.safetensors', make_index(approximate=True, num_cells=2), read_index,
        (inside_safetensors,), needs=('safetensors', 'faiss'),
    ),
    'export, export.json': Reader(
        'made/export.json', make_export, read_export, (inside_json,), needs=SERVE
    ),
    'export, embeddings': Reader(
        'made/embeddings.safetensors', make_export, read_export, (inside_safetensors,),
        settle=rehash, needs=SERVE,
    ),
    'export, users': Reader(
        'made/users.parquet', make_export, read_export, settle=rehash, needs=SERVE
    ),
}  # fmt: skip
