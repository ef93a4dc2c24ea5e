"""The charts, in Vega-Lite by Altair."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

#: Colors on light and on dark ground. ``s`` are groups of runs, ``m`` modalities.
COLORS: dict[str, tuple[str, str]] = {
    'ground': ('#ffffff', '#14171c'),
    'surface': ('#f6f7f9', '#1c2027'),
    'text': ('#1a1d21', '#e8eaed'),
    'muted': ('#59616b', '#a3acb8'),
    'line': ('#d9dde3', '#343b46'),
    'grid': ('#e8ebef', '#2a303a'),
    'link': ('#1d5a9e', '#8ab8f2'),
    'note': ('#fff7e0', '#2d2716'),
    'note-line': ('#a87900', '#c9a227'),
    's0': ('#2563a8', '#7fb2f0'),
    's1': ('#b5470b', '#f2a26b'),
    's2': ('#1a7f5a', '#63cf9f'),
    's3': ('#7b3fa0', '#cba3ea'),
    's4': ('#8c6a00', '#dfc15a'),
    's5': ('#b0246e', '#f291bf'),
    's6': ('#4a5568', '#a9b4c4'),
    's7': ('#0f7c8a', '#5fc9d6'),
    'm0': ('#0f766e', '#4fd1c0'),
    'm1': ('#c2410c', '#ff9a6b'),
    'm2': ('#6d28d9', '#b79cff'),
    'm3': ('#8a5a00', '#e6c35c'),
}

#: Dashes and shapes tell series apart where colors do not.
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4], [4, 2, 1, 2], [1, 3], [12, 2, 2, 2])

SHAPES = ('circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down', 'stroke', 'arrow')

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def series(index: int, kind: str = 's') -> str:
    r"""The color of a group of runs (``s``) or of a modality (``m``), as a CSS variable."""
    number = sum(name[0] == kind and name[1:].isdecimal() for name in COLORS)
    return f'var(--{kind}{index % number})'


def css_variables(dark: bool) -> str:
    r"""The CSS declarations of all colors."""
    return ' '.join(f'--{name}: {pair[dark]};' for name, pair in COLORS.items())


def vega_config(legend: bool) -> dict[str, Any]:
    r"""The configuration of all charts, in CSS variables. Without ``legend`` the page draws it."""
    text = {'labelColor': 'var(--muted)', 'titleColor': 'var(--text)', 'titleFontWeight': 500}
    return {
        'background': 'transparent',
        'font': FONT,
        'axis': {
            **text,
            'domainColor': 'var(--line)', 'tickColor': 'var(--line)', 'gridColor': 'var(--grid)',
            'labelFontSize': 11, 'titleFontSize': 11.5, 'titlePadding': 8, 'labelLimit': 260,
        },
        'legend': {
            'disable': not legend, **text, 'orient': 'bottom', 'labelFontSize': 11, 'title': None,
            'labelLimit': 400, 'symbolLimit': 40, 'direction': 'horizontal',
        },
        'title': {'color': 'var(--text)', 'fontSize': 13, 'fontWeight': 600, 'anchor': 'start'},
        'view': {'stroke': None},
        'text': {'color': 'var(--muted)', 'fontSize': 11},
    }  # fmt: skip


def resolve(spec: Any, dark: bool = False) -> Any:
    r"""Replaces CSS variables by colors, for pictures outside the page."""
    if isinstance(spec, Mapping):
        return {key: resolve(value, dark) for key, value in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [resolve(value, dark) for value in spec]
    if isinstance(spec, str) and spec.startswith('var(--'):
        return COLORS[spec[len('var(--') : -1]][dark]
    return spec


Row = Mapping[str, Any]

HEIGHT = 210


def check_installed() -> None:
    r"""Raises :class:`ValueError` if a chart library is missing."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as e:
        raise ValueError(
            f"a report needs {e.name or 'altair'}: pip install 'mrdib_pyg[report]'"
        ) from None


@cache
def javascript() -> str:
    r"""The libraries that draw the charts in a browser, as one script without imports."""
    import altair
    import vl_convert

    return vl_convert.javascript_bundle(vl_version=_version(altair))  # type: ignore[call-arg]


def png(spec: dict[str, Any], title: str, width: int = 560, scale: float = 2.0) -> bytes:
    r"""Draws a chart with its title and legend on white ground."""
    import altair
    import vl_convert

    spec = {**spec, 'title': title, 'width': width, 'padding': 12}
    config = {**vega_config(legend=True), 'background': '#ffffff', 'font': 'sans-serif'}
    return vl_convert.vegalite_to_png(
        resolve({**spec, 'config': config}), vl_version=_version(altair), scale=scale
    )


