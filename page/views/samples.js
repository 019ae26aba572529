// @ts-check
// What the network wrote at each evaluation.

import { by_id, plain, whole } from "./dom.js";

/** A slider through the texts that the network wrote while it was trained. If it is at its end, it
 *  stays there. */
export function show_samples({ samples, log }) {
  const [slider, text] = [by_id("sample-step"), by_id("sample")];
  by_id("samples").hidden = !samples.length;
  const at_end = slider.value === slider.max || samples.length === 1;
  slider.max = Math.max(0, samples.length - 1);
  if (at_end) slider.value = slider.max;
  const show = () => {
    const [step, sample] = samples[slider.value] ?? [0, ""];
    const row = log.step.indexOf(step);
    by_id("sample-shown").textContent =
      `${whole(step)}: training loss ${log.train_loss[row].toFixed(2)}, ` +
      `validation loss ${log.val_loss[row].toFixed(2)}`;
    // Joiners stay: without them, Hindi and some emoji would fall apart.
    text.textContent = sample.replace(/(?![\n\u200c\u200d])[\p{C}\p{Zl}\p{Zp}]/gu, plain);
  };
  slider.oninput = show;
  if (samples.length) show();
}
