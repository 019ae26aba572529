// The program of a page that page.py makes: a trained network, and what one can see of it.
//
// It goes from the smallest part to the whole, like model.py, whose names it keeps, down to the
// spelling: numbers and PyTorch's layers, positions, attention, feed-forward, block, GPT, the two
// ancestors, generation. Then come the worker that runs the network, and the page around it.
//
// The shapes use model.py's letters, without B: there is one text here, so B is 1. T characters in
// a sequence, C the embedding dimension (n_embd), V characters in the vocabulary (vocab_size). An
// array is flat: entry (t, c) of an array (T, C) is x[t * C + c].
"use strict";

// --- What PyTorch provides: linear layers, layer norm, GELU, softmax ---------------------------

class Linear {
  // weight (outputs, inputs), bias (outputs) or undefined: (T, inputs) -> (T, outputs)
  constructor(weights, name, inputs) {
    this.weight = weights[`${name}.weight`];
    this.bias = weights[`${name}.bias`];
    this.inputs = inputs;
    this.outputs = this.weight.length / inputs;
  }

  forward(x, T) {
    const { weight, bias, inputs, outputs } = this;
    const y = new Float32Array(T * outputs);
    let t = 0;
    for (; t + 4 <= T; t += 4) multiply_four(weight, outputs, inputs, x, t, y);
    for (; t < T; t++) multiply(weight, 0, inputs, outputs, inputs, x, t * inputs, y, t * outputs);
    if (bias) for (let i = 0; i < y.length; i++) y[i] += bias[i % outputs];
    return y; // (T, outputs)
  }
}

function multiply(matrix, start, stride, rows, columns, x, from, y, to) {
  // y = matrix x: the dot products of the rows of a matrix with the vector at x[from]. The first
  // row begins at matrix[start], each other one `stride` numbers after the one before. Eight rows
  // at a time: each number of x is loaded once for all eight, and the processor adds to one sum
  // while the others wait for their last addition. Nearly all of the network's time is spent here
  // and in multiply_four. Sums are float64, JavaScript's only kind of number.
  let row = 0;
  for (; row + 8 <= rows; row += 8) {
    const r0 = start + row * stride, r1 = r0 + stride, r2 = r1 + stride, r3 = r2 + stride;
    const r4 = r3 + stride, r5 = r4 + stride, r6 = r5 + stride, r7 = r6 + stride;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (let i = 0; i < columns; i++) {
      const number = x[from + i];
      s0 += matrix[r0 + i] * number;
      s1 += matrix[r1 + i] * number;
      s2 += matrix[r2 + i] * number;
      s3 += matrix[r3 + i] * number;
      s4 += matrix[r4 + i] * number;
      s5 += matrix[r5 + i] * number;
      s6 += matrix[r6 + i] * number;
      s7 += matrix[r7 + i] * number;
    }
    y[to + row] = s0;
    y[to + row + 1] = s1;
    y[to + row + 2] = s2;
    y[to + row + 3] = s3;
    y[to + row + 4] = s4;
    y[to + row + 5] = s5;
    y[to + row + 6] = s6;
    y[to + row + 7] = s7;
  }
  for (; row < rows; row++) {
    let sum = 0;
    for (let i = 0; i < columns; i++) sum += matrix[start + row * stride + i] * x[from + i];
    y[to + row] = sum;
  }
}

function multiply_four(matrix, rows, columns, x, t, y) {
  // The same for the four characters from t on, two rows at a time: each weight is loaded once for
  // all four. The sums are the same to the last bit, since they are taken in the same order.
  const x0 = t * columns, x1 = x0 + columns, x2 = x1 + columns, x3 = x2 + columns;
  const y0 = t * rows, y1 = y0 + rows, y2 = y1 + rows, y3 = y2 + rows;
  let row = 0;
  for (; row + 2 <= rows; row += 2) {
    const a = row * columns, b = a + columns;
    let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
    for (let i = 0; i < columns; i++) {
      const in_a = matrix[a + i], in_b = matrix[b + i];
      const n0 = x[x0 + i], n1 = x[x1 + i], n2 = x[x2 + i], n3 = x[x3 + i];
      a0 += in_a * n0;
      a1 += in_a * n1;
      a2 += in_a * n2;
      a3 += in_a * n3;
      b0 += in_b * n0;
      b1 += in_b * n1;
      b2 += in_b * n2;
      b3 += in_b * n3;
    }
    y[y0 + row] = a0;
    y[y1 + row] = a1;
    y[y2 + row] = a2;
    y[y3 + row] = a3;
    y[y0 + row + 1] = b0;
    y[y1 + row + 1] = b1;
    y[y2 + row + 1] = b2;
    y[y3 + row + 1] = b3;
  }
  if (row < rows) {
    for (let n = 0; n < 4; n++) {
      const from = x0 + n * columns, to = y0 + n * rows + row;
      multiply(matrix, row * columns, columns, 1, columns, x, from, y, to);
    }
  }
}

function layer_norm(x, from, size, y, to, weight, bias) {
  // `size` numbers at x[from], shifted and scaled to mean 0 and variance 1, into y[to]; then times
  // `weight` plus `bias`, where there are any.
  let mean = 0, variance = 0;
  for (let i = 0; i < size; i++) mean += x[from + i] / size;
  for (let i = 0; i < size; i++) variance += (x[from + i] - mean) ** 2 / size;
  const scale = 1 / Math.sqrt(variance + 1e-5); // PyTorch's: no division by 0
  for (let i = 0; i < size; i++) {
    y[to + i] = (x[from + i] - mean) * scale * (weight ? weight[i] : 1) + (bias ? bias[i] : 0);
  }
}

class LayerNorm {
  constructor(weights, name) {
    this.weight = weights[`${name}.weight`];
    this.bias = weights[`${name}.bias`];
  }

  forward(x, T) {
    const C = this.weight.length;
    const y = new Float32Array(T * C);
    for (let t = 0; t < T; t++) layer_norm(x, t * C, C, y, t * C, this.weight, this.bias);
    return y; // (T, C)
  }
}

function erf(x) {
  // The error function, to 1.5e-7: as exact as float32 is near 1.
  // Source: Abramowitz and Stegun 1964, formula 7.1.26.
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const a = [0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429];
  const sum = t * (a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * a[4]))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

function gelu(x) {
  for (let i = 0; i < x.length; i++) x[i] = (x[i] * (1 + erf(x[i] * Math.SQRT1_2))) / 2;
  return x;
}

