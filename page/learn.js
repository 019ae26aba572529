// How a network learns: train.py in JavaScript, and the backward pass that PyTorch derives by itself.
//
// Each part of the network has two functions. The first computes the part's output. The second,
// ..._backward, is given the gradient of the loss with respect to this output, and computes those
// with respect to the part's input and its weights: the chain rule. The gradient of x is called
// d_x, and has the shape of x.
//
// The letters in the shapes are model.py's: B sequences in a batch, T characters in a sequence, C
// the embedding dimension, V characters in the vocabulary; H heads of D dimensions each, and
// N = B T characters in a batch. Arrays are flat, and made once, by allocate(): a step makes none.
// There is no dropout: the page's networks learn for too short a time to need it.
"use strict";

// --- The parts, forward and backward ----------------------------------------------------------

function transpose(x, rows, columns, y) {
  // (rows, columns) -> (columns, rows)
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < columns; i++) y[i * rows + row] = x[row * columns + i];
  }
}

function linear(x, weight, N, inputs, outputs, y, turned) {
  // y = x weight^T, for weight (outputs, inputs): (N, inputs) -> (N, outputs). turned: room for
  // the transposed weights.
  transpose(weight, outputs, inputs, turned);
  memory.product(x, turned, N, outputs, inputs, y);
}

function linear_backward(d_y, x, weight, N, inputs, outputs, d_x, d_weight) {
  memory.product(d_y, weight, N, inputs, outputs, d_x); // d_x = d_y weight
  memory.product(d_y, x, outputs, inputs, N, d_weight, true); // d_weight = d_y^T x
}

function norm(x, gain, rows, size, { normalized, scales }, y) {
  // Each row, shifted and scaled to mean 0 and variance 1, then times the gain, where there is one.
  // scales (rows): what the rows are multiplied by.
  for (let row = 0; row < rows; row++) {
    const from = row * size;
    let mean = 0;
    let variance = 0;
    for (let i = 0; i < size; i++) mean += x[from + i];
    mean /= size;
    for (let i = 0; i < size; i++) variance += (x[from + i] - mean) * (x[from + i] - mean);
    const scale = (scales[row] = 1 / Math.sqrt(variance / size + 1e-5));
    for (let i = 0; i < size; i++) normalized[from + i] = (x[from + i] - mean) * scale;
    if (gain) for (let i = 0; i < size; i++) y[from + i] = normalized[from + i] * gain[i];
  }
}

function norm_backward(d_y, gain, rows, size, { normalized, scales }, d_gain) {
  // d_y becomes d_x. A change of x that only shifts or stretches a row does not change what is
  // normalized, so these two directions are taken out.
  d_gain?.fill(0);
  for (let row = 0; row < rows; row++) {
    const from = row * size;
    const [scale, end] = [scales[row], from + size];
    if (gain) for (let i = 0; i < size; i++) d_gain[i] += d_y[from + i] * normalized[from + i];
    if (gain) for (let i = 0; i < size; i++) d_y[from + i] *= gain[i];
    let shift = 0;
    let stretch = 0;
    for (let i = from; i < end; i++) shift += d_y[i];
    for (let i = from; i < end; i++) stretch += d_y[i] * normalized[i];
    shift /= size;
    stretch /= size;
    for (let i = from; i < end; i++) d_y[i] = scale * (d_y[i] - shift - normalized[i] * stretch);
  }
}

function shift_batch(x, { B, T, C }) {
  // The first half of each vector becomes that of the character before it, in place: (B, T, C).
  const half = Math.floor(C / 2);
  for (let n = B * T - 1; n >= 0; n--) {
    if (n % T) x.copyWithin(n * C, (n - 1) * C, (n - 1) * C + half);
    else x.fill(0, n * C, n * C + half);
  }
}

function shift_batch_backward(d_x, { B, T, C }) {
  const half = Math.floor(C / 2);
  for (let n = 0; n < B * T; n++) {
    if ((n + 1) % T) d_x.copyWithin(n * C, (n + 1) * C, (n + 1) * C + half);
    else d_x.fill(0, n * C, n * C + half);
  }
}

function gelu_batch(x, y) {
  // y = x times the probability that a normally distributed number is below x; then x becomes the
  // slope of this function, which is all that the backward pass needs.
  const density = 1 / Math.sqrt(2 * Math.PI);
  for (let i = 0; i < x.length; i++) {
    const bell = Math.exp((-x[i] * x[i]) / 2);
    const probability = below(x[i], bell); // network.js
    y[i] = x[i] * probability;
    x[i] = probability + x[i] * density * bell;
  }
}

