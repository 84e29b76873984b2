'use strict';
const project = JSON.parse(document.getElementById('project').textContent);
const cards = [...document.querySelectorAll('.card')];
const boxes = cards.map(card => card.querySelector('textarea'));
const key = i => {
  const s = project.segments[i];
  return `ttt_jax ${project.id} ${s.start.toFixed(3)} ${s.video}`;
};
const text = i => boxes[i].value.trim().replace(/\s+/g, ' ');
const status = document.getElementById('status');

function say(message, isBad = false) {
  status.textContent = message;
  status.classList.toggle('bad', isBad);
}

// What was typed is kept with the text of the file that it replaces. A file
// that has changed since has the newer text; the typed one is then offered.
function load(i) {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(key(i)));
  } catch (error) {
    kept = null;
  }
  if (!kept || typeof kept.text !== 'string') return;
  const inFile = project.segments[i].text;
  if (!inFile || inFile === kept.base || kept.text.trim() === inFile) {
    boxes[i].value = kept.text;
  } else if (kept.text.trim()) {
    offer(i, kept.text);
  }
}

function offer(i, earlier) {
  const note = cards[i].querySelector('.earlier');
  const use = document.createElement('button');
  use.type = 'button';
  use.textContent = 'Use it';
  use.onclick = () => { set(i, earlier); note.hidden = true; };
  note.replaceChildren(`Typed here before the file changed: ${earlier} `, use);
  note.hidden = false;
}

let canSave = true;
function save(i) {
  const value = JSON.stringify({text: boxes[i].value, base: project.segments[i].text});
  try {
    localStorage.setItem(key(i), value);
    if (canSave) say('saved');
  } catch (error) {
    canSave = false;
    say('this browser does not keep what you type: export before you close the page', true);
  }
}

function set(i, value) {
  boxes[i].value = value;
  save(i);
  mark(i);
}

let written = 0;
function mark(i) {
  const value = text(i);
  const words = value ? value.split(' ').length : 0;
  if (cards[i].classList.contains('done') !== words > 0) {
    cards[i].classList.toggle('done');
    written += words > 0 ? 1 : -1;
    count();
  }
  cards[i].querySelector('.words').textContent = words ? `${words} words` : 'no text';
}

function count() {
  const bar = document.getElementById('progress');
  bar.max = cards.length || 1;
  bar.value = written;
  document.getElementById('count').textContent =
    `${written} of ${cards.length} written, ${cards.length - written} left`;
}

function go(i) {
  if (i < 0 || i >= cards.length) return;
  cards[i].classList.add('stays');
  cards[i].scrollIntoView({block: 'start'});
  boxes[i].focus({preventScroll: true});
}

const isShown = i => cards[i].offsetParent !== null || !document.body.classList.contains('only-empty');

function step(i, direction, isEmpty) {
  for (let j = i + direction; j >= 0 && j < cards.length; j += direction) {
    if (isEmpty ? !text(j) : isShown(j)) return go(j);
  }
  say(direction > 0 ? 'no further segment' : 'no segment before');
}

function nextEmpty() {
  const now = boxes.indexOf(document.activeElement);
  let i = boxes.findIndex((_, j) => j > now && !text(j));
  if (i < 0) i = boxes.findIndex((_, j) => !text(j));
  if (i < 0) say('every segment has a text');
  else go(i);
}

function play(i) {
  const strip = cards[i].querySelector('.strip');
  const button = cards[i].querySelector('.play');
  const shown = strip.querySelector('video');
  if (shown) {
    shown.remove();
    strip.querySelector('img').hidden = false;
    button.textContent = 'Play';
    return;
  }
  const {start, stop} = project.segments[i];
  const end = Math.min(stop, start + project.seconds);
  const video = document.createElement('video');
  video.muted = true;
  video.controls = true;
  video.autoplay = true;
  video.playsInline = true;
  video.addEventListener('timeupdate', () => {
    if (video.currentTime >= end) video.currentTime = start;
  });
  video.addEventListener('error', () => {
    say('this browser cannot play the video; the frames stay', true);
    if (video.isConnected) play(i);
    button.disabled = true;
  });
  video.src = button.dataset.src;
  strip.querySelector('img').hidden = true;
  strip.append(video);
  button.textContent = 'Frames';
}

// Consecutive segments with texts are a scene of captions.json: start, end and
// texts, so that precompute crops nothing.
function exported() {
  const episodes = new Map();
  const round = x => Number(x.toFixed(6));
  let last = null;
  project.segments.forEach((s, i) => {
    const value = text(i);
    if (!value) {
      last = null;
      return;
    }
    if (!episodes.has(s.video)) episodes.set(s.video, {name: s.name, video: s.video, scenes: []});
    if (!last || last.video !== s.video || last.scene !== s.scene) {
      const run = {start: s.start, end: 0, texts: []};
      episodes.get(s.video).scenes.push(run);
      last = {video: s.video, scene: s.scene, run};
    }
    last.run.texts.push(value);
    last.run.end = round(Math.min(s.stop, s.start + project.seconds + project.frame));
  });
  return [...episodes.values()];
}

document.getElementById('export').onclick = () => {
  const episodes = exported();
  if (!episodes.length) {
    say('there is no text yet', true);
    return;
  }
  const file = new Blob([`${JSON.stringify(episodes, null, 1)}\n`], {type: 'application/json'});
  const link = document.createElement('a');
  link.href = URL.createObjectURL(file);
  link.download = 'captions.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  const texts = episodes.flatMap(e => e.scenes).reduce((n, s) => n + s.texts.length, 0);
  say(`exported ${texts} texts`);
};

document.getElementById('import').onchange = async event => {
  const [file] = event.target.files;
  event.target.value = '';
  if (!file) return;
  let placed = 0;
  let lost = 0;
  try {
    for (const episode of JSON.parse(await file.text())) {
      for (const scene of episode.scenes) {
        scene.texts.forEach((value, n) => {
          if (!value.trim()) return;
          const start = (scene.start || 0) + n * project.seconds;
          const i = project.segments.findIndex(s => s.video === episode.video
            && Math.abs(s.start - start) < project.seconds / 2);
          if (i < 0) {
            lost += 1;
          } else {
            placed += 1;
            set(i, value);
          }
        });
      }
    }
    say(`read ${placed} texts of ${file.name}${lost ? `; ${lost} belong to no segment` : ''}`, lost > 0);
  } catch (error) {
    say(`${file.name} cannot be read: ${error.message}`, true);
  }
};

boxes.forEach((box, i) => {
  load(i);
  mark(i);
  box.addEventListener('input', () => { save(i); mark(i); });
  box.addEventListener('keydown', event => {
    let isOurs = true;
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) step(i, event.shiftKey ? -1 : 1, false);
    else if (event.key === 'Enter' && event.altKey) nextEmpty();
    else if (event.code === 'KeyC' && event.altKey) {
      if (i > 0) set(i, boxes[i - 1].value);
    } else if (event.code === 'KeyP' && event.altKey) play(i);
    else isOurs = false;
    if (isOurs) event.preventDefault();
  });
  cards[i].querySelector('.play').onclick = () => play(i);
});
count();
document.getElementById('next').onclick = nextEmpty;
document.getElementById('only-empty').onchange = event => {
  for (const card of cards) card.classList.remove('stays');
  document.body.classList.toggle('only-empty', event.target.checked);
};
// Another window of the same page.
addEventListener('storage', event => {
  const i = project.segments.findIndex((_, j) => key(j) === event.key);
  if (i < 0 || event.newValue === null) return;
  boxes[i].value = JSON.parse(event.newValue).text;
  mark(i);
});
