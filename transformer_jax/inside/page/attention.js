// Figure 2: Q, K, V, scores, mask, weights, Z. One row is lit through all of it.

import { attentionChoices, attentionLayer, chosenAttention } from "./chosen.js";
import { choice, el } from "./dom.js";
import { heatMap, matrixTable } from "./heat.js";
import { say } from "./language.js";
import { projections } from "./matrices.js";
import { dot, number, percent, products, vector } from "./numbers.js";

export const attention = {
  id: "attention",
  number: 2,
  title: { en: "Attention, one head", zh: "注意力：一个头" },
  intro: {
    en: [
      "Each piece asks a question of all pieces, and each piece has a label that questions are compared with. The question is the query, a row of Q; the label is the key, a row of K; what a piece hands over if it is asked is the value, a row of V. All three are the piece's vector times a matrix.",
      "The more a query and a key point the same way, the larger their product. Divided by √d_k (d_k is the number of columns of Q and K), so that it does not grow with the width, it goes through a softmax, which turns each row of scores into shares that sum to 1. The result Z is the mean of the values, weighted with these shares.",
      "Choose a piece: its row is lit everywhere, and its arithmetic is written out under the tables.",
    ],
    zh: [
      "每个词元向所有词元提一个问题，每个词元也有一个标签，供问题来比对。问题叫查询，是 Q 的一行；标签叫键，是 K 的一行；被问到时交出的内容叫值，是 V 的一行。三者都是词元的向量乘以一个矩阵。",
      "查询和键的方向越一致，乘积越大。先除以 √d_k（d_k 是 Q 和 K 的列数），使它不随宽度增大，再做 softmax，把每一行分数变成和为 1 的份额。结果 Z 是各个值按这些份额的加权平均。",
      "选一个词元：它的行会在各处亮起，算式写在表格下面。",
    ],
  },
  formula: "Attention(Q, K, V) = softmax(QKᵀ / √d_k) V     Q = X·W_Q   K = X·W_K   V = X·W_V",
  section: "3.2.1",
  questions: [
    {
      q: { en: "Where do W_Q, W_K and W_V come from?", zh: "W_Q、W_K、W_V 是怎么来的？" },
      a: {
        en: "Nobody writes them. They start as random numbers. In training the model sees many sentences with their right translations, and after each few it changes every number a little, in the direction that makes these translations more probable. When it translates, they stay as they are. Move the slider at the top of the page to see attention emerge.",
        zh: "没有人去写它们。一开始是随机数。训练时，模型看许多句子和它们的正确译文，每看几句，就把每个数改动一点，使这些译文的概率变大。翻译时，它们不再改变。拖动页首的滑块，可以看到注意力逐渐成形。",
      },
    },
    {
      q: { en: "What does the mask hide?", zh: "遮罩遮住了什么？" },
      a: {
        en: "In the encoder nothing: every piece may look at every other. In the decoder a piece may not look at those after it, because when translating they do not exist yet. Before the softmax masked scores are replaced by a hugely negative number, so their weight is exactly 0 and the others still sum to 1.",
        zh: "编码器里什么也不遮，每个词元都能看所有词元。解码器里，词元不能看它后面的，因为翻译时它们还不存在。在 softmax 之前，被遮的分数换成一个极小的负数，所以被遮处的权重恰好为 0，其余的和仍为 1。",
      },
    },
  ],
  needs: attentionLayer,
  draw(scene) {
    const { view, change } = scene;
    const { part, rows, columns, name } = chosenAttention(scene);
    return [
      el("div", { class: "choices" }, attentionChoices(scene),
        choice({
          label: say({ en: "head", zh: "头" }), key: "head", value: view.head, onChoose: (head) => change({ head }),
          choices: Array.from({ length: part.query.shape[1] }, (_, n) => [n, n + 1]),
        })),
      projections(scene),
      steps(part, {
        head: view.head, rows, columns, lit: view[name], onRow: (row) => change({ [name]: row }),
      }),
    ];
  },
};

