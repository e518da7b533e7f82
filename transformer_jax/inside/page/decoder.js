// Figure 5: the decoder: what goes in, what comes out, and how it looks at the source.

import { chosenLayer, layerChoice } from "./chosen.js";
import { chip, choice, el, svg } from "./dom.js";
import { heatMap } from "./heat.js";
import { say } from "./language.js";
import { number, percent } from "./numbers.js";
import { partSwitch } from "./switches.js";

export const decoder = {
  id: "decoder",
  number: 5,
  title: { en: "The decoder", zh: "解码器" },
  intro: {
    en: [
      "The decoder writes the translation. It reads <bos> and the pieces so far, and at each position predicts the piece that comes next; <eos> means that it is done.",
      "In training it gets the whole right translation at once, moved one place to the right by a <bos> in front, and learns all positions together; the mask keeps each from seeing its own answer. When translating there is no right translation: it starts with <bos> alone, and each piece that it chooses is its next input.",
      "Then each position asks the source. The query comes from Y, the output of the masked self-attention of the same block; the keys and values come from C, the encoder's output. The lines of the figure are the weights of this second attention: what each piece of the translation looks at.",
    ],
    zh: [
      "解码器写出译文。它读入 <bos> 和已有的词元，在每个位置预测下一个词元；<eos> 表示写完了。",
      "训练时，一次给出整句正确译文（前面加上 <bos>，右移一位），所有位置同时学习；遮罩使每个位置看不到自己的答案。翻译时没有正确译文：从 <bos> 开始，每选出一个词元，就作为下一步的输入。",
      "然后每个位置向源句提问。查询来自 Y，即同一块的遮罩自注意力的输出；键和值来自编码器的输出 C。图中的连线就是这第二个注意力的权重：译文的每个词元在看源句的哪里。",
    ],
  },
  formula: "Q = Y·W_Q     K = C·W_K     V = C·W_V",
  section: "3.1, 3.2.3",
  questions: [
    {
      q: { en: "Is the decoder's input given at once or piece by piece?", zh: "解码器的输入是一次给出，还是逐个给出？" },
      a: {
        en: "At once in training, where the translation is known; piece by piece when translating, where it is not. Thanks to the mask both compute the same numbers: choose “in training” and then “translating” in the figure, and compare.",
        zh: "训练时一次给出，因为译文已知；翻译时逐个给出，因为译文未知。有了遮罩，两者算出的数相同：请在图中切换“训练”和“翻译”，比一比。",
      },
    },
    {
      q: { en: "Does the test see the true target?", zh: "测试时会看到正确译文吗？" },
      a: { en: "No. In a test the decoder reads only what it has written itself, as when it translates. The true target is used afterwards, to score the result.", zh: "不会。测试和翻译一样，解码器只读自己写出的内容。正确译文只在之后用来打分。" },
    },
    {
      q: { en: "What is Q when nothing has been translated yet?", zh: "什么都还没翻译时，Q 是什么？" },
      a: { en: "It has one row, that of <bos>, which is a piece like any other, with an embedding that was learned. Click <bos> in the figure: its query asks the source for the first piece.", zh: "只有一行，就是 <bos> 那一行。<bos> 和别的词元一样，有学到的嵌入。点图中的 <bos>：它的查询向源句问第一个词元。" },
    },
    {
      q: { en: "Source and target have different lengths: how can Q and K be multiplied?", zh: "源句和译文长度不同，Q 和 K 怎么相乘？" },
      a: { en: "Q has a row for each target piece, K a row for each source piece, and both have d_k columns, which is all that the product needs. With 7 target pieces, 5 source pieces and d_k = 32, Q is 7 × 32, Kᵀ is 32 × 5, and QKᵀ is 7 × 5: one number for each pair of a target piece and a source piece. The two lengths never have to agree.", zh: "Q 每个译文词元一行，K 每个源句词元一行，列数都是 d_k，这样就能相乘。假如译文有 7 个词元，源句有 5 个，d_k = 32，那么 Q 是 7 × 32，Kᵀ 是 32 × 5，QKᵀ 是 7 × 5：译文词元和源句词元每一对一个数。两个长度不必相等。" },
    },
    {
      q: { en: "Does Q of the second attention come from the previous block or from this one?", zh: "第二个注意力的 Q 来自上一块还是本块？" },
      a: { en: "From this one: the output of its own masked self-attention, after add & norm. Its numbers are the strip of colours named Y in the figure.", zh: "来自本块：本块遮罩自注意力经过残差和归一化后的输出。图中名为 Y 的彩色图就是它。" },
    },
  ],
  needs: ({ record, view }) => chosenLayer(record, view, "decoder"),
  draw(scene) {
    const { record, view, layer, change } = scene;
    const part = layer.cross_attention;
    const count = part.weights.shape[0];
    const written = positions(record, view);
    const onRow = (row) => change({ targetPiece: row });
    return [
      choice({
        label: say({ en: "see it", zh: "查看" }), key: "way", value: view.way, onChoose: (way) => change({ way }),
        choices: [["training", say({ en: "in training: all at once", zh: "训练：一次全部" })], ["inference", say({ en: "translating: piece by piece", zh: "翻译：逐个词元" })]],
      }),
      inAndOut(record, view, onRow),
      given(scene),
      el("h3", {}, say({ en: "What each piece looks at in the source", zh: "每个词元看源句的哪里" })),
      el("div", { class: "choices" }, layerChoice(scene, "decoder"),
        choice({
          label: say({ en: "head", zh: "头" }), key: "aligned", value: view.aligned, onChoose: (aligned) => change({ aligned }),
          choices: [["mean", say({ en: "mean", zh: "平均" })], ...Array.from({ length: count }, (_, n) => [n, n + 1])],
        })),
      alignment(record, part, view, onRow),
      heatMap(part.input.top(written), {
        name: say({ en: "Y: where Q comes from", zh: "Y：Q 的来源" }), labels: record.target.pieces.slice(0, written), lit: view.targetPiece, onRow,
      }),
      heatMap(record.encoded, { name: say({ en: "C: where K and V come from", zh: "C：K 和 V 的来源" }), labels: record.source.pieces }),
    ];
  },
};

