// @ts-check
// The network: model.py in JavaScript, whose order and names it keeps.
//
// The letters in the shapes are model.py's: B sequences in a batch, T characters in a sequence, C
// the embedding dimension (n_embd), V characters in the vocabulary; H heads of D dimensions each,
// and N = B T characters in a batch. Arrays are flat: entry (n, c) of an array (N, C) is
// x[n * C + c]. They are made once: a pass makes none.
//
// One forward pass serves two purposes. To learn, it computes all N rows of a batch at once. To
// write, B is 1, and it computes only rows first to last - 1: what is new. The keys and values of
// the characters before are still in their arrays, and are the cache.

import { range } from "./weights.js";

/**
 * @typedef {import("./kernels.js").Memory} Memory
 * @typedef {import("./weights.js").Parameters} Parameters
 * @typedef {import("./weights.js").Config} Config
 */

// --- What PyTorch provides: linear layers, layer norm, GELU, softmax ---------------------------

/** (rows, columns) -> (columns, rows) */
export function transpose(x, rows, columns, y) {
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < columns; i++) y[i * rows + row] = x[row * columns + i];
  }
}

/** y = x weight^T: (N, inputs) -> (N, outputs) @param {GPT} net */
export function linear({ memory, turned }, x, { weight, shape }, y, first, last) {
  const [outputs, inputs] = shape;
  if (turned) {
    transpose(weight, outputs, inputs, turned); // -> (inputs, outputs)
    memory.product(x, turned, last, outputs, inputs, y);
  } else {
    for (let n = first; n < last; n++) {
      memory.multiply(weight, outputs, inputs, x, n * inputs, y, n * outputs);
    }
  }
}

/** Shift and scale each row to mean 0 and variance 1: (rows, size), into y, which may be x.
 *  scale: what each row was multiplied by. */
export function normalize(x, first, last, size, y, scale) {
  for (let row = first; row < last; row++) {
    const from = row * size;
    let mean = 0;
    let variance = 0;
    for (let i = 0; i < size; i++) mean += x[from + i];
    mean /= size;
    for (let i = 0; i < size; i++) variance += (x[from + i] - mean) * (x[from + i] - mean);
    const factor = 1 / Math.sqrt(variance / size + 1e-5); // PyTorch's: no division by 0
    for (let i = 0; i < size; i++) y[from + i] = (x[from + i] - mean) * factor;
    scale[row] = factor;
  }
}

/** Normalize, and multiply by trained gains: (N, C) -> (N, C) @param {GPT} net */
function layer_norm({ C }, x, { gain: { weight }, normalized, scale }, y, first, last) {
  normalize(x, first, last, C, normalized, scale);
  for (let n = first; n < last; n++) {
    for (let i = 0; i < C; i++) y[n * C + i] = normalized[n * C + i] * weight[i];
  }
}

const HALVED = Float64Array.from({ length: 1076 }, (_, times) => 2 ** -times); // the last is 0

/** exp(-x) of x >= 0, to 2e-7: a power of 2 times a Taylor polynomial of the rest. Math.exp is more
 *  exact, but would take half of GELU's time. */
function exp_of_minus(x) {
  const times = Math.floor(Math.min(x * Math.LOG2E + 0.5, HALVED.length - 1));
  const rest = times * Math.LN2 - x; // at most 0.35 in size
  const quartic = 1 / 2 + rest * (1 / 6 + rest * (1 / 24 + rest * (1 / 120 + rest / 720)));
  return HALVED[times] * (1 + rest * (1 + rest * quartic));
}

/** The probability that a normally distributed number is below x, to 1e-7: as exact as float32 is
 *  near 1. bell: exp(-x^2 / 2). Source: Abramowitz and Stegun 1964, formula 7.1.26, for erf. */
function below(x, bell) {
  const t = 1 / (1 + 0.3275911 * Math.SQRT1_2 * Math.abs(x));
  const cubic = 0.7107068705 + t * (-0.7265760135 + t * 0.5307027145);
  const tail = t * (0.127414796 + t * (-0.142248368 + t * cubic));
  const sign = x / (Math.abs(x) + 1e-30); // a branch would be mispredicted half of the time
  return 0.5 + sign * (0.5 - tail * bell);
}

