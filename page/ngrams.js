// @ts-check
// What counting makes of a text: the lines to beat.

/** The mean loss of counted n-grams, for n = 1, 2, ..., longest, in nats: NGrams in ancestors.py.
 *  Both texts are token ids; a context is a string with a character for each id. */
export function ngram_losses(train, validation, vocab_size, longest) {
  const [text, other] = [train, validation].map((ids) => {
    return Array.from(ids, (id) => String.fromCharCode(id)).join("");
  });
  /** @type {Map<string?, number>[]} */
  const [counts, followers, different] = [new Map(), new Map(), new Map()];
  const raise = (map, key, by = 1) =>
    map.set(key, (map.get(key) ?? 0) + by);
  for (let n = 1; n <= longest; n++) {
    for (let i = 0; i + n <= text.length; i++) raise(counts, text.slice(i, i + n));
  }
  for (const [string, count] of counts) {
    const context = string.slice(0, -1);
    raise(followers, context, count);
    raise(different, context);
  }
  const totals = new Array(longest).fill(0);
  for (let i = 0; i < other.length; i++) {
    let p = 1 / vocab_size;
    for (let length = 0; length < longest; length++) {
      const context = length <= i ? other.slice(i - length, i) : null;
      const followed = followers.get(context) ?? 0;
      if (followed) {
        const kinds = different.get(context) ?? 0;
        p = ((counts.get(context + other[i]) ?? 0) + kinds * p) / (followed + kinds);
      }
      totals[length] -= Math.log(p);
    }
  }
  return totals.map((total) => total / other.length);
}