/** How many positions there are yet: all in training, those up to the chosen one when translating. */
const positions = (record, view) => (view.way === "training" ? record.target.pieces.length : view.targetPiece + 1);

/** The decoder's input over what it predicts; piece by piece, only what exists at that step. */
function inAndOut(record, view, onRow) {
  const { prediction, labels, target } = record;
  const written = positions(record, view);
  const column = (piece, t) => {
    if (t >= written) return el("div", { class: "column absent" }, chip("?"), el("span", {}, "↓"), chip("?"));
    return el("div", { class: "column" },
      chip(piece, { lit: t === view.targetPiece, key: `target-${t}`, onChoose: () => onRow(t) }),
      el("span", { "aria-hidden": "true" }, "↓"),
      chip(labels[t], { detail: percent(prediction.chosen_probs.at(t)), lit: t === view.targetPiece }));
  };
  const next = Math.min(view.targetPiece + 1, labels.length - 1);
  return [
    el("div", { class: "columns" },
      el("div", { class: "column names" }, el("span", {}, say({ en: "in", zh: "输入" })), el("span"), el("span", {}, say({ en: "out", zh: "输出" }))),
      target.pieces.map(column)),
    view.way === "training"
      ? el("p", {}, say({
        en: `All ${labels.length} positions are computed together. The loss is the mean of −ln of the probabilities under the pieces: ${number(record.loss, 3)} nats.`,
        zh: `${labels.length} 个位置同时计算。损失是各词元下方概率的 −ln 的平均值：${number(record.loss, 3)} 奈特。`,
      }))
      : el("div", { class: "choices" },
        el("button", { type: "button", "data-key": "restart", onclick: () => onRow(0) }, say({ en: "Start again", zh: "重新开始" })),
        el("button", { type: "button", "data-key": "next", onclick: () => onRow(next) }, say({ en: "Next piece", zh: "下一个词元" }))),
  ];
}

