// @ts-check
// What the reader sees: a text, and views that show how the network reads it, writes and learns.
// The network itself runs in a worker, so that the page never waits for it.

import { next_probabilities } from "./generate.js";
import { is_supported } from "./kernels.js";
import { shapes_of, size_of } from "./weights.js";
import { start_worker } from "./worker.js";
import { by_id, describe_left_out, element, plain, visible, whole } from "./views/dom.js";
import { TextView } from "./views/text.js";
import { ChoiceView, show_surprise } from "./views/choice.js";
import { AttentionView } from "./views/attention.js";
import { LearnView, new_training } from "./views/learn.js";
import { StepView } from "./views/step.js";
import { show_loss } from "./views/loss.js";
import { show_samples } from "./views/samples.js";

const PER_PRESS = 500; // characters that one press of Write adds
const AT_FIRST = 200; // characters that the page writes by itself when it is opened
const ATTENTION_KEPT = 2000; // characters whose attention weights are kept: they take much memory
const MOST_DIFFERENT = 0.01; // nats: float32's rounding gives less than a thousandth of that

/** The text and what is selected in it. Views read this; to change it, they call its functions. A
 *  character of the text is {id, origin}, and, once the network has read it, {id, origin, logits
 *  (of the next), attention, start}, see Stream.read. Its origin is "prompt", "yours" (chosen by
 *  the reader), or the settings with which it was drawn. */
class Page {
  constructor(data, new_worker) {
    this.data = data;
    this.worker = new_worker();
    this.worker.onmessage = ({ data: message }) => this.receive(message);
    this.worker.onerror = ({ message }) => this.fail(message);
    this.text = [];
    this.read_to = 0; // the network has read the text up to here
    this.ids = new Map(); // {character: id}
    this.settings = null; // with which characters are drawn
    this.selected = null; // the index of a character; null: the newest; Infinity: the next one
    this.hovered = null;
    this.shading = "surprise";
    this.layer = this.head = 0;
    this.off = new Set(); // "layer.head" of the heads that are switched off
    this.loss_with_all = null; // the mean loss of this text before a head was switched off
    this.version = 0; // of the text: what the worker sends about an older one is ignored
    this.pending = 0; // presses of Write that the worker has not done yet
    this.will_draw = false; // at the next frame
    this.unsaved = false; // whether the network has learned something that is in no file
    this.text_view = new TextView(this);
    this.choice_view = new ChoiceView(this);
    this.attention_view = new AttentionView(this);
    this.step_view = new StepView(this);
    this.learn_view = new LearnView(this, new_worker);
    this.change_settings();
    this.use(data);
  }

  /** Show another network, whose weights the worker has, or will have soon. */
  use(data) {
    this.data = data;
    this.ids = new Map(data.vocab.map((one, id) => [one, id]));
    this.layer = this.head = 0;
    this.off.clear();
    this.text = [];
    this.read_to = 0;
    this.attention_view.build();
    this.step_view.build(shapes_of(data.config, data.vocab.length));
    this.show_training();
  }

  show_training() {
    show_about(this.data);
    show_loss(this.data);
    show_samples(this.data);
  }

  // What happens in the text.

  change_settings() {
    const value_of = (id) => {
      const input = by_id(id); // the browser says what is out of range
      return input.reportValidity() && input.value !== "" ? +input.value : null;
    };
    const [temperature, top_k, top_p] = ["temperature", "top-k", "top-p"].map(value_of);
    this.settings = { temperature, top_k, top_p, seed: value_of("seed") ?? 0 };
    by_id("temperature-shown").textContent = temperature.toFixed(2);
    this.worker.postMessage({ kind: "settings", settings: this.settings });
    this.draw_soon();
  }

  /** The text becomes the prompt, as far as the network knows its characters. */
  start_over() {
    const characters = Array.from(by_id("prompt").value);
    by_id("left-out").textContent = describe_left_out(characters, this.ids);
    const ids = characters.filter((one) => this.ids.has(one)).map((one) => this.ids.get(one));
    // As in sample.py: an empty prompt is a newline, as before a new speech.
    if (!ids.length) ids.push(this.ids.get("\n") ?? 0);
    this.set_text(ids.map((id) => ({ id, origin: "prompt" })));
    this.selected = null;
    by_id("status").textContent = "";
  }

  /** The character at `index` becomes another one; the text ends there. */
  choose(index, id) {
    this.set_text([...this.text.slice(0, index), { id, origin: "yours" }]);
    if (this.selected !== Infinity) this.selected = null;
  }

