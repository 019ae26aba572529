// What the reader sees: a text, and panels that show how the network reads and writes it. The
// network itself is in network.js; it runs in a worker, so that the page never waits for it.
"use strict";

const PER_PRESS = 500; // characters that one press of Write adds
const AT_FIRST = 200; // characters that the page writes by itself when it is opened
const BARS = 12; // for the most likely characters; the others share one
const DARKEST = 5; // nats: the surprise of a probability of 0.7 %, shaded most
const MOST_IN_MAP = 48; // characters in a heat map: more would be less than a pixel each
const MOST_IN_CHOSEN = 24; // characters in the map of the chosen head, which has letters
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
  if (p > 0 && p < 0.00005) return "<\u00a00.01\u00a0%";
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

// The page as it was before anything was shown in it: what keep() writes.
const ORIGINAL = Object.fromEntries(
  ["header", "main"].map((tag) => [tag, document.querySelector(tag).outerHTML]),
);

// --- The page: the text, and what the panels ask about it --------------------------------------

class Page {
  // A character of the text is {id}, and, once the network has read it, {id, logits (of the next),
  // attention, start}, see Stream.read. Its origin is "prompt", "yours" (chosen by the reader), or
  // the settings with which it was drawn.

  constructor(data, worker) {
    this.worker = worker;
    this.text = [];
    this.origins = [];
    this.dropped = null; // {ids, origins, prompt_length}: the text before the last choice
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
    this.use(data);
  }

  use(data) {
    // Show another network, whose weights the worker has, or will have soon.
    this.data = data;
    this.ids = new Map(data.vocab.map((character, id) => [character, id]));
    this.layer = this.head = 0;
    this.attention_view.build();
    show_about(data);
    show_loss(data);
    show_samples(data);
    show_parameters(data);
    show_recipe(data);
    this.truncate(0); // what another network has read
  }

  refresh() {
    // The network has other weights now: it reads the text anew.
    const ids = this.text.map((one) => one.id);
    const { prompt_length } = this;
    this.summed = this.total_loss = this.counted = 0;
    this.text_view.shaded = 0;
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
    this.set_text(ids, ids.map(() => "prompt"), ids.length, same);
    this.selected = null;
    this.set_dropped(null);
    by_id("status").textContent = "";
  }

  another_one() {
    // The prompt again, continued with the next seed.
    by_id("seed").value = (this.settings().seed + 1) % 2 ** 31;
    by_id("seed").dispatchEvent(new Event("input"));
    this.start_over();
    this.write(PER_PRESS);
  }

