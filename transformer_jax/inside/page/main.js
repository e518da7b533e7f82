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
    const same = wanted.source === request.source && wanted.checkpoint === request.checkpoint;
    if (!wanted.off.length) whole = record.translation;
    else if (!same) whole = null;
    Object.assign(request, wanted);
    delete view.grown;
    delete view.alpha;
    view.sourcePiece = Math.min(view.sourcePiece, record.source.pieces.length - 1);
    view.targetPiece = Math.min(view.targetPiece, record.target.pieces.length - 1);
    draw();
  } catch (failure) {
    if (number === asked) explain(failure);
  } finally {
    if (number === asked) document.body.classList.remove("waiting");
  }
}

const loaded = new Map();

/** The matrices of one attention; null while they are on their way, and then all is drawn again. */
function parameters(part) {
  const { checkpoint } = request;
  const key = `${checkpoint} ${part}`;
  if (!loaded.has(key)) {
    loaded.set(key, null);
    origin.parameters({ part, checkpoint }).then((found) => {
      loaded.set(key, found);
      draw();
    }).catch(explain);
  }
  return loaded.get(key);
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

/** Draws every figure; the focus stays on the element that has the same key. */
function draw() {
  const key = document.activeElement?.dataset.key;
  document.getElementById("translation").replaceChildren(
    el("span", { "aria-hidden": "true" }, "→ "), el("b", {}, record.translation));
  offBar(document.getElementById("off"), { request, ask, whole });
  for (const figure of FIGURES) {
    const drawing = document.querySelector(`#${figure.id} .drawing`);
    const drawn = figure.draw({ record, view, model, request, change, ask, parameters });
    drawing.replaceChildren(...[drawn].flat(Infinity).filter(Boolean));
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
origin = await open();
model = await origin.model();
request.source = model.saved?.[0] ?? model.examples[0];
drawAll();
await ask({});
