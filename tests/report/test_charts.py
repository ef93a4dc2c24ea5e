import pytest

from mrdib_pyg.report.charts import COLORS, DASHES, SHAPES, css_variables, resolve, series


def luminance(color: str) -> float:
    """The relative luminance of WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_pairs():
    assert contrast('#000000', '#ffffff') == pytest.approx(21)
    assert contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('name', [name for name in COLORS if name[1:].isdecimal()])
def test_series_stand_out(name, dark):
    for ground in ('ground', 'surface'):
        assert contrast(COLORS[name][dark], COLORS[ground][dark]) >= 3


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('name', ['text', 'muted', 'link'])
def test_text_can_be_read(name, dark):
    for ground in ('ground', 'surface', 'note'):
        assert contrast(COLORS[name][dark], COLORS[ground][dark]) >= 4.5


def test_series_differ_by_more_than_color():
    assert len({tuple(dash) for dash in DASHES}) == len(set(SHAPES)) == len(DASHES) == 8
    assert series(0) == series(8) == 'var(--s0)' and series(1, 'm') == 'var(--m1)'


def test_resolve():
    spec = {'a': ['var(--s0)', 1, None], 'b': {'c': 'text'}}
    assert resolve(spec) == {'a': [COLORS['s0'][0], 1, None], 'b': {'c': 'text'}}
    assert resolve(spec, dark=True)['a'][0] == COLORS['s0'][1]
    assert f'--s0: {COLORS["s0"][1]};' in css_variables(dark=True)
