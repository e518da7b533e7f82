// What surrounds each figure: its title, text, formula, code, section of the paper, and questions.

import { el } from "./dom.js";
import { say } from "./language.js";

/** The section of a figure, whose element of class "drawing" is drawn apart. */
export function frame(figure, code) {
  return el("section", { id: figure.id, class: "figure", "aria-labelledby": `${figure.id}-title` },
    el("div", { class: "text" },
      el("h2", { id: `${figure.id}-title` }, figure.number ? el("span", { class: "number" }, String(figure.number)) : null, say(figure.title)),
      say({ en: figure.intro.en, zh: figure.intro.zh }).map((paragraph) => el("p", {}, paragraph)),
      figure.formula ? el("p", { class: "formula" }, figure.formula.split(/ {3,}/).map((line) => el("span", {}, line))) : null,
      el("p", { class: "section" }, say({ en: `Vaswani et al. 2017, section ${figure.section}`, zh: `Vaswani 等 2017，第 ${figure.section} 节` })),
      code.map(source),
      (figure.questions ?? []).map(question)),
    el("div", { class: "drawing" }));
}

function source({ file, name, line, text }) {
  return el("details", { class: "code" },
    el("summary", {}, el("code", {}, `${file}:${line}`), " ", el("code", {}, name)),
    el("pre", { tabindex: 0 }, el("code", {}, text)));
}

function question({ q, a }) {
  return el("details", { class: "question" }, el("summary", {}, say(q)), el("p", {}, say(a)));
}
