// @ts-check
// How a network learns: the loss, its gradient, which PyTorch derives by itself, and a step of the
// optimizers.
//
// Each part of model.js has a ..._backward here. It is given dout, the gradient of the loss with
// respect to the part's output, and computes dinp, that with respect to its input, and dweight: the
// chain rule. A gradient has the shape of what it is the gradient of.
//
// There is no dropout: the page's networks learn for too short a time to need it.

import { INIT_STD, add, head_of, move_head, rotate, softmax, transpose } from "./model.js";
import { uniform } from "./generate.js";

/**
 * @typedef {import("./model.js").GPT} GPT
 * @typedef {import("./kernels.js").Memory} Memory
 */

/** Whether the products have the sizes that Memory.product needs. */
export function can_learn({ n_embd, n_head, block_size, bias }) {
  return !bias && [n_embd, n_embd / n_head, block_size].every((size) => size % 8 === 0);
}

// --- The backward passes of the parts -----------------------------------------------------------

/** dinp = dout weight, dweight = dout^T inp: (N, outputs) -> (N, inputs) @param {GPT} net */
function linear_backward({ memory, N }, dout, inp, { weight, dweight, shape }, dinp) {
  const [outputs, inputs] = shape;
  memory.product(dout, weight, N, inputs, outputs, dinp);
  memory.product(dout, inp, outputs, inputs, N, dweight, true);
}

/** dout becomes dinp: (rows, size). A change that only shifts or stretches a row of the input does
 *  not change what is normalized, so these two directions are taken out. */
function normalize_backward(dout, rows, size, normalized, scale, first = 0) {
  for (let row = first; row < first + rows; row++) {
    const end = (row + 1) * size;
    let shift = 0;
    let stretch = 0;
    for (let i = row * size; i < end; i++) {
      shift += dout[i];
      stretch += dout[i] * normalized[i];
    }
    shift /= size;
    stretch /= size;
    const factor = scale[row];
    for (let i = row * size; i < end; i++) {
      dout[i] = factor * (dout[i] - shift - normalized[i] * stretch);
    }
  }
}

/** dout becomes dinp: (N, C) @param {GPT} net */
function layer_norm_backward({ N, C }, dout, { gain: { weight, dweight }, normalized, scale }) {
  dweight.fill(0);
  for (let n = 0; n < N; n++) {
    for (let i = 0; i < C; i++) {
      dweight[i] += dout[n * C + i] * normalized[n * C + i];
      dout[n * C + i] *= weight[i];
    }
  }
  normalize_backward(dout, N, C, normalized, scale);
}

/** dout becomes dinp: (N, C) @param {GPT} net */
function shift_backward({ N, T, C }, dout) {
  for (let n = 0; n < N; n++) {
    const [from, half] = [n * C, C >> 1];
    if ((n + 1) % T) dout.copyWithin(from, from + C, from + C + half);
    else dout.fill(0, from, from + half);
  }
}

/** The gradients of a network, and what its backward pass keeps them in. */
export class Learner {
  /** net: one that learns. @param {GPT} net @param {Memory} memory */
  constructor(net, memory) {
    const { N, C, T, config } = net;
    this.net = net;
    this.losses = new Float32Array(N); // of each prediction
    this.dx = net.x; // the gradient of the residual stream takes its place
    this.dy = net.y; // of what a part adds to it
    this.dwide = net.wide; // (N, 4C)
    this.dq = memory.array(N * C); // (B, H, T, D), and so are dk and dv
    this.dk = memory.array(N * C);
    this.dv = memory.array(N * C);
    this.dscores = memory.array(T * T); // of one head
    const size = config.optimizer === "muon" ? 4 * C * C : 0;
    this.work = [1, 2, 3].map(() => memory.array(size)); // for muon()
  }

  /** The mean loss of the first `count` predictions of a batch, in nats. The logits become the
   *  gradient of that. windows: (B, T + 1); the target of (b, t) is (b, t + 1). */
  loss(windows, count = this.net.N) {
    const { net, losses } = this;
    const { T, V, logits: dlogits, vocab_size } = net;
    net.forward(windows);
    let total = 0;
    for (let n = 0; n < count; n++) {
      const target = n * V + windows[n + Math.floor(n / T) + 1];
      softmax(dlogits, n * V, vocab_size);
      total += losses[n] = -Math.log(dlogits[target]);
      dlogits[target] -= 1;
      for (let i = n * V; i < n * V + vocab_size; i++) dlogits[i] /= count;
      dlogits.fill(0, n * V + vocab_size, (n + 1) * V); // the padding
    }
    return total / count;
  }