function softmax(x, from, size) {
  // In place: exponentials, divided by their sum. Without the largest, they could overflow.
  let largest = -Infinity, sum = 0;
  for (let i = from; i < from + size; i++) largest = Math.max(largest, x[i]);
  for (let i = from; i < from + size; i++) sum += x[i] = Math.exp(x[i] - largest);
  for (let i = from; i < from + size; i++) x[i] /= sum;
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

// --- Positions: attention by itself does not know in which order the characters stand ----------

const INIT_STD = 0.02;
const WAVELENGTH_BASE = 10000;

function position_angles(length, pairs) {
  // The angle of each position for each pair of numbers: (length, pairs), in radians.
  const angles = new Float32Array(length * pairs);
  for (let pair = 0; pair < pairs; pair++) {
    // Rounded to float32 as in PyTorch: an angle of many radians shows such differences.
    const speed = Math.fround(WAVELENGTH_BASE ** -Math.fround(pair / pairs));
    for (let t = 0; t < length; t++) angles[t * pairs + pair] = t * speed;
  }
  return angles;
}

function rotary_tables(length, head_size) {
  // The cosines and the sines of the angles, each (length, head_size / 2).
  const angles = position_angles(length, head_size / 2);
  return { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
}

function rotate(x, from, head_size, position, { cos, sin }) {
  // Rotate each pair of the head_size numbers at x[from] by the angle of their position, in place:
  // (a, b) becomes (a cos - b sin, b cos + a sin).
  const pairs = head_size / 2;
  for (let i = 0; i < pairs; i++) {
    const a = x[from + i], b = x[from + pairs + i];
    const c = cos[position * pairs + i], s = sin[position * pairs + i];
    x[from + i] = a * c - b * s;
    x[from + pairs + i] = b * c + a * s;
  }
}

// --- Attention: each character gathers information from the characters before it ---------------

class KeyValueCache {
  // What one block has computed for the characters so far. A later character changes none of it,
  // so a new character costs one pass over itself. `length` may be set lower: to go back.
  constructor({ block_size, n_embd, n_head, token_shift }) {
    this.length = 0;
    this.block_size = block_size;
    this.n_head = n_head;
    this.head_size = n_embd / n_head;
    this.keys = new Float32Array(block_size * n_embd); // (n_head, block_size, head_size)
    this.values = new Float32Array(block_size * n_embd); // (n_head, head_size, block_size)
    this.weights = []; // of each character: its attention weights, (n_head, those it sees)
    // For token_shift: what attention and feed-forward have read, 2 x (block_size, C).
    this.read = token_shift ? [0, 1].map(() => new Float32Array(block_size * n_embd)) : [];
  }

  extend(qkv, T) {
    // Append the keys and values in qkv (T, 3, n_head, head_size).
    const { n_head, head_size, block_size } = this;
    const C = n_head * head_size;
    for (let t = 0; t < T; t++) {
      for (let head = 0; head < n_head; head++) {
        const position = this.length + t, first = head * block_size * head_size;
        const key = t * 3 * C + C + head * head_size, value = key + C;
        for (let i = 0; i < head_size; i++) {
          this.keys[first + position * head_size + i] = qkv[key + i];
          this.values[first + i * block_size + position] = qkv[value + i]; // transposed
        }
      }
    }
    this.length += T;
  }
}

class CausalSelfAttention {
  // Each character takes a weighted mean of the values of itself and all characters before it; the
  // weights say how well its query matches their keys: (T, C) -> (T, C).
  constructor(config, weights, name) {
    this.config = config;
    this.query_key_value = new Linear(weights, `${name}.query_key_value`, config.n_embd);
    this.projection = new Linear(weights, `${name}.projection`, config.n_embd);
  }

  forward(x, T, rotary, cache) {
    const { n_head, n_embd: C, qk_norm } = this.config;
    const head_size = C / n_head;
    const start = cache.length;
    const qkv = this.query_key_value.forward(x, T); // (T, C) -> (T, 3, n_head, head_size)
    for (let t = 0; t < T; t++) {
      for (let head = 0; head < 2 * n_head; head++) { // of the queries, then of the keys
        const from = t * 3 * C + head * head_size;
        if (qk_norm) layer_norm(qkv, from, head_size, qkv, from);
        if (rotary) rotate(qkv, from, head_size, start + t, rotary);
      }
    }
    cache.extend(qkv, T);
    const y = this.attend_written_out(qkv, T, cache, start); // (T, C)
    return this.projection.forward(y, T); // (T, C)
  }

  attend_written_out(qkv, T, cache, start) {
    // softmax(q k^T / sqrt(head_size)) v, where no query sees a later key: the character at
    // position start + t sees `seen` = start + t + 1 of them.
    const { n_head, n_embd: C } = this.config;
    const { keys, values, block_size, head_size } = cache;
    const y = new Float32Array(T * C);
    for (let t = 0; t < T; t++) {
      const seen = start + t + 1;
      const weights = new Float32Array(n_head * seen);
      for (let head = 0; head < n_head; head++) {
        const first = head * block_size * head_size; // of this head's keys and values
        const query = t * 3 * C + head * head_size, row = head * seen;
        multiply(keys, first, head_size, seen, head_size, qkv, query, weights, row); // the scores
        for (let s = row; s < row + seen; s++) weights[s] /= Math.sqrt(head_size);
        softmax(weights, row, seen);
        const mean = t * C + head * head_size;
        multiply(values, first, block_size, head_size, seen, weights, row, y, mean);
      }
      cache.weights[start + t] = weights; // what the page shows
    }
    return y;
  }
}

// --- Token shift: each character also sees the previous one ------------------------------------

function shift(x, T, C, earlier, start) {
  // Replace half of each character's numbers by those of the character before it, in place.
  // x: (T, C). earlier: (block_size, C), the same numbers of all characters, x among them, which
  // begins at position `start`. Before the first character there are zeros.
  const half = Math.floor(C / 2);
  for (let t = 0; t < T; t++) {
    const before = (start + t - 1) * C;
    if (before < 0) x.fill(0, 0, half);
    else x.set(earlier.subarray(before, before + half), t * C);
  }
}

// --- The feed-forward network and the block ----------------------------------------------------

class FeedForward {
  // Each character processes what it has gathered, by itself: (T, C) -> (T, C).
  constructor(config, weights, name) {
    this.expand = new Linear(weights, `${name}.expand`, config.n_embd);
    this.projection = new Linear(weights, `${name}.projection`, 4 * config.n_embd);
  }

  forward(x, T) {
    x = gelu(this.expand.forward(x, T)); // (T, C) -> (T, 4C)
    return this.projection.forward(x, T); // (T, 4C) -> (T, C)
  }
}

class Block {
  // Attention, then feed-forward. Both add their result to x, the residual stream: (T, C).
  constructor(config, weights, name) {
    this.token_shift = config.token_shift;
    this.attention_norm = new LayerNorm(weights, `${name}.attention_norm`);
    this.attention = new CausalSelfAttention(config, weights, `${name}.attention`);
    this.feed_forward_norm = new LayerNorm(weights, `${name}.feed_forward_norm`);
    this.feed_forward = new FeedForward(config, weights, `${name}.feed_forward`);
  }

  forward(x, T, rotary, cache) {
    const start = cache.length, [first, second] = cache.read;
    const read = this.read(x, T, this.attention_norm, first, start);
    add(x, this.attention.forward(read, T, rotary, cache));
    const read_again = this.read(x, T, this.feed_forward_norm, second, start);
    add(x, this.feed_forward.forward(read_again, T)); // (T, C)
  }

  read(x, T, norm, earlier, start) {
    // What a part of the block reads of the residual stream x: (T, C) -> (T, C).
    const C = norm.weight.length;
    x = norm.forward(x, T);
    if (!this.token_shift) return x;
    earlier.set(x, start * C);
    shift(x, T, C, earlier, start);
    return x;
  }
}

// --- The network ------------------------------------------------------------------------------

function embed(table, idx, C) {
  // The rows of table (V, C) that idx names: (T) -> (T, C)
  const x = new Float32Array(idx.length * C);
  idx.forEach((id, t) => x.set(table.subarray(id * C, (id + 1) * C), t * C));
  return x;
}

class GPT {
  // From characters to the logits of the next character, at every position at once.
  constructor(config, weights) {
    const { block_size, n_embd, n_head, n_layer, position } = config;
    this.config = config;
    this.token_embedding = weights["token_embedding.weight"]; // (V, C)
    if (position === "learned") {
      this.position_table = weights["position_embedding.weight"]; // (block_size, C)
    } else if (position === "sinusoidal") {
      const pairs = n_embd / 2, angles = position_angles(block_size, pairs);
      this.position_table = new Float32Array(block_size * n_embd);
      angles.forEach((angle, i) => {
        const at = Math.floor(i / pairs) * n_embd + (i % pairs), size = INIT_STD * Math.SQRT2;
        this.position_table[at] = size * Math.sin(angle);
        this.position_table[at + pairs] = size * Math.cos(angle);
      });
    } else if (position === "rotary") {
      this.rotary = rotary_tables(block_size, n_embd / n_head);
    }
    const layers = Array.from({ length: n_layer }, (_, layer) => layer);
    this.blocks = layers.map((layer) => new Block(config, weights, `blocks.${layer}`));
    this.norm = new LayerNorm(weights, "norm");
    const tied = { "lm_head.weight": this.token_embedding }; // one matrix for both
    this.lm_head = new Linear(tied, "lm_head", n_embd);
  }

  forward(idx, caches = this.new_caches(), first = 0) {
    // The logits of the next character after each of idx from its entry `first` on:
    // (T) -> (T - first, V). idx continues what the caches hold.
    const C = this.config.n_embd, T = idx.length, start = caches[0].length;
    const x = embed(this.token_embedding, idx, C); // (T) -> (T, C)
    if (this.position_table) add(x, this.position_table.subarray(start * C)); // (T, C)
    this.blocks.forEach((block, layer) => block.forward(x, T, this.rotary, caches[layer]));
    const last = x.subarray(first * C); // (T, C) -> (T - first, C)
    return this.lm_head.forward(this.norm.forward(last, T - first), T - first); // -> (T - first, V)
  }

  new_caches() {
    return this.blocks.map(() => new KeyValueCache(this.config));
  }
}

// --- Its two ancestors, as in ancestors.py ----------------------------------------------------

class Bigram {
  // The next character depends on the present one alone: a table of V x V logits.
  constructor(config, weights) {
    this.config = config;
    this.table = weights["table.weight"]; // (V, V)
  }

  forward(idx, caches = [], first = 0) {
    return embed(this.table, idx.slice(first), this.config.vocab_size); // (T) -> (T - first, V)
  }

  new_caches() {
    return [];
  }
}

class MLP {
  // The embeddings of the last block_size characters, side by side, through one tanh layer.
  constructor(config, weights) {
    this.config = config;
    this.token_embedding = weights["token_embedding.weight"]; // (V, C)
    this.hidden = new Linear(weights, "hidden", config.block_size * config.n_embd);
    this.lm_head = new Linear(weights, "lm_head", config.n_hidden);
  }

  forward(idx, caches = [], first = 0) {
    const { block_size, n_embd: C } = this.config;
    const T = idx.length - first;
    const padded = new Float32Array((block_size - 1 + idx.length) * C); // zeros come first
    padded.set(embed(this.token_embedding, idx, C), (block_size - 1) * C);
    const x = new Float32Array(T * block_size * C); // each character and those before it
    for (let t = 0; t < T; t++) {
      const from = (first + t) * C;
      x.set(padded.subarray(from, from + block_size * C), t * block_size * C);
    }
    const hidden = this.hidden.forward(x, T).map(Math.tanh); // -> (T, n_hidden)
    return this.lm_head.forward(hidden, T); // (T, n_hidden) -> (T, V)
  }

  new_caches() {
    return [];
  }
}

const NETWORKS = { bigram: Bigram, mlp: MLP, gpt: GPT };

function build(config, weights) {
  return new NETWORKS[config.network](config, weights);
}

// --- Generation: from logits to text ----------------------------------------------------------

function likeliest_first(logits) {
  return Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
}

function next_probabilities(logits, temperature = 1, top_k = null, top_p = null) {
  // The distribution from which the next character is drawn: (V) -> (V), which sums to 1. A lower
  // temperature makes likely characters likelier; top_k keeps the k likeliest; top_p then keeps the
  // likeliest whose probabilities first sum to p or more.
  const probabilities = Float64Array.from(logits);
  if (temperature < 1e-4) {
    const likeliest = logits.indexOf(Math.max(...logits));
    return probabilities.map((_, id) => (id === likeliest ? 1 : 0));
  }
  for (let id = 0; id < logits.length; id++) probabilities[id] /= temperature;
  softmax(probabilities, 0, logits.length);
  if (top_k === null && top_p === null) return probabilities;
  let kept = likeliest_first(logits);
  const total = () => kept.reduce((sum, id) => sum + probabilities[id], 0);
  if (top_k !== null) kept = kept.slice(0, top_k);
  if (top_p !== null) {
    const all = total();
    let sum = 0;
    kept = kept.filter((id, rank) => {
      const before = sum;
      sum += probabilities[id] / all;
      return rank === 0 || before < top_p;
    });
  }
  const all = total(), result = new Float64Array(logits.length);
  for (const id of kept) result[id] = probabilities[id] / all;
  return result;
}

function uniform(seed, position) {
  // A number in [0, 1) that follows from the seed and a character's position alone, so that the
  // same seed writes the same text, also after going back.
  // Source: the last step of Appleby's MurmurHash3, which lets each bit change all others.
  let bits = Math.imul(seed, 0x9e3779b1) ^ Math.imul(position + 1, 0x85ebca6b);
  for (const factor of [0x85ebca6b, 0xc2b2ae35, 0x85ebca6b]) {
    bits = Math.imul(bits ^ (bits >>> 15), factor);
  }
  return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32;
}

function draw(probabilities, number) {
  // The id at which the probabilities, added up, exceed a number in [0, 1).
  let sum = 0, last = 0;
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] === 0) continue;
    sum += probabilities[id];
    last = id;
    if (number < sum) return id;
  }
  return last; // the sum was rounded to a little less than 1
}

