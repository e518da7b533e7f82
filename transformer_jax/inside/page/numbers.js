// How numbers are written on the page, and the little arithmetic that it does itself.

const MINUS = "−";

/** 1.2345 → "1.23", with a true minus sign; a negative number in brackets if `bracket`. */
export function number(x, digits = 2, bracket = false) {
  if (x === Infinity) return "∞";
  if (x === -Infinity) return `${MINUS}∞`;
  const text = Math.abs(x).toFixed(digits);
  if (!(x < 0) || Number(text) === 0) return text;
  return bracket ? `(${MINUS}${text})` : MINUS + text;
}

/** "(0.12, −0.40, 1.03, …)": the first few numbers of a row. */
export function vector(row, count = 4, digits = 2) {
  const shown = Array.from(row.slice(0, count), (x) => number(x, digits));
  return `(${shown.join(", ")}${row.length > count ? ", …" : ""})`;
}

/** "0.12×0.33 + … " of the first few terms of a dot product. */
export function products(a, b, count = 3) {
  const terms = Array.from(a.slice(0, count), (x, n) => `${number(x, 2, n > 0)}×${number(b[n], 2, true)}`);
  return terms.join(" + ") + (a.length > count ? " + …" : "");
}

/** 0.256 → "26 %"; small shares have more digits. */
export const percent = (x) => `${(100 * x).toFixed(x < 0.001 ? 3 : x < 0.1 ? 1 : 0)} %`;

export const dot = (a, b) => a.reduce((sum, x, n) => sum + x * b[n], 0);

export const norm = (row) => Math.sqrt(dot(row, row));

export function mean(row) {
  return row.reduce((a, b) => a + b, 0) / row.length;
}

export function deviation(row) {
  const centre = mean(row);
  return Math.sqrt(row.reduce((sum, x) => sum + (x - centre) ** 2, 0) / row.length);
}

/** What a log-probability is divided by (Wu et al. 2016; or length^alpha). */
export function lengthPenalty(length, alpha, form = "gnmt") {
  return form === "gnmt" ? ((5 + length) / 6) ** alpha : length ** alpha;
}

/** PE(pos) of one pair: [sin, cos] of pos / 10000^(2i/D) (section 3.5). */
export function sinusoid(position, pair, width) {
  const angle = position * frequency(pair, width);
  return [Math.sin(angle), Math.cos(angle)];
}

export const frequency = (pair, width) => 10000 ** ((-2 * pair) / width);