  /** The gradients of the loss that has just been computed, from the last part to the first. */
  backward(windows) {
    const { net, dx, dy, dwide } = this;
    const { N, T, C, config, token_embedding, position_embedding } = net;
    linear_backward(net, net.logits, net.final, token_embedding, dx);
    layer_norm_backward(net, dx, net.norm);
    for (const block of net.blocks.slice().reverse()) {
      const { attention_norm, attention, feed_forward_norm, feed_forward } = block;
      linear_backward(net, dx, feed_forward.activated, feed_forward.projection, dwide);
      for (let i = 0; i < dwide.length; i++) dwide[i] *= feed_forward.slope[i];
      linear_backward(net, dwide, feed_forward.input, feed_forward.expand, dy);
      if (config.token_shift) shift_backward(net, dy);
      layer_norm_backward(net, dy, feed_forward_norm);
      add(dx, dy);
      linear_backward(net, dx, attention.mixed, attention.projection, dy);
      this.attention_backward(dy, attention);
      linear_backward(net, attention.qkv, attention.input, attention.query_key_value, dy);
      if (config.token_shift) shift_backward(net, dy);
      layer_norm_backward(net, dy, attention_norm);
      add(dx, dy);
    }
    const dembedding = token_embedding.dweight;
    const dpositions = position_embedding?.dweight?.fill(0);
    for (let n = 0; n < N; n++) {
      const [to, at] = [windows[n + Math.floor(n / T)] * C, (n % T) * C];
      for (let i = 0; i < C; i++) dembedding[to + i] += dx[n * C + i];
      if (dpositions) for (let i = 0; i < C; i++) dpositions[at + i] += dx[n * C + i];
    }
  }

  /** From dmixed (N, C) to the gradient of qkv, which takes its place. */
  attention_backward(dmixed, { qkv: dqkv, q, k, v, q_scale, k_scale, weights }) {
    const { net, dq, dk, dv, dscores } = this;
    const { config, memory, B, T, H, D, rotary, turned, mixed_heads: dheads } = net;
    for (let head = 0; head < B * H; head++) {
      const own = (x) => head_of(x, head, T, D); // (T, D)
      const p = head_of(weights, head, T, T);
      move_head(net, dmixed, 1, 0, dheads, head, 0, T);
      memory.product(p, own(dheads), T, D, T, own(dv), true); // dv = p^T dout
      transpose(own(v), T, D, turned);
      memory.product(own(dheads), turned, T, T, D, dscores); // dp = dout v^T
      for (let t = 0; t < T; t++) {
        // Through the softmax: a score that rises takes its weight from all others of the row.
        let mean = 0;
        for (let s = t * T; s <= t * T + t; s++) mean += p[s] * dscores[s];
        for (let s = t * T; s <= t * T + t; s++) {
          dscores[s] = (p[s] * (dscores[s] - mean)) / Math.sqrt(D);
        }
        dscores.fill(0, t * T + t + 1, (t + 1) * T);
      }
      memory.product(dscores, own(k), T, D, T, own(dq)); // dq = dscores k
      memory.product(dscores, own(q), T, D, T, own(dk), true); // dk = dscores^T q
      // The gradient of a rotation rotates back. q and k too, to what they were before it.
      for (let t = 0; rotary && t < T; t++) {
        for (const x of [dq, dk, q, k]) rotate(x, (head * T + t) * D, D, t, rotary, -1);
      }
      if (config.qk_norm) {
        normalize_backward(dq, T, D, q, q_scale, head * T);
        normalize_backward(dk, T, D, k, k_scale, head * T);
      }
      [dq, dk, dv].forEach((x, part) => move_head(net, dqkv, 3, part, x, head, 0, T, true));
    }
  }
}

// --- One step: learning rate, clipping, AdamW, Muon ----------------------------------------------

/** As in model.py: normally distributed (Box and Muller 1958), the two projections of a block
 *  smaller, gains of 1. @param {GPT} net */
export function initialize({ config, parameters }, seed) {
  let drawn = 0;
  for (const { name, shape, used, weight } of parameters.all) {
    const small = name.endsWith("projection.weight") ? Math.sqrt(2 * config.n_layer) : 1;
    for (let i = 0; i < used; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform(seed, drawn++)));
      const angle = 2 * Math.PI * uniform(seed, drawn++);
      weight[i] = shape.length === 1 ? 1 : (INIT_STD / small) * radius * Math.cos(angle);
    }
  }
}

