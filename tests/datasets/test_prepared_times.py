import warnings

import pandas as pd
import pytest
from tables import NAMES, read_back

from mrdib_pyg.datasets import prepare_table
from mrdib_pyg.datasets.prepare_report import PrepareReport


def test_dates_and_splits_by_time(tmp_path):
    days = pd.date_range('2024-01-01', periods=10, freq='12h')
    table = pd.DataFrame({'user': 'a', 'item': range(10), 'at': days})
    for name, column in (('datetime', days), ('text', days.strftime('%Y-%m-%dT%H:%M:%SZ'))):
        table['at'] = column
        prepare_table(table, tmp_path / name, **NAMES, time='at', split='leave_one_out')
        written = read_back(tmp_path / name)
        assert written['timestamp'].tolist() == [1704067200 + 43200 * n for n in range(10)]
        assert written['x_label'].tolist() == [0] * 8 + [1, 2]
    prepare_table(
        table, tmp_path / 'temporal', **NAMES, time='at', split='temporal', ratios=(0.5, 0.3, 0.2)
    )
    assert read_back(tmp_path / 'temporal')['x_label'].tolist() == [0] * 5 + [1] * 3 + [2] * 2


def test_dates_of_mixed_precision(tmp_path):
    at = ['2024-01-01', '2024-01-01 12:00', '2024-01-02T00:00:00.5Z', '2024-01-02 12:00:00+01:00',
          'never']  # fmt: skip
    table = pd.DataFrame({'user': 'a', 'item': range(5), 'at': at})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at', split='leave_one_out')
    found = read_back(tmp_path / 'out')['timestamp'] - 1704067200
    assert found.tolist() == [0, 43200, 86400.5, 126000]
    assert report.dropped == {'whose time (at) is no time': 1}


@pytest.mark.parametrize(
    ('at', 'message'),
    [
        (['01/02/2024', '03/04/2024'], "'01/02/2024', may have.*'%d/%m/%Y' or '%m/%d/%Y'"),
        (['2024-01-05', '01.02.2024 10:00'], "'01.02.2024 10:00', may have.*'%d.%m.%Y %H:%M'"),
        (['01/13/2024', '13/01/2024'], "'at' are written in several ways.*but not"),
        (['Jan 5 2024', '31.12.2024'], "'at' are written in several ways"),
        (['3/5/23', '12/6/21'], "'%d/%m/%y' or '%m/%d/%y'"),
        ([20240105, 20241231], r"'at', such as 20240105, are dates by.*'time_format' '%Y%m%d'"),
        ([20240105.0, None], 'such as 20240105, are dates'),
    ],
)
def test_dates_that_are_not_clear_are_refused(tmp_path, at, message):
    table = pd.DataFrame({'user': 'a', 'item': [0, 1], 'at': at})
    with pytest.raises(ValueError, match=message):
        prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    'form', ['%d/%m/%Y', '%m/%d/%Y', '%m %d, %Y', '%d.%m.%Y %H:%M', '%d/%m/%y', '%b %d, %Y',
             '%m/%d/%Y %I:%M %p', '%d-%b-%y', '%Y%m%dT%H%M%S', '%Y/%m/%d', '%d %B %Y'],
)  # fmt: skip
def test_a_number_above_twelve_decides(tmp_path, form):
    """Whatever the order, no row is lost and no month swapped."""
    days = pd.date_range('2014-01-05', periods=200, freq='D')
    table = pd.DataFrame({'user': 'a', 'item': range(200), 'at': days.strftime(form)})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    found = read_back(tmp_path / 'out')['timestamp']
    assert found.tolist() == [1388880000 + 86400 * n for n in range(200)]


def test_a_swapped_form_is_told_of(tmp_path):
    days = pd.date_range('2014-01-05', periods=30, freq='D').strftime('%m/%d/%Y')
    table = pd.DataFrame({'user': 'a', 'item': range(30), 'at': days})
    with pytest.warns(UserWarning, match="'%d/%m/%Y' reads 11 .*'%m/%d/%Y' reads 30"):
        prepare_table(table, tmp_path / 'out', **NAMES, time='at', time_format='%d/%m/%Y')
    with pytest.raises(ValueError, match="'time_format' '%Q' is no form"):
        prepare_table(table, tmp_path / 'x', **NAMES, time='at', time_format='%Q')


