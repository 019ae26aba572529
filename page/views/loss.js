// @ts-check
// The curves of the loss.

import { by_id, element, svg, whole } from "./dom.js";

/** Round numbers between low and high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    found.push(+(i * step).toPrecision(12));
  }
  return found;
}

/** The two losses of each evaluation, batches: [[step, loss of one batch]], and, as lines to beat,
 *  counted: the losses of counted n-grams, for n = 1, 2, ... */
export function show_loss({ log, batches, counted, config }) {
  const { step: steps, train_loss, val_loss } = log;
  by_id("loss").replaceChildren();
  if (steps.length < 2) return;
  const last = steps.length - 1;
  const best = val_loss.indexOf(Math.min(...val_loss));
  const [at_first, at_best] = [0, best].map((i) => `${val_loss[i].toFixed(2)} at step ${steps[i]}`);
  const title = `The validation loss falls from ${at_first} to ${at_best}.`;
  // As many units wide as the place has pixels, so that a phone's labels are not smaller.
  const width = Math.max(280, by_id("loss").clientWidth);
  const plot = svg("svg", { viewBox: `0 0 ${width} 320`, role: "img", "aria-label": title });
  const [left, right, top, bottom] = [40, width - 84, 28, 264];
  const lines = counted.map((loss, i) => [i + 1, loss]).slice(1); // a 1-gram is not worth a line
  const losses = [...train_loss, ...val_loss, ...[...batches, ...lines].map(([, loss]) => loss)];
  const high = losses.reduce((a, b) => Math.max(a, b)) + 1e-9;
  const least = losses.reduce((a, b) => Math.min(a, b));
  const low = least - (high - least) / 10; // room for the names of the curves above the axis
  const most = Math.max(steps[last], counted.length ? config.max_iters : 0);
  const x = (step) => left + ((right - left) * step) / most;
  const y = (loss) => top + ((bottom - top) * (high - loss)) / (high - low);
  const line = (name, height) =>
    plot.append(svg("line", { class: name, x1: left, x2: right, y1: height, y2: height }));
  const label = (text, across, down, anchor, name = "") =>
    plot.append(svg("text", { class: name, x: across, y: down, "text-anchor": anchor }, text));
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
  const note = `${title} The thin line is the loss of single batches.`;
  by_id("loss").append(plot, element("p", { class: "note" }, note));
}