function move_heads(flat, parts, part, heads, { B, T, H, D }, back = false) {
  // (B, T, parts, H, D)[:, :, part] -> (B, H, T, D), or back.
  for (let n = 0; n < B * T; n++) {
    const [b, t] = [Math.floor(n / T), n % T];
    for (let h = 0; h < H; h++) {
      const [from, to] = [((n * parts + part) * H + h) * D, ((b * H + h) * T + t) * D];
      if (back) for (let i = 0; i < D; i++) flat[from + i] = heads[to + i];
      else for (let i = 0; i < D; i++) heads[to + i] = flat[from + i];
    }
  }
}

function rotate_all(x, tables, { B, T, H, D }) {
  for (let row = 0; row < B * H * T; row++) rotate(x, row * D, D, row % T, tables); // network.js
}

function attention(layer, { config, dims, rotary, turned, mixed_heads }) {
  // softmax(q k^T / sqrt(D)) v, where no query sees a later key, for the queries, keys and values
  // in layer.qkv (B, T, 3, H, D), into layer.mixed (N, C).
  const { B, T, H, D } = dims;
  const { qkv, q, k, v, q_scales, k_scales, weights, mixed } = layer;
  [q, k, v].forEach((heads, part) => move_heads(qkv, 3, part, heads, dims));
  if (config.qk_norm) {
    norm(q, null, B * H * T, D, { normalized: q, scales: q_scales });
    norm(k, null, B * H * T, D, { normalized: k, scales: k_scales });
  }
  if (rotary) for (const x of [q, k]) rotate_all(x, rotary, dims);
  for (let head = 0; head < B * H; head++) {
    const of = (x, size) => x.subarray(head * T * size, (head + 1) * T * size);
    const scores = of(weights, T); // (T, T)
    transpose(of(k, D), T, D, turned); // (T, D) -> (D, T)
    memory.product(of(q, D), turned, T, T, D, scores);
    for (let t = 0; t < T; t++) {
      for (let s = t * T; s <= t * T + t; s++) scores[s] /= Math.sqrt(D);
      softmax(scores, t * T, t + 1); // network.js
      scores.fill(0, t * T + t + 1, (t + 1) * T);
    }
    memory.product(scores, of(v, D), T, D, T, of(mixed_heads, D));
  }
  move_heads(mixed, 1, 0, mixed_heads, dims, true);
}

function attention_backward(d_mixed, layer, net, d_qkv) {
  const { config, dims, rotary, turned, mixed_heads: d_y, d_weights } = net;
  const { B, T, H, D } = dims;
  const { q, k, v, q_scales, k_scales, weights } = layer;
  const { d_q, d_k, d_v } = net;
  move_heads(d_mixed, 1, 0, d_y, dims);
  for (let head = 0; head < B * H; head++) {
    const of = (x, size) => x.subarray(head * T * size, (head + 1) * T * size);
    const p = of(weights, T);
    memory.product(p, of(d_y, D), T, D, T, of(d_v, D), true); // d_v = p^T d_y
    transpose(of(v, D), T, D, turned);
    memory.product(of(d_y, D), turned, T, T, D, d_weights); // d_p = d_y v^T
    for (let t = 0; t < T; t++) {
      // Through the softmax: a score that rises takes its weight from all others of the row.
      let mean = 0;
      for (let s = t * T; s <= t * T + t; s++) mean += p[s] * d_weights[s];
      for (let s = t * T; s <= t * T + t; s++) {
        d_weights[s] = (p[s] * (d_weights[s] - mean)) / Math.sqrt(D);
      }
      d_weights.fill(0, t * T + t + 1, (t + 1) * T);
    }
    memory.product(d_weights, of(k, D), T, D, T, of(d_q, D)); // d_q = d_scores k
    memory.product(d_weights, of(q, D), T, D, T, of(d_k, D), true); // d_k = d_scores^T q
  }
  // The gradient of a rotation rotates back. q and k too, to what they were before it.
  const back = rotary && { cos: rotary.cos, sin: rotary.sin.map((x) => -x) };
  if (rotary) for (const x of [d_q, d_k, q, k]) rotate_all(x, back, dims);
  if (config.qk_norm) {
    norm_backward(d_q, null, B * H * T, D, { normalized: q, scales: q_scales });
    norm_backward(d_k, null, B * H * T, D, { normalized: k, scales: k_scales });
  }
  [d_q, d_k, d_v].forEach((heads, part) => move_heads(d_qkv, 3, part, heads, dims, true));
}

