// The bar at the top: the sentence, its translation, the checkpoint, language and theme.

import { theme } from "./colours.js";
import { el } from "./dom.js";
import { language, say } from "./language.js";

/** Fills the bar. `act` has ask(), checkpoint(step), language(name) and theme(name). */
export function controls(bar, { model, request, act }) {
  const steps = model.checkpoints;
  const other = language() === "en" ? "zh" : "en";
  const shade = theme() === "dark" ? "light" : "dark";
  bar.replaceChildren(
    el("h1", {}, say({ en: "Inside a Transformer", zh: "看进 Transformer 里面" })),
    sentence(model, request, act),
    el("p", { id: "translation" }),
    steps.length > 1 ? checkpoints(model, request, act) : null,
    el("div", { class: "switches" },
      el("button", { type: "button", "data-key": "language", lang: other, onclick: () => act.language(other) }, other === "zh" ? "中文" : "English"),
      el("button", { type: "button", "data-key": "theme", onclick: () => act.theme(shade) },
        say(shade === "dark" ? { en: "Dark", zh: "深色" } : { en: "Light", zh: "浅色" }))),
    el("div", { id: "off" }));
}

function sentence(model, request, act) {
  const label = say({ en: `Sentence (${model.source_language})`, zh: `句子（${model.source_language}）` });
  const go = (event) => {
    event.preventDefault();
    act.ask(field.value);
  };
  const field = model.saved
    ? el("select", { "aria-label": label, "data-key": "sentence", onchange: (event) => act.ask(event.target.value) },
      [...new Set(model.saved)].map((text) => el("option", { value: text, selected: text === request.source }, text)))
    : el("input", {
      "aria-label": label, "data-key": "sentence", value: request.source, autocomplete: "off",
      spellcheck: "false", maxlength: model.limits.characters, list: "examples",
    });
  return el("form", { onsubmit: go }, field,
    el("datalist", { id: "examples" }, model.examples.map((text) => el("option", { value: text }))),
    model.saved ? null : el("button", { class: "primary" }, say({ en: "Look inside", zh: "看里面" })));
}

/** A slider over the run's checkpoints; its last place is the model that the page was started with. */
function checkpoints(model, request, act) {
  const steps = [...model.checkpoints, null];
  const averaged = model.steps.length > 1;
  const name = (step) => (step === null
    ? say({ en: `trained (${averaged ? "mean of " : ""}${model.steps.join(", ")})`, zh: `训练后（${model.steps.join("、")}${averaged ? " 的平均" : ""}）` })
    : say({ en: `step ${step}`, zh: `第 ${step} 步` }));
  const output = el("output", {}, name(request.checkpoint));
  const label = say({ en: "Watch it learn", zh: "看它学习" });
  return el("label", { class: "slider" }, el("span", {}, label),
    el("input", {
      type: "range", min: 0, max: steps.length - 1, value: steps.indexOf(request.checkpoint), "data-key": "checkpoint",
      oninput: (event) => {
        output.textContent = name(steps[event.target.value]);
      },
      onchange: (event) => act.checkpoint(steps[event.target.value]),
    }), output);
}