/** The factor on the peak learning rates at a step, counted from 0, as in train.py. */
export function lr_factor(step, config) {
  const { max_iters, warmup_iters, lr_schedule, lr_decay_iters, min_lr, learning_rate } = config;
  if (step < warmup_iters) return (step + 1) / (warmup_iters + 1);
  if (lr_schedule === "constant") return 1;
  const end = lr_decay_iters || max_iters;
  let fraction = Math.max(0, end - step) / Math.max(1, end - warmup_iters); // of the decay, left
  if (lr_schedule === "cosine") fraction = (1 - Math.cos(Math.PI * fraction)) / 2;
  const lowest = learning_rate ? min_lr / learning_rate : 0;
  return lowest + fraction * (1 - lowest);
}

/** Scale all gradients down together, if their norm is above `largest`. */
function clip(gradients, largest) {
  let square = 0;
  for (let i = 0; i < gradients.length; i++) square += gradients[i] * gradients[i];
  const factor = largest / (Math.sqrt(square) + 1e-6);
  if (largest === 0 || factor >= 1) return;
  for (let i = 0; i < gradients.length; i++) gradients[i] *= factor;
}

/** AdamW, as in PyTorch. rate: the learning rate at this step. */
function adamw({ weight, dweight, average, square }, step, rate, weight_decay, { beta1, beta2 }) {
  // The averages begin at 0, so they are too small at first.
  const [correction1, correction2] = [1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)];
  for (let i = 0; i < weight.length; i++) {
    average[i] += (1 - beta1) * (dweight[i] - average[i]);
    square[i] += (1 - beta2) * (dweight[i] * dweight[i] - square[i]);
    const spread = Math.sqrt(square[i] / correction2) + 1e-8;
    weight[i] -= rate * (weight_decay * weight[i] + average[i] / correction1 / spread);
  }
}

/** Muon, as in quill/muon.py. work: see nearly_orthogonal. */
export function muon({ weight, dweight, average, shape }, rate, weight_decay, beta, work, memory) {
  const [next, ...rest] = work;
  for (let i = 0; i < weight.length; i++) {
    average[i] += (1 - beta) * (dweight[i] - average[i]);
    next[i] = dweight[i] + beta * (average[i] - dweight[i]);
  }
  const [rows, columns] = shape;
  const change = nearly_orthogonal(next, rows, columns, rest, memory);
  const scaled = rate * Math.sqrt(Math.max(1, rows / columns));
  for (let i = 0; i < weight.length; i++) {
    weight[i] -= rate * weight_decay * weight[i] + scaled * change[i];
  }
}

/** The matrix x with its singular values moved close to 1, as in quill/muon.py; in it, there are no
 *  fewer rows than columns, so that no product needs a transposed copy. Returns one of the arrays a
 *  and b, which it works in. */
function nearly_orthogonal(x, rows, columns, [a, b], memory) {
  const size = rows * columns;
  const [r, k] = [Math.min(rows, columns), Math.max(rows, columns)];
  if (rows < columns) transpose(x, rows, columns, a);
  else a.set(x.subarray(0, size));
  let sum = 0;
  for (let i = 0; i < size; i++) sum += a[i] * a[i];
  const norm = Math.sqrt(sum) + 1e-7;
  for (let i = 0; i < size; i++) a[i] /= norm;
  const square = x.subarray(0, r * r);
  const fourth = b.subarray(0, r * r);
  for (let iteration = 0; iteration < 4; iteration++) {
    memory.product(a, a, r, r, k, square, true); // a^T a
    memory.product(square, square, r, r, r, fourth);
    for (let i = 0; i < r * r; i++) square[i] = -4.775 * square[i] + 2.0315 * fourth[i];
    memory.product(a, square, k, r, r, b);
    for (let i = 0; i < size; i++) a[i] = 3.4445 * a[i] + b[i];
  }
  if (rows >= columns) return a;
  transpose(a, columns, rows, b);
  return b;
}

/** One step down, with the gradients of its batch. @param {Learner} learner */
export function update({ net, work }, step, config) {
  const { parameters, memory } = net;
  const factor = lr_factor(step, config);
  clip(parameters.flat.dweight, config.grad_clip);
  for (const parameter of parameters.all) {
    const { name, shape } = parameter;
    const decay = shape.length > 1 ? config.weight_decay : 0;
    if (config.optimizer === "muon" && shape.length > 1 && name.startsWith("blocks.")) {
      muon(parameter, factor * config.muon_learning_rate, decay, config.beta1, work, memory);
    } else adamw(parameter, step, factor * config.learning_rate, decay, config);
  }
}