  /** Another text. What it shares with the present one need not be read again. */
  set_text(characters) {
    let kept = 0;
    while (kept < this.read_to && this.text[kept].id === characters[kept]?.id) kept++;
    this.text = characters.map((one, i) => (i < kept ? { ...this.text[i], ...one } : one));
    this.read_to = kept;
    this.loss_with_all = null;
    const ids = characters.map(({ id }) => id);
    const { prompt_length } = this;
    const version = ++this.version;
    this.worker.postMessage({ kind: "text", ids, prompt_length, wanted: kept, version });
    this.draw_soon();
  }

  /** The network computes something else now: it reads the text again. */
  refresh() {
    this.read_to = 0;
    this.set_text(this.text);
  }

  write(count) {
    this.selected = this.loss_with_all = null;
    this.pending += 1;
    this.worker.postMessage({ kind: "write", count });
    by_id("status").textContent = count > 1 ? "Writing." : "";
  }

  // What comes from the worker.

  receive({ kind, run = this.learn_view.run, ...message }) {
    if (run === this.learn_view.run) this[kind](message); // else it is of an earlier run
  }

  fail(message) {
    by_id("failed").hidden = false;
    by_id("failure").textContent = message;
  }

  ready({ difference }) {
    by_id("differs").hidden = difference < MOST_DIFFERENT;
    by_id("difference").textContent = difference.toFixed(2);
    for (const id of ["write", "one", "again", "another", "learn"]) by_id(id).disabled = false;
    if (!this.learn_view.learning) this.begin();
  }

  /** Write a little, for readers who do not mind that something moves. */
  begin() {
    this.start_over();
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.write(AT_FIRST);
    else by_id("status").textContent = "Press Write: the network continues the prompt.";
  }

  records({ records, version, settings }) {
    if (version !== this.version) return;
    for (const { index, ...record } of records) {
      this.text[index] = { origin: this.text[index]?.origin ?? settings, ...record };
      this.read_to = index + 1;
      delete this.text[index - ATTENTION_KEPT]?.attention;
    }
    this.draw_soon();
  }

  done({ count, seconds }) {
    this.pending -= 1;
    const rate = `${whole(Math.round(count / seconds))} characters per second`;
    by_id("status").textContent = count > 1 ? `Wrote ${count} characters, ${rate}.` : "";
    this.draw_soon();
  }

  step(message) {
    const { step, loss, look } = message;
    this.unsaved = true;
    this.data.step = step;
    this.data.batches.push([step, loss]);
    this.learn_view.step(message);
    if (look) this.step_view.show(look);
  }

  moment(message) {
    const { data } = this;
    const { step, train_loss, val_loss, sample } = message;
    Object.assign(data, { step, val_loss });
    data.log.step.push(step);
    data.log.train_loss.push(train_loss);
    data.log.val_loss.push(val_loss);
    const text = sample.map((id) => data.vocab[id]).join("").trim();
    data.samples.push([step, text]);
    this.show_training();
    this.refresh();
    this.learn_view.moment(message);
    if (step === data.config.max_iters) this.begin();
  }

  packed({ weights }) {
    keep(this.data, weights);
    this.unsaved = false;
    this.refresh(); // packing has rounded the weights
  }

  // What the views ask for.

  get prompt_length() {
    const end = this.text.findIndex(({ origin }) => origin !== "prompt");
    return end < 0 ? this.text.length : end;
  }

  label(index) {
    return visible(this.data.vocab[this.text[index].id]);
  }

  /** The character whose choice is shown; text.length is the one that comes next. */
  chosen_index() {
    const { length } = this.text;
    return Math.min(this.selected ?? (length > this.prompt_length ? length - 1 : length), length);
  }

  /** The character that the reader points at: hovered, else selected, else the newest. */
  pointed_index() {
    return Math.min(this.hovered ?? this.selected ?? Infinity, this.text.length - 1);
  }

  /** -log of the probability at temperature 1 that the character at `index` had, in nats; null if
   *  it had none. */
  surprise(index) {
    const logits = this.text[index - 1]?.logits;
    if (!logits) return null;
    this.text[index].surprise ??= -Math.log(next_probabilities(logits)[this.text[index].id]);
    return this.text[index].surprise;
  }

  mean_loss() {
    const read = this.text.slice(0, this.read_to).map((_, index) => this.surprise(index));
    const known = read.filter((surprise) => surprise !== null);
    return known.length ? known.reduce((a, b) => a + b) / known.length : null;
  }

