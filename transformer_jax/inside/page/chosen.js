// Which attention the reader looks at: of the encoder, of the decoder, or between them; which layer.

import { choice } from "./dom.js";
import { say } from "./language.js";

const KINDS = {
  encoder: { en: "encoder", zh: "编码器" },
  self: { en: "decoder, masked", zh: "解码器（遮罩）" },
  cross: { en: "decoder → encoder", zh: "解码器 → 编码器" },
};

/** The stack of the attention that is looked at. */
const stackOf = (view) => (view.kind === "encoder" ? "encoder" : "decoder");

/** The layer that the figures of one attention need. */
export const attentionLayer = ({ record, view }) => chosenLayer(record, view, stackOf(view));

/** The attention that is looked at, its pieces, and which of them is lit under which name of `view`. */
export function chosenAttention({ record, view, layer }) {
  const encoder = view.kind === "encoder";
  const name = `${view.kind === "cross" ? "cross" : "self"}_attention`;
  return {
    path: `${attentionLayer({ record, view })}/${name}`,
    part: layer[name],
    rows: encoder ? record.source.pieces : record.target.pieces,
    columns: view.kind === "self" ? record.target.pieces : record.source.pieces,
    name: encoder ? "sourcePiece" : "targetPiece",
  };
}

/** Of stacks of different depths, the deeper one's last layers stand for the other's last one. */
const chosenNumber = (record, view, stack) => Math.min(view.layer, record.depth[stack] - 1);

/** The name of the layer of a stack that is looked at, as in "encoder_0". */
export const chosenLayer = (record, view, stack) => `${stack}_${chosenNumber(record, view, stack)}`;

export function attentionChoices(scene) {
  const { view, change } = scene;
  return [
    choice({
      label: say({ en: "where", zh: "位置" }), key: "kind", value: view.kind, onChoose: (kind) => change({ kind }),
      choices: Object.entries(KINDS).map(([kind, text]) => [kind, say(text)]),
    }),
    layerChoice(scene, stackOf(view)),
  ];
}

export function layerChoice({ record, view, change }, stack) {
  return choice({
    label: say({ en: "layer", zh: "层" }), key: "layer", value: chosenNumber(record, view, stack),
    onChoose: (layer) => change({ layer }), choices: Array.from({ length: record.depth[stack] }, (_, n) => [n, n + 1]),
  });
}
