// Figure 1: pieces → embedding + position.

import { chip, el, slider, svg } from "./dom.js";
import { heatMap } from "./heat.js";
import { say } from "./language.js";
import { frequency, number, sinusoid } from "./numbers.js";
import { partSwitch } from "./switches.js";

export const embedding = {
  id: "embedding",
  number: 1,
  title: { en: "From pieces to vectors", zh: "从词元到向量" },
  intro: {
    en: [
      "The model does not read characters or words. A tokenizer cuts the sentence into pieces, and each piece has a number: its row in a table. That row, its embedding, is a list of numbers that training chose; pieces that are used alike end up with similar rows.",
      "Attention treats its input as a bag: it cannot see which piece comes first. So a second list of numbers, which depends on the position alone, is added to the first. The sum is all that the model ever sees of the sentence.",
      "▁ stands for the space before a word. <eos> (end of sentence) ends a sentence; <bos> (beginning of sentence) begins a translation.",
      "A strip of colours is a matrix: a row for each piece, a cell for each number. Orange is above 0, blue below, and pale is near 0. Point at a cell to read its number.",
    ],
    zh: [
      "模型读的不是字或词。分词器先把句子切成词元，每个词元有一个编号，即它在一张表中的行号。这一行就是它的嵌入：一串由训练得到的数。用法相近的词元，行也相近。",
      "注意力把输入当作一个集合，看不出谁先谁后。所以还要加上另一串数，它只取决于位置。两者之和，就是模型看到的全部内容。",
      "▁ 表示单词前的空格，<eos> 表示句子结束，<bos> 表示译文开始。",
      "一条彩色的图就是一个矩阵：每个词元一行，每个数一格。橙色大于 0，蓝色小于 0，颜色浅表示接近 0。指着一格，就能读出它的数。",
    ],
  },
  formula: "x = √d_model · E[id] + PE(pos)     PE(pos, 2i) = sin(pos / 10000^(2i/d_model))     PE(pos, 2i+1) = cos(…)",
  section: "3.4, 3.5",
  questions: [
    {
      q: { en: "Can the model read a sentence longer than any that it was trained on?", zh: "模型能读比训练时所有句子都长的句子吗？" },
      a: {
        en: "With sinusoids it can: the curves of this figure have a value for every position. With learned positions it cannot, because the table ends. Whether it translates such a sentence well is another matter.",
        zh: "用正弦曲线时可以：本图的曲线在每个位置都有值。若位置是学出来的，表到头就没有了。至于译得好不好，是另一回事。",
      },
    },
  ],
  draw(scene) {
    const { record, view, change } = scene;
    const { source } = record;
    const onRow = (row) => change({ sourcePiece: row });
    const lit = view.sourcePiece;
    const map = (name, matrix) => heatMap(matrix, {
      name: say(name), labels: source.pieces, lit, onRow, largest: source.sum.largest(),
    });
    return [
      el("div", { class: "chips" }, source.pieces.map((piece, n) => chip(piece, {
        lit: n === lit, key: `source-${n}`, detail: `id ${source.ids.at(n)}`, onChoose: () => onRow(n),
      }))),
      map({ en: "embedding", zh: "嵌入" }, source.embedding),
      el("div", { class: "operator" }, "+"),
      map({ en: "position", zh: "位置" }, source.position),
      el("div", { class: "operator" }, "="),
      map({ en: "sum", zh: "和" }, source.sum),
      el("div", { class: "choices" },
        partSwitch(scene, "source/position", say({ en: "positions of the source", zh: "源句的位置" })),
        partSwitch(scene, "target/position", say({ en: "positions of the target", zh: "译文的位置" }))),
      written(source, lit),
      record.model.positions === "sinusoidal" ? curves(source, view) : null,
      record.model.positions === "sinusoidal" ? rotation(source, view) : null,
    ];
  },
};

function written(source, piece) {
  const term = (n) => [source.embedding, source.position, source.sum].map((m, k) => number(m.at(piece, n), 3, k === 1));
  const lines = [0, 1, 2, 3].map((n) => {
    const [e, p, s] = term(n);
    return el("li", {}, `${e} + ${p} = ${s}`);
  });
  return el("div", { class: "written" },
    el("p", {}, say({ en: `The first numbers of ${source.pieces[piece]}, at position ${piece}:`, zh: `位置 ${piece} 的 ${source.pieces[piece]}，前几个数：` })),
    el("ol", {}, lines));
}

const SHOWN = 60; // positions along the curves

