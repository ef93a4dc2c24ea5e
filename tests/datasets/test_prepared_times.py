import numpy as np
import pandas as pd
import pytest
from tables import NAMES, read_back

from mrdib_pyg.datasets import PrepareReport, _chunks, prepare_table
from mrdib_pyg.datasets._time_reader import TimeReader


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
        (['01/01/2024', '31/12/2024'], "'01/01/2024', may have the day or the month first.*%d/%m"),
        (['2024-01-05', '31.12.2024 10:00'], "'31.12.2024 10:00', may have.*'%d.%m.%Y %H:%M'"),
        (['Jan 5 2024', '31.12.2024'], "'at' are written in several ways.*31.12.2024"),
        (['3/5/23', '13/5/23'], r"in one that is not known \(such as '3/5/23'\)"),
        ([20240105, 20241231], r"'at', such as 20240105, are dates by.*'time_format' '%Y%m%d'"),
        ([20240105.0, None], 'such as 20240105, are dates'),
    ],
)
def test_dates_that_are_not_clear_are_refused(tmp_path, at, message):
    table = pd.DataFrame({'user': 'a', 'item': [0, 1], 'at': at})
    with pytest.raises(ValueError, match=message):
        prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert not (tmp_path / 'out').exists()


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


def test_one_form_of_dates_for_all_pieces(tmp_path, monkeypatch):
    """What pandas guesses of the first date of a piece may be another form in the next one."""
    days = pd.date_range('2023-03-20', periods=24, freq='D').strftime('%d/%m/%Y')
    path = tmp_path / 'table.csv'
    pd.DataFrame({'user': 'a', 'item': range(24), 'at': days}).to_csv(path, index=False)
    monkeypatch.setattr(_chunks, 'BLOCK', 64)
    with pytest.raises(ValueError, match="'20/03/2023', may have the day or the month first"):
        prepare_table(path, tmp_path / 'out', **NAMES, time='at')
    prepare_table(path, tmp_path / 'out', **NAMES, time='at', time_format='%d/%m/%Y')
    found = read_back(tmp_path / 'out')['timestamp']
    assert found.tolist() == [1679270400 + 86400 * n for n in range(24)]
    with pytest.raises(ValueError, match="'time_format' '%d' needs the column of times"):
        prepare_table(path, tmp_path / 'other', **NAMES, time_format='%d')


def test_numbers_of_one_piece_are_not_taken_for_dates(tmp_path, monkeypatch):
    """What times are is settled by the first of them."""
    path = tmp_path / 'table.csv'
    at = [*range(18), 20230301, 20230302]
    pd.DataFrame({'user': 'a', 'item': range(20), 'at': at}).to_csv(path, index=False)
    monkeypatch.setattr(_chunks, 'BLOCK', 64)
    prepare_table(path, tmp_path / 'out', **NAMES, time='at')
    assert read_back(tmp_path / 'out')['timestamp'].tolist() == at
    reader = TimeReader()
    assert reader.read(pd.Series([1, 2])).tolist() == [1, 2] and reader.is_date is False
    assert np.isnan(reader.read(pd.Series(['2024-01-01', '']))).all()


def test_times_that_are_numbers(tmp_path):
    table = pd.DataFrame({'user': 'a', 'item': range(3), 'at': [7, 5, 6]})
    report = prepare_table(table, tmp_path / 'out', **NAMES, time='at')
    assert report.times == {'first': 5, 'last': 7} and 'times: 5 to 7' in str(report)
