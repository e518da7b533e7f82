// Figure 4: add & norm, and the feed-forward network.

import { chosenLayer, layerChoice } from "./chosen.js";
import { choice, el } from "./dom.js";
import { heatMap } from "./heat.js";
import { say } from "./language.js";
import { deviation, mean, norm, number, percent } from "./numbers.js";

export const layers = {
  id: "layers",
  number: 4,
  title: { en: "Add & norm, feed-forward", zh: "残差、归一化与前馈" },
  intro: {
    en: [
      "A sub-layer does not replace what came in: its output is added to it. So each piece keeps its own vector all the way up, and every sub-layer only writes a note on it. Normalisation then brings each row back to mean 0 and deviation 1, and scales and shifts each column by learned numbers.",
      "Attention mixes pieces. The feed-forward network then works on each piece alone: it compares the piece with many patterns, the hidden units, and adds what the units that fire have learned to add.",
    ],
    zh: [
      "子层不会取代输入，它的输出是加上去的。因此每个词元的向量一直往上传，每个子层只是在上面添一笔。归一化再把每一行变回均值 0、标准差 1，然后按学到的数逐列缩放和平移。",
      "注意力让词元之间互相混合；前馈网络则单独处理每个词元：把它和许多模式（隐藏单元）比对，激活的单元再加上各自学到的内容。",
    ],
  },
  formula: "LayerNorm(x + Sublayer(x))     FFN(x) = max(0, x·W₁ + b₁)·W₂ + b₂",
  section: "3.1, 3.3",
  questions: [],
  needs: ({ record, view }) => chosenLayer(record, view, view.stack),
  draw(scene) {
    const { record, view, layer, change } = scene;
    const encoder = view.stack === "encoder";
    const { pieces } = encoder ? record.source : record.target;
    const name = encoder ? "sourcePiece" : "targetPiece";
    const shared = { labels: pieces, lit: view[name], onRow: (row) => change({ [name]: row }) };
    const parts = [
      ["self_attention_add_norm", encoder ? { en: "attention", zh: "注意力" } : { en: "masked attention", zh: "遮罩注意力" }],
      ...(encoder ? [] : [["cross_attention_add_norm", { en: "attention over C", zh: "对 C 的注意力" }]]),
      ["feed_forward_add_norm", { en: "feed-forward", zh: "前馈" }],
    ];
    return [
      el("div", { class: "choices" },
        choice({
          label: say({ en: "where", zh: "位置" }), key: "stack", value: view.stack, onChoose: (s) => change({ stack: s }),
          choices: [["encoder", say({ en: "encoder", zh: "编码器" })], ["decoder", say({ en: "decoder", zh: "解码器" })]],
        }),
        layerChoice(scene, view.stack),
        choice({
          label: say({ en: "sub-layer", zh: "子层" }), key: "sublayer", value: chosenPart(parts, view), onChoose: (p) => change({ sublayer: p }),
          choices: parts.map(([part, text]) => [part, say(text)]),
        })),
      addNorm(layer[chosenPart(parts, view)], record.model.norm, shared),
      hidden(layer.feed_forward, record.model.activation, shared),
    ];
  },
};

const chosenPart = (parts, view) => (parts.some(([part]) => part === view.sublayer) ? view.sublayer : parts[0][0]);

function addNorm(part, placement, shared) {
  const row = (matrix) => matrix.row(shared.lit);
  const largest = Math.max(part.residual.largest(), part.sublayer.largest());
  const sum = row(part.residual).map((x, n) => x + row(part.sublayer)[n]);
  const share = norm(row(part.sublayer)) / norm(row(part.residual));
  const piece = shared.labels[shared.lit];
  const facts = [
    [say({ en: "x + sublayer", zh: "x + 子层" }), sum],
    [say({ en: "output", zh: "输出" }), row(part.output)],
  ];
  return [
    heatMap(part.residual, { name: "x", largest, ...shared }),
    el("div", { class: "operator" }, "+"),
    heatMap(part.sublayer, { name: say({ en: "what the sub-layer adds", zh: "子层加上的" }), largest, ...shared }),
    el("div", { class: "operator" }, placement === "post" ? say({ en: "→ norm →", zh: "→ 归一化 →" }) : "="),
    heatMap(part.output, { name: say({ en: "output", zh: "输出" }), ...shared }),
    el("div", { class: "written" },
      el("p", {}, say({
        en: `What is added to ${piece} is ${percent(share)} as long as what came in.`,
        zh: `加到 ${piece} 上的向量，长度是输入的 ${percent(share)}。`,
      })),
      facts.map(([name, values]) => el("p", {}, say({
        en: `${name}: mean ${number(mean(values), 3)}, deviation ${number(deviation(values), 3)}`,
        zh: `${name}：均值 ${number(mean(values), 3)}，标准差 ${number(deviation(values), 3)}`,
      })))),
  ];
}

function hidden(part, activation, shared) {
  const row = part.hidden.row(shared.lit);
  const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a]).slice(0, 8);
  const firing = row.filter((x) => x > 0).length;
  const others = (unit) => shared.labels.filter((_, n) => n !== shared.lit && part.hidden.at(n, unit) > 0);
  const piece = shared.labels[shared.lit];
  return el("div", { class: "part" },
    el("h3", {}, say({ en: "Hidden units of the feed-forward network", zh: "前馈网络的隐藏单元" })),
    heatMap(part.hidden, {
      name: say({ en: "hidden", zh: "隐藏" }), scale: activation === "relu" ? "weight" : "signed", ...shared,
    }),
    el("p", {}, say({
      en: `${firing} of ${row.length} units fire for ${piece}. The strongest, and the pieces that share them:`,
      zh: `${piece} 激活了 ${row.length} 个单元中的 ${firing} 个。最强的几个，以及同样激活它们的词元：`,
    })),
    el("ul", { class: "units" }, order.map((unit) => el("li", {},
      el("b", {}, `${unit + 1}`), ` ${number(row[unit])}`, el("small", {}, others(unit).join(" ") || "–")))));
}
