// @ts-check
// What the reader sees: a text, and views that show how the network reads it, writes and learns.
// The network itself runs in a worker, so that the page never waits for it.

import { next_probabilities } from "./generate.js";
import { is_supported } from "./kernels.js";
import { shapes_of, size_of } from "./weights.js";
import { start_worker } from "./worker.js";
import { by_id, element, motion_is_reduced, plain, visible, whole } from "./views/dom.js";
import { TextView } from "./views/text.js";
import { ChoiceView, SurpriseView } from "./views/choice.js";
import { AttentionView } from "./views/attention.js";
import { LearnView } from "./views/learn.js";
import { StepView } from "./views/step.js";
import { kinds_of, show_plane } from "./views/characters.js";
import { show_code } from "./views/code.js";
import { show_loss } from "./views/loss.js";
import { show_samples } from "./views/samples.js";

const PER_PRESS = 500; // characters that one press of Write adds
const AT_FIRST = 200; // characters that the page writes by itself when it is opened
const ATTENTION_KEPT = 2000; // characters whose attention weights are kept: they take much memory
const MOST_DIFFERENT = 0.01; // nats: float32's rounding gives less than a thousandth of that

/** The text and what is selected in it. Views read this; to change it, they call its functions. A
 *  character of the text is {id}, and, once the network has read it, {id, logits (of the next),
 *  attention, start}, see Stream.read. Its origin is "prompt", "yours" (chosen by the reader), or
 *  the settings with which it was drawn. */
class Page {
  constructor(data, new_worker) {
    this.data = data;
    this.worker = new_worker();
    this.worker.onmessage = ({ data: message }) => this.receive(message);
    this.worker.onerror = ({ message }) => this.fail(message);
    this.text = [];
    this.origins = [];
    this.dropped = null; // {ids, origins, prompt_length}: the text before the last choice
    this.prompt_length = 0;
    this.read_to = 0; // the network has read the text up to here
    this.ids = new Map(); // {character: id}
    this.selected = null; // the index of a character; null: the newest; Infinity: the next one
    this.hovered = null;
    this.shading = "surprise";
    this.layer = this.head = 0;
    this.off = new Set(); // "layer.head" of the heads that are switched off
    this.loss_with_all = null; // the mean loss of this text before a head was switched off
    this.total_loss = this.counted = 0; // of the characters up to `summed`
    this.summed = 0;
    this.version = 0; // of the text: what the worker sends about an older one is ignored
    this.pending = 0; // presses of Write that the worker has not done yet
    this.will_draw = false; // at the next frame
    this.text_view = new TextView(this);
    this.choice_view = new ChoiceView(this);
    this.surprise_view = new SurpriseView(this);
    this.attention_view = new AttentionView(this);
    this.step_view = new StepView(this);
    this.learn_view = new LearnView(this, new_worker);
    this.use(data);
  }

  /** Show another network, whose weights the worker has, or will have soon. */
  use(data) {
    this.data = data;
    this.ids = new Map(data.vocab.map((one, id) => [one, id]));
    this.layer = this.head = 0;
    this.off.clear();
    this.attention_view.build();
    this.step_view.build(shapes_of(data.config, data.vocab.length));
    this.show_training();
    this.truncate(0); // what another network has read
  }

  show_training() {
    show_about(this.data);
    show_loss(this.data);
    show_samples(this.data, true);
  }

  /** The network computes something else now: it reads the text again. */
  refresh() {
    const ids = this.text.map((one) => one.id);
    const { prompt_length } = this;
    this.summed = this.total_loss = this.counted = this.read_to = 0;
    this.text_view.reshade();
    const version = ++this.version;
    this.worker.postMessage({ kind: "text", ids, prompt_length, wanted: 0, version });
  }

  label(index) {
    return visible(this.data.vocab[this.text[index].id]);
  }

  // What happens in the text.

  settings() {
    const value_of = (id) => {
      const { value, validity } = by_id(id);
      return value === "" || !validity.valid ? null : +value;
    };
    const [top_k, top_p] = [value_of("top-k"), value_of("top-p")];
    return { temperature: value_of("temperature"), top_k, top_p, seed: value_of("seed") ?? 0 };
  }

  change_settings() {
    this.worker.postMessage({ kind: "settings", settings: this.settings() });
    this.draw_soon();
  }