const MOST_AT_ONCE = 32; // characters in one pass: after it, the worker hears a Stop

function window_start(prompt_length, length, block_size) {
  // Where the window begins in which the last of `length` characters is read: at first it holds the
  // prompt, or its last block_size characters. When it is full, the newest block_size // 2 begin
  // the next one.
  let start = Math.max(0, prompt_length - block_size);
  const newest = Math.max(1, Math.floor(block_size / 2));
  while (length - start > block_size) start += block_size + 1 - newest;
  return start;
}

class Stream {
  // model.py's stream(), which can also go back: a text, and the network that continues it.
  constructor(network) {
    this.network = network;
    this.ids = [];
    this.prompt_length = 0;
    this.start = 0; // of the window
    this.caches = network.new_caches();
    this.known = 0; // for how many characters of the text the logits have been computed
    this.logits = null; // (V), those after the last of them
  }

  set_text(ids, prompt_length, wanted = Infinity) {
    // Another text, at least one character. What it shares with the present one is kept; but from
    // the character `wanted` on, all is read again.
    const most = Math.min(ids.length - 1, wanted);
    let same = 0;
    while (same < most && ids[same] === this.ids[same]) same++;
    this.ids = [...ids];
    this.prompt_length = prompt_length;
    this.known = Math.min(this.known, same);
    const kept = Math.max(0, same - this.start);
    for (const cache of this.caches) cache.length = Math.min(cache.length, kept);
  }

  *read() {
    // Read what is unread. Yields after each pass [{index, id, logits (V), attention, start}] of
    // those characters that were read for the first time. attention: of each layer, (n_head, those
    // that the character sees, from `start` on).
    const { network, ids } = this;
    const { block_size } = network.config;
    if (!this.caches.length) { // no cache: the whole window again
      const from = Math.max(0, ids.length - block_size);
      const first = Math.max(this.known, from);
      yield this.records(network.forward(ids.slice(from), [], first - from), first);
      return;
    }
    const start = window_start(this.prompt_length, ids.length, block_size);
    if (start !== this.start) this.caches = network.new_caches();
    this.start = start;
    while (start + this.caches[0].length < ids.length) {
      const from = start + this.caches[0].length;
      const unread = ids.slice(from, from + MOST_AT_ONCE);
      yield this.records(network.forward(unread, this.caches), from);
    }
  }

  records(logits, from) {
    const V = this.network.config.vocab_size, records = [];
    for (let row = 0; row < logits.length / V; row++) {
      const index = from + row;
      this.logits = logits.slice(row * V, (row + 1) * V);
      if (index < this.known) continue; // read again, in a new window
      const attention = this.caches.map((cache) => cache.weights[index - this.start]);
      const id = this.ids[index];
      records.push({ index, id, logits: this.logits, attention, start: this.start });
    }
    this.known = Math.max(this.known, from + logits.length / V);
    return records;
  }

