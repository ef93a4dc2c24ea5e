r"""Compares a model without and with MRdIB, and with the two controls of MRdIB, on one data set.

Each variant gets the same number of trials, chosen by the validation recall@20 of one seed. The
chosen setting of each variant then runs with five other seeds, and only these runs read the test
edges. Everything is written as JSON, a file a run, so that a stopped comparison continues.

    python -m benchmarks.quality.compare --dataset data/tiktok --out runs/compare-tiktok
    python -m benchmarks.quality.table runs/compare-tiktok --json benchmarks/results/tiktok.json
"""

import argparse
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

MODEL_TRIALS = [
    {'settings': {'l2_weight': l2}, 'lr': lr} for lr in (1e-3, 5e-4) for l2 in (1e-4, 1e-3, 1e-2)
]
TRIALS: dict[str, list[dict[str, Any]]] = {
    'l2': [
        {'mrdib': {'control': 'l2'}, 'weights': {'bottleneck': w}}
        for w in (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    ],
    'noise': [
        {'mrdib': {'control': 'noise', 'noise_scale': s}} for s in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    ],
    'mrdib': [
        {'mrdib': {}, 'weights': {'bottleneck': b, 'redundant': r, 'unique': u}}
        for b, r, u in (
            (1e-4, 1e-4, 1e-4),
            (1e-4, 1e-4, 5e-3),
            (1e-3, 1e-4, 1e-3),
            (1e-3, 1e-3, 5e-3),
            (1e-3, 5e-3, 5e-2),
            (5e-3, 1e-3, 5e-3),
        )
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description='Compare plain, controls and MRdIB.')
    parser.add_argument('--dataset', required=True)
    parser.add_argument('--model', default='multimodal_lightgcn')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3, 4, 5])
    parser.add_argument('--epochs', type=int, default=200)
    parser.add_argument('--patience', type=int, default=10)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--variants', nargs='+', default=[*TRIALS], help='besides plain')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()

    base = {'dataset': Path(args.dataset).name, 'model': args.model}
    fit = {'epochs': args.epochs, 'patience': args.patience}
    # One thread each: two workers on two threads would wait for each other.
    os.environ['OMP_NUM_THREADS'] = '1'
    with multiprocessing.get_context('spawn').Pool(args.workers) as pool:

        def search(trials: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
            jobs = [
                {**base, **fit, 'variant': name, 'trial': i, 'seed': 0, 'test': False, **trial}
                for name, settings in trials.items()
                for i, trial in enumerate(settings)
            ]
            values = pool.map(_run, [(job, args.dataset, args.out) for job in jobs], chunksize=1)
            best: dict[str, tuple[float, dict[str, Any]]] = {}
            for job, value in zip(jobs, values):
                if job['variant'] not in best or value > best[job['variant']][0]:
                    best[job['variant']] = (value, job)
            return {name: job for name, (_, job) in best.items()}

        chosen = search({'plain': MODEL_TRIALS})
        # The other variants build on the best plain model and tune their own settings.
        kept = {key: chosen['plain'][key] for key in ('settings', 'lr')}
        chosen |= search(
            {
                n: [{**kept, **t} for t in trials]
                for n, trials in TRIALS.items()
                if n in args.variants
            }
        )
        jobs = [
            {**job, 'trial': None, 'seed': seed, 'test': True}
            for seed in args.seeds
            for job in chosen.values()
        ]
        pool.map(_run, [(job, args.dataset, args.out) for job in jobs], chunksize=1)


def _run(task: tuple[dict[str, Any], str, Path]) -> float:
    import torch

    from mrdib_pyg.datasets import load_dataset
    from mrdib_pyg.training import run, write_atomic

    torch.set_num_threads(1)
    job, dataset, out = task
    label = f'seed{job["seed"]}' if job['trial'] is None else f'trial{job["trial"]}'
    path = out / f'{job["variant"]}-{label}.json'
    if path.exists():
        record = json.loads(path.read_text())
        if record['job'] != job:
            raise SystemExit(f"'{path}' was made with other settings; name another folder")
        return record['result']['val']['recall@20']
    kwargs = {k: v for k, v in job.items() if k not in ('variant', 'trial', 'dataset')}
    result = run(
        load_dataset(dataset),
        kwargs.pop('model'),
        dataset=job['dataset'],
        progress=False,
        **kwargs,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps({'job': job, 'result': result}, indent=1) + '\n').encode())
    value = result['val']['recall@20']
    print(
        f'{path.stem:16} val recall@20 {value:.4f}, epoch {result["best_epoch"]} of '
        f'{result["num_epochs"]}, {result["seconds"]:.0f} s',
        flush=True,
    )
    return value


if __name__ == '__main__':
    main()
