// The whole model as a picture; each box is a door to its figure.

import { el, svg } from "./dom.js";
import { say } from "./language.js";

const TEXT = {
  embedding: { en: "embedding + position", zh: "嵌入 + 位置" },
  attention: { en: "attention", zh: "注意力" },
  masked: { en: "masked attention", zh: "遮罩注意力" },
  cross: { en: "attention over C", zh: "对 C 的注意力" },
  norm: { en: "add & norm", zh: "残差与归一化" },
  forward: { en: "feed-forward", zh: "前馈" },
  softmax: { en: "linear + softmax", zh: "线性 + softmax" },
};

export const overview = {
  id: "overview",
  title: { en: "One sentence through the whole model", zh: "一个句子穿过整个模型" },
  intro: {
    en: [
      "This page follows one sentence through a Transformer that was trained to translate. Every number on it is what this model computed for the sentence at the top of the page; nothing is invented.",
      "On the left the encoder reads the sentence, all pieces at once, and gives one vector for each piece: the matrix C. On the right the decoder writes the translation, one piece after another, and looks at C each time. Each box of the picture opens the figure that shows it.",
    ],
    zh: [
      "本页跟着一个句子走过一个训练好的翻译 Transformer。页面上的每个数都是这个模型为页首的句子算出来的，没有一个是编的。",
      "左边是编码器，同时读入所有词元，为每个词元给出一个向量，合起来是矩阵 C。右边是解码器，逐个写出译文的词元，每次都要看 C。点图中的方框，可以打开对应的图。",
    ],
  },
  section: "3.1",
  draw({ record, model, change }) {
    const to = (kind) => () => change({ kind });
    const shapes = [
      tower({ x: 20, base: 500, depth: record.depth.encoder, boxes: [
        ["attention", "attention", to("encoder")], ["norm", "layers"], ["forward", "layers"], ["norm", "layers"],
      ] }),
      tower({ x: 250, base: 500, depth: record.depth.decoder, boxes: [
        ["masked", "attention", to("self")], ["norm", "layers"], ["cross", "decoder", to("cross")],
        ["norm", "layers"], ["forward", "layers"], ["norm", "layers"],
      ] }),
    ];
    const last = { x: 250, y: 500 - 6 * STEP - 62 };
    return el("div", { class: "overview" },
      svg("svg", { viewBox: "0 118 450 510", class: "tower", role: "group", "aria-label": say(overview.title) },
        svg("defs", {}, svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
          svg("path", { d: "M0 0 8 4 0 8z", class: "tip" }))),
        shapes.flat(),
        box("softmax", "search", last.x, last.y),
        arrow([[340, last.y], [340, last.y - 22]]),
        label(340, last.y - 30, record.labels.join(" "), "result"),
        // From the top of the encoder to the second attention of the decoder.
        arrow([[110, 500 - 4 * STEP - 22], [110, 500 - 4 * STEP - 46], [225, 500 - 4 * STEP - 46], [225, 500 - 2.5 * STEP + 2], [250, 500 - 2.5 * STEP + 2]]),
        label(167, 500 - 4 * STEP - 54, `C  ${record.encoded.shape.join(" × ")}`, "fact"),
        label(110, 612, record.source.pieces.join(" "), "result"),
        label(340, 612, record.target.pieces.join(" "), "result")),
      el("p", { class: "section" }, facts(record, model)));
  },
};

const STEP = 44;

/** A stack of boxes from the bottom up, with its embedding below it. */
function tower({ x, base, depth, boxes }) {
  const top = base - boxes.length * STEP;
  return [
    arrow([[x + 90, 594], [x + 90, base + 62]]),
    box("embedding", "embedding", x, base + 28),
    arrow([[x + 90, base + 28], [x + 90, base + 8]]),
    svg("rect", { x: x - 10, y: top - 10, width: 200, height: boxes.length * STEP + 14, rx: 12, class: "stack" }),
    label(x + 104, base + 22, `× ${depth}`, "fact", "start"),
    boxes.map(([name, figure, onclick], n) => box(name, figure, x, base - (n + 1) * STEP + 2, onclick)),
    arrow([[x + 90, top], [x + 90, top - 28]]),
  ];
}

function box(name, figure, x, y, onclick) {
  return svg("a", { href: `#${figure}`, onclick, class: `door ${name}` },
    svg("rect", { x, y, width: 180, height: 34, rx: 7 }),
    label(x + 90, y + 22, say(TEXT[name]), "name"));
}

const label = (x, y, text, name, anchor = "middle") =>
  svg("text", { x, y, "text-anchor": anchor, class: name }, shortened(text));

/** What of a text fits between the towers; a Chinese character is as wide as two letters. */
function shortened(text) {
  let room = 25;
  for (const [n, character] of [...text].entries()) {
    room -= character > "\u2e80" ? 2 : 1;
    if (room < 0) return `${[...text].slice(0, n).join("")}…`;
  }
  return text;
}

const arrow = (points) => svg("polyline", { points: points.join(" "), class: "arrow", "marker-end": "url(#tip)" });

function facts(record, model) {
  const { d_model, num_heads, d_ff } = record.model;
  const several = record.steps.length > 1;
  return say({
    en: `${model.name}: width ${d_model}, ${num_heads} heads, ${d_ff} hidden units; ${several ? "mean of the checkpoints of steps" : "checkpoint of step"} ${record.steps.join(", ")}`,
    zh: `${model.name}：宽度 ${d_model}，${num_heads} 个头，${d_ff} 个隐藏单元；${several ? "检查点的平均" : "检查点"}：第 ${record.steps.join("、")} 步`,
  });
}
