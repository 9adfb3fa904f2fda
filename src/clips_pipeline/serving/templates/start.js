'use strict';
const find = id => document.getElementById(id);
let running = new AbortController();
let file = null;
let pictureUrl = null;

// Text of a model or of data: characters that hide or reorder text are written as code points.
const visible = text => String(text).replace(/(?![\u200c\u200d\u00ad])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
  letter => `[U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}]`);

async function ask(path, body, type) {
  const headers = {'Content-Type': type};
  if (find('token') && find('token').value) headers.Authorization = `Bearer ${find('token').value.trim()}`;
  const answer = await fetch(path, {method: 'POST', body, headers, signal: running.signal});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error.message);
  return found;
}

function showTable(place, caption, head, rows) {
  const table = document.createElement('table');
  table.createCaption().textContent = caption;
  const names = table.createTHead().insertRow();
  for (const [number, name] of head.entries()) {
    const cell = document.createElement('th');
    cell.scope = 'col'; cell.textContent = name;
    if (!number) cell.className = 'number';
    names.append(cell);
  }
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const [number, value] of row.entries()) {
      const text = document.createElement('bdi'), cell = line.insertCell();
      cell.className = number ? 'foreign' : 'number';
      if (!(value instanceof Node)) text.textContent = visible(value);
      cell.append(value instanceof Node ? value : text);
    }
  }
  const wide = document.createElement('div');
  wide.className = 'wide'; wide.tabIndex = 0;
  wide.append(table);
  find(place).replaceChildren(wide);
}

async function search(query) {
  const pictures = 'pictures' in find('neighbors').dataset;
  const found = await ask('search', JSON.stringify({...query, k: 10, pictures}), 'application/json');
  const hits = found.neighbors[0];
  const first = pictures ? ['picture'] : [];
  showTable('neighbors', `${hits.length} nearest rows`, ['cosine', ...first, 'key', 'kind', 'text'],
    hits.map(hit => [hit.score.toFixed(3), ...(pictures ? [pictureOf(hit)] : []), hit.key, hit.kind, hit.text ?? '']));
}

function pictureOf(hit) {
  if (!hit.picture) return '–';
  const picture = new Image();
  picture.src = `data:image/webp;base64,${hit.picture}`;
  picture.alt = visible(hit.key);
  picture.className = 'small';
  return picture;
}

const base64 = blob => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
  reader.onerror = () => reject(new Error('the file cannot be read'));
  reader.readAsDataURL(blob);
});

async function compare() {
  const texts = find('texts').value.split('\n').map(text => text.trim()).filter(Boolean);
  if (!file || !texts.length) return;
  const body = JSON.stringify({images: [await base64(file)], texts});
  const {similarity: [scores], errors} = await ask('similarity', body, 'application/json');
  const rows = texts.map((text, number) => [scores[number], text]).filter(([score]) => score !== null);
  showTable('similarity', 'Cosine similarity of picture and text', ['cosine', 'text'],
    rows.sort((one, other) => other[0] - one[0]).map(([score, text]) => [score.toFixed(3), text]));
  if (errors.length) throw new Error(errors[0].message);
}

async function report(...work) {
  const mine = running;
  find('state').textContent = 'working …';
  const results = await Promise.allSettled(work.map(start => start()));
  if (mine !== running) return;
  const messages = results.filter(one => one.status === 'rejected').map(one => one.reason.message);
  find('state').textContent = messages.length ? visible([...new Set(messages)].join('; ')) : 'done';
}

function choose(chosen) {
  if (!chosen) return;
  running.abort();
  running = new AbortController();
  file = chosen;
  if (pictureUrl) URL.revokeObjectURL(pictureUrl);
  pictureUrl = URL.createObjectURL(file);
  find('picture').src = pictureUrl;
  find('picture').hidden = false;
  for (const place of ['similarity', 'neighbors']) if (find(place)) find(place).replaceChildren();
  const work = [compare];
  // The server looks at the content, not at the type that the browser guesses from the name.
  const type = 'application/octet-stream';
  if (find('caption')) {
    find('caption').textContent = '…';
    work.push(async () => {
      try {
        find('caption').textContent = visible((await ask('caption', file, type)).captions[0]) || '(empty)';
      } catch (error) {
        if (error.name !== 'AbortError') find('caption').textContent = '–';
        throw error;
      }
    });
  }
  if (find('neighbors')) work.push(async () => search({images: [await base64(file)]}));
  report(...work);
}

find('file').addEventListener('change', event => choose(event.target.files[0]));
find('picture').addEventListener('error', () => { find('picture').hidden = true; });
for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
  find('drop').addEventListener(kind, event => {
    event.preventDefault();
    find('drop').classList.toggle('over', kind === 'dragenter' || kind === 'dragover');
    if (kind === 'drop') choose(event.dataTransfer.files[0]);
  });
}
find('compare').addEventListener('submit', event => { event.preventDefault(); report(compare); });
if (find('ask')) {
  find('ask').addEventListener('submit', event => {
    event.preventDefault();
    report(() => search({texts: [find('query').value]}));
  });
}