def lines(rows: Sequence[Row], labels: Sequence[tuple[int, str]], unit: str) -> dict[str, Any]:
    r"""Curves over epochs. Rows have ``epoch``, ``value``, ``run``, ``group`` and, at the kept
    epoch, ``best``. Labels are the number and the label of each group.
    """
    import altair as alt

    encodings = _group_encodings(labels)
    base = alt.Chart(_data(rows)).encode(
        x=alt.X('epoch:Q').axis(tickMinStep=1, format='d', grid=False, tickCount=6)
        .scale(nice=False).title('epoch'),
        y=alt.Y('value:Q').scale(zero=False).axis(tickCount=5).title(unit),
        detail='run:N',
    )  # fmt: skip
    tooltip = [
        alt.Tooltip('run:N'), alt.Tooltip('group:N'), alt.Tooltip('epoch:Q'),
        alt.Tooltip('value:Q', format='.4~g'),
    ]  # fmt: skip
    near = alt.selection_point(
        name='near', nearest=True, on='pointerover', fields=['epoch', 'run'], empty=False,
        clear='pointerout',
    )  # fmt: skip
    line = base.mark_line(strokeWidth=1.8, aria=False).encode(
        color=encodings['color'], strokeDash=encodings['strokeDash']
    )
    best = (
        base.transform_filter('datum.best == true')
        .mark_point(filled=True, size=64, opacity=1, aria=False)
        .encode(color=encodings['color'], shape=encodings['shape'])
    )
    hover = (
        base.mark_point(filled=True, size=50, aria=False)
        .encode(
            color=encodings['color'],
            opacity=alt.condition(near, alt.value(1), alt.value(0)),
            tooltip=tooltip,
        )
        .add_params(near)
    )
    return _finish(alt.layer(line, best, hover), HEIGHT)


def dots(rows: Sequence[Row], labels: Sequence[tuple[int, str]], title: str) -> dict[str, Any]:
    r"""One point per run, the mean of each group and a standard deviation to either side. Rows of
    the ``kind`` ``'run'`` have ``group``, ``value``, ``run`` and ``seed``; those of the kind
    ``'mean'`` have ``group``, ``value``, ``spread`` and, with several runs, ``low`` and ``high``.
    """
    import altair as alt

    encodings = _group_encodings(labels)
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y('group:N').sort([label for _, label in labels]).title(None)
        .axis(grid=True, ticks=False, domain=False, labelPadding=8),
        color=encodings['color'],
    )  # fmt: skip
    x = alt.X('value:Q').scale(zero=False, padding=12).axis(tickCount=6, grid=False).title(title)
    mean = base.transform_filter("datum.kind == 'mean'")
    whisker = mean.transform_filter('isValid(datum.low)').mark_rule(strokeWidth=2, aria=False)
    points = base.transform_filter("datum.kind == 'run'").mark_point(
        filled=True, size=60, opacity=0.75, aria=False
    )
    chart = alt.layer(
        whisker.encode(x=alt.X('low:Q').title(title), x2='high:Q'),
        mean.mark_tick(thickness=3, size=22, aria=False).encode(
            x=x,
            tooltip=[
                alt.Tooltip('group:N'), alt.Tooltip('value:Q', title='mean', format='.4f'),
                alt.Tooltip('spread:N'),
            ],
        ),
        points.encode(
            x=x, shape=encodings['shape'],
            tooltip=[
                alt.Tooltip('run:N'), alt.Tooltip('seed:N'),
                alt.Tooltip('value:Q', title=title, format='.4f'),
            ],
        ),
    )  # fmt: skip
    return _finish(chart, 46 * len(labels) + 20)


def bars(
    rows: Sequence[Row],
    labels: Sequence[tuple[int, str]],
    runs: Sequence[str],
    parts: Sequence[str],
    title: str,
) -> dict[str, Any]:
    r"""Horizontal bars with intervals: a block per part, in it a bar per run, from above. Rows have
    ``part``, ``run``, ``group``, ``value``, ``low``, ``high`` and ``label``, the text at the end.
    """
    import altair as alt

    base = alt.Chart(_data(rows)).encode(
        y=alt.Y('part:N').sort(list(parts)).title(None).scale(paddingInner=0.25, paddingOuter=0.1)
        .axis(ticks=False, domain=False, labelPadding=10, labelFontSize=12),
        yOffset=alt.YOffset('run:N').sort(list(runs)).scale(paddingInner=0.15),
        tooltip=[
            alt.Tooltip('run:N', title='model'), alt.Tooltip('part:N'),
            alt.Tooltip('value:Q', format='.4f'),
            alt.Tooltip('low:Q', format='.4f'), alt.Tooltip('high:Q', format='.4f'),
        ],
    )  # fmt: skip
    # Room for the text at the end of the longest bar.
    high = max(max(row['high'], row['value'], 0) for row in rows)
    low = min(min(row['low'], row['value'], 0) for row in rows)
    share = 0.15 + 0.025 * max(len(row['label']) for row in rows)
    room = alt.Scale(domain=[low, high + share * (high - low or 1)], nice=False)
    color = _group_encodings(labels)['color']
    bar = base.mark_bar(aria=False, opacity=0.75).encode(
        x=alt.X('value:Q').title(title).axis(tickCount=6).scale(room), color=color
    )
    interval = base.mark_rule(aria=False, strokeWidth=2, color='var(--text)').encode(
        x=alt.X('low:Q').title(title), x2='high:Q'
    )
    text = (
        base.transform_calculate(end='max(datum.high, datum.value, 0)')
        .mark_text(align='left', baseline='middle', dx=6, aria=False, color='var(--text)')
        .encode(x=alt.X('end:Q').title(title), text='label:N')
    )
    return _finish(alt.layer(bar, interval, text), (18 * len(runs) + 14) * len(parts))


