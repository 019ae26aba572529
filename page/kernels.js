// @ts-check
// The products of matrices, which WebAssembly computes four numbers at a time, and the memory that
// the matrices are in: WebAssembly reaches no other.

const COMPILED = "{{compiled}}"; // kernels.wat, compiled; in base64

const FLOATS_IN_PAGE = 1 << 14; // float32 in a page of WebAssembly's memory
const ALIGNED = 16; // each array begins at a multiple of so many float32, with a cache line
const TERMS_AT_ONCE = 256; // of a product's sums, so that what they need stays in a core's cache

const bytes = () => Uint8Array.from(atob(COMPILED), (one) => one.charCodeAt(0));

/** Whether this browser has the instructions. */
export const is_supported = () => typeof WebAssembly === "object" && WebAssembly.validate(bytes());

const aligned = (size) => ALIGNED * Math.ceil(size / ALIGNED);

export class Memory {
  /** @param {number} floats its size, in float32 */
  constructor(floats) {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(floats / FLOATS_IN_PAGE) });
    const program = new WebAssembly.Module(bytes());
    /** @type {any} */
    this.kernels = new WebAssembly.Instance(program, { page: { memory } }).exports;
    this.buffer = memory.buffer;
    this.taken = 0; // float32
  }

  array(size) {
    const from = this.taken;
    this.taken += aligned(size);
    return new Float32Array(this.buffer, 4 * from, size);
  }

  /** c = a b, for a (M, K), or (K, M) if it is to be transposed; b (K, N), c (M, N). M must be a
   *  multiple of 4, N one of 8. */
  product(a, b, M, N, K, c, transposed = false) {
    const [row, column] = transposed ? [4, 4 * M] : [4 * K, 4];
    c.fill(0, 0, M * N);
    for (let k = 0; k < K; k += TERMS_AT_ONCE) {
      const [from_a, from_b] = [a.byteOffset + k * column, b.byteOffset + 4 * k * N];
      const terms = Math.min(TERMS_AT_ONCE, K - k);
      this.kernels.add_product(from_a, row, column, from_b, c.byteOffset, M, N, terms);
    }
  }

  /** y = matrix x, for a matrix (rows, columns) and the vectors at x[from] and y[to]. */
  multiply(matrix, rows, columns, x, from, y, to) {
    const [at_x, at_y] = [x.byteOffset + 4 * from, y.byteOffset + 4 * to];
    this.kernels.multiply(matrix.byteOffset, rows, columns, at_x, at_y);
  }
}

/** What `make` makes of arrays, in a memory that is just large enough. make is called twice: the
 *  first time, its arrays are empty, and only their sizes are added up.
 *  @template T @param {(memory: Memory) => T} make @returns {T} */
export function allocate(make) {
  let floats = 0;
  const array = (size) => {
    floats += aligned(size);
    return new Float32Array(0);
  };
  make(/** @type {any} */ ({ array }));
  return make(new Memory(floats));
}