  draw({ temperature, top_k, top_p, seed }) {
    // Append the next character; returns its id.
    const probabilities = next_probabilities(this.logits, temperature, top_k, top_p);
    const id = draw(probabilities, uniform(seed, this.ids.length));
    this.ids.push(id);
    return id;
  }
}

// --- The weights: base64 -> float16 -> float32 -------------------------------------------------

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const CHARACTERS_AT_ONCE = 1 << 18; // of base64, a multiple of 16: after them, progress is shown

function float16_table() {
  // The value of each of the 65,536 float16 numbers: 1 bit of sign, 5 of exponent, 10 of fraction.
  return Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24; // close to 0, evenly spaced
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

function* unpack(text, tensors) {
  // {name: Float32Array} from base64, as a generator that yields the fraction done so far. tensors:
  // [[name, shape]] in their order in the text.
  const values = float16_table();
  const sextets = new Uint8Array(128);
  for (let i = 0; i < 64; i++) sextets[ALPHABET.charCodeAt(i)] = i;
  const sizes = tensors.map(([, shape]) => shape.reduce((a, b) => a * b, 1));
  const numbers = new Float32Array(sizes.reduce((a, b) => a + b, 0));
  const bytes = new Uint8Array((CHARACTERS_AT_ONCE / 4) * 3);
  let done = 0; // numbers
  for (let from = 0; from < text.length; from += CHARACTERS_AT_ONCE) {
    const to = Math.min(text.length, from + CHARACTERS_AT_ONCE);
    let byte = 0;
    for (let i = from; i < to; i += 4) { // 4 characters of 6 bits are 3 bytes; "=" fills the last
      const a = sextets[text.charCodeAt(i)], b = sextets[text.charCodeAt(i + 1)];
      const c = sextets[text.charCodeAt(i + 2)], d = sextets[text.charCodeAt(i + 3)];
      bytes[byte++] = (a << 2) | (b >> 4);
      bytes[byte++] = (b << 4) | (c >> 2);
      bytes[byte++] = (c << 6) | d;
    }
    const count = Math.min(byte >> 1, numbers.length - done);
    for (let i = 0; i < 2 * count; i += 2) numbers[done++] = values[bytes[i] | (bytes[i + 1] << 8)];
    yield to / text.length;
  }
  const weights = {};
  let start = 0;
  tensors.forEach(([name], i) => {
    weights[name] = numbers.subarray(start, start + sizes[i]);
    start += sizes[i];
  });
  return weights;
}

// --- The worker: runs the network beside the page, which stays free to draw --------------------

// What the page sends:
//   load {config, tensors, text}                       once
//   text {ids, prompt_length, wanted, version}         another text, see Stream.set_text; numbered
//   settings {settings}                                how to draw from now on
//   write {count}, stop {}
// What the worker sends:
//   progress {fraction}, loaded {}                     of the weights
//   records {records, version}                         what was read, see Stream.read
//   done {count, seconds}                              once for each write

const BETWEEN_REPORTS = 8; // milliseconds: two of them in a frame of the screen

function start_worker() {
  let stream, settings, version;
  let turn = 0; // raised by each new task, which ends the one before
  let stopped = false;
  let unsent = [], last_report = 0;

  // Lets messages arrive. Unlike a time-out, a message to oneself is not delayed by 4 ms.
  const { port1, port2 } = new MessageChannel();
  const resumed = [];
  port1.onmessage = () => resumed.shift()();
  const pause = () => new Promise((resolve) => {
    resumed.push(resolve);
    port2.postMessage(null);
  });

  function report() {
    postMessage({ kind: "records", records: unsent, version });
    unsent = [];
    last_report = performance.now();
  }

  async function read(mine) {
    for (const records of stream.read()) {
      unsent.push(...records);
      if (performance.now() - last_report < BETWEEN_REPORTS) continue;
      report();
      await pause();
      if (turn !== mine) return;
    }
  }

  const tasks = {
    load({ config, tensors, text }) {
      const steps = unpack(text, tensors);
      let step = steps.next();
      for (; !step.done; step = steps.next()) {
        postMessage({ kind: "progress", fraction: step.value });
      }
      stream = new Stream(build(config, step.value));
      postMessage({ kind: "loaded" });
    },

    async text(message) {
      const mine = ++turn;
      version = message.version;
      unsent = []; // of the text before
      stream.set_text(message.ids, message.prompt_length, message.wanted);
      await read(mine);
      if (turn === mine) report();
    },

    async write({ count }) {
      const mine = ++turn, began = performance.now();
      let written = 0;
      stopped = false;
      await read(mine);
      while (written < count && turn === mine && !stopped) {
        stream.draw(settings);
        written += 1;
        await read(mine);
      }
      if (turn === mine) report();
      postMessage({ kind: "done", count: written, seconds: (performance.now() - began) / 1000 });
    },

    settings: (message) => (settings = message.settings),
    stop: () => (stopped = true),
  };
  onmessage = (event) => tasks[event.data.kind](event.data);
}

// --- The page: what is shown, and of which text ------------------------------------------------

const PER_PRESS = 500; // characters that one press of Write adds
const AT_FIRST = 200; // characters that the page writes by itself when it is opened
const BARS = 12; // of the likeliest characters; the others get one together
const DARKEST = 5; // nats: the surprise of a probability of 0.7 %, shaded most
const MOST_IN_MAP = 48; // characters in a heat map: more would be less than a pixel each
const MOST_KEPT = 24e6; // attention weights that the page keeps, 4 bytes each; then the oldest go

function element(tag, attributes = {}, ...children) {
  // An element of the page. Text becomes text, never HTML.
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const by_id = (id) => document.getElementById(id);
const percent = (p) =>
  p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : `${(100 * p).toFixed(p < 0.001 ? 2 : 1)} %`;
const whole = (number) => number.toLocaleString("en-US");

function visible(character) {
  // A character as a label: a sign for a space or a line end, an escape for what has no shape or
  // would change the direction of the text around it; a circle under an accent without a letter.
  if (character === " ") return "␣";
  if (character === "\n") return "↵";
  if (/[\p{C}\p{Z}]/u.test(character)) {
    return `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`;
  }
  return /\p{M}/u.test(character) ? `◌${character}` : character;
}

class Page {
  // The state of the page, and the panels that show it. A character of the text is {id}, and, once
  // the network has read it, {id, logits (of the next), attention, start}, see Stream.read.

  constructor(data, worker) {
    this.data = data;
    this.worker = worker;
    this.ids = new Map(data.vocab.map((character, id) => [character, id]));
    this.text = [];
    this.prompt_length = 0;
    this.read_to = 0; // up to here, the network has read the text
    this.selected = null; // the index of a character; null: the newest; Infinity: the next one
    this.hovered = null;
    this.shading = "surprise";
    this.layer = this.head = 0;
    this.kept = 0; // attention weights, counted
    this.oldest = 0; // the first character that still has its attention weights
    this.total_loss = this.counted = 0; // of the characters up to `summed`
    this.summed = 0;
    this.version = 0; // of the text: what the worker still says of an older one is ignored
    this.pending = 0; // presses of Write that the worker has not done yet
    this.drawn_again = false; // whether the page will be drawn at the next frame
    this.text_view = new TextView(this);
    this.choice_view = new ChoiceView(this);
    this.surprise_view = new SurpriseView(this);
    this.attention_view = new AttentionView(this);
  }

  character(id) {
    return this.data.vocab[id];
  }

  // What happens in the text.

  settings() {
    const number = (id) =>
      by_id(id).value === "" || !by_id(id).validity.valid ? null : +by_id(id).value;
    return {
      temperature: +by_id("temperature").value,
      top_k: number("top_k"),
      top_p: number("top_p"),
      seed: number("seed") ?? 0,
    };
  }

  start_over() {
    // The text becomes the prompt, as far as the network knows its characters.
    const characters = Array.from(by_id("prompt").value);
    const unknown = [...new Set(characters.filter((one) => !this.ids.has(one)))];
    by_id("left_out").textContent = unknown.length
      ? `Left out, since this network has never seen them: ${unknown.map(visible).join(" ")}`
      : "";
    const known = characters.filter((one) => this.ids.has(one)).map((one) => this.ids.get(one));
    // As in sample.py: an empty prompt is a line end, as before a new speech.
    if (!known.length) known.push(this.ids.get("\n") ?? 0);
    let same = 0;
    while (same < this.text.length && same < known.length && this.text[same].id === known[same])
      same++;
    this.set_text(known, known.length, Math.min(same, known.length - 1));
    this.selected = null;
  }

  choose(index, id) {
    // The character at `index` becomes another one; the text ends there.
    const ids = this.text.slice(0, index).map((one) => one.id);
    this.set_text([...ids, id], Math.max(1, Math.min(this.prompt_length, index)), index);
    if (this.selected !== Infinity) this.selected = null;
  }

  set_text(ids, prompt_length, kept) {
    // Another text, whose first `kept` characters stay as they are.
    this.truncate(kept);
    for (const id of ids.slice(kept)) this.text.push({ id });
    this.prompt_length = prompt_length;
    this.hovered = null;
    let wanted = kept; // what the worker has sent may still be under way, and is then ignored
    while (wanted && !this.text[wanted - 1].logits) wanted--;
    this.worker.postMessage({ kind: "text", ids, prompt_length, wanted, version: ++this.version });
    this.draw_soon();
  }

  truncate(length) {
    this.text.length = Math.min(this.text.length, length);
    this.kept = 0;
    for (const one of this.text) this.kept += one.attention ? size_of(one.attention) : 0;
    this.oldest = Math.min(this.oldest, length);
    this.read_to = Math.min(this.read_to, length);
    this.summed = this.total_loss = this.counted = 0;
    this.text_view.truncate(length);
  }

  write(count) {
    this.selected = null;
    this.set_pending(this.pending + 1);
    this.worker.postMessage({ kind: "settings", settings: this.settings() });
    this.worker.postMessage({ kind: "write", count });
    by_id("status").textContent = count > 1 ? "Writing." : "";
  }

  stop() {
    this.worker.postMessage({ kind: "stop" });
  }

  set_pending(pending) {
    this.pending = pending;
    by_id("stop").setAttribute("aria-disabled", pending === 0); // "disabled" would lose the focus
  }

  // What comes from the worker.

  records({ records, version }) {
    if (version !== this.version) return;
    for (const { index, ...record } of records) {
      this.text[index] = record;
      this.read_to = index + 1;
      this.kept += size_of(record.attention);
    }
    const first = "first character"; // for the benchmark
    if (this.text.length > this.prompt_length && !performance.getEntriesByName(first).length) {
      performance.mark(first);
    }
    while (this.kept > MOST_KEPT && this.oldest < this.text.length - 1) {
      const one = this.text[this.oldest++];
      this.kept -= one.attention ? size_of(one.attention) : 0;
      delete one.attention;
    }
    this.draw_soon();
  }

  done({ count, seconds }) {
    this.set_pending(this.pending - 1);
    const rate = `${whole(Math.round(count / seconds))} characters per second`;
    by_id("status").textContent = count > 1 ? `Wrote ${count} characters, ${rate}.` : "";
    document.body.dataset.rate = count / seconds; // for the benchmark
    this.draw_soon();
  }

  // What the panels ask for.

  newest() {
    return this.text.length > this.prompt_length ? this.text.length - 1 : this.text.length;
  }

  chosen_index() {
    // The character whose choice is shown; text.length is the one that comes next.
    return Math.min(this.selected ?? this.newest(), this.text.length);
  }

  pointed_index() {
    // The character that the reader points at: hovered, else selected, else the newest.
    return Math.min(this.hovered ?? this.selected ?? Infinity, this.text.length - 1);
  }

  surprise(index) {
    // -log of the probability that the character at `index` had, in nats; null if it had none.
    const logits = this.text[index - 1]?.logits;
    if (!logits) return null;
    this.text[index].surprise ??= -Math.log(next_probabilities(logits)[this.text[index].id]);
    return this.text[index].surprise;
  }

  mean_loss() {
    for (; this.summed < this.read_to; this.summed++) {
      const surprise = this.surprise(this.summed);
      if (surprise === null) continue;
      this.total_loss += surprise;
      this.counted += 1;
    }
    return this.counted ? this.total_loss / this.counted : null;
  }

  select(index) {
    this.selected = index >= this.text.length ? Infinity : Math.max(0, index);
    this.draw_soon();
  }

  draw_soon() {
    if (this.drawn_again) return;
    this.drawn_again = true;
    requestAnimationFrame(() => {
      this.drawn_again = false;
      for (const view of [
        this.text_view,
        this.choice_view,
        this.surprise_view,
        this.attention_view,
      ]) {
        view.draw();
      }
    });
  }
}

function size_of(attention) {
  return attention.reduce((sum, weights) => sum + weights.length, 0);
}

// --- The text ---------------------------------------------------------------------------------

class TextView {
  constructor(page) {
    this.page = page;
    this.box = by_id("text");
    this.spans = [];
    this.lit = new Set(); // spans that attention lights
    this.caret = element("span", { class: "character caret", role: "option" }, "▏");
    this.caret.setAttribute("aria-label", "the next character, not drawn yet");
    this.caret_line = element("div", { class: "line", role: "presentation" }); // for it alone
    this.marked = null;
    this.truncate(0);
    const index_of = (event) => {
      if (event.target === this.caret) return this.spans.length;
      return event.target.classList?.contains("character") ? this.spans.indexOf(event.target) : -1;
    };
    const point = (index) => {
      page.hovered = index >= 0 && index < this.spans.length ? index : null;
      page.draw_soon();
    };
    this.box.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") point(index_of(event));
    });
    this.box.addEventListener("pointerleave", () => point(-1));
    this.box.addEventListener("click", (event) => {
      const index = index_of(event);
      if (index >= 0) page.select(index);
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
    for (const radio of document.querySelectorAll("[name=shading]")) {
      radio.addEventListener("change", () => this.shade_by(radio.value));
    }
  }

  key(event) {
    const { page } = this;
    const at = page.chosen_index();
    const to = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: this.in_line(at, -1),
      ArrowDown: this.in_line(at, 1),
      Home: 0,
      End: page.text.length,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    page.hovered = null;
    page.select(to);
    this.to_show = true;
  }

  in_line(index, step) {
    // The nearest character in the row of the screen above (-1) or below (1).
    const box = (this.spans[index] ?? this.caret).getBoundingClientRect();
    const x = box.left + box.width / 2,
      y = box.top + box.height / 2 + step * this.row_height();
    let best = index,
      least = Infinity;
    for (let i = index + step; i >= 0 && i < this.spans.length; i += step) {
      const other = this.spans[i].getBoundingClientRect();
      const away =
        Math.abs(other.top + other.height / 2 - y) * 100 +
        Math.abs(other.left + other.width / 2 - x);
      if (away < least) [best, least] = [i, away];
      if (Math.abs(other.top - box.top) > 3 * this.row_height()) break;
    }
    return best;
  }

  row_height() {
    return parseFloat(getComputedStyle(this.box).lineHeight);
  }

  shade_by(what) {
    this.page.shading = what;
    for (const radio of document.querySelectorAll("[name=shading]"))
      radio.checked = radio.value === what;
    for (const span of this.spans) span.style.removeProperty("--shade");
    this.lit.clear();
    this.shaded = 0;
    this.page.draw_soon();
  }

  truncate(length) {
    this.caret.remove();
    this.caret_line.remove();
    while (this.spans.length > length) this.spans.pop().remove();
    const lines = this.box.children;
    while (lines.length && !lines[lines.length - 1].hasChildNodes()) {
      lines[lines.length - 1].remove();
    }
    this.lit.clear();
    this.shaded = Math.min(this.shaded ?? 0, length);
    this.line = null;
  }

  append(index) {
    const { page } = this;
    const character = page.character(page.text[index].id);
    const shown = character === " " ? " " : visible(character);
    const span = element("span", { class: "character", role: "option" }, shown);
    if (shown !== character) span.classList.add("escape");
    if (index < page.prompt_length) span.classList.add("prompt");
    const before = index ? page.character(page.text[index - 1].id) : "\n";
    if (before === "\n")
      this.line = this.box.appendChild(
        element("div", { class: "line", dir: "auto", role: "presentation" }),
      );
    this.line ??= this.box.lastElementChild;
    this.line.append(span);
    this.spans.push(span);
  }

  draw() {
    const { page, box } = this;
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    this.caret.remove();
    const more = this.spans.length < page.text.length;
    while (this.spans.length < page.text.length) this.append(this.spans.length);
    this.caret_line.remove();
    const last = page.text[page.text.length - 1];
    if (!last || page.character(last.id) === "\n") box.append(this.caret_line);
    box.lastElementChild.append(this.caret);
    if (page.shading === "surprise") this.shade_surprise();
    else this.shade_attention();
    this.mark(page.chosen_index());
    if (more && follows && page.selected === null) box.scrollTop = box.scrollHeight;
    this.draw_readout();
  }

  mark(index) {
    // Show which character is selected.
    const span = this.spans[index] ?? this.caret;
    if (this.marked !== span) {
      this.marked?.classList.remove("selected");
      this.marked?.removeAttribute("id");
      this.marked?.removeAttribute("aria-selected");
      span.classList.add("selected");
      span.id = "selected_character";
      span.setAttribute("aria-selected", "true");
      this.box.setAttribute("aria-activedescendant", span.id);
      this.marked = span;
    }
    if (span !== this.caret) span.setAttribute("aria-label", this.describe(index));
    if (this.to_show) span.scrollIntoView({ block: "nearest" });
    this.to_show = false;
  }

  describe(index) {
    const { page } = this;
    const name = visible(page.character(page.text[index].id)),
      surprise = page.surprise(index);
    if (surprise === null) return `${name}, no probability`;
    return `${name}, probability ${percent(Math.exp(-surprise))}, surprise ${surprise.toFixed(2)} nats`;
  }

  draw_readout() {
    const { page } = this;
    const index = page.pointed_index(),
      readout = by_id("readout");
    readout.replaceChildren();
    if (index < 0) return;
    const name = element("bdi", {}, visible(page.character(page.text[index].id)));
    const surprise = page.surprise(index);
    if (page.shading === "attention") {
      const looks = page.attention_view.describe(index);
      readout.append(...looks);
    } else if (surprise === null) {
      readout.append(
        name,
        index
          ? " has not been predicted."
          : " is the first character: nothing comes before it, so it has no probability.",
      );
    } else {
      readout.append(
        name,
        ` had the probability ${percent(Math.exp(-surprise))}: a surprise of ${surprise.toFixed(2)} nats.`,
      );
    }
  }

  shade_surprise() {
    for (; this.shaded < this.page.read_to; this.shaded++) {
      const surprise = this.page.surprise(this.shaded);
      if (surprise === null) continue;
      this.spans[this.shaded].style.setProperty(
        "--shade",
        Math.min(1, surprise / DARKEST).toFixed(3),
      );
    }
  }

  shade_attention() {
    for (const span of this.lit) span.style.removeProperty("--shade");
    this.lit.clear();
    const weights = this.page.attention_view.weights(this.page.pointed_index());
    weights?.forEach(({ index, weight }) => {
      if (weight < 0.002) return;
      // The square root: else small weights could not be seen.
      this.spans[index].style.setProperty("--shade", Math.sqrt(weight).toFixed(3));
      this.lit.add(this.spans[index]);
    });
  }
}

// --- The choice -------------------------------------------------------------------------------

class ChoiceView {
  constructor(page) {
    this.page = page;
    this.bars = by_id("bars");
    const changed = () => {
      by_id("temperature_shown").textContent = (+by_id("temperature").value).toFixed(2);
      page.worker.postMessage({ kind: "settings", settings: page.settings() });
      page.draw_soon();
    };
    for (const id of ["temperature", "top_k", "top_p", "seed"])
      by_id(id).addEventListener("input", changed);
    changed();
    const count = Math.min(BARS, page.data.vocab.length);
    this.rows = Array.from({ length: count + 1 }, () => this.new_row("button"));
    this.rows.forEach((row) =>
      row.body.addEventListener("click", () => page.choose(page.chosen_index(), row.id)),
    );
    this.others = this.new_row("div");
    this.others.body.classList.add("others");
  }

  new_row(tag) {
    const name = element("bdi", { class: "name" }),
      bar = element("span", { class: "bar" });
    const number = element("span", { class: "percent" }),
      mark = element("span", { class: "mark" });
    const body = element(
      tag,
      {},
      name,
      element("span", { class: "track", "aria-hidden": "true" }, bar),
      number,
      mark,
    );
    const item = this.bars.appendChild(element("li", {}, body));
    return { item, body, name, bar, number, mark };
  }

  draw() {
    const { page } = this;
    const index = page.chosen_index();
    const before = page.text[index - 1],
      logits = before?.logits;
    const first = Math.max(0, index - 24);
    const context = page.text
      .slice(first, index)
      .map((one) => visible(page.character(one.id)))
      .join("");
    for (const row of [...this.rows, this.others]) row.item.hidden = !logits;
    if (!logits) {
      by_id("context").textContent = index
        ? ""
        : "Nothing comes before the first character, so nothing predicts it.";
      return;
    }
    const { temperature, top_k, top_p } = page.settings();
    const probabilities = next_probabilities(logits, temperature, top_k, top_p);
    before.order ??= likeliest_first(logits);
    const chosen = page.text[index]?.id;
    const shown = before.order.slice(0, this.rows.length - 1);
    const outside = chosen !== undefined && !shown.includes(chosen);
    this.rows.forEach((row, rank) => {
      row.id = rank < shown.length ? shown[rank] : chosen;
      row.item.hidden = rank === shown.length && !outside;
      if (row.item.hidden) return;
      const word = row.id !== chosen ? "" : index < page.prompt_length ? "prompt" : "drawn";
      this.fill(row, visible(page.character(row.id)), probabilities[row.id], word);
    });
    const rest =
      1 - this.rows.reduce((sum, row) => sum + (row.item.hidden ? 0 : probabilities[row.id]), 0);
    this.others.item.hidden = page.data.vocab.length <= shown.length;
    this.fill(this.others, "rest", Math.max(0, rest), "");
    const bits = entropy(probabilities);
    by_id("context").replaceChildren(
      "After ",
      element("bdi", { class: "mono" }, (first ? "…" : "") + context),
      `: an entropy of ${bits.toFixed(2)} bits, as uncertain as a choice among ${(2 ** bits).toFixed(1)} equally likely characters.`,
    );
  }

  fill(row, name, probability, word) {
    row.name.textContent = name;
    row.bar.style.transform = `scaleX(${probability})`;
    row.number.textContent = probability ? percent(probability) : "0";
    row.mark.textContent = word;
    row.body.classList.toggle("chosen", word !== "");
    row.body.classList.toggle("cut", probability === 0 && row !== this.others);
    if (row !== this.others) {
      row.body.setAttribute(
        "aria-label",
        `${name}, ${percent(probability)}${word ? `, ${word}` : ""}`,
      );
    }
  }
}

function entropy(probabilities) {
  // In bits: log2(n) for n equal probabilities.
  return probabilities.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
}

// --- The surprise -----------------------------------------------------------------------------

class SurpriseView {
  constructor(page) {
    this.page = page;
    const { val_loss } = page.data.run;
    by_id("val_loss").textContent = val_loss === null ? "not measured" : val_loss.toFixed(2);
    by_id("darkest").textContent = `${DARKEST} nats or more`;
    by_id("surprise_note").textContent =
      "The network is surprised less by its own text, above all at a low temperature, than by the " +
      "validation text. Paste a passage of a real text as the prompt, and compare.";
  }

  draw() {
    const { page } = this;
    const mean = page.mean_loss(),
      index = page.pointed_index();
    by_id("mean_loss").textContent = mean === null ? "–" : mean.toFixed(2);
    const surprise = index >= 0 ? page.surprise(index) : null;
    by_id("one_loss").textContent = surprise === null ? "–" : surprise.toFixed(2);
  }
}

// --- Attention --------------------------------------------------------------------------------

class AttentionView {
  constructor(page) {
    this.page = page;
    const { network, n_layer, n_head, block_size } = page.data.config;
    this.maps = [];
    const note = by_id("attention_note");
    if (network !== "gpt") {
      note.textContent =
        network === "bigram"
          ? "A bigram network has no attention: it sees one character only."
          : `This network, an MLP, has no attention: it sees the last ${block_size} characters, each with weights of its own.`;
      document.querySelector("[value=attention]").disabled = true;
      return;
    }
    note.prepend(
      "In each layer, each head lets a character look back at itself and at those before it, and " +
        "take from them by weight. In these squares a row is a character that looks, a column one that " +
        "it looks at; the last row is the character you point at. Choose a square, then point at a " +
        "character in the text: those that it looks at light up. ",
      element("span", { "data-code": "CausalSelfAttention" }),
    );
    const heads = by_id("heads");
    heads.style.setProperty("--heads", n_head);
    const top = element("div", { class: "layer top", "aria-hidden": "true" }, element("span"));
    for (let head = 0; head < n_head; head++)
      top.append(element("span", { class: "label" }, head + 1));
    heads.append(top);
    for (let layer = 0; layer < n_layer; layer++) {
      const row = heads.appendChild(element("div", { class: "layer" }));
      row.append(element("span", { class: "label", "aria-hidden": "true" }, layer + 1));
      for (let head = 0; head < n_head; head++) {
        const canvas = element("canvas", { width: MOST_IN_MAP, height: MOST_IN_MAP });
        const button = element(
          "button",
          { "aria-label": `layer ${layer + 1}, head ${head + 1}` },
          canvas,
        );
        button.addEventListener("click", () => {
          [page.layer, page.head] = [layer, head];
          page.text_view.shade_by("attention");
        });
        row.append(button);
        this.maps.push({ layer, head, button, context: canvas.getContext("2d") });
      }
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.draw_soon());
  }

  weights(index, layer = this.page.layer, head = this.page.head) {
    // [{index, weight}] of the characters that the one at `index` looks at; null if not kept.
    const { attention, start } = this.page.text[index] ?? {};
    if (!attention?.length) return null;
    const all = attention[layer],
      seen = all.length / this.page.data.config.n_head;
    const row = all.subarray(head * seen, (head + 1) * seen);
    return Array.from(row, (weight, i) => ({ index: start + i, weight }));
  }

  describe(index) {
    // A sentence, as parts for append(): what the character looks at most.
    const { page } = this;
    const name = (i) => element("bdi", {}, visible(page.character(page.text[i].id)));
    const weights = this.weights(index);
    if (!weights)
      return [
        name(index),
        " has no attention weights: it was not read, or too long ago for the page to keep them.",
      ];
    const most = weights.sort((a, b) => b.weight - a.weight).slice(0, 3);
    const parts = [
      `In layer ${page.layer + 1}, head ${page.head + 1}, `,
      name(index),
      " looks at ",
    ];
    most.forEach(({ index: other, weight }, i) => {
      if (i) parts.push(i === most.length - 1 ? " and " : ", ");
      const back = index - other;
      parts.push(name(other), ` ${back ? `${back} back` : "itself"} (${percent(weight)})`);
    });
    return [...parts, "."];
  }

  draw() {
    if (!this.maps.length) return;
    const { page } = this;
    const last = page.pointed_index();
    const color = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const first = Math.max(0, last - MOST_IN_MAP + 1);
    for (const { layer, head, button, context } of this.maps) {
      const image = context.createImageData(MOST_IN_MAP, MOST_IN_MAP);
      for (let index = first; index <= last; index++) {
        const { attention, start } = page.text[index];
        if (!attention) continue;
        const seen = attention[layer].length / page.data.config.n_head;
        const y = MOST_IN_MAP - 1 - last + index;
        for (let s = Math.max(start, first); s <= index; s++) {
          const weight = attention[layer][head * seen + s - start];
          const x = MOST_IN_MAP - 1 - last + s;
          const at = 4 * (y * MOST_IN_MAP + x);
          image.data[at] = red;
          image.data[at + 1] = green;
          image.data[at + 2] = blue;
          image.data[at + 3] = 255 * Math.sqrt(weight);
        }
      }
      context.putImageData(image, 0, 0);
      button.setAttribute("aria-pressed", layer === page.layer && head === page.head);
    }
    by_id("looks").hidden = page.shading === "attention"; // then it stands below the text
    by_id("looks").replaceChildren(...(last >= 0 ? this.describe(last) : []));
  }
}

// --- The parts --------------------------------------------------------------------------------

function ticks(low, high, count) {
  // Round numbers between low and high, about `count` of them.
  const rough = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++)
    found.push(+(i * step).toPrecision(12));
  return found;
}

function plot_width(id) {
  return Math.max(280, by_id(id).clientWidth); // in pixels, so that a phone's labels are not smaller
}

function show_loss({ log, run, config }) {
  const { step: steps, train_loss, val_loss } = log;
  if (steps.length < 2) {
    by_id("loss_note").textContent =
      "This run has been evaluated once at most, so there is no curve.";
    return;
  }
  by_id("loss_note").append(
    "The loss is the mean surprise per character, in nats. While the network learns, it falls: on the " +
      "text it is trained on, and on the validation text, which it never trains on. Where the two part, " +
      "the network memorizes. ",
    element("span", { "data-code": "with_loss" }),
  );
  const width = plot_width("loss"),
    height = 300,
    left = 40,
    bottom = 36,
    right = 84;
  const all = [...train_loss, ...val_loss];
  const low = Math.min(...all),
    high = Math.max(...all) + 1e-9;
  const last = steps[steps.length - 1];
  const x = (step) => left + ((width - left - right) * step) / last;
  const y = (loss) => 8 + ((height - bottom - 8) * (high - loss)) / (high - low);
  const best = val_loss.indexOf(Math.min(...val_loss));
  const title = `The validation loss falls from ${val_loss[0].toFixed(2)} to ${val_loss[best].toFixed(2)} at step ${whole(steps[best])}.`;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const loss of ticks(low, high, 5)) {
    plot.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(loss), y2: y(loss) }),
    );
    plot.append(svg("text", { x: left - 8, y: y(loss) + 4, "text-anchor": "end" }, loss));
  }
  for (const step of ticks(0, last, width / 110)) {
    plot.append(
      svg("text", { x: x(step), y: height - bottom + 20, "text-anchor": "middle" }, whole(step)),
    );
  }
  plot.append(
    svg("line", {
      class: "axis",
      x1: left,
      x2: width - right,
      y1: height - bottom,
      y2: height - bottom,
    }),
  );
  plot.append(
    svg(
      "text",
      { x: width - right, y: height - bottom + 20, "text-anchor": "start", dx: 24 },
      "step",
    ),
  );
  const path = (losses) =>
    losses
      .map((loss, i) => `${i ? "L" : "M"}${x(steps[i]).toFixed(1)} ${y(loss).toFixed(1)}`)
      .join("");
  plot.append(svg("path", { class: "training", d: path(train_loss) }));
  plot.append(svg("path", { class: "validation", d: path(val_loss) }));
  plot.append(svg("circle", { class: "best", cx: x(steps[best]), cy: y(val_loss[best]), r: 4 }));
  const end = [y(val_loss[val_loss.length - 1]), y(train_loss[train_loss.length - 1])];
  const apart =
    (Math.max(0, 16 - Math.abs(end[0] - end[1])) / 2) * Math.sign(end[0] - end[1] || -1);
  plot.append(
    svg("text", { class: "validation", x: width - right + 8, y: end[0] + 4 + apart }, "validation"),
  );
  plot.append(
    svg("text", { class: "training", x: width - right + 8, y: end[1] + 4 - apart }, "training"),
  );
  by_id("loss").append(plot, element("p", { class: "note" }, title));
}

