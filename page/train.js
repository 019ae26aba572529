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

/** The sum of the losses of windows (n, T + 1) and, if they are a batch to learn from, the gradient
 *  of their mean. @param {import("./learn.js").Learner} learner */
export function compute(learner, windows, learns) {
  const { B, T, parameters } = learner.net;
  const batch = new Uint16Array(B * (T + 1));
  let total = 0;
  for (let from = 0; from < windows.length; from += batch.length) {
    const some = windows.subarray(from, from + batch.length);
    const rows = some.length / (T + 1); // the last batch may have fewer than B
    batch.set(some);
    total += learner.loss(batch, rows * T) * rows;
  }
  if (learns) learner.backward(batch);
  return { total, gradient: learns ? parameters.flat.dweight.slice() : new Float32Array() };
}

export class Training {
  /** learner: of half a batch. helper: a port to a worker that computes the other half meanwhile,
   *  see help(), or null. @param {import("./learn.js").Learner} learner
   *  @param {import("./weights.js").Config} config */
  constructor(learner, tokens, config, seed, helper = null) {
    this.learner = learner;
    this.config = config;
    this.seed = seed;
    this.helper = helper;
    this.done = 0; // steps
    const split = Math.floor(0.9 * tokens.length);
    this.train = tokens.subarray(0, split);
    this.validation = tokens.subarray(split);
  }

  /** The windows of a step: they follow from the seed and its number alone. */
  batch(step) {
    const { T } = this.learner.net;
    const B = this.config.batch_size;
    const choices = this.train.length - T;
    const starts = range(B).map((b) => Math.floor(uniform(this.seed, step * B + b) * choices));
    return get_batch(this.train, starts, B, T);
  }

  /** compute() for the windows before `from`, and for the others: there, if there is a helper. */
  async both(windows, from, learns) {
    const { learner, helper } = this;
    const [first, second] = [windows.slice(0, from), windows.slice(from)];
    const elsewhere = new Promise((resolve) => {
      if (!helper) return resolve(compute(learner, second, learns));
      const weight = learner.net.parameters.flat.weight.slice();
      helper.onmessage = ({ data }) => resolve(data);
      helper.postMessage({ windows: second, learns, weight }, [weight.buffer]);
    });
    return [compute(learner, first, learns), await elsewhere];
  }

  /** The loss of a batch and its gradient, the means of those of its halves. */
  async gradient(windows) {
    const { dweight } = this.learner.net.parameters.flat;
    const [one, other] = await this.both(windows, windows.length / 2, true);
    for (let i = 0; i < dweight.length; i++) dweight[i] = (one.gradient[i] + other.gradient[i]) / 2;
    return (one.total + other.total) / this.config.batch_size;
  }

  /** The mean loss over whole windows of the validation text: all of them, one after the other, or
   *  as many as have `most` characters, spread evenly. */
  async estimate_loss(most) {
    const { T } = this.learner.net;
    const all = Math.floor((this.validation.length - 1) / T);
    const count = Math.min(all, Math.ceil(most / T));
    const starts = range(count).map((i) => T * Math.floor((i * all) / count));
    const windows = get_batch(this.validation, starts, count, T);
    const [one, other] = await this.both(windows, (count >> 1) * (T + 1), false);
    return (one.total + other.total) / count;
  }

  /** One step; returns the loss of its batch. */
  async step() {
    const loss = await this.gradient(this.batch(this.done));
    update(this.learner, this.done++, this.config);
    return loss;
  }

  /** One step, with what it did: to the first window of its batch, and to the weights of that name.
   *  probabilities: what the network gave to each character that came next, before and after. */
  async step_closely(name) {
    const { learner, done } = this;
    const { T, parameters } = learner.net;
    const { weight, dweight, shape } = parameters.named(name);
    const windows = this.batch(done);
    const before = weight.slice();
    const probabilities = () => learner.losses.slice(0, T).map((loss) => Math.exp(-loss));
    const loss = await this.gradient(windows);
    const [first, gradient] = [probabilities(), dweight.slice()];
    update(learner, this.done++, this.config);
    const after = weight.slice();
    const loss_after = await this.gradient(windows);
    return {
      name, shape, before, gradient, after, loss, loss_after,
      ids: windows.slice(0, T + 1), probabilities: { before: first, after: probabilities() },
    };
  }
}
