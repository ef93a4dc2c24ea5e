"""The page in a browser: headless Chromium, where it is installed."""

import json
import shutil
import time

import pytest

from mrdib_pyg.report import write_report

pytest.importorskip('altair', reason='altair is not installed')
pytest.importorskip('vl_convert', reason='vl-convert-python is not installed')
webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason='needs chromium and chromedriver, such as the packages chromium, chromium-driver',
    ),
]


class Browser:
    """A page that is open in Chromium."""

    def __init__(self, file, profile) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            'headless=new', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run',
            'disable-background-networking', 'disable-component-update', 'disable-sync',
            'disable-dev-shm-usage', 'window-size=1280,1000', f'user-data-dir={profile}',
        ):  # fmt: skip
            options.add_argument(f'--{argument}')
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
        service = webdriver.ChromeService(executable_path=DRIVER)
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.get(file.as_uri())
        self.wait('return document.documentElement.dataset.charts === "drawn"')

    def __call__(self, script, *args):
        return self.driver.execute_script(script, *args)

    def wait(self, script, seconds=60):
        """Waits until a script returns something true, and returns it."""
        end = time.monotonic() + seconds
        while not (out := self(script)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return out

    def count(self, selector: str) -> int:
        return self('return document.querySelectorAll(arguments[0]).length', selector)

    def click(self, selector: str) -> None:
        self('document.querySelector(arguments[0]).click()', selector)

    def column(self, number: int) -> list[str]:
        return self(
            'const rows = document.querySelector("#results table.sortable").tBodies[0].rows;'
            'return [...rows].map((row) => row.cells[arguments[0]].textContent.trim())',
            number,
        )

    def color(self, selector: str, name: str) -> list[float]:
        text = self(
            'return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]',
            selector, name,
        )  # fmt: skip
        return [float(part) for part in text[text.index('(') + 1 : -1].split(',')]

    def media(self, **features) -> None:
        values = [{'name': name.replace('_', '-'), 'value': x} for name, x in features.items()]
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': values})


@pytest.fixture(scope='module')
def browser(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('browser')
    file = folder / 'report.html'
    write_report(runs.all, file, method='pca', users=['3'])
    browser = Browser(file, folder / 'profile')
    yield browser
    browser.driver.quit()


def test_console_and_network(browser):
    log = browser.driver.get_log('browser')
    assert [entry['message'] for entry in log] == []
    events = [json.loads(x['message'])['message'] for x in browser.driver.get_log('performance')]
    sent = [x['params'] for x in events if x['method'] == 'Network.requestWillBeSent']
    urls = [x['request']['url'] for x in sent if x['documentURL'].startswith('file:')]
    assert len(urls) > 0 and all(url.startswith(('file:', 'data:')) for url in urls)
    assert sum(url.startswith('file:') for url in urls) == 1  # the page itself


def test_marks(browser):
    assert browser.count('[data-chart]') == browser.count('[data-chart] svg.marks')
    # One curve per run: the term of the task in all four, that of the bottleneck in two.
    assert browser.count('#training-term-task .mark-line path') == 4
    assert browser.count('#training-term-bottleneck .mark-line path') == 2
    # Points of the kept epoch, and of each of the three epochs to hover over.
    assert browser.count('#training-term-task .mark-symbol path') == 4 + 4 * 3
    # One point per run, one mean per group, and a deviation to either side.
    assert browser.count('#results-small-recall-20 .mark-symbol path') == 4
    assert browser.count('#results-small-recall-20 .mark-rect path') == 2
    assert browser.count('#results-small-recall-20 .mark-rule.role-mark line') == 2
    # Five parts of one measured run, with an interval and a text each.
    assert browser.count('#pid-0-uniform .mark-rect path') == 5
    assert browser.count('#pid-0-uniform .mark-rule.role-mark line') == 5
    assert browser.count('#pid-0-uniform .mark-text.role-mark text') == 5
    # 50 items in two modalities; 8 dimensions.
    assert browser.count('#codes-0 .mark-symbol path') == 100
    assert browser.count('#posterior-1-0-dimensions .mark-rect path') == 8


def test_table_sorts_by_click(browser):
    assert browser.column(0) == ['plain', 'MRdIB']
    values = browser(
        'const rows = document.querySelector("#results table.sortable").tBodies[0].rows;'
        'return [...rows].map((row) => Number(row.cells[2].dataset.value))'
    )
    button = '#results table.sortable thead th:nth-child({}) button'
    shown = dict(zip(browser.column(2), values))
    browser.click(button.format(3))
    assert [shown[x] for x in browser.column(2)] == sorted(values, reverse=True)
    assert browser.count('#results th[aria-sort="descending"]') == 1
    browser.click(button.format(3))
    assert [shown[x] for x in browser.column(2)] == sorted(values)
    browser.click(button.format(1))
    assert browser.column(0) == ['MRdIB', 'plain']  # by their names
    assert browser.count('#results th[aria-sort]') == 1


def test_hover_shows_numbers(browser):
    point = browser.driver.find_element(
        'css selector', '#results-small-recall-20 .mark-symbol path'
    )
    webdriver.ActionChains(browser.driver).move_to_element(point).perform()
    tip = browser.wait('return document.querySelector("#vg-tooltip-element.visible")?.textContent')
    assert 'plain-0' in tip and 'recall@20' in tip


def test_dark_and_light(browser):
    line = '#training-term-task .mark-line path'
    browser.media(prefers_color_scheme='light')
    assert min(browser.color('body', 'backgroundColor')) > 250
    light = browser.color(line, 'stroke')
    browser.media(prefers_color_scheme='dark')
    assert max(browser.color('body', 'backgroundColor')) < 40
    assert min(browser.color('body', 'color')) > 200
    dark = browser.color(line, 'stroke')
    assert sum(dark) > sum(light)  # charts follow
    browser.click('#theme')
    assert browser.color(line, 'stroke') == light
    assert min(browser.color('body', 'backgroundColor')) > 250
    browser.driver.refresh()
    assert browser('return document.documentElement.dataset.theme') == 'light'  # remembered
    browser.click('#theme')
    assert max(browser.color('body', 'backgroundColor')) < 40


@pytest.mark.parametrize('width', [360, 800, 1440])
def test_page_is_never_wider_than_the_window(browser, width):
    browser.driver.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False},
    )
    assert browser('return document.documentElement.scrollWidth <= innerWidth')