function cross_entropy(logits, ids, { T, V }, vocab_size, count) {
  // The mean surprise of the first `count` targets, in nats; logits (N, V) become their gradient.
  // ids: (B, T + 1); the target of entry (b, t) is (b, t + 1).
  let total = 0;
  for (let n = 0; n < count; n++) {
    const target = ids[Math.floor(n / T) * (T + 1) + (n % T) + 1];
    softmax(logits, n * V, vocab_size);
    total -= Math.log(logits[n * V + target]);
    logits[n * V + target] -= 1;
    for (let id = 0; id < vocab_size; id++) logits[n * V + id] /= count;
    logits.fill(0, n * V + vocab_size, (n + 1) * V); // the padding
  }
  return total / count;
}

// --- The network: its arrays, its loss, and the gradient of that -------------------------------

function tensors_of(config, vocab_size) {
  // [[name, shape]] of the weights, in PyTorch's order.
  const { n_layer, n_embd: C, block_size, position } = config;
  const tensors = [["token_embedding.weight", [vocab_size, C]]];
  if (position === "learned") tensors.push(["position_embedding.weight", [block_size, C]]);
  for (let layer = 0; layer < n_layer; layer++) {
    const name = (part) => `blocks.${layer}.${part}.weight`;
    tensors.push([name("attention_norm"), [C]]);
    tensors.push([name("attention.query_key_value"), [3 * C, C]]);
    tensors.push([name("attention.projection"), [C, C]]);
    tensors.push([name("feed_forward_norm"), [C]]);
    tensors.push([name("feed_forward.expand"), [4 * C, C]]);
    tensors.push([name("feed_forward.projection"), [C, 4 * C]]);
  }
  return [...tensors, ["norm.weight", [C]]];
}

