// What the reader sees: a text, and panels that show how the network reads and writes it. The
// network itself is in network.js; it runs in a worker, so that the page never waits for it.
"use strict";

const PER_PRESS = 500; // characters that one press of Write adds
const AT_FIRST = 200; // characters that the page writes by itself when it is opened
const BARS = 12; // for the most likely characters; the others share one
const DARKEST = 5; // nats: the surprise of a probability of 0.7 %, shaded most
const MOST_IN_MAP = 48; // characters in a heat map: more would be less than a pixel each
const ATTENTION_KEPT = 2000; // characters whose attention weights are kept: they take much memory

function complete(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children); // a string becomes text, never HTML
  return node;
}

function element(tag, attributes = {}, ...children) {
  return complete(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return complete(node, attributes, children);
}

function by_id(id) {
  return document.getElementById(id);
}

function percent(p) {
  const digits = p >= 0.0995 ? 0 : p >= 0.001 ? 1 : 2;
  return `${(100 * p).toFixed(digits)}\u00a0%`; // a space at which no line ends
}

function whole(number) {
  return number.toLocaleString("en-US");
}

function visible(character, space = "␣") {
  // A character as a label: a sign for a space or a newline, an escape for what has no shape or
  // would change the direction of the text around it; a circle under an accent without a letter.
  if (character === " ") return space;
  if (character === "\n") return "↵";
  if (/[\p{C}\p{Z}]/u.test(character)) {
    return `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`;
  }
  return /\p{M}/u.test(character) ? `◌${character}` : character;
}

// --- The page: the text, and what the panels ask about it --------------------------------------

class Page {
  // A character of the text is {id}, and, once the network has read it, {id, logits (of the next),
  // attention, start}, see Stream.read.

  constructor(data, worker) {
    this.data = data;
    this.worker = worker;
    this.ids = new Map(data.vocab.map((character, id) => [character, id]));
    this.text = [];
    this.prompt_length = 0;
    this.read_to = 0; // the network has read the text up to here
    this.selected = null; // the index of a character; null: the newest; Infinity: the next one
    this.hovered = null;
    this.shading = "surprise";
    this.layer = this.head = 0;
    this.total_loss = this.counted = 0; // of the characters up to `summed`
    this.summed = 0;
    this.version = 0; // of the text: what the worker sends about an older one is ignored
    this.pending = 0; // presses of Write that the worker has not done yet
    this.will_draw = false; // at the next frame
    this.text_view = new TextView(this);
    this.choice_view = new ChoiceView(this);
    this.surprise_view = new SurpriseView(this);
    this.attention_view = new AttentionView(this);
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
    const [top_k, top_p] = [value_of("top_k"), value_of("top_p")];
    return { temperature: value_of("temperature"), top_k, top_p, seed: value_of("seed") ?? 0 };
  }

  start_over() {
    // The text becomes the prompt, as far as the network knows its characters.
    const characters = Array.from(by_id("prompt").value);
    const unknown = [...new Set(characters.filter((one) => !this.ids.has(one)))];
    const names = unknown.map((one) => visible(one)).join(" ");
    by_id("left_out").textContent = names && `Left out, never seen in training: ${names}`;
    const ids = characters.filter((one) => this.ids.has(one)).map((one) => this.ids.get(one));
    // As in sample.py: an empty prompt is a newline, as before a new speech.
    if (!ids.length) ids.push(this.ids.get("\n") ?? 0);
    let same = 0;
    while (same < ids.length - 1 && this.text[same]?.id === ids[same]) same++;
    this.set_text(ids, ids.length, same);
    this.selected = null;
  }

  choose(index, id) {
    // The character at `index` becomes another one; the text ends there.
    const ids = this.text.slice(0, index).map((one) => one.id);
    this.set_text([...ids, id], Math.max(1, Math.min(this.prompt_length, index)), index);
    if (this.selected !== Infinity) this.selected = null;
  }

  set_text(ids, prompt_length, kept) {
    // Another text, whose first `kept` characters stay as they are.
    this.truncate(kept);
    for (const id of ids.slice(kept)) this.text.push({ id });
    this.prompt_length = prompt_length;
    this.hovered = null;
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
    this.selected = null;
    this.set_pending(this.pending + 1);
    this.worker.postMessage({ kind: "settings", settings: this.settings() });
    this.worker.postMessage({ kind: "write", count });
    by_id("status").textContent = count > 1 ? "Writing." : "";
  }

  set_pending(pending) {
    this.pending = pending;
    by_id("stop").setAttribute("aria-disabled", pending === 0); // "disabled" would lose the focus
  }

  // What comes from the worker.

  records({ records, version }) {
    if (version !== this.version) return;
    for (const { index, ...record } of records) {
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

  // What the panels ask for.

  chosen_index() {
    // The character whose choice is shown; text.length is the one that comes next.
    const { length } = this.text;
    return Math.min(this.selected ?? (length > this.prompt_length ? length - 1 : length), length);
  }

  pointed_index() {
    // The character that the reader points at: hovered, else selected, else the newest.
    return Math.min(this.hovered ?? this.selected ?? Infinity, this.text.length - 1);
  }

  surprise(index) {
    // -log of the probability at temperature 1 that the character at `index` had, in nats; null if
    // it had none.
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

  select(index) {
    this.selected = index >= this.text.length ? Infinity : Math.max(0, index);
    this.draw_soon();
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

// --- The text ---------------------------------------------------------------------------------

class TextView {
  constructor(page) {
    this.page = page;
    this.box = by_id("text");
    this.spans = [];
    this.lit = new Set(); // spans that attention lights
    const label = "the next character, not drawn yet";
    const caret = { class: "character caret", role: "option", "aria-label": label };
    this.caret = element("span", caret, "▏");
    this.caret_line = element("div", { class: "line", role: "presentation" }); // for it alone
    this.marked = null; // the span that is selected
    this.shaded = 0; // how many characters are shaded by their surprise
    const point = (index) => {
      page.hovered = index >= 0 && index < this.spans.length ? index : null;
      page.draw_soon();
    };
    this.box.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") point(this.index_of(event.target));
    });
    this.box.addEventListener("pointerleave", () => point(-1));
    this.box.addEventListener("click", (event) => {
      const index = this.index_of(event.target);
      if (index >= 0) page.select(index);
    });
    this.box.addEventListener("keydown", (event) => this.press(event));
    for (const radio of document.querySelectorAll("[name=shading]")) {
      radio.addEventListener("change", () => this.shade_by(radio.value));
    }
  }

  index_of(span) {
    return span === this.caret ? this.spans.length : this.spans.indexOf(span);
  }

  press(event) {
    const { page } = this;
    const at = page.chosen_index();
    const targets = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: this.in_next_row(at, -1),
      ArrowDown: this.in_next_row(at, 1),
      Home: 0,
      End: page.text.length,
    };
    if (!(event.key in targets) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    page.hovered = null;
    page.select(targets[event.key]);
    this.to_show = true;
  }

  in_next_row(index, step) {
    // The index of the character above (step -1) or below (step 1) on the screen.
    const { spans } = this;
    const { offsetLeft: left, offsetTop: top } = spans[index] ?? this.caret;
    let i = index + step;
    while (spans[i]?.offsetTop === top) i += step;
    if (!spans[i]) return i; // there is no such row
    const row = spans[i].offsetTop;
    while (spans[i + step]?.offsetTop === row && (spans[i].offsetLeft - left) * step < 0) i += step;
    return i;
  }

  shade_by(what) {
    this.page.shading = what;
    document.querySelector(`[name=shading][value=${what}]`).checked = true;
    for (const span of this.spans) span.style.removeProperty("--shade");
    this.lit.clear();
    this.shaded = 0;
    this.page.draw_soon();
  }

  truncate(length) {
    this.caret.remove();
    this.caret_line.remove();
    while (this.spans.length > length) this.spans.pop().remove();
    while (this.box.lastElementChild?.hasChildNodes() === false) this.box.lastElementChild.remove();
    this.lit.clear();
    this.shaded = Math.min(this.shaded, length);
  }

  append(index) {
    const { text, data, prompt_length } = this.page;
    const character = data.vocab[text[index].id];
    const shown = visible(character, " ");
    const span = element("span", { class: "character", role: "option" }, shown);
    if (shown !== character) span.classList.add("escape");
    if (index < prompt_length) span.classList.add("prompt");
    if (index === 0 || data.vocab[text[index - 1].id] === "\n") {
      this.box.append(element("div", { class: "line", dir: "auto", role: "presentation" }));
    }
    this.box.lastElementChild.append(span);
    this.spans.push(span);
  }

  draw() {
    const { page, box } = this;
    const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    const more = this.spans.length < page.text.length;
    this.caret.remove();
    this.caret_line.remove();
    while (this.spans.length < page.text.length) this.append(this.spans.length);
    const last = page.text.at(-1);
    if (!last || page.data.vocab[last.id] === "\n") box.append(this.caret_line);
    box.lastElementChild.append(this.caret);
    if (page.shading === "surprise") this.shade_surprise();
    else this.shade_attention();
    this.mark(page.chosen_index());
    if (more && follows && page.selected === null) box.scrollTop = box.scrollHeight;
    const index = page.pointed_index();
    by_id("readout").replaceChildren(...(index < 0 ? [] : this.describe(index)));
  }

  mark(index) {
    // Show which character is selected.
    const span = this.spans[index] ?? this.caret;
    if (this.marked !== span) {
      this.marked?.classList.remove("selected");
      this.marked?.removeAttribute("id");
      this.marked?.removeAttribute("aria-selected");
      span.classList.add("selected");
      span.id = "selected_character";
      span.setAttribute("aria-selected", "true");
      this.box.setAttribute("aria-activedescendant", span.id);
      this.marked = span;
    }
    if (span !== this.caret) {
      const words = this.describe_surprise(index).map((part) => part.textContent ?? part);
      span.setAttribute("aria-label", words.join(""));
    }
    if (this.to_show) span.scrollIntoView({ block: "nearest" });
    this.to_show = false;
  }

  describe(index) {
    // A sentence about a character, as parts for append().
    const { shading, attention_view } = this.page;
    return shading === "attention" ? attention_view.describe(index) : this.describe_surprise(index);
  }

  describe_surprise(index) {
    const name = element("bdi", {}, this.page.label(index));
    const surprise = this.page.surprise(index);
    if (index === 0) return [name, " has no probability: nothing comes before it."];
    if (surprise === null) return [name, " has no probability: the network has not predicted it."];
    const p = percent(Math.exp(-surprise));
    const nats = surprise.toFixed(2);
    return [name, ` had a probability of ${p} at temperature 1: a surprise of ${nats} nats.`];
  }

  shade_surprise() {
    for (; this.shaded < this.page.read_to; this.shaded++) {
      const surprise = this.page.surprise(this.shaded);
      if (surprise === null) continue;
      const shade = Math.min(1, surprise / DARKEST).toFixed(3);
      this.spans[this.shaded].style.setProperty("--shade", shade);
    }
  }

  shade_attention() {
    for (const span of this.lit) span.style.removeProperty("--shade");
    this.lit.clear();
    const weights = this.page.attention_view.weights(this.page.pointed_index());
    weights?.forEach(({ index, weight }) => {
      if (weight < 0.002) return;
      // The square root: else small weights could not be seen.
      this.spans[index].style.setProperty("--shade", Math.sqrt(weight).toFixed(3));
      this.lit.add(this.spans[index]);
    });
  }
}

// --- The choice -------------------------------------------------------------------------------

class ChoiceView {
  constructor(page) {
    this.page = page;
    const changed = () => {
      by_id("temperature_shown").textContent = page.settings().temperature.toFixed(2);
      page.worker.postMessage({ kind: "settings", settings: page.settings() });
      page.draw_soon();
    };
    for (const id of ["temperature", "top_k", "top_p", "seed"]) {
      by_id(id).addEventListener("input", changed);
    }
    changed();
    // One more than the most likely characters: the chosen one may not be among them.
    const count = Math.min(BARS, page.data.vocab.length) + 1;
    this.rows = Array.from({ length: count }, () => this.new_row("button"));
    for (const row of this.rows) {
      row.body.addEventListener("click", () => page.choose(page.chosen_index(), row.id));
    }
    this.others = this.new_row("div");
    this.others.body.classList.add("others");
  }

  new_row(tag) {
    const name = element("bdi", { class: "name" });
    const bar = element("span", { class: "bar" });
    const track = element("span", { class: "track", "aria-hidden": "true" }, bar);
    const number = element("span", { class: "percent" });
    const mark = element("span", { class: "mark" });
    const body = element(tag, {}, name, track, number, mark);
    const item = by_id("bars").appendChild(element("li", {}, body));
    return { item, body, name, bar, number, mark };
  }

  draw() {
    const { page } = this;
    const index = page.chosen_index();
    const before = page.text[index - 1];
    by_id("choice").hidden = !before?.logits;
    by_id("no_choice").hidden = index > 0;
    if (!before?.logits) return;
    const { temperature, top_k, top_p } = page.settings();
    const probabilities = next_probabilities(before.logits, temperature, top_k, top_p);
    this.draw_title(index, entropy(probabilities), { temperature, top_k, top_p });
    before.order ??= by_probability(before.logits);
    const chosen = page.text[index]?.id;
    const shown = before.order.slice(0, this.rows.length - 1);
    if (chosen !== undefined && !shown.includes(chosen)) shown.push(chosen);
    const word = index < page.prompt_length ? "prompt" : "drawn";
    this.rows.forEach((row, rank) => {
      row.id = shown[rank];
      row.item.hidden = rank >= shown.length;
      if (row.item.hidden) return;
      const name = visible(page.data.vocab[row.id]);
      this.show(row, name, probabilities[row.id], row.id === chosen ? word : "");
    });
    const rest = 1 - shown.reduce((sum, id) => sum + probabilities[id], 0);
    this.others.item.hidden = page.data.vocab.length <= shown.length;
    this.show(this.others, "rest", Math.max(0, rest), "");
  }

  draw_title(index, bits, { temperature, top_k, top_p }) {
    const first = Math.max(0, index - 24);
    const labels = this.page.text.slice(first, index).map((_, i) => this.page.label(first + i));
    const alike = (2 ** bits).toFixed(1);
    by_id("context").replaceChildren(
      "After ",
      element("bdi", { class: "mono" }, (first ? "…" : "") + labels.join("")),
      `: an entropy of ${bits.toFixed(2)} bits, as uncertain as a choice among ${alike} equally ` +
        "likely characters.",
    );
    const cuts = (top_k ? `, top-k ${top_k}` : "") + (top_p ? `, top-p ${top_p}` : "");
    by_id("bars_title").textContent = `Probability at temperature ${temperature.toFixed(2)}${cuts}`;
  }

  show(row, name, probability, word) {
    row.name.textContent = name;
    row.bar.style.transform = `scaleX(${probability})`;
    row.number.textContent = probability ? percent(probability) : "0";
    row.mark.textContent = word;
    row.body.classList.toggle("chosen", word !== "");
    if (row === this.others) return;
    row.body.classList.toggle("cut", probability === 0);
    const label = `${name}, ${percent(probability)}${word && `, ${word}`}`;
    row.body.setAttribute("aria-label", label);
  }
}

function entropy(probabilities) {
  // In bits: log2(n) for n equal probabilities.
  return probabilities.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
}

// --- The surprise -----------------------------------------------------------------------------

class SurpriseView {
  constructor(page) {
    this.page = page;
    by_id("val_loss").textContent = page.data.val_loss.toFixed(2);
    by_id("darkest").textContent = `${DARKEST} nats or more`;
  }

  draw() {
    const show = (id, loss) => (by_id(id).textContent = loss === null ? "–" : loss.toFixed(2));
    show("mean_loss", this.page.mean_loss());
    show("one_loss", this.page.surprise(this.page.pointed_index()));
  }
}

// --- Attention --------------------------------------------------------------------------------

class AttentionView {
  constructor(page) {
    this.page = page;
    this.maps = [];
    const { network, n_layer, n_head, block_size } = page.data.config;
    if (network !== "gpt") {
      by_id("attention_note").textContent =
        network === "bigram"
          ? "A bigram network has no attention: it sees one character only."
          : `An MLP has no attention: it has weights for each of ${block_size} positions.`;
      document.querySelector("[value=attention]").disabled = true;
      return;
    }
    const count = (n) => Array.from({ length: n }, (_, i) => i);
    const label = (text) => element("span", { class: "label", "aria-hidden": "true" }, text);
    const above = count(n_head).map((head) => label(head + 1));
    by_id("heads").style.setProperty("--heads", n_head);
    by_id("heads").append(element("div", { class: "layer top" }, label(""), ...above));
    for (const layer of count(n_layer)) {
      const maps = count(n_head).map((head) => this.new_map(layer, head));
      by_id("heads").append(element("div", { class: "layer" }, label(layer + 1), ...maps));
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.draw_soon());
  }

  new_map(layer, head) {
    const canvas = element("canvas", { width: MOST_IN_MAP, height: MOST_IN_MAP });
    const label = `layer ${layer + 1}, head ${head + 1}`;
    const button = element("button", { "aria-label": label }, canvas);
    button.addEventListener("click", () => {
      [this.page.layer, this.page.head] = [layer, head];
      this.page.text_view.shade_by("attention");
    });
    this.maps.push({ layer, head, button, context: canvas.getContext("2d") });
    return button;
  }

  weights(index) {
    // [{index, weight}] of the characters that the one at `index` looks at in the chosen head; null
    // if they are not kept.
    const { layer, head } = this.page;
    const { attention, start } = this.page.text[index] ?? {};
    if (!attention?.length) return null;
    const seen = index - start + 1;
    const row = attention[layer].subarray(head * seen, (head + 1) * seen);
    return Array.from(row, (weight, i) => ({ index: start + i, weight }));
  }

  describe(index) {
    // A sentence, as parts for append(): what the character looks at most.
    const { page } = this;
    const name = (i) => element("bdi", {}, page.label(i));
    const weights = this.weights(index);
    const why = " has no attention weights: it has not been read, or too long ago to keep them.";
    if (!weights) return [name(index), why];
    const where = `In layer ${page.layer + 1}, head ${page.head + 1}, `;
    const parts = [where, name(index), " looks at "];
    const most = weights.sort((a, b) => b.weight - a.weight).slice(0, 3);
    most.forEach(({ index: other, weight }, i) => {
      if (i) parts.push(i === most.length - 1 ? " and " : ", ");
      const distance = other === index ? "itself" : `${index - other} back`;
      parts.push(name(other), ` ${distance} (weight ${percent(weight)})`);
    });
    return [...parts, "."];
  }

  draw() {
    if (!this.maps.length) return;
    const { page } = this;
    const last = page.pointed_index();
    const color = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const first = Math.max(0, last - MOST_IN_MAP + 1);
    const to_pixel = MOST_IN_MAP - 1 - last; // the last character is at the right and the bottom
    for (const { layer, head, button, context } of this.maps) {
      const image = context.createImageData(MOST_IN_MAP, MOST_IN_MAP);
      for (let index = first; index <= last; index++) {
        const { attention, start } = page.text[index];
        if (!attention) continue;
        const row = head * (index - start + 1) - start;
        for (let other = Math.max(start, first); other <= index; other++) {
          const at = 4 * ((index + to_pixel) * MOST_IN_MAP + other + to_pixel);
          image.data[at] = red;
          image.data[at + 1] = green;
          image.data[at + 2] = blue;
          image.data[at + 3] = 255 * Math.sqrt(attention[layer][row + other]);
        }
      }
      context.putImageData(image, 0, 0);
      button.setAttribute("aria-pressed", layer === page.layer && head === page.head);
    }
    by_id("looks").hidden = page.shading === "attention"; // then it is below the text
    by_id("looks").replaceChildren(...(last >= 0 ? this.describe(last) : []));
  }
}

// --- The parts --------------------------------------------------------------------------------

function new_plot(id, height, title) {
  // As many units wide as it has pixels, so that a phone's labels are not smaller.
  const width = Math.max(280, by_id(id).clientWidth);
  const look = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title };
  return [by_id(id).appendChild(svg("svg", look)), width];
}

function ticks(low, high, count) {
  // Round numbers between low and high, about `count` of them.
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    found.push(+(i * step).toPrecision(12));
  }
  return found;
}

function show_loss({ step: steps, train_loss, val_loss }) {
  if (steps.length < 2) {
    by_id("loss_note").textContent = "This run has been evaluated only once: there is no curve.";
    return;
  }
  const last = steps.length - 1;
  const best = val_loss.indexOf(Math.min(...val_loss));
  const title =
    `The validation loss falls from ${val_loss[0].toFixed(2)} to ${val_loss[best].toFixed(2)} ` +
    `at step ${whole(steps[best])}.`;
  const [plot, width] = new_plot("loss", 300, title);
  const [left, right, top, bottom] = [40, width - 84, 8, 264];
  const high = Math.max(...train_loss, ...val_loss) + 1e-9;
  const least = Math.min(...train_loss, ...val_loss);
  const low = least - (high - least) / 10; // room for the names of the curves above the axis
  const x = (step) => left + ((right - left) * step) / steps[last];
  const y = (loss) => top + ((bottom - top) * (high - loss)) / (high - low);
  const line = (name, height) =>
    plot.append(svg("line", { class: name, x1: left, x2: right, y1: height, y2: height }));
  const label = (text, x, y, anchor, name = "") =>
    plot.append(svg("text", { class: name, x, y, "text-anchor": anchor }, text));

  for (const loss of ticks(low, high, 5)) {
    line("grid", y(loss));
    label(loss, left - 8, y(loss) + 4, "end");
  }
  line("axis", bottom);
  for (const step of ticks(0, steps[last], width / 110)) {
    label(whole(step), x(step), bottom + 20, "middle");
  }
  label("step", right + 24, bottom + 20, "start");
  // The names of the curves are at their ends, at least 16 pixels apart.
  const [end, other] = [y(val_loss[last]), y(train_loss[last])];
  const push = (Math.max(0, 16 - Math.abs(end - other)) / 2) * Math.sign(end - other || -1);
  label("validation", right + 8, end + 4 + push, "start", "validation");
  label("training", right + 8, other + 4 - push, "start", "training");
  for (const [name, losses] of Object.entries({ training: train_loss, validation: val_loss })) {
    const points = losses.map((loss, i) => `${x(steps[i]).toFixed(1)} ${y(loss).toFixed(1)}`);
    plot.append(svg("path", { class: name, d: `M${points.join("L")}` }));
  }
  plot.append(svg("circle", { class: "best", cx: x(steps[best]), cy: y(val_loss[best]), r: 4 }));
  by_id("loss").append(element("p", { class: "note" }, title));
}

function show_plane({ plane, vocab, config }) {
  if (!plane) {
    by_id("plane_note").textContent = "A plane needs two characters and two dimensions at least.";
    return;
  }
  by_id("plane_what").textContent =
    config.network === "bigram"
      ? "Each character is a row of the table of pairs."
      : `Each character is a vector of ${config.n_embd} dimensions, its embedding.`;
  const [height, margin] = [400, 16];
  const { length } = plane.ids; // the most frequent ones
  const title = `${length} characters along their first two principal components.`;
  const [plot, width] = new_plot("plane", height, title);
  const range = (axis) => {
    const values = plane.positions.map((position) => position[axis]);
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    return { middle: (low + high) / 2, size: high - low || 1 };
  };
  const [across, up] = [range(0), range(1)];
  // The same scale on both axes: what looks near is near.
  const scale = Math.min((width - 2 * margin) / across.size, (height - 2 * margin) / up.size);
  plane.positions.forEach(([a, b], i) => {
    const id = plane.ids[i];
    const x = (width / 2 + (a - across.middle) * scale).toFixed(1);
    const y = (height / 2 - (b - up.middle) * scale).toFixed(1);
    const look = plane.vowels.includes(id) ? "glyph vowels" : "glyph";
    plot.append(svg("text", { class: look, x, y }, visible(vocab[id])));
  });
  const [first, second] = plane.fractions.map(percent);
  const parts =
    `The first component, from left to right, holds ${first} of the variance; the second, from ` +
    `bottom to top, ${second}.`;
  by_id("plane").append(element("p", { class: "note" }, parts));
}

function show_parameters({ tensors, config }) {
  const counts = new Map();
  for (const [name, shape] of tensors) {
    const words = name.split(".");
    const part = words[0] === "blocks" ? `blocks: ${words[2]}` : words[0];
    counts.set(part, (counts.get(part) ?? 0) + shape.reduce((a, b) => a * b, 1));
  }
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  by_id("parameters_what").textContent =
    `The network has ${whole(total)} parameters. ` +
    {
      bigram: "All of them are in one table, which has a row for each character.",
      mlp: "Most are in the hidden layer, which has weights of its own for each position.",
      gpt:
        "Most are in the blocks: two thirds of theirs in feed-forward, one third in attention. " +
        "The matrix at the end, lm_head, is the token embedding once more.",
    }[config.network];
  for (const [part, count] of counts) {
    const bar = element("i");
    bar.style.width = `${(100 * count) / total}%`;
    const cells = [whole(count), percent(count / total)].map((text) => element("td", {}, text));
    cells.push(element("td", { class: "amount", "aria-hidden": "true" }, bar));
    by_id("parameters").append(element("tr", {}, element("th", { scope: "row" }, part), ...cells));
  }
  return total;
}

function show_recipe({ recipe, step }) {
  by_id("recipe_steps").textContent = whole(step);
  for (const [name, value, meaning, changed] of recipe) {
    const setting = element("span", changed ? { class: "changed" } : {}, `${name} = ${value}`);
    by_id("recipe").append(setting, element("span", { class: "comment" }, `  # ${meaning}\n`));
  }
}

// --- The code ---------------------------------------------------------------------------------

function in_javascript(name) {
  // The function or class of that name in network.js, if there is one.
  const pattern = new RegExp(`^(function|class) ${name}\\b[^]*?^}`, "im");
  return pattern.exec(by_id("network").textContent)?.[0];
}

function show_code({ code, config }) {
  const pre = (label, text) => element("pre", { tabindex: 0, "aria-label": label }, text.trim());
  for (const [file, parts] of Object.entries(code)) {
    for (const [name, python] of Object.entries(parts)) {
      const pair = element("div", { class: "pair" }, pre(`${name} in Python`, python));
      const javascript = in_javascript(name);
      if (javascript) {
        pair.classList.add("both");
        pair.append(pre(`${name} in JavaScript`, javascript));
      }
      const summary = element("summary", {}, `${file}: ${name}`);
      by_id("code").append(element("details", { id: `code-${name}` }, summary, pair));
    }
  }
  for (const place of document.querySelectorAll("[data-code]")) {
    const name = place.dataset.code || NETWORKS[config.network].name;
    const file = Object.keys(code).find((one) => name in code[one]);
    const link = element("a", { href: `#code-${name}` }, name);
    link.addEventListener("click", () => (by_id(`code-${name}`).open = true));
    place.append(`${place.dataset.says ?? "Computed by"} `, link, ` in ${file}.`);
  }
}

// --- Start ------------------------------------------------------------------------------------

function start_page() {
  const data = JSON.parse(by_id("data").textContent);
  const { config, vocab, tensors } = data;
  const program = new Blob([by_id("network").textContent], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(program));
  const page = new Page(data, worker);
  const count = whole(show_parameters(data));
  const kind = { bigram: "bigram network", mlp: "MLP", gpt: "Transformer" }[config.network];
  const source = Array.from(data.source, (character) => visible(character, " ")).join("");
  by_id("about").textContent =
    `A ${kind} of ${count} parameters, trained for ${whole(data.step)} steps on ${source}. ` +
    "It runs in this page, on your machine: nothing is sent anywhere.";
  show_loss(data.log);
  show_plane(data);
  show_recipe(data);
  show_code(data);

  const reports = {
    progress: ({ fraction }) => (by_id("unpacking").value = fraction),
    loaded: () => {
      by_id("loading").hidden = true;
      for (const id of ["write", "one", "again"]) by_id(id).disabled = false;
      page.start_over();
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) page.write(AT_FIRST);
    },
    records: (message) => page.records(message),
    done: (message) => page.done(message),
  };
  worker.onmessage = (event) => reports[event.data.kind](event.data);
  const text = by_id("weights").textContent;
  worker.postMessage({ kind: "load", config, vocab_size: vocab.length, tensors, text });

  by_id("prompt").addEventListener("input", () => page.start_over());
  by_id("write").addEventListener("click", () => page.write(PER_PRESS));
  by_id("one").addEventListener("click", () => page.write(1));
  by_id("stop").addEventListener("click", () => worker.postMessage({ kind: "stop" }));
  by_id("again").addEventListener("click", () => page.start_over());
}

addEventListener("DOMContentLoaded", start_page);