function show_plane({ plane, vocab, config }) {
  const note = by_id("plane_note");
  if (!plane) {
    note.textContent = "A plane needs at least two characters and an n_embd of at least 2.";
    return;
  }
  const what =
    config.network === "bigram"
      ? "Each character is a row of the table of pairs. "
      : `Each character is a vector of ${config.n_embd} numbers, its embedding. `;
  const [first, second] = plane.fractions;
  note.append(
    what +
      "Here they lie in the plane in which they differ most. Nobody told the network what a vowel " +
      "is (set in bold), or a capital: characters that are used alike come to lie close together. ",
    element("span", {
      "data-code": { bigram: "Bigram", mlp: "MLP", gpt: "GPT" }[config.network],
      "data-says": "They belong to",
    }),
  );
  const width = plot_width("plane"),
    height = 400,
    margin = 16;
  const range = (axis) => {
    const values = plane.positions.map((position) => position[axis]);
    const low = values.reduce((a, b) => Math.min(a, b)),
      high = values.reduce((a, b) => Math.max(a, b));
    return { middle: (low + high) / 2, size: high - low || 1 };
  };
  const [across, down] = [range(0), range(1)];
  // The same scale on both axes: what looks near is near.
  const scale = Math.min((width - 2 * margin) / across.size, (height - 2 * margin) / down.size);
  const title = `The ${vocab.length} characters in the plane of their first two principal components.`;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  plane.positions.forEach(([a, b], id) => {
    const x = width / 2 + (a - across.middle) * scale,
      y = height / 2 - (b - down.middle) * scale;
    const vowel = plane.vowels.includes(id) ? " vowels" : "";
    plot.append(
      svg("text", { class: `glyph${vowel}`, x: x.toFixed(1), y: y.toFixed(1) }, visible(vocab[id])),
    );
  });
  by_id("plane").append(plot);
  by_id("plane").append(
    element(
      "p",
      { class: "note" },
      `The first component, from left to right, holds ${percent(first)} of the variance; the second, from below, ${percent(second)}.`,
    ),
  );
}