  /** The text becomes the prompt, as far as the network knows its characters. */
  start_over() {
    const characters = Array.from(by_id("prompt").value);
    const unknown = [...new Set(characters.filter((one) => !this.ids.has(one)))];
    const names = unknown.map((one) => visible(one)).join(" ");
    by_id("left-out").textContent = names && `Left out, never seen in training: ${names}`;
    const ids = characters.filter((one) => this.ids.has(one)).map((one) => this.ids.get(one));
    // As in sample.py: an empty prompt is a newline, as before a new speech.
    if (!ids.length) ids.push(this.ids.get("\n") ?? 0);
    let same = 0;
    while (same < ids.length - 1 && this.text[same]?.id === ids[same]) same++;
    this.set_text(ids, ids.map(() => "prompt"), ids.length, same);
    this.selected = null;
    this.set_dropped(null);
    by_id("status").textContent = "";
  }

  /** The prompt again, continued with the next seed. */
  another_one() {
    by_id("seed").value = (this.settings().seed + 1) % 2 ** 31;
    this.change_settings();
    this.start_over();
    this.write(PER_PRESS);
  }

  /** The character at `index` becomes another one; the text ends there. */
  choose(index, id) {
    const ids = this.text.map((one) => one.id);
    const { origins, prompt_length } = this;
    this.set_dropped(index < ids.length ? { ids, origins, prompt_length } : null);
    const kept = Math.max(1, Math.min(prompt_length, index)); // of the prompt
    this.set_text([...ids.slice(0, index), id], [...origins.slice(0, index), "yours"], kept, index);
    if (this.selected !== Infinity) this.selected = null;
  }

  set_dropped(dropped) {
    this.dropped = dropped;
    by_id("undo").hidden = !dropped;
  }

  undo() {
    const { ids, origins, prompt_length } = this.dropped;
    let same = 0;
    while (this.text[same]?.id === ids[same]) same++;
    this.set_text(ids, origins, prompt_length, same);
    this.set_dropped(null);
  }

  /** Another text, whose first `kept` characters stay as they are. */
  set_text(ids, origins, prompt_length, kept) {
    this.truncate(kept);
    for (const id of ids.slice(kept)) this.text.push({ id });
    this.origins = [...origins];
    this.prompt_length = prompt_length;
    this.hovered = this.loss_with_all = null;
    let wanted = kept; // what the worker has sent may still be under way, and is then ignored
    while (wanted && !this.text[wanted - 1].logits) wanted--;
    this.worker.postMessage({ kind: "text", ids, prompt_length, wanted, version: ++this.version });
    this.draw_soon();
  }

  truncate(length) {
    this.text.length = Math.min(this.text.length, length);
    this.read_to = Math.min(this.read_to, length);
    this.summed = this.total_loss = this.counted = 0;
    this.text_view.truncate(length);
  }

