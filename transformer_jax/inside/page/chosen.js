// Which attention the reader looks at: of the encoder, of the decoder, or between them; which layer.

import { choice } from "./dom.js";
import { say } from "./language.js";

const KINDS = {
  encoder: { en: "encoder", zh: "编码器" },
  self: { en: "decoder, masked", zh: "解码器（遮罩）" },
  cross: { en: "decoder → encoder", zh: "解码器 → 编码器" },
};

/** The attention that is looked at, its pieces, and which of them is lit under which name of `view`. */
export function chosenAttention(record, view) {
  const encoder = view.kind === "encoder";
  const layers = encoder ? record.encoder : record.decoder;
  const number = chosenLayer(layers, view);
  const layer = layers[number];
  return {
    path: `${encoder ? "encoder" : "decoder"}_${number}/${view.kind === "cross" ? "cross" : "self"}_attention`,
    layers,
    part: view.kind === "cross" ? layer.cross_attention : layer.self_attention,
    rows: encoder ? record.source.pieces : record.target.pieces,
    columns: view.kind === "self" ? record.target.pieces : record.source.pieces,
    name: encoder ? "sourcePiece" : "targetPiece",
  };
}

/** Of stacks of different depths, the deeper one's last layers stand for the other's last one. */
export const chosenLayer = (layers, view) => Math.min(view.layer, layers.length - 1);

export function attentionChoices(view, layers, change) {
  return [
    choice({
      label: say({ en: "where", zh: "位置" }), key: "kind", value: view.kind, onChoose: (kind) => change({ kind }),
      choices: Object.entries(KINDS).map(([kind, text]) => [kind, say(text)]),
    }),
    layerChoice(view, layers, change),
  ];
}

export function layerChoice(view, layers, change) {
  return choice({
    label: say({ en: "layer", zh: "层" }), key: "layer", value: chosenLayer(layers, view),
    onChoose: (layer) => change({ layer }), choices: layers.map((_, n) => [n, n + 1]),
  });
}
