// Figure 3: the heads side by side, concatenated, times W_O.

import { attentionChoices, attentionLayer, chosenAttention } from "./chosen.js";
import { el } from "./dom.js";
import { heatMap, matrixTable } from "./heat.js";
import { say } from "./language.js";
import { largeMatrix } from "./matrices.js";
import { percent } from "./numbers.js";
import { partSwitch } from "./switches.js";

export const heads = {
  id: "heads",
  number: 3,
  title: { en: "Several heads at once", zh: "多个头同时看" },
  intro: {
    en: [
      "One head can look for one thing at a time. So each layer has several, each with its own W_Q, W_K and W_V, all looking at the whole sentence at once: one may follow the subject, another the word before.",
      "Each head gives a narrow Z. They are laid side by side, and one more matrix, W_O, mixes them into a vector as wide as the one that came in.",
    ],
    zh: [
      "一个头一次只能找一种关系。所以每一层有好几个头，各有自己的 W_Q、W_K、W_V，同时看整个句子：有的跟踪主语，有的看前一个词。",
      "每个头给出一个窄的 Z。把它们并排拼接，再乘以一个矩阵 W_O，混合成与输入一样宽的向量。",
    ],
  },
  formula: "MultiHead(Q, K, V) = Concat(head₁, …, head_N) W_O",
  section: "3.2.2",
  questions: [
    {
      q: { en: "Does each head see all of X with its own small matrices, or a slice of X?", zh: "每个头是用自己的小矩阵看整个 X，还是只看 X 的一片？" },
      a: {
        en: "It sees all of X. There are two ways to write this down. Either each of the N heads multiplies all of X by its own small W_Q, of d_model × d_k; or the N small matrices, laid side by side, are one large W_Q, and X times this is cut into N parts, one for each head. Both give the same numbers. What is cut is the result, Q, K and V, never X. Code usually does the second because one large product is faster.",
        zh: "它看整个 X。写法有两种：或者 N 个头各用自己的小矩阵 W_Q（d_model × d_k）乘整个 X；或者把 N 个小矩阵并排成一个大的 W_Q，用它乘 X，再把结果切成 N 份，每个头一份。两种写法得到的数完全一样。被切的是结果 Q、K、V，而不是 X。代码通常用后一种写法，因为一次大的乘法更快。",
      },
    },
  ],
  needs: attentionLayer,
  draw(scene) {
    const { view, change } = scene;
    const { part, path, rows, columns, name } = chosenAttention(scene);
    const onRow = (row) => change({ [name]: row });
    const [length, count, width] = part.heads.shape;
    const lit = view[name];
    const each = Array.from({ length: count }, (_, head) => {
      const weights = part.weights.pick(0, head);
      const best = columns.map((_, j) => j).reduce((a, b) => (weights.at(lit, b) > weights.at(lit, a) ? b : a));
      return el("div", { class: `head ${head === view.head ? "lit" : ""}` },
        matrixTable(weights, {
          name: say({ en: `head ${head + 1}`, zh: `头 ${head + 1}` }), rows, columns, lit, onRow, scale: "weight", mask: part.mask, compact: true,
        }),
        el("p", {}, `${rows[lit]} → ${columns[best]} ${percent(weights.at(lit, best))}`),
        partSwitch(scene, `${path}/head_${head}`, say({ en: `head ${head + 1}`, zh: `头 ${head + 1}` })));
    });
    return [
      el("div", { class: "choices" }, attentionChoices(scene)),
      el("div", { class: "heads" }, each),
      heatMap(part.heads.reshape(length, count * width), {
        name: say({ en: "Z of all heads, side by side", zh: "所有头的 Z 并排" }), labels: rows, lit, onRow, splits: count,
      }),
      el("div", { class: "operator" }, "× W_O ="),
      heatMap(part.output, { name: say({ en: "output", zh: "输出" }), labels: rows, lit, onRow }),
      largeMatrix(scene),
    ];
  },
};