@pytest.mark.parametrize(
    'odd', ['9999-12-31', '0001-01-01', '05/06/2023', '31.12.2023', 'infinity', 'today', '17e8']
)
def test_an_odd_date_among_many_is_left_out(tmp_path, odd):
    days = pd.date_range('2014-01-05', periods=400, freq='D').strftime('%Y-%m-%d')
    table = pd.DataFrame({'user': 'a', 'item': range(401), 'at': [*days, odd]})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        report = prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    if odd == '31.12.2023':  # which leaves no doubt
        assert report.times['last'] == '2023-12-31 00:00:00'
    else:
        assert report.dropped == {'whose time (at) is no time': 1}
        assert report.examples == {'whose time (at) is no time': odd}


def test_dates_of_data_types(tmp_path):
    pa = pytest.importorskip('pyarrow')
    days = pd.to_datetime(['2014-01-05', '2014-01-06'])
    for name, kind in (('s', pa.timestamp('s')), ('ns', pa.timestamp('ns')), ('day', pa.date32()),
                       ('zone', pa.timestamp('us', tz='Europe/Berlin'))):  # fmt: skip
        table = pa.table({'user': ['a', 'b'], 'item': [1, 2], 'at': pa.array(days).cast(kind)})
        prepare_table(table, tmp_path / name, **NAMES, time='at', split='random')
        assert read_back(tmp_path / name)['timestamp'].tolist() == [1388880000, 1388966400], name


def test_units_of_several_kinds_are_told_of(tmp_path):
    at = [1700000000, 1700000001, 5, 1700000000000]
    table = {'user': ['a'] * 4, 'item': [1, 2, 3, 4], 'at': at}
    with pytest.warns(UserWarning, match='2 look like seconds and 1 look like milliseconds'):
        prepare_table(table, tmp_path / 'out', **NAMES, time='at')


def test_times_make_the_split_temporal(tmp_path):
    table = pd.DataFrame({'user': 'a', 'item': range(10), 'at': range(10)})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert report.settings['split'] == 'temporal' and 'the split is by time' in str(report)
    assert read_back(tmp_path / 'out')['x_label'].tolist() == [0] * 8 + [1, 2]
    report = prepare_table(table, tmp_path / 'random', **NAMES, time='at', split='random')
    assert report.remarks == [] and report.settings['split'] == 'random'


@pytest.mark.parametrize(
    ('at', 'form'),
    [
        (['05/03/2023', '20/03/2023', 'never'], '%d/%m/%Y'),
        (['03/05/2023', '03/20/2023', ''], '%m/%d/%Y'),
        ([20230305, 20230320, 0], '%Y%m%d'),
        ([20230305, 20230320, None], '%Y%m%d'),
        (['5 Mar 2023', '20 Mar 2023', '-'], None),
        (['2023/03/05', '2023/03/20', '1'], None),
    ],
)
def test_forms_of_dates(tmp_path, at, form):
    table = pd.DataFrame({'user': 'a', 'item': range(3), 'at': at})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at', time_format=form)
    assert read_back(tmp_path / 'out')['timestamp'].tolist() == [1677974400, 1679270400]
    assert report.dropped == {'whose time (at) is no time': 1}
    assert report.times == {'first': '2023-03-05 00:00:00', 'last': '2023-03-20 00:00:00'}
    assert 'times: 2023-03-05 00:00:00 to 2023-03-20 00:00:00' in str(report)
    assert PrepareReport.load(tmp_path / 'out').times == report.times


def test_numbers_that_are_mostly_no_dates(tmp_path):
    at = [*range(18), 20230301, 20230302]
    table = pd.DataFrame({'user': 'a', 'item': range(20), 'at': at})
    prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert read_back(tmp_path / 'out')['timestamp'].tolist() == at
    with pytest.raises(ValueError, match="'time_format' '%d' needs the column of times"):
        prepare_table(table, tmp_path / 'other', **NAMES, time_format='%d')


def test_times_that_are_numbers(tmp_path):
    table = pd.DataFrame({'user': 'a', 'item': range(3), 'at': [7, 5, 6]})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert report.times == {'first': 5, 'last': 7} and 'times: 5 to 7' in str(report)
