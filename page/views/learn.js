// @ts-check
// The panel in which the network learns. On a page without a trained network, it trains a new one;
// else it goes on with the one that is there: fine-tuning.

import { can_learn } from "../learn.js";
import { all, by_id, describe_left_out, element, whole } from "./dom.js";
import { show_loss } from "./loss.js";

const MOST_CHARACTERS = 5000; // different ones: the embedding of more would take too long to learn
const MOST_COUNTED = 1e6; // characters of a text: more n-grams would take too much memory
const PLENTY = 100000; // characters: more hardly helps so small a network

/** What is known of a training that has not begun. source: the text's name. */
export function new_training(source) {
  const log = { step: [], train_loss: [], val_loss: [] };
  return { source, step: 0, val_loss: null, log, batches: [], samples: [], counted: [] };
}

export class LearnView {
  constructor(page, new_worker) {
    this.page = page;
    this.new_worker = new_worker;
    this.learning = this.held = false;
    this.validation = 0; // how many characters the validation text has
    this.run = 0; // raised by each press of Learn: what a run before that reports is ignored
    const { learn, untrained, config } = page.data;
    const able = can_learn(config);
    by_id("learn-controls").hidden = !able;
    by_id("learn-note").textContent = !able
      ? "This page can train only networks whose sizes are multiples of 8."
      : untrained
        ? "Paste a text that you like, or open one: a play, your own poems, a recipe book. The " +
          "network learns to continue it, one character at a time. The curve shows how well."
        : "The curves are those of the training so far. Paste another text, and this network " +
          "goes on learning, from the weights that it has now: fine-tuning.";
    by_id("learn-text").value = untrained ? learn.text : "";
    by_id("learn-sizes").hidden = !learn.sizes.length;
    learn.sizes.forEach(({ name }, i) => {
      const look = { type: "radio", name: "size", value: i, autocomplete: "off" };
      const radio = element("input", i ? look : { ...look, checked: "" });
      by_id("learn-sizes").append(element("label", {}, radio, name));
    });
    this.show_length();
    by_id("learn-text").addEventListener("input", () => this.show_length());
    by_id("learn").addEventListener("click", () => this.learn());
    by_id("learn-pause").addEventListener("click", () => this.allow(this.held ? Infinity : 0));
    by_id("look-next").addEventListener("click", () => this.allow(1, by_id("look-matrix").value));
    by_id("learn-keep").addEventListener("click", () => page.worker.postMessage({ kind: "pack" }));
    by_id("learn-file").addEventListener("change", ({ target }) => {
      this.open(target.files[0]);
      target.value = ""; // so that the same file can be opened again after an edit
    });
    // Anywhere: the browser would leave the page for a file that is dropped beside the box.
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.open(event.dataTransfer.files[0]);
    });
  }

  async open(file) {
    if (file) by_id("learn-text").value = await file.text();
    this.show_length();
  }

  show_length() {
    const { data, ids } = this.page;
    const characters = Array.from(by_id("learn-text").value);
    const [many, different, plenty] =
      [characters.length, new Set(characters).size, PLENTY].map(whole);
    const length = `${many} characters, ${different} different ones; ${plenty} are enough.`;
    const left_out = data.learn.sizes.length ? "" : describe_left_out(characters, ids);
    by_id("learn-length").textContent = `${length} ${left_out}`;
  }

  learn() {
    const { page } = this;
    const { learn } = page.data;
    const characters = Array.from(by_id("learn-text").value);
    const chosen = all("[name=size]:checked")[0]?.value;
    const config = chosen ? learn.sizes[chosen].config : { ...page.data.config, ...learn.tuning };
    const vocab = chosen ? distinct(characters) : page.data.vocab;
    const ids = new Map(vocab.map((one, id) => [one, id]));
    const known = characters.filter((one) => ids.has(one));
    const tokens = Uint16Array.from(known, (one) => ids.get(one));
    const problem = problem_with(characters, tokens, vocab, config.block_size);
    by_id("learn-problem").textContent = problem;
    if (problem) return;
    const source = `a text of ${whole(tokens.length)} characters`;
    page.use({ ...page.data, config, vocab, ...new_training(source) });
    const seed = Math.floor(2 ** 31 * Math.random());
    const vocab_size = vocab.length;
    if (chosen) page.worker.postMessage({ kind: "create", config, vocab_size, seed });
    const helper = navigator.hardwareConcurrency > 1 ? [this.help(config, vocab_size)] : [];
    const message = { kind: "learn", config, tokens, seed, run: ++this.run, helper: helper[0] };
    page.worker.postMessage(message, helper);
    page.start_over();
    this.count(tokens, vocab_size);
    this.set_state(true, false);
  }

  /** A port to another worker, which computes half of each batch. */
  help(config, vocab_size) {
    this.helper?.terminate();
    this.helper = this.new_worker();
    this.helper.onerror = ({ message }) => this.page.fail(message);
    const { port1, port2 } = new MessageChannel();
    this.helper.postMessage({ kind: "help", config, vocab_size, port: port2 }, [port2]);
    return port1;
  }

  /** What counting makes of the same text, in a worker of its own: the lines to beat. */
  count(tokens, vocab_size) {
    const split = Math.floor(0.9 * tokens.length);
    this.validation = tokens.length - split;
    const train = tokens.slice(0, Math.min(split, MOST_COUNTED));
    const validation = tokens.slice(split, split + MOST_COUNTED / 10);
    const { data } = this.page;
    const counter = this.new_worker();
    counter.onmessage = ({ data: { losses } }) => {
      data.counted = losses;
      if (data === this.page.data) show_loss(data);
      counter.terminate();
    };
    counter.postMessage({ kind: "count", train, validation, vocab_size });
  }

  /** Let the run make some steps, then hold it. */
  allow(steps, look_at = "") {
    this.page.worker.postMessage({ kind: "allow", steps, look_at });
    this.set_state(true, steps < Infinity);
  }

  set_state(learning, held) {
    [this.learning, this.held] = [learning, held];
    const again = this.page.data.learn.sizes.length ? "Learn from scratch" : "Learn more";
    by_id("learn").textContent = again;
    by_id("learn-pause").disabled = by_id("look-next").disabled = !learning;
    by_id("learn-pause").textContent = held ? "Go on" : "Pause";
    by_id("learn-keep").disabled = learning && !held;
  }

  step({ step, seconds }) {
    const { max_iters, batch_size, block_size } = this.page.data.config;
    by_id("learn-step").textContent = `${whole(step)} / ${whole(max_iters)}`;
    by_id("learn-seconds").textContent = seconds.toFixed(1);
    const rate = whole(Math.round((step * batch_size * block_size) / seconds));
    const left = ((max_iters - step) * seconds) / step;
    by_id("learn-status").textContent = `${rate} characters/s, ${left.toFixed(0)} s left`;
  }

  moment({ step, val_loss, validated, seconds }) {
    by_id("learn-loss").textContent = val_loss.toFixed(3);
    by_id("learn-seconds").textContent = seconds.toFixed(1);
    if (step < this.page.data.config.max_iters) return;
    this.set_state(false, false);
    const which = validated === this.validation ? "the whole validation text, " : "";
    by_id("learn-status").textContent =
      "It has learned. Now let it write, and keep it. Its last validation loss was measured on " +
      `${which}${whole(validated)} characters; the earlier ones on about 4,096.`;
  }
}