def points(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    r"""A map with one point per item and modality. Hovering marks the same item in all modalities.
    Rows have ``x``, ``y``, ``item``, ``modality`` and ``users``.
    """
    import altair as alt

    near = alt.selection_point(
        name='near', on='pointerover', fields=['item'], empty=False, clear='pointerout'
    )
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=False, title=None)
    chart = (
        alt.Chart(_data(rows))
        .mark_point(filled=True, aria=False, strokeWidth=0)
        .encode(
            x=alt.X('x:Q').axis(axis).scale(zero=False),
            y=alt.Y('y:Q').axis(axis).scale(zero=False),
            color=alt.Color('modality:N').scale(
                domain=list(names), range=[series(i, 'm') for i in range(len(names))]
            ),
            shape=alt.Shape('modality:N').scale(
                domain=list(names), range=[SHAPES[i % len(SHAPES)] for i in range(len(names))]
            ),
            opacity=alt.condition(near, alt.value(1), alt.value(0.55)),
            size=alt.condition(near, alt.value(220), alt.value(22)),
            tooltip=[
                alt.Tooltip('item:N'), alt.Tooltip('modality:N'),
                alt.Tooltip('users:Q', title='users in training'),
            ],
        )
        .add_params(near)
    )  # fmt: skip
    return _finish(chart, 340)


def columns(
    rows: Sequence[Row], x: str, x_title: str, y_title: str, color: str, tooltip: Mapping[str, str]
) -> dict[str, Any]:
    r"""Columns of one color. Rows have ``value``, the keys :obj:`x` and those of :obj:`tooltip`
    (``title|format`` by key) and, where a column spans a range, ``end``.
    """
    import altair as alt

    shown = [
        alt.Tooltip(f'{key}:Q', title=title.partition('|')[0], format=title.partition('|')[2])
        for key, title in tooltip.items()
    ]
    place: dict[str, Any] = {'x': alt.X(f'{x}:Q').title(x_title).axis(grid=False, tickCount=6)}
    if rows and 'end' in rows[0]:
        place = {'x': place['x'].bin('binned'), 'x2': 'end:Q'}
        mark: dict[str, Any] = {'binSpacing': 1}
    else:
        mark = {'width': {'band': 0.85}}
        place['x'] = alt.X(f'{x}:O').title(x_title).axis(
            grid=False, labelAngle=0, labelOverlap=True, ticks=False
        )  # fmt: skip
    chart = (
        alt.Chart(_data(rows))
        .mark_bar(aria=False, color=color, **mark)
        .encode(
            y=alt.Y('value:Q').title(y_title).axis(tickCount=5).scale(zero=True),
            tooltip=shown,
            **place,
        )
    )
    return _finish(chart, 170)


def _group_encodings(labels: Sequence[tuple[int, str]]) -> dict[str, Any]:
    import altair as alt

    domain = [label for _, label in labels]
    shapes = [SHAPES[i % len(SHAPES)] for i, _ in labels]
    dashes = [DASHES[i % len(DASHES)] for i, _ in labels]
    return {
        'color': alt.Color('group:N').scale(domain=domain, range=[series(i) for i, _ in labels]),
        'shape': alt.Shape('group:N').scale(domain=domain, range=shapes),
        'strokeDash': alt.StrokeDash('group:N').scale(domain=domain, range=dashes),
    }


def _data(rows: Sequence[Row]) -> Any:
    import altair as alt

    return alt.InlineData(values=[dict(row) for row in rows])


def _finish(chart: Any, height: int) -> dict[str, Any]:
    spec = chart.properties(width='container', height=height).to_dict()
    del spec['config']  # the theme of Altair: the page brings its own
    datasets = spec.pop('datasets')
    spec['data'] = {'values': datasets[spec['data']['name']]}
    return spec


def _version(altair: Any) -> str:
    return '.'.join(altair.SCHEMA_VERSION.lstrip('v').split('.')[:2])
