// Figure 6: from the decoder's last row to a word, and the search for the best sentence.

import { chip, el } from "./dom.js";
import { say } from "./language.js";
import { percent } from "./numbers.js";

export const search = {
  id: "search",
  number: 6,
  title: { en: "From a row to a word", zh: "从一行数到一个词" },
  intro: {
    en: [
      "The last layer gives a row of numbers for each position. Its product with the embedding of every piece of the vocabulary is a score for each of them, and the softmax turns the scores into probabilities.",
      "Greedy search takes the most probable piece each time. Beam search keeps several translations at once and drops the worse ones, because a good beginning does not always lead to the best end.",
    ],
    zh: [
      "最后一层在每个位置给出一行数。它与词表中每个词元的嵌入相乘，得到每个词元的分数，softmax 再把分数变成概率。",
      "贪心搜索每次取概率最大的词元。束搜索同时保留几个译文，淘汰较差的，因为好的开头未必通向最好的结尾。",
    ],
  },
  formula: "p = softmax(y·Eᵀ)     score = log p / lp(length)     lp = ((5 + length) / 6)^α",
  section: "3.4, 6.1",
  questions: [
    {
      q: { en: "How does a row of the output become a word?", zh: "输出的一行怎样变成一个词？" },
      a: { en: "By a product with every row of the vocabulary's table: the piece whose row points most nearly the same way gets the largest score. The bars show the ten largest after the softmax.", zh: "与词表的每一行相乘：方向最接近的那一行，对应的词元分数最高。条形图是 softmax 之后最大的十个。" },
    },
  ],
  draw({ record, view, change }) {
    const { prediction, target, labels } = record;
    const t = view.targetPiece;
    const sofar = target.pieces.slice(0, t + 1);
    return [
      el("div", { class: "chips" }, target.pieces.map((piece, n) => chip(piece, {
        lit: n === t, key: `step-${n}`, onChoose: () => change({ targetPiece: n }), tone: n > t ? "absent" : "",
      }))),
      el("p", {}, say({ en: `After ${sofar.join(" ")} the model expects:`, zh: `在 ${sofar.join(" ")} 之后，模型预测：` })),
      el("ol", { class: "bars" }, prediction.best_pieces[t].map((piece, k) => {
        const p = prediction.best_probs.at(t, k);
        return el("li", { class: piece === labels[t] ? "lit" : "" },
          el("b", {}, piece), el("i", { style: { width: `${100 * p}%` } }),
          el("span", { "data-prob": k }, percent(p)));
      })),
    ];
  },
};