function size_of(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

function allocate(config, vocab_size, B, array) {
  // All arrays of a network that learns from batches of B sequences. array(size) makes one.
  const { n_layer, n_embd: C, n_head: H, block_size: T } = config;
  const V = 8 * Math.ceil(vocab_size / 8); // padded: a product's width is a multiple of 8
  const N = B * T;
  const tensors = tensors_of(config, V);
  const total = tensors.reduce((sum, [, shape]) => sum + size_of(shape), 0);
  const weights_like = () => {
    const flat = array(total);
    let from = 0;
    const parts = tensors.map(([name, shape]) => {
      from += size_of(shape);
      return [name, flat.subarray(from - size_of(shape), from)];
    });
    return { flat, ...Object.fromEntries(parts) };
  };
  const new_norm = () => ({ normalized: array(N * C), scales: array(N) });
  const new_layer = () => ({
    attention_norm: new_norm(),
    attention_input: array(N * C),
    qkv: array(3 * N * C), // (B, T, 3, H, D)
    q: array(N * C), // (B, H, T, D), and so are k and v
    k: array(N * C),
    v: array(N * C),
    q_scales: array(N * H),
    k_scales: array(N * H),
    weights: array(N * H * T), // (B, H, T, T)
    mixed: array(N * C),
    feed_forward_norm: new_norm(),
    feed_forward_input: array(N * C),
    slopes: array(4 * N * C), // of GELU
    expanded: array(4 * N * C),
  });
  const weights = weights_like();
  const widest = Math.max(V, 4 * C) * C;
  return {
    config,
    vocab_size,
    dims: { B, T, C, V, H, D: C / H, N },
    tensors,
    positions: position_table(config, weights), // network.js
    rotary: config.position === "rotary" ? rotary_tables(T, C / H) : null,
    weights,
    gradients: weights_like(),
    averages: weights_like(), // of the gradients, and
    squares: weights_like(), // of their squares: AdamW's
    layers: Array.from({ length: n_layer }, new_layer),
    final_norm: new_norm(),
    final: array(N * C),
    logits: array(N * V),
    x: array(N * C), // the residual stream
    y: array(N * C), // what a part adds to it; in the backward pass, the gradient of that
    d_wide: array(4 * N * C),
    d_q: array(N * C),
    d_k: array(N * C),
    d_v: array(N * C),
    mixed_heads: array(N * C),
    d_weights: array(T * T),
    turned: array(Math.max(widest, T * (C / H))),
    muon: Array.from({ length: 4 }, () => array(4 * C * C)), // for nearly_orthogonal()
  };
}

function new_learner(config, vocab_size, B, weights = {}) {
  // The same, in a memory of its own that is just large enough. weights: those to begin with.
  let floats = 0;
  const counted = (size) => {
    floats += size + ALIGNED;
    return new Float32Array(0);
  };
  allocate(config, vocab_size, B, counted);
  memory = new Memory(floats, Math.max(vocab_size, 4 * config.n_embd));
  const net = allocate(config, vocab_size, B, (size) => memory.array(size));
  for (const name of Object.keys(weights)) net.weights[name].set(weights[name]);
  return net;
}

function unpadded({ weights, vocab_size, config }) {
  // The weights as network.js reads them.
  const embedding = weights["token_embedding.weight"].subarray(0, vocab_size * config.n_embd);
  return { ...weights, "token_embedding.weight": embedding };
}

function can_learn({ network, n_embd, n_head, block_size, bias }) {
  // Whether the products of a network have the sizes that Memory.product needs.
  const sizes = [n_embd, n_embd / n_head, block_size];
  return network === "gpt" && !bias && sizes.every((size) => size % 8 === 0);
}

function initialize({ config, weights, tensors, vocab_size }, seed) {
  // As model.py: normally distributed (Box and Muller 1958), the two projections of a block
  // smaller, gains of 1.
  let drawn = 0;
  for (const [name, shape] of tensors) {
    const small = name.endsWith("projection.weight") ? Math.sqrt(2 * config.n_layer) : 1;
    const used = name === "token_embedding.weight" ? vocab_size * config.n_embd : Infinity;
    weights[name].forEach((_, i, all) => {
      if (shape.length === 1) return (all[i] = 1);
      const radius = Math.sqrt(-2 * Math.log(1 - uniform(seed, drawn++))); // network.js
      const angle = 2 * Math.PI * uniform(seed, drawn++);
      all[i] = i < used ? (INIT_STD / small) * radius * Math.cos(angle) : 0;
    });
  }
}

function forward(net, ids, count = net.dims.N) {
  // The mean loss of a batch, ids (B, T + 1), in nats; of its first `count` predictions only.
  const { config, dims, weights, positions, x, y, turned } = net;
  const { T, C, V, N } = dims;
  const embedding = weights["token_embedding.weight"];
  for (let n = 0; n < N; n++) {
    const [from, at] = [ids[Math.floor(n / T) * (T + 1) + (n % T)] * C, (n % T) * C];
    for (let i = 0; i < C; i++) x[n * C + i] = embedding[from + i] + (positions?.[at + i] ?? 0);
  }
  net.layers.forEach((layer, number) => {
    const weight = (part) => weights[`blocks.${number}.${part}.weight`];
    norm(x, weight("attention_norm"), N, C, layer.attention_norm, layer.attention_input);
    if (config.token_shift) shift_batch(layer.attention_input, dims);
    const to_qkv = weight("attention.query_key_value");
    linear(layer.attention_input, to_qkv, N, C, 3 * C, layer.qkv, turned);
    attention(layer, net);
    linear(layer.mixed, weight("attention.projection"), N, C, C, y, turned);
    add(x, y); // network.js
    norm(x, weight("feed_forward_norm"), N, C, layer.feed_forward_norm, layer.feed_forward_input);
    if (config.token_shift) shift_batch(layer.feed_forward_input, dims);
    const expand = weight("feed_forward.expand");
    linear(layer.feed_forward_input, expand, N, C, 4 * C, layer.slopes, turned);
    gelu_batch(layer.slopes, layer.expanded);
    linear(layer.expanded, weight("feed_forward.projection"), N, 4 * C, C, y, turned);
    add(x, y);
  });
  norm(x, weights["norm.weight"], N, C, net.final_norm, net.final);
  linear(net.final, embedding, N, C, V, net.logits, turned);
  return cross_entropy(net.logits, ids, dims, net.vocab_size, count);
}

function backward(net, ids) {
  // The gradients of the loss that forward() has just computed, from the last part to the first.
  // d_x is the gradient of the residual stream: each part adds to it.
  const { config, dims, weights, gradients, x: d_x, y: d_y, d_wide } = net;
  const { T, C, V, N } = dims;
  const embedding = weights["token_embedding.weight"];
  const d_embedding = gradients["token_embedding.weight"];
  linear_backward(net.logits, net.final, embedding, N, C, V, d_x, d_embedding);
  norm_backward(d_x, weights["norm.weight"], N, C, net.final_norm, gradients["norm.weight"]);
  for (let number = net.layers.length - 1; number >= 0; number--) {
    const layer = net.layers[number];
    const name = (part) => `blocks.${number}.${part}.weight`;
    const through = (part, d_output, input, inputs, outputs, d_input) =>
      linear_backward(
        d_output, input, weights[name(part)], N, inputs, outputs, d_input, gradients[name(part)],
      );
    const through_norm = (part) => {
      if (config.token_shift) shift_batch_backward(d_y, dims);
      norm_backward(d_y, weights[name(part)], N, C, layer[part], gradients[name(part)]);
      add(d_x, d_y);
    };
    through("feed_forward.projection", d_x, layer.expanded, 4 * C, C, d_wide);
    for (let i = 0; i < d_wide.length; i++) d_wide[i] *= layer.slopes[i];
    through("feed_forward.expand", d_wide, layer.feed_forward_input, C, 4 * C, d_y);
    through_norm("feed_forward_norm");
    through("attention.projection", d_x, layer.mixed, C, C, d_y);
    const d_qkv = layer.qkv; // not needed any more
    attention_backward(d_y, layer, net, d_qkv);
    through("attention.query_key_value", d_qkv, layer.attention_input, C, 3 * C, d_y);
    through_norm("attention_norm");
  }
  const d_positions = gradients["position_embedding.weight"]?.fill(0);
  for (let n = 0; n < N; n++) {
    const [to, at] = [ids[Math.floor(n / T) * (T + 1) + (n % T)] * C, (n % T) * C];
    for (let i = 0; i < C; i++) d_embedding[to + i] += d_x[n * C + i];
    if (d_positions) for (let i = 0; i < C; i++) d_positions[at + i] += d_x[n * C + i];
  }
}

// --- One step: learning rate, clipping, AdamW, Muon --------------------------------------------

function get_lr(step, { max_iters, warmup_iters, lr_schedule, lr_decay_iters, min_lr, learning_rate }) {
  // The factor on the peak learning rates, as in train.py.
  if (step < warmup_iters) return (step + 1) / (warmup_iters + 1);
  if (lr_schedule === "constant") return 1;
  const end = lr_decay_iters || max_iters;
  let fraction = Math.max(0, end - step) / Math.max(1, end - warmup_iters); // of the decay, left
  if (lr_schedule === "cosine") fraction = (1 - Math.cos(Math.PI * fraction)) / 2;
  const lowest = learning_rate ? min_lr / learning_rate : 0;
  return lowest + fraction * (1 - lowest);
}

function clip(gradients, largest) {
  // Scale all gradients down together, if their norm is above `largest`.
  let square = 0;
  for (let i = 0; i < gradients.length; i++) square += gradients[i] * gradients[i];
  const factor = largest / (Math.sqrt(square) + 1e-6);
  if (largest === 0 || factor >= 1) return;
  for (let i = 0; i < gradients.length; i++) gradients[i] *= factor;
}

function adamw(w, g, average, square, step, rate, weight_decay, { beta1, beta2 }) {
  // step counts from 0. The averages begin at 0, so they are too small at first.
  const [correction1, correction2] = [1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)];
  for (let i = 0; i < w.length; i++) {
    average[i] += (1 - beta1) * (g[i] - average[i]);
    square[i] += (1 - beta2) * (g[i] * g[i] - square[i]);
    const spread = Math.sqrt(square[i] / correction2) + 1e-8;
    w[i] -= rate * (weight_decay * w[i] + average[i] / correction1 / spread);
  }
}

