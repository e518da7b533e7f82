// Figure 6: from the decoder's last row to a word, and the search for the best sentence.

import { chip, el } from "./dom.js";
import { say } from "./language.js";
import { percent } from "./numbers.js";
import { hypotheses, tree } from "./tree.js";

export const search = {
  id: "search",
  number: 6,
  title: { en: "From a row to a word", zh: "从一行数到一个词" },
  intro: {
    en: [
      "The last layer gives a row of numbers for each position. Its product with the row of every piece in a table, which in the paper is the table of the embeddings, is a score for each piece of the vocabulary, and the softmax turns the scores into probabilities.",
      "Greedy search takes the most probable piece each time. Beam search keeps several translations at once and drops the worse ones, because a good beginning does not always lead to the best end.",
    ],
    zh: [
      "最后一层在每个位置给出一行数。它与一张表中每个词元的行相乘（论文中就是嵌入表），得到词表中每个词元的分数，softmax 再把分数变成概率。",
      "贪心搜索每次取概率最大的词元。束搜索同时保留几个译文，淘汰较差的，因为好的开头未必通向最好的结尾。",
    ],
  },
  formula: "p = softmax(y·Eᵀ)     score = log p / lp(length)     lp = ((5 + length) / 6)^α",
  section: "3.4, 6.1",
  questions: [
    {
      q: { en: "How does a row of the output become a word?", zh: "输出的一行怎样变成一个词？" },
      a: { en: "The table E has a row for each piece of the vocabulary. The output's row y times each of them gives each piece a score, which is large where the two rows point the same way. The softmax turns the scores into probabilities (the bars show the ten largest), and the search takes a piece. At the end the pieces are joined, and each ▁ becomes a space: ▁a ▁cat is “a cat”.", zh: "表 E 中，词表的每个词元有一行。输出的一行 y 与每一行相乘，给每个词元一个分数，两行方向越一致，分数越高。softmax 把分数变成概率（条形图是最大的十个），搜索从中取一个词元。最后把词元连起来，▁ 变成空格：▁a ▁cat 就是“a cat”。" },
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
      el("p", {}, say({
        en: `Greedy search takes the first of these each time: ${record.greedy.hypotheses[0].text}`,
        zh: `贪心搜索每次取第一个：${record.greedy.hypotheses[0].text}`,
      })),
      record.beam ? el("div", { class: "part" },
        el("h3", {}, say({ en: `Beam search with ${record.beam.beam_size} beams`, zh: `束宽为 ${record.beam.beam_size} 的束搜索` })),
        el("p", {}, say({
          en: "Each step tries the most probable next pieces of every translation that is still open. The numbers are log-probabilities of the whole beginning: nearer to 0 is better. The best path is marked.",
          zh: "每一步为每个未完成的译文尝试最可能的下一个词元。数字是整个开头的对数概率，越接近 0 越好。最佳路径已标出。",
        })),
        tree(record.beam, view),
        el("h3", {}, say({ en: "Which translation wins", zh: "哪个译文胜出" })),
        el("p", {}, say({
          en: "Each further piece makes a translation less probable, so short ones would always win. Therefore the log-probability is divided by a penalty that grows with the length. Move α: a large one favours long translations.",
          zh: "每多一个词元，概率就更小，短译文总会占便宜。因此把对数概率除以一个随长度增大的惩罚。移动 α：α 越大，越偏向长译文。",
        })),
        hypotheses(record.beam, view)) : null,
    ];
  },
};
