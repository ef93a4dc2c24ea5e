'use strict';
(() => {
  // The theme: that of the system, until a person chooses.
  const root = document.documentElement;
  const button = document.getElementById('theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
  const label = () => {
    button.textContent = isDark() ? 'Light' : 'Dark';
    button.setAttribute('aria-label', `Switch to ${isDark() ? 'light' : 'dark'} colors`);
  };
  // Pages from disk may be denied a store: then the choice lasts as long as the page.
  try {
    const kept = localStorage.getItem('mrdib-theme');
    if (kept === 'dark' || kept === 'light') root.dataset.theme = kept;
  } catch { /* no store */ }
  button.hidden = false;
  button.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    try { localStorage.setItem('mrdib-theme', root.dataset.theme); } catch { /* no store */ }
    label();
  });
  system.addEventListener('change', label);
  label();

  // Tables sort by the number of a cell or else by its text; what is missing comes last.
  const key = (row, column) => {
    const cell = row.cells[column];
    if ('value' in cell.dataset) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === '–' ? null : text;
  };
  const compare = (a, b) => (typeof a === 'number' && typeof b === 'number'
    ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  for (const table of document.querySelectorAll('table.sortable')) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      header.querySelector('button').addEventListener('click', () => {
        const body = table.tBodies[0];
        const rows = [...body.rows];
        const isNumber = rows.some((row) => 'value' in row.cells[column].dataset);
        const before = header.getAttribute('aria-sort');
        // The largest first, where there are numbers.
        const down = before === null ? isNumber : before === 'ascending';
        headers.forEach((other) => other.removeAttribute('aria-sort'));
        header.setAttribute('aria-sort', down ? 'descending' : 'ascending');
        rows.sort((first, second) => {
          const [a, b] = [key(first, column), key(second, column)];
          if (a === null || b === null) return (a === null) - (b === null);
          return down ? compare(b, a) : compare(a, b);
        });
        body.append(...rows);
      });
    });
  }

  // The contents mark the section that is read.
  const links = new Map([...document.querySelectorAll('nav a')].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.removeAttribute('aria-current'));
      links.get(entry.target.id)?.setAttribute('aria-current', 'true');
    }
  }, { rootMargin: '-10% 0px -80% 0px' });
  document.querySelectorAll('main > section').forEach((section) => seen.observe(section));

  // What is folded away is printed too.
  let opened = [];
  addEventListener('beforeprint', () => {
    opened = [...document.querySelectorAll('details:not([open])')];
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener('afterprint', () => opened.forEach((details) => { details.open = false; }));

  // The charts. As SVG, so that colors follow the theme, and paper gets lines rather than pixels.
  const payload = document.getElementById('charts');
  if (payload === null) return;
  const { config, charts } = JSON.parse(payload.textContent);
  const options = { config, renderer: 'svg', actions: false, tooltip: { theme: 'report' } };
  const places = [...document.querySelectorAll('[data-chart]')];
  Promise.all(places.map((place) => vegaEmbed(place, charts[place.dataset.chart], options)
    .catch((error) => {
      place.textContent = `This chart could not be drawn: ${error.message}`;
      console.error(error);
    }))).then(() => { root.dataset.charts = 'drawn'; });
})();