function curves(source, view) {
  const [length, width] = source.position.shape;
  const plot = el("div");
  const draw = (pair) => {
    view.pair = pair;
    const x = (pos) => 30 + (pos * 560) / (SHOWN - 1);
    const y = (value) => 70 - 55 * value;
    const line = (part, name) => {
      const points = Array.from({ length: 4 * (SHOWN - 1) + 1 }, (_, n) =>
        `${x(n / 4)},${y(sinusoid(n / 4, pair, width)[part])}`);
      return svg("polyline", { class: name, points: points.join(" ") });
    };
    const dots = Array.from({ length: Math.min(length, SHOWN) }, (_, pos) =>
      [0, 1].map((part) => svg("circle", {
        class: part ? "cosine" : "sine", r: pos === view.sourcePiece ? 5 : 3, cx: x(pos), cy: y(sinusoid(pos, pair, width)[part]),
      })));
    const ticks = [0, 10, 20, 30, 40, 50].map((pos) => svg("text", { x: x(pos), y: 146, "text-anchor": "middle" }, String(pos)));
    plot.replaceChildren(svg("svg", { viewBox: "0 0 600 150", class: "plot", role: "img", "aria-label": "sin, cos" },
      svg("line", { x1: 30, x2: 590, y1: 70, y2: 70, class: "axis" }), line(0, "sine"), line(1, "cosine"), dots, ticks,
      [[1, "1"], [-1, "−1"]].map(([v, t]) => svg("text", { x: 22, y: y(v) + 4, "text-anchor": "end" }, t))));
  };
  draw(view.pair);
  return el("div", { class: "part" },
    el("h3", {}, say({ en: "Where the position's numbers come from", zh: "位置的数从何而来" })),
    el("p", {}, say({
      en: "Each pair of columns is a sine (solid) and a cosine (dashed) of the position. The first pairs turn quickly, the last ones hardly at all, like the hands of a clock. The dots are the positions of this sentence.",
      zh: "每两列是位置的一条正弦（实线）和一条余弦（虚线）。前面的列变化快，后面的列几乎不变，像钟表的指针。圆点是这个句子的各个位置。",
    })),
    slider({
      label: say({ en: "pair of columns i", zh: "第 i 对列" }), min: 0, max: width / 2 - 1, value: Math.min(view.pair, width / 2 - 1),
      key: "pair", onInput: draw, show: (i) => say({ en: `${i}: columns ${2 * i + 1} and ${2 * i + 2}`, zh: `${i}：第 ${2 * i + 1}、${2 * i + 2} 列` }),
    }), plot);
}

function rotation(source, view) {
  const width = source.position.shape[1];
  const clock = el("div", { class: "clocks" });
  const text = el("p", { class: "sum", "data-value": "rotation" });
  const draw = (k) => {
    view.offset = k;
    const pairs = [0, 1, 2, 3].map((n) => Math.round((n * width) / 16));
    clock.replaceChildren(...pairs.map((pair) => dial(pair, width, view.sourcePiece, k)));
    const angle = k * frequency(pairs[1], width);
    const [s, c] = sinusoid(view.sourcePiece, pairs[1], width);
    const [sk, ck] = sinusoid(view.sourcePiece + k, pairs[1], width);
    text.textContent = `i = ${pairs[1]}:  ${number(s, 3)}·cos(${number(angle, 3)}) + ${number(c, 3, true)}·sin(${number(angle, 3)}) = ${number(sk, 3)};  ` +
      `${number(c, 3)}·cos(${number(angle, 3)}) − ${number(s, 3, true)}·sin(${number(angle, 3)}) = ${number(ck, 3)}`;
  };
  draw(view.offset);
  return el("div", { class: "part" },
    el("h3", {}, say({ en: "Looking k positions ahead is a rotation", zh: "向前看 k 个位置就是一次旋转" })),
    el("p", {}, say({
      en: "Each pair is a point on a circle. Going k positions on turns it by an angle that depends on k alone, not on where one starts. So one matrix, the same for every position, means “k further on”, and attention can learn it.",
      zh: "每一对数是圆上的一点。向前 k 个位置，就是把它转过一个角，角度只取决于 k，与起点无关。因此同一个矩阵在任何位置都表示“再往前 k 个”，注意力可以学会它。",
    })),
    slider({ label: "k", min: -20, max: 20, value: view.offset, key: "offset", onInput: draw }), clock, text);
}

function dial(pair, width, position, k) {
  const at = (pos) => {
    const [s, c] = sinusoid(pos, pair, width);
    return [50 + 38 * c, 50 - 38 * s];
  };
  const [from, to] = [at(position), at(position + k)];
  return svg("svg", { viewBox: "0 0 100 118", class: "dial", role: "img", "aria-label": `i = ${pair}` },
    svg("circle", { cx: 50, cy: 50, r: 38, class: "axis" }),
    svg("line", { x1: 50, y1: 50, x2: from[0], y2: from[1], class: "sine" }),
    svg("line", { x1: 50, y1: 50, x2: to[0], y2: to[1], class: "cosine" }),
    svg("circle", { cx: from[0], cy: from[1], r: 4, class: "sine" }),
    svg("circle", { cx: to[0], cy: to[1], r: 4, class: "cosine" }),
    svg("text", { x: 50, y: 112, "text-anchor": "middle" }, `i = ${pair}`));
}
