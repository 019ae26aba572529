// @ts-check
// The weights of a network: their names and shapes, and how they are packed into the page's file,
// as base64 of float16.

/** A matrix or vector of weights and, while the network learns, the gradient of the loss, and the
 *  optimizer's averages of the gradients and of their squares. `used` of its numbers are used; what
 *  follows is padding.
 *  @typedef {{name: string, shape: number[], used: number, weight: Float32Array,
 *    dweight: Float32Array, average: Float32Array, square: Float32Array}} Parameter
 *  @typedef {import("./kernels.js").Memory} Memory
 *  @typedef {any} Config the settings of model.py and train.py */

/** [0, 1, ..., n - 1] */
export const range = (n) => Array.from({ length: n }, (_, i) => i);

export const size_of = (shape) => shape.reduce((a, b) => a * b, 1);

/** [[name, shape]] of the weights, in PyTorch's order.
 *  @param {Config} config @returns {[string, number[]][]} */
export function shapes_of({ n_layer, n_embd: C, block_size, position }, V) {
  /** @type {[string, number[]][]} */
  const shapes = [["token_embedding.weight", [V, C]]];
  const add_layer = (name, shape) => shapes.push([`${name}.weight`, shape]);
  if (position === "learned") add_layer("position_embedding", [block_size, C]);
  for (const layer of range(n_layer)) {
    add_layer(`blocks.${layer}.attention_norm`, [C]);
    add_layer(`blocks.${layer}.attention.query_key_value`, [3 * C, C]);
    add_layer(`blocks.${layer}.attention.projection`, [C, C]);
    add_layer(`blocks.${layer}.feed_forward_norm`, [C]);
    add_layer(`blocks.${layer}.feed_forward.expand`, [4 * C, C]);
    add_layer(`blocks.${layer}.feed_forward.projection`, [C, 4 * C]);
  }
  add_layer("norm", [C]);
  return shapes;
}

/** All weights of a network, one after the other, so that their gradients can be sent at once. */
export class Parameters {
  /** @param {Config} config @param {Memory} memory */
  constructor(config, vocab_size, memory, learns = false) {
    const V = 8 * Math.ceil(vocab_size / 8); // padded: a product's width is a multiple of 8
    const shapes = shapes_of(config, V);
    const total = shapes.reduce((sum, [, shape]) => sum + size_of(shape), 0);
    const kinds = learns ? ["weight", "dweight", "average", "square"] : ["weight"];
    this.flat = Object.fromEntries(kinds.map((kind) => [kind, memory.array(total)]));
    let from = 0;
    /** @type {Parameter[]} */
    this.all = shapes.map(([name, shape], i) => {
      const [start, used] = [from, i ? size_of(shape) : vocab_size * shape[1]];
      from += size_of(shape);
      const parts = kinds.map((kind) => [kind, this.flat[kind].subarray(start, from)]);
      return { name, shape, used, ...Object.fromEntries(parts) };
    });
  }

  /** @param {string} name without ".weight" @returns {Parameter} */
  named(name) {
    return this.all.find((one) => one.name === `${name}.weight`);
  }
}

// --- base64 -> float16 -> float32 ----------------------------------------------------------------

/** The value of each of the 65,536 float16: 1 bit of sign, 5 of exponent, 10 of fraction. */
export function float16_table() {
  return Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24; // close to 0, evenly spaced
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

/** Fill a network's Parameters from base64. */
export function unpack(text, { all }) {
  const values = float16_table();
  const bytes = atob(text); // a string, a character per byte
  const found = bytes.length / 2;
  const wanted = all.reduce((sum, { used }) => sum + used, 0);
  if (found !== wanted) throw new Error(`the file has ${found} weights, model.js reads ${wanted}`);
  let at = 0;
  for (const { weight, used } of all) {
    for (let i = 0; i < used; i++) {
      weight[i] = values[bytes.charCodeAt(at) | (bytes.charCodeAt(at + 1) << 8)];
      at += 2;
    }
  }
}

/** The bits of the nearest float16, at most the largest one. */
function float16_bits(x) {
  const sign = x < 0 ? 1 << 15 : 0;
  const size = Math.min(Math.abs(x), 65504);
  const exponent = Math.max(-14, Math.floor(Math.log2(size)));
  const steps = Math.round(size * 2 ** (10 - exponent)); // below 1024: close to 0
  return sign + steps + (exponent + 14) * 1024;
}

/** What unpack() reads. The weights are rounded, so that what is packed is what is there. */
export function pack({ all }) {
  const values = float16_table();
  const text = all.map(({ weight, used }) => {
    const bits = Uint16Array.from(weight.subarray(0, used), float16_bits);
    bits.forEach((one, i) => (weight[i] = values[one]));
    const bytes = new Uint8Array(bits.buffer);
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  });
  return btoa(text.join(""));
}
