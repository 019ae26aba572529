// @ts-check
// What counting makes of a text: the lines to beat.

const DISCOUNT = 0.9; // of each count, as in networks.py

const raise = (map, key, by = 1) => map.set(key, (map.get(key) ?? 0) + by);

/** The counts of strings, and for each context (all but the last character) their sum and their
 *  number. @param {Map<string, number>} counts */
function by_context(counts) {
  const [sums, strings] = [new Map(), new Map()];
  for (const [string, count] of counts) {
    raise(sums, string.slice(0, -1), count);
    raise(strings, string.slice(0, -1));
  }
  return { counts, sums, strings };
}

/** The mean loss of counted n-grams, for n = 1, 2, ..., longest, in nats: NGrams in networks.py.
 *  Both texts are token ids; a context is a string with a character for each id. */
export function ngram_losses(train, validation, vocab_size, longest) {
  const [text, other] = [train, validation].map((ids) => {
    return Array.from(ids, (id) => String.fromCharCode(id)).join("");
  });
  const [counts, variety] = [new Map(), new Map()];
  for (let n = 1; n <= longest; n++) {
    for (let i = 0; i + n <= text.length; i++) raise(counts, text.slice(i, i + n));
  }
  for (const string of counts.keys()) if (string.length > 1) raise(variety, string.slice(1));
  const [whole, shorter] = [by_context(counts), by_context(variety)];
  const mix = (table, context, character, p) => {
    if (!table.sums.has(context)) return p;
    const rest = Math.max(0, (table.counts.get(context + character) ?? 0) - DISCOUNT);
    return (rest + DISCOUNT * table.strings.get(context) * p) / table.sums.get(context);
  };
  const totals = new Array(longest).fill(0);
  for (let i = 0; i < other.length; i++) {
    let estimate = 1 / vocab_size; // from the contexts that are shorter
    let p = estimate;
    for (let length = 0; length < longest; length++) {
      if (length <= i) {
        const context = other.slice(i - length, i);
        p = mix(whole, context, other[i], estimate);
        estimate = mix(shorter, context, other[i], estimate);
      }
      totals[length] -= Math.log(p);
    }
  }
  return totals.map((total) => total / other.length);
}