  write(count) {
    this.selected = this.loss_with_all = null;
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

  receive(message) {
    const { kind, run } = message;
    if (run !== undefined && run !== this.learn_view.run) return; // of an earlier run
    if (kind === "progress") by_id("unpacking").value = message.fraction;
    else if (kind === "packed") keep(this.data, message.weights, () => this.refresh());
    else this[kind](message);
  }

  fail(message) {
    by_id("loading").hidden = true;
    by_id("failed").hidden = false;
    by_id("failure").textContent = message;
  }

  ready({ difference, plane }) {
    by_id("loading").hidden = true;
    by_id("differs").hidden = difference < MOST_DIFFERENT;
    by_id("difference").textContent = difference.toFixed(2);
    for (const id of ["write", "one", "again", "another", "learn"]) by_id(id).disabled = false;
    show_plane(plane, this.data);
    this.start_over();
    if (this.learn_view.learning) return;
    if (!motion_is_reduced()) this.write(AT_FIRST);
    else by_id("status").textContent = "Press Write: the network continues the prompt.";
  }

  records({ records, version, settings }) {
    if (version !== this.version) return;
    for (const { index, ...record } of records) {
      this.origins[index] ??= settings;
      this.text[index] = record;
      this.read_to = index + 1;
      delete this.text[index - ATTENTION_KEPT]?.attention;
    }
    this.draw_soon();
  }

  done({ count, seconds }) {
    this.set_pending(this.pending - 1);
    const rate = `${whole(Math.round(count / seconds))} characters per second`;
    by_id("status").textContent = count > 1 ? `Wrote ${count} characters, ${rate}.` : "";
    this.draw_soon();
  }

  step(message) {
    const { step, loss, look } = message;
    this.data.step = step;
    this.data.batches.push([step, loss]);
    this.learn_view.step(message);
    if (look) this.step_view.show(look);
  }

  moment(message) {
    const { data } = this;
    const { step, train_loss, val_loss, sample, plane } = message;
    Object.assign(data, { step, val_loss });
    data.log.step.push(step);
    data.log.train_loss.push(train_loss);
    data.log.val_loss.push(val_loss);
    const text = sample.map((id) => data.vocab[id]).join("").trim();
    data.samples.push([step, text]);
    this.show_training();
    show_plane(plane, data);
    this.loss_with_all = null;
    this.refresh();
    this.learn_view.moment(message);
    if (step < data.config.max_iters) return;
    this.start_over();
    if (!motion_is_reduced()) this.write(AT_FIRST);
  }

  // What the views ask for.

  /** The character whose choice is shown; text.length is the one that comes next. */
  chosen_index() {
    const { length } = this.text;
    return Math.min(this.selected ?? (length > this.prompt_length ? length - 1 : length), length);
  }

  /** The character that the reader points at: hovered, else selected, else the newest. */
  pointed_index() {
    return Math.min(this.hovered ?? this.selected ?? Infinity, this.text.length - 1);
  }

  /** Whether the newest character is shown as it comes. */
  follows() {
    return this.selected === null;
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
    for (; this.summed < this.read_to; this.summed++) {
      const surprise = this.surprise(this.summed);
      if (surprise === null) continue;
      this.total_loss += surprise;
      this.counted += 1;
    }
    return this.counted ? this.total_loss / this.counted : null;
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
    this.text_view.reshade();
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
    if (!this.off.size) this.loss_with_all = this.mean_loss();
    if (!this.off.delete(name)) this.off.add(name);
    this.worker.postMessage({ kind: "switch_off", heads: [...this.off] });
    this.refresh();
  }

  describe_off() {
    if (!this.off.size || this.mean_loss() === null || this.read_to < this.text.length) return "";
    const names = [...this.off].map((name) => this.head_name(...name.split(".").map(Number)));
    const [now, all] = [this.mean_loss(), this.loss_with_all].map((loss) => loss?.toFixed(3));
    const before = all ? `; with all heads, ${all}` : "";
    return `Without ${names.join(" and ")}, the text's mean surprise is ${now} nats${before}.`;
  }

  /** Make one step, and show what it does to the weights of that name. */
  next_step(look_at) {
    this.learn_view.allow(1, look_at);
  }

  ask_for_weights() {
    this.worker.postMessage({ kind: "pack" });
  }

  draw_soon() {
    if (this.will_draw) return;
    this.will_draw = true;
    requestAnimationFrame(() => {
      this.will_draw = false;
      this.text_view.draw();
      this.choice_view.draw();
      this.surprise_view.draw();
      this.attention_view.draw();
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

const original = {}; // the page as it was before anything was shown in it

/** Download this page, as it was at first, with this network in it. packing has rounded the
 *  weights */
function keep(data, weights, then) {
  const page = /** @type {any} */ (document.documentElement.cloneNode(true));
  for (const tag in original) page.querySelector(tag).outerHTML = original[tag];
  const kept = { ...data, learn: { ...data.learn, sizes: [] }, untrained: false, probe: null };
  page.querySelector("#data").textContent = JSON.stringify(kept).replaceAll("<", "\\u003c");
  page.querySelector("#weights").textContent = weights;
  const file = new Blob(["<!doctype html>\n", page.outerHTML], { type: "text/html" });
  element("a", { href: URL.createObjectURL(file), download: "my-gpt.html" }).click();
  then();
}

function start_page() {
  for (const tag of ["header", "main"]) {
    original[tag] = document.querySelector(tag).outerHTML;
  }
  by_id("unsupported").hidden = is_supported();
  if (!is_supported()) return;
  const data = JSON.parse(by_id("data").textContent);
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
  show_code(data.code);
  const text = by_id("weights").textContent;
  const loaded = { config, vocab_size: vocab.length, shown: kinds_of(data) };
  if (untrained) page.worker.postMessage({ kind: "create", ...loaded, seed: 1337 });
  else page.worker.postMessage({ kind: "load", ...loaded, text, probe });

  by_id("prompt").addEventListener("input", () => page.start_over());
  by_id("write").addEventListener("click", () => page.write(PER_PRESS));
  by_id("one").addEventListener("click", () => page.write(1));
  by_id("stop").addEventListener("click", () => page.stop());
  by_id("again").addEventListener("click", () => page.start_over());
  by_id("another").addEventListener("click", () => page.another_one());
  by_id("undo").addEventListener("click", () => page.undo());
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by_id("write").click();
    if (event.key === "Escape") page.stop();
  });
}

// The same program runs in the page and in its workers.
if (typeof document === "undefined") start_worker();
else addEventListener("DOMContentLoaded", start_page);