/** In the order of their numbers, as Python sorts them. */
function distinct(characters) {
  const number = (one) => one.codePointAt(0) ?? 0;
  return [...new Set(characters)].sort((a, b) => number(a) - number(b));
}

/** What is wrong with a text to learn from, and what to do about it: a sentence, or nothing. */
function problem_with(characters, tokens, vocab, block_size) {
  const least = 10 * (block_size + 2); // a tenth, the validation text, holds a window
  const damaged = characters.filter((one) => one === "\ufffd").length;
  if (characters.includes("\0") || damaged > characters.length / 1000) {
    return "This is not a text in UTF-8. Save it as plain text, and open that.";
  }
  if (vocab.length > MOST_CHARACTERS) {
    const [many, most] = [vocab.length, MOST_CHARACTERS].map(whole);
    return `This text has ${many} different characters. Take one with ${most} at most.`;
  }
  if (tokens.length < least) {
    const unknown = characters.length - tokens.length;
    const why = unknown ? ` (without ${whole(unknown)} that this network has never seen)` : "";
    const [many, few, plenty] = [tokens.length, least, PLENTY].map(whole);
    return `This text has ${many} characters${why}. It needs ${few} or more; ${plenty} are plenty.`;
  }
  if (new Set(tokens).size === 1) {
    return "This text repeats one character, so there is nothing to predict. Take another one.";
  }
  return "";
}
