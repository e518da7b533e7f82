// Beam search as a growing tree, and its hypotheses under any length penalty.

import { el, slider, svg } from "./dom.js";
import { say } from "./language.js";
import { lengthPenalty, number } from "./numbers.js";

const [WIDTH, HEIGHT, TOP] = [118, 27, 22];

/** Each candidate with its step, its row, and the candidate that it grew from. */
function nodesOf(search) {
  let live = new Map();
  return search.steps.map(({ step, candidates }) => {
    const nodes = candidates.map((candidate, row) => ({ ...candidate, step, row, from: live.get(candidate.parent) }));
    live = new Map(nodes.filter((n) => n.kept === "live").map((n) => [n.beam, n]));
    return nodes;
  });
}

/** The translations that the search found or saw end, best first, as a penalty of `alpha` orders them. */
export function ranking(search, alpha) {
  const ended = search.steps.flatMap(({ step, candidates }) =>
    candidates.filter((c) => c.kept === "finished").map((c) => ({ ...c, length: step + 1 })));
  const found = new Map([...search.hypotheses, ...ended].map((h) => [`${h.length} ${h.text}`, h]));
  const score = (h) => h.log_prob / lengthPenalty(h.length, alpha, search.length_penalty_form);
  return [...found.values()].map((h) => ({ ...h, score: score(h) })).sort((a, b) => b.score - a.score);
}

/** The tree, with a slider that lets it grow step by step. */
export function tree(search, view) {
  const columns = nodesOf(search);
  const shown = Math.min(view.grown ?? columns.length, columns.length);
  const best = search.hypotheses[0];
  const winner = new Set();
  const last = columns.flat().find((n) => n.step === best.length - 1 && n.text === best.text);
  for (let node = last; node; node = node.from) winner.add(node);
  const plot = el("div", { class: "scroll" });
  const draw = (count) => {
    view.grown = count;
    plot.replaceChildren(picture(columns.slice(0, count), winner));
  };
  draw(shown);
  return [
    slider({ label: say({ en: "steps", zh: "步数" }), min: 1, max: columns.length, value: shown, key: "grown", onInput: draw }),
    plot,
    el("p", { class: "key" },
      el("span", { class: "live" }, say({ en: "kept, grows on", zh: "保留，继续生长" })),
      el("span", { class: "finished" }, say({ en: "ends in <eos>", zh: "以 <eos> 结束" })),
      el("span", { class: "dropped" }, say({ en: "dropped", zh: "淘汰" }))),
  ];
}

function picture(columns, winner) {
  const x = (node) => 34 + node.step * WIDTH;
  const y = (node) => TOP + node.row * HEIGHT;
  const rows = Math.max(...columns.map((nodes) => nodes.length));
  const nodes = columns.flat();
  const edge = (node) => {
    const [fromX, fromY] = node.from ? [x(node.from) + WIDTH - 24, y(node.from)] : [10, TOP];
    const middle = (fromX + x(node)) / 2;
    return svg("path", {
      d: `M${fromX} ${fromY}C${middle} ${fromY} ${middle} ${y(node)} ${x(node)} ${y(node)}`,
      class: `branch ${node.kept} ${winner.has(node) ? "winner" : ""}`,
    });
  };
  const leaf = (node) => svg("g", { class: `leaf ${node.kept} ${winner.has(node) ? "winner" : ""}` },
    svg("title", {}, `${node.text}: log p = ${number(node.log_prob, 3)}, score = ${number(node.score, 3)}`),
    svg("rect", { x: x(node), y: y(node) - 10, width: WIDTH - 24, height: 20, rx: 5 }),
    svg("text", { x: x(node) + 5, y: y(node) + 4 }, shorten(node.piece)),
    svg("text", { x: x(node) + WIDTH - 29, y: y(node) + 4, "text-anchor": "end", class: "value" }, number(node.log_prob, 1)));
  const width = 34 + columns.length * WIDTH;
  const height = TOP + rows * HEIGHT;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, class: "tree", role: "img", "aria-label": say({ en: "beam search", zh: "束搜索" }) },
    svg("circle", { cx: 8, cy: TOP, r: 4, class: "root" }), nodes.map(edge), nodes.map(leaf));
}

const shorten = (piece) => (piece.length > 8 ? `${piece.slice(0, 7)}…` : piece);

/** The hypotheses as a table, with a slider for the length penalty. */
export function hypotheses(search, view) {
  const table = el("div", { class: "scroll" });
  const draw = (tenths) => {
    view.alpha = tenths / 10;
    const found = ranking(search, view.alpha).slice(0, 6);
    const heads = [
      { en: "translation", zh: "译文" }, { en: "log p", zh: "log p" }, { en: "length", zh: "长度" }, { en: "penalty", zh: "惩罚" }, { en: "score", zh: "得分" },
    ];
    const row = (h, n) => el("tr", { class: n === 0 ? "winner" : "" },
      el("th", { scope: "row" }, h.text || say({ en: "(nothing)", zh: "（空）" })),
      [number(h.log_prob, 3), h.length, number(lengthPenalty(h.length, view.alpha, search.length_penalty_form), 3), number(h.score, 4)]
        .map((value) => el("td", {}, String(value))));
    table.replaceChildren(el("table", { class: "sums hypotheses" },
      el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, say(h))))),
      el("tbody", {}, found.map(row))));
  };
  const start = Math.round(10 * (view.alpha ?? search.length_penalty));
  draw(start);
  return [
    slider({
      label: say({ en: "length penalty α", zh: "长度惩罚 α" }), min: 0, max: 200, step: 1, value: start, key: "alpha",
      show: (tenths) => (tenths / 10).toFixed(1), onInput: draw,
    }),
    table,
  ];
}