  choose(index, id) {
    // The character at `index` becomes another one; the text ends there.
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

  set_text(ids, origins, prompt_length, kept) {
    // Another text, whose first `kept` characters stay as they are.
    this.truncate(kept);
    for (const id of ids.slice(kept)) this.text.push({ id });
    this.origins = [...origins];
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
    this.box.addEventListener("copy", (event) => this.copy(event));
    for (const radio of document.querySelectorAll("[name=shading]")) {
      radio.addEventListener("change", () => this.shade_by(radio.value));
    }
  }

  copy(event) {
    // The characters themselves, not the signs that show them, nor a line's end for each line.
    const selection = getSelection();
    const inside = this.spans.map((span, i) => [span, this.page.text[i].id]);
    const ids = inside.filter(([span]) => selection.containsNode(span, true)).map(([, id]) => id);
    if (!ids.length) return;
    const characters = ids.map((id) => this.page.data.vocab[id]).join("");
    event.clipboardData.setData("text/plain", characters);
    event.preventDefault();
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
    if (this.page.origins[index] === "yours") span.classList.add("yours");
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
    const limits = { top_k: "from 1 on", top_p: "above 0, up to 1", seed: "a whole number" };
    const changed = () => {
      by_id("temperature_shown").textContent = page.settings().temperature.toFixed(2);
      const wrong = Object.keys(limits).filter((id) => !by_id(id).validity.valid);
      const notes = wrong.map((id) => `${id.replace("_", "-")} (${limits[id]})`);
      by_id("ignored").textContent = notes.length ? `Ignored, out of range: ${notes.join(", ")}` : "";
      page.worker.postMessage({ kind: "settings", settings: page.settings() });
      page.draw_soon();
    };
    for (const id of ["temperature", "top_k", "top_p", "seed"]) {
      by_id(id).addEventListener("input", changed);
    }
    changed();
    // One more than the most likely characters: the chosen one may not be among them.
    this.rows = Array.from({ length: BARS + 1 }, () => this.new_row("button"));
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
    this.draw_title(index, entropy(probabilities), page.settings());
    before.order ??= by_probability(before.logits);
    const chosen = page.text[index]?.id;
    const shown = before.order.slice(0, this.rows.length - 1);
    if (chosen !== undefined && !shown.includes(chosen)) shown.push(chosen);
    const word = this.word(page.origins[index]);
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

  word(origin) {
    // Where the character comes from. If it was drawn from other probabilities than those that are
    // shown now, say so.
    if (typeof origin !== "object") return origin ?? "";
    const now = this.page.settings();
    const same = ["temperature", "top_k", "top_p"].every((name) => origin[name] === now[name]);
    return same ? "drawn" : `drawn at ${cuts(origin)}`;
  }

  draw_title(index, bits, settings) {
    const first = Math.max(0, index - 24);
    const labels = this.page.text.slice(first, index).map((_, i) => this.page.label(first + i));
    const alike = (2 ** bits).toFixed(1);
    by_id("context").replaceChildren(
      "After ",
      element("bdi", { class: "mono" }, (first ? "…" : "") + labels.join("")),
      settings.temperature === 0
        ? ": at temperature 0, the most likely character is always taken."
        : `: an entropy of ${bits.toFixed(2)} bits, as uncertain as a choice among ${alike} ` +
            "equally likely characters.",
    );
    by_id("bars_title").textContent = `Probability at temperature ${cuts(settings)}`;
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

function cuts({ temperature, top_k, top_p }) {
  const parts = [temperature.toFixed(2), top_k && `top-k ${top_k}`, top_p && `top-p ${top_p}`];
  return parts.filter(Boolean).join(", ");
}

function entropy(probabilities) {
  // In bits: log2(n) for n equal probabilities.
  return probabilities.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
}

// --- The surprise -----------------------------------------------------------------------------

class SurpriseView {
  constructor(page) {
    this.page = page;
    by_id("darkest").textContent = `${DARKEST} nats or more`;
  }

  draw() {
    const show = (id, loss) => (by_id(id).textContent = loss === null ? "–" : loss.toFixed(2));
    show("val_loss", this.page.data.val_loss);
    show("mean_loss", this.page.mean_loss());
    show("one_loss", this.page.surprise(this.page.pointed_index()));
  }
}

// --- Attention --------------------------------------------------------------------------------

class AttentionView {
  constructor(page) {
    this.page = page;
    this.maps = [];
    this.drawn = 0; // when
    const look = { width: MOST_IN_CHOSEN, height: MOST_IN_CHOSEN, "aria-hidden": "true" };
    this.chosen = by_id("chosen_map").appendChild(element("canvas", look)).getContext("2d");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.draw_soon());
  }

  build() {
    // A map for each head of the network.
    this.maps = [];
    by_id("heads").replaceChildren();
    const { network, n_layer, n_head, block_size } = this.page.data.config;
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
    by_id("chosen_head").hidden = false;
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
    const { page } = this;
    // While the page writes, the maps are drawn ten times a second: in each frame, frames come late.
    const soon = page.pending && performance.now() - this.drawn < 100;
    if (!this.maps.length || soon) return;
    this.drawn = performance.now();
    const last = page.pointed_index();
    const color = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
    this.color = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    for (const { layer, head, button, context } of this.maps) {
      this.draw_map(context, layer, head, last, MOST_IN_MAP);
      button.setAttribute("aria-pressed", layer === page.layer && head === page.head);
    }
    this.draw_chosen(last);
    by_id("looks").hidden = page.shading === "attention"; // then it is below the text
    by_id("looks").replaceChildren(...(last >= 0 ? this.describe(last) : []));
  }

  draw_map(context, layer, head, last, size) {
    // A pixel for each weight with which the `size` characters up to `last` look at each other; the
    // last one is at the right and the bottom.
    const [red, green, blue] = this.color;
    const image = context.createImageData(size, size);
    const first = Math.max(0, last - size + 1);
    const to_pixel = size - 1 - last;
    for (let index = first; index <= last; index++) {
      const { attention, start } = this.page.text[index];
      if (!attention) continue;
      const row = head * (index - start + 1) - start;
      for (let other = Math.max(start, first); other <= index; other++) {
        const at = 4 * ((index + to_pixel) * size + other + to_pixel);
        image.data[at] = red;
        image.data[at + 1] = green;
        image.data[at + 2] = blue;
        image.data[at + 3] = 255 * Math.sqrt(attention[layer][row + other]);
      }
    }
    context.putImageData(image, 0, 0);
  }

  draw_chosen(last) {
    // The chosen head, large, with the characters on both axes, and what it mostly looks at.
    const { page } = this;
    this.draw_map(this.chosen, page.layer, page.head, last, MOST_IN_CHOSEN);
    const labels = Array.from({ length: MOST_IN_CHOSEN }, (_, i) => {
      const index = last - MOST_IN_CHOSEN + 1 + i;
      return element("span", {}, index >= 0 ? page.label(index) : "");
    });
    by_id("chosen_columns").replaceChildren(...labels.map((label) => label.cloneNode(true)));
    by_id("chosen_rows").replaceChildren(...labels);
    if (page.pending) return; // while it writes, this would be too much for each frame
    const key = [page.version, page.read_to, page.layer, page.head].join();
    if (key === this.named) return;
    this.named = key;
    const [habit, fraction] = this.habit();
    by_id("habit").textContent =
      `Layer ${page.layer + 1}, head ${page.head + 1}` +
      (habit ? `: ${percent(fraction)} of its weight is on ${habit}.` : ".");
  }

  habit() {
    // [what the chosen head looks at most, the fraction of all weights in this text that are on
    // it]. A character can be in several of these groups; the first character of a window is
    // where a head looks that has found nothing.
    const { text, data } = this.page;
    const is = (index, character) => data.vocab[text[index]?.id] === character;
    const groups = {
      "the character itself": (index, other) => other === index,
      "the character before": (index, other) => other === index - 1,
      "the two characters before that": (index, other) => [2, 3].includes(index - other),
      "spaces": (index, other) => is(other, " "),
      "newlines": (index, other) => is(other, "\n"),
      "the first character of a line": (index, other) => is(other - 1, "\n"),
      "the start of the window": (index, other) => other === text[index].start,
    };
    const sums = Object.fromEntries(Object.keys(groups).map((name) => [name, 0]));
    let total = 0;
    for (let index = Math.max(0, text.length - 200); index < this.page.read_to; index++) {
      if (index - text[index].start < 8) continue; // it has little choice
      for (const { index: other, weight } of this.weights(index) ?? []) {
        total += weight;
        for (const name in groups) if (groups[name](index, other)) sums[name] += weight;
      }
    }
    if (!total) return [null, 0];
    const most = Object.keys(groups).reduce((a, b) => (sums[b] > sums[a] ? b : a));
    return sums[most] > total / 3 ? [most, sums[most] / total] : [null, 0];
  }
}

// --- The parts --------------------------------------------------------------------------------

function new_plot(id, height, title) {
  // As many units wide as it has pixels, so that a phone's labels are not smaller.
  const width = Math.max(280, by_id(id).clientWidth);
  const look = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title };
  const plot = svg("svg", look);
  by_id(id).replaceChildren(plot);
  return [plot, width];
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

function show_loss({ log, batches, counted = [], config }) {
  // The two losses of each evaluation, batches: [[step, loss of one batch]], and, as lines to beat,
  // counted: the losses of counted n-grams, for n = 1, 2, ...
  const { step: steps, train_loss, val_loss } = log;
  by_id("loss").replaceChildren();
  if (steps.length < 2) return;
  const last = steps.length - 1;
  const best = val_loss.indexOf(Math.min(...val_loss));
  const title =
    `The validation loss falls from ${val_loss[0].toFixed(2)} at step ${whole(steps[0])} to ` +
    `${val_loss[best].toFixed(2)} at step ${whole(steps[best])}.`;
  const [plot, width] = new_plot("loss", 320, title);
  const [left, right, top, bottom] = [40, width - 84, 28, 264];
  const losses = [...train_loss, ...val_loss, ...batches.map(([, loss]) => loss)];
  const lines = counted.map((loss, i) => [i + 1, loss]).slice(1); // a 1-gram is not worth a line
  losses.push(...lines.map(([, loss]) => loss));
  const high = losses.reduce((a, b) => Math.max(a, b)) + 1e-9;
  const least = losses.reduce((a, b) => Math.min(a, b));
  const low = least - (high - least) / 10; // room for the names of the curves above the axis
  const most = Math.max(steps[last], counted.length ? config.max_iters : 0);
  const x = (step) => left + ((right - left) * step) / most;
  const y = (loss) => top + ((bottom - top) * (high - loss)) / (high - low);
  const line = (name, height) =>
    plot.append(svg("line", { class: name, x1: left, x2: right, y1: height, y2: height }));
  const label = (text, x, y, anchor, name = "") =>
    plot.append(svg("text", { class: name, x, y, "text-anchor": anchor }, text));
  const curve = (name, points) => {
    const places = points.map(([step, loss]) => `${x(step).toFixed(1)} ${y(loss).toFixed(1)}`);
    if (places.length) plot.append(svg("path", { class: name, d: `M${places.join("L")}` }));
  };

  label("loss, in nats per character", 0, 12, "start");
  for (const loss of ticks(low, high, 5)) {
    line("grid", y(loss));
    label(loss, left - 8, y(loss) + 4, "end");
  }
  line("axis", bottom);
  for (const step of ticks(0, most, width / 110)) {
    label(whole(step), x(step), bottom + 20, "middle");
  }
  label("step", (left + right) / 2, bottom + 42, "middle");
  lines.forEach(([n, loss], i) => {
    line("counted", y(loss));
    const apart = Math.min(...lines.slice(0, i).map(([, other]) => Math.abs(y(other) - y(loss))));
    if (apart > 12) label(`counted, n = ${n}`, left + 4, y(loss) - 4, "start", "counted");
  });
  // The names of the curves are at their ends, at least 16 pixels apart.
  const [end, other] = [y(val_loss[last]), y(train_loss[last])];
  const push = (Math.max(0, 16 - Math.abs(end - other)) / 2) * Math.sign(end - other || -1);
  const after = x(steps[last]) + 8;
  label("validation", after, end + 4 + push, "start", "validation");
  label("training", after, other + 4 - push, "start", "training");
  curve("batches", batches);
  curve("training", train_loss.map((loss, i) => [steps[i], loss]));
  curve("validation", val_loss.map((loss, i) => [steps[i], loss]));
  plot.append(svg("circle", { class: "best", cx: x(steps[best]), cy: y(val_loss[best]), r: 4 }));
  const thin = batches.length ? " The thin line is the loss of single batches." : "";
  by_id("loss").append(element("p", { class: "note" }, title + thin));
}

function show_samples({ samples, log }, follow = false) {
  // A slider through the texts that the network wrote while it was trained. follow: if it is at its
  // end, it stays there.
  const [slider, text] = [by_id("sample_step"), by_id("sample")];
  by_id("samples").hidden = !samples.length;
  const at_end = slider.value === slider.max || samples.length === 1;
  slider.max = Math.max(0, samples.length - 1);
  if (follow && at_end) slider.value = slider.max;
  const show = () => {
    const [step, sample] = samples[slider.value] ?? [0, ""];
    const row = log.step.indexOf(step);
    by_id("sample_shown").textContent =
      `${whole(step)}: training loss ${log.train_loss[row].toFixed(2)}, ` +
      `validation loss ${log.val_loss[row].toFixed(2)}`;
    const shown = (character) => (character === "\n" ? character : visible(character, " "));
    text.textContent = Array.from(sample, shown).join("");
  };
  slider.oninput = show;
  if (samples.length) show();
}

function kinds_of({ vocab, frequent }) {
  // Which of the ids `frequent` are vowels and consonants; as in study/characters.py, accents do not
  // matter.
  const plain = (id) => vocab[id].normalize("NFD")[0];
  const small = frequent.filter((id) => /\p{Ll}/u.test(plain(id)));
  const vowels = small.filter((id) => "aeiou".includes(plain(id)));
  const consonants = small.filter((id) => !vowels.includes(id));
  return { ids: frequent, vowels, consonants };
}

function show_plane({ ids, positions, fractions, cosines }, data) {
  // The characters `ids` at their positions, see plane_of() in network.js.
  const { vocab, config } = data;
  by_id("plane_what").textContent =
    config.network === "bigram"
      ? "Each character is a row of the table of pairs."
      : `Each character is a vector of ${config.n_embd} dimensions, its embedding.`;
  const [height, margin] = [400, 16];
  const title = `${ids.length} characters along their first two principal components.`;
  const [plot, width] = new_plot("plane", height, title);
  const range = (axis) => {
    const values = positions.map((position) => position[axis]);
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    return { middle: (low + high) / 2, size: high - low || 1 };
  };
  const [across, up] = [range(0), range(1)];
  // The same scale on both axes: what looks near is near.
  const scale = Math.min((width - 2 * margin) / across.size, (height - 2 * margin) / up.size);
  const { vowels } = kinds_of(data);
  positions.forEach(([a, b], i) => {
    const x = (width / 2 + (a - across.middle) * scale).toFixed(1);
    const y = (height / 2 - (b - up.middle) * scale).toFixed(1);
    const look = vowels.includes(ids[i]) ? "glyph vowels" : "glyph";
    plot.append(svg("text", { class: look, x, y }, visible(vocab[ids[i]])));
  });
  const [first, second] = fractions.map(percent);
  const parts =
    `The first component, from left to right, holds ${first} of the variance; the second, from ` +
    `bottom to top, ${second}. ` +
    (cosines.vowels !== null && cosines.consonants !== null
      ? `Two vowels (bold) have a mean cosine of ${cosines.vowels.toFixed(2)}; a vowel and a ` +
        `consonant, ${cosines.consonants.toFixed(2)}. Nobody told the network which letters are ` +
        "vowels."
      : "");
  by_id("plane").append(element("p", { class: "note" }, parts));
}

function show_parameters({ tensors, config, vocab }) {
  const counts = new Map();
  for (const [name, shape] of tensors ?? tensors_of(config, vocab.length)) {
    const words = name.split(".");
    const part = words[0] === "blocks" ? `blocks: ${words[2]}` : words[0];
    counts.set(part, (counts.get(part) ?? 0) + size_of(shape));
  }
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  by_id("parameters").replaceChildren();
  by_id("parameters_what").textContent =
    `The network has ${whole(total)} parameters. ` +
    {
      bigram: "All of them are in one table, which has a row for each character.",
      mlp: "Most are in the hidden layer, which has weights of its own for each position.",
      gpt:
        "Of those in the blocks, two thirds are in feed-forward, one third is in attention. " +
        "The matrix at the end, lm_head, is the token embedding once more.",
    }[config.network];
  for (const [part, count] of counts) {
    const bar = element("i");
    bar.style.width = `${(100 * count) / total}%`;
    const cells = [whole(count), percent(count / total)].map((text) => element("td", {}, text));
    cells.push(element("td", { class: "amount", "aria-hidden": "true" }, bar));
    by_id("parameters").append(element("tr", {}, element("th", { scope: "row" }, part), ...cells));
  }
}

function show_recipe({ settings, config }) {
  // settings: [[name, default, meaning]]
  const python = (value) => {
    if (typeof value === "boolean") return value ? "True" : "False";
    return Array.from(JSON.stringify(value), (one) => visible(one, " ")).join("");
  };
  by_id("recipe").replaceChildren();
  for (const [name, usual, meaning] of settings) {
    const look = config[name] === usual ? {} : { class: "changed" };
    const setting = element("span", look, `${name} = ${python(config[name])}`);
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

// --- The address: the prompt and what the draws follow from, so that a find can be shared -------

const IN_ADDRESS = ["prompt", "temperature", "top_k", "top_p", "seed"];

function read_address() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const id of IN_ADDRESS) if (given.has(id)) by_id(id).value = given.get(id);
}

function write_address() {
  const values = IN_ADDRESS.map((id) => [id, by_id(id).value]).filter(([, value]) => value);
  history.replaceState(null, "", `#${new URLSearchParams(values)}`);
}

// --- Learning ---------------------------------------------------------------------------------

const MOST_CHARACTERS = 5000; // different ones: the embedding of more would take too long to learn
const MOST_FREQUENT = 100; // characters in the plane, as in Python

class LearnView {
  // The panel in which the network is trained. On a page without a trained network, it trains a new
  // one; else it goes on with the one that is there: fine-tuning.
  constructor(page, new_worker) {
    this.page = page;
    this.new_worker = new_worker;
    this.learning = this.held = false;
    this.run = 0; // raised by each press of Learn: what a run before that reports is ignored
    const { learn, untrained, config } = page.data;
    const able = can_learn(config);
    by_id("learn_controls").hidden = !able;
    by_id("learn_note").textContent = !able
      ? "In this page, only Transformers without biases learn whose sizes are multiples of 8."
      : untrained
        ? "Paste a text that you like, or open one: a play, your own poems, a recipe book. The " +
          "network learns to continue it, one character at a time. The curve shows how well."
        : "The curves are those of the training so far. Paste another text, and this network goes " +
          "on learning, from the weights that it has now: fine-tuning.";
    by_id("learn_text").value = untrained ? learn.text : "";
    by_id("learn_sizes").hidden = !learn.sizes.length;
    learn.sizes.forEach(({ name }, i) => {
      const look = { type: "radio", name: "size", value: i, autocomplete: "off" };
      const radio = element("input", i ? look : { ...look, checked: "" });
      by_id("learn_sizes").append(element("label", {}, radio, name));
    });
    by_id("learn").addEventListener("click", () => this.learn());
    by_id("hold").addEventListener("click", () => this.hold());
    by_id("keep").addEventListener("click", () => {
      const tensors = tensors_of(page.data.config, page.data.vocab.length);
      page.worker.postMessage({ kind: "pack", tensors });
    });
    by_id("learn_file").addEventListener("change", (event) => this.open(event.target.files[0]));
    const box = by_id("learning");
    box.addEventListener("dragover", (event) => event.preventDefault());
    box.addEventListener("drop", (event) => {
      event.preventDefault();
      this.open(event.dataTransfer.files[0]);
    });
  }

  async open(file) {
    if (file) by_id("learn_text").value = await file.text();
  }

  learn() {
    const { page } = this;
    const { learn } = page.data;
    const characters = Array.from(by_id("learn_text").value);
    const chosen = document.querySelector("[name=size]:checked")?.value;
    const config = chosen ? learn.sizes[chosen].config : { ...page.data.config, ...learn.tuning };
    const vocab = chosen ? distinct(characters) : page.data.vocab;
    const ids = new Map(vocab.map((character, id) => [character, id]));
    const tokens = Uint16Array.from(characters.filter((one) => ids.has(one)), (one) => ids.get(one));
    const problem = problem_with(characters, tokens, vocab, config.block_size);
    by_id("learn_problem").textContent = problem;
    if (problem) return;
    const log = { step: [], train_loss: [], val_loss: [] };
    const source = `a text of ${whole(tokens.length)} characters`;
    const fresh = { step: 0, val_loss: null, log, batches: [], samples: [], counted: [], source };
    page.use({ ...page.data, config, vocab, frequent: most_frequent(tokens), ...fresh });
    const shown = kinds_of(page.data);
    const seed = Math.floor(2 ** 31 * Math.random());
    const { worker } = page;
    const vocab_size = vocab.length;
    if (chosen) worker.postMessage({ kind: "create", config, vocab_size, seed, shown });
    worker.postMessage({ kind: "learn", config, tokens, seed, run: ++this.run });
    page.start_over();
    this.count(tokens, vocab_size);
    this.set_state(true, false);
  }

  count(tokens, vocab_size) {
    // What counting makes of the same text, in a worker of its own: the lines to beat.
    const split = Math.floor(0.9 * tokens.length);
    const [train, validation] = [tokens.slice(0, split), tokens.slice(split)];
    const { data } = this.page;
    const counter = this.new_worker();
    counter.onmessage = ({ data: { losses } }) => {
      data.counted = losses;
      if (data === this.page.data) show_loss(data);
      counter.terminate();
    };
    counter.postMessage({ kind: "count", train, validation, vocab_size });
  }

  hold() {
    this.page.worker.postMessage({ kind: this.held ? "go_on" : "hold" });
    this.set_state(true, !this.held);
  }

  set_state(learning, held) {
    [this.learning, this.held] = [learning, held];
    by_id("learn").textContent = this.page.data.learn.sizes.length ? "Start again" : "Learn more";
    by_id("hold").disabled = !learning;
    by_id("hold").textContent = held ? "Go on" : "Pause";
    by_id("keep").disabled = learning && !held;
  }

  step({ run, step, loss, seconds }) {
    if (run !== this.run) return;
    const { data } = this.page;
    data.step = step;
    data.batches.push([step, loss]);
    const { max_iters, batch_size, block_size } = data.config;
    by_id("learn_step").textContent = `${whole(step)} / ${whole(max_iters)}`;
    by_id("learn-seconds").textContent = seconds.toFixed(1);
    const rate = whole(Math.round((step * batch_size * block_size) / seconds));
    const left = ((max_iters - step) * seconds) / step;
    by_id("learn_status").textContent = `${rate} characters/s, ${left.toFixed(0)} s left`;
  }

  moment({ run, step, train_loss, val_loss, seconds, sample, plane }) {
    if (run !== this.run) return;
    const { page } = this;
    const { data } = page;
    data.step = step;
    data.val_loss = val_loss;
    data.log.step.push(step);
    data.log.train_loss.push(train_loss);
    data.log.val_loss.push(val_loss);
    data.samples.push([step, sample.map((id) => data.vocab[id]).join("").trim()]);
    by_id("learn-loss").textContent = val_loss.toFixed(3);
    by_id("learn-seconds").textContent = seconds.toFixed(1);
    show_about(data);
    show_loss(data);
    show_samples(data, true);
    show_plane(plane, data);
    page.refresh();
    if (step < data.config.max_iters) return;
    this.set_state(false, false);
    by_id("learn_status").textContent = "It has learned. Now let it write, and keep it.";
    page.start_over();
    if (!motion_is_reduced()) page.write(AT_FIRST);
  }
}

function distinct(characters) {
  // In the order of their numbers, as Python sorts them.
  return [...new Set(characters)].sort((a, b) => a.codePointAt(0) - b.codePointAt(0));
}

function most_frequent(tokens) {
  const counts = new Map();
  for (const id of tokens) counts.set(id, (counts.get(id) ?? 0) + 1);
  const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
  return order.slice(0, MOST_FREQUENT).sort((a, b) => a - b);
}

function problem_with(characters, tokens, vocab, block_size) {
  // What is wrong with a text to learn from, and what to do about it: a sentence, or nothing.
  const least = 10 * (block_size + 2); // a tenth, the validation text, holds a window
  if (characters.includes("\0") || characters.includes("\ufffd")) {
    return "This is not a text in UTF-8. Save it as plain text, and open that.";
  }
  if (vocab.length > MOST_CHARACTERS) {
    const [many, most] = [vocab.length, MOST_CHARACTERS].map(whole);
    return `This text has ${many} different characters. Take one with ${most} at most.`;
  }
  if (tokens.length < least) {
    const unknown = characters.length - tokens.length;
    const why = unknown ? ` (without ${whole(unknown)} that this network has never seen)` : "";
    const [many, few] = [tokens.length, least].map(whole);
    return `This text has ${many} characters${why}. It needs ${few} or more, better 50,000.`;
  }
  return "";
}

function keep(data, weights) {
  // Download this page, as it was at first, with this network in it.
  const page = document.documentElement.cloneNode(true);
  page.querySelector("header").outerHTML = ORIGINAL.header;
  page.querySelector("main").outerHTML = ORIGINAL.main;
  const tensors = tensors_of(data.config, data.vocab.length);
  const learn = { ...data.learn, sizes: [] };
  const kept = { ...data, tensors, learn, untrained: false, probe: null };
  page.querySelector("#data").textContent = JSON.stringify(kept).replaceAll("<", "\\u003c");
  page.querySelector("#weights").textContent = weights;
  const file = new Blob(["<!doctype html>\n", page.outerHTML], { type: "text/html" });
  element("a", { href: URL.createObjectURL(file), download: "my-gpt.html" }).click();
}

// --- Start ------------------------------------------------------------------------------------

const MOST_DIFFERENT = 0.01; // nats: float32's rounding gives less than a thousandth of that

function motion_is_reduced() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function show_about({ config, tensors, vocab, step, source }) {
  const shapes = tensors ?? tensors_of(config, vocab.length);
  const count = whole(shapes.reduce((sum, [, shape]) => sum + size_of(shape), 0));
  const kind = { bigram: "bigram network", mlp: "MLP", gpt: "Transformer" }[config.network];
  const text = Array.from(source, (character) => visible(character, " ")).join("");
  const what = step
    ? `${kind === "MLP" ? "An" : "A"} ${kind} of ${count} parameters, trained for ${whole(step)} ` +
      `steps on ${text}. `
    : `A ${kind} of ${count} parameters that has learned nothing yet. `;
  by_id("about").textContent =
    `${what}It runs in this page, on your machine: nothing is sent anywhere.`;
}

function start_page() {
  const data = JSON.parse(by_id("data").textContent);
  const { config, vocab, tensors, untrained } = data;
  const parts = ["kernels", "network", "learner"].map((id) => by_id(id).textContent);
  const program = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
  const new_worker = () => new Worker(program);
  const worker = new_worker();
  by_id("main").hidden = false; // without JavaScript, it would be dead controls
  if (untrained) {
    by_id("main").prepend(by_id("learning"));
    by_id("title").textContent = document.title = "See a network learn";
    by_id("learn_title").textContent = "Teach it a text";
  }
  read_address();
  const page = new Page(data, worker);
  const learn_view = new LearnView(page, new_worker);
  show_code(data);

  const reports = {
    progress: ({ fraction }) => (by_id("unpacking").value = fraction),
    ready: ({ difference, fast, plane }) => {
      by_id("loading").hidden = true;
      by_id("slow").hidden = fast;
      by_id("differs").hidden = difference < MOST_DIFFERENT;
      by_id("difference").textContent = difference.toFixed(2);
      for (const id of ["write", "one", "again", "another", "learn"]) by_id(id).disabled = false;
      show_plane(plane, page.data);
      page.start_over();
      if (learn_view.learning) return;
      if (!motion_is_reduced()) page.write(AT_FIRST);
      else by_id("status").textContent = "Press Write: the network continues the prompt.";
    },
    step: (message) => learn_view.step(message),
    moment: (message) => learn_view.moment(message),
    packed: ({ weights }) => {
      keep(page.data, weights);
      page.refresh(); // packing has rounded the weights
    },
    records: (message) => page.records(message),
    done: (message) => page.done(message),
  };
  worker.onmessage = (event) => reports[event.data.kind](event.data);
  const text = by_id("weights").textContent;
  const { probe } = data;
  const shown = kinds_of(data);
  const vocab_size = vocab.length;
  if (untrained) worker.postMessage({ kind: "create", config, vocab_size, seed: 1337, shown });
  else worker.postMessage({ kind: "load", config, vocab_size, tensors, text, probe, shown });

  for (const id of IN_ADDRESS) by_id(id).addEventListener("input", write_address);
  by_id("prompt").addEventListener("input", () => page.start_over());
  by_id("write").addEventListener("click", () => page.write(PER_PRESS));
  by_id("one").addEventListener("click", () => page.write(1));
  by_id("stop").addEventListener("click", () => worker.postMessage({ kind: "stop" }));
  by_id("again").addEventListener("click", () => page.start_over());
  by_id("another").addEventListener("click", () => page.another_one());
  by_id("undo").addEventListener("click", () => page.undo());
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by_id("write").click();
    if (event.key === "Escape") by_id("stop").click();
  });
}

addEventListener("DOMContentLoaded", start_page);
