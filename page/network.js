// The network of the page, and what runs it: model.py and ancestors.py in JavaScript.
//
// It goes from the smallest part to the whole, like model.py, whose names it keeps: PyTorch's
// layers, positions, attention, feed-forward, block, GPT, the two ancestors, generation. At the end
// are the unpacking of the weights and the worker, in which the browser runs all this.
//
// The letters in the shapes are model.py's, without B, which is 1 here: T characters in a sequence,
// C the embedding dimension (n_embd), V characters in the vocabulary. An array is flat: entry
// (t, c) of an array (T, C) is x[t * C + c].
"use strict";

// --- What PyTorch provides: linear layers, layer norm, GELU, softmax ---------------------------

class Linear {
  // weight (outputs, inputs), bias (outputs) or undefined: (T, inputs) -> (T, outputs)
  constructor(weights, name, inputs) {
    this.weight = weights[`${name}.weight`];
    this.bias = weights[`${name}.bias`];
    this.memory = memory; // that of the weights
    this.inputs = inputs;
    this.outputs = this.weight.length / inputs;
  }

  forward(x, T) {
    const { weight, bias, inputs, outputs } = this;
    const y = new Float32Array(T * outputs);
    for (let t = 0; t < T; t++) {
      this.memory.multiply(weight, outputs, inputs, x, t * inputs, y, t * outputs);
    }
    if (bias) for (let i = 0; i < y.length; i++) y[i] += bias[i % outputs];
    return y; // (T, outputs)
  }
}

function multiply(matrix, start, stride, rows, columns, x, from, y, to) {
  // y = matrix x: the dot product of each row of a matrix with the vector at x[from]. The first
  // row begins at matrix[start], each other one `stride` entries after the one before. Eight sums
  // are computed at once: each entry of x is loaded once for all rows, and no addition waits for
  // the one before it. Sums are float64, JavaScript's only kind of number.
  let row = 0;
  for (; row + 8 <= rows; row += 8) {
    const r0 = start + row * stride;
    const r1 = r0 + stride;
    const r2 = r1 + stride;
    const r3 = r2 + stride;
    const r4 = r3 + stride;
    const r5 = r4 + stride;
    const r6 = r5 + stride;
    const r7 = r6 + stride;
    let s0, s1, s2, s3, s4, s5, s6, s7;
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0;
    for (let i = 0; i < columns; i++) {
      const entry = x[from + i];
      s0 += matrix[r0 + i] * entry;
      s1 += matrix[r1 + i] * entry;
      s2 += matrix[r2 + i] * entry;
      s3 += matrix[r3 + i] * entry;
      s4 += matrix[r4 + i] * entry;
      s5 += matrix[r5 + i] * entry;
      s6 += matrix[r6 + i] * entry;
      s7 += matrix[r7 + i] * entry;
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

function layer_norm(x, from, size, y, to, weight, bias) {
  // `size` entries at x[from], shifted and scaled to mean 0 and variance 1, into y[to]; then times
  // `weight` plus `bias`, where there are any.
  let mean = 0;
  let variance = 0;
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

function below(x, bell) {
  // The probability that a normally distributed number is below x, to 1e-7: as exact as float32 is
  // near 1. bell: exp(-x^2 / 2). Source: Abramowitz and Stegun 1964, formula 7.1.26, for erf.
  const t = 1 / (1 + 0.3275911 * Math.SQRT1_2 * Math.abs(x));
  const tail =
    t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))));
  return x < 0 ? tail * bell : 1 - tail * bell;
}

function gelu(x) {
  for (let i = 0; i < x.length; i++) x[i] *= below(x[i], Math.exp((-x[i] * x[i]) / 2));
  return x;
}

