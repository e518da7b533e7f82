// The page: one sentence, what the model computed of it, and a figure for each part.

import { attention } from "./attention.js";
import { controls } from "./controls.js";
import { decoder } from "./decoder.js";
import { el } from "./dom.js";
import { embedding } from "./embedding.js";
import { frame } from "./frame.js";
import { heads } from "./heads.js";
import { say, setLanguage } from "./language.js";
import { layers } from "./layers.js";
import { overview } from "./overview.js";
import { search } from "./search.js";
import { open } from "./source.js";
import { offBar } from "./switches.js";

const FIGURES = [overview, embedding, attention, heads, layers, decoder, search];

const FAILURES = {
  empty: () => ({ en: "Type a sentence that can be seen.", zh: "请输入一个看得见的句子。" }),
  too_long: ({ pieces, most }) => ({
    en: `The sentence has ${pieces} pieces; this page shows at most ${most}. Try a shorter one.`,
    zh: `这个句子有 ${pieces} 个词元，本页最多显示 ${most} 个。请试一个短些的。`,
  }),
  unreachable: () => ({ en: "The server does not answer: start it again.", zh: "服务器没有应答，请重新启动。" }),
  gone: () => ({
    en: "The server no longer keeps the numbers of this sentence: look inside it again.",
    zh: "服务器已不再保留这个句子的数据，请再看一次。",
  }),
  not_saved: () => ({ en: "This file holds no such sentence.", zh: "这个文件里没有这个句子。" }),
};

const request = { source: "", target: null, checkpoint: null, off: [] };
// What the reader looks at; figures share it, so that one piece, layer and head is lit in all of them.
const view = {
  kind: "encoder", stack: "encoder", sublayer: "", layer: 0, head: 0, sourcePiece: 0, targetPiece: 0,
  aligned: "mean", way: "training", matrices: false, pair: 4, offset: 3,
};
const message = document.getElementById("message");
let origin, model, record;
let whole = null; // the translation of the same sentence with nothing switched off
let layerShelf = new Map(); // the record's layers that have been asked for, by name
let asked = 0; // the number of the last question: an earlier answer that comes late is dropped

async function ask(changes) {
  const wanted = { ...request, ...changes };
  const number = ++asked;
  message.textContent = "";
  document.body.classList.add("waiting");
  try {
    const answer = await origin.inside(wanted);
    if (number !== asked) return;
    record = answer;
    layerShelf = new Map();
    const same = wanted.source === request.source && wanted.checkpoint === request.checkpoint;
    if (!wanted.off.length) whole = record.translation;
    else if (!same) whole = null;
    Object.assign(request, wanted);
    delete view.grown;
    delete view.alpha;
    draw();
  } catch (failure) {
    if (number === asked) explain(failure);
  } finally {
    if (number === asked) document.body.classList.remove("waiting");
  }
}

const loading = new Set();

/** What `load` gives, kept under a key; null while it is on its way, and then all is drawn again. */
function loaded(shelf, key, load) {
  if (!shelf.has(key)) {
    shelf.set(key, null);
    const arrival = load().then((found) => {
      shelf.set(key, found);
      draw();
    }).catch((failure) => {
      shelf.delete(key);
      explain(failure);
    }).finally(() => loading.delete(arrival));
    loading.add(arrival);
  }
  return shelf.get(key) ?? null;
}

const layer = (name) => loaded(layerShelf, name, () => origin.layer(record, name));

const matrixShelf = new Map();

/** The matrices of one attention. */
function parameters(part) {
  const { checkpoint } = request;
  return loaded(matrixShelf, `${checkpoint} ${part}`, () => origin.parameters({ part, checkpoint }));
}

function explain(failure) {
  const text = FAILURES[failure.code]?.(failure.facts);
  message.textContent = text ? say(text) : failure.message;
  if (!failure.code) throw failure;
}

/** Changes what is looked at, and draws again. */
function change(changes) {
  Object.assign(view, changes);
  draw();
}

const opened = new Set([overview.id, embedding.id]); // the figures that have been near the window
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    opened.add(target.id);
    drawFigure(FIGURES.find(({ id }) => id === target.id));
  }
}, { rootMargin: "50% 0px" });

/** Goes to a figure. Those above it are drawn first, so that it does not move away. */
async function reach(name) {
  const last = FIGURES.findIndex(({ id }) => id === name);
  for (const { id } of FIGURES.slice(0, last + 1)) opened.add(id);
  draw();
  await Promise.all(loading);
  document.getElementById(name)?.scrollIntoView();
}

/** Draws one figure, when the layer that it needs is there; until then it stays as it is. */
function drawFigure(figure) {
  const drawing = document.querySelector(`#${figure.id} .drawing`);
  const scene = { record, view, model, request, change, ask, parameters };
  if (figure.needs) scene.layer = layer(figure.needs(scene));
  const waits = scene.layer === null;
  drawing.classList.toggle("waiting", waits);
  if (!waits) drawing.replaceChildren(...[figure.draw(scene)].flat(Infinity).filter(Boolean));
}

/** Draws the figures that have been looked at; the focus stays on the element that has the same key. */
function draw() {
  view.sourcePiece = Math.min(view.sourcePiece, record.source.pieces.length - 1);
  view.targetPiece = Math.min(view.targetPiece, record.target.pieces.length - 1);
  const key = document.activeElement?.dataset.key;
  document.getElementById("translation").replaceChildren(
    el("span", { "aria-hidden": "true" }, "→ "), el("b", {}, record.translation));
  offBar(document.getElementById("off"), { request, ask, whole });
  for (const figure of FIGURES) {
    if (opened.has(figure.id)) drawFigure(figure);
    else watcher.observe(document.getElementById(figure.id));
  }
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Draws what the language changes. */
function drawAll() {
  const key = document.activeElement?.dataset.key;
  document.title = say({ en: "Inside a Transformer", zh: "看进 Transformer 里面" });
  controls(document.getElementById("controls"), { model, request, act });
  const frames = FIGURES.map((figure) => frame(figure, model.code[figure.id] ?? []));
  document.getElementById("figures").replaceChildren(...frames);
  if (record) draw();
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

const act = {
  ask: (source) => ask({ source, target: null }),
  checkpoint: (checkpoint) => ask({ checkpoint }),
  language: (name) => {
    setLanguage(name);
    drawAll();
  },
  theme: (name) => {
    document.documentElement.dataset.theme = name;
    drawAll();
  },
};

setLanguage(navigator.language.startsWith("zh") ? "zh" : "en");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => record && drawAll());
addEventListener("hashchange", () => record && reach(location.hash.slice(1)));
origin = await open();
model = await origin.model();
request.source = model.saved?.[0] ?? model.examples[0];
drawAll();
await ask({});
if (record && location.hash) await reach(location.hash.slice(1));