function show_parameters({ tensors, config }) {
  const counts = new Map();
  for (const [name, shape] of tensors) {
    const words = name.split(".");
    const part = words[0] === "blocks" ? `blocks: ${words[2]}` : words[0];
    counts.set(part, (counts.get(part) ?? 0) + shape.reduce((a, b) => a * b, 1));
  }
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  by_id("parameters_note").append(
    `The network is ${whole(total)} numbers, which the training has set. ` +
      {
        bigram: "All of them are in one table, a row for each character. ",
        mlp: "Most are in the hidden layer, which has weights of its own for each position. ",
        gpt:
          "Most are in the blocks: feed-forward has two thirds of theirs, attention one third. The " +
          "matrix at the end, lm_head, is the token embedding once more. ",
      }[config.network],
    element("span", {
      "data-code": { bigram: "Bigram", mlp: "MLP", gpt: "Block" }[config.network],
      "data-says": "They are those of",
    }),
  );
  for (const [part, count] of counts) {
    const bar = element("i");
    bar.style.width = percent(count / total).replace(" ", "");
    by_id("parameters").append(
      element(
        "tr",
        {},
        element("th", { scope: "row" }, part),
        element("td", {}, whole(count)),
        element("td", {}, percent(count / total)),
        element("td", { class: "amount", "aria-hidden": "true" }, bar),
      ),
    );
  }
  return total;
}

