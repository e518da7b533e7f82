// Parts of the model that the reader switches off, to see what becomes of the translation.

import { el } from "./dom.js";
import { say } from "./language.js";

/** A button that switches a part off or on again; a saved page has none. */
export function partSwitch({ model, request, ask }, name, label) {
  if (model.saved) return null;
  const off = request.off.includes(name);
  const next = off ? request.off.filter((other) => other !== name) : [...request.off, name];
  return el("button", {
    type: "button", class: off ? "off" : "", "aria-pressed": String(off), "data-key": `off-${name}`,
    onclick: () => ask({ off: next }),
  }, off ? say({ en: `${label}: switch on again`, zh: `${label}：重新打开` }) : say({ en: `${label}: switch off`, zh: `${label}：关掉` }));
}

/** What is off, in the bar at the top, with what the translation was before. */
export function offBar(bar, { request, ask, whole }) {
  if (!request.off.length) return bar.replaceChildren();
  return bar.replaceChildren(
    el("span", {}, say({ en: "Off: ", zh: "已关：" }), request.off.map(partName).join(", ")),
    whole === null ? "" : el("span", {}, say({ en: "with everything on: ", zh: "全部打开时：" }), el("b", {}, whole)),
    el("button", { type: "button", "data-key": "all-on", onclick: () => ask({ off: [] }) }, say({ en: "Switch all on", zh: "全部打开" })));
}

/** "encoder_0/self_attention/head_2" as a reader counts: from 1. */
function partName(name) {
  const [stack, part, head] = name.split("/");
  if (!head) return say(PARTS[name]);
  const [side, layer] = stack.split("_");
  const place = say({ encoder: { en: "encoder", zh: "编码器" }, decoder: { en: "decoder", zh: "解码器" } }[side]);
  const kind = part === "cross_attention" ? say({ en: " over C", zh: "对 C" }) : "";
  const numbers = [Number(layer) + 1, Number(head.split("_")[1]) + 1];
  return say({ en: `${place}${kind}, layer ${numbers[0]}, head ${numbers[1]}`, zh: `${place}${kind}第 ${numbers[0]} 层第 ${numbers[1]} 头` });
}

const PARTS = {
  "source/position": { en: "positions of the source", zh: "源句的位置" },
  "target/position": { en: "positions of the target", zh: "译文的位置" },
  "target/mask": { en: "the mask", zh: "遮罩" },
};