function softmax(x, from, size) {
  // In place: exponentials, divided by their sum. The largest is subtracted first, since its
  // exponential could overflow.
  let largest = -Infinity;
  let sum = 0;
  for (let i = from; i < from + size; i++) largest = Math.max(largest, x[i]);
  for (let i = from; i < from + size; i++) sum += x[i] = Math.exp(x[i] - largest);
  for (let i = from; i < from + size; i++) x[i] /= sum;
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

// --- Positions: attention by itself knows nothing about the order of the characters ------------

const INIT_STD = 0.02;
const WAVELENGTH_BASE = 10000;

function position_angles(length, pairs) {
  // The angle of each position for each pair of dimensions: (length, pairs), in radians.
  const angles = new Float32Array(length * pairs);
  for (let pair = 0; pair < pairs; pair++) {
    // Rounded to float32 as in PyTorch: an angle of many radians shows such differences.
    const speed = Math.fround(WAVELENGTH_BASE ** -Math.fround(pair / pairs));
    for (let t = 0; t < length; t++) angles[t * pairs + pair] = t * speed;
  }
  return angles;
}

function position_table({ position, block_size, n_embd }, weights) {
  // What is added to the embeddings: (block_size, C); undefined for other kinds of positions.
  if (position === "learned") return weights["position_embedding.weight"];
  if (position !== "sinusoidal") return undefined;
  const pairs = n_embd / 2;
  const table = new Float32Array(block_size * n_embd);
  position_angles(block_size, pairs).forEach((angle, i) => {
    const at = Math.floor(i / pairs) * n_embd + (i % pairs);
    table[at] = INIT_STD * Math.SQRT2 * Math.sin(angle);
    table[at + pairs] = INIT_STD * Math.SQRT2 * Math.cos(angle);
  });
  return table;
}

function rotary_tables(length, head_size) {
  // The cosines and the sines of the angles, each (length, head_size / 2).
  const angles = position_angles(length, head_size / 2);
  return { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
}

function rotate(x, from, head_size, position, { cos, sin }) {
  // Rotate each pair of the head_size entries at x[from] by the angle of their position, in place:
  // (a, b) becomes (a cos - b sin, b cos + a sin).
  const pairs = head_size / 2;
  for (let i = 0; i < pairs; i++) {
    const a = x[from + i];
    const b = x[from + pairs + i];
    const c = cos[position * pairs + i];
    const s = sin[position * pairs + i];
    x[from + i] = a * c - b * s;
    x[from + pairs + i] = b * c + a * s;
  }
}

// --- Attention: each character gathers information from the characters before it ---------------

class Cache {
  // What one block has computed for the characters so far. A later character changes none of it,
  // so a new character costs one pass over itself. To go back in the text, lower `length`.
  constructor({ block_size, n_embd, n_head, token_shift }) {
    this.length = 0;
    this.block_size = block_size;
    this.n_head = n_head;
    this.head_size = n_embd / n_head;
    this.keys = new Float32Array(block_size * n_embd); // (n_head, block_size, head_size)
    this.values = new Float32Array(block_size * n_embd); // (n_head, head_size, block_size)
    this.weights = []; // of each character: its attention weights, (n_head, those it sees)
    // For token_shift: what each part of the block has read, (block_size, C).
    this.before_attention = new Float32Array(token_shift ? block_size * n_embd : 0);
    this.before_feed_forward = new Float32Array(token_shift ? block_size * n_embd : 0);
  }

  extend(qkv, T) {
    // Append the keys and values in qkv (T, 3, n_head, head_size).
    const { n_head, head_size, block_size } = this;
    const C = n_head * head_size;
    for (let t = 0; t < T; t++) {
      const position = this.length + t;
      for (let head = 0; head < n_head; head++) {
        const first = head * block_size * head_size;
        const key = t * 3 * C + C + head * head_size;
        for (let i = 0; i < head_size; i++) {
          this.keys[first + position * head_size + i] = qkv[key + i];
          this.values[first + i * block_size + position] = qkv[key + C + i]; // transposed
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
      // The first n_head vectors are the queries, the next n_head the keys.
      for (let head = 0; head < 2 * n_head; head++) {
        const from = t * 3 * C + head * head_size;
        if (qk_norm) layer_norm(qkv, from, head_size, qkv, from);
        if (rotary) rotate(qkv, from, head_size, start + t, rotary);
      }
    }
    cache.extend(qkv, T);
    const y = this.attend(qkv, T, cache, start); // (T, C)
    return this.projection.forward(y, T); // (T, C)
  }

  attend(qkv, T, cache, start) {
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
        const query = t * 3 * C + head * head_size;
        const row = head * seen;
        multiply(keys, first, head_size, seen, head_size, qkv, query, weights, row); // the scores
        for (let s = row; s < row + seen; s++) weights[s] /= Math.sqrt(head_size);
        softmax(weights, row, seen);
        const mean = t * C + head * head_size;
        multiply(values, first, block_size, head_size, seen, weights, row, y, mean);
      }
      cache.weights[start + t] = weights; // for the page to show
    }
    return y;
  }
}

// --- Token shift: each character also sees the previous one ------------------------------------

function shift(x, T, C, before, start) {
  // Replace the first half of each vector by that of the character before it, in place: (T, C).
  // Before the first character there are zeros. before: (block_size, C), the vectors of the earlier
  // characters; those of x are put behind them, from position `start` on.
  const half = Math.floor(C / 2);
  before.set(x, start * C);
  for (let t = 0; t < T; t++) {
    const previous = (start + t - 1) * C;
    if (previous < 0) x.fill(0, 0, half);
    else x.set(before.subarray(previous, previous + half), t * C);
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
  // Attention, then feed-forward. Both read x, the residual stream, normalized, and add their
  // result to it: (T, C).
  constructor(config, weights, name) {
    this.config = config;
    this.attention_norm = new LayerNorm(weights, `${name}.attention_norm`);
    this.attention = new CausalSelfAttention(config, weights, `${name}.attention`);
    this.feed_forward_norm = new LayerNorm(weights, `${name}.feed_forward_norm`);
    this.feed_forward = new FeedForward(config, weights, `${name}.feed_forward`);
  }

  forward(x, T, rotary, cache) {
    const { token_shift, n_embd: C } = this.config;
    const start = cache.length;
    let y = this.attention_norm.forward(x, T); // (T, C)
    if (token_shift) shift(y, T, C, cache.before_attention, start);
    add(x, this.attention.forward(y, T, rotary, cache));
    y = this.feed_forward_norm.forward(x, T); // (T, C)
    if (token_shift) shift(y, T, C, cache.before_feed_forward, start);
    add(x, this.feed_forward.forward(y, T));
  }
}

// --- The network ------------------------------------------------------------------------------

function embed(table, idx, C) {
  // The rows of table (V, C) for the characters idx: (T) -> (T, C)
  const x = new Float32Array(idx.length * C);
  idx.forEach((id, t) => x.set(table.subarray(id * C, (id + 1) * C), t * C));
  return x;
}

class GPT {
  // From characters to the logits of the next character, at every position at once.
  constructor(config, vocab_size, weights) {
    const { block_size, n_embd, n_head, n_layer, position } = config;
    this.config = config;
    this.vocab_size = vocab_size;
    this.token_embedding = weights["token_embedding.weight"]; // (V, C)
    this.position_table = position_table(config, weights);
    this.rotary = position === "rotary" ? rotary_tables(block_size, n_embd / n_head) : null;
    const layers = Array.from({ length: n_layer }, (_, layer) => layer);
    this.blocks = layers.map((layer) => new Block(config, weights, `blocks.${layer}`));
    this.norm = new LayerNorm(weights, "norm");
    const tied = { "lm_head.weight": this.token_embedding }; // one matrix for both
    this.lm_head = new Linear(tied, "lm_head", n_embd);
  }

  forward(idx, caches = this.new_caches()) {
    // The logits of the next character after each of idx, which continues the text that the caches
    // hold: (T) -> (T, V).
    const C = this.config.n_embd;
    const T = idx.length;
    const start = caches[0].length;
    const x = embed(this.token_embedding, idx, C); // (T) -> (T, C)
    if (this.position_table) add(x, this.position_table.subarray(start * C)); // (T, C)
    this.blocks.forEach((block, layer) => block.forward(x, T, this.rotary, caches[layer]));
    return this.lm_head.forward(this.norm.forward(x, T), T); // (T, C) -> (T, V)
  }

  new_caches() {
    return this.blocks.map(() => new Cache(this.config));
  }
}

// --- Its two ancestors, as in ancestors.py ----------------------------------------------------

class Bigram {
  // The next character depends on the present one alone: a table of V x V logits.
  constructor(config, vocab_size, weights) {
    this.config = config;
    this.vocab_size = vocab_size;
    this.table = weights["table.weight"]; // (V, V)
  }

  forward(idx, caches = [], first = 0) {
    // The same, but only from entry `first` of idx on: (T) -> (T - first, V).
    return embed(this.table, idx.slice(first), this.vocab_size);
  }

  new_caches() {
    return [];
  }
}

class MLP {
  // The embeddings of the last block_size characters, side by side, through one tanh layer.
  constructor(config, vocab_size, weights) {
    this.config = config;
    this.vocab_size = vocab_size;
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

function ngram_losses(train, validation, vocab_size, longest) {
  // The mean loss of counted n-grams, for n = 1, 2, ..., longest, in nats: NGrams in ancestors.py.
  // Both texts are token ids; a context is a string with a character for each id.
  const [text, other] = [train, validation].map((ids) => {
    return Array.from(ids, (id) => String.fromCharCode(id)).join("");
  });
  const [counts, followers, different] = [new Map(), new Map(), new Map()];
  const raise = (map, key, by) => map.set(key, (map.get(key) ?? 0) + by);
  for (let n = 1; n <= longest; n++) {
    for (let i = 0; i + n <= text.length; i++) raise(counts, text.slice(i, i + n), 1);
  }
  for (const [string, count] of counts) {
    raise(followers, string.slice(0, -1), count);
    raise(different, string.slice(0, -1), 1);
  }
  const totals = new Array(longest).fill(0);
  for (let i = 0; i < other.length; i++) {
    let p = 1 / vocab_size;
    for (let length = 0; length < longest; length++) {
      const context = length <= i ? other.slice(i - length, i) : null;
      const followed = followers.get(context) ?? 0;
      if (followed) {
        const kinds = different.get(context);
        p = ((counts.get(context + other[i]) ?? 0) + kinds * p) / (followed + kinds);
      }
      totals[length] -= Math.log(p);
    }
  }
  return totals.map((total) => total / other.length);
}

const NETWORKS = { bigram: Bigram, mlp: MLP, gpt: GPT };

function build(config, vocab_size, weights) {
  return new NETWORKS[config.network](config, vocab_size, weights);
}

// --- Generation: from logits to text ----------------------------------------------------------

function by_probability(logits) {
  // The ids of all characters, the most likely one first.
  return Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
}

function next_probabilities(logits, temperature = 1, top_k = null, top_p = null) {
  // The distribution from which the next character is drawn: (V) -> (V), which sums to 1. A lower
  // temperature makes likely characters more likely; top_k keeps the k most likely; top_p then
  // keeps the most likely ones whose probabilities first sum to p or more.
  const probabilities = Float64Array.from(logits);
  if (temperature < 1e-4) {
    const most_likely = logits.indexOf(Math.max(...logits));
    return probabilities.map((_, id) => (id === most_likely ? 1 : 0));
  }
  for (let id = 0; id < logits.length; id++) probabilities[id] /= temperature;
  softmax(probabilities, 0, logits.length);
  if (top_k === null && top_p === null) return probabilities;
  let kept = by_probability(logits);
  const total = () => kept.reduce((sum, id) => sum + probabilities[id], 0);
  if (top_k !== null) kept = kept.slice(0, top_k);
  if (top_p !== null) {
    const all = total();
    let sum = 0;
    kept = kept.filter((id) => {
      const before = sum;
      sum += probabilities[id] / all;
      return before < top_p;
    });
  }
  const all = total();
  const result = new Float64Array(logits.length);
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
  let sum = 0;
  let last = 0;
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] === 0) continue;
    sum += probabilities[id];
    last = id;
    if (number < sum) return id;
  }
  return last; // the sum was rounded to a little less than 1
}

const MOST_AT_ONCE = 32; // characters in one pass: after it, the worker can hear a Stop

function window_start(index, prompt_length, block_size) {
  // Where the window begins in which the character at `index` is read. As in model.py, the first
  // window for writing holds the prompt, or its last block_size characters; when it is full, the
  // newest block_size // 2 begin the next one. The prompt itself is read in such windows too, from
  // its start on, so that each of its characters is predicted from half a window or more.
  let start = index < prompt_length - 1 ? 0 : Math.max(0, prompt_length - block_size);
  const newest = Math.max(1, Math.floor(block_size / 2));
  while (index - start >= block_size) start += block_size + 1 - newest;
  return start;
}

function short_sample(network) {
  // 100 characters that the network writes now, always with the same random numbers, as token ids.
  const text = new Stream(network);
  text.set_text([0], 1); // a newline, in most texts
  for (let i = 0; i < 100; i++) {
    for (const _ of text.read());
    text.draw({ temperature: 0.8, top_k: null, top_p: null, seed: 0 });
  }
  return text.ids;
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
    const { network, ids, prompt_length } = this;
    const { block_size } = network.config;
    while (this.known < ids.length) {
      const start_of = (index) => window_start(index, prompt_length, block_size);
      const { known } = this;
      if (!this.caches.length) {
        // No cache: the last block_size characters before each are read again.
        const from = Math.max(0, known - block_size + 1);
        const unread = ids.slice(from, known + MOST_AT_ONCE);
        yield this.records(network.forward(unread, [], known - from), known);
        continue;
      }
      const start = start_of(known);
      if (start !== this.start) this.caches = network.new_caches();
      this.start = start;
      const from = start + this.caches[0].length;
      let to = Math.min(from + MOST_AT_ONCE, ids.length);
      while (to > known + 1 && start_of(to - 1) !== start) to--; // those are read in the next one
      yield this.records(network.forward(ids.slice(from, to), this.caches), from);
    }
  }

  records(logits, from) {
    const V = this.network.vocab_size;
    const records = [];
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

const BASE64_AT_ONCE = 1 << 18; // characters, 8 of which are 3 float16; then progress is reported

function float16_table() {
  // The value of each of the 65,536 float16: 1 bit of sign, 5 of exponent, 10 of fraction.
  return Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24; // close to 0, evenly spaced
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

function* unpack(text, tensors) {
  // {name: Float32Array} from base64, as a generator that yields the fraction done so far. tensors:
  // [[name, shape]] in their order in the text.
  const values = float16_table();
  const sizes = tensors.map(([, shape]) => shape.reduce((a, b) => a * b, 1));
  const total = sizes.reduce((a, b) => a + b, 0);
  memory = new Memory(total, Math.max(...tensors.flatMap(([, shape]) => shape)));
  const all = memory.array(total);
  let done = 0;
  for (let from = 0; from < text.length; from += BASE64_AT_ONCE) {
    const bytes = atob(text.slice(from, from + BASE64_AT_ONCE)); // a string, a character per byte
    for (let i = 0; i < bytes.length; i += 2) {
      all[done++] = values[bytes.charCodeAt(i) | (bytes.charCodeAt(i + 1) << 8)];
    }
    yield done / all.length;
  }
  const weights = {};
  let start = 0;
  tensors.forEach(([name], i) => {
    weights[name] = all.subarray(start, start + sizes[i]);
    start += sizes[i];
  });
  return weights;
}

function float16_bits(x) {
  // The nearest float16 to a number, as float16_table() reads it; at most the largest one.
  const sign = x < 0 ? 1 << 15 : 0;
  const size = Math.min(Math.abs(x), 65504);
  const exponent = Math.max(-14, Math.floor(Math.log2(size)));
  const steps = Math.round(size * 2 ** (10 - exponent)); // below 1024: close to 0
  return sign + steps + (exponent + 14) * 1024;
}

function pack(weights, tensors) {
  // What unpack() reads. The weights are rounded, so that what is packed is what is there.
  const values = float16_table();
  const text = tensors.map(([name]) => {
    const bits = Uint16Array.from(weights[name], float16_bits);
    bits.forEach((one, i) => (weights[name][i] = values[one]));
    const bytes = new Uint8Array(bits.buffer);
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  });
  return btoa(text.join(""));
}

// --- The characters: which of them the network treats alike ------------------------------------

function principal_components(x, rows, size) {
  // Project the rows onto the plane in which they differ most: {positions: [[a, b]], fractions},
  // the fractions of the variance along both axes. The products of all pairs of rows have the
  // positions as eigenvectors, which grow most when they are multiplied with them again and again.
  const centred = Float32Array.from(x);
  for (let i = 0; i < size; i++) {
    let mean = 0;
    for (let row = 0; row < rows; row++) mean += x[row * size + i] / rows;
    for (let row = 0; row < rows; row++) centred[row * size + i] -= mean;
  }
  const products = new Float32Array(rows * rows);
  for (let row = 0; row < rows; row++) {
    multiply(centred, 0, size, rows, size, centred, row * size, products, row * rows);
  }
  let variance = 0;
  for (let row = 0; row < rows; row++) variance += products[row * rows + row];
  const axes = [0, 1].map((axis) => {
    let vector = Float32Array.from({ length: rows }, (_, row) => uniform(axis, row) - 0.5);
    let length = 0;
    for (let i = 0; i < 100; i++) {
      const next = new Float32Array(rows);
      multiply(products, 0, rows, rows, rows, vector, 0, next, 0);
      length = Math.hypot(...next) || 1;
      vector = next.map((entry) => entry / length);
    }
    for (let i = 0; i < products.length; i++) {
      products[i] -= length * vector[Math.floor(i / rows)] * vector[i % rows]; // the next axis is
    } // at a right angle
    return { positions: vector.map((entry) => entry * Math.sqrt(length)), length };
  });
  return {
    positions: Array.from(axes[0].positions, (a, row) => [a, axes[1].positions[row]]),
    fractions: axes.map(({ length }) => length / (variance || 1)),
  };
}

function plane_of(table, size, { ids, vowels, consonants }) {
  // The characters `ids` in the plane in which their vectors, the rows of a table, differ most, each
  // divided by its length; and the mean cosines of two vowels, and of a vowel and a consonant.
  const x = new Float32Array(ids.length * size);
  ids.forEach((id, row) => {
    const vector = table.subarray(id * size, (id + 1) * size);
    const length = Math.hypot(...vector) || 1;
    x.set(vector.map((entry) => entry / length), row * size);
  });
  const cosine = (a, b) => {
    const [from_a, from_b] = [a, b].map((id) => ids.indexOf(id) * size);
    let sum = 0;
    for (let i = 0; i < size; i++) sum += x[from_a + i] * x[from_b + i];
    return sum;
  };
  const mean = (some, others) => {
    const pairs = some.flatMap((a) => others.filter((b) => b !== a).map((b) => cosine(a, b)));
    return pairs.length ? pairs.reduce((a, b) => a + b, 0) / pairs.length : null;
  };
  const cosines = { vowels: mean(vowels, vowels), consonants: mean(vowels, consonants) };
  const { positions, fractions } = principal_components(x, ids.length, size);
  return { ids, positions: spread(positions), fractions, cosines };
}

function spread(positions) {
  // Move positions apart until hardly any two labels overlap: each pushes away those that are nearer
  // than a twenty-fifth of the largest distance along an axis.
  const range = (axis) => {
    const values = positions.map((position) => position[axis]);
    return Math.max(...values) - Math.min(...values);
  };
  const room = Math.max(range(0), range(1), 1e-9) / 25;
  const noise = (i, axis) => (room / 1000) * uniform(axis, i); // two in one place part
  positions = positions.map((position, i) => position.map((x, axis) => x + noise(i, axis)));
  for (let round = 0; round < 100; round++) {
    const pushes = positions.map(([x, y]) => {
      let [right, up] = [0, 0];
      for (const [other_x, other_y] of positions) {
        const [dx, dy] = [x - other_x, y - other_y];
        const distance = Math.sqrt(dx * dx + dy * dy);
        if (distance === 0 || distance >= room) continue;
        right += (dx * (room / distance - 1)) / 2;
        up += (dy * (room / distance - 1)) / 2;
      }
      return [right, up];
    });
    positions = positions.map(([x, y], i) => [x + pushes[i][0], y + pushes[i][1]]);
  }
  return positions;
}

// --- The worker: runs the network beside the page, which stays free to draw --------------------

// What the page sends:
//   load {config, vocab_size, tensors, text, probe, shown}    weights; shown: see plane_of
//   create {config, vocab_size, seed, shown}           a network that has learned nothing
//   learn {config, tokens, seed, run}                  train it from now on, see learn.js
//   hold {}, go_on {}                                  stop learning for a while
//   pack {tensors}                                     send the weights
//   count {train, validation, vocab_size}              send ngram_losses
//   text {ids, prompt_length, wanted, version}         another text, see Stream.set_text; numbered
//   settings {settings}                                how to draw from now on
//   write {count}, stop {}                             writes that come in a row are done in a row
// What the worker sends:
//   progress {fraction}, ready {difference, fast, plane}    of the weights; see probe_difference
//   step, moment                                       what learn() yields, with the seconds and
//                                                      the run; a moment also has {sample, plane}
//   packed {weights}, counted {losses}
//   records {records, version, settings}               what was read, see Stream.read
//   done {count, seconds}                              once for each write

const BETWEEN_REPORTS = 8; // milliseconds: two of them in a frame of the screen

function probe_difference(network, { ids, surprises }) {
  // How far the surprises of the characters ids[1], ids[2], ... are from those that Python has
  // computed with the same weights, at most, in nats: this program should compute the same network.
  const logits = network.forward(ids.slice(0, -1), network.new_caches());
  const V = network.vocab_size;
  const differences = surprises.map((expected, t) => {
    const probabilities = next_probabilities(logits.slice(t * V, (t + 1) * V));
    return Math.abs(-Math.log(probabilities[ids[t + 1]]) - expected);
  });
  return Math.max(...differences.map((difference) => (difference >= 0 ? difference : Infinity)));
}

function start_worker() {
  let network, weights, stream, settings, version, shown;
  let current; // the number of the run that is learning: a new one ends the one before
  let gate = null; // a promise while learning is held, and
  let go_on = null; // what fulfills it
  let turn = 0; // raised by each new text, which ends what is done with the one before
  let stops = 0; // raised by each Stop, which ends all writes that were asked for before it
  let last_task = Promise.resolve(); // each task begins when the one before has ended
  let unsent = [];
  let last_report = 0;

  // Lets messages arrive. Unlike a time-out, a message to oneself is not delayed by 4 ms.
  const { port1, port2 } = new MessageChannel();
  const resumed = [];
  port1.onmessage = () => resumed.shift()();
  const pause = () =>
    new Promise((resolve) => {
      resumed.push(resolve);
      port2.postMessage(null);
    });

  function report() {
    postMessage({ kind: "records", records: unsent, version, settings });
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

  function in_turn(task) {
    last_task = last_task.then(task);
  }

  function use(next) {
    network = next;
    stream = new Stream(network);
    turn += 1; // what was read, another network has read
  }

  function report_ready(message) {
    shown = message.shown;
    const difference = message.probe ? probe_difference(network, message.probe) : 0;
    postMessage({ kind: "ready", difference, fast: memory.fast, plane: plane() });
  }

  function plane() {
    const table = network.table ?? network.token_embedding; // a bigram's table of pairs
    return plane_of(table, network.table ? network.vocab_size : network.config.n_embd, shown);
  }

  const tasks = {
    load(message) {
      const steps = unpack(message.text, message.tensors);
      let step = steps.next();
      for (; !step.done; step = steps.next()) {
        postMessage({ kind: "progress", fraction: step.value });
      }
      weights = step.value;
      use(build(message.config, message.vocab_size, weights));
      report_ready(message);
    },

    create(message) {
      const { config, vocab_size, seed } = message;
      current = null;
      const learner = new_learner(config, vocab_size, 1);
      initialize(learner, seed);
      weights = unpadded(learner);
      use(build(config, vocab_size, weights));
      report_ready(message);
    },

    async learn({ config, tokens, seed, run }) {
      current = run;
      go_on?.();
      const learner = new_learner(config, network.vocab_size, config.batch_size, weights);
      weights = unpadded(learner);
      use(build(config, network.vocab_size, weights));
      let began = performance.now();
      for (const report of learn(learner, tokens, config, seed)) {
        const seconds = (performance.now() - began) / 1000;
        const message = { kind: "step", ...report, seconds, run };
        if (report.val_loss === undefined) postMessage(message);
        else {
          const sample = short_sample(network);
          postMessage({ ...message, kind: "moment", sample, plane: plane() });
        }
        await pause();
        if (gate) {
          const held = performance.now();
          await gate;
          began += performance.now() - held;
        }
        if (current !== run) return;
      }
    },

    hold() {
      gate = new Promise((resolve) => {
        go_on = () => {
          gate = go_on = null;
          resolve();
        };
      });
    },

    go_on: () => go_on?.(),
    pack: ({ tensors }) => postMessage({ kind: "packed", weights: pack(weights, tensors) }),

    count({ train, validation, vocab_size }) {
      postMessage({ kind: "counted", losses: ngram_losses(train, validation, vocab_size, 5) });
    },

    text(message) {
      const mine = ++turn;
      in_turn(async () => {
        if (turn !== mine) return;
        version = message.version;
        unsent = []; // of the text before
        stream.set_text(message.ids, message.prompt_length, message.wanted);
        await read(mine);
        if (turn === mine) report();
      });
    },

    write({ count }) {
      const mine = turn;
      const asked = stops;
      in_turn(async () => {
        const began = performance.now();
        let written = 0;
        while (written < count && turn === mine && stops === asked) {
          stream.draw(settings);
          written += 1;
          await read(mine);
        }
        if (turn === mine) report();
        postMessage({ kind: "done", count: written, seconds: (performance.now() - began) / 1000 });
      });
    },

    settings: (message) => (settings = message.settings),
    stop: () => (stops += 1),
  };
  onmessage = (event) => tasks[event.data.kind](event.data);
}

if (typeof importScripts !== "undefined") start_worker();