/** The reader's own translation for the decoder to read, and the mask's switch. */
function given(scene) {
  const { model, request, ask, record } = scene;
  if (model.saved) return null;
  const field = el("input", {
    value: request.target ?? record.translation, "data-key": "target", maxlength: model.limits.characters, autocomplete: "off", spellcheck: "false",
    "aria-label": say({ en: "translation to read", zh: "给解码器读的译文" }),
  });
  const read = (event) => {
    event.preventDefault();
    ask({ target: field.value });
  };
  return [
    el("form", { class: "given", onsubmit: read }, field,
      el("button", {}, say({ en: "Let it read this translation", zh: "让它读这个译文" })),
      request.target === null ? null : el("button", { type: "button", "data-key": "own", onclick: () => ask({ target: null }) }, say({ en: "Its own again", zh: "恢复它自己的" }))),
    el("div", { class: "choices" }, partSwitch(scene, "target/mask", say({ en: "mask", zh: "遮罩" }))),
    request.off.includes("target/mask") ? el("p", {}, say({
      en: "Without the mask each position can see its own answer. A model that trained like this would learn to copy it: its loss would fall to almost nothing, and it could not translate, because then there is no answer to copy. This model was trained with the mask, and never learned to cheat: compare the loss above.",
      zh: "没有遮罩，每个位置都能看到自己的答案。这样训练的模型会学着照抄：损失几乎降到零，却不会翻译，因为翻译时没有答案可抄。这个模型是带着遮罩训练的，没有学过作弊：请比较上面的损失。",
    })) : null,
  ];
}

function alignment(record, part, view, onRow) {
  const sources = record.source.pieces;
  const targets = record.labels;
  const written = positions(record, view);
  const [count, rows] = part.weights.shape;
  const weight = (t, s) => {
    if (view.aligned !== "mean" && view.aligned < count) return part.weights.at(view.aligned, t, s);
    let sum = 0;
    for (let head = 0; head < count; head++) sum += part.weights.at(head, t, s);
    return sum / count;
  };
  const longest = Math.max(sources.length, targets.length);
  const width = Math.max(340, (longest > 12 ? 54 : longest > 5 ? 76 : 68) * longest);
  const x = (n, of) => ((n + 0.5) * width) / of;
  const line = (t, s) => svg("line", {
    x1: x(t, rows), y1: 34, x2: x(s, sources.length), y2: 146, "data-weight": weight(t, s).toFixed(4),
    class: t === view.targetPiece ? "thread lit" : "thread",
    style: { "stroke-width": `${0.5 + 7 * weight(t, s)}`, opacity: `${Math.min(1, 0.05 + weight(t, s))}` },
  }, svg("title", {}, `${targets[t]} → ${sources[s]}: ${percent(weight(t, s))}`));
  const order = Array.from({ length: written }, (_, t) => t).sort((a, b) => (a === view.targetPiece) - (b === view.targetPiece));
  const text = (piece, n, of, y, lit, onclick) =>
    svg("text", { x: x(n, of), y, "text-anchor": "middle", class: lit ? "piece lit" : "piece", onclick }, piece);
  return el("div", { class: "scroll" },
    svg("svg", { viewBox: `0 0 ${width} 176`, width, class: "alignment", role: "img", "aria-label": say({ en: "alignment", zh: "对齐" }) },
      order.map((t) => sources.map((_, s) => line(t, s))),
      targets.slice(0, written).map((piece, t) => text(piece, t, rows, 24, t === view.targetPiece, () => onRow(t))),
      sources.map((piece, s) => text(piece, s, sources.length, 166, false, null))));
}