function show_recipe({ recipe, run }) {
  by_id("recipe_note").append(
    `With these settings the training made the network, in ${whole(run.step)} steps; those in color are ` +
      "not the defaults. Saved as a file, they are a recipe for train.py. ",
    element("span", { "data-code": "NetworkConfig", "data-says": "Those of the network are in" }),
  );
  for (const [name, value, meaning, changed] of recipe) {
    const setting = element("span", changed ? { class: "changed" } : {}, `${name} = ${value}`);
    by_id("recipe").append(setting, element("span", { class: "comment" }, `  # ${meaning}\n`));
  }
}

// --- The code ---------------------------------------------------------------------------------

// What is Python there and JavaScript here.
const TRANSLATED = {
  position_angles,
  rotary_tables,
  rotate,
  KeyValueCache,
  CausalSelfAttention,
  shift,
  FeedForward,
  Block,
  GPT,
  next_probabilities,
  stream: Stream,
  Bigram,
  MLP,
  with_loss: Page.prototype.surprise,
};

function show_code({ code, config }) {
  for (const [file, parts] of Object.entries(code)) {
    for (const [name, python] of Object.entries(parts)) {
      const pair = element(
        "div",
        { class: "pair" },
        element("pre", { tabindex: 0, "aria-label": `${name} in Python` }, python.trim()),
      );
      if (TRANSLATED[name]) {
        pair.classList.add("both");
        pair.append(
          element(
            "pre",
            { tabindex: 0, "aria-label": `${name} in JavaScript` },
            String(TRANSLATED[name]),
          ),
        );
      }
      by_id("code").append(
        element(
          "details",
          { id: `code-${name}` },
          element("summary", {}, `${file}: ${name}`),
          pair,
        ),
      );
    }
  }
  for (const place of document.querySelectorAll("[data-code]")) {
    const name = place.dataset.code;
    const file = Object.keys(code).find((one) => name in code[one]);
    const link = element("a", { href: `#code-${name}` }, name);
    link.addEventListener("click", () => (by_id(`code-${name}`).open = true));
    place.append(`${place.dataset.says ?? "Computed by"} `, link, ` in ${file}.`);
  }
}

