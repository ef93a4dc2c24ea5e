r"""The form of every file in ``benchmarks/results``, and the words in which they are written.

    python -m benchmarks.schema benchmarks/results/*.json

A result stays the dictionary that its JSON gives; pydantic checks it strictly: no key more, none
less, no NaN, no text for a number. Nothing here imports torch, so that tables are quick to make.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import NotRequired, TypedDict

RESULTS = Path(__file__).resolve().parent / 'results'
VERSION = 'mrdib_pyg benchmark 1'

# The methods of the models, as rows name them.
OURS = 'mrdib_pyg'
OURS_MRDIB = 'mrdib_pyg with MRdIB'
OURS_TRAINED = 'mrdib_pyg, features trained'
OURS_COMPILED = 'mrdib_pyg, compiled'
OURS_MRDIB_COMPILED = 'mrdib_pyg with MRdIB, compiled'
COMMON = 'common implementation'
COMMON_FROZEN = 'common implementation, features frozen'
#: What the name of a method ends in, if it was timed as a CUDA graph.
CAPTURED = ', CUDA graph'

# The tasks of rows about a training step: MRdIB alone, what it adds, and what bounds the step.
ARITHMETIC = 'arithmetic of MRdIB alone'
ADDED = 'products of the step without and with MRdIB'
TURNS = 'step without and with MRdIB in turns'
OPERATORS = 'operators that MRdIB adds'
PRODUCTS = {
    OURS: 'products of the step alone',
    OURS_TRAINED: 'products of the step alone, features trained',
}
#: What is timed of a step alone.
KINDS = ('dense products', 'sums over edges', 'normal numbers', 'Adam')
#: What a further edge takes of the memory of the PID loss.
PER_EDGE = 'numbers_per_further_edge'
# The tasks of scaling, and the number of edges from which its times are fitted.
BOTH, GATHERS, FROM_TIME = 'forward+backward', 'gathers alone', 10**7

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Settings = dict[str, None | bool | str | float]


def form(**fields: Any) -> Any:
    r"""A dictionary of these keys, and of no other."""
    config = ConfigDict(extra='forbid', strict=True, allow_inf_nan=False)
    out: Any = TypedDict('form', fields)  # type: ignore[misc]
    return with_config(config)(out)


def some(form: Any, least: int = 1) -> Any:
    r"""A list of at least so many."""
    return Annotated[list[form], Field(min_length=least)]


def named(form: Any, least: int = 1) -> Any:
    r"""A dictionary whose keys are names, of at least so many."""
    return Annotated[dict[str, form], Field(min_length=least)]


CASE = Annotated[Settings, Field(min_length=1)]
METRICS = named(NotNegative)
WEIGHTS = dict[str, NotNegative]
SEEDS = some(NotNegative)
MACHINE: dict[str, Any] = {
    'system': Text, 'processor': Text, 'cores': Positive, 'threads': Positive, 'cuda': Text | None,
}  # fmt: skip
VERSIONS = named(Text, least=3)
#: What made a file.
ORIGIN: dict[str, Any] = {'versions': VERSIONS, 'machine': form(**MACHINE)}

# -- speed: `benchmarks.run` ----------------------------------------------------------------------


def _in_order(time: dict[str, Any]) -> dict[str, Any]:
    if not time['min'] <= time['q1'] <= time['median'] <= time['q3']:
        raise ValueError('minimum, quartiles and median are out of order')
    return time


def _distinct_rows(result: dict[str, Any]) -> dict[str, Any]:
    seen: set[tuple[str, str]] = set()
    for i, row in enumerate(result['rows']):
        case = json.dumps(row['case'], sort_keys=True)
        if not {'time', 'memory', 'values'} & row.keys():
            raise ValueError(f'rows.{i} measures nothing')
        if row.get('time', {}).get('clock', result['device']) != result['device']:
            raise ValueError(f'rows.{i}.time.clock is not that of the device')
        for name in (row['method'], *(['baseline'] if row['role'] == 'baseline' else [])):
            if (case, name) in seen:
                raise ValueError(f'rows.{i}: {name!r} is there twice, for {case}')
            seen.add((case, name))
    return result


TIME = form(
    clock=Literal['cpu', 'cuda'], median=NotNegative, q1=NotNegative, q3=NotNegative,
    min=NotNegative, wall=NotNegative, runs=Positive,
)  # fmt: skip
MEMORY = form(peak_bytes=Positive, before_bytes=NotNegative, how=Text)
ROOFLINE = form(
    requested_bytes=Positive, compulsory_bytes=Positive, copy_bytes_per_second=Positive,
    requested_share=Positive, compulsory_share=Positive,
)  # fmt: skip
ROW = form(
    case=CASE, method=Text, role=Literal['ours', 'baseline', 'rival'],
    time=NotRequired[Annotated[TIME, AfterValidator(_in_order)]], memory=NotRequired[MEMORY],
    roofline=NotRequired[ROOFLINE], values=NotRequired[named(float)],
)  # fmt: skip
ACCELERATOR: Any = form(
    name=Text, compute_capability=Text, memory_bytes=Positive, multiprocessors=Positive,
    l2_cache_bytes=Positive | None, cuda=Text | None, driver=Text | None,
)  # fmt: skip
SPEED = form(
    schema=Literal['mrdib_pyg benchmark 1'], benchmark=Text, device=Literal['cpu', 'cuda'],
    short=bool, complete=bool, command=Text, date=Text, seconds=NotNegative, settings=Settings,
    rows=some(ROW, least=0), missing=some(form(case=CASE, method=Text, why=Text), least=0),
    versions=VERSIONS, machine=form(**MACHINE, architecture=Text, accelerator=ACCELERATOR | None),
)  # fmt: skip

# -- summaries of `mrdib experiment` --------------------------------------------------------------

GAIN: dict[str, Any] = dict.fromkeys(('gain', 'low', 'high'), float | None)
GAINS = named(named(form(**GAIN, best_of_others=Text, differences=some(float)), least=0), least=0)
MEAN_GAINS = named(named(named(form(**GAIN, num_models=Positive), least=0), least=0), least=0)
MEANS: dict[str, Any] = {'mean_gains': MEAN_GAINS, 'mean_gains_over_plain': MEAN_GAINS}
SETTING: dict[str, Any] = {
    'settings': Settings,
    'fit': CASE,
    'mrdib': Settings | None,
    'weights': WEIGHTS,
}
CELL = form(
    kind=Literal['plain', 'l2', 'noise', 'mrdib'], chosen=form(**SETTING),
    trials=some(form(**SETTING, val=list[NotNegative | None])), seeds=SEEDS, val=named(SEEDS),
    test=named(SEEDS), best_epoch=some(Positive), num_epochs=some(Positive),
    epoch_seconds=some(Positive), num_parameters=Positive, terms=some(named(float)),
)  # fmt: skip
MODEL = form(variants=named(CELL), gains=GAINS, gains_over_plain=GAINS)
EXPERIMENT = form(
    name=Text, description=dict[str, Any],
    bootstrap=form(num_samples=Positive, seed=NotNegative, level=Positive),
    datasets=named(form(data_hash=Text, popularity=METRICS | None, models=named(MODEL))),
    groups=named(form(models=some(Text), **MEANS), least=0), unfinished=list[Text],
    versions=some(VERSIONS), machines=some(ORIGIN['machine']), **MEANS,
)  # fmt: skip

# -- `tests/fuzz/run.py` --------------------------------------------------------------------------


def _added_up(result: dict[str, Any]) -> dict[str, Any]:
    total = dict.fromkeys(result['total'], 0)
    for row in result['readers']:
        counts = {key: row[key] for key in ('inputs', 'loaded', 'hangs')}
        counts |= {key: sum(row[key].values()) for key in ('refused', 'undocumented')}
        if 2 * counts['inputs'] != sum(counts.values()):
            raise ValueError(f'readers: the inputs of {row["reader"]!r} do not add up')
        total = {key: total[key] + counts.get(key, 1) for key in total}
    if total != result['total']:
        raise ValueError(f'total is not that of the readers, {total}')
    return result


COUNTS: dict[str, Any] = {'inputs': Positive, 'loaded': NotNegative, 'hangs': NotNegative}
READER = form(
    reader=Text, file=Text, refused=dict[str, Positive], undocumented=dict[str, Positive],
    peak_mib=NotNegative, seconds=NotNegative, longest_seconds=NotNegative, **COUNTS,
)  # fmt: skip
FUZZ = form(
    benchmark=Literal['fuzz'], command=Text, date=Text, complete=bool, seed=NotNegative,
    examples=Positive, memory_mib=Positive, patience_seconds=Positive,
    total=form(**COUNTS, readers=Positive, refused=NotNegative, undocumented=NotNegative),
    readers=some(READER), **ORIGIN,
)  # fmt: skip

# -- `benchmarks.quality` -------------------------------------------------------------------------

PLANTED_VARIANT = form(
    mrdib=NotRequired[Settings], weights=NotRequired[WEIGHTS],
    runs=some(form(data_hash=Text, best_epoch=Positive, val=METRICS, test=METRICS)),
)  # fmt: skip
PLANTED = form(
    dataset=Literal['planted'], noise=Positive, seeds=SEEDS,
    models=named(form(settings=Settings, variants=named(PLANTED_VARIANT, least=2))), **ORIGIN,
)  # fmt: skip
INTERVALS = named(some(float, least=3), least=4)
TRUTH = form(
    case=Text, seed=NotNegative, num_edges=Positive, bias=NotNegative, truth=named(float, least=4),
    truth_error=NotNegative, estimator=INTERVALS,
    trained=some(form(noise=Positive, model=Text, atoms=INTERVALS), least=0),
)  # fmt: skip
PID_TRUTH = form(
    benchmark=Literal['pid_truth'], seed=NotNegative, epochs=Positive, cases=some(TRUTH), **ORIGIN
)
ESTIMATE = form(value=float, low=float, high=float)
ATOMS = form(
    redundant=ESTIMATE, unique=named(ESTIMATE, least=2), synergistic=ESTIMATE,
    synergistic_scores=ESTIMATE, total=ESTIMATE,
)  # fmt: skip
PID_RUN = form(
    variant=Text, seed=NotNegative, seconds=Positive, best_epoch=Positive, test=METRICS,
    shared=named(float, least=5), code_rms=some(NotNegative, least=2), pid=ATOMS,
    informations=named(ESTIMATE, least=4),
)  # fmt: skip
PID_TRAINING = form(
    benchmark=Literal['pid_training'], bottleneck=Positive, runs=named(some(PID_RUN, least=0)),
    **ORIGIN,
)  # fmt: skip
PID_TIME = form(
    benchmark=Literal['pid_time'], dataset=Text, model=Text, num_edges=Positive,
    num_users=Positive, seconds=named(form(wall=Positive, cpu=Positive)), before_bytes=Positive,
    peak_bytes=Positive, **ORIGIN,
)  # fmt: skip
TERM_GRADIENTS = form(
    benchmark=Literal['term_gradients'],
    settings=form(experiment=Text, epochs=Positive, batches=Positive, seed=NotNegative),
    data_hash=Text,
    models=named(form(weights=METRICS, measured=named(float), seconds=Positive)), **ORIGIN,
)  # fmt: skip
TRAINING = form(mrdib=bool, seconds=Positive, epoch_seconds=Positive)
BEGIN = form(
    data_hash=Text, graphs=named(form(seconds=some(Positive), memory=MEMORY)),
    trainings=named(TRAINING, least=0),
)  # fmt: skip
SHORT_RUNS = form(benchmark=Literal['short_runs'], datasets=named(BEGIN), **ORIGIN)
POPULARITY = form(
    benchmark=Literal['popularity'], k=some(Positive),
    datasets=named(form(data_hash=Text, test=METRICS, share_of_test_edges=METRICS)), **ORIGIN,
)  # fmt: skip
VARIANT = form(
    fill=NotRequired[bool], mrdib=NotRequired[Settings], weights=NotRequired[WEIGHTS],
    modality_dropout=NotRequired[Positive],
)  # fmt: skip
TRAINED = form(
    model=NotRequired[Text], settings=NotRequired[Settings], epochs=Positive,
    lr=NotRequired[Positive],
)  # fmt: skip
#: What files of :mod:`benchmarks.quality.cells` have in common, and their settings.
CELLS: dict[str, Any] = {
    'dataset': Text, 'data_hash': Text, 'variants': named(VARIANT, least=2), 'complete': bool,
    **ORIGIN,
}  # fmt: skip
CELL_SETTINGS: dict[str, Any] = {'seeds': SEEDS, 'k': Positive, 'models': named(TRAINED)}
MISSING_RUN = form(
    model=Text, variant=Text, ratio=NotNegative, seed=NotNegative, best_epoch=Positive,
    val=METRICS, test=METRICS, test_without=NotRequired[METRICS],
)  # fmt: skip
MISSING = form(
    settings=form(modality=Text, ratios=SEEDS, **CELL_SETTINGS), runs=some(MISSING_RUN), **CELLS
)
COLD_RUN = form(
    task=Literal['items', 'users'], method=Text, variant=str, seed=NotNegative,
    num_candidates=Positive, val=METRICS, test=METRICS,
)  # fmt: skip
COLD = form(
    settings=form(ratio=Positive, user_ratio=Positive, user_models=list[Text], **CELL_SETTINGS),
    runs=some(COLD_RUN),
    **CELLS,
)
#: The forms by the kind of a result.
FORMS: dict[str, Any] = {
    'speed': Annotated[SPEED, AfterValidator(_distinct_rows)],
    'experiment': EXPERIMENT,
    'fuzz': Annotated[FUZZ, AfterValidator(_added_up)],
    'planted': PLANTED,
    'pid_truth': PID_TRUTH,
    'pid_training': PID_TRAINING,
    'pid_time': PID_TIME,
    'term_gradients': TERM_GRADIENTS,
    'short_runs': SHORT_RUNS,
    'popularity': POPULARITY,
    'missing': MISSING,
    'cold': COLD,
}


def kind_of(value: dict[str, Any]) -> str:
    r"""The kind of a result: what wrote it, where it says so, else by what only that kind has."""
    if 'schema' in value:
        return 'speed'
    if value.get('benchmark') in FORMS:
        return value['benchmark']
    if 'mean_gains' in value:
        return 'experiment'
    if 'runs' in value:
        return 'missing' if 'modality' in value.get('settings', {}) else 'cold'
    return 'planted'


@functools.cache
def _checker(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(FORMS[kind])


def validate(value: Any) -> str:
    r"""Checks what a result file holds and returns its kind, a key of :obj:`FORMS`.

    Raises:
        ValueError: If it has another form; pydantic's error names every place and value.
    """
    if not isinstance(value, dict):
        raise ValueError(f'a result must be a dictionary (got {type(value).__name__})')
    kind = kind_of(value)
    _checker(kind).validate_python(value)
    return kind


def _refuse(name: str) -> None:
    raise ValueError(f'JSON has no {name}')


def load(path: Path) -> Any:
    r"""Reads strict JSON: NaN and Infinity, which Python would write and read, are refused."""
    return json.loads(path.read_text(encoding='utf-8'), parse_constant=_refuse)


def main() -> None:
    for name in sys.argv[1:]:
        print(f'{name}: {validate(load(Path(name)))}')


if __name__ == '__main__':
    main()