function muon(w, g, momentum, rows, columns, rate, weight_decay, beta, work) {
  const update = work[0];
  for (let i = 0; i < w.length; i++) {
    momentum[i] += (1 - beta) * (g[i] - momentum[i]);
    update[i] = g[i] + beta * (momentum[i] - g[i]);
  }
  const change = nearly_orthogonal(update, rows, columns, work.slice(1));
  const scaled = rate * Math.sqrt(Math.max(1, rows / columns));
  for (let i = 0; i < w.length; i++) w[i] -= rate * weight_decay * w[i] + scaled * change[i];
}

function nearly_orthogonal(x, rows, columns, work) {
  // The matrix x with its singular values moved close to 1, as in quill/muon.py. Returns one of the
  // arrays in work.
  const [a, b, c] = work;
  const size = rows * columns;
  const [r, k] = [Math.min(rows, columns), Math.max(rows, columns)];
  if (rows > columns) transpose(x, rows, columns, a);
  else a.set(x.subarray(0, size));
  let sum = 0;
  for (let i = 0; i < size; i++) sum += a[i] * a[i];
  for (let i = 0; i < size; i++) a[i] /= Math.sqrt(sum) + 1e-7;
  const square = x.subarray(0, r * r);
  for (let iteration = 0; iteration < 4; iteration++) {
    transpose(a, r, k, b);
    memory.product(a, b, r, r, k, square); // a a^T
    const fourth = b.subarray(0, r * r);
    memory.product(square, square, r, r, r, fourth);
    for (let i = 0; i < r * r; i++) square[i] = -4.775 * square[i] + 2.0315 * fourth[i];
    memory.product(square, a, r, k, r, c.subarray(0, size));
    for (let i = 0; i < size; i++) a[i] = 3.4445 * a[i] + c[i];
  }
  if (rows <= columns) return a;
  transpose(a, columns, rows, b);
  return b;
}

