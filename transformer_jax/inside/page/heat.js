// Heat maps of matrices: wide ones on a canvas, attention's as tables with their numbers.

import { colour, css, ink } from "./colours.js";
import { el } from "./dom.js";
import { say } from "./language.js";
import { number } from "./numbers.js";

/**
 * A matrix [rows, columns] in colours. Pointing at a cell, or moving through them with the arrow
 * keys, writes the cell's value out.
 *
 * Options: name (what a value is called), labels (of the rows), lit (row to mark), onRow (called with
 * a chosen row), largest (value of the strongest colour), scale ("signed" or "weight"), splits (into
 * how many equal parts lines divide the columns), dense (low rows without labels, as of a large matrix).
 */
export function heatMap(matrix, { name, labels, lit, onRow, largest, scale = "signed", splits = 1, dense = false }) {
  const [rows, columns] = matrix.shape;
  const canvas = el("canvas", {
    width: columns, height: rows, tabindex: 0, role: "img",
    "aria-label": `${name}: ${rows} × ${columns}`, "data-key": `heat-${name}`,
  });
  paint(canvas, matrix, largest ?? matrix.largest(), scale);
  const cursor = el("i", { class: "cursor", hidden: true });
  const readout = el("output", { class: "readout" }, `${rows} × ${columns}`);
  let [row, column] = [lit ?? 0, 0];
  const point = () => {
    cursor.hidden = false;
    const place = { left: column / columns, top: row / rows, width: 1 / columns, height: 1 / rows };
    for (const [side, part] of Object.entries(place)) cursor.style[side] = `${100 * part}%`;
    readout.textContent = `${name}[${labels[row]}, ${column + 1}] = ${number(matrix.at(row, column), 4)}`;
  };
  const locate = (event) => {
    const box = canvas.getBoundingClientRect();
    const inside = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
    row = inside((event.clientY - box.top) / box.height, rows);
    column = inside((event.clientX - box.left) / box.width, columns);
    point();
  };
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("pointermove", locate);
  canvas.addEventListener("pointerdown", locate);
  canvas.addEventListener("focus", point);
  canvas.addEventListener("click", () => onRow?.(row));
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") onRow?.(row);
    if (!(event.key in moves)) return;
    event.preventDefault();
    row = Math.min(rows - 1, Math.max(0, row + moves[event.key][0]));
    column = Math.min(columns - 1, Math.max(0, column + moves[event.key][1]));
    point();
  });
  const mark = lit === undefined ? null
    : el("i", { class: "lit-row", style: { top: `${(100 * lit) / rows}%`, height: `${100 / rows}%` } });
  const lines = Array.from({ length: splits - 1 }, (_, n) =>
    el("i", { class: "split", style: { left: `${(100 * (n + 1)) / splits}%` } }));
  const label = (text, n) => el("span", { class: n === lit ? "lit" : "" }, text);
  return el("div", { class: "heat" },
    el("div", { class: "heat-head" }, el("b", {}, name), readout),
    el("div", { class: `heat-body ${dense ? "dense" : ""}`, style: { "--rows": rows } },
      dense ? null : el("div", { class: "heat-labels", "aria-hidden": "true" }, labels.map(label)),
      el("div", { class: "heat-cells" }, canvas, lines, mark, cursor)));
}

function paint(canvas, matrix, largest, scale) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  matrix.data.forEach((x, n) => {
    image.data.set([...colour(scale, largest ? x / largest : 0), 255], 4 * n);
  });
  context.putImageData(image, 0, 0);
}

/**
 * A matrix of attention [Q, M] as a table of numbers, one row lit.
 *
 * Options: name, rows and columns (the pieces), lit, onRow, scale, mask (false = masked, marked),
 * digits, compact (colours alone, as where there are many columns).
 */
export function matrixTable(matrix, { name, rows, columns, lit, onRow, scale, mask, digits = 2, compact = false }) {
  const largest = scale === "weight" ? 1 : matrix.largest() || 1;
  const crowded = columns.length > 12;
  const cell = (i, j) => {
    if (mask && !mask.at(i, j)) {
      return el("td", { class: "masked", title: say(MASKED), "data-cell": `${i},${j}` }, "×");
    }
    const x = matrix.at(i, j);
    const background = colour(scale, x / largest);
    const title = `${rows[i]} → ${columns[j]}: ${number(x, 4)}`;
    return el("td", {
      title, "data-cell": `${i},${j}`, style: { background: css(background), color: ink(background) },
    }, crowded || compact ? "" : number(x, digits));
  };
  const row = (piece, i) => el("tr", { class: i === lit ? "lit" : "" },
    el("th", { scope: "row" }, el("button", {
      type: "button", "data-key": `${name}-${i}`, "aria-pressed": String(i === lit), onclick: () => onRow(i),
    }, piece)),
    columns.map((_, j) => cell(i, j)));
  return el("div", { class: "matrix" },
    el("table", { class: crowded ? "crowded" : compact ? "compact" : "" },
      el("caption", {}, name),
      el("thead", {}, el("tr", {}, el("td"), columns.map((piece) => el("th", { scope: "col" }, piece)))),
      el("tbody", {}, rows.map(row))));
}

const MASKED = { en: "masked: this piece may not be attended to", zh: "被遮住：不可关注这个词元" };