/** y = x below(x), and the slope of this function, which the backward pass needs: (N, 4C) */
function gelu(x, y, slope, from, to) {
  const density = 1 / Math.sqrt(2 * Math.PI);
  for (let i = from; i < to; i++) {
    const bell = exp_of_minus((x[i] * x[i]) / 2);
    const probability = below(x[i], bell);
    y[i] = x[i] * probability;
    slope[i] = probability + x[i] * density * bell;
  }
}

/** In place: exponentials of `size` entries, divided by their sum. The largest is subtracted first,
 *  since its exponential could overflow. */
export function softmax(x, from, size) {
  let largest = -Infinity;
  let sum = 0;
  for (let i = from; i < from + size; i++) largest = Math.max(largest, x[i]);
  for (let i = from; i < from + size; i++) sum += x[i] = Math.exp(x[i] - largest);
  for (let i = from; i < from + size; i++) x[i] /= sum;
}

export function add(x, y, from = 0, to = x.length) {
  for (let i = from; i < to; i++) x[i] += y[i];
}

// --- Positions: attention by itself does not know the order of the characters ------------------

export const INIT_STD = 0.02;
const WAVELENGTH_BASE = 10000;

/** cos and sin of the angle of each position for each pair of dimensions: (T, D / 2) each. */
function rotary_tables(T, D) {
  const pairs = D / 2;
  const angles = new Float32Array(T * pairs); // in radians
  for (let pair = 0; pair < pairs; pair++) {
    // Rounded to float32 as in PyTorch: an angle of many radians shows such differences.
    const speed = Math.fround(WAVELENGTH_BASE ** -Math.fround(pair / pairs));
    for (let t = 0; t < T; t++) angles[t * pairs + pair] = t * speed;
  }
  return { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
}

/** Rotate each pair of the D entries at x[from] by the angle of their position, in place: (a, b)
 *  becomes (a cos - b sin, b cos + a sin). direction -1 rotates back. */
export function rotate(x, from, D, position, { cos, sin }, direction = 1) {
  const pairs = D / 2;
  for (let i = 0; i < pairs; i++) {
    const [a, b] = [x[from + i], x[from + pairs + i]];
    const c = cos[position * pairs + i];
    const s = direction * sin[position * pairs + i];
    x[from + i] = a * c - b * s;
    x[from + pairs + i] = b * c + a * s;
  }
}

// --- Attention: each character gathers information from the characters before it ---------------

/** Copy rows of head b * H + h: (B, T, parts, H, D)[b, first:last, part, h] -> (B, H, T, D)[b, h,
 *  first:last], or back. @param {GPT} net */
export function move_head({ T, H, D }, flat, parts, part, heads, head, first, last, back = false) {
  const [b, h] = [Math.floor(head / H), head % H];
  for (let t = first; t < last; t++) {
    const from = (((b * T + t) * parts + part) * H + h) * D;
    const to = (head * T + t) * D;
    if (back) for (let i = 0; i < D; i++) flat[from + i] = heads[to + i];
    else for (let i = 0; i < D; i++) heads[to + i] = flat[from + i];
  }
}

/** The rows of one head in an array (B, H, T, size): (T, size) */
export const head_of = (x, head, T, size) => x.subarray(head * T * size, (head + 1) * T * size);

/** Each character takes a weighted mean of the values of itself and all characters before it; the
 *  weights say how well its query matches their keys: (N, C) -> (N, C) @param {GPT} net */
function causal_self_attention(net, layer, y, first, last) {
  const { config, B, T, H, D, rotary, mixed_heads, switched_off } = net;
  const { qkv, q, k, v, q_scale, k_scale, mixed } = layer;
  linear(net, layer.input, layer.query_key_value, qkv, first, last); // -> (N, 3, H, D)
  const end = last - (B - 1) * T; // in each sequence
  for (let head = 0; head < B * H; head++) {
    [q, k, v].forEach((heads, part) => move_head(net, qkv, 3, part, heads, head, first, end));
    const [from, to] = [head * T + first, head * T + end];
    if (config.qk_norm) {
      normalize(q, from, to, D, q, q_scale);
      normalize(k, from, to, D, k, k_scale);
    }
    if (rotary) {
      for (let t = first; t < end; t++) {
        rotate(q, (head * T + t) * D, D, t, rotary);
        rotate(k, (head * T + t) * D, D, t, rotary);
      }
    }
    if (switched_off.has(`${layer.number}.${head % H}`)) mixed_heads.fill(0, from * D, to * D);
    else attend(net, layer, head, first, end);
    move_head(net, mixed, 1, 0, mixed_heads, head, first, end, true);
  }
  linear(net, mixed, layer.projection, y, first, last);
}

/** softmax(q k^T / sqrt(D)) v, for one head, where no query sees a later key. @param {GPT} net */
function attend({ memory, T, D, turned, mixed_heads }, layer, head, first, last) {
  const [q, k, v, y] = [layer.q, layer.k, layer.v, mixed_heads].map((x) => head_of(x, head, T, D));
  const weights = head_of(layer.weights, head, T, T);
  if (turned) {
    transpose(k, T, D, turned); // -> (D, T)
    memory.product(q, turned, T, T, D, weights); // q k^T
  }
  for (let t = first; t < last; t++) {
    if (!turned) memory.multiply(k, t + 1, D, q, t * D, weights, t * T);
    for (let s = t * T; s <= t * T + t; s++) weights[s] /= Math.sqrt(D);
    softmax(weights, t * T, t + 1);
    weights.fill(0, t * T + t + 1, (t + 1) * T); // the later ones
    if (turned) continue;
    y.fill(0, t * D, (t + 1) * D);
    for (let s = 0; s <= t; s++) {
      const weight = weights[t * T + s];
      for (let i = 0; i < D; i++) y[t * D + i] += weight * v[s * D + i];
    }
  }
  if (turned) memory.product(weights, v, T, D, T, y); // (T, T) (T, D) -> (T, D)
}

// --- Token shift: each character also sees the previous one ------------------------------------

/** The first half of each vector becomes that of the character before it, in place: (N, C). Before
 *  the first character of a sequence there are zeros. norm: where y comes from. @param {GPT} net */
function shift({ T, C }, { gain: { weight }, normalized }, y, first, last) {
  for (let n = first; n < last; n++) {
    for (let i = 0; i < C >> 1; i++) {
      y[n * C + i] = n % T ? normalized[(n - 1) * C + i] * weight[i] : 0;
    }
  }
}

// --- The feed-forward network and the block ----------------------------------------------------

/** Each character processes, by itself, what it has gathered: (N, C) -> (N, C) @param {GPT} net */
function feed_forward(net, layer, y, first, last) {
  const { wide, C } = net;
  linear(net, layer.input, layer.expand, wide, first, last); // (N, C) -> (N, 4C)
  gelu(wide, layer.activated, layer.slope, first * 4 * C, last * 4 * C);
  linear(net, layer.activated, layer.projection, y, first, last); // (N, 4C) -> (N, C)
}

/** Attention, then feed-forward. Each reads x, the residual stream, normalized, and adds its result
 *  to it: (N, C) @param {GPT} net */
function block(net, { attention_norm, attention, feed_forward_norm, ...layers }, first, last) {
  const { x, y, C, config } = net;
  layer_norm(net, x, attention_norm, attention.input, first, last);
  if (config.token_shift) shift(net, attention_norm, attention.input, first, last);
  causal_self_attention(net, attention, y, first, last);
  add(x, y, first * C, last * C);
  layer_norm(net, x, feed_forward_norm, layers.feed_forward.input, first, last);
  if (config.token_shift) shift(net, feed_forward_norm, layers.feed_forward.input, first, last);
  feed_forward(net, layers.feed_forward, y, first, last);
  add(x, y, first * C, last * C);
}

// --- The network ------------------------------------------------------------------------------

/** From characters to the logits of the next character, at every position at once. */
export class GPT {
  /** B: 0 to write, one sequence; else to learn, B of them. @param {Config} config
   *  @param {number} vocab_size @param {Parameters} parameters @param {Memory} memory */
  constructor(config, vocab_size, parameters, memory, B = 0) {
    this.config = config;
    this.vocab_size = vocab_size;
    this.parameters = parameters;
    this.memory = memory;
    this.B = Math.max(1, B);
    const T = (this.T = config.block_size);
    const C = (this.C = config.n_embd);
    const H = (this.H = config.n_head);
    const D = (this.D = C / H);
    const N = (this.N = this.B * T);
    const V = (this.V = 8 * Math.ceil(vocab_size / 8)); // padded, see Parameters
    this.switched_off = new Set(); // "layer.head" of the heads whose output is replaced by zeros
    this.token_embedding = parameters.named("token_embedding"); // (V, C), lm_head's weight too
    this.position_embedding = parameters.named("position_embedding"); // (T, C), if learned
    this.rotary = config.position === "rotary" ? rotary_tables(T, D) : null;
    const rows = (/** @type {number} */ size) => memory.array(N * size); // (N, size)
    const norm = (/** @type {string} */ name) => {
      return { gain: parameters.named(name), normalized: rows(C), scale: rows(1) };
    };
    this.blocks = range(config.n_layer).map((number) => ({
      attention_norm: norm(`blocks.${number}.attention_norm`),
      attention: {
        number,
        input: rows(C),
        query_key_value: parameters.named(`blocks.${number}.attention.query_key_value`), // (3C, C)
        qkv: rows(3 * C), // (N, 3, H, D)
        q: rows(C), // (B, H, T, D), and so are k and v
        k: rows(C),
        v: rows(C),
        q_scale: rows(H), // (B, H, T)
        k_scale: rows(H),
        weights: rows(H * T), // (B, H, T, T)
        mixed: rows(C),
        projection: parameters.named(`blocks.${number}.attention.projection`), // (C, C)
      },
      feed_forward_norm: norm(`blocks.${number}.feed_forward_norm`),
      feed_forward: {
        input: rows(C),
        expand: parameters.named(`blocks.${number}.feed_forward.expand`), // (4C, C)
        activated: rows(4 * C),
        slope: rows(4 * C), // of GELU
        projection: parameters.named(`blocks.${number}.feed_forward.projection`), // (C, 4C)
      },
    }));
    this.norm = norm("norm");
    this.final = rows(C); // what lm_head reads
    this.logits = rows(V);
    this.x = rows(C); // the residual stream
    this.y = rows(C); // what a part adds to it
    this.wide = rows(4 * C);
    this.mixed_heads = rows(C); // (B, H, T, D)
    // For transposed matrices, which the product of many rows needs; one row is fastest without.
    this.turned = B ? memory.array(Math.max(V * C, 4 * C * C, T * D)) : null;
  }

  /** this.logits (N, V), those of the next character after each. windows: the ids (B, T + 1); the
   *  last of each sequence is not read. @param {ArrayLike<number>} windows */
  forward(windows, first = 0, last = this.N) {
    const { x, C, T, token_embedding } = this;
    const positions = this.position_embedding?.weight;
    for (let n = first; n < last; n++) {
      const [from, at] = [windows[n + Math.floor(n / T)] * C, (n % T) * C];
      for (let i = 0; i < C; i++) x[n * C + i] = token_embedding.weight[from + i];
      if (positions) for (let i = 0; i < C; i++) x[n * C + i] += positions[at + i];
    }
    for (const layers of this.blocks) block(this, layers, first, last);
    layer_norm(this, x, this.norm, this.final, first, last);
    linear(this, this.final, token_embedding, this.logits, first, last); // -> (N, V)
  }
}
