// Elements, built from plain values. A string becomes a text node, so a reader's text is never HTML.

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") setStyle(node, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  const there = children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false);
  node.append(...there);
  return node;
}

// The page's security policy forbids style attributes, not single properties.
function setStyle(node, properties) {
  for (const [name, value] of Object.entries(properties)) node.style.setProperty(name, value);
}

export const el = (tag, attributes, ...children) =>
  build(document.createElement(tag), attributes, children);

export const svg = (tag, attributes, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);

/** A labelled slider, whose `onInput` gets a number; `show` writes it out. */
export function slider({ label, min, max, step = 1, value, show = String, onInput, key }) {
  const output = el("output", {}, show(value));
  const input = el("input", {
    type: "range", min, max, step, value, "data-key": key, "aria-label": label,
    oninput: () => {
      output.textContent = show(Number(input.value));
      onInput(Number(input.value));
    },
  });
  return el("label", { class: "slider" }, el("span", {}, label), input, output);
}

/** Buttons of which one is pressed: `choices` are [value, label]. */
export function choice({ label, choices, value, onChoose, key }) {
  const button = ([each, text]) =>
    el("button", {
      type: "button", "aria-pressed": String(each === value), "data-key": `${key}-${each}`,
      onclick: () => onChoose(each),
    }, text);
  return el("div", { class: "choice", role: "group", "aria-label": label },
    el("span", { class: "choice-label" }, label), choices.map(button));
}

/** A word piece as a chip; with `onChoose` a button. */
export function chip(piece, { lit = false, onChoose, key, detail, tone = "" } = {}) {
  const content = [el("b", {}, piece), detail === undefined ? null : el("small", {}, detail)];
  const attributes = { class: `chip ${tone} ${lit ? "lit" : ""}`, "data-key": key };
  if (!onChoose) return el("span", attributes, content);
  return el("button", { ...attributes, type: "button", "aria-pressed": String(lit), onclick: onChoose }, content);
}
