// @ts-check
// Generation: from logits to text, as at the end of model.py.

import { softmax } from "./model.js";

/** @typedef {{temperature: number, top_k: number?, top_p: number?, seed: number}} Drawing */

/** The ids of all characters, the most likely one first. */
export const by_probability = (logits) =>
  Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);

/** The distribution from which the next character is drawn: (V) -> (V), which sums to 1. A lower
 *  temperature makes likely characters more likely; top_k keeps the k most likely; top_p then keeps
 *  the most likely ones whose probabilities first sum to p or more. */
export function next_probabilities(logits, temperature = 1, top_k = null, top_p = null) {
  const probabilities = Float64Array.from(logits);
  if (temperature < 1e-4) {
    const most_likely = logits.indexOf(Math.max(...logits));
    return probabilities.map((_, id) => (id === most_likely ? 1 : 0));
  }
  for (let id = 0; id < logits.length; id++) probabilities[id] /= temperature;
  softmax(probabilities, 0, logits.length);
  if (top_k === null && top_p === null) return probabilities;
  const total = (ids) => ids.reduce((sum, id) => sum + probabilities[id], 0);
  let kept = by_probability(logits).slice(0, top_k ?? Infinity);
  if (top_p !== null) {
    const wanted = top_p * total(kept);
    let sum = 0; // of those before; the most likely one stays, however small top_p is
    kept = kept.filter((id) => {
      const stays = sum === 0 || sum < wanted;
      sum += probabilities[id];
      return stays;
    });
  }
  const all = total(kept);
  const result = new Float64Array(logits.length);
  for (const id of kept) result[id] = probabilities[id] / all;
  return result;
}

/** A number in [0, 1) that follows from the seed and a character's position alone, so that the same
 *  seed writes the same text, also after going back. Source: the last step of Appleby's
 *  MurmurHash3, which lets each bit change all others. */
export function uniform(seed, position) {
  let bits = Math.imul(seed, 0x9e3779b1) ^ Math.imul(position + 1, 0x85ebca6b);
  for (const factor of [0x85ebca6b, 0xc2b2ae35, 0x85ebca6b]) {
    bits = Math.imul(bits ^ (bits >>> 15), factor);
  }
  return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32;
}

/** The id at which the probabilities, added up, exceed a number in [0, 1). */
export function draw(probabilities, number) {
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

/** Where the window begins in which the character at `index` is read. As in model.py, the first
 *  window for writing holds the prompt, or its last block_size characters; when it is full, the
 *  newest block_size // 2 begin the next one. The prompt itself is read in such windows too, from
 *  its start on, so that each of its characters is predicted from half a window or more. */
function window_start(index, prompt_length, block_size) {
  let start = index < prompt_length - 1 ? 0 : Math.max(0, prompt_length - block_size);
  const newest = Math.max(1, Math.floor(block_size / 2));
  while (index - start >= block_size) start += block_size + 1 - newest;
  return start;
}

/** model.py's stream(), which can also go back: a text, and the network that continues it. */
export class Stream {
  /** @param {import("./model.js").GPT} network one that writes, for this text alone */
  constructor(network) {
    this.network = network;
    /** @type {number[]} */
    this.ids = [];
    this.prompt_length = 0;
    this.start = 0; // of the window
    this.held = 0; // how many characters of the window the network's arrays hold
    this.known = 0; // for how many characters of the text the logits have been computed
    /** @type {Float32Array?} */
    this.logits = null; // (V), those after the last of them
  }

  /** Another text, at least one character. What it shares with the present one is kept; but from
   *  the character `wanted` on, all is read again. */
  set_text(ids, prompt_length, wanted = Infinity) {
    const most = Math.min(ids.length - 1, wanted);
    let same = 0;
    while (same < most && ids[same] === this.ids[same]) same++;
    this.ids = [...ids];
    this.prompt_length = prompt_length;
    this.known = Math.min(this.known, same);
    this.held = Math.min(this.held, Math.max(0, same - this.start));
  }

  /** Read what is unread. Yields after each pass [{index, id, logits (V), attention, start}] of
   *  those characters that were read for the first time. attention: of each layer, (n_head, those
   *  that the character sees, from `start` on). */
  *read() {
    const { network, ids, prompt_length } = this;
    const start_of = (index) => window_start(index, prompt_length, network.T);
    while (this.known < ids.length) {
      const { known } = this;
      const start = start_of(known);
      if (start !== this.start) this.held = 0;
      this.start = start;
      const from = start + this.held;
      let to = Math.min(from + MOST_AT_ONCE, ids.length);
      while (to > known + 1 && start_of(to - 1) !== start) to--; // those are read in the next one
      network.forward(ids.slice(start, to), from - start, to - start);
      this.held = to - start;
      yield this.records(Math.max(from, known), to);
    }
  }

  records(from, to) {
    const { blocks, logits, vocab_size, T, H, V } = this.network;
    const { start } = this;
    this.known = Math.max(this.known, to);
    return Array.from({ length: Math.max(0, to - from) }, (_, i) => {
      const index = from + i;
      const row = index - start;
      this.logits = logits.slice(row * V, row * V + vocab_size);
      const attention = blocks.map((layers) => {
        const seen = new Float32Array(H * (row + 1));
        for (let head = 0; head < H; head++) {
          const at = (head * T + row) * T;
          seen.set(layers.attention.weights.subarray(at, at + row + 1), head * (row + 1));
        }
        return seen;
      });
      return { index, id: this.ids[index], logits: this.logits, attention, start };
    });
  }

  /** Append the next character; returns its id. @param {Drawing} drawing */
  draw({ temperature, top_k, top_p, seed }) {
    const logits = this.logits;
    const probabilities = next_probabilities(logits, temperature, top_k, top_p);
    const id = draw(probabilities, uniform(seed, this.ids.length));
    this.ids.push(id);
    return id;
  }
}

/** 100 characters that a network writes now, always with the same random numbers, as token ids.
 *  @param {import("./model.js").GPT} network */
export function short_sample(network) {
  const text = new Stream(network);
  text.set_text([0], 1); // a newline, in most texts
  for (let i = 0; i < 100; i++) {
    for (const _ of text.read());
    text.draw({ temperature: 0.8, top_k: null, top_p: null, seed: 0 });
  }
  return text.ids;
}
