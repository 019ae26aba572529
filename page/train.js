// @ts-check
// A run: batches of a text, steps, the validation loss, as in train.py.

import { update } from "./learn.js";
import { uniform } from "./generate.js";
import { range } from "./weights.js";

/** Windows of T + 1 token ids from each of `starts`: (B, T + 1) */
function get_batch(tokens, starts, B, T) {
  const windows = new Uint16Array(B * (T + 1));
  starts.forEach((start, b) => windows.set(tokens.subarray(start, start + T + 1), b * (T + 1)));
  return windows;
}

/** The mean loss over whole windows: all of them, one after the other, or as many as have `most`
 *  characters, spread evenly.
 *  @param {import("./learn.js").Learner} learner */
export function estimate_loss(learner, tokens, most) {
  const { B, T } = learner.net;
  const all = Math.floor((tokens.length - 1) / T);
  const count = Math.min(all, Math.ceil(most / T));
  const starts = range(count).map((i) => T * Math.floor((i * all) / count));
  let total = 0;
  for (let i = 0; i < count; i += B) {
    const rows = starts.slice(i, i + B);
    total += learner.loss(get_batch(tokens, rows, B, T), rows.length * T) * rows.length;
  }
  return total / count;
}

export class Training {
  /** @param {import("./learn.js").Learner} learner
   *  @param {import("./weights.js").Config} config */
  constructor(learner, tokens, config, seed) {
    this.learner = learner;
    this.config = config;
    this.seed = seed;
    this.done = 0; // steps
    const split = Math.floor(0.9 * tokens.length);
    this.train = tokens.subarray(0, split);
    this.validation = tokens.subarray(split);
  }

  /** The windows of a step: they follow from the seed and its number alone. */
  batch(step) {
    const { B, T } = this.learner.net;
    const choices = this.train.length - T;
    const starts = range(B).map((b) => Math.floor(uniform(this.seed, step * B + b) * choices));
    return get_batch(this.train, starts, B, T);
  }

  /** One step; returns the loss of its batch. */
  step(windows = this.batch(this.done)) {
    const { learner, config } = this;
    const loss = learner.loss(windows);
    learner.backward(windows);
    update(learner, this.done++, config);
    return loss;
  }

  /** One step, with what it did: to the first window of its batch, and to the weights of that name.
   *  probabilities: what the network gave to each character that came next, before and after. */
  step_closely(name) {
    const { learner, done } = this;
    const { T, parameters } = learner.net;
    const { weight, dweight, shape } = parameters.named(name);
    const windows = this.batch(done);
    const before = weight.slice();
    const probabilities = () => learner.losses.slice(0, T).map((loss) => Math.exp(-loss));
    const loss = learner.loss(windows);
    const [first, losses] = [probabilities(), learner.losses.slice()];
    learner.backward(windows);
    const gradient = dweight.slice();
    update(learner, this.done++, this.config);
    const loss_after = learner.loss(windows);
    return {
      name, shape, before, gradient, after: weight.slice(), loss, loss_after, losses,
      ids: windows.slice(0, T + 1), probabilities: { before: first, after: probabilities() },
    };
  }
}