// --- Start ------------------------------------------------------------------------------------

function start_page() {
  const data = JSON.parse(by_id("data").textContent);
  const program = new Blob([by_id("program").textContent], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(program));
  const page = new Page(data, worker);
  const { config, run } = data;
  const count = show_parameters(data);
  const kind = { bigram: "bigram network", mlp: "MLP", gpt: "Transformer" }[config.network];
  by_id("about").textContent =
    `A ${kind} of ${whole(count)} parameters, trained for ${whole(run.step)} steps on ` +
    `${Array.from(run.source, visible_in_text).join("")}. It runs in this page, on your machine: nothing is sent anywhere.`;
  show_loss(data);
  show_plane(data);
  show_recipe(data);
  show_code(data);

  const reports = {
    progress: ({ fraction }) => (by_id("unpacking").value = fraction),
    loaded: () => {
      by_id("loading").hidden = true;
      for (const id of ["write", "one", "again"]) by_id(id).disabled = false;
      page.start_over();
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) page.write(AT_FIRST);
    },
    records: (message) => page.records(message),
    done: (message) => page.done(message),
  };
  worker.onmessage = (event) => reports[event.data.kind](event.data);
  worker.postMessage({
    kind: "load",
    config,
    tensors: data.tensors,
    text: by_id("weights").textContent,
  });

  by_id("prompt").addEventListener("input", () => page.start_over());
  by_id("write").addEventListener("click", () => page.write(PER_PRESS));
  by_id("one").addEventListener("click", () => page.write(1));
  by_id("stop").addEventListener("click", () => page.stop());
  by_id("again").addEventListener("click", () => page.start_over());
}

function visible_in_text(character) {
  return character === " " ? " " : visible(character);
}

if (typeof document !== "undefined") addEventListener("DOMContentLoaded", start_page);
else if (typeof importScripts !== "undefined") start_worker();