/** The whole way of one head from Q, K and V to Z. */
function steps(part, { head, rows, columns, lit, onRow }) {
  const [query, key, value, z] = [part.query, part.key, part.value, part.heads].map((x) => x.pick(1, head));
  const [scores, scaled, weights] = [part.scores, part.scaled, part.weights].map((x) => x.pick(0, head));
  const largest = Math.max(query.largest(), key.largest());
  const asked = { rows, columns, lit, onRow };
  const root = `√${query.shape[1]}`;
  return [
    el("div", { class: "three" },
      heatMap(query, { name: "Q", labels: rows, lit, onRow, largest }),
      heatMap(key, { name: "K", labels: columns, largest }),
      heatMap(value, { name: "V", labels: columns })),
    el("div", { class: "tables" },
      matrixTable(scores, { name: "QKᵀ", scale: "signed", digits: 1, ...asked }),
      matrixTable(scaled, { name: `QKᵀ / ${root}`, scale: "signed", digits: 1, ...asked }),
      matrixTable(scaled, { name: say({ en: "with the mask", zh: "加上遮罩" }), scale: "signed", digits: 1, mask: part.mask, ...asked }),
      matrixTable(weights, { name: "softmax", scale: "weight", mask: part.mask, ...asked })),
    heatMap(z, { name: "Z", labels: rows, lit, onRow }),
    arithmetic({ query, key, value, z, scores, scaled, weights, mask: part.mask }, rows, columns, lit),
  ];
}

function arithmetic(a, rows, columns, i) {
  const width = a.query.shape[1];
  const allowed = columns.map((_, j) => Boolean(a.mask.at(i, j)));
  const exponentials = columns.map((_, j) => (allowed[j] ? Math.exp(a.scaled.at(i, j)) : 0));
  const total = exponentials.reduce((x, y) => x + y, 0);
  const line = (piece, j) => el("tr", { class: allowed[j] ? "" : "masked" },
    el("th", { scope: "row" }, piece),
    el("td", {}, `${products(a.query.row(i), a.key.row(j), 2)} = ${number(dot(a.query.row(i), a.key.row(j)))}`),
    el("td", {}, `${number(a.scores.at(i, j))} / √${width} = ${number(a.scaled.at(i, j))}`),
    el("td", {}, allowed[j] ? number(exponentials[j]) : "0"),
    el("td", { "data-weight": j }, allowed[j] ? `${number(exponentials[j])} / ${number(total)} = ${number(a.weights.at(i, j), 4)}` : say({ en: "masked: 0", zh: "遮住：0" })));
  const order = columns.map((_, j) => j).sort((p, q) => a.weights.at(i, q) - a.weights.at(i, p)).filter((j) => allowed[j]);
  const largest = order.slice(0, 3);
  const rest = order.length > 3 ? " + …" : "";
  const mixture = (write) => largest.map(write).join(" + ") + rest;
  const component = (n) => `z${"₁₂₃"[n]} = ${mixture((j) => `${number(a.weights.at(i, j))}×${number(a.value.at(j, n), 2, true)}`)} = ${number(a.z.at(i, n), 3)}`;
  const heads = ["", "q·k", `÷ √${width}`, "exp", say({ en: "weight", zh: "权重" })];
  return el("div", { class: "written", "data-figure": "arithmetic" },
    el("h3", {}, say({ en: `Written out for ${rows[i]}`, zh: `${rows[i]} 的算式` })),
    el("p", {}, `q = ${vector(a.query.row(i), 6)}`),
    el("div", { class: "scroll" }, el("table", { class: "sums" },
      el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, columns.map(line)))),
    el("p", {}, `z = ${mixture((j) => `${number(a.weights.at(i, j))}·V[${columns[j]}]`)} = ${vector(a.z.row(i), 6)}`),
    el("ol", {}, [0, 1, 2].filter((n) => n < a.z.shape[1]).map((n) => el("li", {}, component(n)))),
    el("p", {}, say({
      en: `${rows[i]} attends most to ${columns[order[0]]}: ${percent(a.weights.at(i, order[0]))}.`,
      zh: `${rows[i]} 最关注 ${columns[order[0]]}：${percent(a.weights.at(i, order[0]))}。`,
    })));
}