function update(net, step, config) {
  // One step down, with the gradients of its batch.
  const { weights, gradients, averages, squares, tensors } = net;
  const factor = get_lr(step, config);
  clip(gradients.flat, config.grad_clip);
  for (const [name, shape] of tensors) {
    const parts = [weights, gradients, averages].map((arrays) => arrays[name]);
    const decay = shape.length > 1 ? config.weight_decay : 0;
    if (config.optimizer === "muon" && shape.length > 1 && name.startsWith("blocks.")) {
      const rate = factor * config.muon_learning_rate;
      muon(...parts, ...shape, rate, decay, config.beta1, net.muon);
    } else {
      adamw(...parts, squares[name], step, factor * config.learning_rate, decay, config);
    }
  }
}

// --- The run ----------------------------------------------------------------------------------

const VALIDATED_OFTEN = 4096; // characters, once a second
const VALIDATED_AT_END = 200000; // or the whole split, if it has fewer
const BETWEEN_MOMENTS = 1000; // milliseconds

function get_batch(tokens, starts, T, batch) {
  // Windows of T + 1 token ids from each of `starts`, into batch (B, T + 1).
  starts.forEach((start, row) => batch.set(tokens.subarray(start, start + T + 1), row * (T + 1)));
  return batch;
}

function estimate_loss(net, tokens, most) {
  // The mean loss over whole windows: all of them, one after the other, or as many as have `most`
  // characters, spread evenly.
  const { B, T } = net.dims;
  const all = Math.floor((tokens.length - 1) / T);
  const count = Math.min(all, Math.ceil(most / T));
  const starts = Array.from({ length: count }, (_, i) => T * Math.floor((i * all) / count));
  const batch = new Uint16Array(B * (T + 1));
  let total = 0;
  for (let i = 0; i < count; i += B) {
    const rows = starts.slice(i, i + B);
    total += forward(net, get_batch(tokens, rows, T, batch), rows.length * T) * rows.length;
  }
  return total / count;
}

function* learn(net, tokens, config, seed) {
  // Train to max_iters. Yields {step, loss} after each step, and at the start, about once a second,
  // and at the end {step, train_loss, val_loss}, whose train_loss is that of the batches since the
  // last time.
  const { B, T } = net.dims;
  const split = Math.floor(0.9 * tokens.length);
  const [train, validation] = [tokens.subarray(0, split), tokens.subarray(split)];
  const batch = new Uint16Array(B * (T + 1));
  let [losses, last] = [[], -Infinity];
  for (let step = 0; ; step++) {
    const end = step === config.max_iters;
    if (end || performance.now() - last > BETWEEN_MOMENTS) {
      const val_loss = estimate_loss(net, validation, end ? VALIDATED_AT_END : VALIDATED_OFTEN);
      const train_loss = losses.reduce((a, b) => a + b, 0) / losses.length || val_loss;
      [losses, last] = [[], performance.now()];
      yield { step, train_loss, val_loss };
    }
    if (end) return;
    const draw = (_, row) => Math.floor(uniform(seed, step * B + row) * (split - T));
    get_batch(train, Array.from({ length: B }, draw), T, batch);
    losses.push(forward(net, batch));
    backward(net, batch);
    update(net, step, config);
    yield { step: step + 1, loss: losses.at(-1) };
  }
}