  point(index) {
    this.selected = index >= this.text.length ? Infinity : Math.max(0, index);
    this.draw_soon();
  }

  hover(index) {
    this.hovered = index >= 0 && index < this.text.length ? index : null;
    this.draw_soon();
  }

  shade_by(what) {
    this.shading = what;
    this.draw_soon();
  }

  choose_head(layer, head) {
    [this.layer, this.head] = [layer, head];
    this.shade_by("attention");
  }

  is_off(layer, head) {
    return this.off.has(`${layer}.${head}`);
  }

  head_name(layer = this.layer, head = this.head) {
    return `layer ${layer + 1}, head ${head + 1}`;
  }

  /** Switch the chosen head off, or on again. */
  switch_head() {
    const name = `${this.layer}.${this.head}`;
    const loss_with_all = this.off.size ? this.loss_with_all : this.mean_loss();
    if (!this.off.delete(name)) this.off.add(name);
    this.worker.postMessage({ kind: "switch_off", heads: [...this.off] });
    this.refresh();
    this.loss_with_all = loss_with_all;
  }

  draw_soon() {
    if (this.will_draw) return;
    this.will_draw = true;
    requestAnimationFrame(() => {
      this.will_draw = false;
      this.text_view.draw();
      this.choice_view.draw();
      this.attention_view.draw();
      show_surprise(this);
    });
  }
}

function show_about({ config, vocab, step, source }) {
  const count = shapes_of(config, vocab.length).reduce((sum, [, shape]) => sum + size_of(shape), 0);
  const what = step
    ? `trained for ${whole(step)} steps on ${plain(source)}`
    : "that has learned nothing yet";
  by_id("about").textContent =
    `A Transformer of ${whole(count)} parameters, ${what}. ` +
    "It runs in this page, on your machine: nothing is sent anywhere.";
}

// The page as it was before anything was shown in it.
const original = typeof document === "undefined" ? "" : document.documentElement.outerHTML;

/** Download this page, as it was at first, with this network in it. */
function keep(data, weights) {
  const kept = { ...data, learn: { ...data.learn, sizes: [] }, untrained: false, probe: null };
  const parts = { data: JSON.stringify(kept).replaceAll("<", "\\u003c"), weights };
  const html = original.replace(/(?<=id="(data|weights)">)[^<]*/g, (_, id) => parts[id]);
  const file = new Blob(["<!doctype html>\n", html], { type: "text/html" });
  element("a", { href: URL.createObjectURL(file), download: "my-gpt.html" }).click();
}

function start_page() {
  by_id("unsupported").hidden = is_supported();
  if (!is_supported()) return;
  const data = { ...new_training(""), ...JSON.parse(by_id("data").textContent) };
  const { config, vocab, untrained, probe } = data;
  const program = new Blob([by_id("program").textContent], { type: "text/javascript" });
  const address = URL.createObjectURL(program);
  by_id("main").hidden = false; // without JavaScript, it would be dead controls
  if (untrained) {
    by_id("main").prepend(by_id("learning"));
    by_id("title").textContent = document.title = "See a network learn";
    by_id("learn-title").textContent = "Teach it a text";
  }
  const page = new Page(data, () => new Worker(address));
  const [kind, vocab_size] = [untrained ? "create" : "load", vocab.length];
  const text = by_id("weights").textContent;
  page.worker.postMessage({ kind, config, vocab_size, text, probe, seed: 1337 });

  by_id("prompt").addEventListener("input", () => page.start_over());
  by_id("write").addEventListener("click", () => page.write(PER_PRESS));
  by_id("one").addEventListener("click", () => page.write(1));
  by_id("stop").addEventListener("click", () => page.worker.postMessage({ kind: "stop" }));
  by_id("again").addEventListener("click", () => page.start_over());
  by_id("another").addEventListener("click", () => {
    by_id("seed").stepUp();
    page.change_settings();
    page.start_over();
    page.write(PER_PRESS);
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by_id("write").click();
    if (event.key === "Escape") by_id("stop").click();
  });
  // So that the browser asks before it leaves or reloads the page.
  addEventListener("beforeunload", (event) => {
    if (page.unsaved) event.preventDefault();
  });
}

// The same program runs in the page and in its workers.
if (typeof document === "undefined") start_worker();
else addEventListener("DOMContentLoaded", start_page);
