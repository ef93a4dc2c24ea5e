r"""A training step by one and by several processes: time, peak memory and bytes sent.

    python -m benchmarks.scaling.processes --out processes.json
    python -m benchmarks.scaling.processes --graphs baby --sizes 1 2 4
    python -m benchmarks.scaling.processes --device cuda --graphs baby large     # a GPU a process

The model is `multimodal_lightgcn` with MRdIB (MINE), 64 channels, on random edges. Each process has
one thread. *Time* is the median of a step's wall time in the first process, *CPU* that of its
process time. *Peak* is the largest resident memory of a process in the steps, without the building
of the model, which every process holds in whole until it is split; *tables* are the bytes of its
parameters, which gradients and Adam hold three more times. A machine with fewer free cores than
processes makes them wait for each other: look at the load that is recorded.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch_geometric.data import HeteroData

from mrdib_pyg import distributed
from mrdib_pyg.nn.models import MultimodalLightGCN, Triplets
from mrdib_pyg.training._run import provenance
from mrdib_pyg.training.step import LossWeights, make_adam, make_loss_step

#: Users, items and edges.
GRAPHS = {'baby': (19_445, 7_050, 118_551), 'large': (300_000, 100_000, 3_000_000)}
CHANNELS, NUM_LAYERS, BATCH_SIZE, WIDTH = 64, 2, 2048, 64
WEIGHTS = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
WARM_UP = 2


def make_data(graph: str) -> HeteroData:
    users, items, edges = GRAPHS[graph]
    generator = torch.Generator().manual_seed(0)
    data = HeteroData()
    data['user'].num_nodes, data['item'].num_nodes = users, items
    data['user', 'rates', 'item'].edge_index = torch.stack(
        [torch.randint(size, (edges,), generator=generator) for size in (users, items)]
    )
    for name in ('image', 'text'):
        data['item'][f'x_{name}'] = torch.randn(items, WIDTH, generator=generator)
    return data


def measure(rank: int, size: int, port: int, args: argparse.Namespace, graph: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(size)}
    os.environ |= {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    with distributed.processes(args.device) as mesh:
        torch.manual_seed(0)
        model = MultimodalLightGCN(
            make_data(graph), CHANNELS, NUM_LAYERS, mrdib={'redundancy': 'mine'}
        ).to(args.device)
        if mesh is not None:
            distributed.shard(model, mesh)
            assert model.columns is not None
            model.columns.num_bytes = 0
        optimizer = make_adam(list(model.parameters()), 1e-3)
        step = make_loss_step(model, LossWeights(model.loss_weights, WEIGHTS))
        edges = model.train_edge_index
        model.train()
        walls, cpus = [], []
        for i in range(WARM_UP + args.steps):
            index = torch.randint(edges.size(1), (BATCH_SIZE,), device=edges.device)
            negative = torch.randint(model.num_items, (BATCH_SIZE,), device=edges.device)
            if i == 1:
                _reset_peak(args.device)
            start = time.perf_counter(), time.process_time()
            loss, _ = step(Triplets(*edges[:, index], negative))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if args.device == 'cuda':
                torch.cuda.synchronize()
            if i >= WARM_UP:
                walls.append(time.perf_counter() - start[0])
                cpus.append(time.process_time() - start[1])
        sent = 0 if model.columns is None else model.columns.num_bytes
        if rank == 0:
            out = {
                'graph': graph,
                'processes': size,
                'seconds': statistics.median(walls),
                'cpu_seconds': statistics.median(cpus),
                'peak_bytes': _peak(args.device),
                'table_bytes': sum(p.numel() * p.element_size() for p in model.parameters()),
                'sent_bytes': sent // (WARM_UP + args.steps),
                'loss': loss.item(),
            }
            print(json.dumps(out), flush=True)
            with open(args.part, 'w') as f:
                json.dump(out, f)


def _reset_peak(device: str) -> None:
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        Path('/proc/self/clear_refs').write_text('5')  # the peak becomes what is resident now


def _peak(device: str) -> int:
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith('VmHWM'))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description='A training step by several processes.')
    parser.add_argument('--graphs', nargs='+', choices=list(GRAPHS), default=list(GRAPHS))
    parser.add_argument('--sizes', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--out', help='a JSON file')
    args = parser.parse_args()
    args.part = f'.processes-{os.getpid()}.json'
    rows: list[dict[str, Any]] = []
    for graph in args.graphs:
        for size in args.sizes:
            with socket.socket() as s:
                s.bind(('127.0.0.1', 0))
                port = s.getsockname()[1]
            load = os.getloadavg()[0]
            mp.spawn(measure, (size, port, args, graph), nprocs=size)
            rows.append({**json.loads(Path(args.part).read_text()), 'load_before': load})
            Path(args.part).unlink()
    if args.out:
        settings = {'channels': CHANNELS, 'num_layers': NUM_LAYERS, 'batch_size': BATCH_SIZE,
                    'width': WIDTH, 'steps': args.steps}  # fmt: skip
        text = json.dumps({**provenance(), 'settings': settings, 'rows': rows}, indent=2)
        Path(args.out).write_text(text + '\n')


if __name__ == '__main__':
    main()
