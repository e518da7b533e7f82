// The learned matrices: X times W_Q, W_K and W_V, one head's or all heads' at once.

import { chosenAttention } from "./chosen.js";
import { el } from "./dom.js";
import { heatMap } from "./heat.js";
import { say } from "./language.js";
import { number, products } from "./numbers.js";

const NAMES = { query: "W_Q", key: "W_K", value: "W_V" };

/** The matrices of the chosen attention; or a button, or a line, in their place. */
function withMatrices(scene, key, draw) {
  const { view, change, parameters } = scene;
  if (!view.matrices) {
    return el("button", { type: "button", class: "open", "data-key": `${key}-matrices`, onclick: () => change({ matrices: true }) },
      say({ en: "Show the learned matrices", zh: "显示学到的矩阵" }));
  }
  const found = parameters(chosenAttention(scene).path);
  if (found === null) return el("p", { class: "section" }, say({ en: "Loading the matrices …", zh: "正在载入矩阵……" }));
  if (!found.query_kernel) {
    return el("p", { class: "section" }, say({ en: "This file has the matrices of the trained model only.", zh: "这个文件只有训练后模型的矩阵。" }));
  }
  return draw(found);
}

const numbered = (count) => Array.from({ length: count }, (_, n) => n + 1);

/** Q, K and V of one head as X times a small matrix, with the first numbers written out. */
export function projections(scene) {
  return withMatrices(scene, "projections", (found) => {
    const { view, change } = scene;
    const { part, rows, columns, name } = chosenAttention(scene);
    const lit = view[name];
    const kernels = Object.keys(NAMES).map((side) => found[`${side}_kernel`].pick(1, view.head));
    const query = part.query.pick(1, view.head);
    const bias = found.query_bias ? found.query_bias.pick(0, view.head) : null;
    const line = (n) => {
      const column = kernels[0].pick(1, n).data;
      const added = bias ? ` + b (${number(bias.at(n), 3)})` : "";
      return el("li", {}, `q${"₁₂₃"[n]} = ${products(part.input.row(lit), column)}${added} = ${number(query.at(lit, n), 3)}`);
    };
    return [
      el("div", { class: "three" },
        heatMap(part.input, { name: view.kind === "cross" ? say({ en: "Y, for Q", zh: "Y（用于 Q）" }) : "X", labels: rows, lit, onRow: (row) => change({ [name]: row }) }),
        view.kind === "cross" ? heatMap(part.memory, { name: say({ en: "C, for K and V", zh: "C（用于 K、V）" }), labels: columns }) : null),
      el("div", { class: "three" }, kernels.map((kernel, n) => heatMap(kernel, {
        name: Object.values(NAMES)[n], labels: numbered(kernel.shape[0]), dense: true,
      }))),
      el("div", { class: "written" },
        el("p", {}, say({
          en: `${rows[lit]}: each number of its query is its vector times a column of W_Q`,
          zh: `${rows[lit]}：查询的每个数，是它的向量乘以 W_Q 的一列`,
        })),
        el("ol", {}, [0, 1, 2].filter((n) => n < query.shape[1]).map(line))),
    ];
  });
}

/** W_Q of all heads side by side, and Q, which is cut: both views of what a head sees. */
export function largeMatrix(scene) {
  return el("div", { class: "part" },
    el("h3", {}, say({ en: "One large matrix, or several small ones", zh: "一个大矩阵，还是几个小矩阵" })),
    el("p", {}, say({
      en: "All of X is multiplied by all of W_Q; only the result is cut. Lines separate the heads, in W_Q and in Q.",
      zh: "整个 X 乘以整个 W_Q，只有结果被切开。W_Q 和 Q 中的竖线分开各个头。",
    })),
    withMatrices(scene, "large", (found) => {
      const { part, rows, name } = chosenAttention(scene);
      const [length, count, width] = part.query.shape;
      const kernel = found.query_kernel;
      const lit = scene.view[name];
      return [
        heatMap(part.input, { name: scene.view.kind === "cross" ? "Y" : "X", labels: rows, lit }),
        el("div", { class: "operator" }, "×"),
        heatMap(kernel.reshape(kernel.shape[0], count * width), {
          name: say({ en: "W_Q of all heads", zh: "所有头的 W_Q" }), labels: numbered(kernel.shape[0]), dense: true, splits: count,
        }),
        el("div", { class: "operator" }, "="),
        heatMap(part.query.reshape(length, count * width), {
          name: say({ en: "Q of all heads", zh: "所有头的 Q" }), labels: rows, lit, splits: count,
        }),
      ];
    }));
}
