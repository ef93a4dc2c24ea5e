r"""The strict forms of what the scripts of this folder write."""

from typing import Any

from benchmarks.forms import (
    MACHINE,
    METRICS,
    VERSIONS,
    Each,
    Maybe,
    not_negative,
    number,
    positive,
    scalar,
    text,
)

_RUN: dict[str, Any] = {'data_hash': text, 'best_epoch': positive, 'val': METRICS, 'test': METRICS}
#: ``benchmarks.quality.planted``.
PLANTED: dict[str, Any] = {
    'dataset': {'planted'},
    'noise': positive,
    'seeds': Each(not_negative, at_least=1),
    'models': Each(
        {
            'settings': Each(scalar, keys=str),
            'variants': Each(
                {
                    'mrdib': Maybe(Each(scalar, keys=str)),
                    'weights': Maybe(Each(not_negative, keys=str)),
                    'runs': Each(_RUN, at_least=1),
                },
                keys=str,
                at_least=2,
            ),
        },
        keys=str,
        at_least=1,
    ),
    'versions': VERSIONS,
    'machine': MACHINE,
}
ESTIMATE: dict[str, Any] = {'value': number, 'low': number, 'high': number}
_TRIPLES = Each(Each(number, at_least=3), keys=str, at_least=4)
#: ``benchmarks.quality.pid_truth``.
PID_TRUTH: dict[str, Any] = {
    'benchmark': {'pid_truth'},
    'seed': not_negative,
    'epochs': positive,
    'cases': Each(
        {
            'case': text,
            'seed': not_negative,
            'num_edges': positive,
            'bias': not_negative,
            'truth': Each(number, keys=str, at_least=4),
            'truth_error': not_negative,
            'estimator': _TRIPLES,
            'trained': Each({'noise': positive, 'model': text, 'atoms': _TRIPLES}),
        },
        at_least=1,
    ),
    'versions': VERSIONS,
    'machine': MACHINE,
}
#: ``benchmarks.quality.pid_training``.
PID_TRAINING: dict[str, Any] = {
    'benchmark': {'pid_training'},
    'bottleneck': positive,
    'runs': Each(
        Each(
            {
                'variant': text,
                'seed': not_negative,
                'seconds': positive,
                'best_epoch': positive,
                'test': METRICS,
                'shared': Each(number, keys=str, at_least=5),
                'code_rms': Each(not_negative, at_least=2),
                'pid': {
                    'redundant': ESTIMATE,
                    'unique': Each(ESTIMATE, keys=str, at_least=2),
                    'synergistic': ESTIMATE,
                    'synergistic_scores': ESTIMATE,
                    'total': ESTIMATE,
                },
                'informations': Each(ESTIMATE, keys=str, at_least=4),
            }
        ),
        keys=str,
        at_least=1,
    ),
    'versions': VERSIONS,
    'machine': MACHINE,
}
#: ``benchmarks.quality.pid_time``.
PID_TIME: dict[str, Any] = {
    'benchmark': {'pid_time'},
    'dataset': text,
    'model': text,
    'num_edges': positive,
    'num_users': positive,
    'seconds': Each({'wall': positive, 'cpu': positive}, keys=str, at_least=1),
    'before_bytes': positive,
    'peak_bytes': positive,
    'versions': VERSIONS,
    'machine': MACHINE,
}
#: ``benchmarks.quality.term_gradients``.
TERM_GRADIENTS: dict[str, Any] = {
    'benchmark': {'term_gradients'},
    'settings': {'experiment': text, 'epochs': positive, 'batches': positive, 'seed': not_negative},
    'data_hash': text,
    'models': Each(
        {
            'weights': Each(not_negative, keys=str, at_least=1),
            'measured': Each(number, keys=str, at_least=1),
            'seconds': positive,
        },
        keys=str,
        at_least=1,
    ),
    'versions': VERSIONS,
    'machine': MACHINE,
}
_TRAINED: dict[str, Any] = {
    'model': Maybe(text),
    'settings': Maybe(Each(scalar, keys=str)),
    'epochs': positive,
    'lr': Maybe(positive),
}
_VARIANT: dict[str, Any] = {
    'fill': Maybe(bool),
    'mrdib': Maybe(Each(scalar, keys=str)),
    'weights': Maybe(Each(not_negative, keys=str)),
    'modality_dropout': Maybe(positive),
}
_HEAD: dict[str, Any] = {
    'dataset': text,
    'data_hash': text,
    'variants': Each(_VARIANT, keys=str, at_least=2),
    'versions': VERSIONS,
    'machine': MACHINE,
    'complete': bool,
}
#: ``benchmarks.quality.missing_modalities``.
MISSING: dict[str, Any] = {
    **_HEAD,
    'settings': {
        'modality': text,
        'ratios': Each(not_negative, at_least=1),
        'seeds': Each(not_negative, at_least=1),
        'k': positive,
        'models': Each(_TRAINED, keys=str, at_least=1),
    },
    'runs': Each(
        {
            'model': text,
            'variant': text,
            'ratio': not_negative,
            'seed': not_negative,
            'best_epoch': positive,
            'val': METRICS,
            'test': METRICS,
            'test_without': Maybe(METRICS),
        },
        at_least=1,
    ),
}
#: ``benchmarks.quality.cold_items``.
COLD: dict[str, Any] = {
    **_HEAD,
    'settings': {
        'ratio': positive,
        'user_ratio': positive,
        'seeds': Each(not_negative, at_least=1),
        'k': positive,
        'models': Each(_TRAINED, keys=str, at_least=1),
        'user_models': Each(text),
    },
    'runs': Each(
        {
            'task': {'items', 'users'},
            'method': text,
            'variant': str,
            'seed': not_negative,
            'num_candidates': positive,
            'val': METRICS,
            'test': METRICS,
        },
        at_least=1,
    ),
}
#: ``benchmarks.quality.short_runs``.
SHORT_RUNS: dict[str, Any] = {
    'benchmark': {'short_runs'},
    'datasets': Each(
        {
            'data_hash': text,
            'graphs': Each(
                {
                    'seconds': Each(positive, at_least=1),
                    'memory': {'peak_bytes': positive, 'before_bytes': positive, 'how': text},
                },
                keys=str,
                at_least=1,
            ),
            'trainings': Each(
                {'mrdib': bool, 'seconds': positive, 'epoch_seconds': positive}, keys=str
            ),
        },
        keys=str,
        at_least=1,
    ),
    'versions': VERSIONS,
    'machine': MACHINE,
}
#: ``benchmarks.quality.popularity``.
POPULARITY: dict[str, Any] = {
    'benchmark': {'popularity'},
    'k': Each(positive, at_least=1),
    'datasets': Each(
        {'data_hash': text, 'test': METRICS, 'share_of_test_edges': METRICS}, keys=str, at_least=1
    ),
    'versions': VERSIONS,
    'machine': MACHINE,
}
#: The forms of files that name what wrote them.
NAMED: dict[str, dict[str, Any]] = {
    'term_gradients': TERM_GRADIENTS,
    'popularity': POPULARITY,
    'short_runs': SHORT_RUNS,
    'pid_truth': PID_TRUTH,
    'pid_training': PID_TRAINING,
    'pid_time': PID_TIME,
}
