// The arrays of a record: numbers in row-major order, with a shape.

export class Tensor {
  #data;

  /** `data` is a typed array, or a function that gives it: most layers are never looked at. */
  constructor(shape, data) {
    this.shape = shape;
    this.#data = data;
  }

  get data() {
    if (typeof this.#data === "function") this.#data = this.#data();
    return this.#data;
  }

  /** The number at an index for every axis. */
  at(...index) {
    return this.data[index.reduce((offset, i, axis) => offset * this.shape[axis] + i, 0)];
  }

  /** The array at `index` of `axis`, which has one axis less. */
  pick(axis, index) {
    const inner = this.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
    const outer = this.shape.slice(0, axis).reduce((a, b) => a * b, 1);
    const data = new this.data.constructor(outer * inner);
    for (let i = 0; i < outer; i++) {
      const start = (i * this.shape[axis] + index) * inner;
      data.set(this.data.subarray(start, start + inner), i * inner);
    }
    return new Tensor(this.shape.filter((_, n) => n !== axis), data);
  }

  /** Row i of a matrix. */
  row(i) {
    return this.data.subarray(i * this.shape[1], (i + 1) * this.shape[1]);
  }

  /** The first `count` rows of a matrix. */
  top(count) {
    return new Tensor([count, this.shape[1]], this.data.subarray(0, count * this.shape[1]));
  }

  /** The same numbers in another shape. */
  reshape(...shape) {
    return new Tensor(shape, this.data);
  }

  /** The largest absolute value. */
  largest() {
    return this.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  }
}

const READERS = {
  float32: (buffer) => new Float32Array(buffer),
  float16: (buffer) => Float32Array.from(new Uint16Array(buffer), half),
  int32: (buffer) => new Int32Array(buffer),
  bool: (buffer) => new Uint8Array(buffer),
};

/** The value of a 16-bit float, given its bits. */
export function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The bytes that a text in base 64 stands for. */
export function bytesOf(text) {
  const decoded = atob(text);
  const bytes = new Uint8Array(decoded.length);
  for (let n = 0; n < decoded.length; n++) bytes[n] = decoded.charCodeAt(n);
  return bytes;
}

/** A record as the server sends it, with a Tensor in place of each encoded array. */
export function revive(value) {
  if (Array.isArray(value)) return value.map(revive);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.data === "string" && Array.isArray(value.shape) && value.dtype in READERS) {
    return new Tensor(value.shape, () => READERS[value.dtype](bytesOf(value.data).buffer));
  }
  return Object.fromEntries(Object.entries(value).map(([name, v]) => [name, revive(v)]));
}
