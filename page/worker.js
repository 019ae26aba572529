// @ts-check
// The worker, in which the browser runs the network beside the page, which stays free to draw.
//
// What the page sends:
//   load {config, vocab_size, text, probe}             weights
//   create {config, vocab_size, seed}                  a network that has learned nothing
//   learn {config, tokens, seed, run, helper}          train it from now on; helper: see Training
//   help {config, vocab_size, port}                    another worker that learns, see help()
//   allow {steps, look_at}                             how many steps it may make from now on: 0
//                                                      holds it; look_at: weights to look at in one
//   pack {}                                            send the weights
//   count {train, validation, vocab_size}              send ngram_losses
//   switch_off {heads}                                 the heads ("layer.head") that are off
//   text {ids, prompt_length, wanted, version}         another text, see Stream.set_text; numbered
//   settings {settings}                                how to draw from now on
//   write {count}, stop {}                             writes that come in a row are done in a row
// What the worker sends:
//   ready {difference}                                 with the weights; see probe_difference
//   step {run, step, loss, seconds, look}              look: see Training.step_closely
//   moment {run, step, train_loss, val_loss, validated, seconds, sample}
//   packed {weights}, counted {losses}
//   records {records, version, settings}               what was read, see Stream.read
//   done {count, seconds}                              once for each write

import { allocate } from "./kernels.js";
import { GPT } from "./model.js";
import { Parameters, pack, unpack } from "./weights.js";
import { Stream, next_probabilities, short_sample } from "./generate.js";
import { Learner, initialize } from "./learn.js";
import { Training, compute } from "./train.js";
import { ngram_losses } from "./ngrams.js";

const BETWEEN_REPORTS = 8; // milliseconds: two of them in a frame of the screen
const BETWEEN_MOMENTS = 1000; // milliseconds, at least; and ten times what a moment costs
const VALIDATED_OFTEN = 4096; // characters
const VALIDATED_AT_END = 200000; // or the whole split, if it has fewer
const LONGEST_COUNTED = 5; // characters

/** The weights of a network, a network that writes the page's text, and, if it learns, one that
 *  learns in batches and one that writes samples. */
export function new_networks(config, vocab_size, batch_size = 0) {
  return allocate((memory) => {
    const learns = batch_size > 0;
    const parameters = new Parameters(config, vocab_size, memory, learns);
    const new_gpt = (B = 0) => new GPT(config, vocab_size, parameters, memory, B);
    const learner = learns ? new Learner(new_gpt(batch_size), memory) : null;
    return { parameters, writer: new_gpt(), sampler: learns ? new_gpt() : null, learner };
  });
}

/** How far the surprises of the characters ids[1], ids[2], ... are from those that Python has
 *  computed with the same weights, at most, in nats: this program should compute the same
 *  network. */
export function probe_difference(network, { ids, surprises }) {
  const { logits, V, vocab_size } = network;
  network.forward(ids, 0, ids.length - 1);
  const differences = surprises.map((expected, t) => {
    const probabilities = next_probabilities(logits.slice(t * V, t * V + vocab_size));
    return Math.abs(-Math.log(probabilities[ids[t + 1]]) - expected);
  });
  return Math.max(...differences.map((difference) => (difference >= 0 ? difference : Infinity)));
}

/** Compute what Training.both() asks for, at the other end of the port. */
export function help({ config, vocab_size, port }) {
  const { parameters, learner } = new_networks(config, vocab_size, config.batch_size / 2);
  port.onmessage = ({ data: { windows, learns, weight } }) => {
    parameters.flat.weight.set(weight);
    const answer = compute(learner, windows, learns);
    port.postMessage(answer, [answer.gradient.buffer]);
  };
}

export function start_worker() {
  let networks, stream, settings, version;
  let run = 0; // that is learning: a new one ends the one before
  let allowed = Infinity; // steps until it is held
  let look_at = ""; // the weights to look at in the next step
  let wake = null; // while it is held
  let turn = 0; // raised by each new text, which ends what is done with the one before
  let stops = 0; // raised by each Stop, which ends all writes that were asked for before it
  let last_task = Promise.resolve(); // each task begins when the one before has ended
  let unsent = [];
  let last_report = 0;

  // Lets messages arrive. Unlike a time-out, a message to oneself is not delayed by 4 ms.
  const { port1, port2 } = new MessageChannel();
  const resumed = [];
  port1.onmessage = () => resumed.shift()?.();
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
    networks = next;
    stream = new Stream(networks.writer);
    turn += 1; // what was read, another network has read
  }

  const tasks = {
    load(message) {
      const next = new_networks(message.config, message.vocab_size);
      unpack(message.text, next.parameters);
      use(next);
      const difference = message.probe ? probe_difference(next.writer, message.probe) : 0;
      postMessage({ kind: "ready", difference });
    },

    create(message) {
      run = 0;
      const next = new_networks(message.config, message.vocab_size);
      initialize(next.writer, message.seed);
      use(next);
      postMessage({ kind: "ready", difference: 0 });
    },

    async learn(message) {
      const { config, tokens, seed, run: mine, helper } = message;
      run = mine;
      tasks.allow({ steps: Infinity });
      const { weight } = networks.parameters.flat;
      const { vocab_size } = networks.writer;
      use(new_networks(config, vocab_size, config.batch_size / 2));
      networks.parameters.flat.weight.set(weight);
      const { learner, sampler } = networks;
      const training = new Training(learner, tokens, config, seed, helper);
      let began = performance.now();
      let next_moment = -Infinity;
      let losses = []; // of the batches since then
      const send = (kind, facts) => {
        const seconds = (performance.now() - began) / 1000;
        postMessage({ kind, run: mine, step: training.done, seconds, ...facts });
      };
      for (;;) {
        const end = training.done === config.max_iters;
        if (end || performance.now() > next_moment) {
          const before = performance.now();
          const most = end ? VALIDATED_AT_END : VALIDATED_OFTEN;
          const val_loss = await training.estimate_loss(most);
          const train_loss = losses.reduce((a, b) => a + b, 0) / losses.length || val_loss;
          const validated = Math.min(most, training.validation.length);
          const sample = short_sample(sampler);
          send("moment", { train_loss, val_loss, validated, sample });
          const now = performance.now();
          [losses, next_moment] = [[], now + Math.max(BETWEEN_MOMENTS, 10 * (now - before))];
        }
        await pause();
        if (end || run !== mine) return;
        if (!allowed) {
          const held = performance.now();
          await new Promise((resolve) => (wake = () => resolve(null)));
          began += performance.now() - held;
          if (run !== mine) return;
        }
        allowed -= 1;
        const name = look_at;
        look_at = ""; // the next one may arrive while this step is awaited
        const look = name ? await training.step_closely(name) : null;
        losses.push(look ? look.loss : await training.step());
        send("step", { loss: losses.at(-1), look });
      }
    },

    help,

    allow(message) {
      allowed = message.steps;
      look_at = message.look_at ?? "";
      if (allowed) wake?.();
    },

    pack: () => postMessage({ kind: "packed", weights: pack(networks.parameters) }),

    count({ train, validation, vocab_size }) {
      const losses = ngram_losses(train, validation, vocab_size, LONGEST_COUNTED);
      postMessage({ kind: "counted", losses });
    },

    switch_off: ({ heads }) => (networks.writer.switched_off = new Set(heads)),

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
